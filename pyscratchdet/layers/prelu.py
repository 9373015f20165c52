"""PReLU: a ReLU whose negative slope is learned (prelu_layer.cpp; He et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import BlobSpec, Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.lazy import F, Tensor
from pyscratchdet.proto import caffe_pb2


@register("PReLU")
class PReLU(Layer):
    """y = max(x, 0) + slope * min(x, 0); blob `weight` has one slope per channel, or one (`channel_shared`)."""

    coordinates: ClassVar[str] = "same"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param, bottom = self.param.prelu_param, bottoms[0]
        self._check_rank(bottom)
        filler = param.filler if param.HasField("filler") else caffe_pb2.FillerParameter(type="constant", value=0.25)
        self.blobs = [BlobSpec("weight", () if param.channel_shared else (bottom[1],), filler)]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom, slopes = bottoms[0], self.blobs[0].shape
        self._check_rank(bottom)
        if slopes and slopes[0] != bottom[1]:
            raise self.fail("wrong number of channels", "channels", expected=slopes[0], found=bottom[1])
        return [bottom]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [F.prelu(bottoms[0], blobs[0])]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        ones = (1,) * (len(graph.shape(bottoms[0])) - 2)
        view = graph.constant(np.array([*(self.blobs[0].shape or (1,)), *ones], np.int64))
        return graph.node("PRelu", [bottoms[0], graph.node("Reshape", [blobs[0], view])[0]])

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        channels = self.blobs[0].shape or (1,)
        module = text.module(f"nn.PReLU({channels[0] if channels[0] > 1 else ''})", {"weight": channels})
        return [f"{module}({bottoms[0]})"]

    def _check_rank(self, bottom: Shape) -> None:
        if not 2 <= len(bottom) <= 4:
            raise self.fail("wrong number of axes", "rank", expected="2 to 4", found=len(bottom))
