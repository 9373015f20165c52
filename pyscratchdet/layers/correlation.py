"""Correlation of two feature maps (correlation_layer.cu of lmb-freiburg/flownet2; Fischer et al. 2015, section 3)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, exactly, register
from pyscratchdet.lazy import F, Tensor, torch


@register("Correlation")
class Correlation(Layer):
    """How alike patches of two maps (N, C, H, W) are, for every displacement of the second up to `max_displacement`.

    Both are padded with `pad` zeros. Top: (N, (2 r + 1)^2, H', W') with r = max_displacement // stride_2, a channel for
    each displacement, row by row from above left; patches are `kernel_size` wide, an odd number, and lie `stride_1`
    apart. A value is the mean over patch and channels of the products or, with `correlation_type: SUBTRACT`, of the
    absolute differences.
    """

    bottoms: ClassVar[Count] = exactly(2)
    fork_fields: ClassVar[frozenset[str]] = frozenset(
        f"correlation_param.{name}"
        for name in ("pad", "kernel_size", "max_displacement", "stride_1", "stride_2", "correlation_type")
    )

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.correlation_param
        self.kernel, self.reach, self.stride = param.kernel_size, param.max_displacement, param.stride_1
        if not param.HasField("kernel_size") or not param.HasField("max_displacement") or self.kernel % 2 == 0:
            found = (param.kernel_size, param.max_displacement)
            raise self.fail(
                "kernel_size and max_displacement are needed", "kernel", expected="an odd kernel_size", found=found
            )
        if not self.stride or not param.stride_2:
            raise self.fail("strides must be positive", "stride", expected="> 0", found=(self.stride, param.stride_2))
        self.subtracts = param.correlation_type == param.SUBTRACT
        radius = self.reach // param.stride_2
        self.displacements = [param.stride_2 * step for step in range(-radius, radius + 1)]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4 or bottoms[0] != bottoms[1]:
            raise self.fail("bottoms must be two maps of one shape", "shape", expected=bottoms[0], found=bottoms[1])
        border = 2 * self.reach + self.kernel - 1
        padded = [size + 2 * self.param.correlation_param.pad for size in bottoms[0][2:]]
        sizes = [math.ceil((size - border) / self.stride) for size in padded]
        if min(sizes) < 1:
            expected = f"more than {border} padded rows and columns"
            raise self.fail("the displacements do not fit into the map", "size", expected=expected, found=padded)
        # How many padded rows and columns the patches of one displacement reach over.
        self.extent = [(size - 1) * self.stride + self.kernel for size in sizes]
        return [(bottoms[0][0], len(self.displacements) ** 2, *sizes)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        pad = self.param.correlation_param.pad
        first, second = (F.pad(bottom, [pad] * 4) for bottom in bottoms)
        own = self._window(first, 0, 0)
        tops = []
        for row, column in self._each():
            other = self._window(second, row, column)
            alike = (own - other).abs() if self.subtracts else own * other
            tops.append(F.avg_pool2d(alike.mean(1, keepdim=True), self.kernel, self.stride))
        return [torch.cat(tops, 1)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        def integers(*values: int) -> str:
            return graph.constant(np.array(values, np.int64))

        pad = self.param.correlation_param.pad
        pads = integers(0, 0, pad, pad, 0, 0, pad, pad)
        first, second = (graph.node("Pad", [bottom, pads])[0] for bottom in bottoms)

        def window(padded: str, row: int, column: int) -> str:
            start = (self.reach + row, self.reach + column)
            ends = (begin + size for begin, size in zip(start, self.extent, strict=True))
            return graph.node("Slice", [padded, integers(*start), integers(*ends), integers(2, 3)])[0]

        own, tops = window(first, 0, 0), []
        for row, column in self._each():
            other = window(second, row, column)
            alike = graph.node("Sub" if self.subtracts else "Mul", [own, other])
            alike = graph.node("Abs", alike) if self.subtracts else alike
            mean = graph.node("ReduceMean", [*alike, integers(1)])
            kernel, stride = [self.kernel] * 2, [self.stride] * 2
            tops += graph.node("AveragePool", mean, kernel_shape=kernel, strides=stride)
        return graph.node("Concat", tops, axis=1)

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(tops[0]) * bottoms[0][1] * self.kernel**2

    def _each(self) -> Iterator[tuple[int, int]]:
        """Returns the displacements along y and x, in the order of the top's channels."""
        return itertools.product(self.displacements, self.displacements)

    def _window(self, padded: Tensor, row: int, column: int) -> Tensor:
        row, column = row + self.reach, column + self.reach
        return padded[:, :, row : row + self.extent[0], column : column + self.extent[1]]
