"""What annotation files of any form say, picture by picture, before it is compared with the pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Mark:
    """One annotated object as a file states it.

    Attributes:
        name: Its class.
        box: xmin, ymin, xmax, ymax in the frame of its sheet.
        difficult: Whether evaluations do not count it.
        place: The file, and the line where that helps.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool = False
    place: str = ""


@dataclass
class Sheet:
    """What the annotations say about one picture.

    Attributes:
        picture: A path that ends with the picture's name, with or without its suffix: a file's own, or one that a file
            names. Only names are compared; it is never opened.
        source: The file that it is from.
        frame: Width and height in which boxes are measured: (1, 1) for relative boxes, None for the picture's pixels.
        marks: In the order of the file.
        fault: Why it cannot be used; "" if it can.
    """

    picture: PurePosixPath
    source: str
    frame: tuple[float, float] | None = None
    marks: list[Mark] = field(default_factory=list)
    fault: str = ""


@dataclass
class Annotations:
    """All annotations of a set.

    Attributes:
        form: What they are, such as "VOC XML".
        sheets: One for each picture that they speak of.
        classes: Class names in the order that the set declares; those that it does not declare follow in
            alphabetical order.
        notes: What a user should know about how they were read.
        files: The files that were read.
        skipped: (file and line, why) of what could not be read.
    """

    form: str
    sheets: list[Sheet]
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def class_names(self) -> list[str]:
        """Returns the classes that have an object, in order; the declared ones first."""
        used = {mark.name for sheet in self.sheets for mark in sheet.marks}
        return [name for name in self.classes if name in used] + sorted(used - set(self.classes))


def merge(parts: Iterable[Annotations]) -> Annotations:
    """Returns several annotations of one form, such as a COCO json for each part of a set, as one."""
    first, *others = parts
    for part in others:
        first.classes += [name for name in part.classes if name not in first.classes]
        first.sheets += part.sheets
        first.notes += part.notes
        first.files += part.files
        first.skipped += part.skipped
    return first
