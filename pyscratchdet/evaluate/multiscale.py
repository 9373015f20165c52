"""Multi-scale testing as RefineDet's test code does it (test/lib/fast_rcnn/test.py), for ScratchDet300+ and its like.

Every picture is seen at several input sizes, each also mirrored; small inputs keep large objects, large inputs small
ones; what overlaps is then merged by voting. Sizes of objects are in pixels of the picture. Boxes stay in the
annotation's pixel frame, where the original adds 1 when it writes VOC result files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pyscratchdet.detect.detector import Detector
from pyscratchdet.detect.tables import ImageDetections

VOTE_OVERLAP = 0.45


@dataclass(frozen=True)
class ScalePass:
    """One look at a picture.

    Attributes:
        scale: The input's side as a multiple of the net's.
        short: If given, the input's side along the picture's shorter side is this multiple of the net's, the other not.
        above: Keep boxes whose longer side exceeds this many pixels.
        below: Keep boxes whose shorter side is less than this many pixels.
        coco_only: Used only for COCO, where it helps.
    """

    scale: float = 1.0
    short: float | None = None
    above: float | None = None
    below: float | None = None
    coco_only: bool = False


# RefineDet's tables for inputs of 320 (used below 512) and of 512, in their order.
PASSES_320 = (
    ScalePass(),
    ScalePass(short=0.6),
    ScalePass(0.6, above=32),
    ScalePass(1.2, below=160),
    ScalePass(1.4, below=128),
    ScalePass(1.6, below=96),
    ScalePass(1.8, below=64),
    ScalePass(2.2, below=32),
    ScalePass(2.0, below=48, coco_only=True),
)
PASSES_512 = (
    ScalePass(),
    ScalePass(short=0.75),
    ScalePass(0.5),
    ScalePass(0.75),
    ScalePass(1.75, below=128),
    ScalePass(1.5, below=192),
    ScalePass(1.25, below=224, coco_only=True),
    ScalePass(2.0, below=96, coco_only=True),
    ScalePass(2.25, below=64, coco_only=True),
)


class MultiScaleDetector:
    """A detector that looks several times.

    Where the net cannot take a pass's size (SSD300's last layers need 260 pixels, RefineDet's sums multiples of 64),
    the nearest that fits stands in; the original, made for inputs of 320 and 512, aborts there.

    Args:
        detector: The detector that looks once.
        coco: Use COCO's passes and soft voting, which drops what falls below the net's confidence_threshold.
        passes: By default RefineDet's for the input's size.
    """

    def __init__(self, detector: Detector, coco: bool = False, passes: Sequence[ScalePass] | None = None) -> None:
        table = PASSES_512 if min(detector.size) >= 512 else PASSES_320
        self._passes = tuple(step for step in table if coco or not step.coco_only) if passes is None else tuple(passes)
        self._detector = detector
        self._soft = coco
        self._sizes = {wide: [self._input_size(step, wide) for step in self._passes] for wide in (True, False)}

    @property
    def passes(self) -> tuple[ScalePass, ...]:
        """The passes, each of which looks at the picture and at its mirror image."""
        return self._passes

    def sizes(self, wide: bool) -> list[tuple[int, int]]:
        """Returns the (height, width) of each pass's input for a picture wider than high, or for another."""
        return list(self._sizes[wide])

    def detect(self, images: Sequence[np.ndarray]) -> list[ImageDetections]:
        """Finds objects, as `Detector.detect`."""
        looks: list[list[ImageDetections]] = [[] for _ in images]
        is_wide = [image.shape[0] < image.shape[1] for image in images]
        for wide, sizes in self._sizes.items():
            rows = [row for row in range(len(images)) if is_wide[row] is wide]
            for step, size in zip(self._passes, sizes, strict=True):
                for row, both in zip(rows, self._look([images[row] for row in rows], step, size), strict=True):
                    looks[row] += both
        return [self._merge(parts) for parts in looks]

    def _look(
        self, images: Sequence[np.ndarray], step: ScalePass, size: tuple[int, int]
    ) -> list[list[ImageDetections]]:
        """Returns, per picture, what a pass keeps of it and of its mirror image, in the picture's own frame."""
        views = [view for image in images for view in (image, np.ascontiguousarray(image[:, ::-1]))]
        found = self._detector.detect_at(views, size, resize_first=False)
        kept = []
        for image, plain, mirrored in zip(images, found[::2], found[1::2], strict=True):
            height, width = image.shape[:2]
            for one in (plain, mirrored):
                one.boxes_px = np.minimum(one.boxes_px, np.array([width - 1, height - 1] * 2, np.float32))
            xmin, ymin, xmax, ymax = mirrored.boxes_px.T
            mirrored.boxes_px = np.column_stack([width - xmax, ymin, width - xmin, ymax])
            kept.append([one.select(_kept(one.boxes_px, step)) for one in (plain, mirrored)])
        return kept

    def _merge(self, looks: list[ImageDetections]) -> ImageDetections:
        labels = np.concatenate([look.labels for look in looks])
        table = np.concatenate([np.column_stack([look.boxes_px, look.scores]) for look in looks]).astype(np.float32)
        merged, names = [np.zeros((0, 5), np.float32)], [np.zeros(0, np.int64)]
        for label in np.unique(labels):
            mine = table[labels == label]
            voted = soft_box_vote(mine, self._detector.confidence_threshold) if self._soft else box_vote(mine)
            merged.append(voted)
            names.append(np.full(len(voted), label))
        rows, label_of = np.concatenate(merged), np.concatenate(names)
        order = np.argsort(-rows[:, 4], kind="stable")
        return ImageDetections(label_of[order], rows[order, 4], rows[order, :4])

    def _input_size(self, step: ScalePass, wide: bool) -> tuple[int, int]:
        height, width = self._detector.size
        scales = (step.scale, step.scale) if step.short is None else (step.short, 1.0) if wide else (1.0, step.short)
        return (
            self._nearest(int(scales[0] * height), height, lambda side: (side, width)),
            self._nearest(int(scales[1] * width), width, lambda side: (height, side)),
        )

    def _nearest(self, wanted: int, own: int, size: Callable[[int], tuple[int, int]]) -> int:
        """Returns the side nearest to `wanted` that the net can take, the larger of two; its own always fits."""
        sides = range(min(wanted, own) // 2, max(wanted, own) * 2)
        nearest = sorted(sides, key=lambda side: (abs(side - wanted), -side))
        return next(side for side in nearest if side == own or (side > 0 and self._detector.fits(size(side))))


def _kept(boxes: np.ndarray, step: ScalePass) -> np.ndarray:
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    keep = np.ones(len(boxes), bool)
    if step.above is not None:
        keep &= sides.max(axis=1) > step.above
    if step.below is not None:
        keep &= sides.min(axis=1) < step.below
    return keep


def box_vote(boxes: np.ndarray, overlap: float = VOTE_OVERLAP) -> np.ndarray:
    """Merges boxes of one class (bbox_vote).

    The best box takes in all that overlap it by at least `overlap`: the result is their mean, weighted by score, with
    the best score.

    Args:
        boxes: (N, 5) xmin, ymin, xmax, ymax, score.
        overlap: The least overlap, borders included (+1).

    Returns:
        (K, 5), by falling score of each group's best.
    """
    if len(boxes) <= 1:
        return boxes
    return np.concatenate([_merged(group) for group, _ in _groups(boxes, overlap)])


def soft_box_vote(boxes: np.ndarray, confidence_threshold: float, overlap: float = VOTE_OVERLAP) -> np.ndarray:
    """Merges boxes of one class and keeps the merged ones with scores lowered by their overlap (soft_bbox_vote).

    Args:
        boxes: (N, 5) xmin, ymin, xmax, ymax, score.
        confidence_threshold: Lowered scores below it are dropped.
        overlap: The least overlap, borders included (+1).
    """
    if len(boxes) <= 1:
        return boxes
    parts = []
    for group, overlaps in _groups(boxes, overlap):
        if len(group) > 1:
            lowered = group.copy()
            lowered[:, 4] *= 1 - overlaps
            parts.append(lowered[lowered[:, 4] >= confidence_threshold])
        parts.append(_merged(group))
    rows = np.concatenate(parts)
    return rows[np.argsort(rows[:, 4], kind="stable")[::-1]]


def _groups(boxes: np.ndarray, overlap: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (boxes, overlaps with the best of them) per group; each box belongs to the first that takes it."""
    boxes = boxes[np.argsort(boxes[:, 4], kind="stable")[::-1]]
    groups = []
    while len(boxes):
        sides = np.maximum(np.minimum(boxes[0, 2:4], boxes[:, 2:4]) - np.maximum(boxes[0, :2], boxes[:, :2]) + 1, 0)
        inner = sides[:, 0] * sides[:, 1]
        area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
        shared = inner / (area[0] + area - inner)
        taken = shared >= overlap
        taken[0] = True
        groups.append((boxes[taken], shared[taken]))
        boxes = boxes[~taken]
    return groups


def _merged(group: np.ndarray) -> np.ndarray:
    if len(group) == 1:
        return group
    weights = group[:, 4:]
    corners = (group[:, :4] * weights).sum(axis=0) / weights.sum()
    return np.append(corners, group[:, 4].max())[None].astype(group.dtype)
