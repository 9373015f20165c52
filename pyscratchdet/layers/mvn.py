"""MVN: mean and variance normalisation of each item (mvn_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, register
from pyscratchdet.lazy import Tensor, torch


@register("MVN")
class MVN(Layer):
    """y = (x - mean) / (sqrt(variance) + eps), or x - mean, per item and channel or `across_channels`.

    The top has four axes, as in the original. eps is added outside the root; the gradient is the original's, which
    treats the whole divisor as the root of a variance.
    """

    coordinates: ClassVar[str] = "same"
    sums_many: bool = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.mvn_param
        self.eps, self.normalize_variance = param.eps, param.normalize_variance
        self.dims = (1, 2, 3) if param.across_channels else (2, 3)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) > 4:
            raise self.fail("wrong number of axes", "rank", expected="at most 4", found=len(bottoms[0]))
        self.shape = (*bottoms[0], *(1,) * (4 - len(bottoms[0])))
        return [self.shape]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        bottom = bottoms[0].reshape(self.shape)
        centred = bottom - bottom.mean(self.dims, keepdim=True)
        if not self.normalize_variance:
            return [centred]
        variance = centred.square().mean(self.dims, keepdim=True)
        with torch.no_grad():
            rest = (variance.sqrt() + self.eps).square() - variance
        return [centred / (variance + rest).sqrt()]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        bottom, number = bottoms[0], 1
        if self.shape != graph.shape(bottom):
            bottom = graph.node("Reshape", [bottom, graph.constant(np.array([0, *self.shape[1:]], np.int64))])[0]
        for dim in self.dims:
            number *= self.shape[dim]
        centred = graph.node("Sub", [bottom, self._onnx_mean(graph, bottom, number)])
        if not self.normalize_variance:
            return centred
        variance = self._onnx_mean(graph, graph.node("Mul", centred * 2)[0], number)
        eps = graph.constant(np.array(self.eps, np.float32))
        return graph.node("Div", [*centred, graph.node("Add", [graph.node("Sqrt", [variance])[0], eps])[0]])

    def _onnx_mean(self, graph: OnnxGraph, value: str, number: int) -> str:
        total = graph.node("ReduceSum", [value, graph.constant(np.array(self.dims, np.int64))], keepdims=1)[0]
        return graph.node("Div", [total, graph.constant(np.array(number, np.float32))])[0]
