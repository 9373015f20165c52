"""The L2 norm with a learned scale (normalize_layer.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyscratchdet.layers.autograd.normalize import NormalizeFunction


class CaffeNormalize(nn.Module):
    """y = weight * x / sqrt(sum of x^2 + eps), the sum over the axes `dims`.

    The blob `weight` has the shape `operand`, one value per channel or () for all, and broadcasts in the shape `view`.
    """

    def __init__(
        self,
        operand: tuple[int, ...],
        view: tuple[int, ...],
        dims: tuple[int, ...] = (1,),
        eps: float = 1e-10,
    ) -> None:
        super().__init__()
        self.view, self.dims, self.eps = view, dims, eps
        self.weight = nn.Parameter(torch.ones(operand))

    def forward(self, x: Tensor) -> Tensor:
        """Returns y."""
        weight = self.weight.reshape(self.view)
        y: Tensor = NormalizeFunction.apply(x, weight, self.dims, self.eps)
        return y
