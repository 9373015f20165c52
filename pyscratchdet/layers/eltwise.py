"""Eltwise: sum with coefficients, product, maximum of blobs of one shape (eltwise_layer.cpp)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, SourceText, at_least, register
from pyscratchdet.layers.source_text import call_text, float_text, joined_text
from pyscratchdet.lazy import Tensor, torch
from pyscratchdet.proto import caffe_pb2

SUM = caffe_pb2.EltwiseParameter.SUM
PROD = caffe_pb2.EltwiseParameter.PROD
MAX = caffe_pb2.EltwiseParameter.MAX


@register("Eltwise")
class Eltwise(Layer):
    """SUM of coeff_i * x_i, PROD, or MAX; where MAX has equals, the gradient goes where the original sends it.

    That is the second of the first two bottoms; after that an earlier bottom wins over a later one. Only SUM has
    coefficients. `stable_prod_grad` changes nothing here: the gradient never divides by a bottom.
    """

    coordinates: ClassVar[str] = "same"
    bottoms: ClassVar[Count] = at_least(2)

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.eltwise_param
        self.operation = param.operation
        self.coeff = list(param.coeff)
        if len(self.coeff) not in (0, len(bottoms)):
            expected = f"0 or {len(bottoms)}"
            raise self.fail("one coefficient per bottom is needed", "coeff", expected=expected, found=len(self.coeff))
        if self.coeff and self.operation == PROD:
            raise self.fail("only SUM takes coefficients", "coeff", expected="none", found=self.coeff)
        if all(value == 1 for value in self.coeff):
            self.coeff = []

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if any(bottom != bottoms[0] for bottom in bottoms):
            raise self.fail("bottoms differ in shape", "shape", expected=bottoms[0], found=list(bottoms[1:]))
        return [bottoms[0]]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.layers.modules.maximum import caffe_maximum

        if self.operation == PROD:
            return [functools.reduce(torch.mul, bottoms)]
        if self.operation == MAX:
            return [caffe_maximum(*bottoms)]
        if not self.coeff:
            return [functools.reduce(torch.add, bottoms)]
        top = bottoms[0] * self.coeff[0]
        for bottom, coeff in zip(bottoms[1:], self.coeff[1:], strict=True):
            top = torch.add(top, bottom, alpha=coeff)
        return [top]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        if self.operation == PROD:
            return [functools.reduce(lambda left, right: graph.node("Mul", [left, right])[0], bottoms)]
        terms = list(bottoms)
        if self.operation == SUM and self.coeff:
            scales = [graph.constant(np.array(value, np.float32)) for value in self.coeff]
            terms = [graph.node("Mul", [term, scale])[0] for term, scale in zip(terms, scales, strict=True)]
        return graph.node("Sum" if self.operation == SUM else "Max", terms)

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        from pyscratchdet.layers.modules.maximum import caffe_maximum

        if self.operation == PROD:
            return [joined_text("*", "torch.mul", bottoms)]
        if self.operation == MAX:
            return [call_text(text.part(caffe_maximum), *bottoms)]
        if not self.coeff:
            return [joined_text("+", "torch.add", bottoms)]
        top = f"{bottoms[0]} * {float_text(self.coeff[0])}"
        for bottom, coeff in zip(bottoms[1:], self.coeff[1:], strict=True):
            top = f"torch.add({top}, {bottom}, alpha={float_text(coeff)})"
        return [top]
