"""Losses summed over chosen rows, with the original's gradients.

Replaces the smooth_L1_loss, euclidean_loss, softmax_loss and sigmoid_cross_entropy_loss layers inside MultiBoxLoss.
Gradients are computed together with the values, for the chosen rows only: the graph holds one small table, not a
softmax of all priors.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyscratchdet.boxes.mining import FLT_MIN


def location_errors(difference: Tensor, smooth: bool) -> Tensor:
    """Returns the loss of each element: smooth L1 (quadratic below 1) or half the square."""
    squares = difference * difference * 0.5
    if not smooth:
        return squares
    size = difference.abs()
    return torch.where(size < 1, squares, size - 0.5)


def location_loss(loc: Tensor, rows: Tensor, predicted: Tensor, target: Tensor, smooth: bool) -> Tensor:
    """Returns the summed loss of matched priors, 0 axes.

    Args:
        loc: The whole blob, which receives the gradient.
        rows: (M,) the groups of four numbers of `loc` that are matched; each at most once.
        predicted: (M, 4) the values to compare with the target. The gradient with respect to them goes to `loc`
            unchanged, even if the prediction was divided by its variance: that is what the original does.
        target: (M, 4).
        smooth: Smooth L1 instead of half the squared distance.
    """
    difference = predicted.detach() - target
    gradients = difference.clamp(-1, 1) if smooth else difference
    return _RowLoss.apply(loc, rows, gradients, location_errors(difference, smooth).sum())


def softmax_loss(conf: Tensor, rows: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Returns the sum of -log(max(p[label], FLT_MIN)) over rows of `conf`, 0 axes.

    The gradient is p - [label] even where the floor applies.

    Args:
        conf: The whole blob, of any shape: groups of `num_classes` scores.
        rows: (R,) the groups that count; each at most once.
        labels: (R,) int64.
        num_classes: C.
    """
    scores = conf.detach().reshape(-1, num_classes)[rows]
    probabilities = F.softmax(scores, -1)
    column = labels[:, None]
    value = -probabilities.gather(1, column).clamp(min=FLT_MIN).log().sum()
    gradients = probabilities.scatter_add_(1, column, torch.full_like(probabilities[:, :1], -1))
    return _RowLoss.apply(conf, rows, gradients, value)


def focal_loss(conf: Tensor, rows: Tensor, labels: Tensor, num_classes: int, alpha: float, gamma: float) -> Tensor:
    """Returns the sum of -alpha (1 - p[label])^gamma log(max(p[label], FLT_MIN)) over rows of `conf`, 0 axes.

    Arguments as of `softmax_loss`; its gradient is stated, too. Source: Lin et al. 2017, section 3 and appendix B;
    chuanqi305/FocalLoss and zimenglan-sysu-512/Focal-Loss, focal_loss_layer.cpp.
    """
    scores = conf.detach().reshape(-1, num_classes)[rows]
    probabilities, column = F.softmax(scores, -1), labels[:, None]
    true = probabilities.gather(1, column)
    log, rest = true.clamp(min=FLT_MIN).log(), alpha * (1 - true) ** gamma
    slopes = rest - gamma * rest / (1 - true).clamp(min=1e-10) * log * true
    gradients = slopes * probabilities.scatter_add_(1, column, torch.full_like(true, -1))
    return _RowLoss.apply(conf, rows, gradients, -(rest * log).sum())


def logistic_loss(conf: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """Returns the sum of the sigmoid cross-entropies of rows of `conf` with `targets` (R, C), 0 axes."""
    scores = conf.detach().reshape(-1, targets.shape[1])[rows]
    value = F.binary_cross_entropy_with_logits(scores, targets, reduction="sum")
    return _RowLoss.apply(conf, rows, scores.sigmoid() - targets, value)


class _RowLoss(torch.autograd.Function):
    """A value whose gradient with respect to some rows of a blob is known."""

    @staticmethod
    def forward(ctx: Any, blob: Tensor, rows: Tensor, gradients: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(rows, gradients)
        ctx.shape, ctx.dtype = blob.shape, blob.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, top: Tensor) -> tuple[Tensor | None, ...]:
        rows, gradients = ctx.saved_tensors
        scaled = (gradients * top).to(ctx.dtype)
        whole = scaled.new_zeros(ctx.shape)
        whole.view(-1, gradients.shape[1]).index_copy_(0, rows, scaled)
        return whole, None, None, None
