"""The largest of several values (eltwise_layer.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor


def caffe_maximum(first: Tensor, second: Tensor, *others: Tensor) -> Tensor:
    """Returns the largest value in each place; of equal ones, the gradient goes to the one that Caffe chooses.

    That is the second of the first two; after that an earlier one wins over a later one.
    """
    best = torch.where(first > second, first, second)
    for other in others:
        best = torch.where(other > best, other, best)
    return best
