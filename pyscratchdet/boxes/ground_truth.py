"""The label blob as tensors (bbox_util.cpp: GetGroundTruth)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class GroundTruth:
    """T objects of a batch, ordered by image and, within an image, as in the label blob.

    Attributes:
        boxes: (T, 4) float32 on the device of the label blob.
        labels: (T,) int64, numpy: the label blob is small, and what depends on it is decided on the host.
        images: (T,) int64, numpy, ascending.
        difficult: (T,) bool, numpy.
    """

    boxes: Tensor
    labels: np.ndarray
    images: np.ndarray
    difficult: np.ndarray

    def subset(self, rows: np.ndarray) -> GroundTruth:
        """Returns the objects at `rows` (indices, or one bool per object) in that order."""
        index = torch.from_numpy(np.flatnonzero(rows) if rows.dtype == bool else rows).to(self.boxes.device)
        return GroundTruth(self.boxes[index], self.labels[rows], self.images[rows], self.difficult[rows])


def read_ground_truth(label: Tensor, *, use_difficult: bool, one_class: bool, ends: bool = False) -> GroundTruth:
    """Reads a label blob of 8 columns: item, label, instance, xmin, ymin, xmax, ymax, difficult.

    Args:
        label: (1, 1, N, 8), float. Rows whose item is -1 hold no object.
        use_difficult: False leaves difficult objects out.
        one_class: Labels of 2 and more become 1, as nets with two classes (RefineDet's ARM) see them.
        ends: The first item of -1 ends the list (DetectionEvaluate) instead of being skipped.
    """
    rows = label.detach().reshape(-1, 8)
    table = rows.cpu().numpy()
    images, labels = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    if one_class:
        labels = np.minimum(labels, 1)
    used = images != -1
    if ends:
        used = np.logical_and.accumulate(used)
    difficult = table[:, 7] != 0
    if not use_difficult:
        used &= ~difficult
    order = np.flatnonzero(used)
    order = order[np.argsort(images[order], kind="stable")]
    boxes = rows[torch.from_numpy(order).to(rows.device), 3:7].float()
    return GroundTruth(boxes, labels[order], images[order], difficult[order])
