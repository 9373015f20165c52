"""Label maps: class names, labels and display names (LabelMap of caffe.proto, MapNameToLabel of io.cpp)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from pyscratchdet.errors import DataError, Position, PrototxtError, nearest
from pyscratchdet.files import read_bytes
from pyscratchdet.proto import caffe_pb2, text

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The classes of PASCAL VOC 2007 to 2012 in the order of their labels, from 1 on."""

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 classes of COCO in the order of their labels, from 1 on."""

COCO_GAPS = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""The category ids from 1 to 90 that COCO does not use."""

COCO_NAME_OF_VOC = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""What COCO calls a class of VOC, if the names differ."""

BACKGROUND = ("none_of_the_above", 0, "background")

BACKGROUND_NAMES = frozenset({"none_of_the_above", "background", "__background__"})
"""What public label maps call label 0."""


def make_label_map(entries: Iterable[tuple[str, int, str]]) -> caffe_pb2.LabelMap:
    """Returns a label map of (name, label, display name) entries."""
    label_map = caffe_pb2.LabelMap()
    for name, label, display_name in entries:
        try:
            label_map.item.add(name=name, label=label, display_name=display_name)
        except UnicodeEncodeError as error:  # half of a character, which JSON can hold
            raise DataError("a class name is not text", code="data.label-map", found=ascii(name)) from error
    return label_map


def voc_label_map() -> caffe_pb2.LabelMap:
    """Returns the label map of PASCAL VOC: background 0, then the 20 classes."""
    return make_label_map([BACKGROUND, *((name, index, name) for index, name in enumerate(VOC_CLASSES, 1))])


def coco_label_map() -> caffe_pb2.LabelMap:
    """Returns the label map of COCO: names are category ids, as annotation files have them."""
    ids = (identity for identity in range(1, 91) if identity not in COCO_GAPS)
    entries = zip(ids, COCO_CLASSES, strict=True)
    return make_label_map(
        [BACKGROUND, *((str(identity), label, name) for label, (identity, name) in enumerate(entries, 1))]
    )


def coco_voc_map() -> dict[int, int]:
    """Returns {COCO label: VOC label} of the classes that VOC has too, background included."""
    coco = {name: label for label, name in enumerate(COCO_CLASSES, 1)}
    pairs = {coco[COCO_NAME_OF_VOC.get(name, name)]: label for label, name in enumerate(VOC_CLASSES, 1)}
    return {0: 0, **pairs}


def read_label_map(path: str | os.PathLike[str]) -> caffe_pb2.LabelMap:
    """Reads a label map prototxt; unknown fields are treated as in `text.parse`.

    `voc` and `coco` stand for the built-in maps, unless there is a file of that name.

    Raises:
        FileError: It cannot be read.
        DataError: It is not a label map, or has no items.
    """
    known = known_label_map(path)
    if known is not None:
        return known
    try:
        label_map = text.read(path, caffe_pb2.LabelMap)
    except PrototxtError as error:
        raise DataError(
            f"not a label map: {error.message}", code="data.label-map", position=error.position,
            expected=error.expected, found=error.found,
            hint="`pyscratchdet create-label-map --include_background NAMES MAP` makes one from a list of names",
        ) from error  # fmt: skip
    if not label_map.item:
        raise DataError("the label map has no items", code="data.label-map", position=Position(os.fspath(path)))
    return label_map


def known_label_map(name: str | os.PathLike[str]) -> caffe_pb2.LabelMap | None:
    """Returns the built-in map called `voc` or `coco`; None for other names, or if there is a file of that name."""
    known = {"voc": voc_label_map, "coco": coco_label_map}
    return known[os.fspath(name)]() if os.fspath(name) in known and not os.path.exists(name) else None


def write_label_map(path: str | os.PathLike[str], label_map: caffe_pb2.LabelMap) -> None:
    """Writes a label map prototxt."""
    text.write(path, label_map)


def name_to_label(
    label_map: caffe_pb2.LabelMap, strict: bool = False, path: str | os.PathLike[str] = ""
) -> dict[str, int]:
    """Returns the label of each name.

    Args:
        label_map: The map.
        strict: Refuse names that occur twice.
        path: The file that the map is from, for the error.

    Raises:
        DataError: A name occurs twice, and `strict` is on.
    """
    labels: dict[str, int] = {}
    for number, item in enumerate(label_map.item):
        if strict and item.name in labels:
            raise _duplicate("name", item.name, number, path)
        labels[item.name] = item.label
    return labels


def label_to_name(
    label_map: caffe_pb2.LabelMap, strict: bool = False, display: bool = False, path: str | os.PathLike[str] = ""
) -> dict[int, str]:
    """Returns the name, or the display name, of each label.

    Args:
        label_map: The map.
        strict: Refuse labels that occur twice.
        display: Return display names, for items that have one.
        path: The file that the map is from, for the error.

    Raises:
        DataError: A label occurs twice, and `strict` is on.
    """
    names: dict[int, str] = {}
    for number, item in enumerate(label_map.item):
        if strict and item.label in names:
            raise _duplicate("label", item.label, number, path)
        names[item.label] = (item.display_name or item.name) if display else item.name
    return names


def _duplicate(field: str, value: str | int, number: int, path: str | os.PathLike[str]) -> DataError:
    """Returns the error about item `number`, whose `field` repeats that of an earlier item."""
    position = None
    if path and known_label_map(path) is None:
        content = text.decode_text(read_bytes(path), os.fspath(path))
        position = text.Locator(content, os.fspath(path)).position("item", number, field, 0)
    shown = f'"{value}"' if isinstance(value, str) else value
    return DataError(f"duplicate {field} {shown} in the label map", code="data.label-map", position=position)


def label_map_from_lines(
    lines: Iterable[str], include_background: bool = True, delimiter: str = " "
) -> caffe_pb2.LabelMap:
    """Returns the label map of `name [label] [display name]` lines (ReadLabelFileToLabelMap).

    Args:
        lines: All have the same number of fields; without a label field, labels are numbered in order.
        include_background: Whether an item for the background, label 0, comes first.
        delimiter: Any of these characters separates fields.

    Raises:
        DataError: Lines have different numbers of fields, or more than 3, or a label is not a number.
    """
    entries = [BACKGROUND] if include_background else []
    count = 0
    for number, line in enumerate(lines, 1):
        fields = line.rstrip("\r\n").translate({ord(character): "\n" for character in delimiter}).split("\n")
        count = count or len(fields)
        if len(fields) != count or count > 3:
            raise DataError(
                f"line {number} of the label file has the wrong number of fields",
                code="data.label-file",
                expected=count if count <= 3 else "1 to 3",
                found=len(fields),
            )
        entries.append((fields[0], _label(fields, len(entries), number), fields[2] if count == 3 else fields[0]))
    return make_label_map(entries)


def unknown_class(name: str, known: Mapping[str, int], path: str) -> DataError:
    """Returns the error about a class name that is not in the label map."""
    hint = nearest(name, known) or f"known classes: {', '.join(known)}"
    return DataError(f'unknown class "{name}"', code="data.unknown-class", position=Position(path), hint=hint)


def _label(fields: list[str], default: int, number: int) -> int:
    if len(fields) == 1:
        return default
    try:
        return int(fields[1])
    except ValueError:
        raise DataError(
            f"line {number} of the label file has a label that is not a number", code="data.label-file", found=fields[1]
        ) from None
