"""The objects of pictures and how they move with them (bbox_util.cpp and data_transformer.cpp; float32 throughout).

Boxes are xmin, ymin, xmax, ymax, divided by the picture's size. A box may carry an area computed earlier, which the
original then trusts instead of its corners: `areas` holds it, NaN where there is none. Each step handles several
pictures together, since what costs time is each call; what differs between them has one row per picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pyscratchdet.errors import DataError
from pyscratchdet.proto import caffe_pb2

_TWICE = np.array([0, 1, 0, 1])


@dataclass(frozen=True)
class Objects:
    """N objects of P pictures, picture by picture and, within a picture, in the order of the groups.

    Attributes:
        labels: (N,) int32.
        instances: (N,) int32, counted within a label.
        boxes: (N, 4) float32.
        difficult: (N,) bool.
        areas: (N,) float32, NaN where unknown.
        items: (N,) intp, index of the picture that each is in.
    """

    labels: np.ndarray
    instances: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray
    areas: np.ndarray
    items: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, which: np.ndarray) -> Objects:
        """Returns the objects at a mask or at indices."""
        return Objects(*(values[which] for values in vars(self).values()))

    def exchanged(self, item: int, own: Objects) -> Objects:
        """Returns these objects with those of picture `item` replaced by `own`, the objects of that picture alone."""
        return _merged(self.select(np.flatnonzero(self.items != item)), replace(own, items=own.items + item))

    def rows(self, first: int) -> np.ndarray:
        """Returns rows (N, 8) of the label blob: item, label, instance, box, difficult.

        Args:
            first: Index in the batch of the first picture.
        """
        rows = np.empty((len(self), 8), np.float32)
        rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 7] = self.items + first, self.labels, self.instances, self.difficult
        rows[:, 3:7] = self.boxes
        return rows


def objects_of(records: Sequence[caffe_pb2.AnnotatedDatum], names: Sequence[str]) -> Objects:
    """Returns the objects of records.

    Args:
        records: With boxes in their annotation groups.
        names: What to call each record in errors.

    Raises:
        DataError: A box is not a number or has its corners the wrong way round, or a label is negative.
    """
    entries = [
        (item, group.group_label, entry.instance_id, entry.bbox)
        for item, record in enumerate(records)
        for group in record.annotation_group
        for entry in group.annotation
    ]
    items, labels, instances, boxes = zip(*entries, strict=True) if entries else ((),) * 4
    objects = Objects(
        np.array(labels, np.int32),
        np.array(instances, np.int32),
        np.array([(box.xmin, box.ymin, box.xmax, box.ymax) for box in boxes], np.float32).reshape(-1, 4),
        np.array([box.difficult for box in boxes], bool),
        np.array([box.size if box.HasField("size") else np.nan for box in boxes], np.float32),
        np.array(items, np.intp),
    )
    _check(objects, names)
    return objects


def _check(objects: Objects, names: Sequence[str]) -> None:
    corners = objects.boxes
    faults = {
        "a box that is not a number": ~np.isfinite(corners).all(1),
        "a box whose corners are reversed": (corners[:, 2:] < corners[:, :2]).any(1),
        "a negative label": objects.labels < 0,
    }
    for message, is_bad in faults.items():
        if is_bad.any():
            index = int(np.flatnonzero(is_bad)[0])
            found = f"label {objects.labels[index]}, box {corners[index].tolist()}"
            raise DataError(f"{names[objects.items[index]]} has {message}", code="data.box", found=found)


NO_OBJECTS = objects_of([], [])
"""The objects of pictures without boxes."""


def area(boxes: np.ndarray) -> np.ndarray:
    """BBoxSize: width * height, and 0 for reversed corners; (..., 4) to (...)."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return np.where((width < 0) | (height < 0), np.float32(0), width * height)


def true_areas(objects: Objects) -> np.ndarray:
    """Returns the areas (N,) that the original uses: those carried along, unless the corners are reversed."""
    computed = area(objects.boxes)
    return np.where(np.isnan(objects.areas) | (computed == 0), computed, objects.areas)


def intersections(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the area that windows and boxes (..., 4) share, broadcast; 0 where they only touch."""
    width = np.minimum(windows[..., 2], boxes[..., 2]) - np.maximum(windows[..., 0], boxes[..., 0])
    height = np.minimum(windows[..., 3], boxes[..., 3]) - np.maximum(windows[..., 1], boxes[..., 1])
    return np.maximum(width, 0) * np.maximum(height, 0)


def jaccard(inner: np.ndarray, window_areas: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """JaccardOverlap, from the area that windows and boxes share and their own areas, broadcast."""
    return coverage(inner, window_areas + areas - inner)


def coverage(inner: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """BBoxCoverage: the shared area as a fraction of `areas`, broadcast; 0 where nothing is shared."""
    return inner / np.where(inner > 0, areas, np.float32(1))


def _emitted(objects: Objects, windows: np.ndarray, constraint: caffe_pb2.EmitConstraint) -> np.ndarray:
    """MeetEmitConstraint of each object with its window (N, 4): (N,) bool."""
    boxes = objects.boxes
    if constraint.emit_type == caffe_pb2.EmitConstraint.CENTER:
        centers = (boxes[:, :2] + boxes[:, 2:]) / np.float32(2)
        return ((centers >= windows[:, :2]) & (centers <= windows[:, 2:])).all(1)
    return coverage(intersections(windows, boxes), true_areas(objects)) > np.float32(constraint.emit_overlap)


def project(
    objects: Objects,
    windows: np.ndarray,
    constraint: caffe_pb2.EmitConstraint | None,
    which: np.ndarray | None = None,
) -> Objects:
    """Moves objects into their picture's window and drops those that leave it (TransformAnnotation, ProjectBBox).

    Args:
        objects: In the frame that `windows` are given in.
        windows: (P, 4) float32; may exceed [0, 1] for an expansion.
        constraint: What an object must meet besides sharing some area with the window.
        which: (P,) bool, the pictures to treat; None for all.

    Returns:
        The objects left, clipped to [0, 1], with their areas.
    """
    if which is not None:
        chosen = which[objects.items]
        moved = project(objects.select(chosen), windows, constraint)
        return _merged(objects.select(~chosen), moved)
    boxes, windows = objects.boxes, windows[objects.items]
    is_inside = ~np.any((boxes[:, :2] >= windows[:, 2:]) | (boxes[:, 2:] <= windows[:, :2]), axis=1)
    if constraint is not None:
        is_inside &= _emitted(objects, windows, constraint)
    objects, windows = objects.select(is_inside), windows[is_inside]
    origin, sides = windows[:, _TWICE], (windows[:, 2:] - windows[:, :2])[:, _TWICE]
    boxes = clip((objects.boxes - origin) / sides)
    areas = area(boxes)
    return replace(objects, boxes=boxes, areas=areas).select(areas > 0)


def _merged(first: Objects, second: Objects) -> Objects:
    """Returns the objects of both, picture by picture."""
    pairs = zip(vars(first).values(), vars(second).values(), strict=True)
    together = Objects(*(np.concatenate(pair) for pair in pairs))
    return together.select(np.argsort(together.items, kind="stable"))


def clip(boxes: np.ndarray) -> np.ndarray:
    """ClipBBox to [0, 1]."""
    return np.clip(boxes, np.float32(0), np.float32(1))


def mirror(objects: Objects, which: np.ndarray) -> Objects:
    """Flips the objects of some pictures (P,) left to right."""
    boxes, chosen = objects.boxes.copy(), which[objects.items]
    boxes[chosen, 0], boxes[chosen, 2] = np.float32(1) - boxes[chosen, 2], np.float32(1) - boxes[chosen, 0]
    return replace(objects, boxes=boxes)


def resize(objects: Objects, param: caffe_pb2.ResizeParameter, sizes: np.ndarray) -> Objects:
    """UpdateBBoxByResizePolicy: moves objects as their pictures, of sizes (P, 2) (width, height), are resized."""
    new, padding = (values[objects.items] for values in _resized_frames(param, sizes))
    old = sizes[objects.items]
    low, high = objects.boxes[:, :2] * old, objects.boxes[:, 2:] * old
    inner = new - 2 * padding
    low = padding + np.maximum(low * inner / old, 0)
    high = padding + np.minimum(high * inner / old, new)
    return replace(objects, boxes=np.concatenate([low / new, high / new], axis=1))


def _resized_frames(param: caffe_pb2.ResizeParameter, old: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns sizes after resizing (width, height) and the padding before (left, top) of pictures; (P, 2) float32."""
    width, height = np.float32(param.width), np.float32(param.height)
    new, padding = np.broadcast_to([width, height], old.shape).copy(), np.zeros_like(old)
    aspect, new_aspect = old[:, 0] / old[:, 1], width / height
    if param.resize_mode == param.FIT_SMALL_SIZE:
        new[:, 0] = np.where(aspect < new_aspect, width, aspect * height)
        new[:, 1] = np.where(aspect < new_aspect, width / aspect, height)
    elif param.resize_mode == param.FIT_LARGE_SIZE_AND_PAD:
        padding[:, 0] = np.where(aspect > new_aspect, 0, (width - aspect * height) / np.float32(2))
        padding[:, 1] = np.where(aspect > new_aspect, (height - width / aspect) / np.float32(2), 0)
    return new, padding


def extrapolate(objects: Objects, param: caffe_pb2.ResizeParameter, sizes: np.ndarray, windows: np.ndarray) -> Objects:
    """ExtrapolateBBox: for FIT_SMALL_SIZE, divides boxes by a fixed size (width_scale, height_scale) instead.

    Args:
        objects: In the frame of `windows`.
        param: How pictures were resized.
        sizes: (P, 2) width and height before resizing.
        windows: (P, 4) the part of each picture that was kept after resizing.

    Raises:
        DataError: A picture with objects is smaller than the fixed size.
    """
    if not (param.height_scale and param.width_scale and param.resize_mode == param.FIT_SMALL_SIZE):
        return objects
    new, _ = _resized_frames(param, sizes)
    kept = (new * (windows[:, 2:] - windows[:, :2]))[objects.items]
    scale = np.array([param.width_scale, param.height_scale], np.float32)
    too_small = (kept < scale).any(1)
    if too_small.any():
        raise DataError(
            "the resized picture is smaller than width_scale x height_scale",
            code="data.resize",
            expected=f"at least {param.width_scale} x {param.height_scale}",
            found=kept[too_small][0].tolist(),
        )
    boxes = objects.boxes * kept[:, _TWICE] / scale[_TWICE]
    return replace(objects, boxes=boxes)
