"""Flatten: several axes joined into one (flatten_layer.cpp)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.lazy import Tensor


@register("Flatten")
class Flatten(Layer):
    """Axes `axis` (default 1) to `end_axis` (default the last) become one.

    As in the original, an `end_axis` just before `axis` flattens nothing and inserts an axis of size 1 there.
    """

    moves_values: ClassVar[bool] = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.refuse_in_place()
        self.shares_data = self.shares_diff = True

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, bottom = self.param.flatten_param, bottoms[0]
        self.start, self.end = self.axis(param.axis, len(bottom)), self.axis(param.end_axis, len(bottom))
        if self.end < self.start - 1:
            raise self.fail("end_axis comes before axis", "axis", expected=f"at least {self.start - 1}", found=self.end)
        flat = math.prod(bottom[self.start : self.end + 1])
        return [(*bottom[: self.start], flat, *bottom[self.end + 1 :])]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        bottom = bottoms[0]
        return [bottom.unsqueeze(self.start) if self.end < self.start else bottom.flatten(self.start, self.end)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        after = graph.shape(bottoms[0])[self.end + 1 :]
        shape = np.array([0] * self.start + [-1, *after], np.int64)
        return graph.node("Reshape", [bottoms[0], graph.constant(shape)])

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        if self.end < self.start:
            return [f"{bottoms[0]}.unsqueeze({self.start})"]
        is_last = self.end == len(text.shape(bottoms[0])) - 1
        return [f"{bottoms[0]}.flatten({self.start}{'' if is_last else f', {self.end}'})"]
