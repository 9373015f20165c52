"""The pages for people who carry it on name what exists, and the version once."""

import re
from pathlib import Path

import pyscratchdet

ROOT = Path(__file__).parents[2]


def test_the_citation_has_the_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == pyscratchdet.__version__


def test_files_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"(?:scripts|tests|pyscratchdet|converters|docs|benchmarks)/[\w/.]*\w", text)
    assert len(set(paths)) > 12
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_issue_forms_ask_for_what_doctor_prints():
    for name in ("fault", "result"):
        assert "pyscratchdet doctor" in (ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text(encoding="utf-8")
