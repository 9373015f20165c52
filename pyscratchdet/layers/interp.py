"""Interp, bilinear resizing as DeepLab and PSPNet define it (interp_layer.cpp, util/interp.cpp of their forks)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, register
from pyscratchdet.lazy import F, Tensor


@register("Interp")
class Interp(Layer):
    """Bilinear interpolation of (N, C, H, W) that maps corner pixels onto corner pixels.

    `pad_beg` and `pad_end`, zero or negative, first cut that many rows and columns off each side. The size is then
    `height` by `width`, or the result of `shrink_factor` s followed by `zoom_factor` z: (size - 1) // s * z + 1.
    As in PSPNet, a single factor takes precedence over height and width, and these over both factors together. Without
    any of them the size is that of a second bottom, which gives nothing else (soeaver's models). This is PyTorch's
    align_corners=True, which is not its default.
    """

    bottoms: ClassVar[Count] = Count(1, 2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({1})
    fork_fields: ClassVar[frozenset[str]] = frozenset({"interp_param"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.interp_param
        if max(param.pad_beg, param.pad_end) > 0:
            found = (param.pad_beg, param.pad_end)
            raise self.fail(
                "padding must not be positive", "pad", expected="pad_beg and pad_end of at most 0", found=found
            )
        self.cut = (-param.pad_beg, -param.pad_end)
        has_shrink, has_zoom = param.HasField("shrink_factor"), param.HasField("zoom_factor")
        has_size = param.HasField("height") and param.HasField("width")
        by_blob = len(bottoms) > 1
        if param.HasField("use_blob_size") and param.use_blob_size != by_blob:
            raise self.fail("use_blob_size does not fit the bottoms", "size", expected=by_blob, found=not by_blob)
        if (has_shrink or has_zoom or has_size) == by_blob:
            expected = "height and width, zoom_factor, shrink_factor or a second bottom"
            is_missing = len(bottoms) == 1
            raise self.fail(f"the size of the top is {'not given' if is_missing else 'given twice'}", "size",
                            expected=expected)  # fmt: skip
        self.size = (param.height, param.width) if has_size and has_shrink == has_zoom else None
        self.factors = (param.shrink_factor, param.zoom_factor)
        if min(self.size or self.factors) < 1:
            raise self.fail("sizes and factors must be positive", "size", found=self.size or self.factors)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom = bottoms[0]
        if any(len(shape) != 4 for shape in bottoms):
            raise self.fail("the bottom must have 4 axes", "rank", expected="(N, C, H, W)", found=list(bottoms))
        height, width = (size - sum(self.cut) for size in bottom[2:])
        if min(height, width, *bottom[:2]) < 1:
            raise self.fail("nothing is left to interpolate", "empty", expected="sizes of at least 1", found=bottom)
        shrink, zoom = self.factors
        self.top_size = self.size or tuple((size - 1) // shrink * zoom + 1 for size in (height, width))
        if len(bottoms) > 1:
            self.top_size = bottoms[1][2:]
        return [(*bottom[:2], *self.top_size)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        bottom, (begin, end) = bottoms[0], self.cut
        if begin or end:
            bottom = bottom[:, :, begin : bottom.shape[2] - end, begin : bottom.shape[3] - end]
        return [F.interpolate(bottom, self.top_size, mode="bilinear", align_corners=True)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        def integers(*values: int) -> str:
            return graph.constant(np.array(values, np.int64))

        bottom, (begin, end) = bottoms[0], self.cut
        batch = graph.node("Slice", [*graph.node("Shape", [bottom]), integers(0), integers(2)])[0]
        if begin or end:
            ends = (size - end for size in graph.shape(bottom)[2:])
            bottom = graph.node("Slice", [bottom, integers(begin, begin), integers(*ends), integers(2, 3)])[0]
        sizes = graph.node("Concat", [batch, integers(*self.top_size)], axis=0)[0]
        return graph.node(
            "Resize", [bottom, "", "", sizes], mode="linear", coordinate_transformation_mode="align_corners"
        )
