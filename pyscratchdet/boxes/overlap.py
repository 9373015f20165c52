"""Areas and overlaps of boxes (bbox_util.cpp: BBoxSize, IntersectBBox, JaccardOverlap, IsCrossBoundaryBBox)."""

from __future__ import annotations

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """Returns width * height of boxes (..., 4) as (...); 0 where xmax < xmin or ymax < ymin."""
    width = boxes[..., 2] - boxes[..., 0]
    height = boxes[..., 3] - boxes[..., 1]
    return torch.where((width < 0) | (height < 0), 0, width * height)


def pairwise_jaccard(
    first: Tensor,
    second: Tensor,
    first_area: Tensor,
    second_area: Tensor,
) -> Tensor:
    """Returns the intersection over union of boxes (..., 4) and boxes (..., 4), which broadcast; their areas are known.

    Every step is rounded to the boxes' own type in the original's order, on every device. Boxes that only touch
    overlap by 0. Each coordinate may have memory of its own: only `boxes[..., k]` is read.
    """
    start = torch.maximum(first[..., 0], second[..., 0])
    width = torch.minimum(first[..., 2], second[..., 2]) - start
    start = torch.maximum(first[..., 1], second[..., 1])
    height = torch.minimum(first[..., 3], second[..., 3]) - start
    inner = width.clamp_(min=0).mul_(height.clamp_(min=0))
    union = (first_area + second_area).sub_(inner)
    # Without an intersection the union may be 0 as well: 0 / 0 must be 0.
    return inner.div_(union.masked_fill_(inner == 0, 1))


def crosses_boundary(boxes: Tensor) -> Tensor:
    """Returns for boxes (..., 4) whether a coordinate is outside [0, 1]: (...) bool."""
    return ((boxes < 0) | (boxes > 1)).any(-1)
