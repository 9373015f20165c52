"""`pyscratchdet evaluate`: mean average precision on a VOC tree, COCO, own pictures, or of Caffe's own test net."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pyscratchdet.cli.detector_options import (
    add_detector_arguments,
    add_gpu_argument,
    at_least,
    finite,
    is_onnx,
    make_detector,
    sharing,
)
from pyscratchdet.cli.flags import add_allow_python, add_json_flag, add_schema_flags
from pyscratchdet.errors import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyscratchdet.detect.tables import DetectionTable
    from pyscratchdet.evaluate.advice import TrainingFigures
    from pyscratchdet.evaluate.tables import GroundTruthTable
    from pyscratchdet.evaluate.voc import VocResult
    from pyscratchdet.solver.detection_test import DetectionTest

_JUDGES = ("hotcoco", "faster-coco-eval", "pycocotools")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="voc|coco|folder|caffe")

    def add(kind: str, text: str) -> argparse.ArgumentParser:
        description = text[0].upper() + text[1:] + "."
        return kinds.add_parser(kind, help=text, description=description, formatter_class=parser.formatter_class)

    voc = add("voc", "VOC devkit AP of a deploy net or of result files on a VOC tree")
    add_voc_arguments(voc)
    voc.add_argument("--results", metavar="DIR", help="evaluate these comp4 result files instead of running a net")
    coco = add("coco", "COCO's twelve figures of a deploy net or of a result json")
    coco.add_argument("--data", required=True, metavar="JSON", help="COCO instances json")
    coco.add_argument("--images", metavar="DIR", help="folder of the pictures (default: beside the json)")
    coco.add_argument("--results", metavar="JSON", help="evaluate this result file instead of running a net")
    coco.add_argument(
        "--judge",
        choices=_JUDGES,
        metavar="NAME",
        help="what computes the figures: hotcoco (default if installed), faster-coco-eval or pycocotools, all with the "
        "same result; --engine may name it too",
    )
    folder = add("folder", "VOC devkit AP of a deploy net or of result files on pictures of your own")
    folder.add_argument("--data", metavar="DIR", help="data folder, as `lmdb folder` writes it")
    folder.add_argument(
        "--set", default="test", choices=["train", "test"], help="part of the data folder (default: %(default)s)"
    )
    folder.add_argument("--pictures", metavar="DIR", help="instead of --data: pictures, as `lmdb folder` takes them")
    folder.add_argument("--annotations", metavar="PATH", help="their annotations: XML, YOLO txt, COCO json or CSV")
    _add_metric_arguments(folder)
    folder.add_argument("--results", metavar="DIR", help="evaluate these comp4 result files instead of running a net")
    for one, more_engines in ((voc, ()), (coco, _JUDGES), (folder, ())):
        add_detector_arguments(one, more_engines)
        _add_run_arguments(one)
    caffe = add("caffe", "the solver's test: a test net with DetectionEvaluate on its own data")
    add_caffe_arguments(caffe)
    caffe.add_argument("--model", metavar="PROTOTXT", help="the test net, without a solver")
    caffe.add_argument("--weights", metavar="FILE", help="snapshot to evaluate")
    add_gpu_argument(caffe)
    add_schema_flags(caffe)
    add_allow_python(caffe)
    add_json_flag(caffe)
    caffe.set_defaults(interruption="stops without a result")


def add_voc_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds what describes a VOC evaluation."""
    parser.add_argument("--data", required=required, metavar="DIR", help="VOCdevkit, or one of its years")
    parser.add_argument("--year", metavar="YEAR", help="which year of a devkit that has several, such as 2007")
    parser.add_argument("--set", default="test", metavar="NAME", help="image set (default: %(default)s)")
    _add_metric_arguments(parser)


def _add_metric_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metric",
        default="11point",
        choices=["11point", "area"],
        help="AP rule: VOC 2007's, or that of later years (default: %(default)s)",
    )
    parser.add_argument(
        "--overlap", type=finite, default=0.5, metavar="IOU", help="lowest IoU of a hit (default: %(default)s)"
    )


def add_caffe_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what describes Caffe's own evaluation, beside `--model`."""
    parser.add_argument("--solver", metavar="PROTOTXT", help="solver whose test net, iterations and AP version to use")
    parser.add_argument("--iterations", type=int, metavar="N", help="batches (default: the solver's)")
    parser.add_argument("--ap-version", metavar="NAME", help="11point, MaxIntegral or Integral (default: the solver's)")


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--multi-scale", action="store_true", help="test at several sizes, each also mirrored, as RefineDet does"
    )
    parser.add_argument(
        "--resume", metavar="DIR", help="keep finished parts in this folder and continue from those already there"
    )
    parser.add_argument(
        "--skip_bad", action="store_true", help="leave out and name what is damaged, instead of stopping"
    )
    parser.add_argument(
        "--train-log", metavar="FILE", help="what train wrote to --log or --metrics, for what to try next"
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="write result files, charts and report.html")
    add_json_flag(parser)
    parser.set_defaults(writes=("output",))
    parser.set_defaults(interruption="stops; with --resume DIR the same line goes on from the parts that are done")


def run(args: argparse.Namespace) -> int:
    """Evaluates; where torchrun started several processes, they share the pictures, and the first one judges."""
    from pyscratchdet.ranks import end_launched

    kinds = {"voc": _run_voc, "coco": _run_coco, "folder": _run_folder, "caffe": _run_caffe}
    with sharing(args.gpu) as args.world:
        kinds[args.kind](args)
    end_launched()
    return 0


def voc_truth(args: argparse.Namespace, classes: tuple[str, ...] | None, skip_bad: bool = False) -> GroundTruthTable:
    """Reads the set that `--data`, `--year` and `--set` name; with `skip_bad`, damaged annotations are named."""
    from pyscratchdet.cli.console import warn
    from pyscratchdet.evaluate.sets import find_voc, read_voc_truth

    on_bad = (lambda error: warn(f"left out: {error}") if args.world.is_root else None) if skip_bad else None
    return read_voc_truth(find_voc(args.data, args.year), args.set, classes, on_bad)


def default_label_map(args: argparse.Namespace) -> None:
    """Takes the label map beside the data where none is given; an ONNX file has its own labels."""
    from pathlib import Path

    if is_onnx(args.weights):
        return
    data = Path(args.data).absolute()
    beside = [folder / "labelmap.prototxt" for folder in (data, *data.parents[:2])]
    if args.labelmap is None:
        args.labelmap = next((str(path) for path in beside if path.is_file()), None)


def class_names(args: argparse.Namespace) -> tuple[str, ...] | None:
    """Returns the foreground classes of `--labelmap`, or of the ONNX file, in label order; None without either."""
    if args.labelmap is not None:
        from pyscratchdet.data.label_map import label_to_name, read_label_map

        names = label_to_name(read_label_map(args.labelmap), strict=True, display=True, path=args.labelmap)
    elif is_onnx(args.weights):
        from pyscratchdet.converters.onnx_detection import OnnxDetector

        names = OnnxDetector.of_file(args.weights).labels()
    else:
        return None
    return tuple(name for label, name in sorted(names.items()) if label != 0)


def _run_voc(args: argparse.Namespace) -> None:
    default_label_map(args)
    _judge_voc(args, voc_truth(args, class_names(args), args.skip_bad), args.set)


def _run_folder(args: argparse.Namespace) -> None:
    from pyscratchdet.cli.console import warn
    from pyscratchdet.errors import UsageError
    from pyscratchdet.evaluate.sets import folder_truth, own_truth

    if bool(args.data) == bool(args.pictures) or bool(args.pictures) != bool(args.annotations):
        raise UsageError("choose the pictures", code="usage.option", expected="--data, or --pictures and --annotations")
    if args.data:
        default_label_map(args)
        _judge_voc(args, folder_truth(args.data, args.set), args.set)
        return
    args.data = args.pictures
    truth, left_out = own_truth(args.pictures, args.annotations, class_names(args), args.skip_bad)
    for line in left_out if args.world.is_root else ():
        warn(f"left out: {line}")
    _judge_voc(args, truth, "all")


def _judge_voc(args: argparse.Namespace, truth: GroundTruthTable, name: str) -> None:
    """Evaluates as VOC does on a set of some name."""
    from pyscratchdet.cli.console import show_json
    from pyscratchdet.evaluate.results import read_voc_results, write_voc_results
    from pyscratchdet.evaluate.voc import evaluate_voc

    detections, engine = _detections(args, truth, read_voc_results)
    if not args.world.is_root:
        return
    result = evaluate_voc(truth, detections, args.metric, args.overlap)
    advice = _advice(args, truth, detections, result)
    if args.json:
        show_json({**voc_figures(result), **_made_by(engine), "advice": advice})
    else:
        pictures = f"{name}: {counted(len(truth.names), 'picture')}"
        print_voc(result, ", ".join(filter(None, (pictures, engine))))
        _print_advice(advice)
    if args.output:
        if not args.results:
            write_voc_results(args.output, detections, truth)
        _write_report(args, truth, detections, result, engine, advice)


def _run_coco(args: argparse.Namespace) -> None:
    from pathlib import Path

    from pyscratchdet.cli.console import show_json
    from pyscratchdet.data.coco import read_coco
    from pyscratchdet.evaluate.coco import evaluate_coco
    from pyscratchdet.evaluate.results import read_coco_results, write_coco_results
    from pyscratchdet.evaluate.sets import coco_truth
    from pyscratchdet.evaluate.voc import evaluate_voc
    from pyscratchdet.files import check_not_kept

    if args.output and not args.results:
        check_not_kept(Path(args.output) / "detections.json")
    judge = _judge(args)
    coco = read_coco(args.data)
    truth = coco_truth(coco, args.images, class_names(args))
    detections, engine = _detections(args, truth, read_coco_results)
    if not args.world.is_root:
        return
    result = evaluate_coco(truth, detections, coco.content, judge)
    areas = evaluate_voc(truth, detections, "area")
    advice = _advice(args, truth, detections, areas)
    if args.json:
        figures = {**result.figures, "classes": result.class_ap, "classes50": result.class_ap50}
        show_json({**figures, **_made_by(engine), "advice": advice})
    else:
        title = ", ".join(filter(None, (counted(len(truth.names), "picture"), engine)))
        _print_coco(result.figures, result.class_ap, result.class_ap50, title)
        _print_advice(advice)
    if args.output:
        if not args.results:
            write_coco_results(Path(args.output) / "detections.json", detections, truth)
        _write_report(args, truth, detections, areas, engine, advice, result.figures)


def _judge(args: argparse.Namespace) -> str | None:
    """Returns what is to compute COCO's figures; `--engine` may name it, which is then not what runs the net."""
    from pyscratchdet.errors import UsageError

    named = args.engine if args.engine in _JUDGES else None
    if named and args.judge not in (None, named):
        raise UsageError("--engine and --judge differ", code="usage.option", expected=args.judge, found=named)
    args.engine = None if named else args.engine
    judge: str | None = named or args.judge
    return judge


def _made_by(engine: str) -> dict[str, str]:
    return {"engine": engine} if engine else {}


def _detections(
    args: argparse.Namespace, truth: GroundTruthTable, read_results: Callable[[str, GroundTruthTable], DetectionTable]
) -> tuple[DetectionTable, str]:
    """Returns what `--results` holds, or what the net of the arguments finds and what ran it."""
    from pyscratchdet.errors import UsageError

    if bool(args.results) == bool(args.model or args.weights):
        found = "both" if args.results else "neither"
        raise UsageError(
            "choose what to evaluate", code="usage.option", expected="--model and --weights, or --results", found=found
        )
    if args.results:
        if args.skip_bad and args.kind != "folder":
            raise UsageError("--results reads no pictures", code="usage.option", expected="no --skip_bad")
        return read_results(args.results, truth), ""
    return detect_set(args, truth, args.kind == "coco", args.multi_scale, args.resume, args.skip_bad)


def detect_set(
    args: argparse.Namespace,
    truth: GroundTruthTable,
    coco: bool = False,
    multi_scale: bool = False,
    resume: str | None = None,
    skip_bad: bool = False,
) -> tuple[DetectionTable, str]:
    """Runs the net of the arguments over a set; returns what it finds, and what ran it.

    All processes of `args.world` take part, and only the first gets what they find. With `skip_bad`, pictures that are
    missing or damaged are removed from `truth`, and named.
    """
    import numpy as np

    from pyscratchdet.cli.console import say, warn
    from pyscratchdet.detect.runner import Detect, run_set
    from pyscratchdet.errors import DataError, UsageError
    from pyscratchdet.progress import Progress

    if not args.weights:
        raise UsageError("a net needs its files", code="usage.option", expected="--model and --weights")
    if multi_scale and (args.engine not in (None, "torch") or is_onnx(args.weights)):
        raise UsageError("only torch takes inputs of several sizes", code="usage.option", expected="no --multi-scale")
    detector = make_detector(args)
    if args.labelmap is None and detector.num_classes != len(truth.classes) + 1:
        raise DataError(
            "the net and the data set differ",
            code="evaluate.class-count",
            expected=f"{counted(len(truth.classes), 'class', 'classes')} and background",
            found=f"num_classes {detector.num_classes}",
            hint="give the label map that the net was trained with",
        )
    detect: Detect = detector.detect
    if multi_scale:
        from pyscratchdet.evaluate.multiscale import MultiScaleDetector

        many = MultiScaleDetector(detector, coco)
        if args.world.is_root:
            inputs = ", ".join(f"{height}x{width}" for height, width in many.sizes(wide=True))
            say(f"multi-scale, each also mirrored: {inputs}", stderr=True)
        detect = many.detect
    with Progress(len(truth.names), is_shown=args.world.is_root) as progress:
        settings = {**_run_settings(args, multi_scale, resume is not None), **({"skip_bad": True} if skip_bad else {})}
        name_bad = (lambda index, error: warn(f"{truth.paths[index]}: {error.message}")) if skip_bad else None
        found, sizes = run_set(truth.names, truth.paths, detect, resume, settings, progress, name_bad, args.world)
    if not args.world.is_root:
        return found, detector.engine.title
    truth.sizes = np.where(sizes > 0, sizes, truth.sizes)  # what annotations leave out or get wrong
    bad = (sizes == 0).any(1)
    if bad.all():
        raise DataError("no picture can be read", code="evaluate.no-pictures")
    if bad.any():
        warn(f"{counted(int(bad.sum()), 'picture')} left out: {', '.join(np.array(truth.names)[bad][:10])}")
        found.image = truth.leave_out(bad)[found.image]
    return found, detector.engine.title


def _run_settings(args: argparse.Namespace, multi_scale: bool, is_kept: bool) -> dict[str, object]:
    """Returns what the results depend on; what is as by default is written as it was before it could be chosen."""
    import hashlib

    from pyscratchdet.files import map_bytes

    settings = {name: getattr(args, name) for name in ("model", "weights", "mean", "scale", "rgb", "size")}
    if args.model:
        settings["mean"], settings["scale"] = args.mean or "104,117,123", 1.0 if args.scale is None else args.scale
    settings["multi_scale"] = multi_scale
    if args.engine not in (None, "torch"):
        settings["engine"] = args.engine
    if args.precision != "float32":
        settings["precision"] = args.precision
    if is_kept:  # the contents of files may change under the same names
        files = [path for path in (args.model, args.weights) if path]
        settings["sha256"] = [hashlib.sha256(map_bytes(path)).hexdigest() for path in files]
    return settings


def _run_caffe(args: argparse.Namespace) -> None:
    from pyscratchdet.cli.console import show, show_json
    from pyscratchdet.devices import choose_device
    from pyscratchdet.progress import Progress
    from pyscratchdet.solver.detection_test import run_detection_test

    test = caffe_test(args)
    with Progress(test.iterations, "batches", is_shown=args.world.is_root) as progress:
        summaries = run_detection_test(test, args.weights, choose_device(args.gpu), progress, world=args.world)
    if not args.world.is_root:
        return
    if args.json:
        show_json({name: {"mAP": one.mean_ap, "classes": one.aps} for name, one in summaries.items()})
        return
    for index, (name, summary) in enumerate(summaries.items()):
        for line in summary.lines(name, index) or [f"{name}: no detections"]:
            show(line)


def caffe_test(args: argparse.Namespace) -> DetectionTest:
    """Returns the test of `--solver`, or of `--model` with `--iterations`."""
    from dataclasses import replace

    from pyscratchdet.errors import UsageError
    from pyscratchdet.solver.detection_test import DetectionTest

    if bool(args.solver) == bool(args.model):
        raise UsageError("choose the net", code="usage.option", expected="either --solver or --model")
    if args.model and args.iterations is None:
        raise UsageError("the number of batches is missing", code="usage.option", expected="--iterations with --model")
    test = DetectionTest.of_solver(args.solver) if args.solver else DetectionTest.of_net(args.model)
    if args.iterations is not None:
        test = replace(test, iterations=at_least(1, args.iterations, "--iterations"))
    return replace(test, ap_version=args.ap_version or test.ap_version)


def voc_figures(result: VocResult) -> dict[str, object]:
    """Returns a result as plain values."""
    return {
        "mAP": result.mean_ap,
        "metric": result.metric,
        "overlap": result.overlap_threshold,
        "classes": {
            one.name: {"AP": one.ap if one.num_pos else None, "objects": one.num_pos, "detections": one.num_detections}
            for one in result.classes
        },
    }


def print_voc(result: VocResult, title: str) -> None:
    """Prints AP per class and the mean."""
    from rich.table import Table

    from pyscratchdet.cli.console import console

    table = Table(title=f"{title}, IoU {result.overlap_threshold:g}, {result.metric}", title_justify="left")
    table.add_column("class")
    for name in ("AP", "objects", "detections"):
        table.add_column(name, justify="right")
    for one in result.classes:
        ap = f"{one.ap:.6f}" if one.num_pos else "-"
        table.add_row(one.name, ap, str(one.num_pos), str(one.num_detections))
    console().print(table)
    print(f"mAP = {result.mean_ap:.6f}")


def _print_coco(figures: dict[str, float], ap: dict[str, float], ap50: dict[str, float], title: str) -> None:
    from rich.table import Table

    from pyscratchdet.cli.console import console

    table = Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("AP", justify="right")
    table.add_column("AP50", justify="right")
    for name in ap:
        table.add_row(name, *(f"{value:.6f}" if value >= 0 else "-" for value in (ap[name], ap50[name])))
    console().print(table)
    for name, value in figures.items():
        print(f"{name:6}= {value:.6f}")


def _advice(
    args: argparse.Namespace, truth: GroundTruthTable, detections: DetectionTable, result: VocResult
) -> list[str]:
    """Returns what to try next."""
    from pyscratchdet.evaluate.advice import TestFigures, advise
    from pyscratchdet.evaluate.breakdown import COUNTED_FROM, break_down
    from pyscratchdet.evaluate.voc import ap_by_size

    counted_ones = detections[detections.score >= COUNTED_FROM]
    outcome = break_down(truth, counted_ones, result.overlap_threshold)
    by_size = ap_by_size(truth, detections, result.metric, result.overlap_threshold)
    return advise(TestFigures.of(truth, result, by_size, outcome, COUNTED_FROM), _training_figures(args))


def _print_advice(advice: list[str]) -> None:
    import textwrap

    from pyscratchdet.cli.console import say

    say("what to try next:")
    for sentence in advice:
        say(textwrap.fill(sentence, 79, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False))


def _training_figures(args: argparse.Namespace) -> TrainingFigures:
    """Returns what is known of the training: by `--train-log`, and by the figures in a data folder."""
    from pathlib import Path

    from pyscratchdet.data.figures import FIGURES_FILE, DataFigures
    from pyscratchdet.evaluate.advice import TrainingFigures
    from pyscratchdet.solver.curves import read_curves

    series = read_curves(args.train_log).series if args.train_log else {}
    boxes: dict[str, int] = {}
    if Path(args.data, FIGURES_FILE).is_file():
        data = DataFigures.read(args.data)
        boxes = dict(zip(data.classes, data.train.boxes_per_class, strict=True))
    return TrainingFigures(boxes, series.get("loss", {}), series.get("mAP", {}))


def _write_report(
    args: argparse.Namespace,
    truth: GroundTruthTable,
    detections: DetectionTable,
    result: VocResult,
    engine: str,
    advice: list[str],
    figures: dict[str, float] | None = None,
) -> None:
    from pathlib import Path

    from pyscratchdet.cli.console import say
    from pyscratchdet.evaluate.report import EvaluationReport, write_report

    title = f"{Path(args.results or args.weights).name} on {Path(args.data).absolute().name}"
    page = write_report(EvaluationReport(title, truth, detections, result, figures or {}, engine, advice), args.output)
    say(f"page of results: {page}", stderr=args.json)
