"""PASCAL VOC's folders, and any others laid out like them: ImageSets/Main, JPEGImages, Annotations."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from pyscratchdet.data.lists import Entry, read_image_set
from pyscratchdet.errors import DataError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG", ".BMP")
_NO_DEVKIT = "give the folder that contains VOC2007 and the like"


def voc_entries(root: str | os.PathLike[str], splits: Sequence[str], years: Sequence[str] = ()) -> list[Entry]:
    """Returns the (picture, annotation) pairs of a VOCdevkit, relative to it, in the order of its lists.

    Args:
        root: The VOCdevkit, or any folder with folders laid out like VOC's.
        splits: Names of lists such as `trainval`, or of a list of one year such as `2007_trainval`.
        years: Folders: `2007` for VOC2007, or a whole name. By default all that have such a list.

    Raises:
        DataError: No folder has such a list, one of `years` is missing or lacks a list, or a picture is missing.
    """
    folders, entries = _folders(Path(root), years), []
    for split in splits:
        for folder, name in _lists(Path(root), split, folders, all_have_it=bool(years)):
            listed = read_image_set(Path(root) / _list(folder, name))
            entries += [_entry(Path(root), folder, image) for image, is_absent in listed if not is_absent]
    if not entries:
        raise DataError(f"the lists {', '.join(splits)} of {os.fspath(root)} are empty", code="data.voc")
    return entries


def _folders(root: Path, years: Sequence[str]) -> list[str]:
    """Returns the folders of the years, or by default all."""
    if not years:
        return sorted(path.name for path in root.glob("*/") if path.is_dir())
    folders = []
    for year in years:
        folder = _folder(root, year)
        if folder is None:
            name = year if year.startswith("VOC") else f"VOC{year}"
            known = sorted(path.parent.name for path in root.glob("*/ImageSets"))
            raise DataError(f"no {root / name}/ImageSets", code="data.voc",
                            hint=f"there are: {', '.join(known)}" if known else _NO_DEVKIT)  # fmt: skip
        folders.append(folder)
    return folders


def _lists(root: Path, split: str, folders: list[str], all_have_it: bool) -> list[tuple[str, str]]:
    """Returns (folder, list name) pairs."""
    found = _with_list(root, split, folders)
    year, _, rest = split.partition("_")
    if rest and not found and (folder := _folder(root, year)) in folders:
        folders, split = [folder], rest
        found = _with_list(root, split, folders)
    missing = [folder for folder in folders if folder not in found]
    if not found or (all_have_it and missing):
        place = missing[0] if all_have_it else "*"
        known = sorted({path.stem for path in root.glob(f"{place}/ImageSets/Main/*.txt")})[:20]
        raise DataError(
            f"no list {split}.txt in {root}/{place}/ImageSets/Main",
            code="data.voc",
            hint=f"lists there: {', '.join(known)}" if known else _NO_DEVKIT,
        )
    return [(folder, split) for folder in found]


def _with_list(root: Path, split: str, folders: list[str]) -> list[str]:
    return [folder for folder in folders if (root / _list(folder, split)).is_file()]


def _folder(root: Path, year: str) -> str | None:
    return next((name for name in (f"VOC{year}", year) if (root / name / "ImageSets").is_dir()), None)


def _list(folder: str, split: str) -> str:
    return f"{folder}/ImageSets/Main/{split}.txt"


def _entry(root: Path, folder: str, image: str) -> Entry:
    picture = find_picture(root / folder / "JPEGImages", image)
    if picture is None:
        others = sorted(path.name for path in (root / folder / "JPEGImages").glob(f"{glob.escape(image)}.*"))
        hint = f"{', '.join(others)} is not of a supported kind" if others else None
        raise DataError(f"no picture {folder}/JPEGImages/{image}.jpg in {root}", code="data.voc", hint=hint)
    return f"{folder}/JPEGImages/{picture.name}", f"{folder}/Annotations/{image}.xml"


def find_picture(folder: Path, name: str) -> Path | None:
    """Returns the picture file with a name, given without suffix; None if there is none."""
    return next((path for suffix in _SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def part_folders(root: Path, part: str) -> list[Path]:
    """Returns the folders `part`, such as Annotations, of a VOCdevkit, its parent, or a folder of one of its years."""
    base = root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root
    return [base / part] if (base / part).is_dir() else sorted(path for path in base.glob(f"*/{part}") if path.is_dir())
