"""Several processes with Caffe's meaning: a batch of their own each, averaged gradients, BatchNorm of their own.

Start them with torchrun, which sets RANK and WORLD_SIZE. Gradients are added up in one flat buffer after the backward
pass: for SSD-sized nets that costs under a hundredth of the step. Rank 0 alone logs, tests and writes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from pyscratchdet.errors import UsageError

# Rank 0 may test for hours while the others wait.
_TIMEOUT = timedelta(hours=24)


class World:
    """The processes that train together; one alone by default.

    Attributes:
        rank: This process, 0 to size - 1.
        size: Number of processes.
    """

    rank = 0
    size = 1

    @property
    def is_root(self) -> bool:
        """Whether this process logs, tests and writes."""
        return self.rank == 0

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Gives all processes the values of rank 0."""

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Averages `.grad` over all processes; a missing one counts as zeros."""

    def agree(self, action: int) -> int:
        """Returns the greatest `action` asked for in any process, so that all do the same."""
        return action

    def close(self) -> None:
        """Leaves the group."""


class ProcessGroup(World):
    """The processes that torchrun started.

    Args:
        device: Device of this process; CUDA uses nccl, the CPU gloo.

    Raises:
        UsageError: The environment is not the one that torchrun makes.
    """

    def __init__(self, device: torch.device) -> None:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=_TIMEOUT)
        except (ValueError, RuntimeError) as error:
            raise UsageError(
                f"the processes cannot find each other: {error}", code="solver.distributed", hint="start with torchrun"
            ) from error
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Gives all processes the values of rank 0."""
        with torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Averages `.grad` over all processes; a missing one counts as zeros."""
        wanted = [p for p in parameters if p.requires_grad]
        if not wanted:
            return
        with torch.no_grad():
            for p in wanted:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
            grads = [p.grad for p in wanted if p.grad is not None]
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            dist.all_reduce(flat)
            flat /= self.size
            parts = flat.split([grad.numel() for grad in grads])
            torch._foreach_copy_(grads, [part.view(g.shape) for part, g in zip(parts, grads, strict=True)])

    def agree(self, action: int) -> int:
        """Returns the greatest `action` asked for in any process, so that all do the same."""
        value = torch.tensor([action])
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return int(value)

    def close(self) -> None:
        """Leaves the group."""
        dist.destroy_process_group()


def is_launched() -> bool:
    """Returns whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int:
    """Returns this process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))
