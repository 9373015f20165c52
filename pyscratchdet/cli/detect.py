"""`pyscratchdet detect`: look at pictures, folders, videos or a camera's picture with a net, and draw what it finds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pyscratchdet.cli.detector_options import (
    add_detector_arguments,
    finite,
    is_onnx,
    make_detector,
    make_labeller,
    positive,
)
from pyscratchdet.cli.flags import add_json_flag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyscratchdet.detect.detector import Detector
    from pyscratchdet.detect.export import DetectionRun
    from pyscratchdet.detect.media import Frame, MediaSource
    from pyscratchdet.detect.tables import ImageDetections

_TASKS = ("detect", "segment", "classify")
_THRESHOLD = 0.5
_MOST_LINES = 20  # pictures whose labels are also printed

_EPILOG = """\
What the net is for is seen by its outputs: boxes (detect), a label for every pixel (segment) or for the whole picture
(classify); --task says it where that is not plain. segment draws the labels over the picture, with a legend, and writes
them as <name>_labels.png; classify names the five best classes. Both write labels.json.

A picture that cannot be read is reported and left out; the exit status is 0 if at least one could be read, and 2
if none could. Drawn pictures, detections and crops go to the output folder under the inputs' names."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures, folders, videos, or a camera's number")
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
        default="json",
        metavar="NAME,...",
        help="what to write: json, voc, coco, csv (default: %(default)s)",
    )
    parser.add_argument("--crops", action="store_true", help="also write a crop of every object, by class")
    parser.add_argument("--no-draw", action="store_true", help="write no drawn pictures")
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop a video or camera after N frames")
    parser.add_argument("--benchmark", action="store_true", help="time each stage at batch 1 and 8, and write nothing")
    add_json_flag(parser, "with --benchmark")
    parser.set_defaults(interruption="stops without results; ends a camera, of which all is written")


def run(args: argparse.Namespace) -> int:
    """Detects."""
    from pyscratchdet.cli.console import warn
    from pyscratchdet.detect.media import find_media
    from pyscratchdet.errors import UsageError, counted

    formats = _parse_formats(args.format)
    if args.json and not args.benchmark:
        raise UsageError("--json is for the times", code="usage.option", expected="--benchmark")
    if args.max_frames is not None:
        positive(args.max_frames, "--max-frames")
    media = find_media(args.inputs)
    if media.left_out:
        files = counted(media.left_out.total(), "file")
        warn(f"{files} left out, not pictures or videos: {media.describe_left_out()}")
    task = _task(args)
    if task != "detect":
        return _label(args, task, media.sources)
    detector = make_detector(args)
    if args.benchmark:
        return _benchmark(detector, media.sources, args.json)
    return _detect(args, detector, media.sources, formats)


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


def _label(args: argparse.Namespace, task: str, sources: list[MediaSource]) -> int:
    """Names what whole pictures or their pixels show."""
    from pathlib import Path

    from pyscratchdet.cli.console import say
    from pyscratchdet.detect.labels import LabelRun
    from pyscratchdet.detect.output import PictureWriter
    from pyscratchdet.errors import UsageError, counted

    for option in ("threshold", "classes", "crops", "benchmark"):
        if getattr(args, option):
            raise UsageError(f"--{option} is for --task detect", code="usage.option", found=f"--task {task}")
    if args.format != "json":
        expected = "json"
        raise UsageError("--format is for --task detect", code="usage.option", expected=expected, found=args.format)
    labeller = make_labeller(args, task)
    failed: dict[str, str] = {}
    with PictureWriter(args.output, labeller.names) as pictures:
        run = LabelRun(labeller, None if args.no_draw else pictures, Path(args.output))
        _look(args, sources, labeller.batch_size, failed, run.add)
    _check_read(len(run.records), failed)
    run.write({"model": args.model, "weights": args.weights}, failed)
    say(f'{counted(len(run.records), "picture")}, {task} by output "{labeller.output.blob}"')
    for line in run.seen()[:_MOST_LINES]:
        say(line)
    _say_end(args.output, failed)
    return 0


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


def _detect(args: argparse.Namespace, detector: Detector, sources: list[MediaSource], formats: list[str]) -> int:
    from pyscratchdet.detect.export import DetectionRun, FrameDetections, write_run
    from pyscratchdet.detect.output import PictureWriter

    wanted = _wanted_labels(detector, args.classes)
    threshold = _THRESHOLD if args.threshold is None else args.threshold
    settings = {"model": args.model, "weights": args.weights, "threshold": threshold}
    settings["engine"] = detector.engine.title
    run = DetectionRun(detector.names, settings=settings)

    def find(batch: list[Frame]) -> None:
        results = detector.detect([frame.image for frame in batch], threshold)  # type: ignore[misc]
        for frame, found in zip(batch, results, strict=True):
            chosen = _of_classes(found, wanted)
            run.records.append(FrameDetections.of(frame, chosen))
            pictures.add(frame, chosen)

    with PictureWriter(args.output, detector.names, draw=not args.no_draw, crops=args.crops) as pictures:
        _look(args, sources, detector.batch_size, run.failed, find)
    if run.records:
        write_run(run, args.output, formats)
    return _sum_up(args.output, run)


def _look(
    args: argparse.Namespace,
    sources: list[MediaSource],
    batch_size: int,
    failed: dict[str, str],
    work: Callable[[list[Frame]], None],
) -> None:
    """Calls `work` with batches of the readable frames, showing progress; Ctrl-C ends a camera."""
    from pyscratchdet.detect.media import count_frames, read_frames
    from pyscratchdet.progress import Progress

    live = any(source.kind == "camera" for source in sources)
    done = 0
    with Progress(count_frames(sources, args.max_frames)) as progress:
        try:
            frames = read_frames(sources, args.max_frames)
            for batch in _batches(frames, 1 if live else batch_size, None if len(sources) == 1 else failed):
                work(batch)
                done += len(batch)
                progress(done)
        except KeyboardInterrupt:
            if not live:
                raise


def _of_classes(found: ImageDetections, wanted: list[int] | None) -> ImageDetections:
    import numpy as np

    return found if wanted is None else found.select(np.isin(found.labels, wanted))


def _batches(frames: Iterator[Frame], size: int, failed: dict[str, str] | None) -> Iterator[list[Frame]]:
    """Yields the readable frames in batches; the others are reported, or raised where nothing else is to be seen."""
    from pyscratchdet.cli.console import warn

    batch: list[Frame] = []
    for frame in frames:
        if frame.error is not None:
            if failed is None:
                raise frame.error
            failed[frame.source.path] = str(frame.error)
            warn(frame.error)
            continue
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _sum_up(folder: str, run: DetectionRun) -> int:
    from pyscratchdet.cli.console import say
    from pyscratchdet.errors import counted

    _check_read(len(run.records), run.failed)
    counts: dict[str, int] = {}
    for record in run.records:
        for label in record.found.labels.tolist():
            counts[run.names[label]] = counts.get(run.names[label], 0) + 1
    each = ", ".join(f"{name}: {number}" for name, number in sorted(counts.items(), key=lambda item: -item[1]))
    objects = counted(sum(counts.values()), "object") + (f" ({each})" if each else "")
    say(f"{counted(len(run.records), 'picture')}, {objects}")
    _say_end(folder, run.failed)
    return 0


def _check_read(number: int, failed: dict[str, str]) -> None:
    from pyscratchdet.errors import DataError, counted

    if not number:
        raise DataError(
            "none of the inputs could be read", code="detect.nothing-read", found=counted(len(failed), "failure")
        )


def _say_end(folder: str, failed: dict[str, str]) -> None:
    from pyscratchdet.cli.console import say, show
    from pyscratchdet.errors import counted

    if failed:
        show(f"{counted(len(failed), 'input')} could not be read: {', '.join(failed)}", stderr=True)
    say(f"written to {folder}")


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
