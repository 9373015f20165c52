"""Flatten: several axes made one (flatten_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, register
from pyscratchdet.lazy import Tensor


@register("Flatten")
class Flatten(Layer):
    """Axes `axis` (default 1) to `end_axis` (default the last) become one."""

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.refuse_in_place()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, bottom = self.param.flatten_param, bottoms[0]
        self.start, self.end = self.axis(param.axis, len(bottom)), self.axis(param.end_axis, len(bottom))
        if self.end < self.start:
            raise self.fail("end_axis comes before axis", "axis", expected=f"at least {self.start}", found=self.end)
        size = 1
        for dim in bottom[self.start : self.end + 1]:
            size *= dim
        return [(*bottom[: self.start], size, *bottom[self.end + 1 :])]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [bottoms[0].flatten(self.start, self.end)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        after = graph.shape(bottoms[0])[self.end + 1 :]
        shape = np.array([0] * self.start + [-1, *after], np.int64)
        return graph.node("Reshape", [bottoms[0], graph.constant(shape)])
