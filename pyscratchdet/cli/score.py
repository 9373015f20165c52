"""`pyscratchdet score`: mean average precision of one or more snapshots; names the best."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pyscratchdet.cli.detector_options import add_detector_arguments, sharing
from pyscratchdet.cli.evaluate import (
    add_caffe_arguments,
    add_voc_arguments,
    caffe_test,
    class_names,
    default_label_map,
    detect_set,
    voc_truth,
)
from pyscratchdet.cli.flags import add_json_flag

if TYPE_CHECKING:
    from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Evaluate snapshots: with --solver (or --model and --iterations) on the test net's own data, "
        "as the solver does; with --data on a VOC tree, --model being the deploy net."
    )
    parser.add_argument(
        "snapshots",
        nargs="*",
        metavar="SNAPSHOT",
        help=".caffemodel files, or folders, which stand for their snapshots (with --solver, its own)",
    )
    add_caffe_arguments(parser)
    add_voc_arguments(parser, required=False)
    add_detector_arguments(parser)
    add_json_flag(parser)
    parser.set_defaults(interruption="stops without a result")


def run(args: argparse.Namespace) -> int:
    """Scores; where torchrun started several processes, they share each test."""
    from pyscratchdet.ranks import end_launched

    with sharing(args.gpu) as args.world:
        scores = _scores(args)
        if args.world.is_root:
            _print(scores, args.json)
    end_launched()
    return 0


def _scores(args: argparse.Namespace) -> dict[str, float | None]:
    """Returns the mAP of each snapshot; None where nothing was detected."""
    from pyscratchdet.cli.console import say, warn
    from pyscratchdet.errors import UsageError

    inputs = [*args.snapshots, *([args.weights] if args.weights else [])]
    prefix = _prefix(args.solver)
    paths, passed_over = args.world.share(find_snapshots(inputs, prefix))
    if passed_over and args.world.is_root:
        warn(f"passed over, not being named {_names(prefix)}: {', '.join(passed_over)}")
    if args.data:
        default_label_map(args)
    elif args.engine:
        raise UsageError("--engine needs a deploy net and --data", code="usage.option", found=f"--engine {args.engine}")
    scores: dict[str, float | None] = {}
    for number, path in enumerate(paths, start=1):
        if args.world.is_root:
            say(f"{number}/{len(paths)} {path}", stderr=True)
        scores[path] = _score(args, path, is_first=number == 1)
    return scores


def _print(scores: dict[str, float | None], as_json: bool) -> None:
    from rich.table import Table

    from pyscratchdet.cli.console import console, show_json

    known = {path: score for path, score in scores.items() if score is not None}
    best = max(known, key=lambda path: known[path], default=None)
    if as_json:
        show_json({"scores": scores, "best": best})
        return
    table = Table()
    for name in ("iteration", "mAP"):
        table.add_column(name, justify="right")
    table.add_column("snapshot", overflow="fold")
    for path, score in scores.items():
        mark = " (best)" if path == best and len(scores) > 1 else ""
        number = iteration_of(path)
        shown = "none" if score is None else f"{score:.6f}{mark}"
        table.add_row("-" if number is None else str(number), shown, path)
    console().print(table)


def _prefix(solver: str | None) -> str:
    """Returns what the names of a solver's snapshots begin with; "" if there is none to go by."""
    import os

    from pyscratchdet.proto import caffe_pb2
    from pyscratchdet.proto.text import read

    return os.path.basename(read(solver, caffe_pb2.SolverParameter).snapshot_prefix) if solver else ""


def find_snapshots(inputs: list[str], prefix: str = "") -> tuple[list[str], list[str]]:
    """Returns caffemodels by iteration, and those that were passed over.

    Args:
        inputs: Files, and folders, which stand for the snapshots in them.
        prefix: What the names of snapshots begin with; "" for anything.

    Raises:
        FileError: An input does not exist, or a folder has no snapshot.
        UsageError: There is no snapshot.
    """
    from pathlib import Path

    from pyscratchdet.errors import FileError, UsageError

    paths: list[str] = []
    passed_over: list[str] = []
    for text in inputs:
        path = Path(text)
        if not path.exists():
            raise FileError(f"no file or folder {path}", code="file.read")
        found, others = _in_folder(path, prefix) if path.is_dir() else ([str(path)], [])
        paths += found
        passed_over += others
    if not paths:
        raise UsageError("no snapshot to score", code="usage.option", expected="at least one SNAPSHOT")
    named = dict.fromkeys(paths)
    left = [path for path in passed_over if path not in named]
    return sorted(named, key=lambda path: (iteration_of(path) or 0, path)), left


def _in_folder(folder: Path, prefix: str) -> tuple[list[str], list[str]]:
    """Returns the snapshots in a folder, and the other caffemodels."""
    import re

    from pyscratchdet.errors import FileError

    name = re.compile((re.escape(prefix) or ".*") + r"_(iter_\d+|best)\.caffemodel(\.h5)?")
    models = sorted([*folder.glob("*.caffemodel"), *folder.glob("*.caffemodel.h5")])
    found = [str(path) for path in models if name.fullmatch(path.name)]
    if not found:
        raise FileError(
            f"{folder}: no snapshot in this folder",
            code="score.empty-folder",
            expected=_names(prefix),
            found=", ".join(path.name for path in models[:5]) or "no .caffemodel",
            hint="to score other files, name them" if models else None,
        )
    return found, [str(path) for path in models if str(path) not in found]


def _names(prefix: str) -> str:
    return f"{prefix or '<prefix>'}_iter_<n>.caffemodel or {prefix or '<prefix>'}_best.caffemodel"


def iteration_of(path: str) -> int | None:
    """Returns the iteration in a snapshot's name, `<prefix>_iter_<n>.caffemodel`."""
    import re

    match = re.search(r"_iter_(\d+)\.caffemodel", path)
    return int(match.group(1)) if match else None


def _score(args: argparse.Namespace, path: str, is_first: bool) -> float | None:
    """Returns the mAP of one snapshot; None where nothing was detected, and on processes other than the first."""
    if not args.data:
        from pyscratchdet.devices import choose_device
        from pyscratchdet.progress import Progress
        from pyscratchdet.solver.detection_test import run_detection_test

        test = caffe_test(args)
        with Progress(test.iterations, "batches", is_shown=args.world.is_root) as progress:
            summaries = run_detection_test(
                test, path, choose_device(args.gpu), progress, is_checked=is_first, world=args.world
            )
        return next(iter(summaries.values())).mean_ap
    from pyscratchdet.evaluate.voc import evaluate_voc

    args.weights = path
    truth = voc_truth(args, class_names(args))
    found, _ = detect_set(args, truth)
    return evaluate_voc(truth, found, args.metric, args.overlap).mean_ap if args.world.is_root else None
