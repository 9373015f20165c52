"""Evaluation results as pictures: AP, precision-recall curves, AP by size, confusion and kinds of error.

Drawn with matplotlib's Agg, which needs no display; matplotlib is imported when a chart is drawn.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyscratchdet.detect.tables import DetectionTable
from pyscratchdet.errors import counted, printable
from pyscratchdet.evaluate.breakdown import KIND_NAMES, KINDS, Breakdown
from pyscratchdet.evaluate.tables import GroundTruthTable
from pyscratchdet.evaluate.voc import ClassResult, VocResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE = "#2f6db3"
_KIND_COLOURS = {
    "correct": "#2f6db3",
    "localisation": "#e0a126",
    "class": "#b5478b",
    "both": "#8a5fbf",
    "duplicate": "#58a89b",
    "background": "#c9524a",
    "missed": "#9aa1ab",
}


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of this size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure, dpi: int = 110) -> bytes:
    """Returns a figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return stream.getvalue()


def _class_ticks(axis: Any, names: Iterable[str], **style: Any) -> None:
    """Writes class names along an axis at 0, 1, ...; a `$` in them is a dollar sign, not mathematics."""
    texts = [printable(name) for name in names]
    axis.set_ticks(range(len(texts)), texts, parse_math=False, **style)


def plain_axes(axes: Any) -> None:
    """Leaves two lines of the frame, and small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, length=2)


def ap_chart(result: VocResult) -> Figure:
    """AP per class as bars, best first, with the mean as a line."""
    known = sorted((one for one in result.classes if one.num_pos), key=lambda one: one.ap)
    figure = new_figure(7, 0.9 + 0.27 * len(known))
    axes = figure.add_subplot()
    axes.barh(range(len(known)), [one.ap for one in known], color=_BLUE, height=0.68)
    _class_ticks(axes.yaxis, [one.name for one in known])
    for row, one in enumerate(known):
        inside = one.ap > 0.12
        axes.text(
            one.ap - 0.008 if inside else one.ap + 0.008,
            row,
            f"{one.ap:.3f}",
            va="center",
            ha="right" if inside else "left",
            fontsize=8,
            color="white" if inside else "black",
        )
    axes.axvline(result.mean_ap, color="black", linewidth=1, linestyle=":")
    axes.set_title(f"AP at IoU {result.overlap_threshold:g} ({result.metric}); mean {result.mean_ap:.4f}", fontsize=10)
    axes.set_xlim(0, 1.02)
    plain_axes(axes)
    return figure


def curves_chart(results: Sequence[ClassResult]) -> Figure:
    """Precision over recall, a small panel per class."""
    known = [one for one in results if one.num_pos]
    columns = min(5, max(math.ceil(1.1 * math.sqrt(len(known))), 1))
    rows = max(math.ceil(len(known) / columns), 1)
    figure = new_figure(2.1 * columns + 0.4, 1.9 * rows + 0.5)
    panels = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    for axes, one in zip(panels, known, strict=False):
        recall, precision = np.append(0.0, one.recall), np.append(one.precision[:1], one.precision)
        if len(one.recall):
            axes.fill_between(recall, precision, color=_BLUE, alpha=0.15, linewidth=0)
            axes.plot(recall, precision, color=_BLUE, linewidth=1.3)
        axes.set_title(f"{printable(one.name)}  {one.ap:.3f}", fontsize=9, parse_math=False)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.05)
        axes.grid(linewidth=0.4, alpha=0.5)
        plain_axes(axes)
    for axes in panels[len(known) :]:
        axes.set_visible(False)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    return figure


def sizes_chart(by_size: Mapping[str, Sequence[ClassResult]]) -> Figure:
    """Mean AP of small, medium and large objects, with their number."""
    figure = new_figure(4.6, 2.9)
    axes = figure.add_subplot()
    names = list(by_size)
    means = [float(np.mean([one.ap for one in results if one.num_pos] or [0.0])) for results in by_size.values()]
    totals = [sum(one.num_pos for one in results) for results in by_size.values()]
    axes.bar(names, means, color=_BLUE, width=0.6)
    for column, (mean, total) in enumerate(zip(means, totals, strict=True)):
        axes.text(column, mean + 0.015, f"{mean:.3f}" if total else "none", ha="center", fontsize=9)
    limits = {"small": "below 32²", "medium": "32² to 96²", "large": "96² and above"}
    objects = [counted(total, "object") for total in totals]
    ticks = [f"{name}\n{limits[name]} px\n{number}" for name, number in zip(names, objects, strict=True)]
    axes.set_xticks(range(len(names)), ticks)
    axes.set_ylim(0, 1.08)
    axes.set_title("mean AP by object size", fontsize=10)
    plain_axes(axes)
    return figure


def confusion_chart(breakdown: Breakdown, classes: Sequence[str], lowest_score: float) -> Figure:
    """True against detected class, in shares of each row; the last row and column are background."""
    order = [*range(1, len(classes) + 1), 0]
    table = breakdown.confusion[np.ix_(order, order)]
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.36 * len(order)
    figure = new_figure(side + 0.8, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(order) <= 25:
        for row, column in zip(*np.nonzero(table), strict=True):
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, str(table[row, column]), ha="center", va="center", fontsize=7, color=colour)
    _class_ticks(axes.xaxis, [*classes, "(missed)"], rotation=60, ha="right", rotation_mode="anchor")
    _class_ticks(axes.yaxis, [*classes, "(nothing)"])
    axes.set_title(f"confusion, scores from {lowest_score:g}", fontsize=10)
    axes.set_xlabel("detected", fontsize=9)
    axes.set_ylabel("ground truth", fontsize=9)
    axes.tick_params(labelsize=8, length=0)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the row").ax.tick_params(labelsize=7)
    return figure


def errors_chart(
    breakdown: Breakdown, truth: GroundTruthTable, detections: DetectionTable, lowest_score: float
) -> Figure:
    """Per class, how its detections turned out and how many objects were missed."""
    rows = range(len(truth.classes))
    counts = {
        kind: np.bincount(detections.label[breakdown.kind == KINDS.index(kind)], minlength=len(truth.classes) + 1)[1:]
        for kind in _KIND_COLOURS
        if kind != "missed"
    }
    counts["missed"] = np.bincount(truth.label[breakdown.missed], minlength=len(truth.classes) + 1)[1:]
    figure = new_figure(7.6, 1.2 + 0.3 * len(truth.classes))
    axes = figure.add_subplot()
    left = np.zeros(len(truth.classes))
    for kind, numbers in counts.items():
        axes.barh(rows, numbers, left=left, color=_KIND_COLOURS[kind], height=0.7, label=KIND_NAMES[kind])
        left += numbers
    _class_ticks(axes.yaxis, truth.classes)
    axes.invert_yaxis()
    axes.set_xlabel(f"detections with scores from {lowest_score:g}, and missed objects", fontsize=9)
    figure.legend(loc="outside upper center", ncols=len(counts), fontsize=8, frameon=False, handlelength=1)
    plain_axes(axes)
    return figure
