"""Reshape: the same values under another shape (reshape_layer.cpp)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.errors import counted
from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.lazy import Tensor


@register("Reshape")
class Reshape(Layer):
    """`shape` replaces `num_axes` axes (-1: all) from `axis` on; a dim of 0 is copied, and one -1 is worked out."""

    moves_values: ClassVar[bool] = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.refuse_in_place()
        self.shares_data = self.shares_diff = True
        self.dims = list(self.param.reshape_param.shape.dim)
        if self.dims.count(-1) > 1 or any(dim < -1 for dim in self.dims):
            expected = "sizes, 0 to copy, and at most one -1"
            raise self.fail("the new shape cannot be worked out", "shape", expected=expected, found=self.dims)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom = bottoms[0]
        start, end = self._range(len(bottom))
        top = [*bottom[:start], *self.dims, *bottom[end:]]
        for index, dim in enumerate(self.dims):
            if dim == 0:
                if start + index >= len(bottom):
                    expected = f"at most {counted(len(bottom) - start, 'dim')}"
                    raise self.fail("no axis to copy for a dim of 0", "shape", expected=expected, found=self.dims)
                top[start + index] = bottom[start + index]
        if -1 in self.dims:
            rest = -math.prod(top)
            if rest == 0 or math.prod(bottom) % rest:
                raise self.fail("the new dims do not divide the bottom", "shape", expected=bottom, found=self.dims)
            top[start + self.dims.index(-1)] = math.prod(bottom) // rest
        if math.prod(top) != math.prod(bottom):
            expected = counted(math.prod(bottom), "value")
            raise self.fail("the new shape has another size", "shape", expected=expected, found=math.prod(top))
        self._start = start
        is_fixed = start == 0 and bool(self.dims) and self.dims[0] > 0
        self.fixed_batch = self.dims[0] if is_fixed else None
        self.shape = tuple(top)
        return [self.shape]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [bottoms[0].reshape(self.shape)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return graph.node("Reshape", [bottoms[0], graph.constant(np.array(self._open_shape(), np.int64))])

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        shape = [str(size) for size in self._open_shape()]
        if shape[:1] == ["0"]:
            shape[0] = f"{bottoms[0]}.shape[0]"
        return [f"{bottoms[0]}.reshape({', '.join(shape) or '()'})"]

    def _open_shape(self) -> list[int]:
        """Returns the top's shape with -1 where the file has it, and 0 for a batch size that is copied, not fixed."""
        shape = list(self.shape)
        if -1 in self.dims:
            shape[self._start + self.dims.index(-1)] = -1
        if shape and (self._start > 0 or self.dims[:1] == [0]):
            shape[0] = 0
        return shape

    def _range(self, rank: int) -> tuple[int, int]:
        """Returns the first replaced axis and the one after the last; a negative `axis` may mean "after the last"."""
        param = self.param.reshape_param
        start = param.axis if param.axis >= 0 else rank + param.axis + 1
        if not 0 <= start <= rank:
            raise self.fail("axis out of range", "axis", expected=f"{-rank - 1} to {rank}", found=param.axis)
        end = rank if param.num_axes == -1 else start + param.num_axes
        if param.num_axes < -1 or end > rank:
            expected = f"0 to {rank - start}, or -1 for all"
            raise self.fail("num_axes out of range", "num-axes", expected=expected, found=param.num_axes)
        return start, end
