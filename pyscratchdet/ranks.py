"""The processes that torchrun started: which one this is, what is its share, and what they tell each other.

torchrun sets RANK, LOCAL_RANK and WORLD_SIZE; without it there is one process, whose `World` does nothing. Rank 0 alone
logs and writes what belongs to all. Training is as in Caffe: each process has its own batch and BatchNorm, and
gradients are averaged, added up in one flat buffer: for SSD-sized nets that takes less than 1 % of a step.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from pyscratchdet.errors import SolverError, UsageError
from pyscratchdet.lazy import Tensor, torch

# Rank 0 may test for hours while the others wait.
_TIMEOUT = timedelta(hours=24)


class World:
    """The processes that work together; by default only this one.

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

    def owns(self, index: int) -> bool:
        """Returns whether item `index`, from 0 on, is in this process's share: every `size`-th item is."""
        return index % self.size == self.rank

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Gives all processes the values of rank 0."""

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Averages `.grad` over all processes; a missing one counts as zeros."""

    def agree(self, action: int) -> int:
        """Returns the greatest `action` that any process asks for, so that all do the same."""
        return action

    def share(self, value: Any) -> Any:
        """Returns rank 0's `value` in all processes."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all processes by rank to rank 0, and an empty list to the others."""
        return [value]

    def close(self) -> None:
        """Leaves the group."""


class ProcessGroup(World):
    """The processes that torchrun started.

    Args:
        device: Device of this process; CUDA uses nccl, the CPU gloo.

    Raises:
        UsageError: The environment is not one that torchrun set up.
    """

    def __init__(self, device: torch.device) -> None:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            torch.distributed.init_process_group(backend, timeout=_TIMEOUT)
        except (ValueError, RuntimeError) as error:
            raise UsageError(
                f"the processes cannot find each other: {error}", code="solver.distributed", hint="start with torchrun"
            ) from error
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Gives all processes the values of rank 0."""
        with torch.no_grad(), _together():
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), src=0)

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Averages `.grad` over all processes; a missing one counts as zeros."""
        wanted = [p for p in parameters if p.requires_grad]
        if not wanted:
            return
        with torch.no_grad(), _together():
            for p in wanted:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
            grads = [p.grad for p in wanted if p.grad is not None]
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            torch.distributed.all_reduce(flat)
            flat /= self.size
            parts = torch.split(flat, [grad.numel() for grad in grads])
            torch._foreach_copy_(grads, [part.view(g.shape) for part, g in zip(parts, grads, strict=True)])

    def agree(self, action: int) -> int:
        """Returns the greatest `action` that any process asks for, so that all do the same."""
        value = torch.tensor([action])
        with _together():
            torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
        return int(value)

    def share(self, value: Any) -> Any:
        """Returns rank 0's `value` in all processes."""
        values = [value]
        with _together():
            torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all processes by rank to rank 0, and an empty list to the others."""
        values: list[Any] | None = [None] * self.size if self.is_root else None
        with _together():
            torch.distributed.gather_object(value, values, dst=0)
        return values or []

    def close(self) -> None:
        """Leaves the group."""
        torch.distributed.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    """Reports in one line that a process has ended, which the others see as a broken connection."""
    try:
        yield
    except RuntimeError as error:
        raise SolverError(
            "another process of this run has ended",
            code="solver.distributed",
            found=str(error).splitlines()[0],
            hint="its own message says why",
        ) from error


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Yields the processes of this run; none goes on after the block before all have come to its end.

    Args:
        device: Device of this process.

    Raises:
        UsageError: The environment is not one that torchrun set up.
        SolverError: Another process has ended before.
    """
    world = ProcessGroup(device) if is_launched() else World()
    try:
        yield world
        world.agree(0)
    finally:
        world.close()


def end_launched() -> None:
    """Ends a process that torchrun started and that has written everything; returns in any other.

    Threads of PyTorch's process group may still run, and sometimes abort the process while Python shuts down; torchrun
    would then end the other processes as well.
    """
    if is_launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def is_launched() -> bool:
    """Returns whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int:
    """Returns this process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))
