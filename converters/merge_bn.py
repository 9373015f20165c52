"""Folding BatchNorm, Scale and Bias into the convolution or inner product before them, for deployment.

y = scale * (W x + b - mean) / sqrt(variance + eps) + shift is one convolution. Sums are in float64, so results differ
from the unfolded net by float32 rounding alone. What follows no convolution (pre-activation) stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyscratchdet.converters.weights import Bundle, Names, read_bundle, write_bundle
from pyscratchdet.errors import ConversionError, UsageError
from pyscratchdet.files import write_text
from pyscratchdet.layers.plan import NetFile, plan_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import to_text

HOSTS = ("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Deconvolution", "InnerProduct")
Blobs = dict[str, list[np.ndarray]]


@dataclass
class Folded:
    """A folded net.

    Attributes:
        param: Its layers.
        blobs: Its weights by layer.
        folded: Names of the layers that are gone.
        kept: BatchNorms that are still there.
    """

    param: caffe_pb2.NetParameter
    blobs: Blobs
    folded: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def merge_bn(net: caffe_pb2.NetParameter, blobs: Mapping[str, Sequence[np.ndarray]]) -> Folded:
    """Returns the net for the TEST phase without the BatchNorms, Scales and Biases that follow a convolution.

    Args:
        net: A deploy net in the latest format.
        blobs: Its weights by layer.

    Raises:
        NetError, LayerError: The net is not sound.
        ConversionError: Weights of a layer that is folded are missing.
    """
    plan = plan_net(net, caffe_pb2.TEST)
    result = Folded(caffe_pb2.NetParameter(), {name: list(arrays) for name, arrays in blobs.items()})
    result.param.CopyFrom(net)
    layers = {layer.name: layer for layer in result.param.layer}
    nodes = plan.graph.nodes
    for i, node in enumerate(nodes):
        if node.type not in HOSTS or any(spec.name for spec in node.param.param):
            continue  # weights that are shared by name belong to others too
        host, blob = layers[node.name], node.tops[0]
        for j in range(i + 1, len(nodes)):
            follower = nodes[j]
            if blob not in follower.bottoms:
                continue
            affine = _affine(follower.param, follower.bottoms, result.blobs)
            if affine is None:
                break
            _fold(host, result.blobs, *affine)
            host.top[:] = layers[follower.name].top
            result.param.layer.remove(layers[follower.name])
            result.blobs.pop(follower.name, None)
            result.folded.append(follower.name)
            blob = follower.tops[0]
    result.kept = [layer.name for layer in result.param.layer if layer.type == "BatchNorm"]
    return result


def convert_folded(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    model: str | os.PathLike[str] | None,
    prototxt: str | os.PathLike[str] | None,
    **choices: Any,
) -> Blobs:
    """Folds a net and writes it: weights to `target`, the net to `prototxt` (not needed for ONNX).

    Raises:
        UsageError: `model` or `prototxt` is missing.
        FileError, WeightsError, ConversionError: See `convert_weights`.
    """
    if model is None or (prototxt is None and not os.fspath(target).lower().endswith(".onnx")):
        raise UsageError("folding reads a net and writes one", code="convert.fold", expected="--model and --prototxt")
    names = Names(model)
    assert names.file is not None
    folded = merge_bn(names.file.param, read_bundle(source, names).blobs)
    write_bundle(target, Bundle(folded.blobs), Names(NetFile(folded.param)), **choices)
    if prototxt is not None:
        write_text(prototxt, to_text(folded.param))
    return folded.blobs


def _affine(
    layer: caffe_pb2.LayerParameter, bottoms: Sequence[int], blobs: Mapping[str, list[np.ndarray]]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns (factor, shift) per channel if the layer is such a map with constants of its own, else None."""
    if layer.type not in ("BatchNorm", "Scale", "Bias") or len(bottoms) != 1:
        return None
    if layer.type != "BatchNorm":
        param = layer.scale_param if layer.type == "Scale" else layer.bias_param
        if param.axis != 1 or param.num_axes != 1:
            return None
    elif layer.batch_norm_param.HasField("use_global_stats") and not layer.batch_norm_param.use_global_stats:
        return None
    if layer.name not in blobs:
        raise ConversionError(
            "its weights are missing", code="convert.missing", layer=layer.name, layer_type=layer.type
        )
    arrays = [array.astype(np.float64).ravel() for array in blobs[layer.name]]
    if layer.type == "Bias":
        return np.ones_like(arrays[0]), arrays[0]
    if layer.type == "Scale":
        return arrays[0], arrays[1] if len(arrays) > 1 else np.zeros_like(arrays[0])
    mean, variance, count = arrays
    inverse = 0.0 if count[0] == 0 else 1 / count[0]
    factor = 1 / np.sqrt(variance * inverse + float(np.float32(layer.batch_norm_param.eps)))
    return factor, -mean * inverse * factor


def _fold(layer: caffe_pb2.LayerParameter, blobs: Blobs, factor: np.ndarray, shift: np.ndarray) -> None:
    if layer.name not in blobs:
        raise ConversionError(
            "its weights are missing", code="convert.missing", layer=layer.name, layer_type=layer.type
        )
    weight, *rest = blobs[layer.name]
    bias = rest[0].astype(np.float64).ravel() if rest else np.zeros(factor.size)
    if layer.type == "Deconvolution":  # (in, out / group, kh, kw)
        group = layer.convolution_param.group
        grouped = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
        wide = grouped * factor.reshape(group, 1, -1, *(1,) * (weight.ndim - 2))
    elif layer.type == "InnerProduct" and layer.inner_product_param.transpose:
        wide = weight * factor
    else:
        wide = weight.reshape(factor.size, -1) * factor[:, None]
    blobs[layer.name] = [wide.reshape(weight.shape).astype(np.float32), (bias * factor + shift).astype(np.float32)]
    param = layer.inner_product_param if layer.type == "InnerProduct" else layer.convolution_param
    param.bias_term = True
