"""Upsample, a name with two meanings in the forks: enlarging (YOLOv3) and undoing a pooling (SegNet)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, register
from pyscratchdet.lazy import F, Tensor, torch


@register("Upsample")
class Upsample(Layer):
    """A larger (N, C, H, W); the number of bottoms says which of the two types is meant (upsample_layer.cpp of each).

    One bottom: each pixel is repeated `scale` times in both directions (default 1). Two bottoms: each value goes to
    the place in its plane (y * width + x) that the second bottom of the same shape, the second top of a max pooling,
    names; all other places are 0. The size is then `upsample_h` by `upsample_w`, or H, W times `scale` (default 2) or
    `scale_h` and `scale_w`, less one with `pad_out_h`, `pad_out_w`. A place named twice passes its gradient to
    both values, as in SegNet.
    """

    bottoms: ClassVar[Count] = Count(1, 2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({1})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.upsample_param
        self.has_places = len(bottoms) > 1
        others = [field.name for field, _ in param.ListFields() if field.name != "scale"]
        if others and not self.has_places:
            raise self.fail(
                "with one bottom only the scale may be given", "scale", expected="scale", found=", ".join(others)
            )
        scale = param.scale if param.HasField("scale") else 1 + self.has_places
        has_two = param.HasField("scale_h") or param.HasField("scale_w")
        if has_two and param.HasField("scale"):
            raise self.fail("the scale is given twice", "scale", expected="scale, or scale_h and scale_w")
        self.scales = (param.scale_h, param.scale_w) if has_two else (scale, scale)
        self.less = (int(param.pad_out_h), int(param.pad_out_w))
        self.size = (param.upsample_h, param.upsample_w)
        if all(self.size):
            return
        if min(self.scales) < 1 + self.has_places:
            expected = f"at least {1 + self.has_places}"
            raise self.fail("scale out of range", "scale", expected=expected, found=self.scales)
        if any(less and scale != 2 for less, scale in zip(self.less, self.scales, strict=True)):
            raise self.fail("only a scale of 2 can be padded", "scale", expected=2, found=self.scales)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom = bottoms[0]
        if len(bottom) != 4:
            raise self.fail("the bottom must have 4 axes", "rank", expected="(N, C, H, W)", found=bottom)
        if 0 in bottom:
            raise self.fail("the bottom is empty", "empty", expected="sizes of at least 1", found=bottom)
        if self.has_places and bottoms[1] != bottom:
            raise self.fail("there must be one place for each value", "shape", expected=bottom, found=bottoms[1])
        scaled = (size * scale - less for size, scale, less in zip(bottom[2:], self.scales, self.less, strict=True))
        self.top_size = self.size if all(self.size) else tuple(scaled)
        return [(*bottom[:2], *self.top_size)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        bottom = bottoms[0]
        if not self.has_places:
            return [F.interpolate(bottom, self.top_size, mode="nearest-exact")]  # plain "nearest" rounds 1 / scale
        height, width = self.top_size
        places = bottoms[1].detach().flatten(2).long()
        low, high = places.aminmax()
        if low < 0 or high >= height * width:
            expected, found = f"0 to {height * width - 1}", f"{low} to {high}"
            raise self.fail("a value's place lies outside the top", "index", expected=expected, found=found)
        plane = torch.zeros((*bottom.shape[:2], height * width), dtype=bottom.dtype, device=bottom.device)
        return [plane.scatter(2, places, bottom.flatten(2)).view(*bottom.shape[:2], height, width)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        from onnx import TensorProto

        if not self.has_places:
            scales = graph.constant(np.array([1, 1, *self.scales], np.float32))
            return graph.node(
                "Resize",
                [bottoms[0], "", scales],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        height, width = self.top_size

        def integers(*values: int) -> str:
            return graph.constant(np.array(values, np.int64))

        values, places = (graph.node("Reshape", [bottom, integers(0, 0, -1)])[0] for bottom in bottoms)
        indices = graph.node("Cast", [places], to=TensorProto.INT64)
        planes = graph.node("Slice", [*graph.node("Shape", [bottoms[0]]), integers(0), integers(2)])
        shape = graph.node("Concat", [*planes, integers(height * width)], axis=0)
        zeros = graph.node("Expand", [graph.constant(np.zeros(1, np.float32)), *shape])
        plane = graph.node("ScatterElements", [*zeros, *indices, values], axis=2)
        return graph.node("Reshape", [*plane, integers(0, 0, height, width)])
