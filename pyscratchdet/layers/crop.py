"""Crop: the first bottom cut to the second one's size (crop_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, SourceText, exactly, register
from pyscratchdet.lazy import Tensor


@register("Crop")
class Crop(Layer):
    """Cuts the second bottom's size out of the first from `axis` (default 2) on, at `offset` (one, or one per axis)."""

    coordinates: ClassVar[str] = "cut"
    bottoms: ClassVar[Count] = exactly(2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({1})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param, rank = self.param.crop_param, len(bottoms[0])
        number = rank - self.axis(param.axis, rank)
        if len(param.offset) not in (0, 1, number):
            expected = f"0, 1 or {number}"
            raise self.fail("wrong number of offsets", "offset", expected=expected, found=len(param.offset))

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom, size = bottoms
        start = self.axis(self.param.crop_param.axis, len(bottom))
        number = len(bottom) - start
        if len(size) < len(bottom):
            raise self.fail("the second bottom has too few axes", "rank", expected=len(bottom), found=len(size))
        offset = list(self.param.crop_param.offset) or [0]
        offset = offset * number if len(offset) == 1 else offset
        self.cuts = [(start + i, offset[i], size[start + i]) for i in range(number)]
        if any(begin + length > bottom[axis] for axis, begin, length in self.cuts):
            found = [begin + length for _, begin, length in self.cuts]
            raise self.fail(
                "the crop goes past the bottom", "bounds", expected=f"at most {bottom[start:]}", found=found
            )
        return [(*bottom[:start], *size[start : len(bottom)])]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        top = bottoms[0]
        for cut in self.cuts:
            top = top.narrow(*cut)
        return [top]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        axes, begins, lengths = (np.array(values, np.int64) for values in zip(*self.cuts, strict=True))
        return graph.node("Slice", [bottoms[0], *map(graph.constant, (begins, begins + lengths, axes))])

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        top = bottoms[0]
        for axis, begin, _ in self.cuts:
            top = f"torch.narrow({top}, {axis}, {begin}, {bottoms[1]}.shape[{axis}])"
        return [top]
