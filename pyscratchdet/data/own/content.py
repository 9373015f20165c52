"""A set of someone's own pictures as it is written to a data folder and shown on its page."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pyscratchdet.data.figures import DataFigures, SplitFigures
from pyscratchdet.data.own.alike import Pair
from pyscratchdet.data.own.pictures import PictureSet
from pyscratchdet.data.own.survey import Survey

PARTS = ("train", "test")


@dataclass
class OwnData:
    """A set, ready to be written.

    Attributes:
        pictures: Where the pictures are.
        content: The usable pictures and boxes.
        is_train: (P,) bool.
        groups: (P,) the same number for pictures that are alike.
        pairs: Each picture that is like earlier ones, with the most similar of them.
        notes: What a user should know, one sentence each.
        skipped: (what, why) of all that is left out.
    """

    pictures: PictureSet
    content: Survey
    is_train: np.ndarray
    groups: np.ndarray
    pairs: list[Pair]
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def rows(self, part: str) -> np.ndarray:
        """Returns the indices of the training or test pictures."""
        return np.flatnonzero(self.is_train == (part == "train"))

    def figures(self) -> DataFigures:
        """Returns the figures that go into data.json."""
        content = self.content
        width, height = np.median(content.sizes, axis=0).astype(int).tolist()
        sizes = content.shares[self.is_train[content.image]].round(4).tolist()
        train, test = (self._split_figures(part) for part in PARTS)
        return DataFigures(content.classes, train, test, (width, height), [(w, h) for w, h in sizes])

    def _split_figures(self, part: str) -> SplitFigures:
        rows = self.rows(part)
        labels = self.content.label[np.isin(self.content.image, rows)]
        per_class = np.bincount(labels, minlength=len(self.content.classes) + 1)[1:]
        return SplitFigures(len(rows), len(labels), per_class.tolist())

    def num_leaked(self) -> int:
        """Returns how many test pictures are like a training picture."""
        return int(np.isin(self.groups[~self.is_train], self.groups[self.is_train]).sum())
