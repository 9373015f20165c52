"""A Python layer's forward and backward between tensors and numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class HostLayer(Protocol):
    """A layer that computes on arrays."""

    num_tops: int

    def run_forward(
        self, bottoms: Sequence[np.ndarray], blobs: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns the tops, and the weights as the pass leaves them."""

    def run_backward(
        self,
        bottoms: Sequence[np.ndarray],
        blobs: Sequence[np.ndarray],
        tops: Sequence[np.ndarray],
        top_diffs: Sequence[np.ndarray],
        propagate_down: Sequence[bool],
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns the gradients of bottoms and weights."""


def python_call(layer: HostLayer, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
    """Returns the tops of a Python layer, whose gradient its class's `backward` gives."""
    if layer.num_tops == 0:
        _run(layer, bottoms, blobs)
        return []
    return list(_PythonCall.apply(layer, len(bottoms), *bottoms, *blobs))


def _run(layer: HostLayer, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[np.ndarray]:
    """Runs `forward`; what it writes into its weights goes back into the blobs."""
    tops, weights = layer.run_forward([_array(bottom) for bottom in bottoms], [_array(blob) for blob in blobs])
    for blob, written in zip(blobs, weights, strict=True):
        if not np.array_equal(_array(blob), written):
            blob.data.copy_(torch.from_numpy(written))
    return tops


class _PythonCall(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: HostLayer, num_bottoms: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        tops = _run(layer, tensors[:num_bottoms], tensors[num_bottoms:])
        device = tensors[0].device if tensors else "cpu"
        results = tuple(torch.from_numpy(top).to(device) for top in tops)
        ctx.layer, ctx.num_bottoms = layer, num_bottoms
        ctx.save_for_backward(*tensors, *results)
        return results

    @staticmethod
    def backward(ctx: Any, *top_diffs: Tensor) -> tuple[Tensor | None, ...]:
        arrays = [_array(tensor) for tensor in ctx.saved_tensors]
        number, num_tensors = ctx.num_bottoms, len(ctx.needs_input_grad) - 2
        wanted = ctx.needs_input_grad[2:]
        bottoms, blobs, tops = arrays[:number], arrays[number:num_tensors], arrays[num_tensors:]
        diffs, weight_diffs = ctx.layer.run_backward(
            bottoms, blobs, tops, [_array(diff) for diff in top_diffs], wanted[:number]
        )
        device = top_diffs[0].device
        results = zip([*diffs, *weight_diffs], wanted, strict=True)
        return None, None, *(torch.from_numpy(diff).to(device) if needed else None for diff, needed in results)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
