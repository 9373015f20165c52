"""The rows of a table: cells, and what `experiment run` measured of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from pyscratchdet.experiments import paper
from pyscratchdet.experiments.paper import Cell
from pyscratchdet.experiments.run import METRICS, Result, read_result
from pyscratchdet.solver.curves import Curves, read_curves

MEAN_AP = "mAP"


@dataclass(frozen=True)
class Row:
    """A cell and what was measured of it.

    Attributes:
        cell: The cell.
        folders: A run's folder for each seed, in the order of seeds.
        results: The results of those that are finished.
    """

    cell: Cell
    folders: tuple[Path, ...]
    results: tuple[Result, ...]

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
    def curves(self) -> list[Curves]:
        """Returns the curves of its runs that have any."""
        return [read_curves(folder / METRICS) for folder in self.folders if (folder / METRICS).exists()]


def rows_of(root: Path, experiment: str) -> list[Row]:
    """Returns the rows of an experiment; a cell that tests another's weights at one scale shows that one's runs."""
    rows = []
    for cell in paper.cells(experiment):
        home = root / cell.name
        if cell.weights_of and not cell.multiscale and not home.is_dir():
            home = root / cell.weights_of
        folders = tuple(sorted(home.glob("seed*"), key=lambda path: (len(path.name), path.name)))
        results = (read_result(folder) for folder in folders)
        rows.append(Row(cell, folders, tuple(result for result in results if result)))
    return rows
