"""Detections in single pictures and videos as json, csv, COCO json and VOC xml."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyscratchdet.data.voc_xml import VocObject, voc_xml
from pyscratchdet.detect.media import Frame
from pyscratchdet.detect.tables import ImageDetections
from pyscratchdet.files import write_text

FORMATS = ("json", "voc", "coco", "csv")


@dataclass
class FrameDetections:
    """One picture or frame with what was found in it.

    Attributes:
        name: Output name without suffix.
        path: The input file.
        frame: Frame number, -1 for a picture.
        width: In pixels.
        height: In pixels.
        found: The detections that are reported.
    """

    name: str
    path: str
    frame: int
    width: int
    height: int
    found: ImageDetections

    @classmethod
    def of(cls, frame: Frame, found: ImageDetections) -> FrameDetections:
        """Returns the record of a frame."""
        assert frame.image is not None
        height, width = frame.image.shape[:2]
        return cls(frame.source.name, frame.source.path, frame.index, width, height, found)


@dataclass
class DetectionRun:
    """Everything one run of a detector found.

    Attributes:
        names: {label: class name}.
        records: In order of reading.
        failed: {path: why}.
        settings: What produced it; copied into the json as it is.
    """

    names: Mapping[int, str]
    records: list[FrameDetections] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)


def write_run(run: DetectionRun, folder: str | os.PathLike[str], formats: Sequence[str]) -> list[Path]:
    """Writes detections.json, detections.csv, coco.json, and Annotations/<name>.xml, as `formats` say.

    Raises:
        FileError: A file cannot be written.
    """
    root = Path(folder)
    written = []
    for name, text in (("json", _json), ("csv", _csv), ("coco", _coco)):
        if name in formats:
            path = root / {"json": "detections.json", "csv": "detections.csv", "coco": "coco.json"}[name]
            write_text(path, text(run))
            written.append(path)
    if "voc" in formats:
        for record in run.records:
            path = root / "Annotations" / f"{record_name(record)}.xml"
            write_text(path, _xml(record, run.names))
            written.append(path)
    return written


def record_name(record: FrameDetections) -> str:
    """Returns the name of a record's own files: frames are numbered."""
    return record.name if record.frame < 0 else f"{record.name}_{record.frame:06d}"


def _rows(record: FrameDetections, names: Mapping[int, str]) -> list[dict[str, Any]]:
    return [
        {
            "label": label,
            "class": names.get(label, str(label)),
            "score": round(score, 6),
            "box": [round(v, 2) for v in box],
        }
        for label, score, box in zip(
            record.found.labels.tolist(), record.found.scores.tolist(), record.found.boxes_px.tolist(), strict=True
        )
    ]


def _json(run: DetectionRun) -> str:
    images = []
    for record in run.records:
        entry: dict[str, object] = {"name": record.name, "path": record.path}
        if record.frame >= 0:
            entry["frame"] = record.frame
        images.append({**entry, "width": record.width, "height": record.height, "detections": _rows(record, run.names)})
    content = {
        **run.settings,
        "classes": {str(label): name for label, name in run.names.items()},
        "box": "xmin, ymin, xmax, ymax in pixels",
        "images": images,
        "failed": [{"path": path, "error": error} for path, error in run.failed.items()],
    }
    return json.dumps(content, indent=1) + "\n"


def _csv(run: DetectionRun) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "frame", "label", "class", "score", "xmin", "ymin", "xmax", "ymax"])
    for record in run.records:
        for row in _rows(record, run.names):
            frame = record.frame if record.frame >= 0 else ""
            writer.writerow([record.path, frame, row["label"], row["class"], row["score"], *row["box"]])
    return text.getvalue()


def _coco(run: DetectionRun) -> str:
    """Returns COCO instances, which annotation tools read, with a `score` in each annotation, as result files have."""
    annotations: list[dict[str, object]] = []
    for number, record in enumerate(run.records, start=1):
        for row in _rows(record, run.names):
            xmin, ymin, xmax, ymax = row["box"]
            width, height = round(xmax - xmin, 2), round(ymax - ymin, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": row["label"],
                    "bbox": [xmin, ymin, width, height],
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                    "score": row["score"],
                }
            )
    images = [
        {"id": number, "file_name": _file_name(record), "width": record.width, "height": record.height}
        for number, record in enumerate(run.records, start=1)
    ]
    categories = [{"id": label, "name": name} for label, name in run.names.items() if label > 0]
    return json.dumps({"images": images, "categories": categories, "annotations": annotations}) + "\n"


def _file_name(record: FrameDetections) -> str:
    return Path(record.path).name if record.frame < 0 else f"{record_name(record)}.jpg"


def _xml(record: FrameDetections, names: Mapping[int, str]) -> str:
    objects = [
        VocObject(row["class"], (*(round(corner) for corner in row["box"]),), score=row["score"])
        for row in _rows(record, names)
    ]
    return voc_xml(_file_name(record), record.width, record.height, objects, folder="")
