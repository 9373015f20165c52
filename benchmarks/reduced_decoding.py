"""`detect --reduced`: what decoding JPEGs at a half, a quarter or an eighth of their size gains, and what it changes.

    python benchmarks/reduced_decoding.py --data DATA --model DEPLOY --weights FILE --mean 104,117,123
        [--enlarged 1,2,4] [--output FOLDER]

DATA is a data folder as `lmdb folder` writes it, of pictures for which the detector is trained; scripts/train_own.sh
makes all three. Its pictures are enlarged (cubic, JPEG of quality 95), decoded in both ways and looked at by the net.
Prints mean average precision, how far boxes move, and pictures a second and core in CPU time on one thread, the two
ways taking turns with each picture; writes the table to FOLDER/<date>-reduced-decoding.md.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch

from pyscratchdet import __version__
from pyscratchdet.data.images import SizedPicture, decode_at_least, decode_image
from pyscratchdet.detect.detector import Detector, Preparation
from pyscratchdet.detect.runner import to_table
from pyscratchdet.detect.tables import ImageDetections
from pyscratchdet.evaluate.sets import folder_truth
from pyscratchdet.evaluate.tables import GroundTruthTable
from pyscratchdet.evaluate.voc import evaluate_voc
from pyscratchdet.files import write_text
from pyscratchdet.memory import keep_freed_memory

SHOWN = 0.3  # scores whose boxes are compared


def enlarged(path: Path, factor: int) -> bytes:
    """Returns a picture as a larger JPEG; the file itself where the factor is 1."""
    data = path.read_bytes()
    if factor == 1:
        return data
    image = cv2.resize(decode_image(data), None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


class Way:
    """Decoding in one way: what it finds and how long it takes."""

    def __init__(self, detector: Detector, least: tuple[int, int] | None) -> None:
        self._detector, self._least = detector, least
        self.found: list[ImageDetections] = []
        self.read = self.net = 0.0

    def look(self, data: bytes) -> SizedPicture:
        """Looks at a picture."""
        began = time.process_time()
        image, size = decode_at_least(data, "picture", self._least)
        prepared = self._detector.prepare(image)
        read = time.process_time()
        self.found += self._detector.find(prepared[None], [size])
        self.read, self.net = self.read + read - began, self.net + time.process_time() - read
        return image, size


def moved(first: list[ImageDetections], second: list[ImageDetections], side: int) -> float:
    """Returns the median distance of the nearest box of the same class, in pixels of an input of this side."""
    distances = []
    for one, other, size in ((a, b, np.abs(a.boxes_px).max(initial=1)) for a, b in zip(first, second, strict=True)):
        for label, box in zip(one.labels[one.scores >= SHOWN], one.boxes_px[one.scores >= SHOWN], strict=True):
            like = other.boxes_px[other.labels == label]
            if len(like):
                distances.append(np.abs(like - box).max(1).min() * side / size)
    return float(np.median(distances))


def row(truth: GroundTruthTable, detector: Detector, factor: int) -> str:
    """Returns the table's line for one enlargement."""
    whole, reduced = Way(detector, None), Way(detector, detector.size)
    for number, path in enumerate(truth.paths):
        data = enlarged(path, factor)
        for way in (whole, reduced) if number % 2 else (reduced, whole):
            image, size = way.look(data)
            if way is reduced:
                reduction = round(size[0] / image.shape[0])
    larger = replace(truth, boxes_px=truth.boxes_px * factor, sizes=truth.sizes * factor)
    aps = [100 * evaluate_voc(larger, to_table(way.found), "area").mean_ap for way in (whole, reduced)]
    rates = [len(truth.paths) / way.read for way in (whole, reduced)]
    whole_rates = [len(truth.paths) / (way.read + way.net) for way in (whole, reduced)]
    return (
        f"| {size[1]} x {size[0]} | 1/{reduction} | {aps[0]:.2f} | {aps[1]:.2f} | {aps[1] - aps[0]:+.2f} "
        f"| {moved(whole.found, reduced.found, max(detector.size)):.2f} | {rates[0]:.1f} | {rates[1]:.1f} "
        f"| {rates[1] / rates[0]:.1f} | {whole_rates[1] / whole_rates[0]:.2f} |"
    )


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--mean", default="104,117,123")
    parser.add_argument("--enlarged", default="1,2,4")
    parser.add_argument("--output", default="benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    preparation = Preparation(tuple(float(part) for part in args.mean.split(",")))
    detector = Detector(args.model, args.weights, preparation=preparation, batch_size=1)
    lines = [
        f"# Reduced decoding, {date.today()}",
        "",
        f"pyscratchdet {__version__}, OpenCV {cv2.__version__}, x86_64 CPU, 1 thread, CPU time; the net's input is "
        f"{detector.size[1]} x {detector.size[0]}. Moved: the median distance between boxes of both ways, in pixels of "
        "that input. Reading is decoding and preparing, in pictures a second.",
        "",
    ]
    for part in ("test", "train"):
        truth = folder_truth(args.data, part)
        lines += [
            f"## The {len(truth.paths)} {part} pictures",
            "",
            "| pictures | decoded at | mAP, whole | mAP, reduced | difference | moved "
            "| reading, whole | reading, reduced | times as fast | with the net |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
            *(row(truth, detector, int(factor)) for factor in args.enlarged.split(",")),
            "",
        ]
    text = "\n".join(lines)
    print(text)
    write_text(Path(args.output) / f"{date.today()}-reduced-decoding.md", text)


if __name__ == "__main__":
    main()
