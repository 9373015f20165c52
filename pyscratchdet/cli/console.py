"""How every command prints: text from files never reaches the terminal as control characters or markup."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyscratchdet.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDE = 10_000


def say(text: object, *, stderr: bool = False) -> None:
    """Prints a line that may contain text from files: names, paths, messages."""
    print(printable(text), file=sys.stderr if stderr else sys.stdout)


def warn(text: object) -> None:
    """Prints a warning on stderr."""
    say(f"pyscratchdet: warning: {text}", stderr=True)


class WarningFormatter(logging.Formatter):
    """Formats the warnings of other modules where no log is kept."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line of one record."""
        return printable(f"pyscratchdet: {record.levelname.lower()}: {record.getMessage()}")


def console(*, stderr: bool = False) -> Console:
    """Returns a console that prints text as it is, brackets too.

    Where the output is not a terminal, lines are as long as they need to be, so tables stay whole.
    """
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        """Every string that rich shows, in a table too, goes through here."""

        def render_str(self, text: str, **style: Any) -> Text:
            return super().render_str(printable(text), **style)

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
