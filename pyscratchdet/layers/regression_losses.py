"""Losses that compare numbers with numbers.

EuclideanLoss, L1Loss, SmoothL1Loss, ContrastiveLoss, SigmoidCrossEntropyLoss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Count, Shape, exactly, register
from pyscratchdet.layers.loss import (
    PRE_FIXED_FIELDS,
    Loss,
    LossParameter,
    ignore_label,
    legacy_shape,
    normalization,
    normalizer,
)
from pyscratchdet.lazy import F, Tensor, torch


@register("EuclideanLoss")
class EuclideanLoss(Loss):
    """sum((a - b)^2) / 2N, differentiable with respect to both bottoms (euclidean_loss_layer.cpp)."""

    no_gradient: ClassVar[frozenset[int]] = frozenset()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        if math.prod(bottoms[0]) != math.prod(bottoms[1]):
            raise self.fail(
                "both bottoms must have the same number of values per item",
                "shape",
                expected=bottoms[0],
                found=bottoms[1],
            )
        return tops

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        difference = bottoms[0] - bottoms[1].reshape(bottoms[0].shape)
        return [difference.square().sum() / len(difference) / 2]


@register("L1Loss")
class L1Loss(EuclideanLoss):
    """sum(|a - b|) / N, differentiable with respect to both bottoms (l1_loss_layer.cpp of NVIDIA's Caffe)."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [(bottoms[0] - bottoms[1].reshape(bottoms[0].shape)).abs().sum() / len(bottoms[0])]


@register("SmoothL1Loss")
class SmoothL1Loss(Loss):
    """sum(f(a - b)) / N, f(d) = d^2 / 2 where |d| < 1 and |d| - 1/2 elsewhere (smooth_L1_loss_layer.cpp).

    With Fast R-CNN's `sigma` s, f(d) = (s d)^2 / 2 where |d| < 1 / s^2 and |d| - 1 / (2 s^2) elsewhere. With Fast
    R-CNN's inside weights v and outside weights w as bottoms 3 and 4 it is sum(w * f(v * (a - b))) / N. Its first
    version and R-FCN's have weights v alone, which the gradient leaves out: it is f'(v * (a - b)) / N. Differentiable
    with respect to a and b.
    """

    bottoms: ClassVar[Count] = Count(2, 4)
    no_gradient: ClassVar[frozenset[int]] = frozenset({2, 3})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        sigma = self.param.smooth_l1_loss_param.sigma
        if not 0 < sigma < math.inf:
            raise self.fail("sigma must be positive", "sigma", found=sigma)
        if len(bottoms) == 3 and math.prod(bottoms[0][2:]) > 1:
            expected = "(N, C), where Fast R-CNN and R-FCN divide by the same number"
            raise self.fail("one bottom of weights", "bottoms", expected=expected, found=bottoms[0])
        self.beta = 1 / sigma**2  # PyTorch's name for where the two parts meet; its f(d) is d^2 / (2 beta) below

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        for bottom in bottoms[1:]:
            if legacy_shape(self, bottom) != legacy_shape(self, bottoms[0]):
                raise self.fail("all bottoms must have the same shape", "shape", expected=bottoms[0], found=bottom)
        return tops

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        values = bottoms[0]
        targets, *weights = (bottom.reshape(values.shape) for bottom in bottoms[1:])
        if not weights:
            return [F.smooth_l1_loss(values, targets, reduction="sum", beta=self.beta) / len(values)]
        inside, *outside = (weight.detach() for weight in weights)
        differences = inside * (values - targets)
        errors = F.smooth_l1_loss(differences, torch.zeros_like(differences), reduction="none", beta=self.beta)
        if outside:
            return [(outside[0] * errors).sum() / len(values)]
        from pyscratchdet.layers.autograd.given_gradient import given_gradient

        given = differences.detach()
        slopes = (given / self.beta).clamp(-1, 1)
        return [
            given_gradient(
                errors.detach().sum() / len(values), lambda: slopes / len(values), values, targets, signs=(1, -1)
            )
        ]


@register("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """sum(d^2 where similar, max(margin - d, 0)^2 elsewhere) / 2N, d = |a - b| per row (contrastive_loss_layer.cpp).

    Bottoms: a and b (N, C), and N labels: similar where the label, truncated to a whole number, is not 0. With
    `legacy_version` dissimilar pairs contribute max(margin - d^2, 0). The gradient divides by d + 1e-4, as the
    original's.
    """

    bottoms: ClassVar[Count] = exactly(3)
    no_gradient: ClassVar[frozenset[int]] = frozenset({2})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        number, channels, _, _ = legacy_shape(self, bottoms[0])
        for bottom, expected in zip(bottoms, [(number, channels), (number, channels), (number, 1)], strict=True):
            if legacy_shape(self, bottom) != (*expected, 1, 1):
                raise self.fail("bottoms must be two (N, C) and one (N)", "shape", expected=expected, found=bottom)
        return tops

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.layers.autograd.given_gradient import given_gradient

        margin, legacy = self.param.contrastive_loss_param.margin, self.param.contrastive_loss_param.legacy_version
        number = len(bottoms[0])
        first, second, labels = (bottom.detach().reshape(number, -1) for bottom in bottoms)
        difference, similar = first - second, labels.trunc() != 0
        squares = difference.square().sum(1, keepdim=True)
        distances = squares.sqrt()
        gaps = margin - (squares if legacy else distances)
        penalties = gaps.clamp(min=0) if legacy else gaps.clamp(min=0).square()
        loss = torch.where(similar, squares, penalties).sum() / number / 2

        def gradient() -> Tensor:
            factors = torch.ones_like(gaps) if legacy else gaps / (distances + 1e-4)
            factors = torch.where(gaps > 0, -factors, 0)
            return torch.where(similar, difference, factors * difference) / number

        return [given_gradient(loss, gradient, *bottoms[:2], signs=(1, -1))]


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """-sum(t * log(s) + (1 - t) * log(1 - s)) / normalizer, s = sigmoid(x), for targets t of the same count.

    Divided by the batch size unless `loss_param` says otherwise (sigmoid_cross_entropy_loss_layer.cpp).
    """

    fork_fields: ClassVar[frozenset[str]] = PRE_FIXED_FIELDS

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.ignored = ignore_label(self.param.loss_param)
        self.mode = normalization(self.param.loss_param, LossParameter.BATCH_SIZE)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        if math.prod(bottoms[0]) != math.prod(bottoms[1]):
            raise self.fail("both bottoms must have the same count", "shape", expected=bottoms[0], found=bottoms[1])
        return tops

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        scores, targets = bottoms[0], bottoms[1].detach().reshape(bottoms[0].shape)
        valid = torch.ones_like(targets, dtype=torch.bool)
        if self.ignored is not None:
            valid = targets.trunc() != self.ignored
        losses = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        divisor = normalizer(self.param.loss_param, self.mode, len(scores), scores[0].numel(), valid.sum())
        return [torch.where(valid, losses, 0).sum() / divisor]
