"""The L2 norm with the original's gradient (normalize_layer.cpp)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class NormalizeFunction(torch.autograd.Function):
    """(x, scale broadcast to x, dims, eps) -> scale * x / sqrt(sum of x^2 over dims + eps).

    The bottom's gradient is scale * (g - x (x . g) / norm^2) / norm with g the top's gradient, as in the original; the
    true one has scale inside the product x . g, which differs where the scales of channels do.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        dims: tuple[int, ...],
        eps: float,
    ) -> Tensor:
        """Returns the top."""
        # Squares overflow half precision.
        wide = x if x.dtype == torch.float64 else x.float()
        inverse = (wide.square().sum(dims, keepdim=True) + eps).rsqrt()
        ctx.save_for_backward(x, scale, inverse)
        ctx.dims = dims
        return wide * inverse * scale

    @staticmethod
    def backward(
        ctx: Any,
        gradient: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Returns the gradients of x and scale."""
        x, scale, inverse = ctx.saved_tensors
        x_diff = scale_diff = None
        product = x * gradient
        if ctx.needs_input_grad[0]:
            dot = product.sum(ctx.dims, keepdim=True)
            x_diff = (gradient - x * (dot * inverse.square())) * inverse * scale
            x_diff = x_diff.to(x.dtype)
        if ctx.needs_input_grad[1]:
            scale_diff = (product * inverse).sum_to_size(scale.shape)
        return x_diff, scale_diff, None, None
