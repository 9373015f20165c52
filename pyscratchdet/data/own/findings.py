"""What a user should look at before training on a set of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pyscratchdet.data.own.content import OwnData
from pyscratchdet.errors import counted

Sizes = Sequence[tuple[float, float]]
"""(width, height) of priors, as shares of the net's input."""

OVERLAP = 0.35
"""The IoU from which on a prior learns a box in the recipe for one's own pictures."""

_FEW_BOXES = 30
_SMALL = 0.05
_REASONS = 3


def findings(data: OwnData, priors: Sizes = ()) -> list[str]:
    """Returns what deserves a look before training, most serious first; priors as in `best_overlaps`."""
    content, figures = data.content, data.figures()
    uncovered = (best_overlaps(np.array(figures.sizes), priors) < OVERLAP).mean() if priors else 0.0
    found = []
    if twins := data.num_leaked():
        found.append(f"{counted(twins, 'test picture has', 'test pictures have')} a twin among the training pictures: "
                     "figures of the test will flatter")  # fmt: skip
    elif data.pairs:
        pictures = counted(len(data.pairs), "picture is like another", "pictures are like others")
        found.append(f"{pictures}; those that are alike are on one side of the split")
    per_class = list(zip(figures.classes, figures.train.boxes_per_class, figures.test.boxes_per_class, strict=True))
    if few := [f"{name} ({train})" for name, train, _ in per_class if train < _FEW_BOXES]:
        found.append(f"fewer than {_FEW_BOXES} training boxes, so expect little: {', '.join(few)}")
    if untested := [name for name, _, test in per_class if not test]:
        found.append(f"no test boxes, so AP cannot be measured: {', '.join(untested)}")
    if similar := [names for names in _same_but_case(figures.classes) if len(names) > 1]:
        found.append(f"classes that differ only in case: {'; '.join(' and '.join(names) for names in similar)}")
    small = (np.sqrt(content.shares.prod(1)) < _SMALL).mean()
    if small > 0.1:
        found.append(f"{small:.0%} of the boxes have sides of less than {_SMALL:.0%} of the picture's (15 pixels of "
                     "300): a larger input finds more of them")  # fmt: skip
    if uncovered > 0.1:
        found.append(f"{uncovered:.0%} of the training boxes have no prior of their shape: fit the priors to the data "
                     "(--fit-priors)")  # fmt: skip
    if bare := len(content.names) - len(np.unique(content.image)):
        found.append(f"{counted(bare, 'picture has', 'pictures have')} no boxes: they count in the test, but SSD "
                     "learns nothing from them in training")  # fmt: skip
    if odd := len({index for index, _ in content.odd}):
        found.append(f"{counted(odd, 'box is', 'boxes are')} odd; data.html shows them")
    if data.skipped:
        what = counted(len(data.skipped), "picture, file or box is", "pictures, files or boxes are")
        reasons = Counter(why.partition(":")[0] for _, why in data.skipped).most_common(_REASONS)
        most = ", ".join(f"{why} ({number})" for why, number in reasons)
        found.append(f"{what} left out, mostly {most}; skipped.txt lists them")
    return found


def _same_but_case(names: Sequence[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.lower(), []).append(name)
    return list(groups.values())


def best_overlaps(shares: np.ndarray, priors: Sizes) -> np.ndarray:
    """Returns for each box (N, 2) the highest IoU with a prior around the same centre: (N,), or (0,) without priors."""
    if not len(priors):
        return np.zeros(0)
    sides = np.asarray(priors, np.float64)
    inner = np.minimum(shares[:, None], sides).prod(2)
    return (inner / (shares.prod(1)[:, None] + sides.prod(1) - inner)).max(1)
