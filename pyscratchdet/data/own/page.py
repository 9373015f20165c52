"""The page of figures of a data folder: one HTML file that needs no server and no network."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass

import cv2
import numpy as np

from pyscratchdet.data.images import decode_image, encode
from pyscratchdet.data.own.alike import Pair
from pyscratchdet.data.own.content import PARTS, OwnData
from pyscratchdet.data.own.findings import OVERLAP, Sizes, best_overlaps, findings
from pyscratchdet.errors import PyScratchDetError, counted
from pyscratchdet.files import read_bytes, write_text
from pyscratchdet.pages import fill_page

_SIDE = 260
_SAMPLES, _ODD, _ALIKE, _BARE, _SKIPPED = 24, 24, 12, 12, 200
_BINS = 25
_MOST_POINTS = 3000
_COLOURS = (
    "#e11d48",
    "#2563eb",
    "#16a34a",
    "#d97706",
    "#7c3aed",
    "#0891b2",
    "#be185d",
    "#4d7c0f",
    "#b45309",
    "#475569",
)


@dataclass(frozen=True)
class Thumbnail:
    """A small picture with its boxes.

    Attributes:
        name: The picture's path.
        part: train or test.
        source: The picture as a data URL.
        ratio: Width / height.
        boxes: (class, colour, left, top, width, height in %, what is odd) of each.
    """

    name: str
    part: str
    source: str
    ratio: float
    boxes: list[tuple[str, str, float, float, float, float, str]]


def write_page(path: str | os.PathLike[str], data: OwnData, priors: Sizes = ()) -> None:
    """Writes the page.

    Args:
        path: The HTML file.
        data: The set.
        priors: (width, height) of the priors that the net will have, as shares of its input; none if unknown.

    Raises:
        FileError: It cannot be written.
    """
    shares = data.content.shares[data.is_train[data.content.image]]
    covered = best_overlaps(shares, priors)
    page = fill_page(
        __package__,
        "data.html",
        title=data.pictures.root.resolve().name,
        cards=_cards(data),
        findings=findings(data, priors),
        notes=data.notes,
        classes=_class_rows(data),
        histogram=_histogram(shares, priors),
        scatter=_scatter(data),
        priors=[(100 * width, 100 * height) for width, height in priors],
        coverage=_coverage(covered) if len(covered) else "",
        galleries=_galleries(data),
        alike=[(*(_thumbnail(data, index) for index in pair[:2]), f"{pair[2]:.2f}") for pair in _shown_pairs(data)],
        num_alike=len(data.pairs),
        skipped=data.skipped[:_SKIPPED],
        num_skipped=len(data.skipped),
    )
    write_text(path, page)


def _cards(data: OwnData) -> list[tuple[str, str]]:
    content = data.content
    numbers = {
        "pictures": len(content.names),
        "boxes": len(content.label),
        "classes": len(content.classes),
        "training pictures": len(data.rows("train")),
        "test pictures": len(data.rows("test")),
        "left out": len(data.skipped),
    }
    return [(name, f"{number:,}") for name, number in numbers.items()]


def _coverage(covered: np.ndarray) -> str:
    return (f"{(covered >= OVERLAP).mean():.0%} of the training boxes have a prior that overlaps them by "
            f"{OVERLAP:g} or more when placed on their centre; the median of the best overlap is "
            f"{np.median(covered):.2f}")  # fmt: skip


def _class_rows(data: OwnData) -> list[dict[str, object]]:
    content, rows = data.content, []
    is_train = data.is_train[content.image]
    for label, name in enumerate(content.classes, 1):
        mine = content.label == label
        sides = np.sqrt(content.shares[mine].prod(1)) if mine.any() else np.zeros(1)
        row: dict[str, object] = {
            "label": label,
            "name": name,
            "colour": _colour(label),
            "side": f"{np.median(sides):.0%}",
        }
        for part, is_here in zip(PARTS, (is_train, ~is_train), strict=True):
            row[f"{part}_boxes"] = int((mine & is_here).sum())
            row[f"{part}_pictures"] = len(np.unique(content.image[mine & is_here]))
        rows.append(row)
    return rows


def _colour(label: int) -> str:
    return _COLOURS[(label - 1) % len(_COLOURS)]


def _histogram(shares: np.ndarray, priors: Sizes) -> dict[str, object]:
    """Returns bars (x, height, title) and prior ticks in % of the chart: the square root of the box's share of area."""
    sides = np.sqrt(shares.prod(1))
    counts = np.histogram(np.clip(sides, 0, 1), _BINS, (0, 1))[0]
    step = 100 / _BINS
    bars = [
        (
            step * index,
            100 * count / counts.max(),
            f"{step * index:.0f} to {step * (index + 1):.0f} %: {counted(int(count), 'box', 'boxes')}",
        )
        for index, count in enumerate(counts)
    ]
    ticks = [100 * float(np.sqrt(width * height)) for width, height in priors]
    return {"bars": bars, "width": step, "most": int(counts.max()), "priors": [tick for tick in ticks if tick <= 100]}


def _scatter(data: OwnData) -> list[tuple[float, float, str]]:
    """Returns (width in %, height in %, colour) of the training boxes, or of evenly chosen ones if there are many."""
    content = data.content
    chosen = np.flatnonzero(data.is_train[content.image])
    chosen = chosen[:: -(-len(chosen) // _MOST_POINTS)]
    points = (100 * np.clip(content.shares[chosen], 0, 1)).round(2).tolist()
    return [
        (width, height, _colour(label))
        for (width, height), label in zip(points, content.label[chosen].tolist(), strict=True)
    ]


def _galleries(data: OwnData) -> list[tuple[str, str, list[Thumbnail | None], int]]:
    """Returns (title, explanation, thumbnails, how many there are in all) of each group of pictures."""
    content = data.content
    odd: dict[int, dict[int, str]] = {}
    for index, why in content.odd:
        odd.setdefault(int(content.image[index]), {})[index] = why
    bare = np.setdiff1d(np.arange(len(content.names)), content.image).tolist()
    full = np.unique(content.image)
    samples = full[np.linspace(0, len(full) - 1, min(_SAMPLES, len(full))).astype(int)].tolist()
    return [
        ("Pictures", "Chosen evenly over the set. Do the boxes sit right? Are objects without one?",
         [_thumbnail(data, index) for index in samples], len(content.names)),
        ("Odd boxes", "Kept, but worth a look: dashed lines show them, and point to one to read why.",
         [_thumbnail(data, index, odd[index]) for index in list(odd)[:_ODD]], len(odd)),
        ("Pictures without boxes", "Right if there is nothing to find in them; wrong if they were not annotated.",
         [_thumbnail(data, index) for index in bare[:_BARE]], len(bare)),
    ]  # fmt: skip


def _shown_pairs(data: OwnData) -> list[Pair]:
    """Returns the pairs to show, those across the split first."""
    return sorted(data.pairs, key=lambda pair: data.is_train[pair[0]] == data.is_train[pair[1]])[:_ALIKE]


def _thumbnail(data: OwnData, index: int, odd: dict[int, str] | None = None) -> Thumbnail | None:
    """Returns a picture's thumbnail; None if it cannot be read any more."""
    content = data.content
    path = data.pictures.root / content.names[index]
    try:
        image = decode_image(read_bytes(path), name=str(path))
    except PyScratchDetError:
        return None
    height, width = image.shape[:2]
    factor = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    source = f"data:image/jpeg;base64,{base64.b64encode(encode(small, 'jpg')).decode()}"
    first = int(np.searchsorted(content.image, index))
    labels, boxes, _ = content.objects_in(index)
    shares = (100 * np.array(boxes).reshape(-1, 4) / [width, height, width, height]).round(2).tolist()
    drawn = [
        (
            content.classes[label - 1],
            _colour(label),
            left,
            top,
            right - left,
            bottom - top,
            (odd or {}).get(first + number, ""),
        )
        for number, (label, (left, top, right, bottom)) in enumerate(zip(labels, shares, strict=True))
    ]
    return Thumbnail(
        content.names[index], PARTS[0] if data.is_train[index] else PARTS[1], source, width / height, drawn
    )
