"""Text files with one picture per line: list files of (picture, partner) pairs and VOC's image sets."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator

from pyscratchdet.errors import DataError, Position
from pyscratchdet.files import read_bytes

Entry = tuple[str, str]
"""A picture and its annotation file or label."""


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Returns the lines of a list, without any byte-order mark; file names need not be UTF-8.

    Raises:
        FileError: It cannot be read.
        DataError: It is UTF-16, as some editors save text.
    """
    data = read_bytes(path)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError("the list is in UTF-16", code="data.list", position=Position(os.fspath(path), 1),
                        hint="save it as UTF-8")  # fmt: skip
    text = data.removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape")
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def read_labels(path: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """Reads a list of ImageData's, `path label` per line.

    Args:
        path: The list.

    Returns:
        The paths and their labels; at least one.

    Raises:
        DataError: A line has no label, or there are no lines.
        FileError: The list cannot be read.
    """
    name, lines = os.fspath(path), []
    for number, line in enumerate(read_lines(path), 1):
        picture, _, label = line.rpartition(" ")
        try:
            lines.append((picture, int(label)))
        except ValueError:
            position = Position(name, number, text=line)
            raise DataError("a line must be: path label", code="data.list", position=position) from None
    if not lines:
        raise DataError("the list is empty", code="data.list", position=Position(name))
    return lines


def read_list(path: str | os.PathLike[str]) -> list[Entry]:
    """Returns the (picture, annotation file or label) pairs of a list file, two words per pair.

    Raises:
        FileError: It cannot be read.
        DataError: It is empty, its last picture has no partner, or a line has a third word.
    """
    entries = [entry for _, entry in _pairs(os.fspath(path))]
    if not entries:
        raise DataError("the list is empty", code="data.list", position=Position(os.fspath(path)))
    return entries


def list_position(path: str | os.PathLike[str], picture: str, partner: str | None = None) -> Position:
    """Returns where a list file first names a picture, or a picture with this partner."""
    wanted = (picture,) if partner is None else (picture, partner)
    line = next((line for line, found in _pairs(os.fspath(path)) if found[: len(wanted)] == wanted), 0)
    return Position(os.fspath(path), line)


def _pairs(path: str) -> Iterator[tuple[int, Entry]]:
    """Yields (line, pair); a pair may continue on the next line, since the original reads word by word."""
    picture, start = None, 0
    for line, text in enumerate(read_lines(path), 1):
        words = text.split()
        if len(words) % 2 and len(words) > 1:
            raise DataError(
                f"{len(words)} words instead of a picture and its partner", code="data.list",
                position=Position(path, line, text=text), hint="names cannot contain blanks",
            )  # fmt: skip
        for word in words:
            if picture is None:
                picture, start = word, line
            else:
                yield line, (picture, word)
                picture = None
    if picture is not None:
        raise DataError("a picture has no annotation file or label", code="data.list",
                        position=Position(path, start), found=picture)  # fmt: skip


def read_image_set(path: str | os.PathLike[str]) -> list[tuple[str, bool]]:
    """Returns (name, is absent) for the images in one of VOC's lists; only a class's list marks it absent from some.

    Raises:
        FileError: It cannot be read.
        DataError: It is UTF-16.
    """
    rows = (line.split() for line in read_lines(path))
    return [(row[0], row[1:2] == ["-1"]) for row in rows if row]
