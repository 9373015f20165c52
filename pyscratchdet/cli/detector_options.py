"""The options that make a Detector, and small readers of option values."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyscratchdet.cli.flags import add_allow_python, add_schema_flags
from pyscratchdet.detect import zoo

if TYPE_CHECKING:
    from pyscratchdet.converters.onnx_detection import OnnxDetector
    from pyscratchdet.detect.detector import Detector, Preparation
    from pyscratchdet.detect.labels import Labeller
    from pyscratchdet.errors import UsageError
    from pyscratchdet.ranks import World


ENGINES = ("torch", "onnxruntime", "openvino", "mnn", "tensorrt")


class _Model(argparse.Action):
    """`--model`: a prototxt, or a detector of the zoo, which brings the weights and labels that are not given."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, value: Any, option: str | None = None) -> None:
        namespace.model = value
        if value in zoo.names() and not Path(value).is_file():
            files = zoo.files(value)
            namespace.model = str(files.model)
            namespace.weights = namespace.weights or str(files.weights)
            namespace.labelmap = namespace.labelmap or str(files.labelmap)


def add_detector_arguments(parser: argparse.ArgumentParser, more_engines: tuple[str, ...] = ()) -> None:
    """Adds the arguments that make a Detector.

    Args:
        parser: Gets them.
        more_engines: What else `--engine` may name in this command, which then deals with it.
    """
    group = parser.add_argument_group("the detector")
    group.add_argument(
        "--model",
        action=_Model,
        metavar="PROTOTXT",
        help=f"the deploy net; an ONNX file needs none; or a detector of the zoo, which needs no other file: "
        f"{', '.join(zoo.names())}",
    )
    group.add_argument("--weights", metavar="FILE", help=".caffemodel, .caffemodel.h5, or .onnx as convert writes it")
    group.add_argument(
        "--labelmap",
        metavar="PROTOTXT",
        help="label map, or a name in each line where a net does not frame objects; without it classes are numbers",
    )
    group.add_argument(
        "--mean", metavar="B,G,R", help="subtracted from the picture (default: the ONNX file's, or SSD's 104,117,123)"
    )
    group.add_argument(
        "--scale", type=finite, metavar="X", help="factor after the mean (default: the ONNX file's, or 1)"
    )
    group.add_argument("--rgb", action="store_true", help="the net takes red first")
    group.add_argument("--size", metavar="HxW", help="input size in place of the prototxt's")
    group.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="pictures at a time (default: %(default)s)"
    )
    group.add_argument(
        "--engine",
        choices=(*ENGINES, *more_engines),
        metavar="NAME",
        help=f"what runs the net: {', '.join(ENGINES)} (default: torch; onnxruntime for an ONNX file)",
    )
    group.add_argument(
        "--precision",
        choices=("float32", "bf16"),
        default="float32",
        help="what all but a detector's last layers multiply in: bf16 in torch and openvino, on CPUs that have it "
        "(default: %(default)s)",
    )
    add_gpu_argument(group)
    add_schema_flags(group)
    add_allow_python(group)


def add_gpu_argument(parser: argparse._ActionsContainer) -> None:
    """Adds `--gpu`, of which `choose_device` makes a device."""
    parser.add_argument("--gpu", default="", metavar="ID", help="run on this GPU (default: the CPU)")


@contextmanager
def sharing(gpu: str = "") -> Iterator[World]:
    """Yields the processes that torchrun started, each on a GPU of its own if `--gpu` says so; or this one alone.

    Warnings come from the first process only: the others would repeat them.
    """
    from pyscratchdet.ranks import World, is_launched, joined

    if not is_launched():
        yield World()
        return
    from pyscratchdet.devices import choose_device

    with joined(choose_device(gpu)) as world:
        if not world.is_root:
            logging.disable(logging.WARNING)
        yield world


def is_onnx(weights: str | None) -> bool:
    """Returns whether `--weights` names an ONNX file, by its ending."""
    return weights is not None and weights.lower().endswith(".onnx")


def make_detector(args: argparse.Namespace) -> Detector:
    """Builds the detector that the arguments describe.

    Raises:
        UsageError: They do not go together.
    """
    batch_size = at_least(1, args.batch_size, "--batch-size")
    _check_weights(args)
    if is_onnx(args.weights):
        return _of_file(args, batch_size)
    if not args.model:
        raise _misfit(f"{args.weights}: weights need their net", expected="--model DEPLOY")
    preparation = preparation_of(args)
    if args.engine in (None, "torch"):
        from pyscratchdet.detect.detector import Detector
        from pyscratchdet.devices import choose_device

        return Detector(
            args.model,
            args.weights,
            args.labelmap,
            preparation=preparation,
            batch_size=batch_size,
            size=parse_size(args.size),
            device=str(choose_device(args.gpu)),
            precision=args.precision,
        )
    _check_no_gpu(args)
    from pyscratchdet.converters.onnx_detection import OnnxDetection, OnnxDetector
    from pyscratchdet.converters.sessions import SESSIONS
    from pyscratchdet.detect.detector import Detector

    session = SESSIONS[args.engine]
    session.import_engine()  # before the work, not after
    batch = batch_size if session.needs_static_shapes else None
    net = OnnxDetector.of_net(args.model, args.weights, parse_size(args.size), batch)
    engine = OnnxDetection(args.engine, net, precision=args.precision)
    return Detector.in_engine(engine, args.labelmap, preparation=preparation, batch_size=batch_size)


def make_labeller(args: argparse.Namespace, task: str) -> Labeller:
    """Builds the net that the arguments describe, for `task` "segment" or "classify".

    Raises:
        UsageError: They do not go together.
    """
    from pyscratchdet.detect.labels import Labeller
    from pyscratchdet.devices import choose_device

    batch_size = at_least(1, args.batch_size, "--batch-size")
    _check_weights(args)
    if is_onnx(args.weights) or args.engine not in (None, "torch"):
        raise _misfit(f"--task {task} is computed by torch", expected="--model DEPLOY, and a caffemodel")
    if not args.model:
        raise _misfit("a caffemodel needs its net", expected="--model DEPLOY")
    return Labeller(
        args.model,
        args.weights,
        task,
        args.labelmap,
        preparation=preparation_of(args),
        batch_size=batch_size,
        size=parse_size(args.size),
        device=str(choose_device(args.gpu)),
        precision=args.precision,
    )


def _of_file(args: argparse.Namespace, batch_size: int) -> Detector:
    """Builds the detector of an ONNX file."""
    from pyscratchdet.converters.onnx_detection import OnnxDetection, OnnxDetector
    from pyscratchdet.detect.detector import Detector

    if args.model or args.size:
        given = "--model" if args.model else "--size"
        raise _misfit("an ONNX file has its net and its size", expected=f"no {given}")
    if args.engine == "torch":
        raise _misfit("torch does not run ONNX files", expected="another --engine")
    _check_no_gpu(args)
    detector = OnnxDetector.of_file(args.weights)
    engine = OnnxDetection(args.engine or "onnxruntime", detector, precision=args.precision)
    preparation = _preparation(args, detector)
    return Detector.in_engine(
        engine, args.labelmap or detector.labels(), preparation=preparation, batch_size=batch_size
    )


def _preparation(args: argparse.Namespace, detector: OnnxDetector | None) -> Preparation:
    """Returns what the options say, or else the file."""
    if detector is None or args.mean is not None:
        return preparation_of(args)
    if args.scale is not None or args.rgb:
        raise _misfit("an ONNX file says how pictures are prepared", expected="--mean with --scale and --rgb, or none")
    return detector.preparation()


def preparation_of(args: argparse.Namespace) -> Preparation:
    """Returns what `--mean`, `--scale` and `--rgb` say, and SSD's way where they say nothing."""
    from pyscratchdet.detect.detector import SSD_MEAN, Preparation

    mean = SSD_MEAN if args.mean is None else parse_numbers(args.mean, "--mean")
    return Preparation(mean, 1.0 if args.scale is None else args.scale, args.rgb)


def _check_weights(args: argparse.Namespace) -> None:
    if not args.weights:
        raise _misfit("no weights", expected=f"--weights, or --model with a name of the zoo: {', '.join(zoo.names())}")


def _check_no_gpu(args: argparse.Namespace) -> None:
    if args.gpu:
        raise _misfit(
            "--gpu is for torch; tensorrt runs on the first GPU, other engines on the CPU",
            found=f"--gpu {args.gpu}",
            hint="CUDA_VISIBLE_DEVICES makes another GPU the first one" if args.engine == "tensorrt" else "",
        )


def _misfit(message: str, **parts: object) -> UsageError:
    from pyscratchdet.errors import UsageError

    return UsageError(message, code="usage.option", **parts)  # type: ignore[arg-type]


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


def at_least(least: int, number: int, option: str) -> int:
    """Returns a number that must not be below another."""
    from pyscratchdet.errors import UsageError

    if number < least:
        raise UsageError(f"{option}: too small", code="usage.option", expected=f"at least {least}", found=number)
    return number
