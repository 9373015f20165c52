"""Detections as files that the VOC, COCO and ILSVRC tools read (detection_output_layer.cpp, save_output_param)."""

from __future__ import annotations

import codecs
import json
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pyscratchdet.boxes.detection import Detections
from pyscratchdet.boxes.output import to_pixels
from pyscratchdet.errors import DataError, Position
from pyscratchdet.files import read_bytes, safe_file_name, write_text
from pyscratchdet.proto import caffe_pb2

FORMATS = ("VOC", "COCO", "ILSVRC")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")


def read_name_sizes(path: str | os.PathLike[str]) -> list[tuple[str, int, int]]:
    """Reads lines of name, height, width, as get_image_size writes them; names may contain spaces.

    Raises:
        FileError: The file cannot be read.
        DataError: A line has a different form, or there are no lines.
    """
    rows = []
    text = read_bytes(path).removeprefix(codecs.BOM_UTF8).decode(errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.strip().rsplit(None, 2)
        if not parts:
            continue
        if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts[1:]):
            raise DataError(
                "not a picture's size",
                code="data.name-size",
                position=Position(os.fspath(path), number, text=line[:80]),
                expected="name height width",
            )
        rows.append((parts[0], int(parts[1]), int(parts[2])))
    if not rows:
        raise DataError(
            f"{os.fspath(path)} does not name any picture", code="data.name-size", expected="name height width"
        )
    return rows


@dataclass
class ResultFiles:
    """Collects the detections of a test set, writes them when the set is complete, then starts again.

    Files are written whole or not at all, and only when the set is complete: no file is emptied beforehand.

    Attributes:
        folder: Where files go; made when needed.
        prefix: How file names begin.
        format: One of FORMATS.
        pictures: Name, height, width of each picture of the set, in the order in which they come.
        names: Name of each label, including the background's.
        background: The label that has no file.
        num_classes: Each label below this number has a file (VOC).
        resize: How pictures were resized to the net's input, or None.
    """

    folder: Path
    prefix: str
    format: str
    pictures: Sequence[tuple[str, int, int]]
    names: Mapping[int, str]
    background: int
    num_classes: int
    resize: caffe_pb2.ResizeParameter | None = None

    def __post_init__(self) -> None:
        self._count = 0
        self._rows: list[tuple[str, int, float, list[float]]] = []

    def add(self, detections: Detections, num_images: int) -> None:
        """Adds a batch of the next `num_images` pictures; after the last one the first follows again.

        Raises:
            DataError: A label has no name.
            FileError: A file cannot be written.
        """
        labels = detections.label.tolist()
        if missing := sorted(set(labels) - set(self.names)):
            raise DataError("a detected label is not in the label map", code="data.label-map", found=missing[0])
        places = [(self._count + image) % len(self.pictures) for image in detections.image.tolist()]
        sizes = torch.tensor([self.pictures[place][1:] for place in places], dtype=torch.int64).reshape(-1, 2)
        boxes = to_pixels(detections.box.detach().cpu(), sizes, self.resize)[0].numpy()
        corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        # Halves are rounded away from zero, like C's round; no value is negative.
        rounded = (np.floor((corners * np.float32(100)).astype(np.float64) + 0.5) / 100).astype(np.float32)
        scores = detections.score.detach().cpu().tolist()
        rows = [
            (self.pictures[place][0], label, score, box)
            for place, label, score, box in zip(places, labels, scores, rounded.tolist(), strict=True)
        ]
        images = np.array(detections.image.tolist(), np.int64)
        start = 0
        for image in range(num_images):
            end = int(np.searchsorted(images, image, "right"))
            self._rows += rows[start:end]
            start = end
            self._count += 1
            if self._count == len(self.pictures):
                self._write()
                self._count, self._rows = 0, []

    def _write(self) -> None:
        if self.format == "COCO":
            write_text(self.folder / f"{self.prefix}.json", self._json())
        elif self.format == "ILSVRC":
            lines = (f"{name} {label} {_line(score, box)}\n" for name, label, score, box in self._rows)
            write_text(self.folder / f"{self.prefix}.txt", "".join(lines))
        else:
            for label in range(self.num_classes):
                if label != self.background:
                    lines = (f"{name} {_line(score, box)}\n" for name, own, score, box in self._rows if own == label)
                    name = safe_file_name(self.names[label]) if label in self.names else ""
                    write_text(self.folder / f"{self.prefix}{name}.txt", "".join(lines))

    def _json(self) -> str:
        rows = [
            {
                "image_id": _number_or_text(name),
                "category_id": _number_or_text(self.names[label]),
                "bbox": [_number(value) for value in box],
                "score": _number(score),
            }
            for name, label, score, box in self._rows
        ]
        # The original prints an object around the list, indented by 4, and cuts the object off afterwards.
        return textwrap.indent(json.dumps(rows, indent=4), " " * 4).strip().removesuffix("]") + "\n]\n"


def _line(score: float, box: Sequence[float]) -> str:
    """Score and whole pixels xmin, ymin, xmax, ymax; x, y, width and height are truncated first."""
    x, y, width, height = (int(value) for value in box)
    return f"{score:g} {x} {y} {x + width} {y + height}"


def _number(value: float) -> int | float:
    """A float32 with nine digits; a whole number without a decimal point."""
    rounded = float(f"{value:.9g}")
    return int(rounded) if rounded.is_integer() else rounded


def _number_or_text(text: str) -> int | float | str:
    return json.loads(text) if _NUMBER.fullmatch(text) else text
