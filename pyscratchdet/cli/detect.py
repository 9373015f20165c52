"""`pyscratchdet detect`: look at pictures of any number, videos or a camera's with a net, and draw what it finds."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from pyscratchdet.cli.detector_options import (
    add_detector_arguments,
    at_least,
    finite,
    is_onnx,
    make_detector,
    make_labeller,
)
from pyscratchdet.cli.flags import add_json_flag

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping, Sequence

    from pyscratchdet.detect.detector import Detector
    from pyscratchdet.detect.export import ResultWriter
    from pyscratchdet.detect.media import Frame, MediaSource
    from pyscratchdet.detect.parts import PartStore, Totals
    from pyscratchdet.detect.tasks import PictureTask
    from pyscratchdet.progress import Progress
    from pyscratchdet.ranks import World

_TASKS = ("detect", "segment", "classify")
_THRESHOLD = 0.5
_FORMATS = "json,jsonl"
_MOST_LINES = 20  # pictures whose labels are also printed
_NUMBER = re.compile(r"\d+(\.\d*)?")
_LEAST_SIZE = 32  # of a net's input; there are fewer cameras
_MOST_NAMES = 10  # inputs that could not be read and are also named at the end

_EPILOG = """\
What the net is for is seen by its outputs: boxes (detect), a label for every pixel (segment) or for the whole picture
(classify); --task says it where that is not plain. segment draws the labels over the picture, with a legend, and writes
them as <name>_labels.png; classify names the five best classes. Both write labels.json.

An input is a picture, a folder, a list (.txt, .lst: a path in each line), an LMDB of Datum or AnnotatedDatum, a
WebDataset shard (.tar), a video, or a camera's number. A picture that cannot be read is reported, listed in
failed.jsonl and left out; the exit status is 0 if at least one could be read, and 2 if none could. Drawn pictures,
detections and crops go to the output folder under the inputs' names.

With --resume the same command goes on after any interruption, and ends with the same files. Under torchrun, processes
share the pictures; all must see the same output folder."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="what to look at, see below")
    add_detector_arguments(parser)
    parser.add_argument(
        "--task", choices=_TASKS, metavar="NAME", help="detect, segment or classify (default: by the net's outputs)"
    )
    parser.add_argument(
        "-o", "--output", default="detections", metavar="DIR", help="folder to write (default: %(default)s)"
    )
    parser.add_argument("--threshold", type=finite, metavar="SCORE", help=f"lowest score shown (default: {_THRESHOLD})")
    parser.add_argument("--classes", metavar="NAME,...", help="show only these classes")
    parser.add_argument(
        "--format",
        default=_FORMATS,
        metavar="NAME,...",
        help="what to write: json, jsonl, voc, coco, csv, parquet (default: %(default)s)",
    )
    parser.add_argument("--crops", action="store_true", help="also write a crop of every object, by class")
    parser.add_argument("--no-draw", action="store_true", help="write no drawn pictures")
    parser.add_argument(
        "--reduced",
        action="store_true",
        help="decode JPEGs of twice the net's input or more at a half, a quarter or an eighth of their size: faster, "
        "and the net sees them slightly differently; with --no-draw",
    )
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop a video or camera after N frames")
    parser.add_argument(
        "--resume", action="store_true", help="go on where the same command was interrupted; begins where it was not"
    )
    parser.add_argument("--benchmark", action="store_true", help="time each stage at batch 1 and 8, and write nothing")
    add_json_flag(parser, "with --benchmark")
    parser.set_defaults(interruption="stops, and --resume goes on; ends a camera, of which all is written")


def run(args: argparse.Namespace) -> int:
    """Detects."""
    from pyscratchdet.detect.media import find_media, input_kind
    from pyscratchdet.errors import UsageError
    from pyscratchdet.ranks import end_launched

    formats = _parse_formats(args.format)
    if args.json and not args.benchmark:
        raise UsageError("--json is for the times", code="usage.option", expected="--benchmark")
    if args.max_frames is not None:
        at_least(1, args.max_frames, "--max-frames")
    if args.reduced and (args.crops or args.benchmark or not args.no_draw):
        found = "--crops" if args.crops else "--benchmark" if args.benchmark else "pictures to draw"
        raise UsageError(
            "--reduced is for results without pictures", code="usage.option", expected="--no-draw", found=found
        )
    _check_numbers(args)
    kinds = {input_kind(text) for text in args.inputs}
    if args.reduced and kinds <= {"video", "camera"}:
        raise UsageError("--reduced is for pictures", code="usage.option", found=" and ".join(sorted(kinds)))
    _check_kinds(args, kinds)
    task = _task(args)
    if task != "detect":
        status = _label(args, task, "camera" in kinds)
    else:
        detector = make_detector(args)
        if args.benchmark:
            return _benchmark(detector, find_media(args.inputs).sources, args.json)
        status = _detect(args, detector, formats, "camera" in kinds)
    end_launched()
    return status


def _check_numbers(args: argparse.Namespace) -> None:
    """Refuses `--mean 104 117 123 photos/`, which would open cameras 117 and 123, and `--size 240 320 photos/`."""
    from pathlib import Path

    from pyscratchdet.errors import UsageError

    numbers = [text for text in args.inputs if _NUMBER.fullmatch(text) and not Path(text).exists()]
    for option, value, joint, is_meant in (
        ("--mean", args.mean, ",", len(numbers) == 2),
        ("--size", args.size, "x", len(numbers) == 1 and float(numbers[0]) >= _LEAST_SIZE),
    ):
        if is_meant and value is not None and _NUMBER.fullmatch(value):
            meant, plain = joint.join([value, *numbers]), joint.join([value, *[value] * len(numbers)])
            raise UsageError(
                f"{option} takes one word",
                code="usage.option",
                found=f"{option} {value} and the inputs {' and '.join(numbers)}",
                hint=f"write {option} {meant}; or {option} {plain} if these are cameras",
            )


def _check_kinds(args: argparse.Namespace, kinds: set[str]) -> None:
    """Refuses at once what could not be read or done later."""
    from pyscratchdet.detect.reading import import_webdataset
    from pyscratchdet.errors import UsageError
    from pyscratchdet.ranks import is_launched

    if "shard" in kinds:
        import_webdataset()
    if "camera" in kinds and (args.resume or is_launched()):
        found = "--resume" if args.resume else "several processes"
        raise UsageError("a camera's pictures are gone once they are seen", code="usage.option", found=found)


def _task(args: argparse.Namespace) -> str:
    """Returns what the net is for, and says it where its outputs decided and it does not frame objects."""
    from pyscratchdet.cli.console import say

    if args.task or not args.model or is_onnx(args.weights):
        return args.task or "detect"
    from pyscratchdet.detect.labels import find_task

    task = find_task(args.model)
    if task != "detect":
        say(f"--task {task}, by the net's output")
    return task


def _label(args: argparse.Namespace, task: str, is_live: bool) -> int:
    """Names what whole pictures or their pixels show."""
    from itertools import islice
    from pathlib import Path

    from pyscratchdet.cli.console import say
    from pyscratchdet.detect.output import PictureWriter
    from pyscratchdet.detect.tasks import LabelTask
    from pyscratchdet.errors import UsageError, counted
    from pyscratchdet.files import write_pieces

    for option in ("threshold", "classes", "crops", "benchmark"):
        if getattr(args, option):
            raise UsageError(f"--{option} is for --task detect", code="usage.option", found=f"--task {task}")
    if args.format not in ("json", _FORMATS):
        expected = "json"
        raise UsageError("--format is for --task detect", code="usage.option", expected=expected, found=args.format)
    labeller = make_labeller(args, task)
    blob = labeller.output.blob
    head = {"model": args.model, "weights": args.weights, "task": task, "output": blob,
            "classes": {str(label): name for label, name in labeller.names.items()}}  # fmt: skip
    pictures = PictureWriter(args.output, labeller.names, not args.no_draw)
    look = LabelTask(labeller, pictures, Path(args.output))

    def write(store: PartStore, results: ResultWriter, totals: Totals) -> list[str]:
        write_pieces(store.output / "labels.json", results.json_pieces())
        say(f'{counted(totals.frames, "picture")}, {task} by output "{blob}"')
        for line in islice(store.entries(), _MOST_LINES):
            say(look.seen(line))
        return ["labels.json", *results.write_failures()]

    return _look(args, look, head, {"--task": task}, ["labels.json"], write, is_live)


def _parse_formats(text: str) -> list[str]:
    from pyscratchdet.detect.export import FORMATS
    from pyscratchdet.errors import UsageError, nearest

    formats = [part for part in text.split(",") if part]
    for name in formats:
        if name not in FORMATS:
            raise UsageError(
                f'unknown format "{name}"',
                code="usage.option",
                expected=", ".join(FORMATS),
                hint=nearest(name, FORMATS),
            )
    return formats


def _wanted_labels(detector: Detector, text: str | None) -> list[int] | None:
    from pyscratchdet.errors import UsageError, nearest

    if text is None:
        return None
    labels = {name: label for label, name in detector.names.items()}
    wanted = []
    for name in text.split(","):
        if name not in labels:
            raise UsageError(
                f'--classes: no class "{name}"',
                code="usage.option",
                expected=", ".join(detector.classes),
                hint=nearest(name, labels),
            )
        wanted.append(labels[name])
    return wanted


def _detect(args: argparse.Namespace, detector: Detector, formats: list[str], is_live: bool) -> int:
    from pathlib import Path

    from pyscratchdet.cli.console import say
    from pyscratchdet.detect.export import FILES, import_pyarrow
    from pyscratchdet.detect.output import PictureWriter
    from pyscratchdet.detect.tasks import DetectTask
    from pyscratchdet.errors import counted

    if "parquet" in formats:
        import_pyarrow()
    wanted = _wanted_labels(detector, args.classes)
    threshold = _THRESHOLD if args.threshold is None else args.threshold
    title = detector.engine.title
    head = {"model": args.model, "weights": args.weights, "threshold": threshold, "engine": title,
            "classes": {str(label): name for label, name in detector.names.items()},
            "box": "xmin, ymin, xmax, ymax in pixels"}  # fmt: skip
    pictures = PictureWriter(args.output, detector.names, draw=not args.no_draw, crops=args.crops)
    xml_folder = Path(args.output) / "Annotations" if "voc" in formats else None
    task = DetectTask(detector, threshold, wanted, pictures, xml_folder)

    def write(store: PartStore, results: ResultWriter, totals: Totals) -> list[str]:
        written = results.write(formats)
        each = ", ".join(f"{name}: {number}" for name, number in totals.classes.most_common())
        objects = counted(totals.classes.total(), "object") + (f" ({each})" if each else "")
        say(f"{counted(totals.frames, 'picture')}, {objects}")
        return written

    settings = {"engine": title, "--threshold": threshold, "--format": sorted(formats)}
    return _look(args, task, head, settings, [FILES[name] for name in formats if name in FILES], write, is_live)


def _look(
    args: argparse.Namespace,
    task: PictureTask,
    head: Mapping[str, object],
    settings: Mapping[str, object],
    files: Sequence[str],
    write: Callable[[PartStore, ResultWriter, Totals], list[str]],
    is_live: bool,
) -> int:
    """Looks at all inputs, together with other processes, and writes what is found.

    Args:
        args: The command's.
        task: What is done with each picture.
        head: What result files say of the run.
        settings: What the results depend on besides options that both tasks have.
        files: The result files.
        write: Writes the results and returns the names of their files.
        is_live: A camera is among the inputs.
    """
    from collections import Counter
    from contextlib import ExitStack
    from functools import partial
    from pathlib import Path

    import torch

    from pyscratchdet.cli.console import say
    from pyscratchdet.detect.export import check_results
    from pyscratchdet.detect.media import walk_media
    from pyscratchdet.detect.parts import PartStore
    from pyscratchdet.detect.reading import ReadOptions
    from pyscratchdet.detect.run import CollectionRun
    from pyscratchdet.ranks import joined

    store, left_out, state = PartStore(Path(args.output)), Counter[str](), ""
    check_results(store.output, files)
    kept = {**_settings(args), **settings} if args.resume else None
    with joined(torch.device("cpu")) as world, ExitStack() as stack:
        if world.is_root:
            sources = partial(walk_media, args.inputs, left_out)
            state = stack.enter_context(store.opened(lambda: task.checked(sources()), kept))
            _say_state(args.output, state, left_out)
        if world.share(state) == "finished":
            return 0
        progress = stack.enter_context(_progress(args, store, world))
        options = ReadOptions(max_frames=args.max_frames, least=task.size if args.reduced else None)
        run = CollectionRun(task, store, world, options, progress, _report(store))
        with task.pictures:
            run.run(is_live)
        num_units, times = world.agree(run.num_units), world.gather((run.waited, run.seconds))
        if world.is_root:
            _write(store, num_units, head, task, write)
            if waits := _share(times):
                say(waits)
            say(f"written to {args.output}")
    return 0


def _settings(args: argparse.Namespace) -> dict[str, object]:
    """Returns what the results depend on, by option; files count with what is in them."""
    import hashlib
    from pathlib import Path

    from pyscratchdet.files import map_bytes

    options = ("model", "weights", "labelmap", "mean", "scale", "rgb", "size", "batch_size", "precision", "classes",
               "crops", "no_draw", "reduced", "max_frames")  # fmt: skip
    settings = {f"--{name.replace('_', '-')}": getattr(args, name) for name in options}
    files = [path for path in (args.model, args.weights, args.labelmap) if path and Path(path).is_file()]
    contents = {f"content of {path}": hashlib.sha256(map_bytes(path)).hexdigest() for path in files}
    return {"list of inputs": args.inputs, **settings, **contents}


def _say_state(folder: str, state: str, left_out: Counter[str]) -> None:
    from pyscratchdet.cli.console import say, warn
    from pyscratchdet.detect.media import describe_endings
    from pyscratchdet.errors import counted

    if left_out:
        warn(f"{counted(left_out.total(), 'file')} left out, not pictures or videos: {describe_endings(left_out)}")
    if state == "resumed":
        say(f"going on with the run in {folder}")
    elif state == "discarded":
        warn(f"{folder}: an unfinished run is given up, which --resume would have gone on with")
    elif state == "finished":
        say(f"{folder} is complete: nothing to do")


def _progress(args: argparse.Namespace, store: PartStore, world: World) -> Progress:
    """Returns what shows the progress of the first process, and so of all."""
    from pyscratchdet.detect.media import count_frames
    from pyscratchdet.progress import Progress

    if not world.is_root:
        return Progress(None, is_shown=False)
    total = count_frames(store.sources(), args.max_frames)
    return Progress(total if total is None else -(-total // world.size))


def _report(store: PartStore) -> Callable[[Frame], None]:
    """Returns what reports a frame that cannot be read: it raises where nothing else is to be seen."""
    from itertools import islice

    from pyscratchdet.cli.console import warn

    sources = list(islice(store.sources(), 2))
    is_alone = len(sources) == 1 and sources[0].kind not in ("database", "shard")

    def report(frame: Frame) -> None:
        assert frame.error is not None
        if is_alone:
            raise frame.error
        warn(frame.error)

    return report


def _write(
    store: PartStore,
    num_units: int,
    head: Mapping[str, object],
    task: PictureTask,
    write: Callable[[PartStore, ResultWriter, Totals], list[str]],
) -> None:
    from itertools import islice

    from pyscratchdet.cli.console import show
    from pyscratchdet.detect.export import FAILED_FILE, ResultWriter
    from pyscratchdet.errors import DataError, counted

    totals = store.totals(num_units)
    if not totals.frames:
        store.discard()
        found = counted(totals.failed, "failure")
        raise DataError("none of the inputs could be read", code="detect.nothing-read", found=found)
    failures = store.failures if totals.failed else tuple
    results = ResultWriter(store.output, head, task.names, lambda: map(task.final_line, store.entries()), failures)
    files = write(store, results, totals)
    if totals.failed:
        names = ", ".join(one["path"] for one in islice(store.failures(), _MOST_NAMES))
        more = f", ...; {FAILED_FILE} lists them" if totals.failed > _MOST_NAMES else ""
        show(f"{counted(totals.failed, 'input')} could not be read: {names}{more}", stderr=True)
    store.finish(files)


def _share(times: list[tuple[float, float]]) -> str:
    """Returns a sentence about the share of time that the net waited; empty for a run of one batch."""
    waited, seconds = (sum(column) for column in zip(*times, strict=True))
    return f"the net waited for pictures {waited / seconds:.0%} of the time" if seconds else ""


def _benchmark(detector: Detector, sources: list[MediaSource], as_json: bool) -> int:
    from rich.table import Table

    from pyscratchdet.cli.console import console, show_json
    from pyscratchdet.detect.benchmark import STAGES, benchmark

    table = Table(
        title=f"milliseconds per picture, input {detector.size[0]}x{detector.size[1]}, {detector.engine.title}",
        title_justify="left",
    )
    table.add_column("batch", justify="right")
    for stage in (*STAGES, "total", "pictures/s"):
        table.add_column(stage, justify="right")
    figures = {batch_size: benchmark(detector, sources, batch_size) for batch_size in (1, 8)}
    if as_json:
        facts = {"input": detector.size, "engine": detector.engine.title}
        show_json({**facts, "seconds_per_picture": figures})
        return 0
    for batch_size, seconds in figures.items():
        total = sum(seconds.values())
        values = [*(seconds[stage] for stage in STAGES), total]
        table.add_row(str(batch_size), *(f"{1000 * value:.2f}" for value in values), f"{1 / total:.1f}")
    console().print(table)
    return 0
