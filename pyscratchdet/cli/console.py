"""The terminal: one console for all commands."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def count(number: int, what: str) -> str:
    """Returns "1 picture", "2 pictures"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def console(*, stderr: bool = False) -> Console:
    """Returns a console; where the output is no terminal, lines are 120 columns wide, so tables stay whole."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 120
    return Console(stderr=stderr, width=width, highlight=False)
