"""The options that make a Detector, and small readers of option values."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from pyscratchdet.cli.flags import add_allow_python, add_allow_unknown

if TYPE_CHECKING:
    from pyscratchdet.detect.detector import Detector


def add_detector_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds the arguments that make a Detector."""
    group = parser.add_argument_group("the detector")
    group.add_argument("--model", required=required, metavar="DEPLOY", help="prototxt of the deploy net")
    group.add_argument("--weights", required=required, metavar="CAFFEMODEL", help=".caffemodel or .caffemodel.h5")
    group.add_argument("--labelmap", metavar="PROTOTXT", help="label map; without it classes are numbers")
    group.add_argument(
        "--mean",
        default="104,117,123",
        metavar="B,G,R",
        help="subtracted from the picture (default: SSD's %(default)s)",
    )
    group.add_argument("--scale", type=finite, default=1.0, help="factor after the mean (default: %(default)s)")
    group.add_argument("--rgb", action="store_true", help="the net takes red first")
    group.add_argument("--size", metavar="HxW", help="input size in place of the prototxt's")
    group.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="pictures at a time (default: %(default)s)"
    )
    add_gpu_argument(group)
    add_allow_unknown(group)
    add_allow_python(group)


def add_gpu_argument(parser: argparse._ActionsContainer) -> None:
    """Adds `--gpu`, of which `choose_device` makes a device."""
    parser.add_argument("--gpu", default="", metavar="ID", help="run on this GPU (default: the CPU)")


def make_detector(args: argparse.Namespace) -> Detector:
    """Builds the detector that the arguments describe."""
    from pyscratchdet.detect.detector import Detector, Preparation
    from pyscratchdet.devices import choose_device

    preparation = Preparation(parse_numbers(args.mean, "--mean"), args.scale, args.rgb)
    return Detector(
        args.model,
        args.weights,
        args.labelmap,
        preparation=preparation,
        batch_size=positive(args.batch_size, "--batch-size"),
        size=parse_size(args.size),
        device=str(choose_device(args.gpu)),
    )


def finite(text: str) -> float:
    """Returns a number that is neither infinite nor "nan"; an option's `type`."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def parse_numbers(text: str, option: str) -> tuple[float, ...]:
    """Returns the numbers of a comma-separated list."""
    from pyscratchdet.errors import UsageError

    try:
        return tuple(finite(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option}: not numbers", code="usage.option", expected="such as 104,117,123", found=text
        ) from None


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Returns (height, width) of "300" or "240x320"."""
    from pyscratchdet.errors import UsageError

    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError("--size: not a size", code="usage.option", expected="such as 300 or 240x320", found=text)
    return int(parts[0]), int(parts[-1])


def positive(number: int, option: str) -> int:
    """Returns a number that must be at least 1."""
    from pyscratchdet.errors import UsageError

    if number < 1:
        raise UsageError(f"{option}: too small", code="usage.option", expected="at least 1", found=number)
    return number
