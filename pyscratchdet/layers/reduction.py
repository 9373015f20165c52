"""Reduction of the last axes to one value (reduction_layer.cpp)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, register
from pyscratchdet.lazy import Tensor
from pyscratchdet.proto import caffe_pb2

ASUM = caffe_pb2.ReductionParameter.ASUM
SUMSQ = caffe_pb2.ReductionParameter.SUMSQ
MEAN = caffe_pb2.ReductionParameter.MEAN


@register("Reduction")
class Reduction(Layer):
    """`coeff` times SUM, ASUM (of absolute values), SUMSQ (of squares) or MEAN over all axes from `axis` on."""

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.operation = self.param.reduction_param.operation

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, bottom = self.param.reduction_param, bottoms[0]
        self.first = self.axis(param.axis, len(bottom))
        number = math.prod(bottom[self.first :])
        if self.operation == MEAN and number == 0:
            raise self.fail(
                "there are no values to take the mean of", "shape", expected="at least one value", found=bottom
            )
        self.coeff = param.coeff / number if self.operation == MEAN else param.coeff
        return [bottom[: self.first]]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        values = bottoms[0].flatten(self.first)
        if self.operation == ASUM:
            values = values.abs()
        elif self.operation == SUMSQ:
            values = values.square()
        return [values.sum(-1) * self.coeff]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        values = list(bottoms)
        if self.operation == ASUM:
            values = graph.node("Abs", values)
        elif self.operation == SUMSQ:
            values = graph.node("Mul", values * 2)
        if self.operation == MEAN and self.first == 0:  # over items too, however many there are
            coeff = graph.constant(np.array(self.param.reduction_param.coeff, np.float32))
            return graph.node("Mul", [*graph.node("ReduceMean", values, keepdims=0), coeff])
        axes = graph.constant(np.arange(self.first, len(graph.shape(bottoms[0])), dtype=np.int64))
        total = graph.node("ReduceSum", [*values, axes], keepdims=0)
        return graph.node("Mul", [*total, graph.constant(np.array(self.coeff, np.float32))])
