"""`pyscratchdet verify`: two engines, the same inputs, every blob side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyscratchdet.cli.flags import add_allow_python, add_allow_unknown

if TYPE_CHECKING:
    import numpy as np

    from pyscratchdet.converters.compare import Comparison
    from pyscratchdet.converters.engines import Arrays, Engine, PyTorchEngine, Recording
    from pyscratchdet.converters.training import Trainee
    from pyscratchdet.runtime import Net


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--model", required=True, help="deploy prototxt")
    parser.add_argument("--weights", help="caffemodel (default: the fillers' values, by --seed)")
    parser.add_argument(
        "--against",
        nargs="+",
        default=["onnxruntime", "opencv"],
        metavar="ENGINE",
        help="onnxruntime, opencv, fast, folded, cuda, or an npz recorded elsewhere (default: onnxruntime opencv)",
    )
    parser.add_argument("--phase", choices=("TEST", "TRAIN"), default="TEST", help="phase of the net (default: TEST)")
    parser.add_argument("--gradients", action="store_true", help="compare a backward pass too: fast, cuda, recordings")
    parser.add_argument("--step", metavar="SOLVER", help="compare a solver's first update too: fast, cuda, recordings")
    parser.add_argument("--input", help="picture or npz with one array per input (default: seeded noise)")
    parser.add_argument(
        "--mean", default="104,117,123", help="subtracted from a picture, in BGR (default: %(default)s)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor after the mean (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="seed of noise and fillers (default: 1)")
    parser.add_argument("--report", metavar="HTML", help="write an HTML report")
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    parser.add_argument("--all", action="store_true", help="show every blob in the terminal")
    add_allow_unknown(parser)
    add_allow_python(parser)


def run(args: argparse.Namespace) -> int:
    """Compares and reports; 1 where engines differ."""
    import json
    from pathlib import Path

    from pyscratchdet.cli.console import console
    from pyscratchdet.converters.compare import all_agree
    from pyscratchdet.converters.engines import PyTorchEngine, Recording
    from pyscratchdet.converters.report import html_report, print_table
    from pyscratchdet.converters.training import Trainee
    from pyscratchdet.files import write_text
    from pyscratchdet.layers.plan import read_net

    trainee = Trainee(read_net(args.model), args.weights, args.phase, args.seed)
    recordings = {name: Recording(name) for name in args.against if name.endswith(".npz")}
    for recording in recordings.values():
        trainee = trainee.with_inputs(recording.inputs)
    net = trainee.build()
    _check_outputs(net)
    inputs = _inputs(args, net, list(recordings.values()))
    first = PyTorchEngine(net)
    blobs = first.run(inputs)  # gives the net the inputs' shapes, which the engines below take from it
    comparisons = [
        comparison
        for name in args.against
        for comparison in _compare(name, recordings.get(name), args, trainee, first, inputs, blobs)
    ]
    _check_that_some_ran(comparisons)
    passed_over = [str(entry) for entry in trainee.file.passed_over if not entry.is_harmless]
    for comparison in comparisons:
        comparison.passed_over = passed_over
    out = console()
    for comparison in comparisons:
        print_table(comparison, out, everything=args.all)
    if args.report:
        title = f"{net.name or Path(args.model).stem}: blob by blob"
        write_text(args.report, html_report(comparisons, title, _facts(args)))
        out.print(f"report: {args.report}", highlight=False)
    if args.json:
        write_text(args.json, json.dumps([comparison.as_dict() for comparison in comparisons], indent=1))
    return 0 if all_agree(comparisons) else 1


def _compare(
    name: str,
    recording: Recording | None,
    args: argparse.Namespace,
    trainee: Trainee,
    first: PyTorchEngine,
    inputs: Arrays,
    blobs: Arrays,
) -> list[Comparison]:
    """Compares with one engine: blobs, and what training does where that is asked for."""
    from pyscratchdet.converters.compare import Comparison, compare_blobs
    from pyscratchdet.converters.training import gradient_comparison, step_comparison
    from pyscratchdet.errors import ConversionError

    try:
        engine = recording or _engine(name, args, first.net, trainee)
        result = [compare_blobs(first.net, first, blobs, engine, engine.run(inputs))]
    except ConversionError as error:
        return [Comparison(first.net.name, first.name, name, failure=str(error))]
    if args.gradients:
        result.append(gradient_comparison(trainee, engine, inputs))
    if args.step:
        result.append(step_comparison(trainee, engine, inputs, args.step))
    return result


def _check_outputs(net: Net) -> None:
    from pyscratchdet.errors import NetError

    if not net.output_names:
        raise NetError("the net has no outputs, so there is nothing to compare", code="verify.no-output")


def _check_that_some_ran(comparisons: Sequence[Comparison]) -> None:
    from pyscratchdet.errors import ConversionError

    if all(comparison.failure for comparison in comparisons):
        reasons = "; ".join(comparison.verdict() for comparison in comparisons)
        raise ConversionError(f"nothing was compared: {reasons}", code="verify.nothing-ran")


def _engine(name: str, args: argparse.Namespace, net: Net, trainee: Trainee) -> Engine:
    from pyscratchdet.converters.engines import FastEngine, FoldedEngine, OnnxRuntimeEngine, OpenCVEngine, PyTorchEngine
    from pyscratchdet.converters.training import FastTraining
    from pyscratchdet.errors import UsageError

    if name not in ("onnxruntime", "opencv", "fast", "folded", "cuda"):
        raise UsageError(
            f'unknown engine "{name}"',
            code="verify.engine",
            expected="onnxruntime, opencv, fast, folded, cuda or a recording *.npz",
        )
    if name == "cuda":
        return PyTorchEngine(trainee.build(), "cuda")
    if args.phase == "TRAIN" and name != "fast":
        raise UsageError(f"{name} runs the TEST phase only", code="verify.phase")
    if name == "onnxruntime":
        return OnnxRuntimeEngine(net)
    if name == "fast":
        return FastEngine(net) if args.phase == "TEST" else FastTraining(trainee)
    if name == "folded":
        return FoldedEngine(trainee.file, net)
    return OpenCVEngine(args.model, args.weights, net)


def _inputs(args: argparse.Namespace, net: Net, recordings: Sequence[Recording]) -> Arrays:
    import numpy as np

    from pyscratchdet.converters.engines import read_arrays
    from pyscratchdet.errors import UsageError

    if recordings and not args.input:
        given = recordings[0].inputs
        if missing := [name for name in net.input_names if name not in given]:
            raise UsageError(
                f"{recordings[0].name} lacks inputs",
                code="verify.inputs",
                expected=net.input_names,
                found=f"no {missing}",
            )
        return {name: given[name].astype(np.float32) for name in net.input_names}
    if not args.input:
        rng = np.random.default_rng(args.seed)
        return {name: _noise(rng, net.blob_shapes[name]) for name in net.input_names}
    if args.input.endswith(".npz"):
        arrays = read_arrays(args.input)
        return {name.removeprefix("in:"): array for name, array in arrays.items() if not name.startswith("out:")}
    return _picture(args, net)


def _noise(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Noise as wide as a picture minus its mean."""
    return rng.uniform(-120, 130, shape).astype("float32")


def _picture(args: argparse.Namespace, net: Net) -> Arrays:
    """Prepares a picture as `detect` does, the same for each item of the batch."""
    import numpy as np

    from pyscratchdet.cli.detector_options import parse_numbers
    from pyscratchdet.detect.detector import Preparation, picture_input
    from pyscratchdet.detect.media import read_picture

    name, channels, size = picture_input(net)
    prepare = Preparation(parse_numbers(args.mean, "--mean"), args.scale)
    array = prepare(read_picture(args.input), channels, *size)
    return {name: np.repeat(array[None], net.blob_shapes[name][0], axis=0)}


def _facts(args: argparse.Namespace) -> list[tuple[str, str]]:
    import contextlib
    import platform

    import cv2
    import torch

    from pyscratchdet import __version__

    versions = f"pyscratchdet {__version__}, torch {torch.__version__}, OpenCV {cv2.__version__}"
    if "onnxruntime" in args.against:
        with contextlib.suppress(ImportError):
            import onnxruntime

            versions += f", onnxruntime {onnxruntime.__version__}"
    noise = f"uniform noise, seed {args.seed}"
    return [
        ("model", args.model),
        ("weights", args.weights or f"fillers, seed {args.seed}"),
        ("input", args.input or next((name for name in args.against if name.endswith(".npz")), noise)),
        ("phase", args.phase),
        ("versions", versions),
        ("machine", f"{platform.machine()}, Python {platform.python_version()}"),
    ]
