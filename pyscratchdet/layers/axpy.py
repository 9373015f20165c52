"""Axpy, as the fork of the Squeeze-and-Excitation networks defines it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, exactly, register
from pyscratchdet.lazy import Tensor


@register("Axpy")
class Axpy(Layer):
    """a * x + y with one factor per channel: bottoms a (N, C) or (N, C, 1, 1), x and y (N, C, H, W); no parameters.

    Not in the original; it joins the channel-wise Scale and the Eltwise of a squeeze-and-excitation block
    (Hu et al., Squeeze-and-Excitation Networks, section 3).
    """

    bottoms: ClassVar[Count] = exactly(3)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        factors, x, y = bottoms
        if len(x) != 4:
            raise self.fail("the second bottom must have 4 axes", "rank", expected="(N, C, H, W)", found=x)
        if factors not in (x[:2], (*x[:2], 1, 1)):
            raise self.fail("there must be one factor per item and channel", "shape", expected=x[:2], found=factors)
        if y != x:
            raise self.fail("the last two bottoms must have the same shape", "shape", expected=x, found=y)
        return [x]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        factors, x, y = bottoms
        return [factors.reshape(*x.shape[:2], 1, 1) * x + y]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        factors, x, y = bottoms
        if len(graph.shape(factors)) == 2:
            factors = graph.node("Unsqueeze", [factors, graph.constant(np.array([2, 3], np.int64))])[0]
        return graph.node("Add", [graph.node("Mul", [factors, x])[0], y])

    def opencv_difference(self) -> str:
        return "OpenCV computes aY + X, Caffe aX + Y"
