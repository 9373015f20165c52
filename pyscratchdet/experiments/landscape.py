"""How even the loss is along the gradient while a net learns, with and without BatchNorm.

After Santurkar, Tsipras, Ilyas, Madry: How does batch normalization help optimization? (NeurIPS 2018), figure 4: from
the weights w of an iteration, the loss and its gradient are computed again, on the same batch, at w - f * rate * g for
several factors f. The range of the losses, how far the gradient moves from g, and the largest ratio of that to the way
gone (the effective smoothness) say how far the gradient can be relied on.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyscratchdet.errors import SolverError
from pyscratchdet.experiments import mini, paper
from pyscratchdet.experiments.run import Job, prepare
from pyscratchdet.files import write_text
from pyscratchdet.proto import text
from pyscratchdet.solver.fast import Precision
from pyscratchdet.solver.solver import Solver

FACTORS = (0.5, 1.0, 2.0, 4.0)
"""Of the learning rate: the lengths of the steps along the gradient; the paper's."""


CELLS = {"none": "table1/bn_none_lr0.001_scratch", "all": "table1/bn_all_lr0.001_scratch"}
"""BatchNorm in nothing or in everything, at the one rate that the net without it bears in the paper."""
ITERATIONS, EVERY = 200, 5


@dataclass(frozen=True)
class Point:
    """What is seen from the weights of one iteration.

    Attributes:
        iteration: Counted from 0.
        loss: There.
        loss_min, loss_max: The least and the largest loss along the gradient, `loss` included.
        grad_norm: L2 norm of the gradient there.
        gradient_change: The largest L2 distance between the gradient there and one along the way.
        smoothness: The largest ratio of such a distance to the length of the step.
    """

    iteration: int
    loss: float
    loss_min: float
    loss_max: float
    grad_norm: float
    gradient_change: float
    smoothness: float


def measure(root: Path, data: str, iterations: int | None = None) -> list[Path]:
    """Measures both nets in their small form; returns `root/landscape/none.csv` and `all.csv`.

    A file that is there is not measured again.

    Args:
        root: The folder of all results.
        data: VOC tree with the pictures.
        iterations: To train for, instead of ITERATIONS; the files are then `none_N.csv` and `all_N.csv`.

    Raises:
        DataError: The folder's results are of other settings.
    """
    paths = []
    for name, cell in ((name, paper.cell(title)) for name, title in CELLS.items()):
        folder = root / "landscape" / name
        paths.append(folder.with_name(f"{name}{'' if iterations is None else f'_{iterations}'}.csv"))
        sources = prepare(Job(cell, 1, root, data, "mini"))
        if paths[-1].exists():
            continue
        torch.set_num_threads(1)
        recipe = mini.build(cell, sources, folder, seed=1)
        recipe.solver.ClearField("snapshot")
        text.write(folder / "train.prototxt", recipe.train)
        solver = Solver(recipe.solver, precision=Precision(is_fast=True), options={"workers": 0})
        write_points(paths[-1], landscape(solver, iterations or ITERATIONS, EVERY))
    return paths


def landscape(solver: Solver, iterations: int, every: int, factors: Sequence[float] = FACTORS) -> list[Point]:
    """Trains and looks around now and then; the training itself is not changed by it.

    Args:
        solver: Newly made.
        iterations: To train for; fewer where the loss diverges.
        every: Iterations between two looks.
        factors: Of the learning rate, above 0.

    Returns:
        What was seen, in order.
    """
    points: list[Point] = []
    with _batch_kept(solver) as again:

        def look() -> None:
            if solver.iter % every == 0:
                points.append(_look(solver, again, factors))

        solver.callbacks.append((lambda: None, look))
        try:
            solver.step(iterations)
        except SolverError as error:
            if error.code != "solver.diverged":
                raise
    return points


def write_points(path: str | os.PathLike[str], points: Sequence[Point]) -> None:
    """Writes a CSV with a row for each point."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    write_text(Path(path), buffer.getvalue())


@contextmanager
def _batch_kept(solver: Solver) -> Iterator[Any]:
    """Yields a context inside which the data layer gives the last batch again, and draws no new one."""
    (source,) = (module for module in solver.net.layers if module.layer.is_source)
    forward = source.forward
    last: list[Tensor] = []

    def remember(*bottoms: Tensor) -> list[Tensor]:
        last[:] = forward(*bottoms)
        return list(last)

    @contextmanager
    def again() -> Iterator[None]:
        source.forward = lambda *bottoms: list(last)  # type: ignore[method-assign]
        try:
            yield
        finally:
            source.forward = remember  # type: ignore[method-assign]

    source.forward = remember  # type: ignore[method-assign]
    try:
        yield again
    finally:
        source.forward = forward  # type: ignore[method-assign]


def _look(solver: Solver, again: Any, factors: Sequence[float]) -> Point:
    weights = [entry.parameter for entry in solver.net.learnable if entry.parameter.grad is not None]
    statistics = [entry.parameter for entry in solver.net.learnable if entry.is_statistic]
    here = [weight.detach().clone() for weight in weights]
    gradient = [weight.grad.clone() for weight in weights]  # type: ignore[union-attr]
    averages = [statistic.clone() for statistic in statistics]
    rate = solver.rate(solver.iter, solver.smoothed_loss)
    norm = _norm(gradient)
    losses, changes = [], []
    with again():
        for factor in (0.0, *factors):
            with torch.no_grad():
                for weight, start, slope in zip(weights, here, gradient, strict=True):
                    weight.copy_(start - factor * rate * slope)
                    weight.grad = None
            loss, _ = solver.forward_backward()
            losses.append(float(loss))
            changes.append(_norm([w.grad - g for w, g in zip(weights, gradient, strict=True)]))  # type: ignore[operator]
    with torch.no_grad():
        for weight, start, slope in zip(weights, here, gradient, strict=True):
            weight.copy_(start)
            weight.grad = slope
        for statistic, average in zip(statistics, averages, strict=True):
            statistic.copy_(average)
    ways = [factor * rate * norm for factor in factors]
    ratios = [change / way if way else 0.0 for change, way in zip(changes[1:], ways, strict=True)]
    return Point(solver.iter, losses[0], min(losses), max(losses), norm, max(changes), max(ratios))


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors])))
