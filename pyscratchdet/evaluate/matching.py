"""Which detection found which object: VOC devkit's greedy rule for a whole data set at once, and overlaps of pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyscratchdet.detect.tables import DetectionTable
from pyscratchdet.evaluate.tables import GroundTruthTable


@dataclass
class Judgement:
    """The outcome for every detection, in the table's own order.

    Attributes:
        order: (N,) rows by falling score; ties keep the table's order.
        best_truth: (N,) row of the ground truth of the same image and class with the highest overlap; -1 for none.
        best_overlap: (N,) that overlap; 0 for none.
        tp: (N,) bool: the first to find its object.
        ignored: (N,) bool: its best object does not count.
        found: (M,) bool, per ground truth: some detection is its true positive.
    """

    order: np.ndarray
    best_truth: np.ndarray
    best_overlap: np.ndarray
    tp: np.ndarray
    ignored: np.ndarray
    found: np.ndarray


def overlap_px(first: np.ndarray, second: np.ndarray, border: float = 1.0) -> np.ndarray:
    """Returns the intersection over union of pairs of boxes (..., 4).

    Args:
        first: (..., 4) xmin, ymin, xmax, ymax in pixels.
        second: (..., 4).
        border: 1 where borders are part of a box (VOC devkit); 0 for continuous coordinates (COCO).
    """
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    sides = np.maximum(high - low + border, 0.0)
    inner = sides[..., 0] * sides[..., 1]

    def area(boxes: np.ndarray) -> np.ndarray:
        return (boxes[..., 2] - boxes[..., 0] + border) * (boxes[..., 3] - boxes[..., 1] + border)

    union = area(first) + area(second) - inner
    return np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)


def best_overlaps(
    detections: DetectionTable, truth: GroundTruthTable, same_class: bool = True, usable: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds, for every detection, the ground truth of its image with the highest overlap; the first of equals.

    Args:
        detections: N rows.
        truth: M rows.
        same_class: True for objects of the detection's own class, False for those of all other classes.
        usable: (M,) bool; objects to consider, all by default.

    Returns:
        best: (N,) row in `truth`, -1 for none.
        overlap: (N,) float64, 0 for none.
    """
    rows = np.arange(len(truth.image)) if usable is None else np.nonzero(usable)[0]
    if same_class:
        stride = max(len(truth.classes), int(detections.label.max(initial=0))) + 1
        key, wanted = truth.image[rows] * stride + truth.label[rows], detections.image * stride + detections.label
    else:
        key, wanted = truth.image[rows], detections.image
    order = np.argsort(key, kind="stable")
    key, rows = key[order], rows[order]
    start = np.searchsorted(key, wanted)
    count = np.searchsorted(key, wanted, side="right") - start
    best = np.full(len(detections), -1)
    overlap = np.zeros(len(detections))
    has = np.nonzero(count)[0]
    if not len(has):
        return best, overlap
    # Every pair in one row, the pairs of a detection side by side.
    first = np.cumsum(count[has]) - count[has]
    owner = np.repeat(has, count[has])
    pair = rows[np.arange(len(owner)) - np.repeat(first, count[has]) + np.repeat(start[has], count[has])]
    values = overlap_px(detections.boxes_px[owner], truth.boxes_px[pair])
    if not same_class:
        values = np.where(detections.label[owner] == truth.label[pair], -1.0, values)
    top = np.maximum.reduceat(values, first)
    where = np.where(values == np.repeat(top, count[has]), np.arange(len(values)), len(values))
    best[has] = pair[np.minimum.reduceat(where, first)]
    overlap[has] = top
    alone = overlap < 0
    best[alone], overlap[alone] = -1, 0.0
    return best, overlap


def judge_detections(
    detections: DetectionTable, truth: GroundTruthTable, threshold: float = 0.5, ignore: np.ndarray | None = None
) -> Judgement:
    """Matches as VOC's devkit does: each detection looks only at its best object, which the highest score gets.

    Args:
        detections: N rows.
        truth: M rows.
        threshold: The overlap must be greater than this.
        ignore: (M,) objects that do not count; `truth.difficult` by default.
    """
    ignore = truth.difficult if ignore is None else ignore
    order = np.argsort(-detections.score, kind="stable")
    best, overlap = best_overlaps(detections, truth)
    hit = (best >= 0) & (overlap > threshold)
    ignored = np.zeros(len(detections), bool)
    ignored[hit] = ignore[best[hit]]
    claims = order[(hit & ~ignored)[order]]
    first = np.unique(best[claims], return_index=True)[1]
    tp = np.zeros(len(detections), bool)
    tp[claims[first]] = True
    found = np.zeros(len(truth.image), bool)
    found[best[tp]] = True
    return Judgement(order, best, overlap, tp, ignored, found)
