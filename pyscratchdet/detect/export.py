"""Detections in pictures and videos as json, jsonl, csv, COCO json, parquet and VOC xml, one after the other.

An entry is what `jsonl` has in a line: name, path, frame (of a video), width, height and detections, each with label,
class, score and box.
"""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pyscratchdet.data.voc_xml import VocObject, voc_xml
from pyscratchdet.detect.media import Frame
from pyscratchdet.detect.replacing import MARK, check_replaceable
from pyscratchdet.detect.tables import ImageDetections
from pyscratchdet.errors import UsageError
from pyscratchdet.files import atomic_path, write_pieces

FORMATS = ("json", "jsonl", "voc", "coco", "csv", "parquet")
FILES = {
    "json": "detections.json",
    "jsonl": "detections.jsonl",
    "coco": "coco.json",
    "csv": "detections.csv",
    "parquet": "detections.parquet",
}
FAILED_FILE = "failed.jsonl"
_ROWS = 10_000  # pictures in a row group of a parquet file

Entry = dict[str, Any]


def frame_entry(frame: Frame) -> Entry:
    """Returns what an entry says about the frame itself."""
    entry: Entry = {"name": frame.source.name, "path": frame.source.path}
    if frame.index >= 0:
        entry["frame"] = frame.index
    return {**entry, "width": frame.size[1], "height": frame.size[0]}


def detection_rows(found: ImageDetections, names: Mapping[int, str]) -> list[Entry]:
    """Returns an entry's detections: scores to six digits, corners to a hundredth of a pixel."""
    return [
        {
            "label": label,
            "class": names.get(label, str(label)),
            "score": round(score, 6),
            "box": [round(v, 2) for v in box],
        }
        for label, score, box in zip(found.labels.tolist(), found.scores.tolist(), found.boxes_px.tolist(), strict=True)
    ]


def check_results(folder: Path, names: Iterable[str]) -> None:
    """Refuses to replace result files that `detect` did not write.

    Args:
        folder: The output folder.
        names: The files that will be written; the list of what could not be read is always one.

    Raises:
        FileError: There is such a file.
    """
    for name in (*names, FAILED_FILE):
        check_replaceable(folder / name)


class ResultWriter:
    """Writes what a run has found, however much that is.

    Args:
        folder: Where.
        head: What json and COCO files say about the run.
        names: {label: class name}.
        lines: Returns the entries, each as a line of JSON, from the first on.
        failures: Returns {"path", "error"} of what could not be read.
    """

    def __init__(
        self,
        folder: Path,
        head: Mapping[str, object],
        names: Mapping[int, str],
        lines: Callable[[], Iterable[bytes]],
        failures: Callable[[], Iterable[Mapping[str, str]]],
    ) -> None:
        self._folder, self._head, self._names = folder, head, names
        self._lines, self._failures = lines, failures

    def write(self, formats: Sequence[str]) -> list[str]:
        """Writes the files of some formats, and `failed.jsonl` if something could not be read; returns their names.

        Raises:
            FileError: A file cannot be written.
        """
        pieces = {"json": self.json_pieces, "jsonl": self._jsonl, "csv": self._csv, "coco": self._coco}
        written = [FILES[name] for name in FILES if name in formats]
        for name in pieces:
            if name in formats:
                write_pieces(self._folder / FILES[name], pieces[name]())
        if "parquet" in formats:
            self._write_parquet(self._folder / FILES["parquet"])
        return written + self.write_failures()

    def write_failures(self) -> list[str]:
        """Writes the list of what could not be read, or removes an earlier run's; returns its name, if there is one."""
        path = self._folder / FAILED_FILE
        if next(iter(self._failures()), None) is None:
            path.unlink(missing_ok=True)
            return []
        write_pieces(path, (json.dumps(one).encode() + b"\n" for one in self._failures()))
        return [FAILED_FILE]

    def _entries(self) -> Iterator[Entry]:
        return (json.loads(line) for line in self._lines())

    def json_pieces(self) -> Iterator[bytes]:
        """Yields the head, all entries and failures as one JSON object."""
        yield json.dumps(self._head, indent=1).removesuffix("\n}").encode()
        yield from _json_list("images", self._entries())
        yield from _json_list("failed", self._failures())
        yield b"\n}\n"

    def _jsonl(self) -> Iterator[bytes]:
        return (line + b"\n" for line in self._lines())

    def _csv(self) -> Iterator[bytes]:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "frame", "label", "class", "score", "xmin", "ymin", "xmax", "ymax"])
        for entry in self._entries():
            for row in entry["detections"]:
                frame = entry.get("frame", "")
                writer.writerow([entry["path"], frame, row["label"], row["class"], row["score"], *row["box"]])
            yield text.getvalue().encode(errors="backslashreplace")
            text.seek(0)
            text.truncate()
        yield text.getvalue().encode()

    def _coco(self) -> Iterator[bytes]:
        """Yields COCO instances, which annotation tools read, each with a `score`, as in result files."""
        yield b'{"images": ['
        yield from _separated(_coco_image(entry, number) for number, entry in enumerate(self._entries(), 1))
        categories = [{"id": label, "name": name} for label, name in self._names.items() if label > 0]
        yield b'], "categories": ' + json.dumps(categories).encode() + b', "annotations": ['
        yield from _separated(_coco_annotations(self._entries()))
        yield b"]}\n"

    def _write_parquet(self, path: Path) -> None:
        pyarrow, parquet = import_pyarrow()
        detection = {"label": pyarrow.int32(), "class": pyarrow.string(), "score": pyarrow.float64(),
                     "box": pyarrow.list_(pyarrow.float64(), 4)}  # fmt: skip
        schema = pyarrow.schema({"name": pyarrow.string(), "path": pyarrow.string(), "frame": pyarrow.int64(),
                                 "width": pyarrow.int32(), "height": pyarrow.int32(),
                                 "detections": pyarrow.list_(pyarrow.struct(list(detection.items())))},
                                metadata={"writer": MARK})  # fmt: skip
        entries = self._entries()
        with atomic_path(path) as temporary, parquet.ParquetWriter(str(temporary), schema) as writer:
            while rows := [_as_text(entry) for entry in islice(entries, _ROWS)]:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))


def import_pyarrow() -> tuple[Any, Any]:
    """Returns pyarrow and its module for parquet.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(
            "parquet needs pyarrow", code="detect.parquet", hint='pip install "pyscratchdet[parquet]"'
        ) from None
    return pyarrow, pyarrow.parquet


def _json_list(name: str, items: Iterable[Mapping[str, object]]) -> Iterator[bytes]:
    """Yields a list as `json.dumps` with an indent of 1 has it in an object."""
    yield f',\n "{name}": ['.encode()
    between = "\n"
    for item in items:
        yield (between + textwrap.indent(json.dumps(item, indent=1), "  ")).encode()
        between = ",\n"
    yield b"]" if between == "\n" else b"\n ]"


def _separated(items: Iterable[Mapping[str, object]]) -> Iterator[bytes]:
    between = b""
    for item in items:
        yield between + json.dumps(item).encode()
        between = b", "


def _coco_image(entry: Entry, number: int) -> Entry:
    return {"id": number, "file_name": _file_name(entry), "width": entry["width"], "height": entry["height"]}


def _coco_annotations(entries: Iterable[Entry]) -> Iterator[Entry]:
    rows = ((number, row) for number, entry in enumerate(entries, 1) for row in entry["detections"])
    for identity, (number, row) in enumerate(rows, 1):
        xmin, ymin, xmax, ymax = row["box"]
        width, height = round(xmax - xmin, 2), round(ymax - ymin, 2)
        yield {
            "id": identity,
            "image_id": number,
            "category_id": row["label"],
            "bbox": [xmin, ymin, width, height],
            "area": round(width * height, 2),
            "iscrowd": 0,
            "score": row["score"],
        }


def _file_name(entry: Entry) -> str:
    return Path(entry["path"]).name if "frame" not in entry else f"{own_name(entry)}.jpg"


def own_name(entry: Entry) -> str:
    """Returns the name of an entry's own files: frames are numbered."""
    return entry["name"] if "frame" not in entry else f"{entry['name']}_{entry['frame']:06d}"


def entry_xml(entry: Entry) -> str:
    """Returns an entry as VOC writes annotations, with scores; corners are rounded to pixels."""
    objects = [
        VocObject(row["class"], (*(round(corner) for corner in row["box"]),), score=row["score"])
        for row in entry["detections"]
    ]
    return voc_xml(_file_name(entry), entry["width"], entry["height"], objects, folder="")


def _as_text(entry: Entry) -> Entry:
    """Returns an entry whose path and name are UTF-8."""
    texts = {key: entry[key].encode(errors="backslashreplace").decode() for key in ("name", "path")}
    return {**entry, **texts}
