"""A loss whose gradient is stated, not derived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def given_gradient(
    loss: Tensor, gradients: Callable[[], Tensor], *bottoms: Tensor, signs: tuple[int, ...] = (1,)
) -> Tensor:
    """Returns the scalar `loss` such that bottom i gets `signs[i] * gradients() * (gradient of the loss)`.

    Args:
        loss: The value, 0 axes.
        gradients: Makes the derivative with respect to a bottom, of the bottoms' shape; called only where some
            bottom needs it.
        bottoms: What the loss depends on.
        signs: One factor per bottom (a loss of the difference of two bottoms has +1 and -1).
    """
    if not (torch.is_grad_enabled() and any(bottom.requires_grad for bottom in bottoms)):
        return loss.detach()
    with torch.no_grad():
        gradient = gradients()
    return _GivenGradient.apply(loss.detach(), gradient, signs, *bottoms)


class _GivenGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradient: Tensor, signs: tuple[int, ...], *bottoms: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.signs = signs
        ctx.shapes = [bottom.shape for bottom in bottoms]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, top: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        scaled = top * gradient
        pairs = zip(ctx.needs_input_grad[3:], ctx.signs, ctx.shapes, strict=True)
        return None, None, None, *(sign * scaled.view(shape) if needed else None for needed, sign, shape in pairs)
