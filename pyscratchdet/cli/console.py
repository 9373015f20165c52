"""How every command prints: text from files never reaches the terminal as control characters or markup."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyscratchdet.errors import printable
from pyscratchdet.progress import is_quiet

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDE = 10_000


def say(text: object, *, stderr: bool = False) -> None:
    """Tells what a command does or has done, which `--quiet` leaves out."""
    if not is_quiet():
        show(text, stderr=stderr)


def show(text: object, *, stderr: bool = False) -> None:
    """Prints a result, or what went wrong; it may contain text from files: names, paths, messages."""
    print(printable(text), file=sys.stderr if stderr else sys.stdout)


def warn(text: object) -> None:
    """Prints a warning on stderr."""
    show(f"pyscratchdet: warning: {text}", stderr=True)


def show_json(content: object) -> None:
    """Prints what `--json` asks for; NaN, such as the precision of a class without objects, becomes null."""
    print(json.dumps(_without_nan(content), indent=1))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


class WarningFormatter(logging.Formatter):
    """Formats the warnings of other modules where no log is kept."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line of one record."""
        return printable(f"pyscratchdet: {record.levelname.lower()}: {record.getMessage()}")


def console(*, stderr: bool = False) -> Console:
    """Returns a console that prints text as it is, brackets too.

    Where the output is not a terminal, lines are as long as they need to be, so tables stay whole, but not longer.
    """
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        """Every string that rich shows, in a table too, goes through here."""

        def render_str(self, text: str, **style: Any) -> Text:
            return super().render_str(printable(text), **style)

        def print(self, *objects: Any, **options: Any) -> None:
            if self.is_terminal:
                super().print(*objects, **options)
                return
            with self.capture() as shown:
                super().print(*objects, **options)
            stream.writelines(f"{line.rstrip()}\n" for line in shown.get().splitlines())

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    return PlainConsole(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def plain_table(columns: Sequence[str]) -> Table:
    """Returns a table without lines, so that other programs can read it; a column named "x>" is aligned right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name.rstrip(">"), justify="right" if name.endswith(">") else "left", overflow="fold")
    return table
