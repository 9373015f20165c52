"""Which priors count in the loss (bbox_util.cpp: ComputeConfLoss, MineHardExamples; SSD, section 2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyscratchdet.boxes.nms import suppress
from pyscratchdet.boxes.overlap import area

FLT_MIN = 1.1754943508222875e-38

_CPU_ROWS = 1 << 13
_SMALL_BOX = 1e-5  # a double in the original, just above the float32 of that name


def confidence_losses(scores: Tensor, labels: Tensor | int, logistic: bool) -> Tensor:
    """Returns each row's confidence loss, for ranking only: no gradient.

    Only one number per row is kept; on a CPU the rows are done a few thousand at a time.

    Args:
        scores: (R, C) before the softmax or sigmoid.
        labels: (R,) int64, or one for all rows; -1 stands for no class (logistic only).
        logistic: True for sigmoid cross-entropy over all classes instead of softmax.

    Returns:
        (R,), at most -log(FLT_MIN) = 87.3365 with softmax.
    """
    losses = scores.new_empty(len(scores))
    step = len(scores) if scores.is_cuda else _CPU_ROWS
    for begin in range(0, len(scores), max(step, 1)):
        part = slice(begin, begin + step)
        row = labels if isinstance(labels, int) else labels[part]
        losses[part] = (_logistic_losses if logistic else _softmax_losses)(scores[part], row)
    return losses


def _softmax_losses(scores: Tensor, labels: Tensor | int) -> Tensor:
    # Computed from the probability, which the original rounds and floors: equal ones must stay equal.
    return -_pick(F.softmax(scores, -1), labels).clamp(min=FLT_MIN).log()


def _logistic_losses(scores: Tensor, labels: Tensor | int) -> Tensor:
    losses = (scores.clamp(min=0) + scores.abs().neg_().exp_().log1p_()).sum(-1)
    if isinstance(labels, int):
        return losses - scores[:, labels] if labels >= 0 else losses
    return losses - torch.where(labels >= 0, _pick(scores, labels.clamp(min=0)), 0)


def _pick(scores: Tensor, labels: Tensor | int) -> Tensor:
    return scores[:, labels] if isinstance(labels, int) else scores.gather(1, labels[:, None])[:, 0]


def hardest(losses: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    """Returns which `counts[i]` eligible entries of each row have the highest losses; (N, P) bool.

    Among equal losses the lowest index wins (the original leaves that to std::sort).

    Args:
        losses: (N, P).
        eligible: (N, P) bool.
        counts: (N,) int64, at most the number of eligible entries.
    """
    most = int(counts.max()) if counts.numel() else 0
    if most == 0:
        return torch.zeros_like(eligible)
    losses = losses.masked_fill(~eligible, -torch.inf)
    bar = losses.topk(most, 1).values.gather(1, (counts - 1).clamp(min=0)[:, None])
    above, level = losses > bar, (losses == bar) & eligible
    room = counts[:, None] - above.sum(1, keepdim=True)
    return (above | (level & (level.cumsum(1) <= room))) & (counts > 0)[:, None]


def hardest_after_nms(
    losses: Tensor, eligible: Tensor, counts: Tensor, boxes: Tensor, threshold: float, top_k: int
) -> Tensor:
    """Like `hardest`, but takes only the hardest of entries whose boxes overlap by more than `threshold`.

    Args:
        losses: (N, P).
        eligible: (N, P) bool.
        counts: (N,) int64.
        boxes: (N, P, 4) or (P, 4). Boxes with an area below 1e-5 are left out.
        threshold: Highest overlap of two entries taken.
        top_k: How many entries of a row are looked at, hardest first; -1 for all.
    """
    order = losses.masked_fill(~eligible, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    if top_k > -1:
        order = order[:, :top_k]
    boxes = boxes.expand(len(losses), -1, -1).gather(1, order[..., None].expand(-1, -1, 4))
    usable = eligible.gather(1, order) & (area(boxes).double() >= _SMALL_BOX)
    kept = suppress(boxes, usable, threshold)
    taken = kept & (kept.cumsum(1) <= counts[:, None])
    return torch.zeros_like(eligible).scatter_(1, order, taken)
