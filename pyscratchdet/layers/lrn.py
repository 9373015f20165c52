"""LRN: local response normalisation across channels or within one (lrn_layer.cpp; Krizhevsky et al. 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.layers.source_text import float_text
from pyscratchdet.lazy import F, Tensor
from pyscratchdet.proto import caffe_pb2


@register("LRN")
class LRN(Layer):
    """y = x / (k + alpha / size * sum of x^2 over `local_size` channels)^beta.

    WITHIN_CHANNEL: y = x / (1 + alpha * mean of x^2 over a square window, zeros outside)^beta; k is not used.
    """

    coordinates: ClassVar[str] = "same"
    sums_many: bool = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.lrn_param
        self.size, self.alpha, self.beta, self.k = param.local_size, param.alpha, param.beta, param.k
        self.within = param.norm_region == caffe_pb2.LRNParameter.WITHIN_CHANNEL
        if self.size % 2 == 0:
            raise self.fail("local_size must be odd", "size", expected="an odd number", found=self.size)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise self.fail("wrong number of axes", "rank", expected="4: N, C, H, W", found=len(bottoms[0]))
        if min(bottoms[0][1:]) < 1:
            raise self.fail(
                "the bottom is empty", "empty", expected="channels and sizes of at least 1", found=bottoms[0]
            )
        return [bottoms[0]]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        bottom = bottoms[0]
        if not self.within:
            return [F.local_response_norm(bottom, self.size, self.alpha, self.beta, self.k)]
        from pyscratchdet.layers.modules.lrn import local_norm_within_channel

        return [local_norm_within_channel(bottom, self.size, self.alpha, self.beta)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        if not self.within:
            return graph.node("LRN", bottoms, size=self.size, alpha=self.alpha, beta=self.beta, bias=self.k)
        square = graph.node("Mul", [bottoms[0], bottoms[0]])
        pads = [(self.size - 1) // 2] * 4
        mean = graph.node("AveragePool", square, kernel_shape=[self.size] * 2, pads=pads, count_include_pad=1)[0]
        alpha, one, beta = (graph.constant(np.array(value, np.float32)) for value in (self.alpha, 1, self.beta))
        scale = graph.node("Add", [graph.node("Mul", [mean, alpha])[0], one])[0]
        return graph.node("Div", [bottoms[0], graph.node("Pow", [scale, beta])[0]])

    def opencv_difference(self) -> str:
        return "OpenCV ignores k" if self.k != 1 else ""

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        bottom, alpha, beta = bottoms[0], float_text(self.alpha), float_text(self.beta)
        if not self.within:
            return [f"F.local_response_norm({bottom}, {self.size}, {alpha}, {beta}, {float_text(self.k)})"]
        from pyscratchdet.layers.modules.lrn import local_norm_within_channel

        return [f"{text.part(local_norm_within_channel)}({bottom}, {self.size}, {alpha}, {beta})"]
