"""The progress of a long command on stderr: a bar on a terminal, otherwise a line now and then.

rich is imported only when a bar is drawn.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Progress:
    """A context manager that is called with the number done so far.

    On a terminal the bar stays until the context ends, and what others print on stderr appears above it.
    Otherwise a line is printed at most every ten seconds, and none for a short run.

    Args:
        total: How many items there are; None if that is unknown.
        what: What is counted, in the plural.
    """

    _PAUSE = 10.0  # seconds between lines without a terminal

    def __init__(self, total: int | None, what: str = "pictures") -> None:
        self._total, self._what = total, what
        self._began = self._printed = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._bar = _bar()
            self._bar.add_task(self._what, total=self._total, figures="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, done: int, figures: str | None = None) -> None:
        """Shows that `done` items are done.

        Args:
            done: How many of all items are done.
            figures: Text shown beside the bar until the next is given; by default the number per second.
        """
        now = time.monotonic()
        rate = done / max(now - self._began, 1e-9)
        speed = f"{rate:.1f} per second"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, figures=speed if figures is None else figures)
        elif now - self._printed >= self._PAUSE:
            self._printed = now
            text = f"{done} {self._what}, {speed}"
            if self._total:
                left = max(self._total - done, 0) / max(rate, 1e-9)
                text = f"{done}/{self._total} {self._what}, {speed}, {left:.0f} s left"
            print(text, file=sys.stderr, flush=True)

    def print(self, line: str) -> None:
        """Prints a line on stderr, above the bar."""
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeRemainingColumn(),
    )
    return Bar(*columns, console=Console(stderr=True), redirect_stdout=False)
