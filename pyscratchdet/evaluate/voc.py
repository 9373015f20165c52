"""PASCAL VOC's average precision, as the devkit and py-faster-rcnn's voc_eval compute it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pyscratchdet.detect.tables import DetectionTable
from pyscratchdet.errors import UsageError
from pyscratchdet.evaluate.matching import Judgement, judge_detections
from pyscratchdet.evaluate.tables import GroundTruthTable, check_labels

METRICS = ("11point", "area")
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}  # COCO's, in pixels


@dataclass
class ClassResult:
    """One class.

    Attributes:
        name: Its name.
        ap: Average precision; nan where there is nothing to find.
        num_pos: Objects that count.
        num_detections: Detections, ignored ones included.
        precision: (K,) after each detection, by falling score.
        recall: (K,).
        score: (K,) the detections' scores.
    """

    name: str
    ap: float
    num_pos: int
    num_detections: int
    precision: np.ndarray = field(repr=False, default_factory=lambda: np.zeros(0))
    recall: np.ndarray = field(repr=False, default_factory=lambda: np.zeros(0))
    score: np.ndarray = field(repr=False, default_factory=lambda: np.zeros(0))


@dataclass
class VocResult:
    """AP per class and what it came from.

    Attributes:
        classes: One result per class, in label order.
        metric: "11point" (VOC 2007) or "area" (VOC 2010 and later).
        overlap_threshold: As requested.
        judgement: Which detection found what.
    """

    classes: list[ClassResult]
    metric: str
    overlap_threshold: float
    judgement: Judgement = field(repr=False)

    @property
    def mean_ap(self) -> float:
        """The mean over classes that have something to find; nan where none has."""
        known = [result.ap for result in self.classes if result.num_pos]
        return float(np.mean(known)) if known else float("nan")


def voc_ap(recall: np.ndarray, precision: np.ndarray, metric: str = "area") -> float:
    """Returns the average precision of a curve.

    Args:
        recall: (K,) rising.
        precision: (K,).
        metric: "11point": mean of the best precision at recall 0, 0.1, ... 1. "area": under the monotone envelope.

    Raises:
        UsageError: Unknown metric.
    """
    if metric not in METRICS:
        raise UsageError(f'unknown metric "{metric}"', code="evaluate.metric", expected=" or ".join(METRICS))
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    if metric == "11point":
        return float(np.mean(envelope[np.searchsorted(recall, np.arange(0.0, 1.1, 0.1))]))
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope[:-1]))


def evaluate_voc(
    truth: GroundTruthTable, detections: DetectionTable, metric: str = "11point", overlap_threshold: float = 0.5
) -> VocResult:
    """Computes VOC's AP per class.

    Boxes include their borders (+1), the overlap must exceed the threshold, difficult objects count neither for nor
    against, and a second detection of an object is wrong.

    Args:
        truth: The set.
        detections: Rows of that set, in any order; equal scores keep their order.
        metric: "11point" or "area".
        overlap_threshold: 0.5 in VOC.

    Raises:
        DataError: Labels outside the classes.
        UsageError: Unknown metric.
    """
    check_labels(detections, truth)
    found = judge_detections(detections, truth, overlap_threshold)
    counted = _class_results(truth, detections, found, ~truth.difficult, np.ones(len(detections), bool), metric)
    return VocResult(counted, metric, overlap_threshold, found)


def ap_by_size(
    truth: GroundTruthTable, detections: DetectionTable, metric: str = "11point", overlap_threshold: float = 0.5
) -> dict[str, list[ClassResult]]:
    """Computes AP for COCO's small, medium and large objects (below 32^2, below 96^2, the rest; pixels of the picture).

    Objects of other sizes are ignored, and so are unmatched detections of other sizes.
    """
    check_labels(detections, truth)
    results = {}
    for name, (low, high) in SIZES.items():
        wanted = _in_range(truth.boxes_px, low, high) & ~truth.difficult
        found = judge_detections(detections, truth, overlap_threshold, ignore=~wanted)
        results[name] = _class_results(
            truth, detections, found, wanted, found.tp | _in_range(detections.boxes_px, low, high), metric
        )
    return results


def _in_range(boxes: np.ndarray, low: float, high: float) -> np.ndarray:
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    return (area >= low) & (area < high)


def _class_results(
    truth: GroundTruthTable,
    detections: DetectionTable,
    found: Judgement,
    positives: np.ndarray,
    considered: np.ndarray,
    metric: str,
) -> list[ClassResult]:
    order = found.order[considered[found.order]]
    num_pos = np.bincount(truth.label[positives], minlength=len(truth.classes) + 1)
    by_class = order[np.argsort(detections.label[order], kind="stable")]
    edges = np.searchsorted(detections.label[by_class], np.arange(1, len(truth.classes) + 2))
    results = []
    for index, name in enumerate(truth.classes):
        rows = by_class[edges[index] : edges[index + 1]]
        tp = np.cumsum(found.tp[rows], dtype=np.float64)
        fp = np.cumsum(~found.tp[rows] & ~found.ignored[rows], dtype=np.float64)
        number = int(num_pos[index + 1])
        recall = tp / max(number, 1)
        precision = tp / np.maximum(tp + fp, np.finfo(np.float64).eps)
        ap = voc_ap(recall, precision, metric) if number else float("nan")
        results.append(ClassResult(name, ap, number, len(rows), precision, recall, detections.score[rows]))
    return results
