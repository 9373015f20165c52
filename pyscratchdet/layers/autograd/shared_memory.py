"""A blob whose memory a layer that does not name it has written to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rewritten(blob: Tensor, values: Tensor) -> Tensor:
    """Returns a blob with other values, the same number of them; its gradient goes where the old blob's went.

    So it is in the original, whose backward pass knows layers and blobs and not what else wrote to their memory.
    """
    values = values.detach().reshape(blob.shape)
    if not (torch.is_grad_enabled() and blob.requires_grad):
        return values
    result: Tensor = _Rewritten.apply(blob, values)
    return result


class _Rewritten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, blob: Tensor, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
