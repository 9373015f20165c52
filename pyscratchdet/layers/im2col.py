"""Im2col: the columns that a convolution multiplies with its weights (im2col_layer.cpp)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, register
from pyscratchdet.layers.convolution import Window
from pyscratchdet.lazy import F, Tensor, torch


@register("Im2col")
class Im2col(Layer):
    """(..., C, spatial axes) -> (..., C * kernel size, positions), kernel offsets within the channel, row by row."""

    coordinates: ClassVar[str] = "window"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.channel_axis = self.axis(self.param.convolution_param.axis, len(bottoms[0]))
        self.num_spatial = len(bottoms[0]) - self.channel_axis - 1
        if self.num_spatial < 1:
            raise self.fail("there is no spatial axis", "spatial-axes", expected="at least 1", found=self.num_spatial)
        self.window = Window(self, self.num_spatial)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom, axis = bottoms[0], self.channel_axis
        if len(bottom) != axis + 1 + self.num_spatial:
            raise self.fail("the number of axes must not change", "rank", found=len(bottom))
        sizes = self.window.sizes(bottom[axis + 1 :])
        # For each spatial axis, the place that kernel offset k reads for position o: (K, O).
        self.indices = [
            np.arange(k)[:, None] * d + np.arange(o) * s
            for k, d, o, s in zip(self.window.kernel, self.window.dilation, sizes, self.window.stride, strict=True)
        ]
        channels = bottom[axis] * math.prod(self.window.kernel)
        return [(*bottom[:axis], channels, *sizes)]

    def sliding_window(self) -> list[tuple[int, int]]:
        return self.window.steps()

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        bottom, first = bottoms[0], self.channel_axis + 1
        columns = F.pad(bottom, [pad for pad in reversed(self.window.pad) for _ in range(2)])
        for i, index in enumerate(self.indices):
            axis, flat = first + 2 * i, torch.from_numpy(index.ravel()).to(bottom.device)
            shape = (*columns.shape[:axis], *index.shape, *columns.shape[axis + 1 :])
            columns = columns.index_select(axis, flat).view(shape)
        columns = columns.permute(self._order())
        return [columns.flatten(self.channel_axis, self.channel_axis + self.num_spatial)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        first, shape = self.channel_axis + 1, graph.shape(bottoms[0])
        pads = np.array(([0] * first + list(self.window.pad)) * 2, np.int64)
        columns = graph.node("Pad", [bottoms[0], graph.constant(pads)])[0]
        for i, index in enumerate(self.indices):
            columns = graph.node("Gather", [columns, graph.constant(index.astype(np.int64))], axis=first + 2 * i)[0]
        columns = graph.node("Transpose", [columns], perm=self._order())[0]
        channels = shape[self.channel_axis] * math.prod(self.window.kernel)
        top = [0] * self.channel_axis + [channels, *(index.shape[1] for index in self.indices)]
        return graph.node("Reshape", [columns, graph.constant(np.array(top, np.int64))])

    def _order(self) -> list[int]:
        """Returns the order of axes that brings (..., C, K1, O1, K2, O2...) to (..., C, K1, K2..., O1, O2...)."""
        first = self.channel_axis + 1
        kernel = [first + 2 * i for i in range(self.num_spatial)]
        return [*range(first), *kernel, *(axis + 1 for axis in kernel)]
