"""What MkDocs is told beyond mkdocs.yml: pages from outside docs/, links to them, and what is generated.

The pages in docs/ link to files of the repository as they lie in it, so that links work in a checkout too. Here
benchmarks/results, examples and CHANGELOG.md become pages of the site, and links are changed to where they are there.
A comment `<!-- generated: NAME -->` gives way to what `reference_pages.py` makes of the code.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import reference_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"^(\s*```\w+) [a-z]+: .*$", re.MULTILINE)
_GENERATED = re.compile(r"^<!-- generated: (\w+) ?(.*?) -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie outside docs/, each under its path in the repository."""
    for path in [*sorted(ROOT.glob("benchmarks/results/*")), *sorted(ROOT.glob("*.md"))]:
        if path.name != "README.md":
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets the search show the pages for readers before the dated measurements."""
    if page.file.src_uri.startswith("benchmarks/"):
        page.meta["search"] = {"boost": 0.1}
    return html


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Leaves the dated measurements out of the menu; measurements.md links to them."""
    for file in files.documentation_pages():
        if file.src_uri.startswith("benchmarks/results/"):
            file.inclusion = file.inclusion.NOT_IN_NAV
    return nav


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in what is generated, and makes links of the repository links of the site."""
    markdown = _GENERATED.sub(lambda found: reference_pages.PARTS[found[1]](*found[2].split()), markdown)
    markdown = _FENCE.sub(r"\1", markdown)
    return _outside_fences(markdown, lambda text: _LINK.sub(lambda found: _site_link(found, page), text))


def _outside_fences(markdown: str, change: Any) -> str:
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def _site_link(found: re.Match[str], page: Page) -> str:
    before, target, anchor, after = found[1], found[2], found[3] or "", found[4]
    if ":" in target:
        return found[0]
    here = _place(page.file.src_uri).parent
    path = Path(os.path.normpath(ROOT / here / target))
    if path == ROOT / "examples" or path.parent == ROOT / "examples":
        uri = "examples.md"
        anchor = anchor or (f"#{path.stem}" if path.suffix else "")
    elif path.is_relative_to(ROOT / "docs"):
        uri = path.relative_to(ROOT / "docs").as_posix()
    else:
        uri = path.relative_to(ROOT).as_posix()
    return f"{before}{os.path.relpath(uri, Path(page.file.src_uri).parent)}{anchor}{after}"


def _place(uri: str) -> Path:
    """Returns where a page lies in the repository."""
    return Path("docs", uri) if (ROOT / "docs" / uri).exists() else Path(uri)
