"""A set as it will be written: usable pictures, their boxes in pixels, and what is odd about them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pyscratchdet.data.images import decode_image
from pyscratchdet.data.own.alike import look_of
from pyscratchdet.data.own.pairs import Skipped
from pyscratchdet.data.own.sheets import Mark, Sheet
from pyscratchdet.data.team import Team
from pyscratchdet.errors import DataError, FileError
from pyscratchdet.files import read_bytes

# Boxes that are kept but worth a look, by their sides as a share of the picture's.
_TINY, _HUGE = 0.02, 0.95
# Boxes of public sets often end a pixel beyond the picture, since VOC counts pixels from 1.
_BORDER = 1.0


@dataclass
class Survey:
    """P usable pictures and N boxes.

    Attributes:
        names: (P) their paths relative to the pictures' folder.
        sizes: (P, 2) width and height in pixels, turned as EXIF says.
        digests: (P) of the files' bytes.
        looks: (P, 512) as `look_of` returns them.
        classes: Names in label order; the first has label 1.
        image: (N,) index of the picture, ascending.
        label: (N,) from 1.
        boxes_px: (N, 4) float64 xmin, ymin, xmax, ymax.
        difficult: (N,) bool.
        skipped: (picture, file or box; why) of what is left out.
        odd: (index of the box, what is odd about it) of boxes that are kept.
        notes: What a user should know of how boxes were read.
    """

    names: list[str]
    sizes: np.ndarray
    digests: list[str]
    looks: np.ndarray
    classes: list[str]
    image: np.ndarray
    label: np.ndarray
    boxes_px: np.ndarray
    difficult: np.ndarray
    skipped: Skipped
    odd: list[tuple[int, str]]
    notes: list[str]

    @property
    def shares(self) -> np.ndarray:
        """(N, 2) width and height of each box as a share of its picture's."""
        return (self.boxes_px[:, 2:] - self.boxes_px[:, :2]) / self.sizes[self.image]

    def objects_in(self, picture: int) -> tuple[list[int], list[list[float]], list[bool]]:
        """Returns labels, boxes and difficult flags of a picture."""
        mine = slice(*np.searchsorted(self.image, [picture, picture + 1]))
        return self.label[mine].tolist(), self.boxes_px[mine].tolist(), self.difficult[mine].tolist()


@dataclass(frozen=True)
class _Seen:
    """What a picture has shown: its size, digest and look, its boxes in pixels, and what is to be said about them."""

    size: tuple[int, int]
    digest: str
    look: np.ndarray
    boxes: np.ndarray
    remark: str


def survey(
    root: Path,
    pairs: Mapping[str, Sheet],
    classes: Sequence[str],
    progress: Callable[[int], object] | None = None,
    team: Team | None = None,
) -> Survey:
    """Reads all pictures and compares their annotations with them.

    Args:
        root: The pictures' folder.
        pairs: What the annotations say about each picture.
        classes: Names in label order; objects of others are skipped.
        progress: Called with the number of pictures done.
        team: What reads them; by default a thread per core.

    Raises:
        DataError: No picture can be used, or no box.
    """
    labels = {name: label for label, name in enumerate(classes, 1)}
    names: list[str] = []
    sizes, digests, looks = [], [], []
    rows: list[tuple[int, Mark, tuple[float, ...]]] = []
    skipped: Skipped = []
    remarks: dict[str, list[str]] = {}
    found = (team or Team()).map(partial(_look_at, root), list(pairs.items()))
    for number, ((name, sheet), seen) in enumerate(zip(pairs.items(), found, strict=True), 1):
        if isinstance(seen, str):
            skipped.append((name, seen))
        else:
            remarks.setdefault(seen.remark, []).append(name)
            rows += [(len(names), mark, tuple(box)) for mark, box in zip(sheet.marks, seen.boxes, strict=True)]
            names.append(name)
            sizes.append(seen.size)
            digests.append(seen.digest)
            looks.append(seen.look)
        if progress is not None:
            progress(number)
    if not names:
        raise DataError("no picture can be used", code="data.no-pictures", found="; ".join(map(": ".join, skipped[:3])))
    result = Survey(
        names, np.array(sizes), digests, np.array(looks), list(classes),
        np.array([item for item, _, _ in rows], np.intp),
        np.array([labels.get(mark.name, 0) for _, mark, _ in rows], np.int64),
        np.array([box for _, _, box in rows], np.float64).reshape(-1, 4),
        np.array([mark.difficult for _, mark, _ in rows], bool), skipped, [], _notes(remarks),
    )  # fmt: skip
    return _checked(result, [mark for _, mark, _ in rows])


def _look_at(root: Path, pair: tuple[str, Sheet]) -> _Seen | str:
    """Reads a picture; returns why not, if it cannot be used."""
    name, sheet = pair
    try:
        if sheet.fault:
            raise DataError(f"its annotation is damaged: {sheet.fault}", code="data.annotation")
        data = read_bytes(root / name)
        image = decode_image(data, name="the picture")
    except (DataError, FileError) as error:
        return error.message
    height, width = image.shape[:2]
    return _Seen((width, height), hashlib.sha256(data).hexdigest(), look_of(image), *_in_pixels(sheet, image, data))


def _notes(remarks: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{remark} ({len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for remark, names in remarks.items() if remark]  # fmt: skip


def _in_pixels(sheet: Sheet, image: np.ndarray, data: bytes) -> tuple[np.ndarray, str]:
    """Returns boxes (n, 4) in the picture's pixels, and what is to be said about it."""
    boxes = np.array([mark.box for mark in sheet.marks], np.float64).reshape(-1, 4)
    size = np.array(image.shape[1::-1], np.float64)
    if sheet.frame is None or tuple(sheet.frame) == tuple(size):
        return boxes, ""
    frame = np.array(sheet.frame, np.float64)
    if tuple(frame) == (1, 1):
        return boxes * np.tile(size, 2), ""
    if not (frame > 0).all():
        return boxes, "annotations state no size: the picture's is taken"
    if tuple(frame) == tuple(size[::-1]) and (turn := _turn(image, data)):
        return _turned(boxes, frame, turn), "boxes were drawn before EXIF turned the picture, and are turned with it"
    if (boxes > np.tile(frame, 2) + _BORDER).any() and (boxes <= np.tile(size, 2) + _BORDER).all():
        return boxes, "annotations state a size that is too small for their boxes: the picture's is taken"
    return boxes * np.tile(size / frame, 2), "annotations state another size than the picture's: boxes are scaled"


def _turn(image: np.ndarray, data: bytes) -> int:
    """Returns how often EXIF turns a picture by 90 degrees against the clock: 1, 3, or 0 for neither."""
    plain = decode_image(data, oriented=False)
    return next((turn for turn in (1, 3) if np.array_equal(np.rot90(plain, turn), image)), 0)


def _turned(boxes: np.ndarray, frame: np.ndarray, turn: int) -> np.ndarray:
    """Turns boxes of a picture of size `frame` (width, height) with it."""
    xmin, ymin, xmax, ymax = boxes.T
    width, height = frame
    if turn == 1:
        return np.stack([ymin, width - xmax, ymax, width - xmin], 1)
    return np.stack([height - ymax, xmin, height - ymin, xmax], 1)


def _checked(whole: Survey, marks: Sequence[Mark]) -> Survey:
    """Leaves out boxes that cannot be used, and notes odd ones."""
    faults = _faults(whole)
    kept = np.ones(len(marks), bool)
    for why, is_bad in faults.items():
        for index in np.flatnonzero(is_bad & kept).tolist():
            mark = marks[index]
            corners = ", ".join(f"{value:g}" for value in whole.boxes_px[index])
            what = f"{whole.names[whole.image[index]]}: {mark.name} {corners} ({mark.place})"
            whole.skipped.append((what, why))
        kept &= ~is_bad
    if not kept.any():
        raise DataError(
            "no box can be used", code="data.no-objects", found="; ".join(map(": ".join, whole.skipped[:3]))
        )
    whole.image, whole.label, whole.boxes_px, whole.difficult = (
        values[kept] for values in (whole.image, whole.label, whole.boxes_px, whole.difficult)
    )
    whole.odd = [(int(index), why) for why, is_odd in _oddities(whole).items() for index in np.flatnonzero(is_odd)]
    return whole


def _faults(whole: Survey) -> dict[str, np.ndarray]:
    """Returns which boxes (N,) are left out, by reason."""
    low, high, size = whole.boxes_px[:, :2], whole.boxes_px[:, 2:], whole.sizes[whole.image]
    rows = np.column_stack([whole.image, whole.label, whole.boxes_px])
    repeated = np.ones(len(rows), bool)
    repeated[np.unique(rows, axis=0, return_index=True)[1]] = False
    return {
        "a class that the label map does not have": whole.label == 0,
        "a box whose corners are reversed": (high < low).any(1),
        "a box without area": (high == low).any(1),
        "a box outside the picture": (high <= 0).any(1) | (low >= size).any(1),
        "the same box twice": repeated,
    }


def _oddities(whole: Survey) -> dict[str, np.ndarray]:
    """Returns which boxes (N,) are kept but odd, by what is odd."""
    size = whole.sizes[whole.image]
    beyond = (whole.boxes_px[:, :2] < -_BORDER).any(1) | (whole.boxes_px[:, 2:] > size + _BORDER).any(1)
    return {
        "reaches beyond the picture": beyond,
        f"tiny: a side below {_TINY:.0%} of the picture's": (whole.shares < _TINY).any(1),
        f"huge: both sides above {_HUGE:.0%} of the picture's": (whole.shares > _HUGE).all(1),
    }
