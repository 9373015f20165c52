"""BatchNorm (batch_norm_layer.cpp), also with the scale and bias of its own that NVIDIA's and Intel's Caffe give it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.errors import ConversionError
from pyscratchdet.layers.base import BlobSpec, Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.layers.scale import Scale
from pyscratchdet.layers.source_text import call_text, float_text
from pyscratchdet.lazy import Tensor, torch
from pyscratchdet.proto import caffe_pb2

_ONE = caffe_pb2.FillerParameter(type="constant", value=1)
_NVIDIA = ("scale_bias", "scale_filler")
_INTEL = ("use_weight_bias", "bias_term", "filler")
# NVIDIA's Caffe adds no less to the variance.
_LEAST_EPS = 1e-5


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

    A layer of NVIDIA's Caffe (`scale_bias` or one of its fillers) then computes weight * y + bias, blobs 3 and 4. Its
    first two blobs are the statistics themselves and the third is not used; TRAIN always takes the batch's: the first
    pass stores them, a later one makes each stored s into f s + (1 - f) batch's, as cuDNN does. A layer of Intel's
    (`use_weight_bias`, `bias_term` or `filler`; mkldnn_batch_norm_layer.cpp) has the same blobs 3 and, unless
    `bias_term` is false, 4, after blobs of the usual meaning. With Intel's `stats_batch_size`, or the net's
    `bn_stats_batch_size`, each so many items have statistics of their own, which update the blobs one after the other.
    """

    top_is_free: ClassVar[bool] = True
    coordinates: ClassVar[str] = "same"
    sums_many: bool = True
    fork_fields: ClassVar[frozenset[str]] = frozenset(
        f"batch_norm_param.{name}" for name in (*_NVIDIA, *_INTEL, "bias_filler", "stats_batch_size")
    )

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.batch_norm_param
        self.channels = self._channels(bottoms[0])
        self.holds_averages = self._is_nvidia()
        self.eps = max(param.eps, _LEAST_EPS) if self.holds_averages else param.eps
        self.fraction = param.moving_average_fraction
        chosen = param.HasField("use_global_stats") and not self.holds_averages
        self.use_global_stats = param.use_global_stats if chosen else not self.context.is_train
        self.is_synchronized = self.context.is_train and bool(self.context.options.get("sync_batchnorm"))
        group_size = self.context.stats_batch_size or param.stats_batch_size
        self.group_size = 0 if self.use_global_stats else group_size
        self._has_stored = False
        if any(spec.lr_mult for spec in self.param.param[:3]):
            raise self.fail(
                "statistics cannot be learned",
                "statistics",
                expected="lr_mult: 0 in the first three param",
                hint="only a scale and a bias can be learned, those of a Scale layer",
            )
        self.blobs = [
            BlobSpec("mean", (self.channels,), is_statistic=True),
            BlobSpec("variance", (self.channels,), is_statistic=True),
            BlobSpec("scale_factor", (1,), is_statistic=True, value=float(self.holds_averages)),
            *self._own_scale(),
        ]

    @property
    def state(self) -> bool | None:
        """True once a pass has stored statistics, which the next one then averages (NVIDIA's form)."""
        return self._has_stored or None

    @state.setter
    def state(self, state: bool | None) -> None:
        self._has_stored = bool(state)

    @property
    def carries_over(self) -> bool:
        """Whether a pass stores the statistics of its batch."""
        return not self.use_global_stats

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if self._channels(bottoms[0]) != self.channels:
            found = self._channels(bottoms[0])
            raise self.fail("wrong number of channels", "channels", expected=self.channels, found=found)
        if len(self.blobs) > 3 and 0 in bottoms[0]:
            raise self.fail("the bottom is empty", "empty", expected="sizes of at least 1", found=bottoms[0])
        if self.group_size and bottoms[0][0] % self.group_size:
            expected = f"a multiple of stats_batch_size {self.group_size}"
            raise self.fail("the batch cannot be divided", "stats-batch-size", expected=expected, found=bottoms[0][0])
        return [bottoms[0]]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        own = blobs[3:]
        return [self.normalize(bottoms[0], blobs, own[0] if own else None, own[1] if len(own) > 1 else None)]

    def takes_in(self, after: Layer) -> bool:
        """True for a Scale with one factor, and possibly one summand, per channel."""
        if len(self.blobs) > 3 or not isinstance(after, Scale) or after.param.scale_param.axis != 1:
            return False
        return bool(after.blobs) and all(spec.shape == self.blobs[0].shape for spec in after.blobs)

    def affine(self, bottom: Shape, blobs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
        if not self.use_global_stats:
            return None
        mean, variance, scale_factor, *own = (blob.astype(np.float64) for blob in blobs)
        inverse = np.divide(1, scale_factor, out=np.zeros(1), where=scale_factor != 0)
        if self.holds_averages:
            inverse = np.ones(1)
        factor = 1 / np.sqrt(variance * inverse + self.eps)
        if own:
            factor = factor * own[0]
        return factor, (own[1] if len(own) > 1 else 0) - mean * inverse * factor

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        if not self.use_global_stats:
            raise ConversionError(
                "only normalisation by stored statistics has an ONNX form",
                code="onnx.unsupported",
                layer=self.name,
                layer_type=self.type,
                hint="build the net for the TEST phase",
            )
        statistics = list(blobs[:2])
        if not self.holds_averages:
            is_zero = graph.node("Equal", [blobs[2], graph.constant(np.zeros(1, np.float32))])[0]
            zero, inverse = graph.constant(np.zeros(1, np.float32)), graph.node("Reciprocal", [blobs[2]])[0]
            factor = graph.node("Where", [is_zero, zero, inverse])[0]
            statistics = [graph.node("Mul", [blob, factor])[0] for blob in statistics]
        default = [graph.constant(np.full(self.channels, value, np.float32)) for value in (1, 0)]
        own = [*blobs[3:], *default[len(blobs[3:]) :]]
        return graph.node("BatchNormalization", [bottoms[0], *own, *statistics], epsilon=self.eps)

    def _is_nvidia(self) -> bool:
        """Returns whether the settings are those of NVIDIA's Caffe; a `bias_filler` alone says so too.

        Raises:
            LayerError: They are of both.
        """
        param = self.param.batch_norm_param
        given = {name for name in (*_NVIDIA, *_INTEL) if param.HasField(name)}
        if given & {*_NVIDIA} and given & {*_INTEL}:
            raise self.fail(
                "the settings are of two Caffes",
                "dialect",
                expected=f"{', '.join(_NVIDIA)} (NVIDIA/caffe), or {', '.join(_INTEL)} (intel/caffe)",
                found=", ".join(sorted(given)),
            )
        has_filler = param.HasField("scale_filler") or (param.HasField("bias_filler") and not given & {*_INTEL})
        return param.scale_bias or has_filler

    def _own_scale(self) -> list[BlobSpec]:
        param, shape = self.param.batch_norm_param, (self.channels,)
        is_intel = any(param.HasField(name) for name in _INTEL) and param.use_weight_bias
        if not (self.holds_averages or is_intel):
            return []
        name = "filler" if is_intel else "scale_filler"
        weight = BlobSpec("weight", shape, getattr(param, name) if param.HasField(name) else _ONE)
        has_bias = param.bias_term or not is_intel
        return [weight, BlobSpec("bias", shape, param.bias_filler)] if has_bias else [weight]

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        from pyscratchdet.layers.modules.batch_norm import CaffeBatchNorm

        if self.holds_averages or len(self.blobs) > 3 or self.group_size:
            raise self.no_torch_source(
                "only the original's statistics, without a scale of its own, have PyTorch source"
            )
        param = self.param.batch_norm_param
        always = str(param.use_global_stats) if param.HasField("use_global_stats") else "None"
        module = text.module(
            call_text(
                text.part(CaffeBatchNorm),
                str(self.channels),
                eps=(float_text(self.eps), "1e-05"),
                fraction=(float_text(self.fraction), "0.999"),
                use_global_stats=(always, "None"),
            )
        )
        return [f"{module}({bottoms[0]})"]

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
        if self.use_global_stats:
            mean, variance = blobs[0], blobs[1]
            if not self.holds_averages:
                factor = torch.where(blobs[2] == 0, 0.0, blobs[2].reciprocal())
                mean, variance = mean * factor, variance * factor
            return torch.batch_norm(bottom, weight, bias, mean, variance, False, 0.0, self.eps, True)
        groups = bottom.split(self.group_size) if self.group_size else (bottom,)
        tops = [self._normalize_by_own(group, blobs, weight, bias) for group in groups]
        return tops[0] if len(tops) == 1 else torch.cat(tops)

    def _normalize_by_own(
        self, bottom: Tensor, blobs: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        if self.is_synchronized:
            top, batch_mean, batch_variance = _normalize_together(bottom, weight, bias, self.eps)
        else:
            top, batch_mean, batch_variance = normalize_by_batch(bottom, weight, bias, self.eps)
        with torch.no_grad():
            self._update(blobs[:3], batch_mean, batch_variance)
        return top

    def _update(self, blobs: Sequence[Tensor], batch_mean: Tensor, batch_variance: Tensor) -> None:
        mean, variance, scale_factor = blobs
        if self.holds_averages:
            share = 1 - self.fraction if self._has_stored else 1.0
            mean.lerp_(batch_mean, share)
            variance.lerp_(batch_variance, share)
            self._has_stored = True
            return
        sums = [mean, variance, scale_factor]
        torch._foreach_mul_(sums, self.fraction)
        torch._foreach_add_(sums, [batch_mean, batch_variance, scale_factor.new_ones(1)])


def normalize_by_batch(
    bottom: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalises by the batch's own mean and biased variance; gradients go through both.

    Args:
        bottom: (batch, channels, ...).
        weight: One factor per channel, or None.
        bias: One value to add per channel, or None.
        eps: Added to the variance.

    Returns:
        The normalised bottom, and mean and unbiased variance, (channels,) each, without gradient.
    """
    channels = bottom.shape[1]
    # With momentum 1, PyTorch's "running" statistics are the batch's own: mean and unbiased variance.
    dtype = torch.promote_types(bottom.dtype, torch.float32)
    mean, variance = torch.zeros(2, channels, dtype=dtype, device=bottom.device).unbind()
    top = torch.batch_norm(bottom, weight, bias, mean, variance, True, 1.0, eps, True)
    if bottom.numel() == channels:
        variance = torch.zeros_like(variance)  # one value per channel: 0 with factor 1, not 0 / 0
    return top, mean, variance


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
