"""The figures of a data set made from someone's own pictures: what a recipe chooses a net and a schedule by."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyscratchdet.errors import DataError, Position
from pyscratchdet.files import read_json, write_text

FIGURES_FILE = "data.json"
"""The name of the figures' file in a data folder."""


@dataclass(frozen=True)
class SplitFigures:
    """The figures of the training or of the test pictures.

    Attributes:
        pictures: Number of pictures.
        boxes: Number of boxes in them.
        boxes_per_class: The same for each class, in label order, without background.
    """

    pictures: int
    boxes: int
    boxes_per_class: list[int]


@dataclass(frozen=True)
class DataFigures:
    """The figures of a data folder, as `pyscratchdet lmdb folder` writes it.

    Attributes:
        classes: Class names in label order: the first has label 1. Background, label 0, is not among them.
        train: Of the training pictures.
        test: Of the test pictures.
        picture_size: Median width and median height of all pictures, in pixels.
        sizes: (width, height) of every training box, as a share of its picture's width and height, to 4 decimals.
    """

    classes: list[str]
    train: SplitFigures
    test: SplitFigures
    picture_size: tuple[int, int]
    sizes: list[tuple[float, float]]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> DataFigures:
        """Reads the figures.

        Args:
            path: A data folder, or its data.json.

        Raises:
            FileError: There is none, or it cannot be read.
            DataError: It does not hold such figures, or they contradict each other.
        """
        file = Path(path) / FIGURES_FILE if Path(path).is_dir() else Path(path)
        content = read_json(file, "a file of figures", "data.figures")
        if fault := _fault(content):
            raise DataError(f"not a file of figures: {fault}", code="data.figures", position=Position(os.fspath(file)),
                            hint="`pyscratchdet lmdb folder` writes it")  # fmt: skip
        train, test = (SplitFigures(**{name: content[part][name] for name in _SPLIT}) for part in ("train", "test"))
        width, height = content["picture_size"]
        return cls(content["classes"], train, test, (width, height), [(w, h) for w, h in content["sizes"]])

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the figures to a file, or to data.json in an existing folder.

        Raises:
            FileError: It cannot be written.
        """
        file = Path(path) / FIGURES_FILE if Path(path).is_dir() else Path(path)
        write_text(file, json.dumps(asdict(self)) + "\n")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_list(is_entry: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(is_entry(entry) for entry in value)


def _is_pair(is_entry: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: _is_list(is_entry)(value) and len(value) == 2


_SPLIT: dict[str, Callable[[Any], bool]] = {
    "pictures": _is_count, "boxes": _is_count, "boxes_per_class": _is_list(_is_count)
}  # fmt: skip
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "classes": _is_list(lambda name: isinstance(name, str)),
    "train": lambda value: isinstance(value, dict),
    "test": lambda value: isinstance(value, dict),
    "picture_size": _is_pair(lambda side: _is_count(side) and side > 0),
    "sizes": _is_list(_is_pair(lambda share: type(share) in (int, float) and 0 <= share < float("inf"))),
}


def _fault(content: Any) -> str | None:
    """Returns what is wrong with a file's content; None if nothing is."""
    if not isinstance(content, dict):
        return "it is not an object"
    if fault := _wrong_field(content, _FIELDS):
        return fault
    for part in ("train", "test"):
        if fault := _wrong_field(content[part], _SPLIT):
            return f"{part}: {fault}"
        if len(content[part]["boxes_per_class"]) != len(content["classes"]):
            return f"{part}: boxes_per_class does not fit the {len(content['classes'])} classes"
    if len(content["sizes"]) != content["train"]["boxes"]:
        return f"{len(content['sizes'])} sizes for {content['train']['boxes']} training boxes"
    return None


def _wrong_field(content: dict[str, Any], fields: dict[str, Callable[[Any], bool]]) -> str | None:
    for name, is_right in fields.items():
        if name not in content:
            return f"{name} is missing"
        if not is_right(content[name]):
            return f"{name} is wrong: {str(content[name])[:60]}"
    return None
