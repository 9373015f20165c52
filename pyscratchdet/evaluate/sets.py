"""The sets that detectors are judged on: VOC trees and COCO instance files as ground-truth tables, and label maps."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyscratchdet.data.coco import CocoSet
from pyscratchdet.data.lists import read_image_set
from pyscratchdet.data.voc import find_picture
from pyscratchdet.data.voc_xml import VocObject, read_voc_xml
from pyscratchdet.errors import DataError, FileError, Position, nearest
from pyscratchdet.evaluate.tables import GroundTruthTable


def find_voc(root: str | os.PathLike[str], year: str | None = None) -> Path:
    """Returns the folder with Annotations and ImageSets: `root` itself, or the one in it.

    Args:
        root: A VOCdevkit, its parent folder, or the folder of one of its years.
        year: Such as "2007" or "VOC2007" where a devkit has several.

    Raises:
        FileError: There is none, or more than one.
    """
    base = Path(root) / "VOCdevkit" if (Path(root) / "VOCdevkit").is_dir() else Path(root)
    if year:
        base = base / (year if year.startswith("VOC") else f"VOC{year}")
    if (base / "Annotations").is_dir():
        return base
    found = sorted(path.parent for path in base.glob("*/Annotations")) if base.is_dir() else []
    if len(found) == 1:
        return found[0]
    raise FileError(
        f"{base}: {'several data sets: ' + ', '.join(path.name for path in found) if found else 'no VOC data set'}",
        code="evaluate.voc-tree",
        expected="a folder with Annotations, ImageSets/Main and JPEGImages",
        hint="choose one by its year" if found else None,
    )


def read_voc_truth(
    folder: str | os.PathLike[str], image_set: str = "test", classes: Sequence[str] | None = None
) -> GroundTruthTable:
    """Reads the annotations of one image set of a VOC tree.

    Args:
        folder: A folder as `find_voc` returns it.
        image_set: Name of a file in ImageSets/Main.
        classes: Foreground classes in label order; by default those that occur, in alphabetical order, which is VOC's.

    Raises:
        FileError: The set, an annotation or a picture is missing.
        DataError: The set is empty, an annotation is damaged, or has a class that `classes` lacks.
    """
    base = Path(folder)
    names = image_names(base, image_set)
    objects: list[tuple[int, VocObject]] = []
    sizes, paths = np.zeros((len(names), 2), np.int64), []
    for index, name in enumerate(names):
        annotation = read_voc_xml(base / "Annotations" / f"{name}.xml")
        objects += [(index, replace(thing, name=thing.name.strip())) for thing in annotation.objects]
        paths.append(find_picture(base / "JPEGImages", name) or base / "JPEGImages" / f"{name}.jpg")
        sizes[index] = annotation.size or (0, 0)
    if classes is None:
        classes = sorted({thing.name for _, thing in objects})
    labels = {name: label for label, name in enumerate(classes, start=1)}
    for index, thing in objects:
        if thing.name not in labels:
            raise DataError(
                f'class "{thing.name}" is not in the label map',
                code="evaluate.label-map",
                position=Position(str(base / "Annotations" / f"{names[index]}.xml")),
                expected=", ".join(classes),
                hint=nearest(thing.name, classes) or "is this the label map of this data set?",
            )
    return GroundTruthTable(
        names,
        tuple(classes),
        sizes,
        paths,
        np.array([index for index, _ in objects], np.int64),
        np.array([labels[thing.name] for _, thing in objects], np.int64),
        np.array([thing.box_px for _, thing in objects], np.float64).reshape(-1, 4),
        np.array([thing.difficult for _, thing in objects], bool),
    )


def image_names(base: Path, image_set: str) -> list[str]:
    """Returns the image names of `ImageSets/Main/<image_set>.txt`.

    Raises:
        FileError: There is no such set; the hint names those that exist.
        DataError: It is empty or names an image twice.
    """
    folder = base / "ImageSets" / "Main"
    path = folder / f"{image_set}.txt"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.txt") if "_" not in p.stem)
        raise FileError(
            f"no image set {path}", code="evaluate.image-set", hint=f"there are: {', '.join(known) or 'none'}"
        )
    names = [name for name, _ in read_image_set(path)]
    if not names:
        raise DataError(f"{path}: the image set is empty", code="evaluate.empty-set")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f'{path}: image "{twice[0]}" is listed twice', code="evaluate.duplicate-image")
    return names


def coco_truth(
    coco: CocoSet, pictures: str | os.PathLike[str] | None = None, classes: Sequence[str] | None = None
) -> GroundTruthTable:
    """Returns a COCO set as a table.

    Args:
        coco: As `read_coco` returns it.
        pictures: Folder of the pictures; by default that of the json.
        classes: Class names in label order; by default the categories by their number, as SSD's label map has them.

    Raises:
        DataError: It has no categories, `classes` lacks one, or an annotation is of another.
    """
    position = Position(coco.path)
    if not coco.categories:
        raise DataError("no categories", code="data.coco", position=position)
    categories = coco.ordered_categories
    if classes is not None:
        by_name = {category["name"]: category for category in categories}
        lacking = [name for name in classes if name not in by_name] + [name for name in by_name if name not in classes]
        if lacking:
            raise DataError(
                f"label map and categories differ in {', '.join(lacking[:5])}",
                code="evaluate.label-map",
                position=position,
                hint="is this the label map of this data set?",
            )
        categories = [by_name[name] for name in classes]
    labels = {category["id"]: label for label, category in enumerate(categories, start=1)}
    images = list(coco.images.values())
    rows = [(index, row) for index, image in enumerate(images) for row in coco.annotations[image["id"]]]
    if strangers := {row["category_id"] for _, row in rows} - labels.keys():
        message = f"annotations of categories that are not listed, such as {min(strangers, key=str)}"
        raise DataError(message, code="data.coco", position=position)
    folder = Path(pictures) if pictures else Path(coco.path).parent
    boxes = np.array([row["bbox"] for _, row in rows], np.float64).reshape(-1, 4)
    return GroundTruthTable(
        [Path(image["file_name"]).stem for image in images],
        tuple(category["name"] for category in categories),
        np.array([_size(image, position) for image in images], np.int64).reshape(-1, 2),
        [folder / image["file_name"] for image in images],
        np.array([index for index, _ in rows], np.int64),
        np.array([labels[row["category_id"]] for _, row in rows], np.int64),
        np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]),
        np.array([bool(row.get("iscrowd", 0)) for _, row in rows], bool),
        [image["id"] for image in images],
        [category["id"] for category in categories],
    )


def _size(image: dict[str, Any], position: Position) -> tuple[int, int]:
    """Returns width and height of an image; 0 where they are not given."""
    width, height = image.get("width", 0), image.get("height", 0)
    if not isinstance(width, int) or not isinstance(height, int):
        found = f"{str(width)[:20]} x {str(height)[:20]}"
        raise DataError(f'image "{image["file_name"]}" has an invalid size', code="data.coco", position=position,
                        found=found)  # fmt: skip
    return width, height


def coco_from_truth(truth: GroundTruthTable) -> dict[str, list[dict[str, Any]]]:
    """Returns a set as COCO instances; difficult objects become crowds, which count neither for nor against."""
    corner, far = truth.boxes_px[:, :2], truth.boxes_px[:, 2:]
    boxes = np.hstack([corner, far - corner]).tolist()
    return {
        "images": [
            {"id": number, "file_name": path.name, "width": int(width), "height": int(height)}
            for number, path, (width, height) in zip(truth.image_ids, truth.paths, truth.sizes, strict=True)
        ],
        "categories": [{"id": n, "name": name} for n, name in zip(truth.category_ids, truth.classes, strict=True)],
        "annotations": [
            {
                "id": row + 1,
                "image_id": truth.image_ids[truth.image[row]],
                "category_id": truth.category_ids[truth.label[row] - 1],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(truth.difficult[row]),
            }
            for row, box in enumerate(boxes)
        ],
    }
