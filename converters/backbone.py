"""Weights of a torchvision classifier under a detector's layer names: VGG and ResNet, BatchNorm, fc6 and fc7.

One rule names every convolution of the classifier as detectors do:

    features.N          conv<stage>_<k>, counting from the last pooling
    classifier.0, .3    fc6, fc7
    conv1               conv1, stem_1
    layer<L>.<b>.conv<c>    res<L+1><block>_branch2<abc> (block a, b, c or a, b1, b2); conv<L+1>_<2b+c> behind a stem_1
    layer<L>.0.downsample.0     res<L+1>a_branch1; Convolution<L-1> behind a stem_1

and its own name. The BatchNorm and Scale after a convolution go with it. Each layer is converted exactly, or left at
its filler with the reason; where the detector's layers differ from the classifier's (stride, padding, dilation), a line
of the report says so. A BatchNorm that only the detector has starts as the identity with a scale factor of 1, so the
first batch has half of the weight.

SSD's fc6 and fc7 are convolutions of 1024 channels made from the classifier's inner products of 4096: every fourth
channel, and of the 7x7 windows every third row and column (the fully convolutional reduced VGG of DeepLab).
torchvision's classifiers take RGB / 255 divided by a standard deviation, detectors take BGR up to 255: the channels of
the first layer's weights are swapped and scaled, so that with a mean of (103.53, 116.28, 123.675) the detector sees
what the classifier saw.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pyscratchdet.converters.build import SCALE_FACTOR, NetBuilder
from pyscratchdet.converters.merge_bn import merge_bn
from pyscratchdet.errors import ConversionError, counted
from pyscratchdet.layers.base import Layer
from pyscratchdet.layers.plan import NetPlan, plan_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.weights import write_caffemodel

_STD_RGB = (0.229, 0.224, 0.225)
_BLOCK_CONV = re.compile(r"layer(\d)\.(\d+)\.conv(\d)")
_SHORTCUT = re.compile(r"layer(\d)\.0\.downsample\.0")
_REDUCED = {"fc6", "fc7"}


@dataclass
class Backbone:
    """What became of a classifier's weights.

    Attributes:
        blobs: {layer: arrays} for the detector.
        sources: {convolution of the detector: that of the classifier}.
        left: {convolution of the detector that the rule names: why it keeps its filler}.
        unused: Layers of the classifier that went nowhere.
        identities: BatchNorms that only the detector has.
        other: What the detector's layers do otherwise, one sentence each.
    """

    blobs: dict[str, list[np.ndarray]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    identities: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Returns the report."""
        names = ", ".join(self.unused) or "none"
        return [
            f"{counted(len(self.sources), 'convolution')} converted, {len(self.left)} left with filler values",
            *(f"  {layer}: {reason}" for layer, reason in self.left.items()),
            f"layers of the classifier that were not used: {names}",
            f"BatchNorms that only the detector has: {', '.join(self.identities) or 'none'}",
            *(f"the detector differs: {sentence}" for sentence in self.other),
        ]


@dataclass
class _Unit:
    """A convolution with its BatchNorm and Scale, by layer name; None where there is none."""

    conv: str
    norm: str | None
    scale: str | None


def write_backbone(source: NetBuilder, model: str | os.PathLike[str], target: str | os.PathLike[str]) -> Backbone:
    """Writes a caffemodel with the weights of a classifier under the layers of a detector.

    Args:
        source: The classifier, from `pyscratchdet.converters.torch_import`.
        model: Prototxt of the detector, without data layers (deploy).
        target: The caffemodel; atomic.

    Raises:
        ConversionError: The rule finds no layer that fits.
    """
    result, plan = convert_backbone(source, plan_net(model, caffe_pb2.TEST))
    structure = caffe_pb2.NetParameter(name=plan.graph.name)
    for node in plan.graph.nodes:
        if node.name in result.blobs:
            structure.layer.add().CopyFrom(node.param)
    write_caffemodel(target, structure, result.blobs)
    return result


def convert_backbone(source: NetBuilder, plan: NetPlan) -> tuple[Backbone, NetPlan]:
    """Returns what `write_backbone` writes, and the detector's plan."""
    given = plan_net(source.param, caffe_pb2.TEST)
    converter = _Converter(source, given, plan)
    has_stem = any(layer.name == "stem_1" for layer in plan.layers)
    units = {name: unit for unit in _units(given) for name in _names(unit.conv, given, has_stem)}
    first = next(iter(_units(given))).conv
    result = Backbone()
    for mine in _units(plan):
        theirs = units.get(mine.conv)
        if theirs is None:
            continue
        try:
            blobs = converter.convert(mine, theirs)
        except ConversionError as error:
            result.left[mine.conv] = f"{error.message} ({theirs.conv})"
            continue
        if theirs.conv == first:
            blobs[mine.conv][0] = _weight_for_bgr(blobs[mine.conv][0])
        result.blobs.update(blobs)
        result.sources[mine.conv] = theirs.conv
    if not result.sources:
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in list(result.left.items())[:2])
        raise ConversionError(
            "no layer of the detector takes this classifier's weights",
            code="backbone.layers",
            expected="VGG's or ResNet's names",
            found=reasons or ", ".join(unit.conv for unit in _units(plan)[:4]),
        )
    _add_identities(result, plan)
    used = set(result.sources.values())
    gone = [unit for unit in _units(given) if unit.conv not in used]
    result.unused = [name for unit in gone for name in (unit.conv, unit.norm) if name]
    result.other = [*converter.other, *_other_pools(given, plan, result.sources)]
    return result, plan


def take_bgr(source: NetBuilder, std: Sequence[float] = _STD_RGB) -> None:
    """Changes a classifier's first layer so that it takes BGR up to 255 less the mean, as detectors do.

    Args:
        source: The classifier; its first convolution gets other weights.
        std: What it wants red, green, blue from 0 to 1, less their mean, divided by.
    """
    first = next(layer.name for layer in source.param.layer if layer.type == "Convolution")
    weight, *bias = source.blobs[first]
    source.blobs[first] = [_weight_for_bgr(weight, std), *bias]


def _weight_for_bgr(weight: np.ndarray, std: Sequence[float] = _STD_RGB) -> np.ndarray:
    return np.ascontiguousarray((weight / (255 * np.array(std)[:, None, None]))[:, ::-1], np.float32)


def _names(conv: str, plan: NetPlan, has_stem: bool) -> list[str]:
    """Returns the names that a classifier's layer has in detectors, its own first.

    Args:
        conv: A convolution or inner product of the classifier.
        plan: The classifier.
        has_stem: Whether the detector is one of ScratchDet's residual nets, whose layers otherwise have VGG's names.
    """
    names = [conv]
    if conv.startswith("features."):
        stage, number = 1, 0
        for node in plan.graph.nodes:
            stage, number = (stage + 1, 0) if node.type == "Pooling" else (stage, number + (node.type == "Convolution"))
            if node.name == conv:
                names.append(f"conv{stage}_{number}")
    elif conv in ("classifier.0", "classifier.3"):
        names.append("fc6" if conv == "classifier.0" else "fc7")
    elif conv == "conv1":
        names.append("stem_1")
    elif match := _BLOCK_CONV.fullmatch(conv):
        level, block, number = (int(group) for group in match.groups())
        branch = f"branch2{'abc'[number - 1]}"
        blocks = {chr(ord("a") + block)} | ({f"b{block}"} if block else set())
        names += [f"res{level + 1}{letter}_{branch}" for letter in blocks]
        names += [f"conv{level + 1}_{2 * block + number}"] * has_stem
    elif match := _SHORTCUT.fullmatch(conv):
        level = int(match[1])
        names += [f"res{level + 1}a_branch1"] + [f"Convolution{level - 1}"] * has_stem
    return names


def _units(plan: NetPlan) -> list[_Unit]:
    nodes = plan.graph.nodes
    units = []
    for i, node in enumerate(nodes):
        if node.type not in ("Convolution", "InnerProduct"):
            continue
        found, blob = {}, node.tops[0]
        for follower in nodes[i + 1 :]:
            if blob in follower.bottoms:
                if follower.type not in ("BatchNorm", "Scale") or follower.type in found:
                    break
                found[follower.type], blob = follower.name, follower.tops[0]
        units.append(_Unit(node.name, found.get("BatchNorm"), found.get("Scale")))
    return units


class _Converter:
    """Makes the blobs of one layer after another."""

    def __init__(self, source: NetBuilder, given: NetPlan, plan: NetPlan) -> None:
        self.source = source
        self.folded = merge_bn(source.param, source.blobs).blobs
        self.given = {layer.name: layer for layer in given.layers}
        self.layers = {layer.name: layer for layer in plan.layers}
        self.other: list[str] = []

    def convert(self, mine: _Unit, theirs: _Unit) -> dict[str, list[np.ndarray]]:
        """Returns the blobs of a convolution, and of its BatchNorm and Scale where both sides have them.

        Raises:
            ConversionError: The detector's layer cannot compute what the classifier's does.
        """
        keeps_norm = mine.norm is not None and mine.scale is not None and theirs.norm is not None
        weight, *rest = (self.source.blobs if keeps_norm else self.folded)[theirs.conv]
        bias = rest[0] if rest else np.zeros(weight.shape[0], np.float32)
        shapes = [spec.shape for spec in self.layers[mine.conv].blobs]
        weight, bias = _reduced(weight, bias, shapes[0], mine.conv)
        has_bias = len(shapes) > 1
        result = {mine.conv: [weight, bias] if has_bias else [weight]}
        if keeps_norm:
            result.update(self._norm(mine, theirs, None if has_bias else bias))
        elif mine.norm is not None:
            result[mine.norm] = _identity(self.layers[mine.norm], np.zeros_like(bias) if has_bias else -bias)
        elif not has_bias and np.any(bias):
            raise ConversionError(
                "it has no bias, which the classifier's BatchNorm or bias needs", code="backbone.bias"
            )
        self._compare(mine.conv, theirs.conv)
        return result

    def _norm(self, mine: _Unit, theirs: _Unit, bias: np.ndarray | None) -> dict[str, list[np.ndarray]]:
        assert mine.norm is not None
        assert mine.scale is not None
        assert theirs.norm is not None
        assert theirs.scale is not None
        mean, variance, factor = self.source.blobs[theirs.norm]
        scale, shift = self.source.blobs[theirs.scale]
        norms = self.layers[mine.norm], self.given[theirs.norm]
        eps, given_eps = (float(np.float32(layer.param.batch_norm_param.eps)) for layer in norms)
        if eps != given_eps:  # the scale makes up for the difference, so that the statistics stay those of the data
            true = variance.astype(np.float64) / factor
            scale = (scale * np.sqrt((true + eps) / (true + given_eps))).astype(np.float32)
        if bias is not None:  # a convolution without the bias has a mean that is lower by it
            mean = mean - bias * np.float32(SCALE_FACTOR)
        blobs = {mine.norm: [mean, variance, factor], mine.scale: [scale, shift]}
        if len(self.layers[mine.scale].blobs) != 2:
            raise ConversionError("its Scale has no bias", code="backbone.bias")
        return blobs

    def _compare(self, mine: str, theirs: str) -> None:
        here, there = self.layers[mine], self.given[theirs]
        if "InnerProduct" in (here.type, there.type):
            return
        for what in ("stride", "pad", "dilation"):
            values = getattr(here.window, what), getattr(there.window, what)  # type: ignore[attr-defined]
            if values[0] != values[1]:
                self.other.append(f"{mine} has {what} {values[0]}, {theirs} {values[1]}")


def _add_identities(result: Backbone, plan: NetPlan) -> None:
    """Makes BatchNorms among the converted layers that have no weights yet, and the Scales after them, do nothing."""
    converted = [unit for unit in _units(plan) if unit.conv in result.sources]
    ends = {name for unit in converted for name in (unit.conv, unit.norm, unit.scale)}
    last = max(i for i, layer in enumerate(plan.layers) if layer.name in ends)
    tops: set[int] = set()
    for node, layer in list(zip(plan.graph.nodes, plan.layers, strict=True))[: last + 1]:
        if layer.type == "BatchNorm":
            if layer.name not in result.blobs:
                result.blobs[layer.name] = _identity(layer, np.zeros(layer.blobs[0].shape, np.float32))
            if result.blobs[layer.name][2][0] == 1:
                result.identities.append(layer.name)
                tops.update(node.tops)
        elif layer.type == "Scale" and tops.issuperset(node.bottoms):
            weight, *bias = (np.zeros(spec.shape, np.float32) for spec in layer.blobs)
            result.blobs[layer.name] = [weight + 1, *bias]


def _identity(norm: Layer, mean: np.ndarray) -> list[np.ndarray]:
    """Returns statistics under which a BatchNorm subtracts a mean and does nothing else."""
    eps = np.float32(norm.param.batch_norm_param.eps)
    return [mean, np.full_like(mean, 1 - eps), np.ones(1, np.float32)]


def _other_pools(given: NetPlan, plan: NetPlan, sources: dict[str, str]) -> list[str]:
    """Compares the poolings among the converted layers, in their order."""
    pools = []
    for side, names in ((given, set(sources.values())), (plan, set(sources))):
        order = [layer.name for layer in side.layers]
        end = max(order.index(name) for name in names)
        pools.append([layer for layer in side.layers[:end] if layer.type == "Pooling"])
    return [
        f"{here.name} has {what} {getattr(here, what)}, the classifier {getattr(there, what)}"
        for there, here in zip(*pools, strict=False)
        for what in ("kernel", "stride", "pad")
        if getattr(here, what) != getattr(there, what)
    ]


def _reduced(weight: np.ndarray, bias: np.ndarray, shape: tuple[int, ...], layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights of the given shape; fc6 and fc7 take channels, rows and columns at equal steps."""
    if layer in _REDUCED and weight.ndim == 2 and len(shape) == 4:
        side = round((weight.shape[1] / (shape[1] * (4 if layer == "fc7" else 1))) ** 0.5)
        weight = weight.reshape(weight.shape[0], -1, side, side)
        channels = [have // want for have, want in zip(weight.shape[:2], shape[:2], strict=True)]
        windows = [(have - 1) // max(want - 1, 1) for have, want in zip(weight.shape[2:], shape[2:], strict=True)]
        steps = [max(step, 1) for step in channels + windows]
        weight, bias = weight[tuple(slice(None, None, step) for step in steps)], bias[:: steps[0]]
    if weight.shape != shape:
        raise ConversionError(f"weights of shape {weight.shape} where {shape} is needed", code="backbone.shape")
    return weight, bias
