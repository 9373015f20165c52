"""Why detections are wrong: place, class, duplicate or background; and which objects were missed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyscratchdet.detect.tables import DetectionTable
from pyscratchdet.evaluate.matching import best_overlaps, judge_detections
from pyscratchdet.evaluate.tables import GroundTruthTable

KINDS = ("correct", "duplicate", "localisation", "class", "both", "background", "ignored")
# The names shown in charts and on the page of results, whose script has the same words.
KIND_NAMES = {
    "correct": "correct",
    "background": "on background",
    "localisation": "badly placed",
    "class": "wrong class",
    "both": "class and place",
    "duplicate": "duplicate",
    "missed": "missed",
}
COUNTED_FROM = 0.3  # the score from which on detections are counted as right or wrong, unless said otherwise
_TOUCHING = 0.1


@dataclass
class Breakdown:
    """The outcome of every detection and object at a score threshold.

    Attributes:
        kind: (N,) index in `KINDS` per detection given.
        missed: (M,) bool per ground truth: it counts, and no detection is its true positive.
        confusion: (C + 1, C + 1) counts, row true label, column detected label; 0 is background: column 0 counts
            missed objects, row 0 detections on background.
    """

    kind: np.ndarray
    missed: np.ndarray
    confusion: np.ndarray

    def counts(self) -> dict[str, int]:
        """Returns {kind: number of detections}, and the number of missed objects."""
        numbers = np.bincount(self.kind, minlength=len(KINDS))
        return {**dict(zip(KINDS, numbers.tolist(), strict=True)), "missed": int(self.missed.sum())}


def break_down(truth: GroundTruthTable, detections: DetectionTable, threshold: float = 0.5) -> Breakdown:
    """Sorts detections by what is wrong with them.

    - correct: true positive; ignored: on a difficult object of its class
    - duplicate: overlaps an object of its class that a better one found
    - localisation: overlap with an object of its class from 0.1 up to `threshold`
    - class: overlaps an object of another class by more than `threshold`
    - both: overlap with an object of another class from 0.1 up to `threshold`
    - background: nothing near

    Args:
        truth: The set.
        detections: Those above the score threshold that one would use.
        threshold: As in the evaluation.
    """
    found = judge_detections(detections, truth, threshold)
    other, other_overlap = best_overlaps(detections, truth, same_class=False)
    own_overlap = found.best_overlap
    on_own = (found.best_truth >= 0) & (own_overlap > threshold)
    conditions = [
        found.tp,
        found.ignored,
        on_own,
        other_overlap > threshold,
        own_overlap >= _TOUCHING,
        other_overlap >= _TOUCHING,
    ]
    names = ["correct", "ignored", "duplicate", "class", "localisation", "both"]
    kind = np.select(conditions, [KINDS.index(name) for name in names], KINDS.index("background"))
    missed = ~found.found & ~truth.difficult
    confusion = np.zeros((len(truth.classes) + 1,) * 2, np.int64)
    is_kind = {name: kind == number for number, name in enumerate(KINDS)}
    rows = is_kind["correct"]
    np.add.at(confusion, (detections.label[rows], detections.label[rows]), 1)
    rows = is_kind["class"]
    np.add.at(confusion, (truth.label[other[rows]], detections.label[rows]), 1)
    rows = is_kind["background"] | is_kind["localisation"] | is_kind["both"] | is_kind["duplicate"]
    np.add.at(confusion, (np.zeros(rows.sum(), np.int64), detections.label[rows]), 1)
    np.add.at(confusion, (truth.label[missed], np.zeros(missed.sum(), np.int64)), 1)
    return Breakdown(kind, missed, confusion)
