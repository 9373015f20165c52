"""Flags as the tools of the original take them (gflags): -flag=value, --flag value, --switch, --noswitch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

_TRUE = ("true", "t", "1", "yes", "y")
_FALSE = ("false", "f", "0", "no", "n")


def add_flags(parser: argparse.ArgumentParser, flags: Mapping[str, tuple[Any, str]]) -> None:
    """Adds flags given as {name: (default, help)}: a bool is a switch, an int or None takes a number, a str a text."""
    parser.allow_abbrev = False
    for name, (default, text) in flags.items():
        if isinstance(default, bool):
            _add_switch(parser, name, default, text)
        else:
            kind = str if isinstance(default, str) else int
            parser.add_argument(f"--{name}", f"-{name}", dest=name, type=kind, default=default, metavar="X", help=text)


def _add_switch(parser: argparse.ArgumentParser, name: str, default: bool, text: str) -> None:
    """A switch never takes the next word; its value may follow an equals sign."""
    parser.add_argument(f"--{name}", dest=name, action="store_true", default=default, help=text)
    spellings = {
        True: [f"-{name}", *_assigned(name, _TRUE)],
        False: [f"--no{name}", f"-no{name}", *_assigned(name, _FALSE)],
    }
    for value, options in spellings.items():
        parser.add_argument(
            *options, dest=name, action="store_const", const=value, default=default, help=argparse.SUPPRESS
        )


def _assigned(name: str, values: tuple[str, ...]) -> list[str]:
    return [f"{dashes}{name}={value}" for dashes in ("--", "-") for value in values]
