"""Reorg: blocks of pixels become channels, in the order of Darknet's YOLO v2 (reorg_layer.cpp of MobileNet-YOLO)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, register
from pyscratchdet.lazy import Tensor


@register("Reorg")
class Reorg(Layer):
    """(N, C, H, W) becomes (N, C * s * s, H / s, W / s) with s = `stride`, and back with `reverse`.

    It is not a plain exchange of blocks for channels: Darknet reads an item's memory as if it were (C / s^2, H * s,
    W * s), moves each s * s block of that to channels, and takes the result for the top. The gradient is the true one;
    the original's passes on an array that nothing has written.
    """

    moves_values: ClassVar[bool] = True
    fork_fields: ClassVar[frozenset[str]] = frozenset({"reorg_param"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.refuse_in_place()
        self.stride, self.reverse = self.param.reorg_param.stride, self.param.reorg_param.reverse
        if self.stride < 1:
            raise self.fail("stride must be positive", "stride", expected="> 0", found=self.stride)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        s = self.stride
        if len(bottoms[0]) != 4:
            raise self.fail("wrong number of axes", "rank", expected="4: N, C, H, W", found=bottoms[0])
        number, channels, height, width = bottoms[0]
        if channels % s**2 or (not self.reverse and (height % s or width % s)):
            expected = f"channels divisible by {s**2}, height and width by {1 if self.reverse else s}"
            raise self.fail("the values cannot be shared out", "shape", expected=expected, found=bottoms[0])
        if self.reverse:
            return [(number, channels // s**2, height * s, width * s)]
        return [(number, channels * s**2, height // s, width // s)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        (top,) = self.reshape([tuple(bottoms[0].shape)])
        split, order = self._moves(tuple(bottoms[0].shape))
        return [bottoms[0].reshape(-1, *split).permute(order).reshape(top)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        shape = graph.shape(bottoms[0])
        (top,) = self.reshape([shape])
        split, order = self._moves(shape)
        inner = graph.constant(np.array([-1, *split], np.int64), f"{self.name}_split")
        outer = graph.constant(np.array([-1, *top[1:]], np.int64), f"{self.name}_top")
        (moved,) = graph.node("Transpose", graph.node("Reshape", [bottoms[0], inner]), perm=list(order))
        return graph.node("Reshape", [moved, outer])

    def _moves(self, bottom: Shape) -> tuple[Shape, Shape]:
        """Returns how an item is divided into axes, and their new order with the batch in front."""
        s, (_, channels, height, width) = self.stride, bottom
        if self.reverse:  # y in the block, x in it, channel, row, column
            return (s, s, channels // s**2, height, width), (0, 3, 4, 1, 5, 2)
        return (channels // s**2, height, s, width, s), (0, 3, 5, 1, 2, 4)
