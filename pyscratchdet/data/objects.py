"""The objects of one picture and how they move with it (bbox_util.cpp and data_transformer.cpp; float32 throughout).

Boxes are xmin, ymin, xmax, ymax, divided by the picture's size. A box may carry an area computed earlier, which the
original then trusts instead of its corners: `areas` holds it, NaN where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pyscratchdet.errors import DataError
from pyscratchdet.proto import caffe_pb2

_TWICE = np.array([0, 1, 0, 1])


@dataclass(frozen=True)
class Objects:
    """N objects in the order of their groups.

    Attributes:
        labels: (N,) int32.
        instances: (N,) int32, counted within a label.
        boxes: (N, 4) float32.
        difficult: (N,) bool.
        areas: (N,) float32, NaN where unknown.
    """

    labels: np.ndarray
    instances: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, which: np.ndarray) -> Objects:
        """Returns the objects of a mask or of indices."""
        return Objects(*(values[which] for values in vars(self).values()))

    def rows(self, item: int) -> np.ndarray:
        """Returns rows (N, 8) of the label blob: item, label, instance, box, difficult."""
        rows = np.empty((len(self), 8), np.float32)
        rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 7] = item, self.labels, self.instances, self.difficult
        rows[:, 3:7] = self.boxes
        return rows


NO_OBJECTS = Objects(
    np.zeros(0, np.int32),
    np.zeros(0, np.int32),
    np.zeros((0, 4), np.float32),
    np.zeros(0, bool),
    np.zeros(0, np.float32),
)
"""Of a picture without boxes."""


def objects_of(record: caffe_pb2.AnnotatedDatum, name: str) -> Objects:
    """Returns the objects of a record.

    Args:
        record: With boxes in its annotation groups.
        name: What to call the record in errors.

    Raises:
        DataError: A box is not a number or has its corners the wrong way round, or a label is negative.
    """
    entries = [(group.group_label, entry) for group in record.annotation_group for entry in group.annotation]
    boxes = [entry.bbox for _, entry in entries]
    objects = Objects(
        np.array([label for label, _ in entries], np.int32),
        np.array([entry.instance_id for _, entry in entries], np.int32),
        np.array([(box.xmin, box.ymin, box.xmax, box.ymax) for box in boxes], np.float32).reshape(-1, 4),
        np.array([box.difficult for box in boxes], bool),
        np.array([box.size if box.HasField("size") else np.nan for box in boxes], np.float32),
    )
    _check(objects, name)
    return objects


def _check(objects: Objects, name: str) -> None:
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
            raise DataError(f"{name} has {message}", code="data.box", found=found)


def area(boxes: np.ndarray) -> np.ndarray:
    """BBoxSize: width * height, and 0 for reversed corners; (..., 4) to (...)."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return np.where((width < 0) | (height < 0), np.float32(0), width * height)


def _areas(objects: Objects) -> np.ndarray:
    """The areas that the original uses: those carried along, unless the corners are reversed."""
    computed = area(objects.boxes)
    return np.where(np.isnan(objects.areas) | (computed == 0), computed, objects.areas)


def _intersections(windows: np.ndarray, objects: Objects) -> np.ndarray:
    """Returns the area (T, N) that windows (T, 4) share with N objects; 0 where they only touch."""
    first, second = windows.T[..., None], objects.boxes.T
    width = np.minimum(first[2], second[2]) - np.maximum(first[0], second[0])
    height = np.minimum(first[3], second[3]) - np.maximum(first[1], second[1])
    return np.maximum(width, 0) * np.maximum(height, 0)


def jaccard(windows: np.ndarray, objects: Objects) -> np.ndarray:
    """JaccardOverlap of windows (T, 4) with N objects: (T, N)."""
    inner = _intersections(windows, objects)
    union = area(windows)[:, None] + _areas(objects) - inner
    return inner / np.where(inner > 0, union, np.float32(1))


def coverages(windows: np.ndarray, objects: Objects) -> tuple[np.ndarray, np.ndarray]:
    """BBoxCoverage: how much of each window an object covers, and of each object a window; both (T, N)."""
    inner = _intersections(windows, objects)
    of_window = inner / np.where(inner > 0, area(windows)[:, None], np.float32(1))
    return of_window, inner / np.where(inner > 0, _areas(objects), np.float32(1))


def _emitted(objects: Objects, window: np.ndarray, constraint: caffe_pb2.EmitConstraint) -> np.ndarray:
    """MeetEmitConstraint: (N,) bool."""
    if constraint.emit_type == caffe_pb2.EmitConstraint.CENTER:
        centers = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / np.float32(2)
        return ((centers >= window[:2]) & (centers <= window[2:])).all(1)
    _, of_objects = coverages(window[None], objects)
    return of_objects[0] > np.float32(constraint.emit_overlap)


def project(objects: Objects, window: np.ndarray, constraint: caffe_pb2.EmitConstraint | None) -> Objects:
    """Moves objects into a window's frame and drops those that leave it (TransformAnnotation, ProjectBBox).

    Args:
        objects: In the frame that `window` is given in.
        window: (4,) float32; may exceed [0, 1] for an expansion.
        constraint: What an object must meet besides sharing some area with the window.

    Returns:
        The objects left, clipped to [0, 1], with their areas.
    """
    boxes = objects.boxes
    is_inside = ~((boxes[:, :2] >= window[2:]) | (boxes[:, 2:] <= window[:2])).any(1)
    if constraint is not None:
        is_inside &= _emitted(objects, window, constraint)
    objects = objects.select(is_inside)
    origin, sides = window[_TWICE], (window[2:] - window[:2])[_TWICE]
    boxes = clip((objects.boxes - origin) / sides)
    areas = area(boxes)
    return replace(objects, boxes=boxes, areas=areas).select(areas > 0)


def clip(boxes: np.ndarray) -> np.ndarray:
    """ClipBBox to [0, 1]."""
    return np.clip(boxes, np.float32(0), np.float32(1))


def mirror(objects: Objects) -> Objects:
    """Flips objects left to right."""
    boxes = objects.boxes.copy()
    boxes[:, [0, 2]] = np.float32(1) - boxes[:, [2, 0]]
    return replace(objects, boxes=boxes)


def resize(objects: Objects, param: caffe_pb2.ResizeParameter, height: int, width: int) -> Objects:
    """UpdateBBoxByResizePolicy: where objects of a (height, width) picture are after its resizing."""
    old = np.float32([width, height])
    new, padding = _resized_frame(param, old)
    low, high = objects.boxes[:, :2] * old, objects.boxes[:, 2:] * old
    inner = new - 2 * padding
    low = padding + np.maximum(low * inner / old, 0)
    high = padding + np.minimum(high * inner / old, new)
    return replace(objects, boxes=np.concatenate([low / new, high / new], axis=1))


def _resized_frame(param: caffe_pb2.ResizeParameter, old: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the size after resizing (width, height) and the padding before (left, top); float32."""
    new, padding = np.float32([param.width, param.height]), np.zeros(2, np.float32)
    aspect, new_aspect = old[0] / old[1], new[0] / new[1]
    if param.resize_mode == param.FIT_SMALL_SIZE:
        if aspect < new_aspect:
            new[1] = new[0] / aspect
        else:
            new[0] = aspect * new[1]
    elif param.resize_mode == param.FIT_LARGE_SIZE_AND_PAD:
        if aspect > new_aspect:
            padding[1] = (new[1] - new[0] / aspect) / np.float32(2)
        else:
            padding[0] = (new[0] - aspect * new[1]) / np.float32(2)
    return new, padding


def extrapolate(
    objects: Objects, param: caffe_pb2.ResizeParameter, height: int, width: int, window: np.ndarray
) -> Objects:
    """ExtrapolateBBox: for FIT_SMALL_SIZE, boxes divided by a fixed size (width_scale, height_scale) instead.

    Raises:
        DataError: The picture is smaller than that size.
    """
    if not (param.height_scale and param.width_scale and param.resize_mode == param.FIT_SMALL_SIZE):
        return objects
    new, _ = _resized_frame(param, np.float32([width, height]))
    size, scale = new * (window[2:] - window[:2]), np.float32([param.width_scale, param.height_scale])
    if (size < scale).any():
        raise DataError(
            "the resized picture is smaller than width_scale x height_scale",
            code="data.resize",
            expected=f"at least {param.width_scale} x {param.height_scale}",
            found=size.tolist(),
        )
    boxes = objects.boxes * size[_TWICE] / scale[_TWICE]
    return replace(objects, boxes=boxes)
