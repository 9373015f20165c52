"""Ground truths and detections of a whole data set as flat tables: one row per box, so that all work is vectorised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyscratchdet.errors import DataError, UsageError


def _ints() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass
class GroundTruth:
    """What is really in the pictures.

    Attributes:
        names: Name of each image; boxes refer to images by their index here.
        classes: Foreground classes; label k is `classes[k - 1]`, as background is 0.
        sizes: (num_images, 2) width and height in pixels.
        paths: File of each image.
        image: (N,) index of the image.
        label: (N,) from 1.
        boxes_px: (N, 4) float64 xmin, ymin, xmax, ymax in the annotation's own pixel frame.
        difficult: (N,) objects that do not count (VOC's difficult, COCO's iscrowd).
        image_ids: COCO's number of each image; the index where the set has none.
        category_ids: COCO's number of each class; the label where the set has none.
    """

    names: list[str]
    classes: tuple[str, ...]
    sizes: np.ndarray
    paths: list[Path]
    image: np.ndarray = field(default_factory=_ints)
    label: np.ndarray = field(default_factory=_ints)
    boxes_px: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    difficult: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    image_ids: list[int] = field(default_factory=list)
    category_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.image_ids = self.image_ids or list(range(1, len(self.names) + 1))
        self.category_ids = self.category_ids or list(range(1, len(self.classes) + 1))

    @property
    def indices(self) -> dict[str, int]:
        """{image name: index}."""
        if not hasattr(self, "_indices"):
            self._indices = {name: index for index, name in enumerate(self.names)}
        return self._indices


@dataclass
class Detections:
    """What a detector said.

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

    def __getitem__(self, rows: np.ndarray | slice) -> Detections:
        return Detections(self.image[rows], self.label[rows], self.score[rows], self.boxes_px[rows])

    @classmethod
    def join(cls, parts: Sequence[Detections]) -> Detections:
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
        """Returns some of the rows."""
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


def check_labels(detections: Detections, truth: GroundTruth, what: str = "detections") -> None:
    """Checks that labels are those of the set's classes.

    Raises:
        DataError: A label is outside 1 to the number of classes, or a score or box is not a number.
    """
    if len(detections) and not 1 <= detections.label.min() <= detections.label.max() <= len(truth.classes):
        raise DataError(
            f"{what}: labels do not fit the classes",
            code="evaluate.class-count",
            expected=f"1 to {len(truth.classes)}",
            found=f"{detections.label.min()} to {detections.label.max()}",
            hint="is this the label map that the net was trained with?",
        )
    if np.isnan(detections.score).any() or np.isnan(detections.boxes_px).any():
        raise DataError(f"{what}: scores or boxes that are not numbers", code="evaluate.nan", hint="training diverged?")
