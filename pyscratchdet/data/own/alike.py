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
_ROWS = 1024


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


def alike_pairs(looks: np.ndarray, digests: Sequence[str]) -> list[tuple[int, int, float]]:
    """Returns (picture, later picture, likeness) of the pictures that are equal or look alike, mirrored or not.

    Args:
        looks: (P, 512) as `look_of` returns them.
        digests: (P) of the pictures' bytes.
    """
    pairs = {}
    for start in range(0, len(looks), _ROWS):
        rows = looks[start : start + _ROWS]
        likeness = np.maximum(rows @ looks.T, mirrored(rows) @ looks.T)
        firsts, seconds = np.nonzero(likeness >= _ALIKE)
        is_later = seconds > firsts + start
        for first, second in zip(firsts[is_later].tolist(), seconds[is_later].tolist(), strict=True):
            pairs[first + start, second] = min(float(likeness[first, second]), 1.0)
    earlier: dict[str, int] = {}
    for index, digest in enumerate(digests):  # almost flat pictures have no look
        if (first := earlier.setdefault(digest, index)) != index:
            pairs[first, index] = 1.0
    return [(first, second, likeness) for (first, second), likeness in sorted(pairs.items())]


def groups_of(number: int, pairs: Sequence[tuple[int, int, float]]) -> np.ndarray:
    """Returns the group (P,) of each of `number` pictures: those that pairs connect have the same."""
    group = list(range(number))

    def root(index: int) -> int:
        while group[index] != index:
            group[index] = group[group[index]]
            index = group[index]
        return index

    for first, second, _ in pairs:
        group[root(second)] = root(first)
    return np.array([root(index) for index in range(number)], np.intp)
