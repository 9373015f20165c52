"""Concat and its inverse Slice (concat_layer.cpp, slice_layer.cpp)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, SourceText, at_least, register
from pyscratchdet.layers.source_text import call_text
from pyscratchdet.lazy import Tensor, torch


def _check_axis_given_once(layer: Layer, old_field: str, has_both: bool) -> None:
    if has_both:
        raise layer.fail(f"both axis and {old_field} are given", "axis", expected="one of them")


def _axis(layer: Layer, old: int | None, axis: int, rank: int) -> int:
    """Returns the axis; the deprecated field `old` must not count from the end."""
    if old is not None and old >= rank:
        raise layer.fail("axis out of range", "axis", expected=f"0 to {rank - 1}", found=old)
    return layer.axis(axis if old is None else old, rank)


@register("Concat")
class Concat(Layer):
    """Bottoms one after another along `axis` (default 1)."""

    moves_values: ClassVar[bool] = True
    bottoms: ClassVar[Count] = at_least(1)

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.concat_param
        _check_axis_given_once(self, "concat_dim", param.HasField("axis") and param.HasField("concat_dim"))
        self.shares_data = self.shares_diff = len(bottoms) == 1

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, first = self.param.concat_param, bottoms[0]
        axis = self.dim = _axis(
            self, param.concat_dim if param.HasField("concat_dim") else None, param.axis, len(first)
        )
        for bottom in bottoms[1:]:
            if len(bottom) != len(first) or (bottom[:axis], bottom[axis + 1 :]) != (first[:axis], first[axis + 1 :]):
                expected = f"{first} except for axis {axis}"
                raise self.fail("bottoms differ outside the axis", "shape", expected=expected, found=bottom)
        return [(*first[:axis], sum(bottom[axis] for bottom in bottoms), *first[axis + 1 :])]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [bottoms[0].view_as(bottoms[0]) if len(bottoms) == 1 else torch.cat(tuple(bottoms), self.dim)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return graph.node("Concat", bottoms, axis=self.dim)

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        return [f"torch.cat([{', '.join(bottoms)}], {self.dim})"]


@register("Slice")
class Slice(Layer):
    """Parts of the bottom along `axis` (default 1): of equal size, or cut before each `slice_point`."""

    moves_values: ClassVar[bool] = True
    tops: ClassVar[Count] = at_least(1)

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.slice_param
        _check_axis_given_once(self, "slice_dim", param.HasField("axis") and param.HasField("slice_dim"))
        self.shares_data = self.shares_diff = self.num_tops == 1

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, bottom = self.param.slice_param, bottoms[0]
        axis = self.dim = _axis(self, param.slice_dim if param.HasField("slice_dim") else None, param.axis, len(bottom))
        self.sizes = self._sizes(list(param.slice_point), bottom[axis])
        return [(*bottom[:axis], size, *bottom[axis + 1 :]) for size in self.sizes]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return list(bottoms[0].split_with_sizes(self.sizes, self.dim))

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        sizes = graph.constant(np.array(self.sizes, np.int64))
        return graph.node("Split", [bottoms[0], sizes], num_outputs=self.num_tops, axis=self.dim)

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        starts = itertools.accumulate(self.sizes, initial=0)
        return [
            call_text(f"{bottoms[0]}.narrow", str(self.dim), str(start), str(size))
            for start, size in zip(starts, self.sizes, strict=False)
        ]

    def _sizes(self, points: list[int], size: int) -> list[int]:
        number = self.num_tops
        if not points:
            if size % number:
                expected = f"a multiple of {number}"
                raise self.fail("the tops do not divide the axis evenly", "slice", expected=expected, found=size)
            return [size // number] * number
        if len(points) != number - 1:
            raise self.fail("wrong number of slice points", "slice", expected=number - 1, found=len(points))
        edges = [0, *points, size]
        if any(after <= before for before, after in itertools.pairwise(edges)):
            expected = f"rising between 0 and {size}, both excluded"
            raise self.fail("slice points leave an empty part", "slice", expected=expected, found=points)
        return [after - before for before, after in itertools.pairwise(edges)]

    def opencv_difference(self) -> str:
        has_points = bool(self.param.slice_param.slice_point)
        return "" if has_points else "OpenCV divides the axis among the tops that a layer reads"
