"""A detector for someone's own pictures: net, priors and schedule by the figures of the data and a budget of time.

The net is ScratchDet's Root-ResNet-18, narrow, with a small start from weights of this project's own. What suits a few
hundred pictures and a CPU better than the paper's settings for 16,551 pictures and four GPUs stands in `_adapt`;
docs/own_pictures.md has the measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pyscratchdet.data.figures import DataFigures
from pyscratchdet.data.own.findings import OVERLAP, best_overlaps
from pyscratchdet.errors import DataError, UsageError, counted
from pyscratchdet.layers.costs import net_cost
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.layers.prior_box import PriorBox
from pyscratchdet.prototxt.recipe import VOC0712, Options, Recipe, Training
from pyscratchdet.prototxt.scratchdet import rootresnet

NAME = "own"
START = Path(__file__).parent / "own_start.caffemodel"
"""Weights to start from, trained by scripts/own_start.sh; the recipe's folder gets a copy of this name."""
MINUTES = 12.0
"""The usual budget: minutes of training on one core of a plain CPU, or on one GPU."""

# Multiply-accumulates a second, forward and backward together: measured on one core of 33 GFLOP/s, and a cautious guess
# for a GPU. Iterations are counted by them and not by a clock, so that they are the same on every machine.
_CPU_SPEED, _GPU_SPEED = 8e9, 1e12
_PASSES = 3  # forward; gradients of the blobs; gradients of the weights
_START_WIDTH = 0.25  # of START's net, whose root block has stride 2
_EPOCHS = 400  # more passes over the pictures bring nothing
_CPU_SIZES = (128, 160, 192, 224, 256)
_SMALL_PX = 28  # what nine in ten boxes should have in the input
_FULL_EPOCHS = 100  # a root block at full resolution costs four times as much: only where this many passes remain
_RATE, _RATE_BATCH = 0.001, 8  # Adam's
_CLIP = 35.0
_TESTS = 10  # tests and snapshots in a run


@dataclass(frozen=True)
class Choice:
    """What was chosen for a set of pictures.

    Attributes:
        size: Side of the input in pixels.
        width: Factor on the published number of channels.
        downsample: Whether the root block has stride 2.
        batch_size: Pictures per iteration, over all GPUs.
        base_lr: Learning rate at the start.
        max_iter: Iterations; 0 before the net's cost is known.
    """

    size: int
    width: float
    downsample: bool
    batch_size: int
    base_lr: float
    max_iter: int = 0


def build(
    figures: DataFigures, options: Options, minutes: float = MINUTES, fit_priors: bool = False
) -> tuple[Recipe, list[str]]:
    """Returns the recipe for someone's own pictures, and sentences that say what was chosen.

    Args:
        figures: Of the data.
        options: Where the data are (`Options.of_folder`) and the user's own settings, which win over what would be
            chosen.
        minutes: Budget of the training, in minutes of one core of a plain CPU, or of one GPU.
        fit_priors: Take the sizes of the priors from the boxes of the data.

    Raises:
        UsageError: The budget is not above 0.
        DataError: The training pictures have no boxes.
    """
    if not minutes > 0:
        raise UsageError("the budget must be above 0 minutes", code="recipe.option", found=minutes)
    if not figures.sizes:
        raise DataError("the training pictures have no boxes to choose a net by", code="data.figures")
    choice = _choose(figures, options, minutes)
    recipe = _net(choice, options)
    if options.weights is None and choice.downsample and choice.width == _START_WIDTH:
        recipe.solver.weights.append(f"{recipe.folder}/{START.name}")
    elif options.weights:
        recipe.solver.weights.append(options.weights)
    if fit_priors:
        _fit_priors(recipe, figures, choice.size)
    return recipe, [*_reasons(figures, choice, minutes, prior_shares(recipe)), _beginning(recipe)]


def prior_shares(recipe: Recipe) -> list[tuple[float, float]]:
    """Returns (width, height) of the priors of one cell of each source layer, as shares of the input's sides."""
    plan = plan_net(recipe.deploy)
    side = plan.shapes[plan.graph.inputs[0]][-1]
    sizes = np.concatenate([layer.prior_sizes() for layer in plan.layers if isinstance(layer, PriorBox)])
    return [(width, height) for width, height in (sizes / side).tolist()]


def _small_side(figures: DataFigures) -> float:
    """The side that nine in ten boxes reach, as a share of the picture's: root of width times height."""
    return float(np.quantile(np.sqrt(np.array(figures.sizes).prod(1)), 0.1))


def _choose(figures: DataFigures, options: Options, minutes: float) -> Choice:
    num_gpus = len(options.gpus or ())
    small = _small_side(figures)
    sizes: tuple[int, ...] = (300,) if num_gpus else _CPU_SIZES
    sizes = tuple(size for size in sizes if size <= max(figures.picture_size)) or sizes[:1]  # enlarging adds nothing
    size = options.size or next((size for size in sizes if small * size >= _SMALL_PX), sizes[-1])
    width = options.width or (min(1.0, max(0.25, figures.train.pictures / 4000)) if num_gpus else 0.25)
    batch = options.batch_size or 32 * num_gpus or 8
    rate = options.base_lr or _RATE * min(2.0, math.sqrt(batch / _RATE_BATCH))
    full, fast = (
        replace(choice, max_iter=options.max_iter or _iterations(figures, choice, minutes, options))
        for choice in (Choice(size, width, downsample, batch, rate) for downsample in (False, True))
    )
    can_be_full = full.max_iter * batch >= _FULL_EPOCHS * figures.train.pictures
    return full if small * size < _SMALL_PX and can_be_full else fast


def _iterations(figures: DataFigures, choice: Choice, minutes: float, options: Options) -> int:
    """The iterations that the budget allows, but no more than are of use; a multiple of the number of tests."""
    speed = _GPU_SPEED * len(options.gpus) if options.gpus else _CPU_SPEED
    macs = net_cost(plan_net(_net(choice, options).deploy)).macs
    affordable = minutes * 60 * speed / (_PASSES * macs * choice.batch_size)
    useful = _EPOCHS * figures.train.pictures / choice.batch_size
    return max(1, round(min(affordable, useful) / _TESTS)) * _TESTS


def _net(choice: Choice, options: Options) -> Recipe:
    iterations = choice.max_iter or 1
    training = Training(
        base_lr=choice.base_lr,
        stepvalue=(round(0.7 * iterations), round(0.9 * iterations)),
        max_iter=iterations,
        snapshot=max(1, iterations // _TESTS),
        test_interval=max(1, iterations // _TESTS),
        batch_size=choice.batch_size,
        gpus=(),
        display=20,
    )
    settings = replace(options, size=choice.size, width=choice.width)
    recipe = rootresnet(NAME, downsample=choice.downsample, data=VOC0712, training=training, options=settings)
    _adapt(recipe, iterations)
    return recipe


def _adapt(recipe: Recipe, iterations: int) -> None:
    """Changes what few pictures and short runs need otherwise than the paper's experiments."""
    for net in (recipe.train, recipe.test, recipe.deploy):
        for layer in net.layer:
            if layer.type == "BatchNorm":  # the averages settle within a few hundredths of the run
                layer.batch_norm_param.moving_average_fraction = round(1 - min(0.05, max(0.001, 24 / iterations)), 4)
            elif layer.type == "PriorBox":
                for sizes in (layer.prior_box_param.min_size, layer.prior_box_param.max_size):
                    sizes[:] = [float(round(size)) for size in sizes]  # Caffe would cut the digits off
            elif layer.type == "AnnotatedData" and net is recipe.train:
                # Small inputs cannot hold pictures shrunk to a quarter on gray.
                layer.transform_param.expand_param.prob = 0.2
                layer.transform_param.expand_param.max_expand_ratio = 2
            elif layer.type == "MultiBoxLoss":
                # Few boxes a picture: at 0.5 few priors match, and little is learned in a short run.
                layer.multibox_loss_param.overlap_threshold = layer.multibox_loss_param.neg_overlap = OVERLAP
    solver = recipe.solver
    solver.type, solver.momentum2, solver.delta = "Adam", 0.999, 1e-8
    solver.clip_gradients = _CLIP
    solver.random_seed = 1


def _fit_priors(recipe: Recipe, figures: DataFigures, size: int) -> None:
    """Spreads the sizes of the priors evenly over the boxes: each source layer takes the same number of them."""
    layers = [[layer for layer in net.layer if layer.type == "PriorBox"] for net in (recipe.train, recipe.test)]
    layers.append([layer for layer in recipe.deploy.layer if layer.type == "PriorBox"])
    sides = np.sqrt(np.array(figures.sizes).prod(1)) * size
    count = len(layers[0])
    edges = np.round(np.quantile(sides, np.linspace(0.02, 0.98, count + 1)))
    edges = np.maximum.accumulate(np.maximum(edges - np.arange(count + 1), 1)) + np.arange(count + 1)  # all different
    for priors in layers:
        for layer, low, high in zip(priors, edges[:-1], edges[1:], strict=True):
            layer.prior_box_param.min_size[:] = [float(low)]
            layer.prior_box_param.max_size[:] = [float(high)]


def _reasons(figures: DataFigures, choice: Choice, minutes: float, priors: list[tuple[float, float]]) -> list[str]:
    small = _small_side(figures) * choice.size
    root = "stride 2, which is four times as fast" if choice.downsample else "full resolution, for the small boxes"
    covered = best_overlaps(np.array(figures.sizes), priors)
    epochs = choice.max_iter * choice.batch_size / max(1, figures.train.pictures)
    return [
        f"input {choice.size}x{choice.size}: nine in ten boxes have sides of {small:.0f} pixels or more in it",
        f"Root-ResNet-18 at {choice.width:g} of its width; the root block has {root}",
        f"priors: {(covered >= OVERLAP).mean():.0%} of the boxes have one of their shape (IoU {OVERLAP} or more)",
        f"{choice.max_iter:,} iterations of {choice.batch_size} pictures: {epochs:.0f} passes over "
        f"{counted(figures.train.pictures, 'picture')} in about {minutes:g} minutes of one core (--minutes)",
    ]


def _beginning(recipe: Recipe) -> str:
    if not recipe.solver.weights:
        return "from scratch"
    weights = recipe.solver.weights[0]
    if Path(weights).name != START.name:
        return f"starts from {weights}"
    return f"starts from {START.name}, trained on generated shapes and blood cells (--weights '' for from scratch)"
