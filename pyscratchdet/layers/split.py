"""Split, which copies a blob to several consumers, and Silence, which consumes (split_layer.cpp, silence_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, SourceText, at_least, exactly, register
from pyscratchdet.lazy import Tensor


@register("Split")
class Split(Layer):
    """Every top is the bottom; gradients add up. Tops are tensors of their own, so that each has a gradient."""

    coordinates: ClassVar[str] = "same"
    copies_bottom = True
    tops: ClassVar[Count] = at_least(1)

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.refuse_in_place()
        self.shares_data = True

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0]] * self.num_tops

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [bottoms[0].view_as(bottoms[0]) for _ in range(self.num_tops)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return [bottoms[0]] * self.num_tops

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        return [bottoms[0]] * self.num_tops


@register("Silence")
class Silence(Layer):
    """Takes bottoms so that they are not outputs of the net; it has no tops."""

    bottoms: ClassVar[Count] = at_least(1)
    tops: ClassVar[Count] = exactly(0)
    only_silences: ClassVar[bool] = True

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return []

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return []

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return []

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        return []
