"""The fast mode: channels_last, and on a GPU TF32 and bfloat16 autocast. Reference arithmetic is the CPU's default."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyscratchdet.devices import use_tf32
from pyscratchdet.runtime import LayerModule, Net


@dataclass(frozen=True)
class Precision:
    """How a net computes.

    Attributes:
        is_fast: False for float32 in Caffe's layout.
        autocast: Whether the fast mode runs convolutions in bfloat16; None: only on a GPU, since few CPUs have it.
    """

    is_fast: bool = False
    autocast: bool | None = None

    @property
    def is_exact(self) -> bool:
        """Whether this is reference arithmetic."""
        return not self.is_fast

    def prepare(self, net: Net, device: torch.device) -> Net:
        """Makes a net ready for `device` and returns it."""
        net.deliver(device, torch.channels_last if self.is_fast else torch.contiguous_format)
        use_tf32(device, self.is_fast)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = self.is_fast
        if self.is_fast:
            net = net.to(memory_format=torch.channels_last)
            net.work_in_place()
            for module in net.layers:
                if module.layer.is_loss:
                    module.register_forward_pre_hook(_in_float32)
        return net

    def context(self, device: torch.device) -> AbstractContextManager[Any]:
        """Returns the context that a forward pass runs in."""
        autocast = device.type == "cuda" if self.autocast is None else self.autocast
        if self.is_fast and autocast:
            return torch.autocast(device.type, torch.bfloat16)
        return nullcontext()


def _in_float32(module: LayerModule, bottoms: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(bottom.float() if bottom.is_floating_point() else bottom for bottom in bottoms)
