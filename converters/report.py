"""A comparison as a table for the terminal and as an HTML page that opens anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from pyscratchdet.converters.compare import BlobComparison, Comparison, Difference, all_agree
from pyscratchdet.pages import fill_page

_SHAPE_WIDTH = len("1x512x38x38")
FLOOR = 1e-9  # smallest error a plot shows; float32 keeps about 7 digits


def print_table(comparison: Comparison, console: Console, *, everything: bool = False) -> None:
    """Prints the verdict and a row per blob: the ten worst and all that differ, or every blob."""
    if comparison.failure:
        console.print(comparison.verdict(), highlight=False, style="bold yellow")
        return
    table = Table(title=comparison.title, title_justify="left", box=None, pad_edge=False)
    for heading in (comparison.what, "layer"):
        table.add_column(heading, overflow="fold")
    table.add_column("shape", overflow="fold", min_width=_SHAPE_WIDTH)
    for heading in ("max abs", "rel L2", "own L2"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    notes = []
    for blob in comparison.blobs if everything else _worth_showing(comparison.blobs):
        name, layer, shape, largest, relative, _, own = _cells(blob)
        state = "ok" if blob.agrees else "PARTS"
        table.add_row(name, layer, shape, largest, relative, own, state, style="" if blob.agrees else "bold red")
        notes += [f"  {name}: {blob.note}"] if blob.note else []
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
    hidden = 0 if everything else len(comparison.blobs) - len(_worth_showing(comparison.blobs))
    if hidden:
        console.print(f"  and {hidden} more {comparison.what}s within tolerance (--all shows them)")
    if comparison.missing:
        console.print(f"  not shown by {comparison.reference}: {', '.join(comparison.missing)}", highlight=False)
    console.print(comparison.verdict(), highlight=False, style="bold green" if comparison.agrees else "bold red")


def html_report(comparisons: Sequence[Comparison], title: str, facts: Sequence[tuple[str, str]]) -> str:
    """Returns a page with a section per comparison, those that differ first; its first line says whether and where.

    Args:
        comparisons: What was compared.
        title: Heading of the page.
        facts: (name, value) pairs about files and versions.
    """
    ordered = sorted(comparisons, key=lambda comparison: comparison.agrees)
    return fill_page(
        __package__,
        "report.html",
        title=title,
        facts=facts,
        comparisons=ordered,
        verdict="agree" if all_agree(ordered) else "differ",
        plot_of=DriftPlot,
        cells=_cells,
    )


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


@dataclass
class PlotDot:
    """One error in a plot, in the plot's coordinates."""

    x: float
    y: float
    kind: str
    is_bad: bool
    label: str


class DriftPlot:
    """The geometry of a comparison's plot: the relative L2 error of each blob, on a logarithmic scale.

    Attributes:
        width, height, left, right: Of the plot and its grid.
        grid: (power of ten, y) per line.
        allowed: (start, end, y) of the largest error that each blob may have.
        dots: Errors since the net's inputs ("drift") and of a layer alone ("own").
        culprit: The dot of the first blob that differs, if one does.
        has_own: Whether any blob has an error of its layer alone.
    """

    width, height, left, right = 960, 230, 64, 950
    _TOP, _BOTTOM = 24, 206

    def __init__(self, comparison: Comparison) -> None:
        blobs = comparison.blobs
        step = (self.right - self.left) / max(len(blobs), 1)
        x = [round(self.left + (index + 0.5) * step, 1) for index in range(len(blobs))]
        self.grid = [(power, self._y(10.0**power)) for power in range(int(math.log10(FLOOR)), 1, 2)]
        self.allowed = [
            (round(at - step / 2, 1), round(at + step / 2, 1), self._y(blob.drift_tolerance))
            for at, blob in zip(x, blobs, strict=True)
        ]
        self.dots: list[PlotDot] = []
        self.culprit: PlotDot | None = None
        for at, blob in zip(x, blobs, strict=True):
            if blob.own is not None:
                self._add(at, blob, "own", blob.own, blob.is_culprit)
            if blob.drift is not None:
                self._add(at, blob, "drift", blob.drift, not blob.agrees)
                if blob is comparison.culprit:
                    self.culprit = self.dots[-1]
        self.has_own = any(blob.own is not None for blob in blobs)

    def _add(self, x: float, blob: BlobComparison, kind: str, difference: Difference, is_bad: bool) -> None:
        label = f"{blob.blob} ({blob.layer_type}), {kind}: {difference.relative:.2e}"
        self.dots.append(PlotDot(x, self._y(difference.relative), kind, is_bad, label))

    def _y(self, error: float) -> float:
        level = math.log10(min(max(error, FLOOR), 1.0)) / math.log10(FLOOR)  # 0 at an error of 1, 1 at FLOOR
        return round(self._TOP + level * (self._BOTTOM - self._TOP), 1)
