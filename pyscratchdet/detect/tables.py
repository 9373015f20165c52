"""Detections of a picture and of a whole data set as flat tables: one row per box, so that all work is vectorised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyscratchdet.errors import UsageError


def _ints() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass
class DetectionTable:
    """What a detector found.

    Attributes:
        image: (N,) index of the image in the ground truth.
        label: (N,) from 1.
        score: (N,) float64.
        boxes_px: (N, 4) float64 xmin, ymin, xmax, ymax in the same pixel frame as the ground truth.
    """

    image: np.ndarray = field(default_factory=_ints)
    label: np.ndarray = field(default_factory=_ints)
    score: np.ndarray = field(default_factory=lambda: np.zeros(0))
    boxes_px: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, rows: np.ndarray | slice) -> DetectionTable:
        return DetectionTable(self.image[rows], self.label[rows], self.score[rows], self.boxes_px[rows])

    @classmethod
    def join(cls, parts: Sequence[DetectionTable]) -> DetectionTable:
        """Puts tables together, in order."""
        if not parts:
            return cls()
        return cls(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("image", "label", "score", "boxes_px")
            )
        )


@dataclass
class ImageDetections:
    """What was found in one picture, by falling score.

    Attributes:
        labels: (K,) int64 Caffe labels, background (0) excluded.
        scores: (K,) float32 in (0, 1].
        boxes_px: (K, 4) float32 xmin, ymin, xmax, ymax in pixels of the picture, clipped to it.
    """

    labels: np.ndarray
    scores: np.ndarray
    boxes_px: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: np.ndarray) -> ImageDetections:
        """Returns a selection of the rows."""
        return ImageDetections(self.labels[rows], self.scores[rows], self.boxes_px[rows])

    def to_supervision(self, names: Mapping[int, str] | None = None) -> Any:
        """Returns `supervision.Detections`; class_id is the Caffe label.

        Args:
            names: {label: class name}, such as a Detector's; goes into `data["class_name"]`, which annotators show.

        Raises:
            UsageError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise UsageError(
                "supervision is not installed", code="detect.supervision", hint="pip install supervision"
            ) from None
        data: dict[str, Any] = {}
        if names is not None:
            data["class_name"] = np.array([names[label] for label in self.labels.tolist()], str)
        return supervision.Detections(self.boxes_px, confidence=self.scores, class_id=self.labels, data=data)
