"""Annotation files as convert_annoset reads them: VOC XML, COCO json of one image, plain text (io.cpp).

All three give the same records: groups by label in the order of first appearance, instances counted within a group,
boxes divided by the image size in float32. What the original only warns about is kept, and reported as a remark.
"""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pyscratchdet.data.label_map import unknown_class
from pyscratchdet.errors import DataError, Position
from pyscratchdet.files import read_bytes
from pyscratchdet.proto import caffe_pb2

Groups = list[caffe_pb2.AnnotationGroup]


@dataclass
class AnnotationReader:
    """Reads annotation files into groups.

    Attributes:
        labels: Label of each class name (of each category id as text, for json).
        skip_bad: Leave out, and remark on, objects that are unknown or have no area; otherwise an unknown class is an
            error, and a box without area is kept as in the original.
        remarks: (file, what) of everything odd seen so far.
    """

    labels: Mapping[str, int]
    skip_bad: bool = False
    remarks: list[tuple[str, str]] = field(default_factory=list)

    def read(self, path: str, kind: str, height: int, width: int) -> Groups:
        """Returns the annotation groups of one file.

        Args:
            path: The file.
            kind: `xml`, `json` or `txt`.
            height: Of the picture, in pixels; what the file says wins where it does.
            width: Likewise.

        Raises:
            FileError: It cannot be read.
            DataError: It is damaged, or names an unknown class.
        """
        data = read_bytes(path)
        try:
            groups = _Groups(self, path)
            getattr(self, f"_read_{kind}")(data, groups, height, width)
            return groups.finish()
        except (ElementTree.ParseError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(f"damaged annotation: {error}", code="data.annotation", position=Position(path)) from error

    def _read_xml(self, data: bytes, groups: _Groups, height: int, width: int) -> None:
        root = ElementTree.fromstring(data)
        if root.tag != "annotation":
            raise groups.error("no annotation", f"<{root.tag}>")
        size = [_integer(_text(root.find(f"size/{side}"))) for side in ("height", "width")]
        groups.size(size[0], size[1], height, width)
        for element in root.iterfind("object"):
            self._read_object(element, groups)

    def _read_object(self, element: ElementTree.Element, groups: _Groups) -> None:
        """Fields count in their order: `difficult` only for a box that follows it."""
        annotation, difficult = None, False
        for part in element:
            if part.tag == "name":
                annotation = groups.add(_text(part))
                if annotation is None:
                    return
            elif part.tag == "difficult":
                difficult = _text(part) == "1"
            elif part.tag == "bndbox":
                if annotation is None:
                    raise groups.error("an object whose bndbox comes before its name")
                corners = [_number(_text(part.find(name))) for name in ("xmin", "ymin", "xmax", "ymax")]
                groups.box(annotation, np.array([corner or 0 for corner in corners], np.float32), difficult)

    def _read_json(self, data: bytes, groups: _Groups, height: int, width: int) -> None:
        content = json.loads(data)
        try:
            image = content.get("image", {})
            groups.size(_integer(str(image.get("height"))), _integer(str(image.get("width"))), height, width)
            for entry in content["annotation"]:
                annotation = groups.add(str(entry["category_id"]))
                if annotation is None:
                    continue
                x, y, w, h = (np.float32(value) for value in entry["bbox"])
                groups.box(annotation, np.array([x, y, x + w, y + h]), bool(entry.get("iscrowd", 0)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise groups.error(f"damaged annotation: {type(error).__name__}: {error}") from error

    def _read_txt(self, data: bytes, groups: _Groups, height: int, width: int) -> None:
        groups.size(height, width, height, width)
        tokens = data.decode().split()
        for start in range(0, len(tokens), 5):
            row = [_number(token) for token in tokens[start : start + 5]]
            label = _integer(tokens[start])
            if label is None or len(row) < 5 or None in row:
                raise groups.error("rows must be: label xmin ymin xmax ymax", " ".join(tokens[start : start + 5]))
            groups.box(groups.add_label(label), np.array(row[1:], np.float32), difficult=False)


class _Groups:
    """The groups of one file while they are read."""

    def __init__(self, reader: AnnotationReader, path: str) -> None:
        self._reader = reader
        self._path = path
        self._groups: dict[int, caffe_pb2.AnnotationGroup] = {}
        self._empty: list[caffe_pb2.Annotation] = []

    def size(self, height: int | None, width: int | None, real_height: int, real_width: int) -> None:
        """Takes the size that the file states, or the picture's where it does not."""
        if height is None or width is None:
            self._remark("states no image size")
            height, width = real_height, real_width
        elif (height, width) != (real_height, real_width):
            self._remark("image size differs from the picture's")
        if height == 0 or width == 0:
            raise self.error("no valid image size", f"{width} x {height}")
        self._scale = np.array([width, height, width, height], np.float32)

    def add(self, name: str) -> caffe_pb2.Annotation | None:
        """Adds an object of a class, or returns None where its class is unknown and such are skipped."""
        labels = self._reader.labels
        label = labels.get(name, labels.get(name.strip()))
        if label is None:
            if not self._reader.skip_bad:
                raise unknown_class(name, labels, self._path)
            self._remark("unknown class, object skipped")
            return None
        return self.add_label(label)

    def add_label(self, label: int) -> caffe_pb2.Annotation:
        group = self._groups.setdefault(label, caffe_pb2.AnnotationGroup(group_label=label))
        instance = group.annotation[-1].instance_id + 1 if group.annotation else 0
        return group.annotation.add(instance_id=instance)

    def box(self, annotation: caffe_pb2.Annotation, corners: np.ndarray, difficult: bool) -> None:
        """Sets an object's box from corners in pixels."""
        if not np.isfinite(corners).all():
            raise self.error("a box that is not a number", corners.tolist())
        if (corners < 0).any() or (corners > self._scale).any():
            self._remark("box exceeds the picture")
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

    def error(self, message: str, found: object = None) -> DataError:
        return DataError(message, code="data.annotation", position=Position(self._path), found=found)

    def _remark(self, text: str) -> None:
        self._reader.remarks.append((self._path, text))


def _text(element: ElementTree.Element | None) -> str:
    """Returns an element's own text, as boost's property tree keeps it: untrimmed, without the children's."""
    if element is None:
        return ""
    return (element.text or "") + "".join(child.tail or "" for child in element)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else math.nan


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
