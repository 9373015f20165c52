"""A small set of pictures with annotations in every form that `lmdb folder` reads, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from pyscratchdet.data.voc_xml import VocObject, voc_xml

# Sides are powers of two, so that relative boxes are exact and all forms must give the same records.
SIZES = ((64, 32), (32, 64), (128, 64))
NAMES = ("red", "dark blue")

Boxes = dict[str, list[tuple[str, tuple[int, int, int, int]]]]


def draw(width: int, height: int, seed: int) -> np.ndarray:
    """Returns a picture of smooth noise, unlike that of any other seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def make_pictures(root: Path, number: int = 15) -> Boxes:
    """Writes `number` JPEGs to root/pictures and returns their boxes; the last picture has none."""
    (root / "pictures").mkdir(parents=True)
    boxes: Boxes = {}
    for index in range(number):
        width, height = SIZES[index % 3]
        name = f"p{index:02d}.jpg"
        cv2.imwrite(str(root / "pictures" / name), draw(width, height, index))
        random = np.random.default_rng(100 + index)
        boxes[name] = []
        for count in range(0 if index == number - 1 else 1 + index % 3):
            left, top = random.integers(0, width // 2), random.integers(0, height // 2)
            right, bottom = left + random.integers(4, width // 2), top + random.integers(4, height // 2)
            label = NAMES[int((index + count) % 4 == 0)]
            boxes[name].append((label, (int(left), int(top), int(right), int(bottom))))
    return boxes


def size_of(root: Path, name: str) -> tuple[int, int]:
    return cv2.imread(str(root / "pictures" / name)).shape[1::-1]


def write_xml(root: Path, boxes: Boxes) -> Path:
    folder = root / "xml"
    folder.mkdir()
    for name, objects in boxes.items():
        things = [VocObject(label, box) for label, box in objects]
        (folder / name).with_suffix(".xml").write_text(voc_xml(name, *size_of(root, name), things))
    return folder


def write_coco(root: Path, boxes: Boxes) -> Path:
    images, rows = [], []
    for identity, (name, objects) in enumerate(boxes.items(), 7):
        width, height = size_of(root, name)
        images.append({"id": identity, "file_name": name, "width": width, "height": height})
        for label, (left, top, right, bottom) in objects:
            box = [left, top, right - left, bottom - top]
            # Ids in alphabetical order, as labels made from XML are.
            category = sorted(NAMES).index(label) + 3
            rows.append({"id": len(rows), "image_id": identity, "category_id": category, "bbox": box, "iscrowd": 0})
    categories = [{"id": number, "name": name} for number, name in enumerate(("unused", *sorted(NAMES)), 2)]
    path = root / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return path


def write_yolo(root: Path, boxes: Boxes) -> Path:
    folder = root / "yolo"
    folder.mkdir()
    (folder / "classes.txt").write_text("\n".join(sorted(NAMES)) + "\n")
    for name, objects in boxes.items():
        width, height = size_of(root, name)
        rows = ""
        for label, (left, top, right, bottom) in objects:
            centre = (left + right) / 2 / width, (top + bottom) / 2 / height
            values = (*centre, (right - left) / width, (bottom - top) / height)
            rows += f"{sorted(NAMES).index(label)} {' '.join(map(repr, values))}\n"
        (folder / name).with_suffix(".txt").write_text(rows)
    return folder


def write_csv(root: Path, boxes: Boxes) -> Path:
    """raccoon_dataset's layout, which cannot name a picture without boxes."""
    rows = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for name, objects in boxes.items():
        size = "{},{}".format(*size_of(root, name))
        rows += [f"{name},{size},{label},{','.join(map(str, box))}" for label, box in objects]
    return _lines(root / "boxes.csv", rows)


def write_bare_csv(root: Path, boxes: Boxes) -> Path:
    """keras-retinanet's layout, in which a picture without boxes is a row of commas."""
    rows = []
    for name, objects in boxes.items():
        rows += [f"some/where/{name},{','.join(map(str, box))},{label}" for label, box in objects] or [f"{name},,,,,"]
    return _lines(root / "bare.csv", rows)


def write_relative_csv(root: Path, boxes: Boxes) -> Path:
    """Open Images' layout; names without suffix."""
    rows = ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"]
    for name, objects in boxes.items():
        width, height = size_of(root, name)
        for label, (left, top, right, bottom) in objects:
            box = f"{left / width!r},{right / width!r},{top / height!r},{bottom / height!r}"
            rows.append(f"{Path(name).stem},xclick,{label},1,{box},0,0,0")
    return _lines(root / "relative.csv", rows)


def _lines(path: Path, rows: list[str]) -> Path:
    path.write_text("\r\n".join(rows) + "\r\n")
    return path


FORMS = {
    "xml": write_xml, "coco": write_coco, "yolo": write_yolo, "csv": write_csv, "bare csv": write_bare_csv,
    "relative csv": write_relative_csv,
}  # fmt: skip
