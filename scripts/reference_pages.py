"""The parts of the site that are made of the code at each build: commands, Python names, errors, examples.

`PARTS` has them by the name that a page's comment `<!-- generated: NAME -->` gives. `python scripts/reference_pages.py
NAME` prints one.
"""

from __future__ import annotations

import argparse
import ast
import functools
import html
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    return f"| `{name}` | {_text(text)} |"


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


def errors(group: str) -> str:
    """Returns a table of a group's codes: the error, what the messages say, and what their hints say to try."""
    rows: dict[str, list[Raised]] = {}
    for raised in sorted(raised_errors(), key=lambda raised: (raised.code, raised.place)):
        if raised.code.partition(".")[0] == group:
            rows.setdefault(raised.code, []).append(raised)
    lines = ["| code | what is said | raised as, in |", "|---|---|---|"]
    for code, places in rows.items():
        texts = dict.fromkeys(place.text or "(by what is wrong)" for place in places)
        origins = dict.fromkeys(" ".join(filter(None, (place.error, place.place))) for place in places)
        lines.append(f"| `{code}` | {'<br>'.join(texts)} | {'<br>'.join(origins)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Raised:
    """A place where an error is made: its code, its class, message and hint as the page shows them, and the module."""

    code: str
    error: str
    text: str
    place: str


@functools.cache
def raised_errors() -> list[Raised]:
    """Returns every place of the package that makes an error with a code, found in the source."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in _sources()}
    helpers = {path: dict(_helpers(tree)) for path, tree in trees.items()}
    shared = {name: where for own in helpers.values() for name, where in own.items() if not name.startswith("_")}
    return [found for path, tree in trees.items() for found in _raised(tree, path, shared | helpers[path])]


def _sources() -> list[Path]:
    folders = os.walk(ROOT / "pyscratchdet", followlinks=True)
    return sorted(Path(folder, name) for folder, _, names in folders for name in names if name.endswith(".py"))


def _helpers(tree: ast.AST) -> Iterator[tuple[str, tuple[int, str]]]:
    """Yields functions that take a code, or what follows its dot: name, (index of that argument, what precedes)."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name == "__init__":
            continue
        names = [argument.arg for argument in node.args.args if argument.arg != "self"]
        if "code" in names:
            yield node.name, (names.index("code"), "")
        elif "rule" in names:
            prefix = re.search(r"code=f'(\w+\.)\{rule\}'", ast.unparse(node))
            yield node.name, (names.index("rule"), prefix[1] if prefix else "layer.")


def _raised(tree: ast.AST, path: Path, helpers: dict[str, tuple[int, str]]) -> Iterator[Raised]:
    place = _text(path.relative_to(ROOT / "pyscratchdet").as_posix()).replace("/", "/<wbr>")
    constants = {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        index, prefix = helpers.get(name, (len(node.args), ""))
        code = keywords.get("code") or keywords.get("rule") or (node.args[index] if index < len(node.args) else None)
        for value in ast.walk(code) if code is not None else ():
            text = constants.get(value.id) if isinstance(value, ast.Name) else getattr(value, "value", None)
            if isinstance(text, str) and re.fullmatch(r"[\w-]+\.[a-z0-9-]+", prefix + text):
                yield Raised(prefix + text, _error_class(name), _said(node, code, keywords), place)


def _error_class(name: str) -> str:
    if name == "fail":
        return "`LayerError`"
    return f"`{name}`" if name.endswith("Error") else ""


def _said(call: ast.Call, code: ast.expr | None, keywords: dict[str | None, ast.expr]) -> str:
    texts = [argument for argument in call.args if argument is not code and _is_text(argument)]
    message = _shown(texts[0]) if texts else ""
    hint = keywords.get("hint")
    return _text(message) + (f" *{_text(_shown(hint))}*" if hint is not None and _is_text(hint) else "")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _shown(node: ast.expr) -> str:
    """Returns a text with its placeholders in angle brackets."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr)
    return "".join(_shown(part) if isinstance(part, ast.Constant) else _placeholder(part) for part in node.values)


def _placeholder(node: ast.expr) -> str:
    value = node.value if isinstance(node, ast.FormattedValue) else node
    names = [
        part.attr if isinstance(part, ast.Attribute) else part.id
        for part in ast.walk(value)
        if isinstance(part, (ast.Attribute, ast.Name))
    ]
    return f"<{names[0].strip('_') if isinstance(value, (ast.Attribute, ast.Name)) else '...'}>"


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
    "errors": errors,
    "examples": examples,
    "measurements": measurements,
}


if __name__ == "__main__":
    print(PARTS[sys.argv[1]](*sys.argv[2:]))
