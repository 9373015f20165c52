"""BatchReindex (batch_reindex_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, exactly, register
from pyscratchdet.lazy import Tensor, torch


@register("BatchReindex")
class BatchReindex(Layer):
    """Picks items along axis 0: top[i] = x[index[i]]; an item may be picked several times or never.

    Bottoms: x (N, ...) and index (M), truncated to whole numbers in [0, N). Top: (M, ...).
    """

    bottoms: ClassVar[Count] = exactly(2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({1})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[1]) != 1:
            raise self.fail("the index must have 1 axis", "index", expected="(M,)", found=bottoms[1])
        if not bottoms[0]:
            raise self.fail("the first bottom needs a batch axis", "rank", found=bottoms[0])
        return [(bottoms[1][0], *bottoms[0][1:])]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        values, index = bottoms[0], bottoms[1].detach()
        valid = (index >= 0) & (index < len(values))
        if not bool(valid.all()):
            raise self.fail(
                "index out of range", "index", expected=f"0 to {len(values) - 1}", found=float(index[~valid][0])
            )
        return [values.index_select(0, index.to(torch.int64))]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        from onnx import TensorProto

        index = graph.node("Cast", [bottoms[1]], to=TensorProto.INT64)[0]
        return graph.node("Gather", [bottoms[0], index], axis=0)
