"""BN, batch normalisation with scale and shift in one layer: SegNet's and PSPNet's (bn_layer.cpp of each)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.errors import ConversionError
from pyscratchdet.layers.base import BlobSpec, Count, Layer, OnnxGraph, Shape, register
from pyscratchdet.layers.batch_norm import normalize_by_batch
from pyscratchdet.lazy import Tensor, torch
from pyscratchdet.proto import caffe_pb2

_log = logging.getLogger(__name__)

_SEGNET = ("scale_filler", "shift_filler", "bn_mode")
_PSPNET = ("slope_filler", "bias_filler", "momentum", "eps", "frozen")
# SegNet's var_eps_.
_SEGNET_EPS = 1e-9


@register("BN")
class BN(Layer):
    """weight * (x - mean) / sqrt(variance + eps) + bias per channel of (N, C, ...); blobs are (1, C, 1, 1).

    The fields of `bn_param` say which of the two types of this name is meant; without any it is PSPNet's, which TSN's
    Caffe has too.

    PSPNet's: blobs `weight` (the slope), `bias`, `mean` and `variance`. In TRAIN the batch's own statistics normalise,
    with the biased variance, and each stored statistic s becomes `momentum` * s + (1 - momentum) * the batch's. In TEST
    and with `frozen` the stored ones normalise and are constants to the gradient; `frozen` learns nothing.

    SegNet's: blobs `weight` (the scale) and `bias` (the shift). With `bn_mode: LEARN` the batch's own statistics
    normalise in either phase, eps is 1e-9, and the optional second and third top are mean and biased variance, without
    a gradient. With INFERENCE the top is weight * x + bias.
    """

    top_is_free: ClassVar[bool] = True
    coordinates: ClassVar[str] = "same"
    sums_many: bool = True
    tops: ClassVar[Count] = Count(1, 3)
    fork_fields: ClassVar[frozenset[str]] = frozenset({"bn_param"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.bn_param
        self.is_segnet = self._is_segnet()
        self.is_fixed = self.is_segnet and param.bn_mode == caffe_pb2.BNParameter.INFERENCE
        self.uses_batch = self.is_segnet or (self.context.is_train and not param.frozen)
        self.eps = _SEGNET_EPS if self.is_segnet else param.eps
        self.momentum = param.momentum
        most = 1 if self.is_fixed or not self.is_segnet else 3
        if self.num_tops > most:
            raise self.fail("too many tops", "tops", expected=f"at most {most}", found=self.num_tops)
        self.channels = self._channels(bottoms[0])
        shape = (1, self.channels, 1, 1)
        if self.is_segnet:
            self.blobs = [BlobSpec("weight", shape, param.scale_filler), BlobSpec("bias", shape, param.shift_filler)]
            return
        self.blobs = [
            BlobSpec("weight", shape, param.slope_filler, is_statistic=param.frozen),
            BlobSpec("bias", shape, param.bias_filler, is_statistic=param.frozen),
            BlobSpec("mean", shape, is_statistic=True),
            BlobSpec("variance", shape, is_statistic=True, value=float(param.frozen)),
        ]

    @property
    def carries_over(self) -> bool:
        """Whether a pass stores the statistics of its batch."""
        return self.uses_batch and not self.is_fixed and not self.is_segnet

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if self._channels(bottoms[0]) != self.channels:
            found = self._channels(bottoms[0])
            raise self.fail("wrong number of channels", "channels", expected=self.channels, found=found)
        return [bottoms[0], *[(1, self.channels, 1, 1)] * (self.num_tops - 1)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        bottom = bottoms[0]
        weight, bias, *stored = (blob.flatten() for blob in blobs)
        if self.is_fixed:
            view = (-1, *(1,) * (bottom.dim() - 2))
            return [torch.addcmul(bias.view(view).to(bottom.dtype), bottom, weight.view(view).to(bottom.dtype))]
        if not self.uses_batch:
            return [torch.batch_norm(bottom, weight, bias, stored[0], stored[1], False, 0.0, self.eps, True)]
        top, mean, variance = normalize_by_batch(bottom, weight, bias, self.eps)
        count = bottom.numel() // self.channels
        variance = variance * ((count - 1) / count)
        if self.is_segnet:
            return [top, mean.view(1, -1, 1, 1), variance.view(1, -1, 1, 1)][: self.num_tops]
        with torch.no_grad():
            for blob, value in zip(blobs[2:], (mean, variance), strict=True):
                blob.lerp_(value.view(1, -1, 1, 1), 1 - self.momentum)
        return [top]

    def affine(self, bottom: Shape, blobs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
        weight, bias, *stored = (blob.astype(np.float64).reshape(-1) for blob in blobs)
        if self.is_fixed:
            return weight, bias
        if self.uses_batch:
            return None
        factor = weight / np.sqrt(stored[1] + self.eps)
        return factor, bias - stored[0] * factor

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        if self.uses_batch and not self.is_fixed:
            raise ConversionError(
                "only normalisation by stored statistics has an ONNX form",
                code="onnx.unsupported",
                layer=self.name,
                layer_type=self.type,
                hint="SegNet's compute_bn_statistics.py writes an INFERENCE net"
                if self.is_segnet
                else "build the net for the TEST phase",
            )
        rank = len(graph.shape(bottoms[0]))
        shape = [self.channels, *(1,) * (rank - 2)] if self.is_fixed else [-1]
        flat = [graph.node("Reshape", [blob, graph.constant(np.array(shape, np.int64))])[0] for blob in blobs]
        if self.is_fixed:
            return graph.node("Add", [*graph.node("Mul", [bottoms[0], flat[0]]), flat[1]])
        return graph.node("BatchNormalization", [bottoms[0], *flat], epsilon=self.eps)

    def _is_segnet(self) -> bool:
        """Returns whether the fields are SegNet's.

        Raises:
            LayerError: They are of both types.
        """
        given = {field.name for field, _ in self.param.bn_param.ListFields()}
        if given & {*_SEGNET} and given & {*_PSPNET}:
            raise self.fail(
                "the settings are of two Caffes",
                "dialect",
                expected=f"{', '.join(_SEGNET)} (SegNet), or {', '.join(_PSPNET)} (PSPNet)",
                found=", ".join(sorted(given)),
            )
        if not given:
            _log.warning("layer \"%s\" (BN): without bn_param it is taken as PSPNet's, not as SegNet's", self.name)
        return bool(given & {*_SEGNET})

    def _channels(self, bottom: Shape) -> int:
        if not 2 <= len(bottom) <= 4:
            raise self.fail("wrong number of axes", "rank", expected="2 to 4", found=len(bottom))
        if 0 in bottom:
            raise self.fail("the bottom is empty", "empty", expected="sizes of at least 1", found=bottom)
        return bottom[1]
