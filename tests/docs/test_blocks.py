"""Every code block of README, CONTRIBUTING and docs/ does what it says.

A block's language says what is done with it:

- `sh`: its commands are run, in a folder that has the files they name (conftest.py); all must end with status 0.
- `sh checked: REASON`: its commands are parsed; REASON says why they are not run.
- `python`: run, all blocks of a page with the same names; `python checked: REASON`: compiled.
- a `title="FILE"`: written into that file, for the commands and the Python of the page.
- `text`, `toml` or none: shown only.
"""

import os
import re
import shlex
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyscratchdet.cli import COMMANDS, command_parser, main
from pyscratchdet.layers import base

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
# {page: blocks of code that are not run}. A page that is not here has none.
NOT_RUN = {
    "README.md": 2,
    "CONTRIBUTING.md": 2,
    "docs/convert.md": 2,
    "docs/engines.md": 4,
    "docs/collections.md": 2,
    "docs/from_caffe/layer_by_layer.md": 3,
    "docs/from_pytorch.md": 6,
    "docs/index.md": 1,
    "docs/install.md": 2,
    "docs/machines.md": 4,
    "docs/own_pictures.md": 1,
    "docs/results/mini.md": 1,
    "docs/verify.md": 1,
}
SHOWN = {"", "text", "toml"}
MAY_RUN = {"pyscratchdet", "python", "cmp"}  # nothing that could change the machine, such as pip


@dataclass(frozen=True)
class Block:
    """A fenced block: `place` is page and line."""

    place: str
    language: str
    text: str
    reason: str = ""
    title: str = ""


def blocks(page):
    """Returns a page's blocks; a faulty first line is an error."""
    found, lines = [], (ROOT / page).read_text(encoding="utf-8").splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        if start is not None:
            found.append(block(f"{page}:{start + 1}", lines[start].strip(), lines[start + 1 : number]))
        start = number if start is None else None
    assert start is None, f"{page}: a block does not end"
    return found


def block(place, first, lines):
    form = re.fullmatch(r'```(\w*)(?: checked: (.+)| title="(.+)")?', first)
    assert form, f"{place}: {first}"
    assert form[1] in SHOWN | {"sh", "python"} or form[3], f"{place}: {first}"
    return Block(place, form[1], "\n".join(lines) + "\n", form[2] or "", form[3] or "")


def commands(text):
    """Returns the commands of a shell block: a line each, continued lines joined, comments left out."""
    return [line for line in text.replace("\\\n", " ").splitlines() if shlex.split(line, comments=True)]


def check(line, place):
    """Checks what can be known of a command without running it: its files, its flags."""
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) - set(re.findall(r"\w+=\S*", line)) <= set(targets), place
    if words[0].startswith("scripts/"):
        assert (ROOT / words[0]).is_file(), place
    if "pyscratchdet" in words:
        start = words.index("pyscratchdet") + 1
        assert words[start] in COMMANDS, place
        command_parser(words[start])[1].parse_args(words[start + 1 :])


def run(line, place):
    """Runs a command; pyscratchdet's own in this process, but not where they would change its schema."""
    words = shlex.split(line, comments=True)
    if words[0] == "pyscratchdet" and not re.search(r"[|;&<>$*]|--schema", line):
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            assert main(words[1:]) == 0, f"{place}: {line}"
        return
    may = words[0] in MAY_RUN and (words[1] != "-m" or words[2].startswith("pyscratchdet"))
    assert may, f"{place}: a test does not run {line}; mark the block"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(["bash", "-c", line], env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, f"{place}: {line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def run_block(block, folder, names):
    if block.title:
        (folder / block.title).write_text(block.text)
        return
    if block.language == "sh":
        for line in commands(block.text):
            (check if block.reason else run)(line, block.place)
    elif block.language == "python":
        code = compile(block.text, block.place, "exec")
        if not block.reason:
            exec(code, names)


@pytest.mark.parametrize("page", [page for page in PAGES if "```" in (ROOT / page).read_text(encoding="utf-8")])
def test_page(page, folder, monkeypatch):
    monkeypatch.setattr(base, "_TYPES", dict(base._TYPES))
    modules, names = set(sys.modules), {}
    try:
        for block in blocks(page):
            try:
                run_block(block, folder, names)
            except (Exception, SystemExit) as error:
                error.add_note(f"in the block at {block.place}")
                raise
    finally:
        for name in {path.stem for path in folder.glob("*.py")} - modules:
            sys.modules.pop(name, None)


def test_blocks_that_are_not_run_are_counted():
    marked = Counter(page for page in PAGES for block in blocks(page) if block.reason)
    assert dict(marked) == NOT_RUN
