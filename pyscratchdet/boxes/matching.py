"""Which prior stands for which object (bbox_util.cpp: MatchBBox; SSD, section 2.2, Matching strategy)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyscratchdet.boxes.overlap import area, crosses_boundary, pairwise_jaccard

NEGATIVE = -1
IGNORED = -2

_LEAST_OVERLAP = 1e-6
# Overlaps held at a time: few enough for the caches of a CPU, and on a GPU enough for a usual batch in one step.
_CPU_OVERLAPS = 1 << 18
_GPU_OVERLAPS = 1 << 26


def match_priors(
    truth: Tensor,
    counts: np.ndarray,
    boxes: Tensor,
    *,
    overlap_threshold: float | None,
    ignore_cross_boundary: bool = False,
) -> tuple[Tensor, Tensor]:
    """Matches boxes to ground truth, for many groups (images, or classes of images) at once.

    First every object takes a box of its own: of all pairs in the group that overlap by more than 1e-6, the pair that
    overlaps most is matched, then the next among the rest, and so on. Of equal overlaps the lowest box wins, then the
    lowest object. Then every other box takes the object that it overlaps most, if the overlap is at least
    `overlap_threshold`. Groups are processed a few at a time to bound the memory.

    Args:
        truth: (T, 4) objects, group after group.
        counts: (G,) number of objects in each group, at least 1.
        boxes: (P, 4) priors of all groups, or (G, P, 4) each group's own.
        overlap_threshold: None for bipartite matching only.
        ignore_cross_boundary: Boxes with a coordinate outside [0, 1] match nothing and are marked -2.

    Returns:
        Indices (G, P) int64: the row of `truth`, or -1 for none, or -2; and overlaps (G, P): with the matched object,
        or else the highest in the group.
    """
    num_groups, num_boxes = len(counts), boxes.shape[-2]
    budget = _GPU_OVERLAPS if boxes.is_cuda else _CPU_OVERLAPS
    indices = torch.empty(num_groups, num_boxes, dtype=torch.int64, device=boxes.device)
    overlaps = torch.empty(num_groups, num_boxes, dtype=boxes.dtype, device=boxes.device)
    # Each coordinate in memory of its own: the table is computed row by row from each.
    columns = boxes.expand(num_groups if boxes.dim() == 3 else 1, -1, -1).mT.contiguous().mT
    areas = area(columns)
    first = np.cumsum(counts) - counts
    for begin, end in _chunks(counts, max(1, budget // max(num_boxes, 1))):
        part = slice(begin, end) if boxes.dim() == 3 else slice(None)
        steps = np.arange(counts[begin:end].max())
        rows = torch.from_numpy(np.minimum(first[begin:end, None] + steps, len(truth) - 1)).to(boxes.device)
        absent = torch.from_numpy(steps >= counts[begin:end, None]).to(boxes.device)
        objects = truth[rows]
        table = pairwise_jaccard(
            objects[:, :, None], columns[part, None], area(objects)[:, :, None], areas[part, None]
        ).masked_fill_(absent[:, :, None], -1)
        crossing = crosses_boundary(columns[part]).expand(end - begin, -1) if ignore_cross_boundary else None
        indices[begin:end], overlaps[begin:end] = _match_table(table, rows, overlap_threshold, crossing)
    return indices, overlaps


def _match_table(table: Tensor, rows: Tensor, threshold: float | None, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
    """Matches n groups from their overlaps (n, M, P); absent objects overlap by -1. Overwrites the table."""
    if ignored is not None:
        table.masked_fill_(ignored[:, None], -1)
    overlap, best = table.max(1)
    index = torch.full_like(best, NEGATIVE)
    if threshold is not None:
        index = torch.where((overlap > _LEAST_OVERLAP) & (overlap >= threshold), rows.gather(1, best), index)
    overlap.masked_fill_(overlap <= _LEAST_OVERLAP, 0)
    if ignored is not None:
        index.masked_fill_(ignored, IGNORED)
    _match_bipartite(table, rows, index, overlap)
    return index, overlap


def _match_bipartite(table: Tensor, rows: Tensor, index: Tensor, overlap: Tensor) -> None:
    """Gives every object of each group a box of its own, overwriting `index` and `overlap` (n, P).

    A pair that is the best one left for both its object and its box will be chosen sooner or later whatever else
    happens, so all such pairs are taken at once: a few rounds instead of one per object.
    """
    objects = torch.arange(table.shape[1], device=table.device)
    while True:
        value, box = table.max(2)
        rivals = table.gather(2, box[:, None].expand(-1, table.shape[1], -1)).max(1).indices
        group, item = ((value > _LEAST_OVERLAP) & (rivals == objects)).nonzero(as_tuple=True)
        if not len(group):
            return
        taken = box[group, item]
        index[group, taken] = rows[group, item]
        overlap[group, taken] = value[group, item]
        table[group, item] = -1
        table[group, :, taken] = -1


def _chunks(counts: np.ndarray, limit: int) -> list[tuple[int, int]]:
    """Cuts groups into runs whose length times their largest count stays within `limit`, or runs of one group."""
    chunks, begin, largest = [], 0, 0
    for group, count in enumerate(counts.tolist()):
        largest = max(largest, count)
        if group > begin and largest * (group + 1 - begin) > limit:
            chunks.append((begin, group))
            begin, largest = group, count
    return [*chunks, (begin, len(counts))] if len(counts) else []
