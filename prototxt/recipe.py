"""What a recipe is made of: a data set, a training schedule, the user's own settings, and the four messages."""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyscratchdet.data.figures import DataFigures
from pyscratchdet.errors import UsageError


@dataclass(frozen=True)
class DataSet:
    """Where pictures come from and how detections on them are written. Paths are relative to the working folder.

    Attributes:
        name: As in Caffe's folders, e.g. VOC0712.
        train_source: AnnotatedDatum LMDB for training.
        test_source: AnnotatedDatum LMDB for testing.
        label_map_file: Class names.
        name_size_file: Names and sizes of the test pictures, which detections are scaled back with.
        num_classes: With background.
        num_test_image: Pictures in the test set.
        output_directory: Where detections are written.
        output_name_prefix: Of the files there.
        output_format: VOC, COCO or ILSVRC.
        use_difficult_gt: Whether objects marked difficult take part in training.
        force_color: Decode every picture as colour.
        ap_version: How average precision is computed.
        mean_value: Subtracted from blue, green, red.
    """

    name: str
    train_source: str
    test_source: str
    label_map_file: str
    name_size_file: str
    num_classes: int
    num_test_image: int
    output_directory: str
    output_name_prefix: str
    output_format: str
    use_difficult_gt: bool = False
    force_color: bool = True
    ap_version: str = "11point"
    mean_value: tuple[float, ...] = (104, 117, 123)


def _data_set(name: str, splits: tuple[str, str], label_map: str, sizes: str, results: str, **rest: Any) -> DataSet:
    """A data set whose files lie where Caffe's scripts put them; `splits` are those to train on and to test on."""
    train, test = splits
    return DataSet(
        name=name,
        train_source=f"examples/{name}/{name}_{train}_lmdb",
        test_source=f"examples/{name}/{name}_{test}_lmdb",
        label_map_file=f"data/{name}/labelmap_{label_map}.prototxt",
        name_size_file=f"data/{name}/{sizes}_name_size.txt",
        output_directory=f"results/{results}",
        **rest,
    )


_VOC: dict[str, Any] = {
    "splits": ("trainval", "test"),
    "label_map": "voc",
    "sizes": "test",
    "num_classes": 21,
    "output_name_prefix": "comp4_det_test_",
    "output_format": "VOC",
    "use_difficult_gt": True,
    "force_color": False,
}
VOC0712 = _data_set("VOC0712", results="VOC2007", num_test_image=4952, **_VOC)
VOC0712PLUS = _data_set("VOC0712Plus", results="VOC2012", num_test_image=10991, **_VOC)
COCO = _data_set(
    "coco",
    ("train", "minival"),
    label_map="coco",
    sizes="minival2014",
    results="coco",
    num_classes=81,
    num_test_image=5000,
    output_name_prefix="detections_minival_ssd300_results",
    output_format="COCO",
)
ILSVRC = _data_set(
    "ILSVRC2016",
    ("trainval1", "val2"),
    label_map="ilsvrc_det",
    sizes="val2",
    results="ILSVRC2016",
    num_classes=201,
    num_test_image=9917,
    output_name_prefix="val2_ssd300_results",
    output_format="ILSVRC",
    ap_version="MaxIntegral",
)


@dataclass(frozen=True)
class Training:
    """A schedule: SGD with momentum 0.9 and weight decay 0.0005, the rate divided at steps.

    Attributes:
        base_lr: Rate at the start.
        stepvalue: Iterations at which the rate is multiplied by gamma.
        max_iter: Iterations in all.
        snapshot: Iterations between snapshots.
        batch_size: Pictures per iteration on all GPUs together.
        accum_batch_size: Pictures per update; batches are summed up to it. None for `batch_size`.
        gamma: Factor at each step.
        stepsize: If given, the rate falls after each `stepsize` iterations (lr_policy step).
        gpus: Devices; empty for the CPU.
        test_batch_size: Pictures per test iteration.
        test_interval: Iterations between tests; None for no tests while training.
        test_initialization: Whether to test before the first iteration.
        display: Iterations between lines of the log.
        debug_info: Whether the log shows the size of every blob.
        weights: Caffemodel to start from; None for scratch.
    """

    base_lr: float
    stepvalue: tuple[int, ...]
    max_iter: int
    snapshot: int
    batch_size: int = 32
    accum_batch_size: int | None = None
    gamma: float = 0.1
    stepsize: int | None = None
    gpus: tuple[int, ...] = (0, 1, 2, 3)
    test_batch_size: int = 1
    test_interval: int | None = None
    test_initialization: bool = False
    display: int = 10
    debug_info: bool = False
    weights: str | None = None

    @property
    def batch_size_per_device(self) -> int:
        """Returns the batch size written into the train net: what one GPU gets."""
        return math.ceil(self.batch_size / max(1, len(self.gpus)))

    @property
    def iter_size(self) -> int:
        """Returns how many batches are summed up per update."""
        batch = self.batch_size_per_device * max(1, len(self.gpus))
        return math.ceil((self.accum_batch_size or self.batch_size) / batch)


@dataclass(frozen=True)
class Options:
    """The user's own settings; None keeps the recipe's.

    Attributes:
        folder: Where the files will be: the paths by which they name each other start with it.
        num_classes: With background.
        train_source: Training LMDB.
        test_source: Test LMDB.
        label_map_file: Class names.
        name_size_file: Names and sizes of the test pictures; "" for none, the default where `test_source` is given.
        num_test_image: Pictures in the test set.
        output_directory: Where detections are written; "" for nowhere, with the same default.
        batch_size: Pictures per iteration, over all GPUs.
        accum_batch_size: Pictures per update, where several iterations are summed; else `batch_size` if that is given.
        gpus: Devices; () for the CPU.
        base_lr: Learning rate at the start.
        max_iter: Iterations; the steps and the intervals of snapshots and tests scale with it.
        stepvalue: Iterations at which the rate falls, instead of the scaled ones.
        snapshot: Iterations between snapshots, likewise.
        test_interval: Iterations between tests, likewise.
        weights: Caffemodel to start from; "" for scratch.
        size: Side of the network's input in pixels.
        width: Factor on the number of channels, for bodies that have it (Root-ResNet).
    """

    folder: str | None = None
    num_classes: int | None = None
    train_source: str | None = None
    test_source: str | None = None
    label_map_file: str | None = None
    name_size_file: str | None = None
    num_test_image: int | None = None
    output_directory: str | None = None
    batch_size: int | None = None
    accum_batch_size: int | None = None
    gpus: tuple[int, ...] | None = None
    base_lr: float | None = None
    max_iter: int | None = None
    stepvalue: tuple[int, ...] | None = None
    snapshot: int | None = None
    test_interval: int | None = None
    weights: str | None = None
    size: int | None = None
    width: float | None = None

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "accum_batch_size",
            "max_iter",
            "snapshot",
            "test_interval",
            "num_test_image",
            "base_lr",
            "width",
        ):
            self._require(name, 0 if name in ("base_lr", "width") else 1)
        self._require("num_classes", 2)
        self._require("size", 32)

    def _require(self, name: str, low: int) -> None:
        value = getattr(self, name)
        if value is not None and (value < low or (low == 0 and value <= 0)):
            wanted = f"at least {low}" if low else "more than 0"
            raise UsageError(f"{name} is too small", code="recipe.option", expected=wanted, found=value)

    def of_folder(self, folder: str | os.PathLike[str]) -> Options:
        """Returns these settings with the databases, classes and counts of a data folder where none are given.

        Raises:
            FileError: The folder was not made by `pyscratchdet lmdb folder`.
            DataError: Its figures are damaged.
        """
        figures, root = DataFigures.read(folder), Path(folder)
        found: dict[str, Any] = {
            "num_classes": len(figures.classes) + 1,
            "train_source": f"{root / 'train_lmdb'}",
            "test_source": f"{root / 'test_lmdb'}",
            "label_map_file": f"{root / 'labelmap.prototxt'}",
            "num_test_image": figures.test.pictures,
        }
        return replace(self, **{name: value for name, value in found.items() if getattr(self, name) is None})

    def data(self, data: DataSet) -> DataSet:
        """Returns the data set with these settings.

        A test set of the user's own drops the published set's list of names and folder for results.
        """
        if self.test_source is not None:
            data = replace(data, name_size_file="", output_directory="")
        return replace(data, **self._given(data))

    def training(self, training: Training) -> Training:
        """Returns the schedule with these settings."""
        changed = replace(training, **self._given(training))
        if self.weights == "":
            changed = replace(changed, weights=None)
        if self.batch_size is not None and self.accum_batch_size is None:
            changed = replace(changed, accum_batch_size=None)
        if self.max_iter is not None:
            factor = self.max_iter / training.max_iter
            scaled: dict[str, Any] = {
                "stepvalue": tuple(round(step * factor) for step in training.stepvalue),
                "stepsize": training.stepsize and max(1, round(training.stepsize * factor)),
                "snapshot": max(1, round(training.snapshot * factor)),
                "test_interval": training.test_interval and max(1, round(training.test_interval * factor)),
            }
            changed = replace(
                changed, **{name: value for name, value in scaled.items() if getattr(self, name, None) is None}
            )
        return changed

    def _given(self, target: Any) -> dict[str, Any]:
        """Returns the settings that are given and that `target` has a field for."""
        names = [name for name in vars(self) if hasattr(target, name) and getattr(self, name) is not None]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Recipe:
    """A finished net in all its forms.

    Attributes:
        name: The recipe's name.
        train: NetParameter with data layer and loss.
        test: NetParameter with data layer, DetectionOutput and DetectionEvaluate.
        deploy: NetParameter with an input of shape (1, 3, size, size).
        solver: SolverParameter.
        gpus: Devices of the job; empty for the CPU.
        weights: Caffemodel the training starts from, None for scratch.
        folder: The folder that the solver's paths name.
    """

    name: str
    train: Any
    test: Any
    deploy: Any
    solver: Any
    gpus: tuple[int, ...] = ()
    weights: str | None = None
    folder: str = ""

    @property
    def job(self) -> str:
        """Returns the shell script that trains the net, to be run from where the paths start."""
        flags = [f"--solver={self.folder}/solver.prototxt"]
        if self.weights:
            flags.append(f"--weights={self.weights}")
        if self.solver.weights:
            flags.append("--reset-heads")
        if self.gpus:
            flags.append(f"--gpu={','.join(map(str, self.gpus))}")
        log = shlex.quote(f"{self.folder}/{self.name}.log")
        parts = ["pyscratchdet train", *map(shlex.quote, flags), f'"$@" 2>&1 | tee -a {log}']
        command = " \\\n  ".join(parts)
        return f"#!/usr/bin/env bash\nset -euo pipefail\n{command}\n"


@dataclass(frozen=True)
class Entry:
    """A recipe by name.

    Attributes:
        name: As on the command line.
        size: Side of the input in pixels.
        result: The published result it belongs to.
        build: Makes it.
        note: What differs from its neighbours or from the paper.
        can_resize: Whether other input sizes make sense.
        can_widen: Whether the body has `width`.
        nets_of: A recipe with the same nets, where at most the schedule differs besides the name.
    """

    name: str
    size: int
    result: str
    build: Any = field(repr=False)
    note: str = ""
    can_resize: bool = False
    can_widen: bool = False
    nets_of: str | None = None
