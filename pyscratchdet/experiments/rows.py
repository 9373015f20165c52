"""The rows of a table: cells, and what `experiment run` measured of them."""

from __future__ import annotations

import functools
import statistics
from dataclasses import dataclass
from pathlib import Path

from pyscratchdet.experiments import paper
from pyscratchdet.experiments.paper import Cell
from pyscratchdet.experiments.run import METRICS, Result, read_result
from pyscratchdet.solver.curves import Curves, read_curves

MEAN_AP = "mAP"
LAST = 5
"""Points of a curve of the loss that its end is the mean of."""


@dataclass(frozen=True)
class Row:
    """A cell and what was measured of it.

    Attributes:
        cell: The cell.
        runs: {folder of a run: its result, None if it is not finished}, in the order of seeds.
    """

    cell: Cell
    runs: dict[Path, Result | None]

    @property
    def results(self) -> list[Result]:
        """Returns the results of the runs that are finished."""
        return [result for result in self.runs.values() if result]

    def values(self, metric: str = MEAN_AP) -> list[float]:
        """Returns a metric of every run that has it, in percent."""
        return [result.metrics[metric] for result in self.results if metric in result.metrics]

    @property
    def diverged(self) -> list[int]:
        """Returns the iterations at which runs diverged."""
        return [result.iterations for result in self.results if result.status == "diverged"]

    @property
    def printed(self) -> str:
        """Returns what the paper prints for the mean: mAP or, on COCO, AP."""
        return next((number.value for number in self.cell.printed if number.metric in (MEAN_AP, "AP")), "")

    @property
    def label(self) -> str:
        """Returns what tells the row from the others of its table."""
        return ", ".join(f"{name} {value}" for name, value in self.cell.row.items())

    @functools.cached_property
    def curves(self) -> dict[Path, Curves]:
        """Returns the curves of the runs that are finished, by folder."""
        return {folder: read_curves(folder / METRICS) for folder, result in self.runs.items() if result}

    def final_losses(self) -> list[float]:
        """Returns the training loss at the end of every run that did not diverge: the mean of its last five points."""
        losses = [
            self.curves[folder].series.get("loss", {})
            for folder, result in self.runs.items()
            if result and result.status == "done"
        ]
        return [statistics.fmean(series[step] for step in sorted(series)[-LAST:]) for series in losses if series]


def rows_of(root: Path, experiment: str) -> list[Row]:
    """Returns the rows of an experiment; a cell that tests another's weights at one scale shows that one's runs."""
    rows = []
    for cell in paper.cells(experiment):
        home = root / cell.name
        if cell.weights_of and not cell.multiscale and not home.is_dir():
            home = root / cell.weights_of
        folders = sorted(home.glob("seed*"), key=lambda path: (len(path.name), path.name))
        rows.append(Row(cell, {folder: read_result(folder) for folder in folders}))
    return rows
