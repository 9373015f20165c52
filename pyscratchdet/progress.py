"""The progress of a long command on stderr: a bar on a terminal, otherwise a line now and then.

rich is imported only when a bar is drawn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

# Columns: narrower terminals have a shorter bar, or none, or not even the name of what is counted.
_WIDE, _MIDDLE, _NARROW = 100, 60, 40
_TIME = len("0:00:00")


@dataclass(frozen=True)
class Manners:
    """How the command that runs talks.

    Attributes:
        is_quiet: Whether it says nothing but results, warnings and errors.
        interruption: What Ctrl-C does to it, a sentence; empty where it does not take long.
    """

    is_quiet: bool = False
    interruption: str = ""


_USUAL = Manners()
_MANNERS = ContextVar("manners", default=_USUAL)


@contextmanager
def mannered(manners: Manners) -> Iterator[None]:
    """Makes these the manners of what runs inside the block."""
    token = _MANNERS.set(manners)
    try:
        yield
    finally:
        _MANNERS.reset(token)


def is_quiet() -> bool:
    """Returns whether nothing but results, warnings and errors is to be said."""
    return _MANNERS.get().is_quiet


class Progress:
    """A context manager that is called with the number done so far.

    On a terminal the bar stays until the context ends, and what others print on stderr appears above it. It takes one
    line, however narrow the terminal. Otherwise a line is printed at most every ten seconds, and none for a short run.
    A run that is going to be long says once what Ctrl-C does to it. A quiet one says nothing.

    Args:
        total: How many items there are; None if that is unknown.
        what: What is counted, in the plural.
        is_shown: Whether anything is shown at all.
    """

    _PAUSE = 10.0  # seconds between lines without a terminal
    _LONG = 60.0  # seconds left, from which on it is said how to stop

    def __init__(self, total: int | None, what: str = "pictures", is_shown: bool = True) -> None:
        self._total, self._what, self._is_shown = total, what, is_shown
        self._began = self._printed = time.monotonic()
        self._bar: Bar | None = None
        self._says_how_to_stop = bool(_MANNERS.get().interruption)

    def __enter__(self) -> Progress:
        if self._is_shown and sys.stderr.isatty() and not is_quiet():
            self._bar = _bar()
            self._bar.add_task(self._what, total=self._total, figures="", left="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, done: int, figures: Sequence[str] | None = None, seconds_left: float | None = None) -> None:
        """Shows that `done` items are done.

        Args:
            done: How many of all items are done.
            figures: Texts shown beside the bar until the next are given, as many as there is room for, the most
                important first; by default the number per second.
            seconds_left: The time that the rest will take; by default judged by what is done.
        """
        if is_quiet() or not self._is_shown:
            return
        now = time.monotonic()
        rate = done / max(now - self._began, 1e-9)
        if seconds_left is None and self._total:
            self._say_how_to_stop(now, max(self._total - done, 0) / max(rate, 1e-9))
        speed = f"{rate:.1f} per second"
        if self._bar is not None:
            left = "" if seconds_left is None else f"{duration_text(seconds_left)} left"
            shown = self._fitting([speed] if figures is None else figures, left)
            self._bar.update(self._bar.task_ids[0], completed=done, figures=shown, left=left)
        elif now - self._printed >= self._PAUSE:
            self._printed = now
            text = f"{done} {self._what}, {speed}"
            if self._total:
                rest = max(self._total - done, 0) / max(rate, 1e-9) if seconds_left is None else seconds_left
                text = f"{done}/{self._total} {self._what}, {speed}, {rest:.0f} s left"
            print(text, file=sys.stderr, flush=True)

    def _say_how_to_stop(self, now: float, seconds_left: float) -> None:
        """Says once, when it can be judged, how long it will take and what Ctrl-C does."""
        if self._says_how_to_stop and now - self._began >= self._PAUSE:
            self._says_how_to_stop = False
            if seconds_left > self._LONG:
                self.print(f"about {duration_text(seconds_left)} left; Ctrl-C: {_MANNERS.get().interruption}")

    def print(self, line: str) -> None:
        """Prints a line on stderr, above the bar."""
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _fitting(self, figures: Sequence[str], left: str) -> str:
        """Returns as many of the figures as fit into the line, which the other columns share."""
        assert self._bar is not None
        width = self._bar.console.width
        counts = 2 * len(str(self._total or 0)) + 1
        taken = [counts, max(len(left), _TIME), *_bar_widths(width), *([len(self._what)] if width >= _NARROW else [])]
        room = width - sum(taken) - len(taken)  # a space after each
        shown = ""
        for figure in figures:
            longer = f"{shown}  {figure}" if shown else figure
            if len(longer) > room:
                break
            shown = longer
        return shown


def duration_text(seconds: float) -> str:
    """Returns a duration as one says it: "45 s", "23 min", "3 h 20 min", "2 d 5 h"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def _bar_widths(width: int) -> list[int]:
    """Returns the width of the bar in a terminal of this width, if there is one."""
    return [20] if width >= _WIDE else [10] if width >= _MIDDLE else []


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.table import Column
    from rich.text import Text

    class TimeLeft(TimeRemainingColumn):
        """The time left as the caller says, or else as rich judges it."""

        def render(self, task: Task) -> Text:
            return Text(task.fields["left"]) if task.fields["left"] else super().render(task)

    def text(template: str) -> TextColumn:
        return TextColumn(template, markup=False, table_column=Column(no_wrap=True))

    console = Console(stderr=True)
    columns: list[ProgressColumn] = [text("{task.description}")] if console.width >= _NARROW else []
    columns += [BarColumn(width) for width in _bar_widths(console.width)]
    columns += [MofNCompleteColumn(), text("{task.fields[figures]}"), TimeLeft(table_column=Column(no_wrap=True))]
    return Bar(*columns, console=console, redirect_stdout=False)
