"""The site holds together: every page is in the menu, the README's links lead somewhere, the reference is complete."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyscratchdet
from pyscratchdet.cli import COMMANDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "scripts" / "reference_pages.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference_pages"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reference_pages"]


def test_every_page_is_in_the_menu():
    menu = set(re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert pages == {page for page in menu if (ROOT / "docs" / page).exists()}
    assert all((ROOT / page).exists() for page in menu - pages)


def test_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert len(links) > 10
    assert not [link for link in links if not (ROOT / link).exists()]
    assert len(text.splitlines()) < 120


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()}
    assert max(sizes.values()) < 200_000
    assert sum(sizes.values()) < 1_500_000


def test_every_group_of_errors_has_a_section_and_a_cure(reference):
    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## ([\w-]+)\n\n(\S.+)\n\n<!-- generated: errors ([\w-]+) -->$", page, re.MULTILINE)
    assert all(title == name for title, _, name in sections)
    assert [title for title, _, _ in sections] == sorted(
        {raised.code.partition(".")[0] for raised in reference.raised_errors()}
    )


@pytest.mark.parametrize("code", ["net.unknown-type", "layer.only-shapes", "weights.damaged", "net.unknown-bottom"])
def test_errors_are_found_however_their_code_is_given(reference, code):
    assert code in {raised.code for raised in reference.raised_errors()}


def test_every_code_in_the_source_is_found(reference):
    """What a search of the text finds, the scan of the syntax finds too."""
    found = {raised.code for raised in reference.raised_errors()}
    written = {
        code
        for path in reference._sources()
        for code in re.findall(r'code="([\w-]+\.[\w-]+)"', path.read_text(encoding="utf-8"))
    }
    assert written <= found


def test_commands_and_names_are_all_described(reference):
    text = reference.commands()
    assert [name for name in COMMANDS if f"## {name}\n" not in text] == []
    assert "| `--solver PROTOTXT` | the solver file |" in text
    names = reference.python()
    assert [name for name in pyscratchdet.__all__ if not name.startswith("__") and f".{name}\n" not in names] == []


def test_parts_are_printed_by_name():
    command = [sys.executable, str(ROOT / "scripts" / "reference_pages.py"), "measurements"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "2026-11-28-precision.md" in done.stdout
