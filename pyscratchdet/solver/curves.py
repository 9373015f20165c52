"""Curves from training logs and metrics files, and their plots."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyscratchdet.errors import DataError, UsageError, printable
from pyscratchdet.files import atomic_path, read_bytes

Series = dict[int, float]

_NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf|nan))"
_ITERATION = re.compile(r"Iteration (\d+)")
_LINES = {
    "loss": re.compile(rf"Iteration \d+(?: \([^)]*\))?, loss = {_NUMBER}"),
    "lr": re.compile(rf"Iteration \d+, lr = {_NUMBER}"),
    "output": re.compile(rf"(Train|Test) net output #\d+: (\S+) = {_NUMBER}"),
}
_TEST_NET = re.compile(r"Testing net \(#(\d+)\)")
_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss", "test loss")),
    ("learning rate", ("lr",)),
    ("mAP", ("mAP",)),
    ("gradient norm", ("grad_norm_mean",)),
    ("its fluctuation", ("grad_norm_std",)),
)


@dataclass
class Curves:
    """One run.

    Attributes:
        name: Its name in the legend.
        series: {name: {iteration: value}}: "loss", "lr", "mAP", "grad_norm_mean", "train/<output>", "test0/<output>"...
    """

    name: str
    series: dict[str, Series] = field(default_factory=dict)

    def add(self, name: str, iteration: int, value: float) -> None:
        """Adds a point; where a resumed run repeats an iteration, the later value counts."""
        self.series.setdefault(name, {})[iteration] = value


def read_curves(path: str | os.PathLike[str]) -> Curves:
    """Reads a training log (Caffe's or ours) or a metrics file (.csv, .json, .jsonl).

    Raises:
        FileError: It cannot be read.
        DataError: It has nothing to plot.
    """
    text = read_bytes(path).decode("utf-8", errors="replace")
    curves = Curves(printable(Path(path).stem))
    suffix = Path(path).suffix
    if suffix in (".csv", ".json", ".jsonl"):
        _read_metrics(curves, text, suffix == ".csv", os.fspath(path))
    else:
        _read_log(curves, text)
    if not curves.series:
        raise DataError(
            f"{os.fspath(path)} has nothing to plot",
            code="plot.empty",
            hint="give a training log, or a file that `train --metrics` wrote",
        )
    return curves


def plot(runs: Sequence[Curves], output: str | os.PathLike[str], *, title: str = "", log_scale: bool = False) -> None:
    """Plots loss, learning rate, mAP and gradient norm, with a panel for each that any run has.

    The gradient norm is the mean between two displays; its fluctuation is the standard deviation.

    Raises:
        UsageError: The output's suffix is not a picture format.
        FileError: It cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    suffix = Path(output).suffix.lstrip(".")
    if suffix not in ("png", "svg", "pdf"):
        raise UsageError(f"{os.fspath(output)}", code="plot.suffix", expected=".png, .svg or .pdf", found=suffix)
    panels = [(label, names) for label, names in _PANELS if any(name in run.series for run in runs for name in names)]
    panels = panels or [("outputs", tuple({name for run in runs for name in run.series}))]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(8, 2.6 * len(panels)), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, (label, names) in zip(axes[:, 0], panels, strict=True):
        for run in runs:
            for name in names:
                _draw(axis, run, name, run.name if name == names[0] else f"{run.name}, {name}")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if log_scale and label not in ("learning rate", "mAP"):
            axis.set_yscale("log", nonpositive="mask")
    if len(runs) > 1 or any("test loss" in run.series for run in runs):
        for text in axes[0, 0].legend().get_texts():
            text.set_parse_math(False)  # "$" in a file name is a dollar sign, not mathematics
    axes[-1, 0].set_xlabel("iteration")
    if title:
        figure.suptitle(title, parse_math=False)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format=suffix, dpi=120)
    pyplot.close(figure)


def _draw(axis: object, run: Curves, name: str, label: str) -> None:
    series = run.series.get(name)
    if not series:
        return
    steps = sorted(step for step, value in series.items() if math.isfinite(value))
    values = [series[step] for step in steps]
    marker = "o" if name == "mAP" or len(steps) == 1 else None
    axis.plot(steps, values, label=label, marker=marker, linewidth=1.2)  # type: ignore[attr-defined]


def _read_log(curves: Curves, text: str) -> None:
    iteration, net = -1, "0"
    for line in text.splitlines():
        if match := _ITERATION.search(line):
            iteration = int(match[1])
        if match := _TEST_NET.search(line):
            net = match[1]
        if iteration < 0:
            continue
        for name in ("loss", "lr"):
            if match := _LINES[name].search(line):
                curves.add(name, iteration, float(match[1]))
        if match := _LINES["output"].search(line):
            name = f"train/{match[2]}" if match[1] == "Train" else f"test{net}/{match[2]}"
            curves.add(name, iteration, float(match[3]))
            if match[1] == "Test" and "eval" in match[2]:
                curves.add("mAP", iteration, float(match[3]))
            elif match[1] == "Test" and "loss" in match[2]:
                curves.add("test loss", iteration, float(match[3]))


def _read_metrics(curves: Curves, text: str, is_csv: bool, path: str) -> None:
    for row in _csv_rows(text, path) if is_csv else _json_rows(text, path):
        try:
            iteration = int(row["iteration"])
            numbers = {name: float(value) for name, value in row.items() if name not in ("kind", "iteration") and value}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path} is not a metrics file", code="plot.metrics") from error
        for name, value in numbers.items():
            curves.add(name, iteration, value)


def _csv_rows(text: str, path: str) -> Iterator[dict[str, str]]:
    try:
        yield from csv.DictReader(io.StringIO(text, newline=""))
    except csv.Error as error:
        raise DataError(f"{path}: not CSV: {error}", code="plot.metrics") from error


def _json_rows(text: str, path: str) -> Iterator[dict[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
            entries = {name: value for name, value in row.items() if value is not None}
        except (ValueError, AttributeError, RecursionError):
            if number == len(text.splitlines()):
                return  # the run was killed while it wrote this line
            raise DataError(f"{path}:{number}: not a JSON object", code="plot.metrics") from None
        yield entries
