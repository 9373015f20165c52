"""pycaffe's process-wide settings: device, random stream, log and number of solvers (common.cpp, _caffe.cpp)."""

from __future__ import annotations

import logging
import sys
import time

import torch

from pyscratchdet.devices import use_tf32
from pyscratchdet.errors import UsageError
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.solver.log import ROOT, GlogFormatter

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
    use_tf32(_device, False)


def set_device(index: int) -> None:
    """Chooses the GPU; takes effect immediately in GPU mode, otherwise at the next `set_mode_gpu`."""
    global _gpu
    _gpu = int(index)
    if _device.type == "cuda":
        set_mode_gpu()


def set_random_seed(seed: int) -> None:
    """Starts the stream that fillers, dropout and data layers draw from; the same seed gives Caffe's numbers."""
    _random.seed(int(seed))


def init_log(level: int = 0) -> None:
    """Shows the log on stderr from now on, as glog does: what solvers print, and `log`.

    Args:
        level: The lowest level shown: 0 for all, 1 for warnings, 2 for errors.
    """
    root = logging.getLogger(ROOT)
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(GlogFormatter())
        root.addHandler(handler)
        root.propagate = False
    root.setLevel((logging.INFO, logging.WARNING, logging.ERROR)[min(max(level, 0), 2)])


def log(message: str) -> None:
    """Adds a line to the log."""
    logging.getLogger(f"{ROOT}.script").info(message, stacklevel=2)


def has_nccl() -> bool:
    """Returns False: several GPUs train as processes of `pyscratchdet train --gpu 0,1`, not by pycaffe's NCCL."""
    return False


def solver_count() -> int:
    """Returns how many solvers train together in scripts: 1."""
    return 1


def set_solver_count(count: int) -> None:
    """Accepts 1.

    Raises:
        UsageError: Another number.
    """
    if count != 1:
        raise UsageError(
            "scripts train on one device",
            code="caffe.solver-count",
            expected="a solver count of 1",
            found=count,
            hint="`pyscratchdet train --gpu 0,1` trains on several",
        )


class NCCL:
    """Stands where pycaffe's solvers meet on several GPUs: there are none here.

    Raises:
        UsageError: Always, with what to do.
    """

    def __init__(self, *arguments: object) -> None:
        raise _no_nccl()

    @staticmethod
    def new_uid() -> str:
        """Refuses to make the name that the solvers of several processes would share, with which scripts begin."""
        raise _no_nccl()


def _no_nccl() -> UsageError:
    return UsageError(
        "NCCL trains on several GPUs of one script",
        code="caffe.nccl",
        expected="one solver in a script",
        hint="`pyscratchdet train --gpu 0,1` trains on several",
    )


class Timer:
    """A stopwatch.

    Attributes:
        ms: Milliseconds between `start` and `stop`.
    """

    def __init__(self) -> None:
        self._start = 0.0
        self.ms = 0.0

    def start(self) -> None:
        """Starts it."""
        _synchronize()
        self._start = time.perf_counter()

    def stop(self) -> None:
        """Stops it."""
        _synchronize()
        self.ms = 1e3 * (time.perf_counter() - self._start)


def _synchronize() -> None:
    if _device.type == "cuda":
        torch.cuda.synchronize(_device)


def current_device() -> torch.device:
    """Returns the device that nets run on."""
    return _device


def global_random() -> CaffeRandom:
    """Returns the process-wide stream."""
    return _random
