"""FocalLoss and MultiBoxFocalLoss (the .cpp files of these names in chuanqi305/FocalLoss)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Count, Layer, Shape, exactly, register
from pyscratchdet.layers.loss import (
    Loss,
    LossParameter,
    check_one_label_each,
    class_indices,
    ignore_label,
    normalization,
    normalizer,
)
from pyscratchdet.layers.multibox_loss import MultiBoxLoss
from pyscratchdet.lazy import Tensor

_FIELDS = frozenset({"focal_loss_param.alpha", "focal_loss_param.gamma"})


def _weights(layer: Layer) -> tuple[float, float]:
    """Returns alpha and gamma.

    Raises:
        LayerError: They are not in range.
    """
    param = layer.param.focal_loss_param
    if not 0 < param.alpha < math.inf or not 0 <= param.gamma < math.inf:
        found = (param.alpha, param.gamma)
        raise layer.fail("alpha must be above 0 and gamma 0 or more", "focal", found=found)
    return param.alpha, param.gamma


@register("FocalLoss")
class FocalLoss(Loss):
    """-sum(alpha (1 - p[label])^gamma log(max(p[label], FLT_MIN))) / normalizer, p the softmax (Lin et al. 2017).

    Bottoms, labels and normalizer are those of SoftmaxWithLoss; alpha weights all classes alike.
    zimenglan-sysu-512/Focal-Loss defines the same.
    """

    tops: ClassVar[Count] = exactly(1)
    fork_fields: ClassVar[frozenset[str]] = _FIELDS | {"focal_loss_param.axis"}

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.weights = _weights(self)
        axis = self.param.softmax_param.axis
        if self.param.focal_loss_param.HasField("axis") and self.param.focal_loss_param.axis != axis:
            found = self.param.focal_loss_param.axis
            raise self.fail("the axis is not that of softmax_param", "axis", expected=axis, found=found)
        self.ignored = ignore_label(self.param.loss_param)
        self.mode = normalization(self.param.loss_param, LossParameter.VALID)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        axis = self.axis(self.param.softmax_param.axis, len(bottoms[0]))
        check_one_label_each(self, bottoms[0], bottoms[1], axis)
        return tops

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.boxes.loss import focal_loss

        scores = bottoms[0]
        axis = self.axis(self.param.softmax_param.axis, scores.dim())
        outer, inner = math.prod(scores.shape[:axis]), math.prod(scores.shape[axis + 1 :])
        labels = class_indices(self, bottoms[1].reshape(-1), scores.shape[axis], self.ignored)
        rows = (labels >= 0).nonzero()[:, 0]
        loss = focal_loss(scores.movedim(axis, -1), rows, labels[rows], scores.shape[axis], *self.weights)
        return [loss / normalizer(self.param.loss_param, self.mode, outer, inner, rows.new_tensor(len(rows)))]


@register("MultiBoxFocalLoss")
class MultiBoxFocalLoss(MultiBoxLoss):
    """MultiBoxLoss with the focal loss of the confidences where `conf_loss_type` is SOFTMAX.

    With `mining_type: NONE` every prior counts, as the focal loss is meant to be used.
    """

    fork_fields: ClassVar[frozenset[str]] = _FIELDS

    def setup(self, bottoms: Sequence[Shape]) -> None:
        super().setup(bottoms)
        self.focal_weights = _weights(self)
