"""Prior boxes of one feature map (prior_box_layer.cpp; SSD, section 2.2). numpy only: they need no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_SAME = 1e-6


def aspect_ratios(given: Sequence[float], flip: bool) -> list[float]:
    """Returns the ratios in use, 1 first: each given one, then its inverse where `flip`; repeated ones dropped."""
    ratios = [1.0]
    for value in given:
        ratio = float(np.float32(value))
        if all(abs(np.float32(ratio) - np.float32(known)) >= _SAME for known in ratios):
            ratios.append(ratio)
            if flip:
                ratios.append(float(np.float32(1.0 / ratio)))
    return ratios


def prior_sizes(min_sizes: Sequence[float], max_sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """Returns the sizes of the priors of one cell in the original's order, (K, 2) float32: width, height in pixels.

    For each min_size: itself, then sqrt(min_size * max_size), then one box per aspect ratio other than 1. Both sizes
    are first truncated to whole pixels: 35.84 becomes 35.
    """
    sizes: list[tuple[float, float]] = []
    for index, size in enumerate(min_sizes):
        low = int(size)
        sizes.append((low, low))
        if max_sizes:
            side = math.sqrt(low * int(max_sizes[index]))
            sizes.append((side, side))
        sizes += [
            (low * math.sqrt(ratio), low / math.sqrt(ratio)) for ratio in ratios if abs(np.float32(ratio) - 1) >= _SAME
        ]
    return np.array(sizes, np.float32).reshape(-1, 2)


def dense_shifts(density: int, distance: float, first: float) -> np.ndarray:
    """Returns where `density` by `density` centres lie, (density^2, 2) along x and y in pixels, row by row.

    Args:
        density: Centres in a row.
        distance: Pixels from one to the next.
        first: Where the first one is, from the place's own centre.
    """
    places = first + distance * np.arange(density, dtype=np.float32)
    y, x = np.meshgrid(places, places, indexing="ij")
    return np.stack([x, y], -1).reshape(-1, 2)


def prior_boxes(
    sizes: np.ndarray,
    map_size: tuple[int, int],
    image_size: tuple[int, int],
    step: tuple[float, float] | None = None,
    offset: float | tuple[float, float] = 0.5,
    clip: bool = False,
    shifts: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the priors of a feature map, (H * W * K, 4) float32: xmin, ymin, xmax, ymax, normalised.

    Rows run over y, then x, then the K sizes. Centres are (index + offset) * step in float32; corners are computed in
    double and rounded once, as in the original.

    Args:
        sizes: (K, 2) width, height in pixels.
        map_size: Height and width of the feature map, in cells.
        image_size: Height and width of the image, in pixels.
        step: Distance between centres along y and x in pixels; None for image size / map size.
        offset: Where in a cell the centre is, as a share of the cell: one number, or along y and x.
        clip: Whether to clip the boxes at the image's border.
        shifts: (K, 2) how far from there the centres of the sizes are, along x and y in pixels; None for nowhere.
    """
    offsets = offset if isinstance(offset, tuple) else (offset, offset)
    shift_x, shift_y = np.zeros((1, 2), np.float32).T if shifts is None else shifts.astype(np.float32).T
    steps = step or [
        float(np.float32(image) / np.float32(cells)) for image, cells in zip(image_size, map_size, strict=True)
    ]
    center_y, center_x = (
        (np.arange(cells, dtype=np.float32) + np.float32(place)) * np.float32(size)
        for cells, size, place in zip(map_size, steps, offsets, strict=True)
    )
    center_x = (center_x[None, :, None] + shift_x).astype(np.float64)
    center_y = (center_y[:, None, None] + shift_y).astype(np.float64)
    half_width, half_height = sizes.astype(np.float64).T / 2
    boxes = np.empty((*map_size, len(sizes), 4), np.float32)
    boxes[..., 0] = (center_x - half_width) / image_size[1]
    boxes[..., 1] = (center_y - half_height) / image_size[0]
    boxes[..., 2] = (center_x + half_width) / image_size[1]
    boxes[..., 3] = (center_y + half_height) / image_size[0]
    if clip:
        np.clip(boxes, 0, 1, out=boxes)
    return boxes.reshape(-1, 4)
