"""Losses of one class label per item: HingeLoss, MultinomialLogisticLoss, InfogainLoss.

Each compares (N, C) predictions (further axes count as classes) with N labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from google.protobuf.message import DecodeError

from pyscratchdet.errors import WeightsError
from pyscratchdet.files import read_bytes
from pyscratchdet.layers.base import Count, Shape, register
from pyscratchdet.layers.loss import (
    Loss,
    LossParameter,
    check_one_label_each,
    class_indices,
    ignore_label,
    legacy_shape,
    normalization,
    normalizer,
)
from pyscratchdet.lazy import F, Tensor, torch
from pyscratchdet.proto import caffe_pb2

# kLOG_THRESHOLD of loss_layer.hpp: smaller probabilities count as this.
SMALLEST = 1e-20


@register("HingeLoss")
class HingeLoss(Loss):
    """sum(h) / N (L1) or sum(h^2) / N (L2), h = max(0, 1 - x) at the label and max(0, 1 + x) elsewhere.

    The subgradient where h is 0 is 0 (hinge_loss_layer.cpp).
    """

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        self.check_one_label_each(bottoms)
        return tops

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        scores = bottoms[0].flatten(1) if bottoms[0].dim() > 1 else bottoms[0][:, None]
        labels = class_indices(self, bottoms[1].reshape(-1, 1), scores.shape[1])
        signs = torch.ones_like(scores).scatter_(1, labels, -1)
        # relu, not clamp: its gradient at 0 is 0, as in the original.
        margins = torch.relu(1 + signs * scores)
        is_l2 = self.param.hinge_loss_param.norm == caffe_pb2.HingeLossParameter.L2
        return [(margins.square() if is_l2 else margins).sum() / len(scores)]


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Loss):
    """-sum(log(max(p[label], 1e-20))) / N for probabilities p (multinomial_logistic_loss_layer.cpp).

    The gradient is -1 / max(p, 1e-20) / N, even where p is below 1e-20.
    """

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        legacy_shape(self, bottoms[0])
        legacy_shape(self, bottoms[1])
        self.check_one_label_each(bottoms)
        return tops

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        number = len(bottoms[0])
        labels = class_indices(self, bottoms[1].reshape(-1, 1), bottoms[0].numel() // number)
        weights = torch.zeros(number, bottoms[0].numel() // number, device=bottoms[0].device).scatter_(1, labels, 1)
        return [_weighted_log_loss(bottoms[0], weights)]


@register("InfogainLoss")
class InfogainLoss(Loss):
    """-sum(H[label] * log(max(p, 1e-20))) / N with an infogain matrix H of C x C (infogain_loss_layer.cpp).

    H is the third bottom (1, 1, C, C) or, with two bottoms, the BlobProto in `infogain_loss_param.source`.

    With the `axis` of BVLC's newer Caffe the bottom holds scores instead, whose softmax along that axis is taken, the
    labels are one per place, H may have any shape of C * C values, and the sum is divided as `loss_param` says (by the
    places that count, if it says nothing). That Caffe takes axis 1 where none is written, too: write it then.
    """

    fork_fields: ClassVar[frozenset[str]] = frozenset({"infogain_loss_param.axis"})

    bottoms: ClassVar[Count] = Count(2, 3)
    no_gradient: ClassVar[frozenset[int]] = frozenset({1, 2})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.takes_scores = self.param.infogain_loss_param.HasField("axis")
        self.ignored = ignore_label(self.param.loss_param)
        self.mode = normalization(self.param.loss_param, LossParameter.VALID)
        if len(bottoms) == 2:
            if not self.param.infogain_loss_param.HasField("source"):
                raise self.fail(
                    "there is no infogain matrix", "source", hint="give infogain_loss_param.source or a third bottom"
                )
            self.matrix = self._read(Path(self.context.root) / self.param.infogain_loss_param.source)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        if self.takes_scores:
            axis = self.axis(self.param.infogain_loss_param.axis, len(bottoms[0]))
            check_one_label_each(self, bottoms[0], bottoms[1], axis)
            num_values = math.prod(bottoms[2] if len(bottoms) == 3 else self.matrix.shape)
            if num_values != bottoms[0][axis] ** 2:
                expected = f"{bottoms[0][axis]} x {bottoms[0][axis]} values"
                raise self.fail("the infogain matrix does not fit", "infogain", expected=expected, found=num_values)
            return tops
        legacy_shape(self, bottoms[1])
        self.check_one_label_each(bottoms)
        num_classes = math.prod(bottoms[0]) // bottoms[0][0]
        matrix = legacy_shape(self, bottoms[2] if len(bottoms) == 3 else self.matrix.shape)
        if matrix != (1, 1, num_classes, num_classes):
            raise self.fail(
                "the infogain matrix does not fit", "infogain", expected=(1, 1, num_classes, num_classes), found=matrix
            )
        return tops

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        matrix = bottoms[2].detach() if len(bottoms) == 3 else torch.from_numpy(self.matrix).to(bottoms[0].device)
        if self.takes_scores:
            return [self._of_scores(bottoms[0], bottoms[1], matrix)]
        num_classes = bottoms[0].numel() // len(bottoms[0])
        labels = class_indices(self, bottoms[1].reshape(-1), num_classes)
        return [_weighted_log_loss(bottoms[0], matrix.reshape(num_classes, num_classes)[labels])]

    def _of_scores(self, scores: Tensor, labels: Tensor, matrix: Tensor) -> Tensor:
        from pyscratchdet.layers.autograd.given_gradient import given_gradient

        axis = self.axis(self.param.infogain_loss_param.axis, scores.dim())
        num_classes = scores.shape[axis]
        outer, inner = math.prod(scores.shape[:axis]), math.prod(scores.shape[axis + 1 :])
        found = class_indices(self, labels.reshape(outer, inner), num_classes, self.ignored)
        valid = found >= 0
        # (outer, classes, inner): the row of H of each place's label, 0 where it does not count.
        weights = matrix.reshape(num_classes, num_classes)[found.clamp(min=0)].movedim(-1, 1) * valid[:, None]
        probabilities = F.softmax(scores.detach(), axis).reshape(outer, num_classes, inner)
        divisor = normalizer(self.param.loss_param, self.mode, outer, inner, valid.sum())
        loss = -(weights * probabilities.clamp(min=SMALLEST).log()).sum() / divisor

        def gradient() -> Tensor:
            return ((probabilities * weights.sum(1, keepdim=True) - weights) / divisor).view(scores.shape)

        return given_gradient(loss, gradient, scores)

    def _read(self, path: Path) -> np.ndarray:
        from pyscratchdet.proto.weights import blob_to_array

        blob = caffe_pb2.BlobProto()
        try:
            blob.ParseFromString(read_bytes(path))
            return np.array(blob_to_array(blob), np.float32)
        except (DecodeError, WeightsError) as error:
            raise self.fail(f"{path} does not hold an infogain matrix (a BlobProto)", "source") from error


def _weighted_log_loss(probabilities: Tensor, weights: Tensor) -> Tensor:
    """Returns -sum(weights * log(max(p, 1e-20))) / N; weights are (N, C)."""
    from pyscratchdet.layers.autograd.given_gradient import given_gradient

    number = len(probabilities)
    floored = probabilities.detach().reshape(number, -1).clamp(min=SMALLEST)
    loss = -(weights * floored.log()).sum() / number
    return given_gradient(loss, lambda: -weights / number / floored, probabilities)
