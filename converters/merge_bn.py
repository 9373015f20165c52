"""Folding BatchNorm, Scale and Bias into the convolution or inner product before them, for deployment.

y = scale * (W x + b - mean) / sqrt(variance + eps) + shift is one convolution. Sums are in float64, so results differ
from the unfolded net by float32 rounding alone. Layers that do not follow a convolution (pre-activation) stay as they
are, and so do those that share weights or whose bottom has other readers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyscratchdet.errors import ConversionError
from pyscratchdet.layers.base import Layer
from pyscratchdet.layers.plan import NetPlan, plan_net
from pyscratchdet.net import Node
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.upgrade import upgrade_net

Blobs = dict[str, list[np.ndarray]]


@dataclass
class Folded:
    """A folded net.

    Attributes:
        param: Its layers.
        blobs: Its weights by layer.
        folded: Names of the layers that are gone.
        kept: BatchNorms that are still there.
        left_out: Layers with weights that are not in the TEST net.
    """

    param: caffe_pb2.NetParameter
    blobs: Blobs
    folded: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def merge_bn(net: caffe_pb2.NetParameter, blobs: Mapping[str, Sequence[np.ndarray]]) -> Folded:
    """Returns the net of the TEST phase without the BatchNorms, Scales and Biases that follow a convolution.

    Args:
        net: A net; layers that are not in its TEST phase are left out.
        blobs: Its weights by layer.

    Raises:
        NetError, LayerError: The net is not valid.
        ConversionError: Weights of a layer that is folded are missing, or do not fit.
    """
    net = upgrade_net(net)
    plan = plan_net(net, caffe_pb2.TEST)
    folding = _Folding(plan, blobs)
    for index in range(len(plan.layers)):
        folding.fill(index)
    param = caffe_pb2.NetParameter()
    param.CopyFrom(net)
    del param.layer[:]
    for index, node in enumerate(plan.graph.nodes):
        if node.index >= 0 and index not in folding.gone:
            param.layer.add().CopyFrom(net.layer[node.index])
            if index in folding.tops:
                layer = param.layer[-1]
                layer.top[:] = folding.tops[index]
                getattr(layer, plan.layers[index].settings).bias_term = True
    names = {layer.name for layer in param.layer}
    gone = [plan.layers[index].name for index in sorted(folding.gone)]
    return Folded(
        param,
        {name: arrays for name, arrays in folding.blobs.items() if name in names},
        folded=gone,
        kept=[layer.name for layer in param.layer if layer.type == "BatchNorm"],
        left_out=[name for name in blobs if name not in names and name not in gone],
    )


class _Folding:
    """Folds the layers of a net into the ones before them.

    Attributes:
        blobs: Weights by layer.
        gone: Indices of the layers that were folded.
        tops: Index of a layer that others were folded into -> its tops.
    """

    def __init__(self, plan: NetPlan, blobs: Mapping[str, Sequence[np.ndarray]]) -> None:
        self.plan = plan
        self.blobs: Blobs = {name: list(arrays) for name, arrays in blobs.items()}
        self.gone: set[int] = set()
        self.tops: dict[int, list[str]] = {}
        self._names = Counter(node.name for node in plan.graph.nodes)

    def fill(self, index: int) -> None:
        """Folds into a layer what follows it, if it is of a type that others can be folded into."""
        node, layer = self.plan.graph.nodes[index], self.plan.layers[index]
        if not layer.settings or not self._is_free(node):
            return
        blob = node.tops[0]
        arrays: list[np.ndarray] | None = None
        for j in range(index + 1, len(self.plan.layers)):
            follower = self.plan.graph.nodes[j]
            if blob not in follower.bottoms:
                continue
            affine = self._affine(j)
            if affine is None:
                return
            arrays = layer.fold(arrays or self._arrays(layer), *affine)
            if arrays is None:
                return
            self.blobs[node.name] = [array.astype(np.float32) for array in arrays]
            self.gone.add(j)
            self.tops[index] = list(follower.param.top)
            blob = follower.tops[0]

    def _is_free(self, node: Node) -> bool:
        """Whether a layer has one top that is not a loss, and weights of its own: found by its name and not shared.

        A top with several readers is read by a Split alone, which ends the folding by itself.
        """
        one_each = len(node.bottoms) == len(node.tops) == 1 and not any(node.loss_weights)
        return one_each and self._names[node.name] == 1 and not any(spec.name for spec in node.param.param)

    def _affine(self, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns factor and summand of a layer that may be folded, else None."""
        layer, node = self.plan.layers[index], self.plan.graph.nodes[index]
        if not self._is_free(node):
            return None
        (bottom,) = self.plan.bottom_shapes(index)
        if layer.affine(bottom, [np.zeros(spec.shape) for spec in layer.blobs]) is None:
            return None  # whatever its weights are; it may have none
        return layer.affine(bottom, self._arrays(layer))

    def _arrays(self, layer: Layer) -> list[np.ndarray]:
        return layer_arrays(layer, self.blobs)


def layer_arrays(layer: Layer, blobs: Mapping[str, Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Returns the weights of a layer in its shapes.

    Args:
        layer: A layer whose shapes are known.
        blobs: Weights by layer.

    Raises:
        ConversionError: They are missing or do not fit.
    """
    details: dict[str, Any] = {"layer": layer.name, "layer_type": layer.param.type}
    arrays, shapes = blobs.get(layer.name), [spec.shape for spec in layer.blobs]
    if not arrays:
        raise ConversionError("its weights are missing", code="convert.missing", **details)
    if [array.size for array in arrays] != [int(np.prod(shape)) for shape in shapes]:
        found = [array.shape for array in arrays]
        raise ConversionError("its weights do not fit", code="convert.shape", expected=shapes, found=found, **details)
    return [array.reshape(shape) for array, shape in zip(arrays, shapes, strict=True)]
