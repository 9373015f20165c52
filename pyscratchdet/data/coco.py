"""COCO sets: from an instances json to a list of pictures, an annotation file for each and a label map; and back."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyscratchdet.data.label_map import BACKGROUND, make_label_map
from pyscratchdet.data.lists import Entry
from pyscratchdet.errors import DataError, Position
from pyscratchdet.files import read_json, write_text
from pyscratchdet.proto import caffe_pb2


@dataclass(frozen=True)
class CocoSet:
    """A COCO json.

    Attributes:
        path: Where it was read from.
        images: By id.
        annotations: Of each image id, in the file's order.
        categories: As in the file.
        content: The file as it is.
    """

    path: str
    images: dict[int, dict[str, Any]]
    annotations: dict[int, list[dict[str, Any]]]
    categories: list[dict[str, Any]]
    content: dict[str, Any]

    @property
    def ordered_categories(self) -> list[dict[str, Any]]:
        """The categories ordered by id, which is the order of the labels from 1 on."""
        return sorted(self.categories, key=lambda category: (isinstance(category["id"], str), category["id"]))

    def label_map(self) -> caffe_pb2.LabelMap:
        """Returns labels from 1 on in the order of the categories; names are category ids, as in the annotations."""
        ordered = self.ordered_categories
        entries = [(str(category["id"]), label, category["name"]) for label, category in enumerate(ordered, 1)]
        return make_label_map([BACKGROUND, *entries])


def read_coco(path: str | os.PathLike[str], names_only: bool = False) -> CocoSet:
    """Reads a COCO json, with instances or with pictures only (test-dev).

    Args:
        path: The json.
        names_only: Whether only the pictures' names count, not their folders, so that these may lead anywhere.

    Raises:
        FileError: It cannot be read.
        DataError: It is not such a json, has no images, names one outside the pictures' folder, or has an annotation
            that belongs to no image.
    """
    content = read_json(path, "a COCO json", "data.coco")
    fault = _fault(content, names_only)
    if fault:
        raise DataError(f"not a COCO json: {fault}", code="data.coco", position=Position(os.fspath(path)))
    images = {image["id"]: image for image in content["images"]}
    annotations: dict[int, list[dict[str, Any]]] = {identity: [] for identity in images}
    for annotation in content.get("annotations", []):
        annotations[annotation["image_id"]].append(annotation)
    return CocoSet(os.fspath(path), images, annotations, content.get("categories", []), content)


# What each table's rows must have.
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "images": {"id": (int, str), "file_name": (str,)},
    "annotations": {"image_id": (int, str), "category_id": (int, str), "bbox": (list,)},
    "categories": {"id": (int, str), "name": (str,)},
}


def _fault(content: Any, names_only: bool) -> str | None:
    """Returns what is wrong with a json; None if nothing is."""
    if not isinstance(content, dict) or "images" not in content:
        return "'images' is missing"
    for table, fields in _FIELDS.items():
        rows = content.get(table, [])
        if not isinstance(rows, list):
            return f"'{table}' is not a list"
        for number, row in enumerate(rows):
            if fault := _row_fault(row, fields):
                return f"{table}[{number}] {fault}"
        identities = [row["id"] for row in rows if table != "annotations"]
        if len(set(identities)) < len(identities):
            twice = next(identity for identity, count in Counter(identities).items() if count > 1)
            return f"'{table}' has the id {twice} twice"
    if not content["images"]:
        return "no images"
    outside = [name for image in content["images"] if not _is_inside(name := image["file_name"])]
    if outside and not names_only:
        return f"file_name {outside[0]!r} is not a path within the pictures' folder"
    strangers = {row["image_id"] for row in content.get("annotations", [])} - {row["id"] for row in content["images"]}
    return f"annotations of images that are not listed, such as {min(strangers, key=str)}" if strangers else None


def _row_fault(row: Any, fields: dict[str, tuple[type, ...]]) -> str | None:
    if not isinstance(row, dict):
        return "is not an object"
    for field, kinds in fields.items():
        if field not in row:
            return f"has no {field}"
        value = row[field]
        is_right = isinstance(value, kinds) and not isinstance(value, bool)
        if field == "bbox" and is_right:
            is_right = len(value) == 4 and all(isinstance(number, int | float) for number in value)
        if not is_right:
            return f"has a wrong {field}: {str(value)[:60]}"
    return None


def _is_inside(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in name.split("/") and "\0" not in name and bool(name.strip())


def split_coco(
    sets: Sequence[CocoSet],
    root: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    without: Iterable[int] = (),
) -> list[Entry]:
    """Writes one annotation file per picture, as the original's scripts do, and returns the (picture, file) pairs.

    Args:
        sets: In order; trainval35k is train and val without minival.
        root: Folder of the pictures, or of subfolders with them that are named as in the json's or picture's name.
        annotations: Folder to write to; the pairs name the files relative to `root`.
        without: Ids of images to leave out.

    Raises:
        DataError: A picture is missing.
    """
    excluded, taken = set(without), set[Path]()
    entries = []
    for coco in sets:
        for identity, image in coco.images.items():
            if identity in excluded:
                continue
            file = (Path(annotations) / image["file_name"]).with_suffix(".json")
            if file in taken:  # a.jpg and a.png
                file = Path(annotations) / f"{image['file_name']}.json"
            taken.add(file)
            write_text(file, json.dumps({"image": image, "annotation": coco.annotations[identity]}))
            entries.append((_picture(coco, image, Path(root)), os.path.relpath(file, root)))
    if not entries:
        raise DataError("no pictures are left", code="data.coco")
    return entries


def _picture(coco: CocoSet, image: dict[str, Any], root: Path) -> str:
    """Returns a picture's path relative to the root: COCO_val2014_1.jpg may lie in val2014/."""
    name = image["file_name"]
    subset, prefix = Path(coco.path).stem.rpartition("_")[2], name.split("_")
    folders = ["", subset, *prefix[1:2]]
    for folder in folders:
        if (root / folder / name).is_file():
            return os.path.join(folder, name)
    raise DataError(
        f"no picture {name} in {root}", code="data.coco", hint=f"nor in its folders {', '.join(folders[1:])}"
    )


def coco_of_records(
    records: Iterable[tuple[str, caffe_pb2.AnnotatedDatum]], label_map: caffe_pb2.LabelMap
) -> dict[str, Any]:
    """Returns an instances json made from AnnotatedDatum records: the way back.

    Args:
        records: (picture name, record) pairs; ids count from 1, `difficult` becomes `iscrowd`.
        label_map: Its display names become the categories, its labels their ids.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for identity, (name, record) in enumerate(records, 1):
        width, height = record.datum.width, record.datum.height
        images.append({"id": identity, "file_name": name, "width": width, "height": height})
        for group in record.annotation_group:
            for entry in group.annotation:
                box = entry.bbox
                corner, size = (box.xmin * width, box.ymin * height), (box.xmax - box.xmin, box.ymax - box.ymin)
                sides = (size[0] * width, size[1] * height)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": identity,
                        "category_id": group.group_label,
                        "bbox": [*corner, *sides],
                        "area": sides[0] * sides[1],
                        "iscrowd": int(box.difficult),
                    }
                )
    categories = [{"id": item.label, "name": item.display_name or item.name} for item in label_map.item if item.label]
    return {"images": images, "annotations": annotations, "categories": categories}
