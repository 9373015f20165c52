"""The fast mode: channels_last where it pays, and on a GPU TF32 and bfloat16 autocast.

Reference arithmetic is the CPU's default.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyscratchdet.devices import use_tf32
from pyscratchdet.layers.costs import net_cost
from pyscratchdet.runtime import LayerModule, Net

_NARROW = 100  # multiplications for each value of the tops: the demo's net has 75, DSOD 161, SSD300-VGG16 1043


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
        layout = _fast_layout(net, device) if self.is_fast else torch.contiguous_format
        net.deliver(device, layout)
        use_tf32(device, self.is_fast)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = self.is_fast
        if self.is_fast:
            net = net.to(memory_format=layout)
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


def _fast_layout(net: Net, device: torch.device) -> torch.memory_format:
    """Returns how blobs lie in memory.

    Without AVX-512, oneDNN takes twice as long for the gradients of convolutions in channels_last as in Caffe's layout;
    narrow nets, where other layers weigh more, are faster in it nevertheless.
    """
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        layers = net_cost(net.plan).layers
        values = sum(layer.memory for layer in layers) // 4
        if sum(layer.macs for layer in layers) > _NARROW * values:
            return torch.contiguous_format
    return torch.channels_last


def _in_float32(module: LayerModule, bottoms: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(bottom.float() if bottom.is_floating_point() else bottom for bottom in bottoms)
