"""COCO's twelve figures, by hotcoco where that is installed, else by pycocotools: the same to the last bit."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyscratchdet.detect.tables import DetectionTable
from pyscratchdet.errors import UsageError
from pyscratchdet.evaluate.results import coco_rows
from pyscratchdet.evaluate.sets import coco_from_truth
from pyscratchdet.evaluate.tables import GroundTruthTable, check_labels

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
ENGINES = ("hotcoco", "faster-coco-eval", "pycocotools")
# What the figures of boxes depend on. Other fields may be of any kind, which hotcoco would refuse.
_FIELDS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
    "categories": ("id", "name"),
}


@dataclass
class CocoResult:
    """The twelve figures (-1 where there is nothing to measure) and AP per class.

    Attributes:
        figures: {name: value}, names of `FIGURES`.
        class_ap: {class: AP over IoU 0.5 to 0.95}.
        class_ap50: {class: AP at IoU 0.5}.
        engine: What computed it.
    """

    figures: dict[str, float]
    class_ap: dict[str, float] = field(default_factory=dict)
    class_ap50: dict[str, float] = field(default_factory=dict)
    engine: str = "pycocotools"


def evaluate_coco(
    truth: GroundTruthTable,
    detections: DetectionTable,
    annotations: dict[str, list[dict[str, Any]]] | None = None,
    engine: str | None = None,
) -> CocoResult:
    """Computes COCO's AP and AR.

    Args:
        truth: The set.
        detections: Rows of that set.
        annotations: The instances json as read, of which only the images of `truth` count; made from `truth` by
            default (areas are then those of the boxes).
        engine: One of `ENGINES`; None for "hotcoco" if it is installed, else "pycocotools".

    Raises:
        DataError: Labels outside the classes.
        UsageError: Unknown engine, or one that is not installed.
    """
    check_labels(detections, truth)
    engine = engine or ("hotcoco" if importlib.util.find_spec("hotcoco") else "pycocotools")
    coco_type, eval_type = _engine(engine)
    data = coco_from_truth(truth) if annotations is None else annotations
    needed = {part: [{k: e[k] for k in keys if k in e} for e in data[part]] for part, keys in _FIELDS.items()}
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco_type()
        reference.dataset = {"info": {}, **needed}
        reference.createIndex()
        rows = coco_rows(detections, truth)
        result = reference.loadRes(rows) if rows else _nothing(coco_type, reference)
        judge = eval_type(reference, result, "bbox")
        judge.params.imgIds = sorted(truth.image_ids)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    figures = {name: float(value) for name, value in zip(FIGURES, judge.stats, strict=False)}
    # precision: IoU x recall x class x area x number of detections
    precision = np.asarray(judge.eval["precision"])[:, :, :, 0, -1]
    names = {category["id"]: category["name"] for category in data["categories"]}
    classes = [names[number] for number in judge.params.catIds]
    return CocoResult(
        figures,
        {name: _mean(precision[:, :, k]) for k, name in enumerate(classes)},
        {name: _mean(precision[0, :, k]) for k, name in enumerate(classes)},
        engine,
    )


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def _nothing(coco_type: Any, reference: Any) -> Any:
    # loadRes refuses an empty list, yet no detections is a result: zero.
    empty = coco_type()
    empty.dataset = {
        "images": reference.dataset["images"],
        "categories": reference.dataset["categories"],
        "annotations": [],
    }
    empty.createIndex()
    return empty


def _engine(name: str) -> tuple[Any, Any]:
    if name not in ENGINES:
        raise UsageError(f'unknown engine "{name}"', code="evaluate.engine", expected=" or ".join(ENGINES))
    try:
        if name == "pycocotools":
            return (
                importlib.import_module("pycocotools.coco").COCO,
                importlib.import_module("pycocotools.cocoeval").COCOeval,
            )
        if name == "hotcoco":
            module = importlib.import_module("hotcoco")
            return module.COCO, module.COCOeval
        module = importlib.import_module("faster_coco_eval")
        return module.COCO, module.COCOeval_faster
    except ImportError:
        raise UsageError(f"{name} is not installed", code="evaluate.engine", hint=f"pip install {name}") from None
