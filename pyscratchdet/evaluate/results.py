"""Result files: VOC's comp4 text files, one per class, and COCO's json. Written and read in pairs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyscratchdet.detect.tables import DetectionTable
from pyscratchdet.errors import DataError, FileError, Position, PyScratchDetError
from pyscratchdet.evaluate.tables import GroundTruthTable
from pyscratchdet.files import read_bytes, read_json, safe_file_name, write_text

VOC_PREFIX = "comp4_det_test_"
_COCO_CODE, _COCO_ROWS = "evaluate.coco-results", "a list of image_id, category_id, bbox and score"


def write_voc_results(
    folder: str | os.PathLike[str], detections: DetectionTable, truth: GroundTruthTable, prefix: str = VOC_PREFIX
) -> list[Path]:
    """Writes `<prefix><class>.txt` per class: lines of image, score, xmin, ymin, xmax, ymax in VOC's pixel frame.

    Scores and boxes keep float32's full precision. Lines come by image, then by falling score.

    Raises:
        FileError: A file cannot be written.
        DataError: Two classes would have the same file.
    """
    order = np.lexsort((-detections.score, detections.image))
    written = []
    for label, name in enumerate(_file_names(truth.classes), start=1):
        rows = order[detections.label[order] == label]
        values = np.column_stack([detections.score[rows], detections.boxes_px[rows]]).tolist()
        lines = [
            f"{truth.names[image]} {' '.join(f'{value:.9g}' for value in numbers)}\n"
            for image, numbers in zip(detections.image[rows], values, strict=True)
        ]
        path = Path(folder) / f"{prefix}{name}.txt"
        write_text(path, "".join(lines))
        written.append(path)
    return written


def _file_names(classes: Sequence[str]) -> list[str]:
    """Returns what each class is called in the names of files."""
    names = [safe_file_name(name) for name in classes]
    for index, name in enumerate(names):
        if (other := names.index(name)) != index:
            raise DataError(
                f'classes "{classes[other]}" and "{classes[index]}" would have the same result file',
                code="evaluate.class-names",
                found=f"{name}.txt",
                hint="rename one of them",
            )
    return names


def read_voc_results(
    folder: str | os.PathLike[str], truth: GroundTruthTable, prefix: str | None = None
) -> DetectionTable:
    """Reads the result files of all classes.

    Args:
        folder: Holds one `<prefix><class>.txt` per class; an empty file says that nothing of the class was found.
        truth: The set the results belong to.
        prefix: What stands before the class name; None to find it from the files.

    Raises:
        FileError: The folder or a class's file is missing.
        DataError: A line is not image, score and box, the set has no such image, or two classes have the same file.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileError(f"no folder {root}", code="file.read")
    paths = [_class_file(root, name, prefix) for name in _file_names(truth.classes)]
    missing = [name for name, path in zip(truth.classes, paths, strict=True) if path is None]
    if missing:
        raise FileError(
            f"{root}: no result file of {', '.join(missing[:6])}{', ...' if len(missing) > 6 else ''}",
            code="evaluate.missing-results",
            expected=f"{prefix if prefix is not None else VOC_PREFIX}{missing[0]}.txt",
            hint="an empty file means that nothing of the class was found",
        )
    return DetectionTable.join([_read_class(path, label, truth) for label, path in enumerate(paths, start=1)])  # type: ignore[arg-type]


def _class_file(root: Path, name: str, prefix: str | None) -> Path | None:
    if prefix is not None:
        path = root / f"{prefix}{name}.txt"
        return path if path.is_file() else None
    found = sorted(path for path in root.glob("*.txt") if path.stem == name or path.stem.endswith(f"_{name}"))
    if len(found) > 1:
        raise FileError(
            f"{root}: several result files of {name}: {', '.join(path.name for path in found)}",
            code="evaluate.ambiguous-results",
            hint="give the prefix",
        )
    return found[0] if found else None


def _read_class(path: Path, label: int, truth: GroundTruthTable) -> DetectionTable:
    lines = read_bytes(path).decode(errors="replace").splitlines()
    fields = [line.rsplit(maxsplit=5) for line in lines]  # a name may contain spaces
    numbers = [number for number, parts in enumerate(fields, start=1) if parts]
    fields = [parts for parts in fields if parts]
    try:
        if any(len(parts) != 6 for parts in fields):
            raise ValueError
        values = np.array([parts[1:] for parts in fields], dtype=np.float64).reshape(-1, 5)
    except ValueError:
        bad = next(
            n for n, parts in zip(numbers, fields, strict=True) if len(parts) != 6 or not _are_numbers(parts[1:])
        )
        raise DataError(
            "not a line of VOC results",
            code="evaluate.results-line",
            position=Position(str(path), bad, text=lines[bad - 1]),
            expected="image score xmin ymin xmax ymax",
        ) from None
    indices = truth.indices
    image = np.array([indices.get(parts[0], -1) for parts in fields], np.int64)
    if (image < 0).any():
        row = int(np.argmax(image < 0))
        raise DataError(
            f'image "{fields[row][0]}" is not in the image set',
            code="evaluate.unknown-image",
            position=Position(str(path), numbers[row], text=lines[numbers[row] - 1]),
            hint="were the results made on another set?",
        )
    return DetectionTable(image, np.full(len(image), label), values[:, 0], values[:, 1:])


def _are_numbers(texts: list[str]) -> bool:
    try:
        return all(math.isfinite(float(text)) for text in texts)
    except ValueError:
        return False


def write_coco_results(path: str | os.PathLike[str], detections: DetectionTable, truth: GroundTruthTable) -> None:
    """Writes COCO's result json: a list of image_id, category_id, bbox (xmin, ymin, width, height) and score.

    Raises:
        FileError: The file cannot be written.
    """
    write_text(path, json.dumps(coco_rows(detections, truth)))


def coco_rows(detections: DetectionTable, truth: GroundTruthTable) -> list[dict[str, object]]:
    """Returns detections as COCO's result rows."""
    image_ids, category_ids = np.array(truth.image_ids), np.array([0, *truth.category_ids])
    corner, far = detections.boxes_px[:, :2], detections.boxes_px[:, 2:]
    boxes = np.hstack([corner, far - corner]).tolist()
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in zip(
            image_ids[detections.image].tolist(),
            category_ids[detections.label].tolist(),
            boxes,
            detections.score.tolist(),
            strict=True,
        )
    ]


def read_coco_results(path: str | os.PathLike[str], truth: GroundTruthTable) -> DetectionTable:
    """Reads COCO's result json.

    Raises:
        FileError: The file cannot be read.
        DataError: It is not a list of results, or names unknown images or categories.
    """
    rows = read_json(path, "COCO results", _COCO_CODE)
    try:
        score = np.array([row["score"] for row in rows], np.float64)
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(len(rows), 4)
        image = _rows_of(path, "image_id", rows, truth.image_ids)
        category = _rows_of(path, "category_id", rows, truth.category_ids)
    except PyScratchDetError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        message = f"{os.fspath(path)}: not COCO results"
        raise DataError(message, code=_COCO_CODE, expected=_COCO_ROWS, found=str(error)) from None
    return DetectionTable(image, category + 1, score, np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]))


def _rows_of(path: str | os.PathLike[str], what: str, rows: Sequence[dict[str, Any]], known: list[int]) -> np.ndarray:
    """Returns the positions in `known` of a column's numbers."""
    places = {number: place for place, number in enumerate(known)}
    numbers = [row[what] for row in rows]
    unknown = next((number for number in numbers if number not in places), None)
    if unknown is not None:
        raise DataError(
            f"{os.fspath(path)}: {what} {unknown} is not in the set",
            code=_COCO_CODE,
            hint="were the results made on another set?",
        )
    return np.array([places[number] for number in numbers], np.int64)
