"""Weights of an ImageNet VGG for a detector's backbone: layer names, BatchNorm where either side has it, fc6 and fc7.

SSD's fc6 and fc7 are convolutions of 1024 channels made from the classifier's inner products of 4096: every fourth
channel, and of the 7x7 windows every third row and column (the fully convolutional reduced VGG of DeepLab).
torchvision's classifiers take RGB / 255 over a standard deviation, detectors BGR up to 255: the first layer's weights
are swapped and scaled, so that a mean of (103.53, 116.28, 123.675) gives what the classifier saw.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np

from converters.build import SCALE_FACTOR, NetBuilder
from converters.merge_bn import Folded, merge_bn
from pyscratchdet.errors import ConversionError
from pyscratchdet.layers.plan import NetPlan, plan_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.weights import write_caffemodel

_BACKBONE = re.compile(r"conv[1-5]_[1-3]|fc[67]")


_STD_RGB = np.array([0.229, 0.224, 0.225])


@dataclass
class _Unit:
    """A convolution with its BatchNorm and Scale, by layer name; None where there is none."""

    conv: str
    norm: str | None
    scale: str | None


def write_backbone(
    source: NetBuilder, model: str | os.PathLike[str], target: str | os.PathLike[str]
) -> dict[str, list[np.ndarray]]:
    """Writes a caffemodel with the weights of a VGG classifier under the layers of a detector.

    Args:
        source: The classifier, from `converters.torch_import`.
        model: Prototxt of the detector, without data layers (deploy).
        target: The caffemodel; atomic.

    Returns:
        {layer: blobs} of what was written.

    Raises:
        ConversionError: The two do not fit.
    """
    plan = plan_net(model, caffe_pb2.TEST)
    wanted, given = _units(plan, _BACKBONE), _units(plan_net(source.param, caffe_pb2.TEST), None)
    shapes = {layer.name: [spec.shape for spec in layer.blobs] for layer in plan.layers}
    if not wanted or len(wanted) > len(given):
        raise ConversionError(
            "not a backbone of this kind", code="backbone.layers", expected=f"{len(given)} layers", found=len(wanted)
        )
    plain = merge_bn(source.param, source.blobs)
    blobs: dict[str, list[np.ndarray]] = {}
    for mine, theirs in zip(wanted, given, strict=False):
        blobs.update(_converted(mine, theirs, source, plain, shapes))
    first = blobs[wanted[0].conv]
    first[0] = (first[0] / (255 * _STD_RGB[:, None, None]))[:, ::-1].astype(np.float32)
    structure = caffe_pb2.NetParameter(name=plan.graph.name)
    for node in plan.graph.nodes:
        if node.name in blobs:
            structure.layer.add().CopyFrom(node.param)
    write_caffemodel(target, structure, blobs)
    return blobs


def _units(plan: NetPlan, names: re.Pattern[str] | None) -> list[_Unit]:
    nodes = plan.graph.nodes
    units = []
    for i, node in enumerate(nodes):
        if node.type not in ("Convolution", "InnerProduct") or (names and not names.fullmatch(node.name)):
            continue
        found, blob = {}, node.tops[0]
        for follower in nodes[i + 1 :]:
            if blob in follower.bottoms:
                if follower.type not in ("BatchNorm", "Scale") or follower.type in found:
                    break
                found[follower.type], blob = follower.name, follower.tops[0]
        units.append(_Unit(node.name, found.get("BatchNorm"), found.get("Scale")))
    return units


def _converted(
    mine: _Unit, theirs: _Unit, source: NetBuilder, plain: Folded, shapes: dict[str, list[tuple[int, ...]]]
) -> dict[str, list[np.ndarray]]:
    keeps_norm = mine.norm is not None and mine.scale is not None and theirs.norm is not None
    weight, *rest = (source.blobs if keeps_norm else plain.blobs)[theirs.conv]
    bias = rest[0] if rest else np.zeros(weight.shape[0], np.float32)
    weight, bias = _reduced(weight, bias, shapes[mine.conv][0], mine.conv)
    has_bias = len(shapes[mine.conv]) > 1
    result = {mine.conv: [weight, bias] if has_bias else [weight]}
    if keeps_norm:
        assert mine.norm is not None
        assert mine.scale is not None
        assert theirs.norm is not None
        assert theirs.scale is not None
        mean, variance, factor = source.blobs[theirs.norm]
        if not has_bias:  # normalising takes a bias away again: the mean carries it
            mean = mean - bias * np.float32(SCALE_FACTOR)
        result[mine.norm] = [mean, variance, factor]
        result[mine.scale] = source.blobs[theirs.scale]
    elif not has_bias and np.any(bias):
        raise ConversionError(
            "the detector's layer has no bias", code="backbone.bias", layer=mine.conv, hint="take a VGG with BatchNorm"
        )
    return result


def _reduced(weight: np.ndarray, bias: np.ndarray, shape: tuple[int, ...], layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights of a shape, by leaving out channels, rows and columns at equal steps where fewer are wanted."""
    if weight.ndim == 2:
        side = round((weight.shape[1] / (shape[1] * (4 if layer == "fc7" else 1))) ** 0.5)
        weight = weight.reshape(weight.shape[0], -1, side, side)
    if weight.shape != shape:
        channels = [have // want for have, want in zip(weight.shape[:2], shape[:2], strict=True)]
        windows = [(have - 1) // max(want - 1, 1) for have, want in zip(weight.shape[2:], shape[2:], strict=True)]
        steps = channels + windows
        weight = weight[tuple(slice(None, None, max(step, 1)) for step in steps)]
        bias = bias[:: max(steps[0], 1)]
    if weight.shape != shape:
        raise ConversionError(
            "shapes do not fit", code="backbone.shape", layer=layer, expected=shape, found=weight.shape
        )
    return weight, bias
