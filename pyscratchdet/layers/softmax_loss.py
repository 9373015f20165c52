"""SoftmaxWithLoss (softmax_loss_layer.cpp)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Count, Shape, exactly, register
from pyscratchdet.layers.loss import (
    PRE_FIXED_FIELDS,
    Loss,
    LossParameter,
    check_one_label_each,
    class_indices,
    ignore_label,
    normalization,
    normalizer,
)
from pyscratchdet.lazy import F, Tensor, torch

# log(FLT_MIN): the loss of a true class with no probability at all, 87.3365.
FLOOR = math.log(1.1754943508222875e-38)


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(Loss):
    """-sum(log(max(p[label], FLT_MIN))) / normalizer over all places with a label that counts.

    Bottoms: scores with the classes along `softmax_param.axis`, and labels: one per place, in the order of the scores'
    other axes. The gradient is p - [label], even where the floor limits the loss; PyTorch's cross_entropy has no floor.
    A second top with the probabilities is refused, as SSD's and RefineDet's Caffe refuse it (their inner Softmax
    inherits the loss weights): add a Softmax layer.

    With SegNet's `weight_by_label_freqs`, loss and gradient of a place are multiplied by its label's `class_weighting`;
    the normalizer stays as it is.

    Intel's `label_smoothing` e leaves the loss as it is. With M scores an item and b = e / M, its gradient is
    (1 - e + (M - 1) b) p - [1 - e at the label, b elsewhere].
    """

    tops: ClassVar[Count] = exactly(1)
    fork_fields: ClassVar[frozenset[str]] = PRE_FIXED_FIELDS | {
        "loss_param.weight_by_label_freqs",
        "loss_param.class_weighting",
        "loss_param.label_smoothing",
    }

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.loss_param
        self.class_weights = list(param.class_weighting) if param.weight_by_label_freqs else []
        self.ignored = ignore_label(param)
        self.mode = normalization(param, LossParameter.VALID)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        axis = self.axis(self.param.softmax_param.axis, len(bottoms[0]))
        check_one_label_each(self, bottoms[0], bottoms[1], axis)
        if self.param.loss_param.weight_by_label_freqs and len(self.class_weights) != bottoms[0][axis]:
            expected, found = bottoms[0][axis], len(self.class_weights)
            raise self.fail("one class_weighting per class is needed", "class-weights", expected=expected, found=found)
        return tops

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.layers.autograd.given_gradient import given_gradient

        scores = bottoms[0]
        axis = self.axis(self.param.softmax_param.axis, scores.dim())
        outer, inner = math.prod(scores.shape[:axis]), math.prod(scores.shape[axis + 1 :])
        labels = class_indices(self, bottoms[1].reshape(outer, 1, inner), scores.shape[axis], self.ignored)
        valid, index = labels >= 0, labels.clamp(min=0)
        log_probs = F.log_softmax(scores.detach(), axis).reshape(outer, -1, inner)
        losses = -log_probs.gather(1, index).clamp(min=FLOOR)
        divisor = normalizer(self.param.loss_param, self.mode, outer, inner, valid.sum())
        factors = valid.to(losses.dtype)
        if self.class_weights:
            factors = factors * losses.new_tensor(self.class_weights)[index]
        loss = (losses * factors).sum() / divisor

        def gradient() -> Tensor:
            smoothing, number = self.param.loss_param.label_smoothing, log_probs[0].numel()
            rest = smoothing / number
            wanted = torch.full_like(log_probs, rest).scatter_(1, index, 1 - smoothing)
            total = 1 - smoothing + (number - 1) * rest
            return ((total * log_probs.exp() - wanted) * factors / divisor).view(scores.shape)

        return [given_gradient(loss, gradient, scores)]
