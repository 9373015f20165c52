"""What a net costs: parameters, multiply-accumulates and memory of each layer, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyscratchdet.layers.base import Shape
from pyscratchdet.layers.plan import NetPlan


@dataclass(frozen=True)
class LayerCost:
    """One layer's share.

    Attributes:
        name: The layer's name.
        type: Its Caffe type.
        tops: Shapes of its tops.
        blobs: Shapes of its blobs of weights.
        num_parameters: Values in its blobs that are learned.
        num_statistics: Values in its blobs that the forward pass updates (BatchNorm).
        macs: Multiply-accumulates of one forward pass.
        memory: Bytes of the tops that have memory of their own, in float32; 0 for a layer that works in place.
    """

    name: str
    type: str
    tops: tuple[Shape, ...]
    blobs: tuple[Shape, ...]
    num_parameters: int
    num_statistics: int
    macs: int
    memory: int


@dataclass(frozen=True)
class NetCost:
    """A whole net: its layers without inserted Splits, and the sums."""

    layers: tuple[LayerCost, ...]

    @property
    def num_parameters(self) -> int:
        """Returns the number of learned values; shared values count once for each layer."""
        return sum(layer.num_parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Returns the multiply-accumulates of one forward pass."""
        return sum(layer.macs for layer in self.layers)

    @property
    def memory(self) -> int:
        """Returns the bytes of all blobs between layers in float32."""
        return sum(layer.memory for layer in self.layers)


def net_cost(plan: NetPlan) -> NetCost:
    """Returns the costs of a planned net at its present shapes."""
    costs = []
    seen: set[int] = set()
    for index, (node, layer) in enumerate(zip(plan.graph.nodes, plan.layers, strict=True)):
        if layer.copies_bottom and layer.shares_data:  # Split: a consumer of a copy reads the same blob
            seen.update(node.tops)
            continue
        tops = plan.top_shapes[index]
        own = [shape for blob, shape in zip(node.tops, tops, strict=True) if blob not in seen]
        in_place = set(node.tops) & set(node.bottoms)
        memory = 0 if in_place else 4 * sum(math.prod(shape) for shape in own)
        seen.update(node.tops)
        bottoms = [plan.shapes[blob] for blob in node.bottoms]
        learned = [math.prod(blob.shape) for blob in layer.blobs if not blob.is_statistic]
        measured = [math.prod(blob.shape) for blob in layer.blobs if blob.is_statistic]
        costs.append(
            LayerCost(
                node.name,
                node.type,
                tuple(tops),
                tuple(blob.shape for blob in layer.blobs),
                sum(learned),
                sum(measured),
                layer.macs(bottoms, tops),
                memory,
            )
        )
    return NetCost(tuple(costs))
