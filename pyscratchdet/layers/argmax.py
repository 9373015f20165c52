"""ArgMax: the places of the largest values (argmax_layer.cpp)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, register
from pyscratchdet.lazy import Tensor, torch


@register("ArgMax")
class ArgMax(Layer):
    """The places of the `top_k` largest values along `axis`, or of each item, as floats; of equals, last first.

    With `axis`: the bottom's shape with top_k at that axis, holding places, or values with `out_max_val`. Without
    `axis`: (N, 1, top_k), then axes of size 1 up to the bottom's number of axes; with `out_max_val` (N, 2, top_k),
    places then values. No gradient. PyTorch's argmax takes the first of equal values.
    """

    no_gradient: ClassVar[frozenset[int]] = frozenset({0})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param, bottom = self.param.argmax_param, bottoms[0]
        self.top_k, self.with_values = param.top_k, param.out_max_val
        self.has_axis = param.HasField("axis")
        if not bottom:
            raise self.fail("wrong number of axes", "rank", expected="at least 1", found=0)
        self.dim = self.axis(param.axis, len(bottom)) if self.has_axis else 1
        self._check_top_k(bottom)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom = bottoms[0]
        self._check_top_k(bottom)
        if self.has_axis:
            self.shape = (*bottom[: self.dim], self.top_k, *bottom[self.dim + 1 :])
        else:
            self.shape = (bottom[0], 2 if self.with_values else 1, self.top_k, *(1,) * (len(bottom) - 3))
        return [self.shape]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        bottom = bottoms[0].detach()
        values = bottom if self.has_axis else bottom.reshape(len(bottom), self._size(bottom.shape))
        # A stable sort of the reversed axis puts the later of two equals first.
        ordered, places = values.flip(self.dim).sort(dim=self.dim, descending=True, stable=True)
        ordered = ordered.narrow(self.dim, 0, self.top_k)
        places = (values.shape[self.dim] - 1 - places.narrow(self.dim, 0, self.top_k)).to(bottom.dtype)
        if self.has_axis:
            return [ordered if self.with_values else places]
        return [(torch.cat([places, ordered], 1) if self.with_values else places).view(self.shape)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        from onnx import TensorProto

        bottom, size = bottoms[0], self._size(graph.shape(bottoms[0]))
        if not self.has_axis:
            bottom = graph.node("Flatten", [bottom], axis=1)[0]
        reverse = [graph.constant(np.array([value], np.int64)) for value in (-1, np.iinfo(np.int64).min, self.dim, -1)]
        number = graph.constant(np.array([self.top_k], np.int64))
        reversed_ = graph.node("Slice", [bottom, *reverse])[0]
        ordered, places = graph.node("TopK", [reversed_, number], num_outputs=2, axis=self.dim)
        places = graph.node("Sub", [graph.constant(np.array(size - 1, np.int64)), places])[0]
        places = graph.node("Cast", [places], to=TensorProto.FLOAT)[0]
        if self.has_axis:
            return [ordered if self.with_values else places]
        top = graph.node("Concat", [places, ordered], axis=1)[0] if self.with_values else places
        return graph.node("Reshape", [top, graph.constant(np.array([0, *self.shape[1:]], np.int64))])

    def _size(self, bottom: Shape) -> int:
        return bottom[self.dim] if self.has_axis else math.prod(bottom[1:])

    def _check_top_k(self, bottom: Shape) -> None:
        if not 1 <= self.top_k <= self._size(bottom):
            raise self.fail("top_k out of range", "top-k", expected=f"1 to {self._size(bottom)}", found=self.top_k)
