"""The same transformations without detours: decide first, then touch only the pixels that will be seen.

There is no JPEG between the steps, only the visible part is distorted (after resizing if that leaves fewer pixels), and
the expanded canvas is never made: the shrunk picture is written into an output that already has the mean colour. For
the same plan the pixels differ from the exact path's by much less than its JPEG noise and, where an expanded picture is
shrunk, by a shift of a fraction of a source pixel. Each step uses OpenCV's vectorised form of it, in place if there is
one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pyscratchdet.data import pixels
from pyscratchdet.data.pixels import Distortion
from pyscratchdet.data.plan import Expansion, Plan, Rect
from pyscratchdet.data.transform import DataTransformer
from pyscratchdet.proto import caffe_pb2

# Output pixels within this many source pixels of the picture's edge may show it (LANCZOS4 reaches furthest).
_REACH = 4
# How far to look for an output pixel that starts on a whole source pixel.
_SLACK = 16


def render(transformer: DataTransformer, image: np.ndarray, plan: Plan, output: np.ndarray) -> None:
    """Carries out a plan, except for mean and scale.

    Args:
        transformer: The layer's.
        image: (height, width, channels) uint8; may be changed.
        plan: What to do.
        output: (height, width, channels) uint8, written.
    """
    canvas = plan.expansion or Expansion(image.shape[0], image.shape[1], 0, 0)
    crop = plan.crop or Rect(0, 0, canvas.height, canvas.width)
    picture, top, left = _visible(image, canvas, crop)
    distortions = plan.distortions or []
    # Distorted are the source's pixels or the output's, whichever are fewer.
    is_late = output.shape[0] * output.shape[1] < crop.height * crop.width
    if not _is_plain(transformer.param, plan):
        picture = distort(picture, distortions)
        if picture.shape[:2] != (crop.height, crop.width):
            picture = _pasted(picture, top, left, crop.height, crop.width, transformer.fill(image.shape[2]))
        output[:] = transformer.shape(picture, plan)
        return
    if not is_late:
        picture = distort(picture, distortions)
    late = distortions if is_late else []
    if picture.shape[:2] == (crop.height, crop.width):
        resize(picture, plan.interpolation, output)
        output[:] = distort(output, late)
    else:
        _shrink_into(output, picture, top, left, crop, plan, transformer.fill(image.shape[2]), late)
    if plan.is_mirrored:
        cv2.flip(output, 1, dst=output)


def _is_plain(param: caffe_pb2.TransformationParameter, plan: Plan) -> bool:
    """Whether only resizing, and perhaps mirroring, is left to do."""
    resize, place = param.resize_param, plan.place
    is_warp = param.HasField("resize_param") and resize.resize_mode == resize.WARP
    is_whole = place is not None and (place.height, place.width) == (resize.height, resize.width)
    return is_warp and is_whole and not param.HasField("noise_param")


def distort(image: np.ndarray, distortions: Sequence[Distortion]) -> np.ndarray:
    """Like `pixels.distort`, but converts to HSV once for both saturation and hue; may change the image itself.

    All pixels are laid out as one row, since OpenCV's loops are slow at the end of each row.
    """
    if not distortions or not image.size:
        return image
    row = np.ascontiguousarray(image).reshape(1, -1, image.shape[2])
    hsv: dict[str, Any] = {}
    amount: Any
    for name, amount in distortions:
        if name in ("saturation", "hue"):
            hsv[name] = amount
            continue
        _in_hsv(row, **hsv)
        hsv = {}
        if name == "brightness":
            _shift(row, amount, image.shape[2])
        elif name == "contrast":
            cv2.convertScaleAbs(row, dst=row, alpha=amount)
        else:
            row = pixels.distort(row, [(name, amount)])
    _in_hsv(row, **hsv)
    return row.reshape(image.shape)


def _shift(row: np.ndarray, delta: float, channels: int) -> None:
    """Adds a value to the first channels; it is rounded first, which is the same since the pixels are whole numbers."""
    summand = (round(delta),) * channels + (0,) * (4 - channels)
    cv2.add(row, summand, dst=row)  # type: ignore[call-overload]  # OpenCV's annotations leave out scalars


def _in_hsv(row: np.ndarray, saturation: float | None = None, hue: float = 0) -> None:
    if saturation is None and hue == 0:
        return
    cv2.cvtColor(row, cv2.COLOR_BGR2HSV, dst=row)
    if hue != 0:
        _shift(row, hue, 1)
    if saturation is not None:
        plane = cv2.extractChannel(row, 1)
        cv2.insertChannel(cv2.convertScaleAbs(plane, dst=plane, alpha=saturation), row, 1)
    cv2.cvtColor(row, cv2.COLOR_HSV2BGR, dst=row)


def resize(image: np.ndarray, interpolation: int | None, output: np.ndarray) -> None:
    """Resizes to the output's size; the result is that of `pixels.resize` to within one level of 255.

    OpenCV's own area averaging and LANCZOS4 of uint8 are many times slower than IPP's averaging and LANCZOS4 of float.
    """
    size = output.shape[1::-1]
    if interpolation == caffe_pb2.ResizeParameter.LANCZOS4:
        fine = cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_LANCZOS4)
        cv2.addWeighted(fine, 1, fine, 0, 0, dst=output, dtype=cv2.CV_8U)
    elif interpolation == caffe_pb2.ResizeParameter.AREA:
        with _inexact_ipp():
            cv2.resize(image, size, dst=output, interpolation=cv2.INTER_AREA)
    else:
        cv2.resize(image, size, dst=output, interpolation=pixels.interpolation_flag(interpolation))


@contextmanager
def _inexact_ipp() -> Iterator[None]:
    """Lets OpenCV use Intel's routines that round differently from its own; each thread has its own setting."""
    before = cv2.ipp.useIPP_NotExact()
    cv2.ipp.setUseIPP_NotExact(True)
    try:
        yield
    finally:
        cv2.ipp.setUseIPP_NotExact(before)


def _visible(image: np.ndarray, canvas: Expansion, crop: Rect) -> tuple[np.ndarray, int, int]:
    """Returns the part of the picture inside the crop, and its top and left there."""
    top, left = canvas.top - crop.top, canvas.left - crop.left
    rows = slice(max(0, -top), max(0, min(image.shape[0], crop.height - top)))
    columns = slice(max(0, -left), max(0, min(image.shape[1], crop.width - left)))
    return image[rows, columns], max(0, top), max(0, left)


def _pasted(picture: np.ndarray, top: int, left: int, height: int, width: int, fill: np.ndarray) -> np.ndarray:
    if not picture.size:
        return _plain((height, width, picture.shape[2]), fill.tobytes()).copy()
    bottom, right = height - top - picture.shape[0], width - left - picture.shape[1]
    pasted = cv2.copyMakeBorder(
        picture, top, bottom, left, right, cv2.BORDER_CONSTANT, value=[float(value) for value in fill]
    )
    return pasted if pasted.ndim == 3 else pasted[..., None]


@functools.lru_cache(maxsize=8)
def _plain(shape: tuple[int, ...], fill: bytes) -> np.ndarray:
    """Returns a cached picture of one colour: copying it is much faster than filling a new one."""
    return np.broadcast_to(np.frombuffer(fill, np.uint8), shape).copy()


def _shrink_into(
    output: np.ndarray,
    picture: np.ndarray,
    top: int,
    left: int,
    crop: Rect,
    plan: Plan,
    fill: np.ndarray,
    distortions: Sequence[Distortion],
) -> None:
    """Resizes the picture with its surroundings, not the whole crop, into its place in the output, and distorts it."""
    output[:] = _plain(output.shape, fill.tobytes())
    if picture.size == 0:
        return
    height, width = output.shape[:2]
    rows = _span(top, top + picture.shape[0], crop.height, height)
    columns = _span(left, left + picture.shape[1], crop.width, width)
    around = _pasted(picture, top - rows.source, left - columns.source, rows.source_size, columns.source_size, fill)
    part = output[rows.start : rows.start + rows.size, columns.start : columns.start + columns.size]
    resize(around, plan.interpolation, part)
    if distortions:
        inner = part[
            _inside(top, picture.shape[0], crop.height, height, rows),
            _inside(left, picture.shape[1], crop.width, width, columns),
        ]
        inner[:] = distort(inner, distortions)


@dataclass(frozen=True)
class _Span:
    """Output pixels `start` to `start + size`, made of source pixels `source` to `source + source_size`."""

    start: int
    size: int
    source: int
    source_size: int


def _span(low: int, high: int, source: int, target: int) -> _Span:
    """Returns the output pixels that may show source pixels `low` to `high`, with ends on (nearly) whole source pixels.

    Args:
        low: First source pixel that matters.
        high: One beyond the last.
        source: Source pixels in all.
        target: Output pixels in all.
    """
    scale = source / target
    reach = _REACH + scale
    first = max(0, int((low - reach) / scale))
    last = min(target, int((high + reach) / scale) + 1)
    start = _nearest_to_whole(range(max(0, first - _SLACK), first + 1), source, target)
    stop = _nearest_to_whole(range(last, min(target, last + _SLACK) + 1), source, target)
    begin, end = round(start * scale), round(stop * scale)
    return _Span(start, stop - start, begin, max(1, end - begin))


def _nearest_to_whole(pixels_out: range, source: int, target: int) -> int:
    """Returns the output pixel that starts nearest to a whole source pixel."""
    half = target // 2
    offsets = [abs((pixel * source + half) % target - half) for pixel in pixels_out]
    return pixels_out[offsets.index(min(offsets))]


def _inside(low: int, size: int, source: int, target: int, span: _Span) -> slice:
    """Returns the pixels of a span's result that show source pixels `low` to `low + size`."""
    first = round(low * target / source) - span.start
    return slice(max(0, first), max(0, round((low + size) * target / source) - span.start))
