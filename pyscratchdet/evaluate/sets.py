"""The sets that detectors are judged on, as ground-truth tables: VOC trees, COCO instance files and own pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyscratchdet.data.coco import CocoSet
from pyscratchdet.data.database import Database
from pyscratchdet.data.label_map import label_to_name, read_label_map
from pyscratchdet.data.lists import read_image_set, read_lines
from pyscratchdet.data.objects import objects_of
from pyscratchdet.data.own.folder import LABEL_MAP_FILE, short_names
from pyscratchdet.data.own.forms import read_annotations
from pyscratchdet.data.own.pairs import pair
from pyscratchdet.data.own.pictures import find_pictures
from pyscratchdet.data.own.survey import survey
from pyscratchdet.data.records import annotated_of, record_title
from pyscratchdet.data.voc import find_picture
from pyscratchdet.data.voc_xml import VocObject, read_voc_xml
from pyscratchdet.errors import DataError, FileError, Position, counted, nearest
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
    folder: str | os.PathLike[str],
    image_set: str = "test",
    classes: Sequence[str] | None = None,
    on_bad: Callable[[DataError | FileError], object] | None = None,
) -> GroundTruthTable:
    """Reads the annotations of one image set of a VOC tree.

    Args:
        folder: A folder as `find_voc` returns it.
        image_set: Name of a file in ImageSets/Main.
        classes: Foreground classes in label order; by default those that occur, in alphabetical order, which is VOC's.
        on_bad: Called with the error about an annotation that is missing or damaged, whose image is left out then.

    Raises:
        FileError: The set, an annotation or a picture is missing.
        DataError: The set is empty, an annotation is damaged, or has a class that `classes` lacks.
    """
    base = Path(folder)
    names: list[str] = []
    objects: list[tuple[int, VocObject]] = []
    sizes, paths = [], []
    for name in image_names(base, image_set):
        try:
            annotation = read_voc_xml(base / "Annotations" / f"{name}.xml")
        except (DataError, FileError) as error:
            if on_bad is None:
                raise
            on_bad(error)
            continue
        objects += [(len(names), replace(thing, name=thing.name.strip())) for thing in annotation.objects]
        names.append(name)
        paths.append(find_picture(base / "JPEGImages", name) or base / "JPEGImages" / f"{name}.jpg")
        sizes.append(annotation.size or (0, 0))
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
        np.array(sizes, np.int64).reshape(-1, 2),
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


def folder_truth(folder: str | os.PathLike[str], part: str = "test") -> GroundTruthTable:
    """Returns one part of a data folder, as `pyscratchdet lmdb folder` writes it: what its database says.

    Args:
        folder: The data folder.
        part: test or train.

    Raises:
        FileError: A file is missing.
        DataError: The database is missing or damaged, or its list is of another number of pictures.
    """
    base = Path(folder)
    paths = [Path(line) for line in read_lines(base / f"{part}.txt")]
    names = [line.split()[0] for line in read_lines(base / f"{part}_name_size.txt")]
    items = [(record_title(key, str(base)), value) for key, value in Database(base / f"{part}_lmdb")]
    records = [annotated_of(value, title) for title, value in items]
    if not len(paths) == len(names) == len(records):
        raise DataError(f"{base}: the lists and the database of {part} differ", code="evaluate.data-folder",
                        expected=counted(len(records), "picture"), found=f"{len(paths)} and {len(names)}",
                        hint="make it again with `pyscratchdet lmdb folder --redo`")  # fmt: skip
    classes = label_to_name(read_label_map(base / LABEL_MAP_FILE), display=True)
    sizes = np.array([(record.datum.width, record.datum.height) for record in records], np.int64)
    found = objects_of(records, [title for title, _ in items])
    return GroundTruthTable(
        names,
        tuple(name for label, name in sorted(classes.items()) if label),
        sizes,
        paths,
        found.items.astype(np.int64),
        found.labels.astype(np.int64),
        found.boxes * np.tile(sizes[found.items], 2).astype(np.float64),
        found.difficult,
    )


def own_truth(
    pictures: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
) -> tuple[GroundTruthTable, list[str]]:
    """Returns pictures with annotations of any form, as `pyscratchdet lmdb folder` takes them, as a table.

    Args:
        pictures: A folder of pictures, a VOCdevkit or a list file.
        annotations: A folder of VOC XML or YOLO txt, a COCO json, or a CSV file.
        classes: Foreground classes in label order; by default as `lmdb folder` orders them.
        skip_bad: Leave out what is damaged, instead of refusing all.

    Returns:
        The table, and one line on each thing that is left out: what is damaged, and pictures without annotations.

    Raises:
        FileError: Something is missing.
        DataError: Nothing fits together, or something is damaged and `skip_bad` is off.
    """
    found = find_pictures(pictures)
    sheets = read_annotations(annotations, found.root, found.stems())
    pairs, alone = pair(found.names, sheets.sheets)
    content = survey(found.root, pairs, classes or sheets.class_names())
    bad = [*sheets.skipped, *content.skipped]
    if bad and not skip_bad:
        what, why = bad[0]
        raise DataError(f"{what}: {why}", code="evaluate.bad-data", hint="--skip_bad leaves it out")
    names = short_names(content.names)
    table = GroundTruthTable(
        [names[name] for name in content.names],
        tuple(content.classes),
        content.sizes,
        [found.root / name for name in content.names],
        content.image.astype(np.int64),
        content.label,
        content.boxes_px,
        content.difficult,
    )
    return table, [f"{what}: {why}" for what, why in (*alone, *bad)]


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
