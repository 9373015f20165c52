"""Splitting a set into training and test pictures.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data", ECML 2011): the
rarest class is shared out first, each picture to the side that lacks most of it; pictures that are alike stay together.
"""

from __future__ import annotations

import numpy as np

from pyscratchdet.errors import DataError

_MOST = 0.5  # share of the smaller side that pictures which are alike may take


def split_pictures(counts: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Returns which pictures (P,) are for training.

    Args:
        counts: (P, C) number of boxes of each class in each picture.
        groups: (P,) pictures with the same number stay on one side, unless they are so many (the frames of one video)
            that no split would be left.
        share: Of the training pictures, between 0 and 1.
        seed: Of the order in which pictures that would do as well are taken.

    Raises:
        DataError: There is only one picture.
    """
    if len(counts) < 2:
        raise DataError("a split needs two pictures", code="data.split", found=len(counts))
    _, member, size = np.unique(groups, return_inverse=True, return_counts=True)
    too_large = size[member] > max(1, _MOST * min(share, 1 - share) * len(counts))
    member = np.unique(np.where(too_large, len(counts) + np.arange(len(counts)), member), return_inverse=True)[1]
    # All pictures are of one more class, the last to be shared out, so that the sides get their share of pictures too.
    has = np.column_stack([counts > 0, np.ones(len(counts))])
    content = np.zeros((member.max() + 1, has.shape[1]))
    np.add.at(content, member, has)
    is_test = _shared_out(content, np.array([share, 1 - share]), np.random.default_rng(seed))
    return ~is_test[member]


def _shared_out(content: np.ndarray, shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns the side (G,) of each group, True for the second, from its pictures of each class (G, C)."""
    wanted = shares[:, None] * content.sum(0)
    is_second, todo = np.zeros(len(content), bool), np.ones(len(content), bool)
    while todo.any():
        left = content[todo].sum(0)
        rarest = min(np.flatnonzero(left).tolist(), key=lambda column: (left[column], column))
        mine = random.permutation(np.flatnonzero(todo & (content[:, rarest] > 0)))
        for group in sorted(mine.tolist(), key=lambda group: -content[group, -1]):
            is_second[group] = tuple(wanted[1, [rarest, -1]]) > tuple(wanted[0, [rarest, -1]])
            wanted[int(is_second[group])] -= content[group]
        todo[mine] = False
    if is_second.all() or not is_second.any():  # a share so small that it rounds to no picture
        is_second[-1] = not is_second[-1]
    return is_second
