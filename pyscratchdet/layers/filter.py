"""Filter (filter_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, at_least, register
from pyscratchdet.lazy import Tensor


@register("Filter")
class Filter(Layer):
    """Keeps the items along axis 0 whose selector is not 0.

    Bottoms: any number of (N, ...) and, last, the selector (N, 1...). Tops: one for each bottom except the selector,
    (M, ...) with the M kept items; until there is data the shape says N, as in the original. M may be 0.
    """

    bottoms: ClassVar[Count] = at_least(2)
    tops: ClassVar[Count] = at_least(1)

    def setup(self, bottoms: Sequence[Shape]) -> None:
        if self.num_tops != len(bottoms) - 1:
            raise self.fail(
                "there must be one top per filtered bottom", "tops", expected=len(bottoms) - 1, found=self.num_tops
            )
        self.no_gradient = frozenset({len(bottoms) - 1})  # type: ignore[misc]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        *values, selector = bottoms
        if not selector or any(size != 1 for size in selector[1:]):
            raise self.fail(
                "the selector must have one number per item", "selector", expected="(N,) or (N, 1...)", found=selector
            )
        for shape in values:
            if shape[:1] != selector[:1]:
                raise self.fail(
                    "each bottom must have as many items as the selector", "batch", expected=selector[0], found=shape
                )
        return list(values)

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        *values, selector = bottoms
        kept = selector.detach().reshape(-1).nonzero()[:, 0]
        return [value.index_select(0, kept) for value in values]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        from onnx import TensorProto

        *values, selector = bottoms
        flat = graph.node("Reshape", [selector, graph.constant(np.array([-1], np.int64))])
        condition = graph.node("Cast", flat, to=TensorProto.BOOL)[0]
        return [graph.node("Compress", [value, condition], axis=0)[0] for value in values]
