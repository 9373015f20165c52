"""Tile: a blob repeated along one axis (tile_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, register
from pyscratchdet.lazy import Tensor


@register("Tile")
class Tile(Layer):
    """`tiles` copies one after another along `axis` (default 1)."""

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.tiles = self.param.tile_param.tiles
        if self.tiles < 1:
            raise self.fail("tiles is missing", "tiles", expected="at least 1", found=self.tiles)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom = bottoms[0]
        axis = self.axis(self.param.tile_param.axis, len(bottom))
        self.repeats = [self.tiles if i == axis else 1 for i in range(len(bottom))]
        return [tuple(size * number for size, number in zip(bottom, self.repeats, strict=True))]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [bottoms[0].repeat(self.repeats)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return graph.node("Tile", [bottoms[0], graph.constant(np.array(self.repeats, np.int64))])
