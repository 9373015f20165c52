"""The small form of an experiment, which one CPU core trains in minutes. One rule makes it, whatever the cell.

- Net: every convolution of the body keeps its kernel, stride, dilation, filler and BatchNorm, and an eighth of its
  channels. Predicting convolutions keep a channel for each prior and class. The input is 128x128 instead of 300x300;
  the priors shrink by the same factor, to whole pixels. 3x3 convolutions without padding get 1: no map is empty.
- Solver: momentum, weight decay and loss as published. 8 pictures per update and 750 iterations, in which the rate
  falls after the published shares of the run. Rates are the published ones times the root of 8 / N, where N is the
  published number of pictures per update: a quarter from scratch (N is 128), a half pretrained (32). The averages of
  BatchNorm settle within so short a run.
- Augmentation: as published, but crops hardly change the size of objects and few pictures are zoomed out.
- Pictures: the lists trainval and test of the VOC tree that is given, stored with at most 240 pixels on their longer
  side.
- Pretraining: the body up to fc7, with or without BatchNorm, learns for 300 iterations to classify single generated
  shapes (`pretraining`); the detector takes its weights by name.
- NAN: the loss is no number, or over a million times the first one; the run ends there.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pyscratchdet import prototxt
from pyscratchdet.errors import UsageError
from pyscratchdet.evaluate.sets import find_voc
from pyscratchdet.experiments.paper import Cell, schedule
from pyscratchdet.experiments.pretraining import pretrained
from pyscratchdet.experiments.sources import Sources, of_tree
from pyscratchdet.prototxt import Options, Recipe

SIZE, PUBLISHED_SIZE = 128, 300
CHANNELS = 8
"""What the channels of the body are divided by."""
BATCH, ITERATIONS = 8, 750
RULE = 2
"""The number of the rule above, which rises with every change: what another one measured is not taken for its own."""
STORED = 240
"""The longer side of stored pictures, in pixels."""
EXPERIMENTS = ("table1", "table2", "figure3", "dsod")
"""Those that have a small form: all whose nets are trained on VOC alone, and compared among themselves."""

TRAINING = {"fast": True, "workers": 0}
"""Fields of `TrainSettings`: one process on one core, which does the same again whenever it is asked to."""

_DISPLAY = 5  # iterations between two points of the curves
_SNAPSHOTS = 5


def lists(cell: Cell, data: str) -> list[tuple[Path, str]]:
    """Returns the (VOC folder, list) pairs that a cell is trained and tested on.

    Raises:
        UsageError: The experiment has no small form.
        FileError: There is no VOC folder.
    """
    if cell.experiment not in EXPERIMENTS:
        raise UsageError(
            f"{cell.experiment} has no small form", code="experiment.scale", expected=", ".join(EXPERIMENTS)
        )
    base = find_voc(data)
    return [(base, "trainval"), (base, "test")]


def sources(cell: Cell, root: Path, data: str) -> Sources:
    """Returns what a cell is trained and tested on; the database is made below `root` unless it is there.

    Raises:
        UsageError: The experiment has no small form.
        FileError, DataError: The pictures given are missing or damaged.
    """
    return of_tree(root / "data" / "pictures", lists(cell, data)[0][0], STORED)


def start(cell: Cell, recipe: Recipe, root: Path) -> Path | None:
    """Returns the weights that a cell starts from, trained unless they are there; None for from scratch."""
    return pretrained(root / "pretraining", recipe.train) if cell.start == "classifier" else None


def build(
    cell: Cell, sources: Sources, folder: Path, seed: int, num_gpus: int = 0, iterations: int | None = None
) -> Recipe:
    """Returns the small form of a cell's recipe.

    Args:
        cell: What to train.
        sources: What to train it on.
        folder: Where the recipe will be.
        seed: Of the initial weights and of everything that is drawn.
        num_gpus: Without effect: the small form is the same on every device.
        iterations: Instead of the rule's.
    """
    iterations = iterations or ITERATIONS
    options = Options(
        folder=str(folder),
        num_classes=sources.num_classes,
        train_source=str(sources.train_source),
        label_map_file=str(sources.label_map),
        output_directory="",
        batch_size=BATCH,
        gpus=(),
        max_iter=iterations,
        snapshot=-(-iterations // _SNAPSHOTS),
        weights="",
    )
    recipe = prototxt.build(cell.recipe, options)
    for net in (recipe.train, recipe.deploy):
        for layer in net.layer:
            _shrink(layer)
    recipe.deploy.input_shape[0].dim[2:] = [SIZE, SIZE]
    solver = recipe.solver
    for name in ("test_net", "test_iter", "test_interval"):
        solver.ClearField(name)
    solver.display = _DISPLAY
    solver.random_seed = seed
    solver.base_lr = round(solver.base_lr * math.sqrt(BATCH / schedule(cell)["pictures_per_update"]), 7)
    return recipe


def _shrink(layer: Any) -> None:
    if layer.type == "Convolution":
        convolution = layer.convolution_param
        if "mbox" not in layer.name:
            convolution.num_output //= CHANNELS
        if convolution.kernel_size == [3] and convolution.pad in ([], [0]):
            convolution.pad[:] = [1]
    elif layer.type == "BatchNorm":
        layer.batch_norm_param.moving_average_fraction = 0.95
    elif layer.type == "PriorBox":
        prior = layer.prior_box_param
        prior.ClearField("step")
        for sizes in (prior.min_size, prior.max_size):
            sizes[:] = [float(round(size * SIZE / PUBLISHED_SIZE)) for size in sizes]
    elif layer.type == "AnnotatedData":
        layer.transform_param.resize_param.height = layer.transform_param.resize_param.width = SIZE
        layer.transform_param.expand_param.prob = 0.05
        keep_sizes(layer.annotated_data_param.batch_sampler)


def keep_sizes(samplers: Any) -> None:
    """Leaves three of SSD's seven ways to crop, in place: the whole picture, and wide crops of overlap 0.7 and 0.9."""
    del samplers[6], samplers[1:4]
    for crop in samplers[1:]:
        crop.sampler.min_scale = 0.6
