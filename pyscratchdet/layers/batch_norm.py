"""BatchNorm without scale and bias, which a Scale layer adds (batch_norm_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.errors import ConversionError
from pyscratchdet.layers.base import BlobSpec, Layer, OnnxGraph, Shape, register
from pyscratchdet.layers.scale import Scale
from pyscratchdet.lazy import Tensor, torch


@register("BatchNorm")
class BatchNorm(Layer):
    """y = (x - mean) / sqrt(variance + eps) per channel (axis 1 of two or more).

    Blobs `mean`, `variance` and `scale_factor` s hold sums: the statistics are blob / s, and 0 where s is 0. With
    `use_global_stats` (default in TEST) they normalise and are constants to the gradient. Otherwise the batch's own
    statistics normalise, with the biased variance, and the blobs are updated with f = `moving_average_fraction`:
    s = f s + 1, mean = f mean + batch mean, variance = f variance + unbiased batch variance. PyTorch's running averages
    have no scale factor.

    With the context's option `sync_batchnorm` the statistics are taken over the batches of all processes that train
    together.
    """

    top_is_free: ClassVar[bool] = True
    coordinates: ClassVar[str] = "same"
    sums_many: ClassVar[bool] = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.batch_norm_param
        self.eps = param.eps
        self.fraction = param.moving_average_fraction
        self.use_global_stats = (
            param.use_global_stats if param.HasField("use_global_stats") else not self.context.is_train
        )
        self.is_synchronized = self.context.is_train and bool(self.context.options.get("sync_batchnorm"))
        self.channels = self._channels(bottoms[0])
        if any(spec.lr_mult for spec in self.param.param):
            raise self.fail(
                "statistics cannot be learned",
                "statistics",
                expected="lr_mult: 0 in every param",
                hint="the scale and the bias belong to a Scale layer",
            )
        self.blobs = [
            BlobSpec("mean", (self.channels,), is_statistic=True),
            BlobSpec("variance", (self.channels,), is_statistic=True),
            BlobSpec("scale_factor", (1,), is_statistic=True),
        ]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if self._channels(bottoms[0]) != self.channels:
            found = self._channels(bottoms[0])
            raise self.fail("wrong number of channels", "channels", expected=self.channels, found=found)
        return [bottoms[0]]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [self.normalize(bottoms[0], blobs)]

    def takes_in(self, after: Layer) -> bool:
        """True for a Scale with one factor, and possibly one summand, per channel."""
        if not isinstance(after, Scale) or after.param.scale_param.axis != 1:
            return False
        return bool(after.blobs) and all(spec.shape == self.blobs[0].shape for spec in after.blobs)

    def affine(self, bottom: Shape, blobs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
        if not self.use_global_stats:
            return None
        mean, variance, scale_factor = (blob.astype(np.float64) for blob in blobs)
        inverse = np.divide(1, scale_factor, out=np.zeros(1), where=scale_factor != 0)
        factor = 1 / np.sqrt(variance * inverse + self.eps)
        return factor, -mean * inverse * factor

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        if not self.use_global_stats:
            raise ConversionError(
                "only normalisation by stored statistics has an ONNX form",
                code="onnx.unsupported",
                layer=self.name,
                layer_type=self.type,
                hint="build the net for the TEST phase",
            )
        mean, variance, scale_factor = blobs
        is_zero = graph.node("Equal", [scale_factor, graph.constant(np.zeros(1, np.float32))])[0]
        zero, inverse = graph.constant(np.zeros(1, np.float32)), graph.node("Reciprocal", [scale_factor])[0]
        factor = graph.node("Where", [is_zero, zero, inverse])[0]
        ones = graph.constant(np.ones(self.channels, np.float32))
        zeros = graph.constant(np.zeros(self.channels, np.float32))
        statistics = [graph.node("Mul", [blob, factor])[0] for blob in (mean, variance)]
        return graph.node("BatchNormalization", [bottoms[0], ones, zeros, *statistics], epsilon=self.eps)

    def _channels(self, bottom: Shape) -> int:
        if len(bottom) < 2:
            raise self.fail("wrong number of axes", "rank", expected="at least 2", found=len(bottom))
        return bottom[1]

    def normalize(
        self, bottom: Tensor, blobs: Sequence[Tensor], weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Returns the normalised bottom, and updates the blobs if the batch's statistics are used.

        With `weight` and `bias`, one value per channel, the Scale layer that follows is computed in the same pass.
        """
        mean, variance, scale_factor = blobs
        if self.use_global_stats:
            factor = torch.where(scale_factor == 0, 0.0, scale_factor.reciprocal())
            return torch.batch_norm(bottom, weight, bias, mean * factor, variance * factor, False, 0.0, self.eps, True)
        if self.is_synchronized:
            top, batch_mean, batch_variance = _normalize_together(bottom, weight, bias, self.eps)
        else:
            # With momentum 1, PyTorch's "running" statistics are the batch's own: mean and unbiased variance.
            batch_mean, batch_variance = mean.new_zeros(2, self.channels).unbind()
            top = torch.batch_norm(bottom, weight, bias, batch_mean, batch_variance, True, 1.0, self.eps, True)
            if bottom.numel() == self.channels:
                batch_variance = torch.zeros_like(batch_variance)  # one value per channel: 0 with factor 1, not 0 / 0
        with torch.no_grad():
            sums = [mean, variance, scale_factor]
            torch._foreach_mul_(sums, self.fraction)
            torch._foreach_add_(sums, [batch_mean, batch_variance, scale_factor.new_ones(1)])
        return top


def _normalize_together(
    bottom: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalises by the mean and variance over the batches of all processes; gradients go through both.

    Args:
        bottom: (batch, channels, ...); the processes' batches may differ in size.
        weight: One factor per channel, or None.
        bias: One value to add per channel, or None.
        eps: Added to the variance.

    Returns:
        The normalised bottom, and mean and unbiased variance of all batches, (channels,) each, without gradient.
    """
    from torch.distributed.nn import all_reduce

    axes = [0, *range(2, bottom.dim())]
    shape = [1, -1] + [1] * (bottom.dim() - 2)
    values = bottom.float()
    count = values.new_tensor([values.numel() // values.shape[1]])
    sums = all_reduce(torch.cat([values.sum(axes), count]))
    total = sums[-1].detach()
    mean = sums[:-1] / total
    centred = values - mean.view(shape)
    variance = all_reduce(centred.square().sum(axes)) / total  # in a second round: exact where the mean is large
    factor = (variance + eps).rsqrt()
    top = centred * (factor if weight is None else factor * weight).view(shape)
    if bias is not None:
        top = top + bias.view(shape)
    unbiased = variance.detach() * total / (total - 1).clamp(min=1)
    return top.to(bottom.dtype), mean.detach(), unbiased
