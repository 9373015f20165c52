"""InnerProduct and Embed (inner_product_layer.cpp, embed_layer.cpp)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import BlobSpec, Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.layers.source_text import call_text
from pyscratchdet.lazy import F, Tensor


@register("InnerProduct")
class InnerProduct(Layer):
    """The axes from `axis` (default 1) on, as one vector of K values, times `weight`, plus `bias`.

    The weight is (num_output, K), or (K, num_output) with `transpose`.
    """

    settings: ClassVar[str] = "inner_product_param"
    sums_many: bool = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.inner_product_param
        if param.num_output < 1:
            raise self.fail("num_output is missing", "num-output", expected="at least 1", found=param.num_output)
        self.num_output = param.num_output
        self.transpose = param.transpose
        self.size = self._size(bottoms[0])
        shape = (self.size, self.num_output) if self.transpose else (self.num_output, self.size)
        self.blobs = [BlobSpec("weight", shape, param.weight_filler)]
        if param.bias_term:
            self.blobs.append(BlobSpec("bias", (self.num_output,), param.bias_filler))

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        size = self._size(bottoms[0])
        if size != self.size:
            raise self.fail("the bottom does not fit the weights", "size", expected=self.size, found=size)
        return [(*bottoms[0][: self.first], self.num_output)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        weight = blobs[0].t() if self.transpose else blobs[0]
        return [F.linear(bottoms[0].flatten(self.first), weight, blobs[1] if len(blobs) > 1 else None)]

    def scaled_weight(self, weight: np.ndarray, factor: np.ndarray) -> np.ndarray | None:
        if self.first != 1:  # outputs are the last axis, channels are axis 1
            return None
        return weight * (factor if self.transpose else factor[:, None])

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        if self.first == 1:
            flat = graph.node("Flatten", bottoms, axis=1)[0]
            return graph.node("Gemm", [flat, *blobs], transB=int(not self.transpose))
        shape = graph.constant(np.array([0] * self.first + [self.size], np.int64))
        flat = graph.node("Reshape", [bottoms[0], shape])[0]
        weight = blobs[0] if self.transpose else graph.node("Transpose", [blobs[0]], perm=[1, 0])[0]
        top = graph.node("MatMul", [flat, weight])
        return graph.node("Add", [top[0], blobs[1]]) if len(blobs) > 1 else top

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        if self.transpose:
            raise self.no_torch_source("nn.Linear has no transposed weight")
        bias = str(len(self.blobs) > 1), "True"
        module = text.module(call_text("nn.Linear", str(self.size), str(self.num_output), bias=bias))
        return [f"{module}({bottoms[0]}.flatten({self.first}))"]

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(tops[0]) * self.size

    def _size(self, bottom: Shape) -> int:
        self.first = self.axis(self.param.inner_product_param.axis, len(bottom))
        return math.prod(bottom[self.first :])


@register("Embed")
class Embed(Layer):
    """Row x of `weight` (input_dim, num_output) for each whole number x of the bottom, plus `bias`."""

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.embed_param
        for name in ("num_output", "input_dim"):
            if getattr(param, name) < 1:
                raise self.fail(f"{name} is missing", name.replace("_", "-"), expected="at least 1", found=0)
        self.blobs = [BlobSpec("weight", (param.input_dim, param.num_output), param.weight_filler)]
        if param.bias_term:
            self.blobs.append(BlobSpec("bias", (param.num_output,), param.bias_filler))

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(*bottoms[0], self.param.embed_param.num_output)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        index, number = bottoms[0].long(), blobs[0].shape[0]
        if index.numel() and (int(index.min()) < 0 or int(index.max()) >= number):
            found = f"{int(index.min())} to {int(index.max())}"
            raise self.fail("an index is out of range", "index", expected=f"0 to {number - 1}", found=found)
        top = F.embedding(index, blobs[0])
        return [top + blobs[1] if len(blobs) > 1 else top]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        from onnx import TensorProto

        index = graph.node("Cast", bottoms, to=TensorProto.INT64)[0]
        top = graph.node("Gather", [blobs[0], index], axis=0)
        return graph.node("Add", [top[0], blobs[1]]) if len(blobs) > 1 else top
