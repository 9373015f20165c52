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
from pyscratchdet.layers.loss import Loss, class_indices, legacy_shape
from pyscratchdet.lazy import Tensor, torch
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
    """

    bottoms: ClassVar[Count] = Count(2, 3)
    no_gradient: ClassVar[frozenset[int]] = frozenset({1, 2})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        if len(bottoms) == 2:
            if not self.param.infogain_loss_param.HasField("source"):
                raise self.fail(
                    "there is no infogain matrix", "source", hint="give infogain_loss_param.source or a third bottom"
                )
            self.matrix = self._read(Path(self.context.root) / self.param.infogain_loss_param.source)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
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
        num_classes = bottoms[0].numel() // len(bottoms[0])
        labels = class_indices(self, bottoms[1].reshape(-1), num_classes)
        matrix = bottoms[2].detach() if len(bottoms) == 3 else torch.from_numpy(self.matrix).to(bottoms[0].device)
        return [_weighted_log_loss(bottoms[0], matrix.reshape(num_classes, num_classes)[labels])]

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
