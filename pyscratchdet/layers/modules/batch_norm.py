"""BatchNorm with statistics in Caffe's form (batch_norm_layer.cpp)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CaffeBatchNorm(nn.Module):
    """y = (x - mean) / sqrt(variance + eps) per channel (axis 1), with statistics in Caffe's form.

    The buffers `mean`, `variance` and `scale_factor` s hold sums: the statistics are buffer / s, and 0 where s is 0.
    They normalise in evaluation mode. In training mode the batch's own statistics do, and with f = `fraction` the
    buffers become s = f s + 1, mean = f mean + batch mean, variance = f variance + unbiased batch variance; PyTorch's
    running averages have no such factor. `use_global_stats` chooses one of the two for both modes.
    """

    mean: Tensor
    variance: Tensor
    scale_factor: Tensor

    def __init__(
        self,
        channels: int,
        eps: float = 1e-5,
        fraction: float = 0.999,
        use_global_stats: bool | None = None,
    ) -> None:
        super().__init__()
        self.eps, self.fraction = eps, fraction
        self.use_global_stats = use_global_stats
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.zeros(channels))
        self.register_buffer("scale_factor", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns y."""
        by_statistics = self.use_global_stats
        if by_statistics is None:
            by_statistics = not self.training
        if not by_statistics:
            return self._by_batch(x)
        s = self.scale_factor
        factor = torch.where(s == 0, 0.0, s.reciprocal())
        return F.batch_norm(x, self.mean * factor, self.variance * factor, eps=self.eps)

    def _by_batch(self, x: Tensor) -> Tensor:
        # With momentum 1, PyTorch's "running" statistics are the batch's own.
        mean, variance = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        y = torch.batch_norm(x, None, None, mean, variance, True, 1.0, self.eps, True)
        if x.numel() == x.shape[1]:
            variance.zero_()  # one value per channel: 0, not 0 / 0
        with torch.no_grad():
            self.mean.mul_(self.fraction).add_(mean)
            self.variance.mul_(self.fraction).add_(variance)
            self.scale_factor.mul_(self.fraction).add_(1)
        return y
