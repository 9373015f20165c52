"""Finding out which form annotations have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pyscratchdet.data.own.coco_form import read_coco_file
from pyscratchdet.data.own.csv_form import read_csv_file
from pyscratchdet.data.own.sheets import Annotations, merge
from pyscratchdet.data.own.voc_form import read_voc_folder
from pyscratchdet.data.own.yolo_form import is_yolo_file, read_yolo_folder
from pyscratchdet.data.voc import part_folders
from pyscratchdet.errors import DataError, FileError, counted

_EXPECTED = "a folder of VOC XML or of YOLO txt, a COCO json, or a CSV file"


def read_annotations(source: str | os.PathLike[str], pictures: Path, stems: set[str]) -> Annotations:
    """Reads annotations of any form.

    Args:
        source: A folder of VOC XML (or one laid out like VOC's, or a VOCdevkit) or of YOLO txt; a COCO json or a folder
            of some; or a CSV file.
        pictures: Folder of the pictures.
        stems: The pictures' names without suffix: in a folder with files of several forms, those that have such names
            are the annotations.

    Raises:
        FileError: There is nothing there, or a file cannot be read.
        DataError: The form is not known, or a file as a whole is damaged.
    """
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, pictures, stems)
    if not path.exists():
        raise FileError(f"no annotations at {path}", code="file.read", hint=_EXPECTED)
    if path.suffix.lower() == ".json":
        return read_coco_file(path)
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return read_csv_file(path)
    raise DataError(f"{path}: annotations of an unknown form", code="data.form", expected=_EXPECTED)


def _read_folder(root: Path, pictures: Path, stems: set[str]) -> Annotations:
    files = sorted(file for folder in part_folders(root, "Annotations") or [root] for file in folder.rglob("*"))
    kinds = {
        kind: [file for file in files if file.suffix.lower() == kind and file.is_file()]
        for kind in (".xml", ".txt", ".json", ".csv")
    }
    kinds[".txt"] = [file for file in kinds[".txt"] if is_yolo_file(file)]
    partners = {kind: sum(file.stem in stems for file in found) for kind, found in kinds.items()}
    best = max((".xml", ".txt"), key=lambda kind: partners[kind])
    if partners[best]:
        if best == ".xml":
            return read_voc_folder(root, kinds[best])
        return read_yolo_folder(root, kinds[best], pictures)
    if kinds[".json"] and not partners[".json"]:
        return _read_coco_files(kinds[".json"])
    if len(kinds[".csv"]) == 1:
        return read_csv_file(kinds[".csv"][0])
    if partners[".json"]:
        raise DataError(f"{root}: a json file for each picture is not a known form", code="data.form",
                        expected=_EXPECTED, hint="labelme and its like export COCO json")  # fmt: skip
    there = ", ".join(f"{len(found)} {kind}" for kind, found in kinds.items() if found) or "no such file"
    names = ", ".join(file.name for found in kinds.values() for file in found[:2])
    raise DataError(
        f"{root}: no file here has the name of a picture", code="data.form", expected=_EXPECTED,
        found=there + (f", such as {names}" if names else ""),
        hint="give one of the CSV files" if kinds[".csv"] else
        f"the {counted(len(stems), 'picture')} are called {', '.join(sorted(stems)[:2])} and so on",
    )  # fmt: skip


def _read_coco_files(files: Sequence[Path]) -> Annotations:
    """Reads the COCO jsons of a folder; what is in another form is listed as left out, unless all are."""
    parts, strangers = [], []
    for file in files:
        try:
            parts.append(read_coco_file(file))
        except DataError as error:
            strangers.append(error)
    if not parts:
        raise strangers[0]
    whole = merge(parts)
    whole.skipped += [(str(error.position), error.message) for error in strangers]
    return whole
