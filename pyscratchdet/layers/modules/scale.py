"""A learned factor and summand (scale_layer.cpp, bias_layer.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CaffeScale(nn.Module):
    """y = x * weight (+ bias); the blobs have the shape `operand` and broadcast along x in the shape `view`."""

    def __init__(
        self,
        operand: tuple[int, ...],
        view: tuple[int, ...],
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.view = view
        self.weight = nn.Parameter(torch.ones(operand))
        self.bias = nn.Parameter(torch.zeros(operand)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Returns y."""
        weight = self.weight.reshape(self.view)
        if self.bias is None:
            return x * weight
        return torch.addcmul(self.bias.reshape(self.view), x, weight)


class CaffeBias(nn.Module):
    """y = x + bias; the blob has the shape `operand` and broadcasts along x in the shape `view`."""

    def __init__(self, operand: tuple[int, ...], view: tuple[int, ...]) -> None:
        super().__init__()
        self.view = view
        self.bias = nn.Parameter(torch.zeros(operand))

    def forward(self, x: Tensor) -> Tensor:
        """Returns y."""
        return x + self.bias.reshape(self.view)
