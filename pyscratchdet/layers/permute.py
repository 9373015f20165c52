"""Permute: axes in another order (permute_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.lazy import Tensor


@register("Permute")
class Permute(Layer):
    """Top axis i is bottom axis `order[i]`; axes that are not named follow in their own order."""

    moves_values: ClassVar[bool] = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        rank, order = len(bottoms[0]), list(self.param.permute_param.order)
        if any(axis >= rank for axis in order):
            raise self.fail(
                "order names an axis that does not exist", "order", expected=f"0 to {rank - 1}", found=order
            )
        if len(set(order)) < len(order):
            raise self.fail("order names an axis twice", "order", expected="each axis once", found=order)
        self.order = tuple(order + [axis for axis in range(rank) if axis not in order])
        self.shares_data = self.shares_diff = self.order == tuple(range(rank))

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != len(self.order):
            raise self.fail("the number of axes must not change", "rank", expected=len(self.order), found=bottoms[0])
        return [tuple(bottoms[0][axis] for axis in self.order)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [bottoms[0].permute(self.order)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return graph.node("Transpose", bottoms, perm=list(self.order))

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        return [f"{bottoms[0]}.permute({', '.join(map(str, self.order))})"]
