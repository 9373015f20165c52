"""Softmax along one axis (softmax_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.lazy import F, Tensor


@register("Softmax")
class Softmax(Layer):
    """exp(x) / sum of exp(x) along `axis` (default 1)."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.dim = self.axis(self.param.softmax_param.axis, len(bottoms[0]))
        return [bottoms[0]]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [F.softmax(bottoms[0], self.dim)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return graph.node("Softmax", bottoms, axis=self.dim)

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        return [f"F.softmax({bottoms[0]}, {self.dim})"]
