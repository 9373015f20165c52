"""Values between two limits (clip_layer.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor


def caffe_clip(x: Tensor, low: float, high: float) -> Tensor:
    """Returns min(max(x, low), high); the gradient passes between the two, ends included."""
    # Not clamp alone, whose gradient at the ends is 0.
    inside = (x >= low) & (x <= high)
    return torch.where(inside, x, x.detach().clamp(low, high))
