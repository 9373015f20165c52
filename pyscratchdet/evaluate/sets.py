"""The sets that detectors are judged on: VOC trees and COCO instance files as ground-truth tables, and label maps."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyscratchdet.errors import DataError, FileError, nearest
from pyscratchdet.evaluate.tables import GroundTruthTable
from pyscratchdet.files import read_bytes

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def find_voc(root: str | os.PathLike[str], year: str | None = None) -> Path:
    """Returns the folder with Annotations and ImageSets: `root` itself, or the one in it.

    Args:
        root: A VOCdevkit, the folder it is in, or one of its years.
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
        hint="choose one with the year" if found else None,
    )


def read_voc_truth(
    folder: str | os.PathLike[str], image_set: str = "test", classes: Sequence[str] | None = None
) -> GroundTruthTable:
    """Reads the annotations of one image set of a VOC tree.

    Args:
        folder: A folder as `find_voc` returns it.
        image_set: Name of a file in ImageSets/Main.
        classes: Foreground classes in label order; by default those that occur, by alphabet, which is VOC's order.

    Raises:
        FileError: The set, an annotation or a picture is missing.
        DataError: The set is empty, an annotation is damaged, or has a class that `classes` lacks.
    """
    base = Path(folder)
    names = read_image_set(base, image_set)
    objects: list[tuple[int, str, list[float], bool]] = []
    sizes, paths = np.zeros((len(names), 2), np.int64), []
    for index, name in enumerate(names):
        size, found = _read_annotation(base / "Annotations" / f"{name}.xml")
        objects += [(index, *thing) for thing in found]
        paths.append(_picture(base / "JPEGImages", name))
        sizes[index] = size
    if classes is None:
        classes = sorted({name for _, name, _, _ in objects})
    labels = {name: label for label, name in enumerate(classes, start=1)}
    for index, name, _, _ in objects:
        if name not in labels:
            raise DataError(
                f'{names[index]}: class "{name}" is not in the label map',
                code="evaluate.label-map",
                expected=", ".join(classes),
                hint=nearest(name, classes) or "is this the label map of this data set?",
            )
    return GroundTruthTable(
        names,
        tuple(classes),
        sizes,
        paths,
        np.array([index for index, _, _, _ in objects], np.int64),
        np.array([labels[name] for _, name, _, _ in objects], np.int64),
        np.array([box for _, _, box, _ in objects], np.float64).reshape(-1, 4),
        np.array([difficult for _, _, _, difficult in objects], bool),
    )


def read_image_set(base: Path, image_set: str) -> list[str]:
    """Returns the image names of `ImageSets/Main/<image_set>.txt`.

    Raises:
        FileError: There is no such set; the hint names those there are.
        DataError: It is empty or names an image twice.
    """
    folder = base / "ImageSets" / "Main"
    path = folder / f"{image_set}.txt"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.txt") if "_" not in p.stem)
        raise FileError(
            f"no image set {path}", code="evaluate.image-set", hint=f"there are: {', '.join(known) or 'none'}"
        )
    names = [line.split()[0] for line in read_bytes(path).decode(errors="replace").splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: the image set is empty", code="evaluate.empty-set")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f'{path}: image "{twice}" stands there twice', code="evaluate.duplicate-image")
    return names


def _picture(folder: Path, name: str) -> Path:
    return next(
        (path for suffix in _SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), folder / f"{name}.jpg"
    )


def _read_annotation(path: Path) -> tuple[tuple[int, int], list[tuple[str, list[float], bool]]]:
    data = read_bytes(path)
    try:
        root = ElementTree.fromstring(data)
        size = (int(root.findtext("size/width", "0")), int(root.findtext("size/height", "0")))
        found = []
        for thing in root.iter("object"):
            box = [float(thing.findtext(f"bndbox/{tag}", "")) for tag in ("xmin", "ymin", "xmax", "ymax")]
            found.append((thing.findtext("name", "").strip(), box, thing.findtext("difficult", "0").strip() == "1"))
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: not a VOC annotation: {error}", code="evaluate.annotation") from None
    return size, found


def read_coco_truth(
    annotations: str | os.PathLike[str],
    pictures: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
) -> GroundTruthTable:
    """Reads a COCO instances json.

    Args:
        annotations: The json file.
        pictures: Folder of the pictures; beside the json by default.
        classes: Class names in label order; by default the categories by their number, as SSD's label map has them.

    Raises:
        FileError: The file cannot be read.
        DataError: It is not COCO instances, or `classes` lacks a category.
    """
    data = load_coco_json(annotations)
    categories = sorted(data["categories"], key=lambda category: category["id"])
    if classes is not None:
        by_name = {category["name"]: category for category in categories}
        lacking = [name for name in classes if name not in by_name] + [name for name in by_name if name not in classes]
        if lacking:
            raise DataError(
                f"{os.fspath(annotations)}: label map and categories differ in {', '.join(lacking[:5])}",
                code="evaluate.label-map",
                hint="is this the label map of this data set?",
            )
        categories = [by_name[name] for name in classes]
    labels = {category["id"]: label for label, category in enumerate(categories, start=1)}
    images = data["images"]
    index = {image["id"]: number for number, image in enumerate(images)}
    folder = Path(pictures) if pictures else Path(annotations).parent
    try:
        rows = [row for row in data["annotations"] if row["image_id"] in index]
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        return GroundTruthTable(
            [Path(image["file_name"]).stem for image in images],
            tuple(category["name"] for category in categories),
            np.array([(image.get("width", 0), image.get("height", 0)) for image in images], np.int64).reshape(-1, 2),
            [folder / image["file_name"] for image in images],
            np.array([index[row["image_id"]] for row in rows], np.int64),
            np.array([labels[row["category_id"]] for row in rows], np.int64),
            np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]),
            np.array([bool(row.get("iscrowd", 0)) for row in rows], bool),
            [image["id"] for image in images],
            [category["id"] for category in categories],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{os.fspath(annotations)}: not COCO instances: {error!r}", code="evaluate.coco-annotations"
        ) from None


def load_coco_json(path: str | os.PathLike[str]) -> dict[str, list[dict[str, Any]]]:
    """Reads a COCO instances json as it is.

    Raises:
        FileError: The file cannot be read.
        DataError: It is not COCO instances, or has no images.
    """
    text = read_bytes(path)
    try:
        data: dict[str, list[dict[str, Any]]] = json.loads(text)
        lacking = [key for key in ("images", "annotations", "categories") if not isinstance(data.get(key), list)]
    except (ValueError, AttributeError) as error:
        raise DataError(f"{os.fspath(path)}: not COCO instances: {error}", code="evaluate.coco-annotations") from None
    if lacking:
        raise DataError(
            f"{os.fspath(path)}: not COCO instances: no {', '.join(lacking)}", code="evaluate.coco-annotations"
        )
    if not data["images"]:
        raise DataError(f"{os.fspath(path)}: no images", code="evaluate.empty-set")
    return data


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
