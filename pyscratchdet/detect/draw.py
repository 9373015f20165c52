"""Boxes, labels of pixels, class names and scores on pictures, readable at any size."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from pyscratchdet.detect.tables import ImageDetections
from pyscratchdet.errors import printable

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CAPITAL = 22.0  # pixels of a capital letter at font scale 1
_LARGEST_FACTOR = 4
_SMALL_SIDE = 320  # smaller pictures are enlarged, so that text has room


def class_colour(label: int) -> tuple[int, int, int]:
    """Returns a label's colour (BGR): hues a golden angle apart, so that neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + label * 0.618034) % 1.0, 0.85 if label % 2 else 0.62, 1.0)
    return int(blue * 255), int(green * 255), int(red * 255)


def draw_detections(image: np.ndarray, found: ImageDetections, names: Mapping[int, str]) -> np.ndarray:
    """Returns a copy of a picture with boxes and label plates.

    Lines and text grow with the picture; a picture whose smaller side is below 320 pixels is first enlarged by a whole
    factor. Plates stay inside the picture and avoid each other where there is room; the best score is on top.

    Args:
        image: uint8 (h, w, 3) BGR, or (h, w).
        found: Boxes in its pixels.
        names: {label: class name}.
    """
    canvas, factor = _canvas(image)
    side = _side(canvas)
    line = max(2, round(side / 350))
    boxes = np.round(found.boxes_px * factor).astype(int)
    for row in np.argsort(found.scores, kind="stable"):
        xmin, ymin, xmax, ymax = (int(v) for v in boxes[row])
        # A dark border keeps the line visible on a ground of its own colour.
        cv2.rectangle(canvas, (xmin, ymin), (xmax, ymax), (0, 0, 0), line + max(2, line // 2), cv2.LINE_AA)
        cv2.rectangle(canvas, (xmin, ymin), (xmax, ymax), class_colour(int(found.labels[row])), line, cv2.LINE_AA)
    crowd = 0.8 if len(found) > 12 else 1.0
    _draw_plates(canvas, boxes, found, names, line, capital=float(np.clip(crowd * side / 55, 7, 60)))
    return canvas


def draw_classes(image: np.ndarray, found: Sequence[tuple[int, float]], names: Mapping[int, str]) -> np.ndarray:
    """Returns a copy of a picture with its classes listed in its corner, one line for each.

    Args:
        image: uint8 (h, w, 3) BGR, or (h, w).
        found: Labels with their scores, in the order shown.
        names: {label: class name}.
    """
    canvas, _ = _canvas(image)
    _draw_list(canvas, [(label, f"{printable(names[label])} {score:.2f}") for label, score in found])
    return canvas


def draw_segments(image: np.ndarray, labels: np.ndarray, names: Mapping[int, str]) -> np.ndarray:
    """Returns a copy of a picture in the colours of its pixels' labels, with the names of the most frequent ones.

    Args:
        image: uint8 (h, w, 3) BGR, or (h, w).
        labels: (h, w) integers.
        names: {label: class name}.
    """
    canvas, factor = _canvas(image)
    found = label_shares(labels)
    colours = np.zeros((max(label for label, _ in found) + 1, 3), np.uint8)
    for label, _ in found:
        colours[label] = class_colour(label)
    layer = np.repeat(np.repeat(colours[labels], factor, 0), factor, 1)
    canvas = cv2.addWeighted(canvas, 0.5, layer, 0.5, 0)
    _draw_list(canvas, [(label, f"{printable(names[label])} {share:.1%}") for label, share in found])
    return canvas


def label_shares(labels: np.ndarray) -> list[tuple[int, float]]:
    """Returns each label that occurs with its share of the pixels, by falling share."""
    present, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(present[k]), float(counts[k] / labels.size)) for k in order]


def _canvas(image: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns a copy to draw on, in colour and large enough for text, and the factor by which it is larger."""
    canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image[:, :, :3].copy()
    factor = min(-(-_SMALL_SIDE // min(canvas.shape[:2])), _LARGEST_FACTOR)
    if factor > 1:
        canvas = cv2.resize(canvas, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return canvas, factor


def _side(canvas: np.ndarray) -> float:
    """Returns the side of a square of the same area."""
    return float(np.sqrt(canvas.shape[0] * canvas.shape[1]))


def _draw_list(canvas: np.ndarray, lines: Sequence[tuple[int, str]]) -> None:
    """Draws labels' texts below each other from the top left corner, as many as the height holds."""
    top = 0
    for label, text in lines:
        scale, size, base = _fit_text(text, float(np.clip(_side(canvas) / 40, 7, 60)), canvas.shape[1])
        bottom = top + size[1] + 2 * base
        if bottom > canvas.shape[0]:
            break
        _draw_plate(canvas, (0, top, size[0] + base, bottom), text, scale, base, label)
        top = bottom


def _draw_plates(
    canvas: np.ndarray,
    boxes: np.ndarray,
    found: ImageDetections,
    names: Mapping[int, str],
    line: int,
    capital: float,
) -> None:
    taken: list[tuple[int, int, int, int]] = []
    plates = []
    for row in np.argsort(-found.scores, kind="stable"):
        label = int(found.labels[row])
        text = f"{printable(names.get(label, label))} {found.scores[row]:.2f}"
        scale, size, base = _fit_text(text, capital, canvas.shape[1])
        plate = _place(boxes[row], size[0] + base, size[1] + base, canvas.shape[1], canvas.shape[0], taken, line)
        taken.append(plate)
        plates.append((plate, text, scale, base, label))
    for plate, text, scale, base, label in reversed(plates):
        _draw_plate(canvas, plate, text, scale, base, label)


def _draw_plate(
    canvas: np.ndarray, plate: tuple[int, int, int, int], text: str, scale: float, base: int, label: int
) -> None:
    colour = class_colour(label)
    cv2.rectangle(canvas, plate[:2], (plate[2] - 1, plate[3] - 1), colour, cv2.FILLED)
    bright = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] > 110
    origin = (plate[0] + base // 2, plate[3] - base // 2 - 1)
    ink = (0, 0, 0) if bright else (255, 255, 255)
    cv2.putText(canvas, text, origin, _FONT, scale, ink, _stroke(scale), cv2.LINE_AA)


def _stroke(scale: float) -> int:
    return max(1, round(scale * 1.6))


def _fit_text(text: str, capital: float, width: int) -> tuple[float, tuple[int, int], int]:
    scale = capital / _CAPITAL
    size, base = cv2.getTextSize(text, _FONT, scale, _stroke(scale))
    if size[0] + base > width:
        scale *= width / (size[0] + 2 * base)
        size, base = cv2.getTextSize(text, _FONT, scale, _stroke(scale))
    return scale, (int(size[0]), int(size[1])), int(base)


def _place(
    box: np.ndarray,
    width: int,
    height: int,
    image_width: int,
    image_height: int,
    taken: list[tuple[int, int, int, int]],
    line: int,
) -> tuple[int, int, int, int]:
    """Returns where a plate goes: the first free place around its box, or else the one that covers least."""
    xmin, ymin, xmax, ymax = (int(v) for v in box)
    places = [
        (x, y)
        for y in (ymin - height - line // 2, ymin + line, ymax + line, ymax - height - line)
        for x in (xmin - line // 2, xmax - width)
    ]
    best, least = None, float("inf")
    for x, y in places:
        x, y = max(0, min(x, image_width - width)), max(0, min(y, image_height - height))
        plate = (x, y, x + width, y + height)
        covered = sum(
            max(0, min(plate[2], other[2]) - max(plate[0], other[0]))
            * max(0, min(plate[3], other[3]) - max(plate[1], other[1]))
            for other in taken
        )
        if covered < least:
            best, least = plate, covered
        if not covered:
            break
    assert best is not None
    return best
