"""ReLU, leaky where `negative_slope` is set (relu_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.layers.source_text import float_text
from pyscratchdet.lazy import F, Tensor, torch


@register("ReLU")
class ReLU(Layer):
    """y = max(x, 0) + negative_slope * min(x, 0); any shape."""

    coordinates: ClassVar[str] = "same"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.negative_slope = self.param.relu_param.negative_slope

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0]]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        if self.negative_slope == 0:
            return [F.relu(bottoms[0])]
        return [F.leaky_relu(bottoms[0], self.negative_slope)]

    def write_over(self, bottom: Tensor) -> Tensor | None:
        return None if self.negative_slope else torch.relu_(bottom)

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        if self.negative_slope == 0:
            return graph.node("Relu", bottoms)
        return graph.node("LeakyRelu", bottoms, alpha=self.negative_slope)

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        if self.negative_slope == 0:
            return [f"F.relu({bottoms[0]})"]
        return [f"F.leaky_relu({bottoms[0]}, {float_text(self.negative_slope)})"]
