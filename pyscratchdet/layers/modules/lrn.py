"""Local response normalisation within a channel (lrn_layer.cpp)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def local_norm_within_channel(
    x: Tensor,
    size: int,
    alpha: float,
    beta: float,
) -> Tensor:
    """Returns x / (1 + alpha * mean of x^2 over a window of size * size, zeros outside)^beta."""
    mean = F.avg_pool2d(x.square(), size, 1, (size - 1) // 2)
    return x * (1 + alpha * mean).pow(-beta)
