"""Region proposals on the host: the sliding windows of a region proposal network, and their way to regions.

Boxes here are in pixels of the picture, both ends included, so that a box is xmax - xmin + 1 wide. Sources: lib/rpn and
lib/fast_rcnn/bbox_transform.py of py-faster-rcnn; Ren et al. 2015, section 3.1. Their "anchors" are priors here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def window_priors(ratios: Sequence[float], scales: Sequence[float], base_size: int) -> np.ndarray:
    """Returns the priors of the first place of a feature map, float64 (len(ratios) * len(scales), 4) in pixels.

    A square of `base_size` pixels keeps its centre and, up to whole pixels, its area for each ratio of height to width;
    each of those is then enlarged by each scale (generate_anchors.py).

    Args:
        ratios: Height divided by width.
        scales: Factors of width and height.
        base_size: Side of the square in pixels, usually the feature map's stride.
    """
    widths = np.round(np.sqrt(base_size * base_size / np.asarray(ratios, np.float64)))
    heights = np.round(widths * np.asarray(ratios, np.float64))
    sizes = np.stack([widths, heights], 1)[:, None] * np.asarray(scales, np.float64)[:, None]
    centre, reach = 0.5 * (base_size - 1), 0.5 * (sizes.reshape(-1, 2) - 1)
    return np.concatenate([centre - reach, centre + reach], 1)


def slide(priors: np.ndarray, stride: int, map_size: tuple[int, int]) -> np.ndarray:
    """Returns the priors (A, 4) of every place of a feature map, (H * W * A, 4): row by row, A for each place.

    Args:
        priors: Those of the first place, in pixels.
        stride: Pixels of the picture from one place to the next.
        map_size: Height and width of the feature map.
    """
    y, x = np.meshgrid(*(np.arange(size) * stride for size in map_size), indexing="ij")
    shifts = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (priors + shifts).reshape(-1, 4)


def decode_regions(priors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Returns the boxes (N, 4) that codes (N, 4) make of priors (N, 4), float32, both in pixels.

    The centre moves by codes 0 and 1 times the prior's size, whose logarithm grows by codes 2 and 3
    (bbox_transform_inv; Girshick et al. 2014, appendix C). Unlike `codes.decode`, widths include both ends, and xmax is
    centre + width / 2 without a pixel subtracted, as in the original. Codes too large for float32 give NaN or infinity.
    """
    priors = priors.astype(np.float32)
    sizes = priors[:, 2:] - priors[:, :2] + np.float32(1)
    centres = codes[:, :2] * sizes + (priors[:, :2] + np.float32(0.5) * sizes)
    with np.errstate(over="ignore", invalid="ignore"):
        reach = np.float32(0.5) * (np.exp(codes[:, 2:]) * sizes)
        return np.concatenate([centres - reach, centres + reach], 1)


def decode_on_map(first: np.ndarray, stride: int, codes: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Returns the boxes of a feature map's codes, cut to the picture, float32 (H * W * A, 4), in `slide`'s order.

    Args:
        first: The priors (A, 4) of the first place, in pixels.
        stride: Pixels of the picture from one place to the next.
        codes: (4A, H, W).
        size: Height and width of the picture.
    """
    boxes = decode_regions(slide(first, stride, codes.shape[1:]), codes.transpose(1, 2, 0).reshape(-1, 4))
    height, width = size
    last = np.array([width, height, width, height], np.float32) - np.float32(1)
    return np.maximum(np.minimum(boxes, last), np.float32(0))


def best_regions(
    boxes: np.ndarray,
    scores: np.ndarray,
    is_near: Callable[[np.ndarray, np.ndarray], np.ndarray],
    num_before: int = 0,
    num_after: int = 0,
) -> np.ndarray:
    """Returns the indices of the boxes that stay, best first: greedy non-maximum suppression.

    Boxes of equal score keep their order, which the originals leave open.

    Args:
        boxes: (N, 4), in whatever form `is_near` takes.
        scores: (N,) float32.
        is_near: A box that stays (4,) and worse ones (K, 4) -> which of them go, (K,) bool.
        num_before: How many of the best boxes take part; 0 or less for all.
        num_after: How many stay at most; 0 or less for all.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[:num_before] if num_before > 0 else order
    kept: list[int] = []
    while len(order) and not 0 < num_after <= len(kept):
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[~is_near(boxes[best], boxes[order])]
    return np.array(kept, np.int64)


def pixel_overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the overlaps (K,) of a box (4,) with others (K, 4), intersection over union in pixels (nms_kernel.cu)."""
    common = _areas(np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:]))
    return common / (_areas(box[:2], box[2:]) + _areas(others[:, :2], others[:, 2:]) - common)


def _areas(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.maximum(high - low + np.float32(1), np.float32(0)).prod(-1)
