"""`pyscratchdet detect`: find and draw objects in pictures, folders, videos or a camera's picture."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pyscratchdet.cli.detector_options import add_detector_arguments, finite, make_detector, positive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyscratchdet.detect.detector import Detector
    from pyscratchdet.detect.export import DetectionRun
    from pyscratchdet.detect.media import Frame, MediaSource
    from pyscratchdet.detect.tables import ImageDetections

_EPILOG = """\
A picture that cannot be read is reported and left out; the exit status is 0 if at least one could be read, and 2
if none could. Drawn pictures, detections and crops go to the output folder under the inputs' names."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures, folders, videos, or a camera's number")
    add_detector_arguments(parser)
    parser.add_argument(
        "-o", "--output", default="detections", metavar="DIR", help="folder to write (default: %(default)s)"
    )
    parser.add_argument(
        "--threshold", type=finite, default=0.5, metavar="SCORE", help="lowest score shown (default: %(default)s)"
    )
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


def run(args: argparse.Namespace) -> int:
    """Detects."""
    from pyscratchdet.cli.console import warn
    from pyscratchdet.detect.media import find_media
    from pyscratchdet.errors import counted

    formats = _parse_formats(args.format)
    if args.max_frames is not None:
        positive(args.max_frames, "--max-frames")
    media = find_media(args.inputs)
    if media.left_out:
        files = counted(media.left_out.total(), "file")
        warn(f"{files} left out, not pictures or videos: {media.describe_left_out()}")
    detector = make_detector(args)
    if args.benchmark:
        return _benchmark(detector, media.sources)
    return _detect(args, detector, media.sources, formats)


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
    from pyscratchdet.detect.media import count_frames, read_frames
    from pyscratchdet.detect.output import PictureWriter
    from pyscratchdet.progress import Progress

    wanted = _wanted_labels(detector, args.classes)
    settings = {"model": args.model, "weights": args.weights, "threshold": args.threshold}
    settings["engine"] = detector.engine.title
    run = DetectionRun(detector.names, settings=settings)
    live = any(source.kind == "camera" for source in sources)
    with (
        Progress(count_frames(sources, args.max_frames)) as progress,
        PictureWriter(args.output, detector.names, draw=not args.no_draw, crops=args.crops) as pictures,
    ):
        frames = read_frames(sources, args.max_frames)
        try:
            for batch in _batches(frames, 1 if live else detector.batch_size, run):
                results = detector.detect([frame.image for frame in batch], args.threshold)  # type: ignore[misc]
                for frame, found in zip(batch, results, strict=True):
                    chosen = _of_classes(found, wanted)
                    run.records.append(FrameDetections.of(frame, chosen))
                    pictures.add(frame, chosen)
                progress(len(run.records))
        except KeyboardInterrupt:
            if not live:
                raise
    if run.records:
        write_run(run, args.output, formats)
    return _sum_up(args.output, run)


def _of_classes(found: ImageDetections, wanted: list[int] | None) -> ImageDetections:
    import numpy as np

    return found if wanted is None else found.select(np.isin(found.labels, wanted))


def _batches(frames: Iterator[Frame], size: int, run: DetectionRun) -> Iterator[list[Frame]]:
    """Yields the readable frames in batches; the others are reported."""
    from pyscratchdet.cli.console import warn

    batch: list[Frame] = []
    for frame in frames:
        if frame.image is None:
            run.failed[frame.source.path] = str(frame.error)
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
    from pyscratchdet.errors import DataError, counted

    if not run.records:
        raise DataError(
            "none of the inputs could be read", code="detect.nothing-read", found=counted(len(run.failed), "failure")
        )
    counts: dict[str, int] = {}
    for record in run.records:
        for label in record.found.labels.tolist():
            counts[run.names[label]] = counts.get(run.names[label], 0) + 1
    each = ", ".join(f"{name}: {number}" for name, number in sorted(counts.items(), key=lambda item: -item[1]))
    objects = counted(sum(counts.values()), "object") + (f" ({each})" if each else "")
    say(f"{counted(len(run.records), 'picture')}, {objects}")
    if run.failed:
        say(f"{counted(len(run.failed), 'input')} could not be read: {', '.join(run.failed)}", stderr=True)
    say(f"written to {folder}")
    return 0


def _benchmark(detector: Detector, sources: list[MediaSource]) -> int:
    from rich.table import Table

    from pyscratchdet.cli.console import console
    from pyscratchdet.detect.benchmark import STAGES, benchmark

    table = Table(
        title=f"milliseconds per picture, input {detector.size[0]}x{detector.size[1]}, {detector.engine.title}",
        title_justify="left",
    )
    table.add_column("batch", justify="right")
    for stage in (*STAGES, "total", "pictures/s"):
        table.add_column(stage, justify="right")
    for batch_size in (1, 8):
        seconds = benchmark(detector, sources, batch_size)
        total = sum(seconds.values())
        values = [*(seconds[stage] for stage in STAGES), total]
        table.add_row(str(batch_size), *(f"{1000 * value:.2f}" for value in values), f"{1 / total:.1f}")
    console().print(table)
    return 0
