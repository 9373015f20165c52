"""Pictures that occur twice: the same bytes, or the same view after scaling, recompression or mirroring.

A picture's look is the direction of its brightness gradient at 16 x 16 places (a difference hash with a third value for
"flat"), so that the product of two looks says how alike they are: 1 for the same, about 0 for strangers.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

_SIDE = 16
# Gray levels below which a difference is flat, and how many places must not be.
_FLAT, _FEWEST = 3, 64
# Strangers reach 0.35 in raccoon_dataset, kangaroo, BCCD and VOC; the same scene with something changed has 0.83.
_ALIKE = 0.7
_ENTRIES = 1 << 24  # of a matrix of likeness at a time

Pair = tuple[int, int, float]
"""A picture, a later one, and how alike they are."""


def look_of(image: np.ndarray) -> np.ndarray:
    """Returns the look of a picture (height, width, 3): (512,) float32 of length 1; zeros where it is almost flat."""
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(gray, (_SIDE + 1, _SIDE + 1), interpolation=cv2.INTER_AREA).astype(np.int32)
    steps = np.stack([small[:-1, 1:] - small[:-1, :-1], small[1:, :-1] - small[:-1, :-1]])
    look = (np.sign(steps) * (np.abs(steps) >= _FLAT)).astype(np.float32).ravel()
    length = np.linalg.norm(look)
    return look / length if length**2 >= _FEWEST else np.zeros_like(look)


def mirrored(looks: np.ndarray) -> np.ndarray:
    """Returns the looks (P, 512) of the pictures flipped left to right."""
    steps = looks.reshape(-1, 2, _SIDE, _SIDE)[..., ::-1].copy()
    steps[:, 0] *= -1
    return steps.reshape(looks.shape)


def find_twins(looks: np.ndarray, digests: Sequence[str]) -> tuple[np.ndarray, list[Pair]]:
    """Finds pictures that are equal or look alike, mirrored or not.

    Args:
        looks: (P, 512) as `look_of` returns them.
        digests: (P) of the pictures' bytes.

    Returns:
        The group (P,) of each picture: all that are connected by likeness have the same. And for each picture that is
        like earlier ones (the most similar, picture, likeness).
    """
    groups, pairs = np.arange(len(looks)), []
    earlier: dict[str, int] = {}
    step = max(1, _ENTRIES // max(1, len(looks)))
    for start in range(0, len(looks), step):
        rows = looks[start : start + step]
        likeness = np.minimum(np.maximum(rows @ looks.T, mirrored(rows) @ looks.T), 1)
        for index, row in enumerate(likeness, start):
            row[earlier.setdefault(digests[index], index)] = 1  # almost flat pictures have no look
            alike = np.flatnonzero(row[:index] >= _ALIKE)
            if len(alike):
                first = int(alike[np.argmax(row[alike])])
                pairs.append((first, index, float(row[first])))
                joined = np.unique(groups[alike])
                groups[np.isin(groups, joined)] = groups[index] = joined[0]
    return groups, pairs
