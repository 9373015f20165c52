"""`pyscratchdet verify`: two engines, the same inputs, every blob side by side."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pyscratchdet.cli.detector_options import ENGINES
from pyscratchdet.cli.flags import add_allow_python, add_phase_flag, add_schema_flags

if TYPE_CHECKING:
    import numpy as np

    from pyscratchdet.converters.compare import Comparison
    from pyscratchdet.converters.engines import Arrays, Engine, Recording
    from pyscratchdet.converters.training import Trainee
    from pyscratchdet.runtime import Net


_ENGINES = tuple(name for name in ENGINES if name != "mnn")  # which does not show every blob of a net


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--model", required=True, metavar="PROTOTXT", help="deploy net")
    parser.add_argument("--weights", metavar="FILE", help="caffemodel (default: the fillers' values, by --seed)")
    parser.add_argument(
        "--against",
        nargs="+",
        default=["onnxruntime", "opencv"],
        metavar="ENGINE",
        help="onnxruntime, openvino, tensorrt, opencv, torch, fast, folded, cuda, an npz recorded elsewhere, or an "
        "ONNX file, openvino:FILE.onnx for another engine than onnxruntime (default: onnxruntime opencv)",
    )
    parser.add_argument(
        "--engine",
        choices=_ENGINES,
        default="torch",
        help="whose blobs are judged (default: torch, which also tells each layer's own error)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bf16"),
        default="float32",
        help="what fast and openvino multiply in, on CPUs that have it (default: float32)",
    )
    add_phase_flag(parser, "TEST")
    parser.add_argument("--gradients", action="store_true", help="compare a backward pass too: fast, cuda, recordings")
    parser.add_argument("--step", metavar="SOLVER", help="compare a solver's first update too: fast, cuda, recordings")
    parser.add_argument(
        "--input", metavar="FILE", help="picture or npz with one array per input (default: seeded noise)"
    )
    parser.add_argument(
        "--mean",
        default="104,117,123",
        metavar="B,G,R",
        help="subtracted from a picture, in BGR (default: %(default)s)",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor after the mean (default: 1)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of noise and fillers (default: 1)")
    parser.add_argument("--report", metavar="FILE", help="write an HTML report")
    parser.add_argument(
        "--json", nargs="?", const="", metavar="FILE", help="print the figures as JSON, or write them to a file"
    )
    parser.add_argument("--all", action="store_true", help="show every blob in the terminal")
    parser.set_defaults(writes=("report", "json"), interruption="stops without a report")
    add_schema_flags(parser)
    add_allow_python(parser)


def run(args: argparse.Namespace) -> int:
    """Compares and reports; 1 where engines differ."""
    import json
    from pathlib import Path

    from pyscratchdet.cli.console import console, say, show_json
    from pyscratchdet.converters.compare import all_agree
    from pyscratchdet.converters.report import html_report, print_table
    from pyscratchdet.files import write_text

    comparisons, programs = compare_by(args)
    figures = [comparison.as_dict() for comparison in comparisons]
    if args.json == "":
        show_json(figures)
    else:
        for comparison in comparisons:
            print_table(comparison, console(), everything=args.all)
    if args.report:
        title = f"{comparisons[0].net or Path(args.model).stem}: blob by blob"
        write_text(args.report, html_report(comparisons, title, _facts(args, programs)))
        say(f"report: {args.report}", stderr=args.json == "")
    if args.json:
        write_text(args.json, json.dumps(figures, indent=1))
    return 0 if all_agree(comparisons) else 1


def compare_by(args: argparse.Namespace) -> tuple[list[Comparison], list[str]]:
    """Returns the comparisons that the arguments ask for, and the programs that ran.

    Raises:
        UsageError: The arguments do not go together.
        ConversionError: No engine ran.
    """
    from pyscratchdet.converters.engines import Recording
    from pyscratchdet.converters.training import Trainee
    from pyscratchdet.layers.plan import read_net

    trainee = Trainee(read_net(args.model), args.weights, args.phase, args.seed)
    recordings = {name: Recording(name) for name in args.against if name.endswith(".npz")}
    for recording in recordings.values():
        trainee = trainee.with_inputs(recording.inputs)
    net = trainee.build()
    _check_outputs(net)
    _check_engine(args)
    inputs = _inputs(args, net, list(recordings.values()))
    comparisons, programs = _compare_all(args, trainee, net, inputs, recordings)
    passed_over = [str(entry) for entry in trainee.file.passed_over if not entry.is_harmless]
    for comparison in comparisons:
        comparison.passed_over = passed_over
    return comparisons, programs


def _compare_all(
    args: argparse.Namespace, trainee: Trainee, net: Net, inputs: Arrays, recordings: Mapping[str, Recording]
) -> tuple[list[Comparison], list[str]]:
    """Compares with each engine: blobs, and what training does where that is asked for; names the programs."""
    from pyscratchdet.converters.compare import Comparison, compare_blobs
    from pyscratchdet.converters.engines import OnnxEngine, PyTorchEngine
    from pyscratchdet.converters.training import gradient_comparison, step_comparison
    from pyscratchdet.errors import ConversionError

    blobs = PyTorchEngine(net).run(inputs)  # gives the net the inputs' shapes, which all engines take from it
    first = PyTorchEngine(net) if args.engine == "torch" else OnnxEngine(net, args.engine)
    if args.engine != "torch":
        blobs = first.run(inputs)
    result, programs, failures = [], [first.program], {}
    for name in args.against:
        try:
            engine = recordings.get(name) or _engine(name, args, net, trainee)
            result.append(compare_blobs(net, first, blobs, engine, engine.run(inputs)))
        except ConversionError as error:
            result.append(Comparison(net.name, first.name, name, failure=str(error)))
            failures[name] = error
            continue
        programs.append(engine.program)
        if args.gradients:
            result.append(gradient_comparison(trainee, engine, inputs))
        if args.step:
            result.append(step_comparison(trainee, engine, inputs, args.step))
    if all(comparison.failure for comparison in result):
        if len(failures) == 1:
            raise next(iter(failures.values()))
        texts = {name: str(error).removesuffix(f" [{error.code}]") for name, error in failures.items()}
        reasons = "; ".join(f"{name} did not run: {text}" for name, text in texts.items())
        raise ConversionError(f"nothing was compared: {reasons}", code="verify.nothing-ran")
    return result, programs


def _check_engine(args: argparse.Namespace) -> None:
    from pyscratchdet.errors import UsageError

    if args.engine != "torch" and (args.gradients or args.step or args.phase == "TRAIN"):
        raise UsageError("only torch can train", code="verify.engine", expected="--engine torch", found=args.engine)
    others = [name for name in args.against if not name.startswith(("fast", "openvino"))]
    if args.precision != "float32" and (others or args.phase == "TRAIN"):
        raise UsageError(
            f"--precision {args.precision} is for the TEST phase in fast and openvino",
            code="verify.engine",
            found=", ".join(others) or args.phase,
        )


def _check_outputs(net: Net) -> None:
    from pyscratchdet.errors import NetError

    if not net.output_names:
        raise NetError("the net has no outputs, so there is nothing to compare", code="verify.no-output")


def _engine(name: str, args: argparse.Namespace, net: Net, trainee: Trainee) -> Engine:
    from pyscratchdet.converters.engines import FastEngine, FoldedEngine, OnnxEngine, OpenCVEngine, PyTorchEngine
    from pyscratchdet.converters.sessions import SESSIONS
    from pyscratchdet.converters.training import FastTraining
    from pyscratchdet.errors import UsageError

    kind, path = name, None
    if name.endswith(".onnx"):
        kind, _, path = (
            name.rpartition(":") if name.startswith(tuple(f"{key}:" for key in SESSIONS)) else ("", "", name)
        )
        kind = kind or "onnxruntime"
    if kind not in (*SESSIONS, "opencv", "torch", "fast", "folded", "cuda"):
        raise UsageError(
            f'unknown engine "{name}"',
            code="verify.engine",
            expected=f"{', '.join(_ENGINES)}, opencv, fast, folded, cuda, a recording *.npz or a file *.onnx",
        )
    if kind in ("cuda", "torch"):
        return PyTorchEngine(trainee.build(), "cuda") if kind == "cuda" else PyTorchEngine(net)
    if args.phase == "TRAIN" and kind != "fast":
        raise UsageError(f"{name} runs the TEST phase only", code="verify.phase")
    if kind in SESSIONS:
        return OnnxEngine(net, kind, path, args.precision)
    if kind == "fast":
        return FastEngine(net, args.precision) if args.phase == "TEST" else FastTraining(trainee)
    if kind == "folded":
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
    from pyscratchdet.detect.detector import Preparation
    from pyscratchdet.detect.engine import picture_input
    from pyscratchdet.detect.media import read_picture

    name, channels, size = picture_input(net)
    prepare = Preparation(parse_numbers(args.mean, "--mean"), args.scale)
    array = prepare(read_picture(args.input), channels, *size)
    return {name: np.repeat(array[None], net.blob_shapes[name][0], axis=0)}


def _facts(args: argparse.Namespace, programs: Sequence[str]) -> list[tuple[str, str]]:
    import platform

    import cv2
    import torch

    from pyscratchdet import __version__

    versions = [f"pyscratchdet {__version__}", f"torch {torch.__version__}", f"OpenCV {cv2.__version__}", *programs]
    noise = f"uniform noise, seed {args.seed}"
    return [
        ("model", args.model),
        ("weights", args.weights or f"fillers, seed {args.seed}"),
        ("input", args.input or next((name for name in args.against if name.endswith(".npz")), noise)),
        ("phase", args.phase),
        ("versions", ", ".join(dict.fromkeys(filter(None, versions)))),
        ("machine", f"{platform.machine()}, Python {platform.python_version()}"),
    ]
