"""A comparison as a table for the terminal and as an HTML page that opens anywhere."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from importlib import resources

from rich.console import Console
from rich.table import Table

from pyscratchdet.converters.compare import BlobComparison, Comparison, Difference

FLOOR = 1e-9  # smallest error a plot shows; float32 keeps about 7 digits


def print_table(comparison: Comparison, console: Console, *, everything: bool = False) -> None:
    """Prints the verdict and a row per blob: the worst ten and all that part, or every blob."""
    table = Table(title=comparison.title, title_justify="left", expand=False)
    for heading in (comparison.what, "layer"):
        table.add_column(heading, overflow="fold")
    table.add_column("shape", no_wrap=True)
    for heading in ("max abs", "rel L2", "cosine", "own rel L2"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for blob in comparison.blobs if everything else _worth_showing(comparison.blobs):
        style = "" if blob.agrees else "bold red"
        state = "PARTS" if not blob.agrees else "ok"
        table.add_row(*_cells(blob), f"{state} {blob.note}".rstrip(), style=style)
    console.print(table)
    hidden = 0 if everything else len(comparison.blobs) - len(_worth_showing(comparison.blobs))
    if hidden:
        console.print(f"  and {hidden} more {comparison.what}s within tolerance (--all shows them)")
    if comparison.missing:
        console.print(f"  not shown by {comparison.reference}: {', '.join(comparison.missing)}", highlight=False)
    console.print(comparison.verdict(), highlight=False, style="bold green" if comparison.agrees else "bold red")


def html_report(comparisons: Sequence[Comparison], title: str, facts: Sequence[tuple[str, str]]) -> str:
    """Returns a page with a section per comparison, those that part first: its first line says whether and where.

    Args:
        comparisons: What was compared.
        title: Heading of the page.
        facts: (name, value) pairs about files and versions.
    """
    style = resources.files("pyscratchdet.converters").joinpath("report.css").read_text(encoding="utf-8")
    ordered = sorted(comparisons, key=lambda comparison: comparison.agrees)
    good = all(comparison.agrees for comparison in ordered)
    verdicts = "".join(
        f'<p class="{"good" if comparison.agrees else "bad"}">{html.escape(comparison.verdict())}</p>'
        for comparison in ordered
    )
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}: {'agree' if good else 'part'}</title><style>{style}</style></head><body>"
        f'{verdicts}<h1>{html.escape(title)}</h1><table class="facts">{rows}</table>'
        + "".join(_section(comparison) for comparison in ordered)
        + "</body></html>\n"
    )


def _section(comparison: Comparison) -> str:
    rows = "".join(_html_row(blob) for blob in comparison.blobs)
    missing = ", ".join(comparison.missing)
    note = (
        f'<p class="note">Not shown by {html.escape(comparison.reference)}: {html.escape(missing)}</p>'
        if missing
        else ""
    )
    return (
        f"<h2>{html.escape(comparison.title)}</h2>"
        f"{_plot(comparison)}{note}"
        f"<table><thead><tr><th>{comparison.what}</th><th>layer</th><th>shape</th><th>max abs</th><th>rel L2</th>"
        f"<th>cosine</th><th>own rel L2</th><th>allowed</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _html_row(blob: BlobComparison) -> str:
    first, *rest = (html.escape(cell) for cell in [*_cells(blob), f"{blob.tolerance:.0e}"])
    first += f"<small>{html.escape(blob.note)}</small>" if blob.note else ""
    cells = "".join(f"<td>{cell}</td>" for cell in [first, *rest])
    return f'<tr class="{"" if blob.agrees else "bad"}">{cells}</tr>'


def _cells(blob: BlobComparison) -> list[str]:
    shape = "x".join(map(str, blob.shape))
    layer = (
        blob.layer_type
        if blob.layer in (blob.blob, blob.blob.rpartition("@")[2])
        else f"{blob.layer} ({blob.layer_type})"
    )
    if blob.drift is None:
        return [blob.blob, layer, shape, "", "", "", ""]
    own = _number(blob.own.relative) if blob.own is not None else "-"
    drift = blob.drift
    return [blob.blob, layer, shape, _number(drift.max_abs), _number(drift.relative), f"{drift.cosine:.6f}", own]


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _worth_showing(blobs: Sequence[BlobComparison]) -> list[BlobComparison]:
    def badness(blob: BlobComparison) -> float:
        return math.inf if blob.drift is None else blob.drift.relative

    worst = {id(blob) for blob in sorted(blobs, key=badness, reverse=True)[:10]}
    return [blob for blob in blobs if id(blob) in worst or not blob.agrees]


def _plot(comparison: Comparison) -> str:
    """Returns an SVG: relative L2 error of each blob in the order of computing, on a logarithmic scale."""
    blobs = comparison.blobs
    if not blobs:
        return ""
    width, height, left, top = 960, 230, 64, 24
    low, high = math.log10(FLOOR), 0.0
    step = (width - left - 10) / len(blobs)

    def x(index: int) -> float:
        return left + (index + 0.5) * step

    def y(value: float) -> float:
        level = min(max(math.log10(max(value, FLOOR)), low), high)
        return top + (high - level) / (high - low) * (height - top - 24)

    grid = "".join(
        f'<line x1="{left}" x2="{width - 10}" y1="{y(10.0**power):.1f}" y2="{y(10.0**power):.1f}"/>'
        f'<text x="{left - 6}" y="{y(10.0**power) + 4:.1f}" text-anchor="end">1e{power}</text>'
        for power in range(int(low), 1, 2)
    )
    allowed = "".join(
        f'<line x1="{x(i) - step / 2:.1f}" x2="{x(i) + step / 2:.1f}" y1="{y(level):.1f}" y2="{y(level):.1f}"/>'
        for i, level in enumerate(blob.drift_tolerance for blob in blobs)
    )
    dots = "".join(
        _dot(x(i), y(value.relative), kind, blob, value)
        for i, blob in enumerate(blobs)
        for kind, value in (("own", blob.own), ("drift", blob.drift))
        if value is not None
    )
    culprit = comparison.culprit
    label = ""
    if culprit is not None and culprit.drift is not None:
        place = x(next(i for i, blob in enumerate(blobs) if blob is culprit))
        anchor = "end" if place > width / 2 else "start"
        label = (
            f'<text class="culprit" x="{place:.1f}" y="{y(culprit.drift.relative) + 16:.1f}" text-anchor="{anchor}">'
            f"{html.escape(culprit.blob)}</text>"
        )
    hollow = any(blob.own is not None for blob in blobs)
    caption = (
        f"{comparison.what}s in the order of computing; filled: from the net's inputs"
        + ("; hollow: from the reference's own bottoms" if hollow else "")
        + "; what is exactly equal lies on the lowest line"
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="relative L2 error of each {comparison.what}">'
        f'<text x="4" y="12">relative L2 error; dashed: allowed</text>'
        f'<g class="grid">{grid}</g><g class="allowed">{allowed}</g>{dots}{label}'
        f'<text x="{left}" y="{height - 4}">{caption}</text></svg>'
    )


def _dot(x: float, y: float, kind: str, blob: BlobComparison, value: Difference) -> str:
    is_bad = blob.is_culprit if kind == "own" else not blob.agrees
    state = " bad" if is_bad else ""
    label = html.escape(f"{blob.blob} ({blob.layer_type}), {kind}: {value.relative:.2e}")
    return f'<circle class="{kind}{state}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{label}</title></circle>'
