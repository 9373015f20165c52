"""Dropout (dropout_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.layers.source_text import float_text
from pyscratchdet.lazy import F, Tensor, torch


@register("Dropout")
class Dropout(Layer):
    """In TRAIN each value is 0 with probability `dropout_ratio`, else divided by 1 - ratio; in TEST nothing changes.

    On the CPU the mask is the one the original draws from the net's random stream; elsewhere PyTorch draws it.
    """

    coordinates: ClassVar[str] = "same"
    copies_bottom: ClassVar[bool] = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.ratio = self.param.dropout_param.dropout_ratio
        if not 0 <= self.ratio < 1:
            raise self.fail("dropout_ratio out of range", "ratio", expected="0 <= ratio < 1", found=self.ratio)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0]]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        bottom = bottoms[0]
        if not self.context.is_train:
            return [bottom.view_as(bottom)]
        if bottom.device.type != "cpu":
            return [F.dropout(bottom, self.ratio)]
        mask = torch.from_numpy(self.context.random.bernoulli(1 - self.ratio, bottom.numel())).view(bottom.shape)
        return [bottom * (mask.to(bottom.dtype) * (1 / (1 - self.ratio)))]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        if self.context.is_train:
            return super().onnx(graph, bottoms, blobs)
        return graph.node("Identity", bottoms)

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        return [f"F.dropout({bottoms[0]}, {float_text(self.ratio)}, self.training)"]
