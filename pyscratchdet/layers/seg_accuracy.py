"""SegAccuracy (seg_accuracy_layer.cpp and util/confusion_matrix.cpp of DeepLab's and PSPNet's Caffe)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, Shape, exactly, register
from pyscratchdet.layers.loss import class_indices
from pyscratchdet.lazy import Tensor, torch


@register("SegAccuracy")
class SegAccuracy(Layer):
    """How well scores (N, C, H, W) fit labels (N, 1, H, W): a top (1, 1, 1, 3), without a gradient.

    Its values: the share of pixels whose best score is their label's (0 where no pixel counts); the mean of that share
    over the classes that are labels; and the mean intersection over union of all classes, which is 1 for a class that
    is neither label nor best score. Pixels with an `ignore_label` do not count. Of equal scores the higher class is
    best. With `reset: false` the pixels of earlier passes count too. `metric` is not read, as in the original.
    """

    bottoms: ClassVar[Count] = exactly(2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({0, 1})
    fork_fields: ClassVar[frozenset[str]] = frozenset({"seg_accuracy_param"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.confusion = np.zeros((0, 0), np.int64)

    @property
    def state(self) -> Any:
        """The number of pixels by (label, best class) so far, where passes are summed up."""
        return None if self.param.seg_accuracy_param.reset else self.confusion

    @state.setter
    def state(self, state: Any) -> None:
        self.confusion = np.asarray(state, np.int64)

    @property
    def carries_over(self) -> bool:
        """Whether passes are summed up."""
        return not self.param.seg_accuracy_param.reset

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        scores, labels = bottoms
        if len(scores) != 4 or scores[1] < 1 or labels != (scores[0], 1, *scores[2:]):
            found = f"{scores} and {labels}"
            raise self.fail("the bottoms do not fit", "shape", expected="(N, C, H, W) and (N, 1, H, W)", found=found)
        return [(1, 1, 1, 3)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        scores, labels = bottoms[0].detach(), bottoms[1].detach()[:, 0].trunc()
        num_classes = scores.shape[1]
        counted = torch.ones_like(labels, dtype=torch.bool)
        for ignored in self.param.seg_accuracy_param.ignore_label:
            counted &= labels != ignored
        true = class_indices(self, labels[counted], num_classes)
        best = num_classes - 1 - scores.flip(1).argmax(1)[counted]
        confusion = torch.bincount(true * num_classes + best, minlength=num_classes**2).cpu().numpy()
        confusion = confusion.reshape(num_classes, num_classes)
        if self.param.seg_accuracy_param.reset or self.confusion.shape != confusion.shape:
            self.confusion = confusion
        else:
            self.confusion = self.confusion + confusion
        values = torch.from_numpy(_measures(self.confusion))
        return [values.to(scores.device).view(1, 1, 1, 3)]


def _measures(confusion: np.ndarray) -> np.ndarray:
    """Returns pixel accuracy, mean recall and mean intersection over union, float32 (3,)."""
    hits, labelled, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    recalls = hits[labelled > 0] / labelled[labelled > 0]
    union = labelled + predicted - hits
    overlaps = np.divide(hits, union, out=np.ones(len(hits)), where=union > 0)
    accuracy = hits.sum() / max(confusion.sum(), 1)
    return np.array([accuracy, recalls.mean() if len(recalls) else 0, overlaps.mean()], np.float32)
