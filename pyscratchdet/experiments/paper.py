"""The experiments of ScratchDet's paper: what each trains and tests, and what paper and poster print for it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from pyscratchdet import prototxt
from pyscratchdet.errors import UsageError, nearest
from pyscratchdet.prototxt import printed


@dataclass(frozen=True)
class Printed:
    """One number that the paper or the poster prints.

    Attributes:
        metric: "mAP", "AP_S", "AP aero" (percent), "FPS" (pictures per second), "hours".
        value: As printed: "78.7", "NAN".
        place: Where: "Table 1, column 16".
    """

    metric: str
    value: str
    place: str


@dataclass(frozen=True)
class Cell:
    """One thing to train and to test.

    Attributes:
        name: "table1/bn_all_lr0.05_scratch": unique, and a path for its files.
        experiment: "table1", "figure3", "dsod".
        row: What varies in the experiment: {"BatchNorm": "all", "rate": "0.05", "pretraining": "no"}.
        recipe: A name of `prototxt.entries()`; "" where this package has no such net.
        train: The pictures to train on, as the paper names them.
        test: The pictures to test on.
        start: "scratch", "classifier" (the backbone was trained to classify), or the cell that is fine-tuned.
        multiscale: Whether the test is at several scales.
        printed: What is printed for it; empty where the paper leaves the combination out.
        settings: Fields of `prototxt.Options` that differ from the recipe's.
        weights_of: A cell that trains the same; this one tests its weights. "" where it trains its own.
    """

    name: str
    experiment: str
    row: dict[str, str]
    recipe: str
    train: str
    test: str
    start: str
    multiscale: bool
    printed: tuple[Printed, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    weights_of: str = ""


def experiments() -> dict[str, str]:
    """Returns the experiments' titles by name, in the order in which they are read."""
    return {name: table["title"] for name, table in printed.tables().items()}


def cells(experiment: str | None = None) -> list[Cell]:
    """Returns the cells of an experiment, or of all.

    Raises:
        UsageError: No such experiment.
    """
    if experiment is None:
        return [cell for name in experiments() for cell in cells(name)]
    if experiment not in experiments():
        hint = nearest(experiment, experiments()) or f"these are: {', '.join(experiments())}"
        raise UsageError(f'no experiment called "{experiment}"', code="experiment.name", hint=hint)
    return list(_cells(experiment))


def cell(name: str) -> Cell:
    """Returns the cell of that name, such as table1/bn_all_lr0.05_scratch.

    Raises:
        UsageError: No such experiment or cell.
    """
    known = {one.name: one for one in cells(name.partition("/")[0])}
    if name not in known:
        hint = nearest(name, known) or f"these are: {', '.join(known)}"
        raise UsageError(f'no cell called "{name}"', code="experiment.cell", hint=hint)
    return known[name]


def schedule(cell: Cell) -> dict[str, Any]:
    """Returns how a cell is trained: rates, iterations and pictures per update, from its recipe's solver.

    Empty where there is no recipe.
    """
    if not cell.recipe:
        return {}
    recipe = prototxt.build(cell.recipe, prototxt.Options(**cell.settings))
    solver = recipe.solver
    data = next(layer for layer in recipe.train.layer if layer.HasField("data_param"))
    rates = ("base_lr", "gamma", "momentum", "weight_decay")
    return {
        **{name: float(f"{getattr(solver, name):.6g}") for name in rates},  # 0.05, not its nearest float32
        "stepvalue": list(solver.stepvalue),
        "max_iter": solver.max_iter,
        "pictures_per_update": data.data_param.batch_size * max(1, len(recipe.gpus)) * solver.iter_size,
    }


@functools.cache
def _cells(experiment: str) -> tuple[Cell, ...]:
    return tuple(_cell(experiment, row) for row in printed.rows(experiment))


def _cell(experiment: str, row: dict[str, Any]) -> Cell:
    numbers = zip(row["metrics"], row["values"].split(), strict=True) if row["values"] else ()
    return Cell(
        name=f"{experiment}/{row['name']}",
        experiment=experiment,
        row=row["row"],
        recipe=row["recipe"],
        train=row["train"],
        test=row["test"],
        start=row.get("start", "scratch"),
        multiscale=row.get("multiscale", False),
        printed=(
            *(Printed(metric, value, row["place"]) for metric, value in numbers),
            *(Printed(*other) for other in row.get("also", ())),
        ),
        settings=row.get("settings", {}),
        weights_of=row.get("weights_of", ""),
    )
