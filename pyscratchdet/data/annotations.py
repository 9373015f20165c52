"""Annotation files as convert_annoset reads them: VOC XML, COCO json of one image, plain text (io.cpp).

All three give the same records: groups by label in the order of first appearance, instances counted within a group,
boxes divided by the image size in float32. Most of what the original only warns about is kept and reported as a remark.
A file is refused for a missing or malformed coordinate, which the original reads as 0, or reversed corners, which it
keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyscratchdet.data.label_map import unknown_class
from pyscratchdet.data.voc_xml import finite_number, read_voc_xml, whole_number
from pyscratchdet.errors import DataError, Position
from pyscratchdet.files import read_bytes, read_json
from pyscratchdet.proto import caffe_pb2

Groups = list[caffe_pb2.AnnotationGroup]


@dataclass
class AnnotationReader:
    """Reads annotation files into groups.

    Attributes:
        labels: The label of each class name (for json: of each category id, as text).
        skip_bad: Skip objects of unknown classes or without area, with a remark. Otherwise unknown classes and reversed
            corners are errors, and a box without width or height is kept, as in the original.
        remarks: (file, what is odd about it) for everything odd so far.
    """

    labels: Mapping[str, int]
    skip_bad: bool = False
    remarks: list[tuple[str, str]] = field(default_factory=list)

    def read(self, path: str, kind: str, height: int, width: int) -> Groups:
        """Returns the annotation groups of one file.

        Args:
            path: The file.
            kind: `xml`, `json` or `txt`.
            height: The picture's, in pixels; if the file states a size, that counts.
            width: Likewise.

        Raises:
            FileError: It cannot be read.
            DataError: It is damaged, or names an unknown class.
        """
        groups = _Groups(self, path)
        {"xml": _read_xml, "json": _read_json, "txt": _read_txt}[kind](path, groups, height, width)
        return groups.finish()


def _read_xml(path: str, groups: _Groups, height: int, width: int) -> None:
    content = read_voc_xml(path)
    groups.size(content.size, height, width)
    for thing in content.objects:
        annotation = groups.add(thing.name)
        if annotation is not None:
            groups.box(annotation, np.array(thing.box_px, np.float32), thing.is_difficult_to_caffe, thing.name)


def _read_json(path: str, groups: _Groups, height: int, width: int) -> None:
    content = read_json(path, "a COCO annotation", "data.annotation")
    try:
        image = content.get("image", {})
        stated = whole_number(str(image.get("width"))), whole_number(str(image.get("height")))
        groups.size(None if None in stated else stated, height, width)  # type: ignore[arg-type]
        for entry in content["annotation"]:
            name = str(entry["category_id"])
            annotation = groups.add(name)
            if annotation is not None:
                groups.box(annotation, _corners(entry["bbox"]), bool(entry.get("iscrowd", 0)), name)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise groups.error(f"damaged annotation: {type(error).__name__}: {error}") from error


def _corners(box: Any) -> np.ndarray:
    x, y, width, height = (np.float32(value) for value in box)
    return np.array([x, y, x + width, y + height])


def _read_txt(path: str, groups: _Groups, height: int, width: int) -> None:
    groups.size((width, height), height, width)
    words = [(word, line) for line, text in enumerate(read_bytes(path).decode(errors="replace").split("\n"), 1)
             for word in text.split()]  # fmt: skip
    for start in range(0, len(words), 5):
        row = [word for word, _ in words[start : start + 5]]
        label, box = whole_number(row[0]), [finite_number(word) for word in row[1:]]
        if label is None or len(box) < 4 or None in box:
            raise groups.error("rows must be: label xmin ymin xmax ymax", " ".join(row), words[start][1])
        groups.box(groups.add_label(label), np.array(box, np.float32), False, row[0])


class _Groups:
    """The groups of one file while they are read."""

    def __init__(self, reader: AnnotationReader, path: str) -> None:
        self._reader = reader
        self._path = path
        self._groups: dict[int, caffe_pb2.AnnotationGroup] = {}
        self._empty: list[caffe_pb2.Annotation] = []

    def size(self, stated: tuple[int, int] | None, height: int, width: int) -> None:
        """Sets the width and height: what the file states or, if it states nothing, the picture's."""
        if stated is None:
            self._remark("no image size")
        elif stated != (width, height):
            self._remark("image size differs from the picture's")
        width, height = stated or (width, height)
        if height == 0 or width == 0:
            raise self.error("no valid image size", f"{width} x {height}")
        self._scale = np.array([width, height, width, height], np.float32)

    def add(self, name: str) -> caffe_pb2.Annotation | None:
        """Adds an object of a class; returns None if the class is unknown and unknown classes are skipped."""
        labels = self._reader.labels
        label = labels.get(name, labels.get(name.strip()))
        if label is None:
            if not self._reader.skip_bad:
                raise unknown_class(name, labels, self._path)
            self._remark("unknown class, object skipped")
            return None
        return self.add_label(label)

    def add_label(self, label: int) -> caffe_pb2.Annotation:
        if label == 0:
            self._remark("object of label 0, which detection nets take for the background")
        group = self._groups.setdefault(label, caffe_pb2.AnnotationGroup(group_label=label))
        instance = group.annotation[-1].instance_id + 1 if group.annotation else 0
        return group.annotation.add(instance_id=instance)

    def box(self, annotation: caffe_pb2.Annotation, corners: np.ndarray, difficult: bool, name: str) -> None:
        """Sets the box of an object of a class from corners in pixels."""
        if not np.isfinite(corners).all():
            raise self.error(f'the box of object "{name}" is not a number', corners.tolist())
        if (corners[2:] < corners[:2]).any() and not self._reader.skip_bad:
            raise self.error(
                f'the corners of object "{name}" are reversed', corners.tolist(), hint="--skip_bad skips such objects"
            )
        if (corners < 0).any() or (corners > self._scale).any():
            self._remark("box extends beyond the picture")
        if (corners[2:] <= corners[:2]).any():
            self._remark("box without area" + (", object skipped" if self._reader.skip_bad else ""))
            self._empty.append(annotation)
        xmin, ymin, xmax, ymax = (corners / self._scale).tolist()
        box = annotation.bbox
        box.xmin, box.ymin, box.xmax, box.ymax, box.difficult = xmin, ymin, xmax, ymax, difficult

    def finish(self) -> Groups:
        """Returns the groups, without the objects to be skipped."""
        if not any(group.annotation for group in self._groups.values()):
            self._remark("no objects")
        if not self._reader.skip_bad or not self._empty:
            return list(self._groups.values())
        kept = []
        for group in self._groups.values():
            annotations = [entry for entry in group.annotation if not any(entry is bad for bad in self._empty)]
            if annotations:
                kept.append(caffe_pb2.AnnotationGroup(group_label=group.group_label, annotation=annotations))
        return kept

    def error(self, message: str, found: object = None, line: int = 0, hint: str | None = None) -> DataError:
        """Returns the error about something in the file."""
        return DataError(message, code="data.annotation", position=Position(self._path, line), found=found, hint=hint)

    def _remark(self, text: str) -> None:
        self._reader.remarks.append((self._path, text))
