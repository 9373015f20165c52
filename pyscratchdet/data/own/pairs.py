"""Pairing pictures with what annotations say about them, by their names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from pyscratchdet.data.images import PICTURE_SUFFIXES
from pyscratchdet.data.own.sheets import Sheet
from pyscratchdet.errors import DataError

Skipped = list[tuple[str, str]]
"""(what, why) of what is left out."""


def pair(names: Sequence[str], sheets: Sequence[Sheet]) -> tuple[dict[str, Sheet], Skipped]:
    """Pairs pictures and sheets of the same name; of several, those that share most folders, and the suffix.

    Args:
        names: Paths of the pictures.
        sheets: What the annotations say.

    Returns:
        The sheet of each picture that has one, and the pictures and sheets that stay alone, with the reason.

    Raises:
        DataError: No picture has a sheet.
    """
    pictures = defaultdict(list)
    for name in names:
        pictures[PurePosixPath(name).stem].append(name)
    partners: dict[str, list[Sheet]] = defaultdict(list)
    alone: Skipped = []
    for sheet in sheets:
        found = _closest(sheet.picture, pictures.get(_stem(sheet.picture), []))
        if len(found) == 1:
            partners[found[0]].append(sheet)
        else:
            alone.append((f"{sheet.source} ({sheet.picture})", _why(found)))
    pairs = {}
    for name in names:
        mine = partners[name]
        if len(mine) == 1:
            pairs[name] = mine[0]
        else:
            alone.append((name, "no annotation of this name" if not mine else "several annotations of this name"))
    if not pairs:
        theirs = str(sheets[0].picture) if sheets else "nothing"
        raise DataError("no picture has an annotation of its name", code="data.no-pairs",
                        expected=f"names like {names[0]}", found=theirs)  # fmt: skip
    return pairs, alone


def _why(found: list[str]) -> str:
    return "no picture of this name" if not found else f"several pictures of this name: {', '.join(sorted(found)[:3])}"


def _stem(path: PurePosixPath) -> str:
    return path.stem if path.suffix.lower() in PICTURE_SUFFIXES else path.name


def _closest(path: PurePosixPath, names: Sequence[str]) -> list[str]:
    """Returns the names that are most like a path: one, unless several are equally like it."""
    if len(names) < 2:
        return list(names)
    scores = [_likeness(path, PurePosixPath(name)) for name in names]
    return [name for name, score in zip(names, scores, strict=True) if score == max(scores)]


def _likeness(path: PurePosixPath, name: PurePosixPath) -> tuple[int, bool]:
    return len(set(path.parent.parts) & set(name.parent.parts)), path.suffix.lower() == name.suffix.lower()
