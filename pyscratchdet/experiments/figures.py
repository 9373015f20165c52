"""Figures of a report: measured beside printed, learning curves, and the paper's figures 1 and 7."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyscratchdet.evaluate.charts import new_figure, plain_axes
from pyscratchdet.experiments.rows import Row
from pyscratchdet.solver.curves import Curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {"loss": "loss", "grad_norm_mean": "L2 norm of gradient", "grad_norm_std": "fluctuation of L2 norm"}
"""Series of a metrics file, and what the paper calls them in figures 1 and 7."""
OPTIMISATION: dict[str, tuple[str, dict[str, str]]] = {
    "figure1": (
        "Figure 1: training SSD with BatchNorm in the head",
        {"none_lr0.001": "SSD", "head_lr0.001": "BatchNorm in the head", "head_lr0.01": "the same, 10x rate"},
    ),
    "figure7": (
        "Figure 7: training SSD with BatchNorm in the backbone",
        {
            "none_lr0.001": "SSD",
            "backbone_lr0.001": "BatchNorm in the backbone",
            "backbone_lr0.01": "the same, 10x rate",
        },
    ),
}
"""The paper's figures of the optimisation: title, and the cells of table 1, bn_..._scratch, that are its curves."""
LANDSCAPE = {"gradient_change": "change of the gradient (L2)", "smoothness": "effective smoothness"}
"""Series of a table of the landscape besides the least and the largest loss."""
SMOOTHED = 9
"""Points over which the fluctuation is averaged, as the paper smooths it by a width that it does not say."""

_COLOURS = ("#2f6db3", "#c9524a", "#3a9a5b")  # the paper's: blue, red, green
_DIAMOND = {"marker": "D", "color": "#1d2430", "markersize": 5, "linestyle": "none"}


def results_figure(rows: Sequence[Row], metrics: Mapping[str, str]) -> Figure:
    """Draws a line per cell: printed, and measured by every metric.

    Args:
        rows: The cells.
        metrics: {metric: what it is called}, in percent.
    """
    figure = new_figure(4.2 + 2.1 * len(metrics), 1 + 0.26 * len(rows))
    panels = np.atleast_1d(figure.subplots(1, 1 + len(metrics), sharey=True))
    places = range(len(rows))
    for place, row in enumerate(rows):
        if row.printed == "NAN":
            panels[0].text(0.5, place, "NAN", va="center", ha="center", fontsize=8, transform=_row_of(panels[0]))
        elif row.printed:
            panels[0].plot(float(row.printed), place, **_DIAMOND)
    panels[0].set_title("printed", fontsize=10)
    panels[0].set_yticks(places, [row.label for row in rows])
    panels[0].invert_yaxis()
    for axes, (metric, name) in zip(panels[1:], metrics.items(), strict=True):
        for place, row in enumerate(rows):
            _measured(axes, place, row, metric)
        axes.set_title(name, fontsize=10)
        axes.set_xlim(left=0)
    for axes in panels:
        axes.grid(axis="x", linewidth=0.4, alpha=0.5)
        plain_axes(axes)
    return figure


def _row_of(axes: Any) -> Any:
    """Across in shares of the panel, up and down in rows."""
    return axes.get_yaxis_transform()


def _measured(axes: Any, place: int, row: Row, metric: str) -> None:
    values = row.values(metric)
    if values:
        axes.barh(place, statistics.fmean(values), color=_COLOURS[0], height=0.66, alpha=0.55)
        axes.plot(values, [place] * len(values), "o", color=_COLOURS[0], markersize=3)
    else:
        text = "NAN" if row.results else "not finished" if row.runs else "not run"
        axes.text(0.02, place, text, va="center", fontsize=8, color="#667085", transform=_row_of(axes))


def curves_figure(rows: Sequence[Row]) -> Figure:
    """Draws loss, gradient norm and fluctuation of every cell: a column for each value of what varies first."""
    keys = list(rows[0].cell.row)
    columns = list(dict.fromkeys(row.cell.row[keys[0]] for row in rows)) if len(keys) > 1 else [""]
    rest = keys[1:] or keys
    names = list(dict.fromkeys(", ".join(f"{key} {row.cell.row[key]}" for key in rest) for row in rows))
    figure = new_figure(2.4 + 2.8 * len(columns), 7.4)
    panels = figure.subplots(len(PANELS), len(columns), sharex=True, sharey="row", squeeze=False)
    colours = _many(len(names))
    for row in rows:
        column = columns.index(row.cell.row[keys[0]]) if len(keys) > 1 else 0
        name = ", ".join(f"{key} {row.cell.row[key]}" for key in rest)
        for axes, series in zip(panels[:, column], PANELS, strict=True):
            steps, values = mean_series(list(row.curves.values()), series)
            if len(steps):
                axes.plot(steps, values, linewidth=1.1, color=colours[names.index(name)], label=name)
    for column, value in enumerate(columns):
        if value:
            panels[0, column].set_title(f"{keys[0]} {value}", fontsize=10)
        panels[-1, column].set_xlabel("iteration", fontsize=9)
    _finish(panels)
    handles = {line.get_label(): line for axes in panels[0] for line in axes.get_lines()}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def optimisation_figure(title: str, lines: Mapping[str, Sequence[Curves]]) -> Figure:
    """Draws one of the paper's figures 1 and 7: (a) loss, (b) gradient norm, (c) its fluctuation, smoothed.

    Args:
        title: Heading.
        lines: {name: curves of each seed}: a thin line for a seed, a thick one for the mean.
    """
    figure = new_figure(11, 3.6)
    panels = figure.subplots(1, len(PANELS), squeeze=False)
    for axes, series in zip(panels[0], PANELS, strict=True):
        for colour, (label, runs) in zip(_COLOURS, lines.items(), strict=False):
            for run in runs:
                axes.plot(*_smoothed(*mean_series([run], series), series), color=colour, linewidth=0.6, alpha=0.35)
            mean = _smoothed(*mean_series(runs, series), series)
            axes.plot(*mean, color=colour, linewidth=1.6, label=label)
    _head(figure, panels, title, PANELS.values())
    return figure


def landscape_figure(title: str, lines: Mapping[str, Curves]) -> Figure:
    """Draws what was seen along the gradient: range of the loss, change of the gradient, effective smoothness.

    Args:
        title: Heading.
        lines: {name: a table that `landscape.write_points` wrote}.
    """
    figure = new_figure(11, 3.6)
    panels = figure.subplots(1, 1 + len(LANDSCAPE), squeeze=False)
    for colour, (label, run) in zip(_COLOURS, lines.items(), strict=False):
        low, high = mean_series([run], "loss_min"), mean_series([run], "loss_max")
        panels[0, 0].fill_between(*low, high[1], color=colour, alpha=0.5, linewidth=0, label=label)
        for axes, series in zip(panels[0, 1:], LANDSCAPE, strict=True):
            axes.plot(*mean_series([run], series), color=colour, linewidth=1.2, label=label)
    _head(figure, panels, title, ("range of the loss", *LANDSCAPE.values()))
    return figure


def _head(figure: Figure, panels: Any, title: str, names: Iterable[str]) -> None:
    """Writes what stands over and under three panels side by side: (a), (b), (c)."""
    for letter, axes, name in zip("abc", panels[0], names, strict=True):
        axes.set_title(f"({letter}) {name}", fontsize=10)
        axes.set_xlabel("iteration", fontsize=9)
    _finish(panels, labels=False)
    panels[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)


def mean_series(runs: Sequence[Curves], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns iterations and the mean over runs of a series, as far as all runs have it."""
    found = [{step: value for step, value in run.series.get(name, {}).items() if math.isfinite(value)} for run in runs]
    steps = sorted(set.intersection(*map(set, found))) if found else []
    return np.array(steps), np.array([statistics.fmean(run[step] for run in found) for step in steps])


def _smoothed(steps: np.ndarray, values: np.ndarray, series: str) -> tuple[np.ndarray, np.ndarray]:
    if series != "grad_norm_std" or len(values) < SMOOTHED:
        return steps, values
    half = SMOOTHED // 2
    padded = np.pad(values, half, mode="edge")
    return steps, np.convolve(padded, np.full(SMOOTHED, 1 / SMOOTHED), mode="valid")


def _finish(panels: Any, labels: bool = True) -> None:
    """Logarithmic, since what diverges would hide the rest."""
    from matplotlib.ticker import LogFormatter

    for place, axes in np.ndenumerate(panels):
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.7)))
        axes.tick_params(which="minor", labelsize=7)
        axes.grid(linewidth=0.4, alpha=0.5)
        plain_axes(axes)
        if labels and place[1] == 0:
            axes.set_ylabel(list(PANELS.values())[place[0]], fontsize=9)


def _many(count: int) -> Sequence[Any]:
    from matplotlib import colormaps

    colours = colormaps["tab10" if count <= 10 else "tab20"]
    return [colours(number) for number in range(count)]
