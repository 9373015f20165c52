"""Which device a command runs on, and what it can do."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from pyscratchdet.errors import UsageError
from pyscratchdet.ranks import local_rank


def parse_gpus(text: str) -> list[int]:
    """Returns the device numbers of a --gpu flag; none if it is empty.

    Raises:
        UsageError: The flag is not a list of numbers, or names a device that does not exist.
    """
    number = torch.cuda.device_count()
    if text == "all":
        gpus = list(range(number))
    else:
        try:
            gpus = [int(part) for part in text.split(",") if part.strip()]
        except ValueError as error:
            raise UsageError(f'--gpu "{text}"', code="train.gpu", expected='numbers such as 0,1, or "all"') from error
    if text and (not gpus or any(not 0 <= gpu < number for gpu in gpus)):
        raise UsageError(
            f"--gpu {text}: no such device",
            code="train.gpu",
            expected=f"0 to {number - 1}" if number else "no --gpu: this machine has no CUDA device",
        )
    return gpus


def choose_device(gpu: str) -> torch.device:
    """Returns the first device of a --gpu flag; the CPU if it is empty.

    Of the processes that torchrun started on one machine, each takes the next device.

    Raises:
        UsageError: The flag is not a list of numbers, or names a device that does not exist.
    """
    gpus = parse_gpus(gpu)
    return torch.device("cuda", gpus[local_rank() % len(gpus)]) if gpus else torch.device("cpu")


def use_tf32(device: torch.device, is_wanted: bool) -> None:
    """Chooses what a GPU multiplies float32 numbers in, for the whole process; other devices are left alone.

    PyTorch's own default is TF32 in convolutions, whose 10 bits of mantissa give errors around 1e-3.

    Args:
        device: What computes.
        is_wanted: TF32 where it helps, or float32.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = is_wanted
        torch.backends.cudnn.allow_tf32 = is_wanted


PRECISIONS = ("float32", "bf16")


@functools.cache
def has_bfloat16() -> bool:
    """Returns whether the CPU multiplies bfloat16 numbers itself; False where Linux does not say so.

    Others compute them by way of float32, several times more slowly than float32 itself.
    """
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})  # the last one is Arm's


def check_precision(precision: str, device: torch.device) -> None:
    """Refuses a precision that the device does not have.

    Args:
        precision: One of PRECISIONS.
        device: What computes.

    Raises:
        UsageError: It does not have it.
    """
    if precision == "float32":
        return
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UsageError(f"this GPU does not multiply {precision} numbers", code="engine.precision", found=str(device))
    if device.type == "cpu" and not has_bfloat16():
        raise UsageError(
            "this CPU does not multiply bfloat16 numbers, so bf16 would be slower than float32",
            code="engine.precision",
            expected="avx512_bf16 or amx_bf16 (bf16 on Arm) in /proc/cpuinfo",
            hint="leave out --precision",
        )
