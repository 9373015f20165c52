"""Non-maximum suppression of many groups at once (bbox_util.cpp: ApplyNMS, ApplyNMSFast).

Overlaps are rounded as in `overlap`, whatever the device: a compiled kernel that fuses a multiplication into an
addition may keep a box that the original drops. torchvision's batched_nms moves the classes apart by adding offsets to
the coordinates, which rounds them; here groups are kept apart without offsets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyscratchdet.boxes.overlap import area, pairwise_jaccard

_BLOCK = 64
# Overlaps held at a time, and how many times larger than its smallest group a chunk's largest group may be. Smaller
# groups are padded to the largest, which costs a CPU more than another chunk, and a GPU less.
_CPU_CHUNK = (1 << 20, 4.0)
_GPU_CHUNK = (1 << 26, math.inf)


def nms_groups(boxes: Tensor, counts: Tensor, threshold: float, eta: float = 1.0) -> Tensor:
    """Returns which boxes stay: a box is dropped if its overlap with a better one that stays is above `threshold`.

    Args:
        boxes: (S, 4), group after group, best first within each.
        counts: (G,) int64 size of each group; 0 is allowed.
        threshold: Highest overlap of two boxes that stay.
        eta: After each box that stays, a threshold above 0.5 is multiplied by this.

    Returns:
        (S,) bool.
    """
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    adaptive = eta < 1 and threshold > 0.5
    first = counts.cumsum(0) - counts
    counts, order = counts.sort(descending=True)
    first = first[order]
    for begin, end, largest in _chunks(counts.tolist(), *(_GPU_CHUNK if boxes.is_cuda else _CPU_CHUNK)):
        steps = torch.arange(largest, device=boxes.device)
        usable = steps < counts[begin:end, None]
        rows = (first[begin:end, None] + steps).clamp(max=len(boxes) - 1)
        padded = boxes[rows]
        kept = _suppress_adaptive(padded, usable, threshold, eta) if adaptive else suppress(padded, usable, threshold)
        keep[rows[kept]] = True
    return keep


def suppress(boxes: Tensor, usable: Tensor, threshold: float) -> Tensor:
    """Returns which boxes of G groups stay; see `nms_groups`.

    Works block by block: first settles which boxes of a block stay, then drops what those overlap further down.

    Args:
        boxes: (G, K, 4), best first.
        usable: (G, K) bool; other boxes neither stay nor cause any to be dropped.
        threshold: Highest overlap of two boxes that stay.

    Returns:
        (G, K) bool.
    """
    keep = usable.clone()
    columns = boxes.mT.contiguous().mT
    areas = area(columns)
    for begin in range(0, boxes.shape[1], _BLOCK):
        end = min(begin + _BLOCK, boxes.shape[1])
        block, sizes = columns[:, begin:end], areas[:, begin:end]
        kept = _settle(block, sizes, keep[:, begin:end], threshold)
        keep[:, begin:end] = kept
        if end < boxes.shape[1]:
            most = int(kept.sum(1).max())
            chosen = kept.int().argsort(dim=1, descending=True, stable=True)[:, :most]
            block = block.mT.gather(2, chosen[:, None].expand(-1, 4, -1)).mT
            near = _above(block, columns[:, end:], sizes.gather(1, chosen), areas[:, end:], threshold)
            near &= kept.gather(1, chosen)[..., None]
            keep[:, end:] &= ~near.any(1)
    return keep


def _settle(boxes: Tensor, areas: Tensor, usable: Tensor, threshold: float) -> Tensor:
    """Which boxes of a block stay.

    A box stays if no box before it both stays and overlaps it too much. Starting with all boxes, each round settles at
    least one more, and in practice the chains are short.
    """
    near = _above(boxes, boxes, areas, areas, threshold).triu_(1)
    keep = usable
    while True:
        settled = usable & ~(near & keep[..., None]).any(1)
        if torch.equal(settled, keep):
            return keep
        keep = settled


def _above(first: Tensor, second: Tensor, first_area: Tensor, second_area: Tensor, threshold: float) -> Tensor:
    """Whether boxes (G, A, 4) overlap boxes (G, B, 4) by more than `threshold`: (G, A, B) bool."""
    overlaps = pairwise_jaccard(first[:, :, None], second[:, None], first_area[..., None], second_area[:, None])
    return overlaps > threshold


def _suppress_adaptive(boxes: Tensor, usable: Tensor, threshold: float, eta: float) -> Tensor:
    """Like `suppress`, with a threshold that falls: one step per rank, all groups at once."""
    keep = torch.zeros_like(usable)
    areas = area(boxes)
    thresholds = areas.new_full((len(boxes),), threshold)
    for rank in range(boxes.shape[1]):
        overlaps = pairwise_jaccard(boxes[:, rank, None], boxes[:, :rank], areas[:, rank, None], areas[:, :rank])
        near = (overlaps > thresholds[:, None]) & keep[:, :rank]
        keep[:, rank] = usable[:, rank] & ~near.any(1)
        falls = keep[:, rank] & (thresholds > 0.5)
        thresholds = torch.where(falls, thresholds * eta, thresholds)
    return keep


def _chunks(counts: list[int], limit: int, spread: float) -> list[tuple[int, int, int]]:
    """Cuts groups of falling size into runs of bounded work (begin, end, largest size), without empty groups."""
    chunks, begin, total = [], 0, next((index for index, count in enumerate(counts) if not count), len(counts))
    while begin < total:
        largest = counts[begin]
        most = min(total, begin + max(1, limit // (largest * _BLOCK)))
        end = next((index for index in range(begin, most) if counts[index] * spread < largest), most)
        chunks.append((begin, end, largest))
        begin = end
    return chunks
