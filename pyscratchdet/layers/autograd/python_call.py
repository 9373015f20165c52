"""A Python layer's forward and backward between tensors and numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Arrays = Sequence[np.ndarray]
Pair = tuple[list[np.ndarray], list[np.ndarray]]
# (bottoms, weights) -> tops, and the weights as the pass leaves them.
RunForward = Callable[[Arrays, Arrays], Pair]
# (bottoms, weights, tops, gradients of the tops, propagate_down) -> gradients of the bottoms and of the weights.
RunBackward = Callable[[Arrays, Arrays, Arrays, Arrays, Sequence[bool]], Pair]


def python_call(
    run_forward: RunForward,
    run_backward: RunBackward,
    num_tops: int,
    bottoms: Sequence[Tensor],
    blobs: Sequence[Tensor],
) -> list[Tensor]:
    """Returns the tops that `run_forward` computes on host arrays; `run_backward` gives their gradient."""
    if num_tops == 0:
        _run(run_forward, bottoms, blobs)
        return []
    return list(_PythonCall.apply(run_forward, run_backward, len(bottoms), *bottoms, *blobs))


def _run(run_forward: RunForward, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[np.ndarray]:
    """Runs `forward`; what it writes into its weights goes back into the blobs."""
    tops, weights = run_forward([_array(bottom) for bottom in bottoms], [_array(blob) for blob in blobs])
    for blob, written in zip(blobs, weights, strict=True):
        if not np.array_equal(_array(blob), written):
            blob.data.copy_(torch.from_numpy(written))
    return tops


class _PythonCall(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run_forward: RunForward, run_backward: RunBackward, num_bottoms: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        tops = _run(run_forward, tensors[:num_bottoms], tensors[num_bottoms:])
        device = tensors[0].device if tensors else "cpu"
        results = tuple(torch.from_numpy(top).to(device) for top in tops)
        ctx.run_backward, ctx.num_bottoms = run_backward, num_bottoms
        ctx.save_for_backward(*tensors, *results)
        return results

    @staticmethod
    def backward(ctx: Any, *top_diffs: Tensor) -> tuple[Tensor | None, ...]:
        arrays = [_array(tensor) for tensor in ctx.saved_tensors]
        number, num_tensors = ctx.num_bottoms, len(ctx.needs_input_grad) - 3
        wanted = ctx.needs_input_grad[3:]
        bottoms, blobs, tops = arrays[:number], arrays[number:num_tensors], arrays[num_tensors:]
        diffs, weight_diffs = ctx.run_backward(
            bottoms, blobs, tops, [_array(diff) for diff in top_diffs], wanted[:number]
        )
        device = top_diffs[0].device
        results = zip([*diffs, *weight_diffs], wanted, strict=True)
        return None, None, None, *(torch.from_numpy(diff).to(device) if needed else None for diff, needed in results)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
