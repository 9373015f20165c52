"""Which device a command runs on."""

from __future__ import annotations

import torch

from pyscratchdet.errors import UsageError


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

    Raises:
        UsageError: The flag is not a list of numbers, or names a device that does not exist.
    """
    gpus = parse_gpus(gpu)
    return torch.device("cuda", gpus[0]) if gpus else torch.device("cpu")
