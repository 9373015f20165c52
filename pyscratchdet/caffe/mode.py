"""pycaffe's process-wide settings: device and random stream (common.cpp)."""

from __future__ import annotations

import torch

from pyscratchdet.errors import UsageError
from pyscratchdet.rng import CaffeRandom

_device = torch.device("cpu")
_gpu = 0
_random = CaffeRandom()


def set_mode_cpu() -> None:
    """Nets run on the CPU from now on."""
    global _device
    _device = torch.device("cpu")


def set_mode_gpu() -> None:
    """Nets run on the GPU that `set_device` chose (0 by default).

    Raises:
        UsageError: There is no CUDA device.
    """
    global _device
    if not torch.cuda.is_available():
        raise UsageError("set_mode_gpu: no CUDA device is available", code="caffe.device", hint="use set_mode_cpu()")
    _device = torch.device("cuda", _gpu)


def set_device(index: int) -> None:
    """Chooses the GPU; takes effect at once in GPU mode, else with the next `set_mode_gpu`."""
    global _gpu
    _gpu = int(index)
    if _device.type == "cuda":
        set_mode_gpu()


def set_random_seed(seed: int) -> None:
    """Starts the stream that fillers, dropout and data layers draw from; the same seed gives Caffe's numbers."""
    _random.seed(int(seed))


def current_device() -> torch.device:
    """Returns where nets run at present."""
    return _device


def global_random() -> CaffeRandom:
    """Returns the process-wide stream."""
    return _random
