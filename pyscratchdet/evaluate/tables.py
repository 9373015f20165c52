"""The ground truth of a whole data set as a flat table: one row per box, so that all work is vectorised."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pyscratchdet.detect.tables import DetectionTable
from pyscratchdet.errors import DataError


def _ints() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass
class GroundTruthTable:
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
        image_ids: COCO's number of each image; its index + 1 where the set has none.
        category_ids: COCO's number of each class; its label where the set has none.
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

    def leave_out(self, which: np.ndarray) -> np.ndarray:
        """Removes images, where `which` (num_images,) is True, with their boxes.

        Returns:
            (num_images,) the new index of each image; -1 for those removed.
        """
        kept, index = np.flatnonzero(~which), np.where(which, -1, np.cumsum(~which) - 1)
        rows = ~which[self.image]
        self.names = [self.names[row] for row in kept]
        self.paths = [self.paths[row] for row in kept]
        self.image_ids = [self.image_ids[row] for row in kept]
        self.sizes, self.image = self.sizes[kept], index[self.image[rows]]
        self.label, self.boxes_px, self.difficult = self.label[rows], self.boxes_px[rows], self.difficult[rows]
        self.__dict__.pop("_indices", None)
        return index


def check_labels(detections: DetectionTable, truth: GroundTruthTable, what: str = "detections") -> None:
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
        raise DataError(
            f"{what}: scores or boxes that are not numbers", code="evaluate.nan", hint="did the training diverge?"
        )
