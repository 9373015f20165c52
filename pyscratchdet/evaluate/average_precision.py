"""Average precision as Caffe's solver computes and prints it (solver.cpp: TestDetection; bbox_util.cpp: ComputeAP).

Pure numpy. Precision, recall and the sums are float32 as in the original, where a product with `fabs` is a double
that is rounded to float32 each time it is added, so the printed six digits agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pyscratchdet.errors import DataError, UsageError, nearest

AP_VERSIONS = ("11point", "MaxIntegral", "Integral")
_EPS = np.float64(np.float32(1e-6))


@dataclass(frozen=True)
class DetectionSummary:
    """What the solver prints after a detection test.

    Attributes:
        aps: {label: AP} of the classes that have detections, by label.
        missing: Labels that have detections nowhere. They are left out of `aps`, but the mean divides by them too.
        mean_ap: The mean over all classes; None if there was no detection at all: the original then prints nothing.
        num_pos: {label: number of ground truths that count}.
        curves: {label: (precision, recall)}, float32, in order of falling score.
    """

    aps: dict[int, float] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    mean_ap: float | None = None
    num_pos: dict[int, int] = field(default_factory=dict)
    curves: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def lines(self, output_name: str = "detection_eval", index: int = 0, per_class: bool = True) -> list[str]:
        """Returns the original's log lines, without glog's prefix; none if there was no detection at all."""
        if self.mean_ap is None:
            return []
        lines = []
        for label in self.num_pos:
            if label in self.missing:
                lines.append(f"Missing true_pos for label: {label}")
            elif per_class:
                lines.append(f"class{label}: {self.aps[label]:.6g}")
        return [*lines, f"    Test net output #{index}: {output_name} = {self.mean_ap:.6g}"]


def average_precision(
    tp: np.ndarray, fp: np.ndarray, num_pos: int, ap_version: str = "11point"
) -> tuple[np.ndarray, np.ndarray, float]:
    """Computes precision, recall and AP of one class.

    Args:
        tp: (N,) 1 where a detection is right, in order of falling score.
        fp: (N,) 1 - tp.
        num_pos: Number of ground truths that count.
        ap_version: "11point" (VOC 2007), "MaxIntegral" (VOC 2012) or "Integral".

    Returns:
        precision: (N,) float32; empty, as recall, where there are no detections or no positives.
        recall: (N,) float32.
        ap: float32 value; 0 where there are no detections or no positives.

    Raises:
        DataError: tp and fp do not complement each other, or more are right than there are positives.
        UsageError: Unknown ap_version (not noticed, as in the original, where there is nothing to compute).
    """
    tp = np.asarray(tp, np.int64)
    fp = np.asarray(fp, np.int64)
    if tp.shape != fp.shape or not np.array_equal(tp, 1 - fp):
        raise DataError("true and false positives do not complement each other", code="evaluate.complement")
    if tp.size == 0 or num_pos == 0:
        return np.zeros(0, np.float32), np.zeros(0, np.float32), 0.0
    hits = np.cumsum(tp)
    if hits.max() > num_pos:
        raise DataError(
            "more true positives than ground truths",
            code="evaluate.num-pos",
            expected=f"at most {num_pos}",
            found=hits[-1],
        )
    precision = hits.astype(np.float32) / np.arange(1, tp.size + 1).astype(np.float32)
    recall = hits.astype(np.float32) / np.float32(num_pos)
    return precision, recall, float(_integrate(precision, recall, ap_version))


def summarize_detections(rows: np.ndarray | Sequence[np.ndarray], ap_version: str = "11point") -> DetectionSummary:
    """Computes AP per class and their mean from DetectionEvaluate's output of a whole test.

    Args:
        rows: (N, 5) of (image, label, score, tp, fp) in the order they were produced, or a list of such arrays, one
            per iteration; leading axes of size 1 are allowed. Rows of image -1 carry (-1, label, number of positives,
            -1, -1). Rows with tp = fp = 0 (a match with a difficult object) do not count.
        ap_version: As in `average_precision`.

    Raises:
        DataError: Rows of the wrong width, or scores that are not numbers.
        UsageError: Unknown ap_version.
    """
    table = _table(rows)
    is_count = table[:, 0].astype(np.int64) == -1
    labels = table[:, 1].astype(np.int64)
    num_pos = {
        int(label): int(table[is_count & (labels == label), 2].astype(np.int64).sum())
        for label in np.unique(labels[is_count])
    }
    counts = ~is_count & ~((table[:, 3] == 0) & (table[:, 4] == 0))
    summary = DetectionSummary(num_pos=num_pos)
    if not counts.any():
        return summary
    total = np.float32(0)
    for label, positives in num_pos.items():
        mine = table[counts & (labels == label)]
        if not len(mine):
            summary.missing.append(label)
            continue
        mine = mine[np.argsort(-mine[:, 2], kind="stable")]
        precision, recall, ap = average_precision(mine[:, 3], mine[:, 4], positives, ap_version)
        summary.aps[label] = ap
        summary.curves[label] = (precision, recall)
        total += np.float32(ap)
    mean = float(total / np.float32(len(num_pos))) if num_pos else None
    return DetectionSummary(summary.aps, summary.missing, mean, num_pos, summary.curves)


def _table(rows: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    parts = [rows] if isinstance(rows, np.ndarray) else list(rows)
    for part in parts:
        if np.ndim(part) == 0 or np.shape(part)[-1] != 5:
            raise DataError(
                "not an output of DetectionEvaluate", code="evaluate.rows", expected="rows of 5", found=np.shape(part)
            )
    table = np.concatenate([np.zeros((0, 5), np.float32), *(np.reshape(part, (-1, 5)) for part in parts)])
    if np.isnan(table).any():
        raise DataError(
            "detections have scores that are not numbers", code="evaluate.nan", hint="did the training diverge?"
        )
    return table.astype(np.float32)


def _integrate(precision: np.ndarray, recall: np.ndarray, ap_version: str) -> np.float32:
    if ap_version == "11point":
        # The best precision at each recall or beyond; 0 beyond the last recall.
        best = np.append(np.maximum.accumulate(precision[::-1])[::-1], np.float32(0))
        points = best[np.searchsorted(recall.astype(np.float64), np.arange(10, -1, -1) / 10.0)]
        return np.cumsum(points / np.float32(11), dtype=np.float32)[-1]
    if ap_version == "MaxIntegral":
        best = np.maximum.accumulate(precision[::-1])
        steps = np.abs(np.diff(recall[::-1])).astype(np.float64)
        # The step from recall[i + 1] to recall[i] is weighted by the best precision at i or beyond.
        area = _accumulate(best[1:].astype(np.float64) * steps, steps)
        return np.float32(area + recall[0] * best[-1])
    if ap_version == "Integral":
        steps = np.abs(np.diff(recall, prepend=np.float32(0))).astype(np.float64)
        return _accumulate(precision.astype(np.float64) * steps, steps)
    raise UsageError(
        f'unknown ap_version "{ap_version}"',
        code="evaluate.ap-version",
        expected=", ".join(AP_VERSIONS),
        hint=nearest(ap_version, AP_VERSIONS),
    )


def _accumulate(terms: np.ndarray, steps: np.ndarray) -> np.float32:
    total = np.float32(0)
    for term in terms[steps > _EPS]:  # rounds to float32 at every addition, so no library sum will do
        total = np.float32(np.float64(total) + term)
    return total
