"""Normalize: L2 norm with a learned scale (normalize_layer.cpp; ParseNet, Liu et al. 2015, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pyscratchdet.layers.base import BlobSpec, Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.layers.source_text import call_text, float_text, tuple_text
from pyscratchdet.lazy import Tensor
from pyscratchdet.proto import caffe_pb2


@register("Normalize")
class Normalize(Layer):
    """y = scale * x / sqrt(sum of x^2 + eps), summed over channels and, with `across_spatial`, over all of an item.

    Bottom (N, C, ...) of two to four axes; blob `weight` is a scalar with `channel_shared`, else one per channel.
    PyTorch's F.normalize takes the larger of norm and eps instead. The gradient is the original's.
    """

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.norm_param
        if not 2 <= len(bottoms[0]) <= 4:
            raise self.fail("wrong number of axes", "rank", expected="2 to 4", found=len(bottoms[0]))
        self.eps = param.eps
        self.across_spatial = param.across_spatial
        shape = () if param.channel_shared else (bottoms[0][1],)
        filler = caffe_pb2.FillerParameter(type="constant", value=1)
        self.blobs = [BlobSpec("weight", shape, param.scale_filler if param.HasField("scale_filler") else filler)]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom, scale = bottoms[0], self.blobs[0].shape
        if not 2 <= len(bottom) <= 4:
            raise self.fail("wrong number of axes", "rank", expected="2 to 4", found=len(bottom))
        if scale and scale[0] != bottom[1]:
            raise self.fail("wrong number of channels", "channels", expected=scale[0], found=bottom[1])
        self.dims = tuple(range(1, len(bottom))) if self.across_spatial else (1,)
        self.view = (*scale, *(1,) * (len(bottom) - 2)) if scale else ()
        return [bottom]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.layers.autograd.normalize import NormalizeFunction

        return [NormalizeFunction.apply(bottoms[0], blobs[0].view(self.view), self.dims, self.eps)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        bottom = bottoms[0]
        square = graph.node("Mul", [bottom, bottom])[0]
        dims = graph.constant(np.array(self.dims, np.int64))
        total = graph.node("ReduceSum", [square, dims], keepdims=1)[0]
        total = graph.node("Add", [total, graph.constant(np.array(self.eps, np.float32))])[0]
        top = graph.node("Div", [bottom, graph.node("Sqrt", [total])[0]])[0]
        view = graph.constant(np.array(self.view, np.int64))
        return graph.node("Mul", [top, graph.node("Reshape", [blobs[0], view])[0]])

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        from pyscratchdet.layers.modules.normalize import CaffeNormalize

        module = text.module(
            call_text(
                text.part(CaffeNormalize),
                tuple_text(self.blobs[0].shape),
                tuple_text(self.view),
                dims=(tuple_text(self.dims), "(1,)"),
                eps=(float_text(self.eps), "1e-10"),
            )
        )
        return [f"{module}({bottoms[0]})"]

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 3 * math.prod(bottoms[0])
