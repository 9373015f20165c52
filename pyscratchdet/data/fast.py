"""The same transformations without detours: decide first, then touch only the pixels that will be seen.

No JPEG between the steps, distortion of the visible part alone (after the resizing where that leaves fewer pixels), and
never the expanded canvas: the shrunk picture is written into an output that has the mean colour already. Under the same
plan the pixels are the exact path's up to much less than its JPEG noise, and up to a fraction of a pixel of the source
where an expanded picture is shrunk.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pyscratchdet.data import pixels
from pyscratchdet.data.objects import Objects
from pyscratchdet.data.pixels import Distortion
from pyscratchdet.data.plan import Expansion, Plan, Rect
from pyscratchdet.data.sampling import measure, meets, window_size
from pyscratchdet.data.transform import Transformer
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom

# Output pixels within this many source pixels of the picture's edge may show it (LANCZOS4 reaches furthest).
_REACH = 4
# How far to look for an output pixel that starts on a whole source pixel.
_SLACK = 16


class FastSampler:
    """Finds windows for all samplers at once: the distribution of the original, from other draws."""

    def __init__(self, samplers: Sequence[caffe_pb2.BatchSampler]) -> None:
        self._samplers = [sampler for sampler in samplers if sampler.use_original_image]
        bounds = [sampler.sampler for sampler in self._samplers]
        self._trials = max((sampler.max_trials for sampler in self._samplers), default=0)
        self._constraints = [sampler.sample_constraint for sampler in self._samplers]
        low = np.float32([(bound.min_scale, bound.min_aspect_ratio) for bound in bounds]).reshape(-1, 2)
        high = np.float32([(bound.max_scale, bound.max_aspect_ratio) for bound in bounds]).reshape(-1, 2)
        self._low, self._span = low.T[..., None], (high - low).T[..., None]

    def __call__(
        self, random: CaffeRandom, samplers: Sequence[caffe_pb2.BatchSampler], objects: Objects
    ) -> list[np.ndarray]:
        """Returns the windows that all samplers found, as sampling.sample_windows does."""
        count = len(self._samplers)
        units = random.raw(4 * count * self._trials).reshape(4, count, self._trials).astype(np.float32)
        units *= np.float32(2.0**-32)
        scale, ratio = units[:2] * self._span + self._low
        sides = np.stack(window_size(scale, ratio))
        low = units[2:] * (1 - sides)
        windows = np.concatenate([low, low + sides]).reshape(4, -1).T
        measures = measure(windows, objects, self._constraints)
        found: list[np.ndarray] = []
        for index, sampler in enumerate(self._samplers):
            start = index * self._trials
            which = slice(start, start + sampler.max_trials)
            good = np.flatnonzero(meets(measures, sampler.sample_constraint, which)) + start
            found.extend(windows[good[: sampler.max_sample] if sampler.HasField("max_sample") else good])
        return found


def render(transformer: Transformer, image: np.ndarray, plan: Plan, output: np.ndarray) -> None:
    """Carries out a plan, all but mean and scale.

    Args:
        transformer: Of the layer.
        image: (height, width, channels) uint8.
        plan: What to do.
        output: (height, width, channels) uint8, written.
    """
    canvas = plan.expansion or Expansion(image.shape[0], image.shape[1], 0, 0)
    crop = plan.crop or Rect(0, 0, canvas.height, canvas.width)
    picture, top, left = _visible(image, canvas, crop)
    is_covered = picture.shape[:2] == (crop.height, crop.width)
    # The fewer pixels are distorted: those of the source, or those that will be seen.
    is_late = output.size * picture.size < picture.size * crop.height * crop.width * image.shape[2]
    distortions = plan.distortions or []
    if not is_covered and _is_plain(transformer.param, plan):
        late = distortions if is_late else []
        picture = picture if is_late else distort(picture, distortions)
        _shrink_into(output, picture, top, left, crop, plan, transformer.fill(image.shape[2]), late)
        return
    is_late = is_late and is_covered and not transformer.param.HasField("noise_param")
    if not is_late:
        picture = distort(picture, distortions)
    if not is_covered:
        picture = _pasted(picture, top, left, crop.height, crop.width, transformer.fill(image.shape[2]))
    picture = transformer.shape(picture, plan)
    output[:] = distort(picture, distortions) if is_late else picture


def _is_plain(param: caffe_pb2.TransformationParameter, plan: Plan) -> bool:
    """Whether resizing is all that is left to do but mirroring."""
    resize, place = param.resize_param, plan.place
    is_warp = param.HasField("resize_param") and resize.resize_mode == resize.WARP
    is_whole = place is not None and (place.height, place.width) == (resize.height, resize.width)
    return is_warp and is_whole and not param.HasField("noise_param")


def distort(image: np.ndarray, distortions: Sequence[Distortion]) -> np.ndarray:
    """Like pixels.distort, with neighbours done in one go: brightness with contrast, saturation with hue."""
    if not image.size:
        return image
    pointwise, hsv = [], {}
    done = image
    for name, amount in distortions:
        if name in ("saturation", "hue"):
            done, pointwise = _flush_tables(done, pointwise), []
            hsv[name] = pixels.table(amount, 0) if name == "saturation" else pixels.table(1, amount)
            continue
        done, hsv = _flush_hsv(done, hsv), {}
        if name == "order":
            done, pointwise = pixels.distort(_flush_tables(done, pointwise), [(name, amount)]), []
        else:
            pointwise.append(pixels.table(1, amount) if name == "brightness" else pixels.table(amount, 0))
    return _flush_hsv(_flush_tables(done, pointwise), hsv)


def _flush_tables(image: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    if not tables:
        return image
    combined = tables[0]
    for table in tables[1:]:
        combined = table[combined]
    return cv2.LUT(image, combined)


def _flush_hsv(image: np.ndarray, tables: dict[str, np.ndarray]) -> np.ndarray:
    return pixels.in_hsv(image, **tables) if tables else image


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
    """A picture of one colour, kept: copying it is much faster than filling anew."""
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
    """Resizes what surrounds the picture, not the whole crop, into its place in the output, and distorts it there."""
    output[:] = _plain(output.shape, fill.tobytes())
    if picture.size == 0:
        return
    height, width = output.shape[:2]
    rows = _span(top, top + picture.shape[0], crop.height, height)
    columns = _span(left, left + picture.shape[1], crop.width, width)
    around = _pasted(picture, top - rows.source, left - columns.source, rows.source_size, columns.source_size, fill)
    param = caffe_pb2.ResizeParameter(height=rows.size, width=columns.size)
    part = pixels.resize(around, param, plan.interpolation)
    if distortions:
        inner = part[
            _inside(top, picture.shape[0], crop.height, height, rows),
            _inside(left, picture.shape[1], crop.width, width, columns),
        ]
        inner[:] = distort(inner, distortions)
    start = columns.start
    if plan.is_mirrored:
        part, start = part[:, ::-1], width - columns.start - columns.size
    output[rows.start : rows.start + rows.size, start : start + columns.size] = part


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
    start = min(range(max(0, first - _SLACK), first + 1), key=lambda pixel: _offset(pixel * scale))
    stop = min(range(last, min(target, last + _SLACK) + 1), key=lambda pixel: _offset(pixel * scale))
    begin, end = round(start * scale), round(stop * scale)
    return _Span(start, stop - start, begin, max(1, end - begin))


def _offset(position: float) -> float:
    return abs(position - round(position))


def _inside(low: int, size: int, source: int, target: int, span: _Span) -> slice:
    """Returns the pixels of a span's result that show source pixels `low` to `low + size`."""
    first = round(low * target / source) - span.start
    return slice(max(0, first), max(0, round((low + size) * target / source) - span.start))
