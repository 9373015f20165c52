"""What `detect` writes says so, and a file that does not is never replaced: it is the user's."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path

from pyscratchdet.errors import FileError
from pyscratchdet.files import write_bytes

MARK = b"written by pyscratchdet detect"
_NEAR = 4096  # bytes from either end among which the mark is

# How result files begin and end, which have no room for the mark.
_RESULTS = {
    "detections.json": (rb'\{\n "model": ', rb"\}\n"),
    "labels.json": (rb'\{\n "model": ', rb"\}\n"),
    "detections.jsonl": (rb'\{"name": "', rb"\}\n"),
    "failed.jsonl": (rb'\{"path": "', rb"\}\n"),
    "coco.json": (rb'\{"images": \[', rb'("score": [-+.\w]+\}|"annotations": \[)\]\}\n'),
    "detections.csv": (rb"path,frame,label,class,score,xmin,ymin,xmax,ymax\n", rb""),
}


def mark_jpeg(data: bytes) -> bytes:
    """Returns a JPEG with the mark as a comment behind its first segment, JFIF's."""
    end = 4 + int.from_bytes(data[4:6], "big")
    return data[:end] + b"\xff\xfe" + (len(MARK) + 2).to_bytes(2, "big") + MARK + data[end:]


def mark_png(data: bytes) -> bytes:
    """Returns a PNG with the mark as a text before its last chunk, of 12 bytes."""
    chunk = b"tEXtSoftware\0" + MARK
    framed = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return data[:-12] + framed + data[-12:]


def mark_xml(data: bytes) -> bytes:
    """Returns an XML document with the mark as a comment at its end."""
    return data + b"<!-- " + MARK + b" -->\n"


def mark_mp4(data: bytes = b"") -> bytes:
    """Returns an MP4 file, or the end of one, with the mark in a box that players skip (ISO/IEC 14496-12, 8.1.2)."""
    return data + (len(MARK) + 8).to_bytes(4, "big") + b"free" + MARK


_MARKERS: dict[str, Callable[[bytes], bytes]] = {".jpg": mark_jpeg, ".png": mark_png, ".xml": mark_xml}


def write_marked(path: Path, data: bytes) -> None:
    """Writes a JPEG, PNG or XML file with the mark.

    Raises:
        FileError: See `check_replaceable`; or it cannot be written.
    """
    check_replaceable(path)
    write_bytes(path, _MARKERS[path.suffix](data))


def check_replaceable(path: Path, source: str | None = None) -> None:
    """Refuses to replace a file that `detect` did not write.

    Args:
        path: Where a file is to be written.
        source: The input that it is written about, which the message names as such.

    Raises:
        FileError: There is such a file.
    """
    if not path.is_file():
        return
    try:
        with open(path, "rb") as file:
            head = file.read(_NEAR)
            file.seek(-min(_NEAR, os.fstat(file.fileno()).st_size), os.SEEK_END)
            tail = file.read()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}", code="file.read") from error
    begins, ends = _RESULTS.get(path.name, (rb"(?!)", rb""))
    is_own = MARK in head + tail or (re.match(begins, head) and re.search(ends + rb"\Z", tail))
    if head and not is_own:
        is_input = source is not None and os.path.exists(source) and os.path.samefile(path, source)
        raise FileError(
            f"{path} is {'one of the inputs' if is_input else 'no file that detect wrote'}, and is not replaced",
            code="file.exists",
            hint="give another folder with -o",
        )
