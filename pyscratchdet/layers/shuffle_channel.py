"""ShuffleChannel, as the forks that run ShuffleNet define it (shuffle_channel_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, register
from pyscratchdet.lazy import Tensor


@register("ShuffleChannel")
class ShuffleChannel(Layer):
    """Channels in another order: axis 1, seen as a table of `group` rows, is transposed.

    Zhang et al. 2017, ShuffleNet, section 3.1.
    """

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.group = self.param.shuffle_channel_param.group

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom = bottoms[0]
        if len(bottom) < 2:
            raise self.fail("the bottom must have channels", "rank", expected="at least 2 axes", found=bottom)
        if self.group < 1 or bottom[1] % self.group:
            expected = f"a divisor of {bottom[1]}"
            raise self.fail("group must divide the channels", "group", expected=expected, found=self.group)
        return [bottom]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        number, channels, *rest = bottoms[0].shape
        table = bottoms[0].reshape(number, self.group, channels // self.group, *rest)
        return [table.transpose(1, 2).flatten(1, 2)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        _, channels, *rest = graph.shape(bottoms[0])
        table = graph.constant(np.array([0, self.group, channels // self.group, -1], np.int64))
        rows = graph.node("Reshape", [bottoms[0], table])
        columns = graph.node("Transpose", rows, perm=[0, 2, 1, 3])
        return graph.node("Reshape", [*columns, graph.constant(np.array([0, channels, *rest], np.int64))])
