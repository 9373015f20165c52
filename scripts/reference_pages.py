"""The parts of the site that are made of the code at each build: commands, Python names, errors, examples.

`PARTS` has them by the name that a page's comment `<!-- generated: NAME -->` gives. `python scripts/reference_pages.py
NAME` prints one.
"""

from __future__ import annotations

import argparse
import html
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from pyscratchdet.cli import COMMANDS, command_parser

ROOT = Path(__file__).resolve().parents[1]


def commands() -> str:
    """Returns a section for each command: usage, arguments, options and notes, from its parser."""
    return "\n".join(_command(name) for name in COMMANDS)


def _command(name: str) -> str:
    _, parser = command_parser(name)
    lines = [f"## {name}", "", parser.description or "", ""]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for kind, child in action.choices.items():
                lines += [f"### {name} {kind}", "", child.description or "", "", *_parser(child)]
            return "\n".join(lines)
    return "\n".join([*lines, *_parser(parser)])


def _parser(parser: argparse.ArgumentParser) -> list[str]:
    rows = [_row(parser, action) for action in parser._actions if action.help not in (None, argparse.SUPPRESS)]
    usage = parser.usage or f"{parser.prog}{_positionals(parser)} [options]"
    lines = ["```text", usage, "```", "", "| option | meaning |", "|---|---|", *filter(None, rows), ""]
    if parser.epilog:
        lines += ["```text", parser.epilog, "```", ""] if "\n  " in parser.epilog else [_text(parser.epilog), ""]
    return lines


def _positionals(parser: argparse.ArgumentParser) -> str:
    formatter = parser.formatter_class(parser.prog)
    return "".join(
        f" {formatter._format_args(action, str(action.metavar or action.dest))}"
        for action in parser._actions
        if not action.option_strings
    )


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    if "--help" in action.option_strings:
        return ""
    formatter = parser.formatter_class(parser.prog)
    name = formatter._format_action_invocation(action)
    text = formatter._expand_help(action)
    return f"| `{_cell(name)}` | {_text(text)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _text(text: str) -> str:
    return _cell(html.escape(text, quote=False)).replace("*", "\\*").replace("_", "\\_")


def python() -> str:
    """Returns mkdocstrings' directives for the stable names at the top of the package."""
    package = importlib.import_module("pyscratchdet")
    lines = []
    for name in package.__all__:
        if not name.startswith("__"):
            thing = getattr(package, name)
            lines += [f"::: {thing.__module__}.{thing.__qualname__}", ""]
    return "\n".join(lines)


def examples() -> str:
    """Returns each program of examples/ under its name."""
    lines = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        lines += [f"## {path.stem}", "", "```python", path.read_text(encoding="utf-8").rstrip(), "```", ""]
    return "\n".join(lines)


def measurements() -> str:
    """Returns a list of the pages in benchmarks/results, newest first, with their titles."""
    pages = sorted((ROOT / "benchmarks" / "results").glob("*.md"), reverse=True)
    titles = {path: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in pages}
    return "\n".join(
        f"- {path.name[:10]}: [{title}](../benchmarks/results/{path.name})" for path, title in titles.items()
    )


PARTS: dict[str, Callable[..., str]] = {
    "commands": commands,
    "python": python,
    "examples": examples,
    "measurements": measurements,
}


if __name__ == "__main__":
    print(PARTS[sys.argv[1]](*sys.argv[2:]))
