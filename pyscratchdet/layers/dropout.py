"""Dropout (dropout_layer.cpp) and SpatialDropout of Intel's Caffe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.layers.source_text import float_text
from pyscratchdet.lazy import Tensor, torch


@register("Dropout")
class Dropout(Layer):
    """In TRAIN each value is 0 with probability `dropout_ratio`, else divided by 1 - ratio; in TEST nothing changes.

    With Fast R-CNN's `scale_train: false` values stay as they are in TRAIN, and in TEST all are multiplied by
    1 - ratio. With SegNet's `sample_weights_test` TEST draws as TRAIN does. On the CPU the mask is the one the original
    draws from the net's random stream; elsewhere PyTorch draws it.
    """

    coordinates: ClassVar[str] = "same"
    fork_fields: ClassVar[frozenset[str]] = frozenset(
        {"dropout_param.scale_train", "dropout_param.sample_weights_test"}
    )

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.ratio = self.param.dropout_param.dropout_ratio
        if not 0 <= self.ratio < 1:
            raise self.fail("dropout_ratio out of range", "ratio", expected="0 <= ratio < 1", found=self.ratio)
        self.scales_train = self.param.dropout_param.scale_train
        self.draws = self.context.is_train or self.param.dropout_param.sample_weights_test
        self.copies_bottom = self.scales_train and not self.param.dropout_param.sample_weights_test

    @property
    def carries_over(self) -> bool:
        """Whether it draws."""
        return self.draws

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0]]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        bottom = bottoms[0]
        if not self.draws:
            return [bottom.view_as(bottom) if self.scales_train else bottom * (1 - self.ratio)]
        scale = 1 / (1 - self.ratio) if self.scales_train else 1.0
        return [bottom * (self._mask(bottom) * scale)]

    def mask_shape(self, bottom: Tensor) -> tuple[int, ...]:
        """Returns the shape of the mask, which is spread over the bottom."""
        return tuple(bottom.shape)

    def _mask(self, bottom: Tensor) -> Tensor:
        shape = self.mask_shape(bottom)
        if bottom.device.type != "cpu":
            return torch.empty(shape, dtype=bottom.dtype, device=bottom.device).bernoulli_(1 - self.ratio)
        mask = self.context.random.bernoulli(1 - self.ratio, int(np.prod(shape)))
        return torch.from_numpy(mask).view(shape).to(bottom.dtype)

    def affine(self, bottom: Shape, blobs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
        if self.draws or self.scales_train or len(bottom) < 2:
            return None
        return np.full(bottom[1], 1 - float(self.ratio)), np.zeros(bottom[1])

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        if self.draws:
            return super().onnx(graph, bottoms, blobs)
        if self.scales_train:
            return graph.node("Identity", bottoms)
        return graph.node("Mul", [bottoms[0], graph.constant(np.array(1 - self.ratio, np.float32), "kept")])

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        if not self.scales_train:
            raise self.no_torch_source("PyTorch has no dropout that scales in testing", found="scale_train: false")
        when = "True" if self.param.dropout_param.sample_weights_test else "self.training"
        return [f"F.dropout({bottoms[0]}, {float_text(self.ratio)}, {when})"]


@register("SpatialDropout")
class SpatialDropout(Dropout):
    """Dropout of whole channels: a mask (N, C) for a bottom (N, C, H, W) (Tompson et al. 2015, section 3.2)."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) < 2:
            raise self.fail("needs channels", "rank", expected="at least 2 axes", found=bottoms[0])
        return [bottoms[0]]

    def mask_shape(self, bottom: Tensor) -> tuple[int, ...]:
        """Returns (N, C, 1, ...)."""
        return (*bottom.shape[:2], *(1,) * (bottom.dim() - 2))

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        raise self.no_torch_source("this layer type has no PyTorch source")
