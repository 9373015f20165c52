"""Every random decision about one picture, taken before a pixel is touched, in the original's order of draws.

Order and sources (annotated_data_layer.cpp, data_transformer.cpp, im_transforms.cpp, sampler.cpp): distortion,
expansion, windows, the choice of one of them, interpolation and noise come from the prefetch thread's generator;
mirroring and the crop to `crop_size` from the transformer's own; the order of channels from the C library's rand().
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyscratchdet.data import objects as boxes
from pyscratchdet.data.counter import CounterRandom
from pyscratchdet.data.objects import Objects
from pyscratchdet.data.pixels import Distortion, num_specks, resize_size
from pyscratchdet.data.sampling import sample_windows
from pyscratchdet.errors import DataError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom, LibcRandom

NO_SPECKS = np.zeros((0, 2), np.intp)
Random = CaffeRandom | CounterRandom
_WHOLE = np.array([0, 0, 1, 1], np.float32)


@dataclass
class Streams:
    """The three sources of random numbers of a data layer."""

    thread: Random
    transformer: Random
    libc: LibcRandom | CounterRandom

    @property
    def state(self) -> dict[str, Any]:
        """Where Caffe's streams stand, in plain numbers and lists: assign it to continue from there."""
        return {name: stream.state for name, stream in vars(self).items()}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        for name, stream in vars(self).items():
            stream.state = state[name]


WindowSampler = Callable[[Sequence[Streams], Sequence[caffe_pb2.BatchSampler], Objects], list[Sequence[np.ndarray]]]


def original_windows(
    streams: Sequence[Streams], samplers: Sequence[caffe_pb2.BatchSampler], objects: Objects
) -> list[Sequence[np.ndarray]]:
    """Finds windows in the original's way, picture by picture."""
    windows: list[Sequence[np.ndarray]] = []
    for item, stream in enumerate(streams):
        assert isinstance(stream.thread, CaffeRandom)
        windows.append(sample_windows(stream.thread, samplers, objects.select(objects.items == item)))
    return windows


@dataclass(frozen=True)
class Expansion:
    """A larger canvas, (height, width) in pixels, and where the picture is pasted into it."""

    height: int
    width: int
    top: int
    left: int


@dataclass(frozen=True)
class Rect:
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass
class Plan:
    """What will happen to one picture, in this order.

    Attributes:
        distortions: Photometric changes; None if the net asks for none at all.
        expansion: None if the picture is not expanded.
        crop: The sampled window, in pixels of the expanded picture; None for all of it.
        interpolation: How the picture is resized; None for linear.
        specks: (K, 2) x, y of salt-and-pepper pixels of the resized picture.
        is_mirrored: Whether the result is flipped.
        place: The part of the resized picture that is kept; its size is the output's.
        resized: Height and width of the resized picture.
    """

    distortions: list[Distortion] | None = None
    expansion: Expansion | None = None
    crop: Rect | None = None
    interpolation: int | None = None
    specks: np.ndarray = field(default_factory=lambda: NO_SPECKS)
    is_mirrored: bool = False
    place: Rect | None = None
    resized: tuple[int, int] = (0, 0)


class Planner:
    """Draws plans.

    Args:
        param: The layer's transform_param.
        samplers: Its batch samplers.
        is_train: Whether crops to `crop_size` are random.
        sampler: How windows are found; by default in the original's way.
    """

    def __init__(
        self,
        param: caffe_pb2.TransformationParameter,
        samplers: Sequence[caffe_pb2.BatchSampler] = (),
        is_train: bool = False,
        sampler: WindowSampler = original_windows,
    ) -> None:
        self._param = param
        self._samplers = list(samplers)
        self._is_train = is_train
        self._sample = sampler
        self._emit = param.emit_constraint if param.HasField("emit_constraint") else None

    @property
    def is_random(self) -> bool:
        """Whether other random numbers could give other plans."""
        param = self._param
        return (
            any(param.HasField(name) for name in ("distort_param", "expand_param", "noise_param"))
            or param.mirror
            or len(set(param.resize_param.interp_mode)) > 1
            or (self._is_train and any(crop_size(param)))
            or not all(_takes_whole(batch_sampler.sampler) for batch_sampler in self._samplers)
        )

    def draw(
        self, streams: Sequence[Streams], objects: Objects, sizes: Sequence[tuple[int, int]]
    ) -> tuple[list[Plan], Objects]:
        """Returns the plans of pictures, and where their objects will be once the plans are carried out.

        Args:
            streams: Each picture's own.
            objects: Those of all pictures.
            sizes: Heights and widths of the pictures, in pixels.

        Raises:
            DataError: A picture is too small for the crop.
        """
        param, plans = self._param, [Plan() for _ in streams]
        if param.HasField("distort_param"):
            for plan, stream in zip(plans, streams, strict=True):
                plan.distortions = draw_distortions(stream, param.distort_param)
        if param.HasField("expand_param"):
            objects, sizes = self._expand(streams, plans, objects, sizes)
        if self._samplers:
            objects, sizes = self._crop(streams, plans, objects, sizes)
        return plans, self._transform(streams, plans, objects, sizes)

    def _expand(
        self, streams: Sequence[Streams], plans: list[Plan], objects: Objects, sizes: Sequence[tuple[int, int]]
    ) -> tuple[Objects, Sequence[tuple[int, int]]]:
        for plan, stream, size in zip(plans, streams, sizes, strict=True):
            plan.expansion = draw_expansion(stream.thread, self._param.expand_param, *size)
        if not any(plan.expansion for plan in plans):
            return objects, sizes
        # Canvases in their picture's frame; `which` leaves out pictures that have none.
        canvases = [plan.expansion or Expansion(*size, 0, 0) for plan, size in zip(plans, sizes, strict=True)]
        low = -np.array([(canvas.left, canvas.top) for canvas in canvases], np.float32)
        high = low + np.array([(canvas.width, canvas.height) for canvas in canvases], np.float32)
        windows = np.concatenate([low, high], axis=1) / _sides(sizes)
        which = np.array([plan.expansion is not None for plan in plans])
        objects = boxes.project(objects, windows, self._emit, which)
        return objects, [(canvas.height, canvas.width) for canvas in canvases]

    def _crop(
        self, streams: Sequence[Streams], plans: list[Plan], objects: Objects, sizes: Sequence[tuple[int, int]]
    ) -> tuple[Objects, Sequence[tuple[int, int]]]:
        found = self._sample(streams, self._samplers, objects)
        which = np.array([len(choice) > 0 for choice in found])
        chosen = [
            choice[stream.thread.below(len(choice))] if len(choice) else _WHOLE
            for choice, stream in zip(found, streams, strict=True)
        ]
        windows = boxes.clip(np.stack(chosen))
        rects = _crops(windows, sizes)
        for plan, rect, is_cropped in zip(plans, rects, which.tolist(), strict=True):
            plan.crop = rect if is_cropped else None
        sizes = [
            (plan.crop.height, plan.crop.width) if plan.crop else size for plan, size in zip(plans, sizes, strict=True)
        ]
        return boxes.project(objects, windows, self._emit, which), sizes

    def _transform(
        self, streams: Sequence[Streams], plans: list[Plan], objects: Objects, sizes: Sequence[tuple[int, int]]
    ) -> Objects:
        """DataTransformer::Transform: mirror, resize, noise, crop, and the objects through all of it."""
        has_resize, resize = self._param.HasField("resize_param"), self._param.resize_param
        new_sizes = [self._draw_transform(*each) for each in zip(streams, plans, sizes, strict=True)]
        before = _sides(sizes)[:, :2]
        if has_resize:
            objects = boxes.resize(objects, resize, before)
        windows = _frames([plan.place for plan in plans if plan.place], new_sizes)
        objects = boxes.project(objects, windows, self._emit)
        if self._param.mirror:
            objects = boxes.mirror(objects, np.array([plan.is_mirrored for plan in plans]))
        return boxes.extrapolate(objects, resize, before, windows) if has_resize else objects

    def _draw_transform(self, streams: Streams, plan: Plan, size: tuple[int, int]) -> tuple[int, int]:
        """Draws what DataTransformer::Transform draws; returns height and width of the resized picture."""
        param, resize = self._param, self._param.resize_param
        plan.is_mirrored = bool(param.mirror and streams.transformer.below(2))
        if param.HasField("resize_param"):
            plan.interpolation = draw_interpolation(streams.thread, resize)
            size = resize_size(resize, *size)
        if param.HasField("noise_param"):
            plan.specks = draw_specks(streams.thread, param.noise_param, *size)
        plan.place, plan.resized = self._place(streams.transformer, *size), size
        return size

    def _place(self, random: Random, height: int, width: int) -> Rect:
        crop_height, crop_width = crop_size(self._param)
        if not (crop_height and crop_width):
            return Rect(0, 0, height, width)
        if height < crop_height or width < crop_width:
            raise DataError("the picture is smaller than its crop", code="data.crop",
                            expected=f"at least {crop_width} x {crop_height}", found=f"{width} x {height}")  # fmt: skip
        rows, columns = height - crop_height, width - crop_width
        if self._is_train:
            top = random.below(rows + 1)
            return Rect(top, random.below(columns + 1), crop_height, crop_width)
        return Rect(rows // 2, columns // 2, crop_height, crop_width)


def _takes_whole(sampler: caffe_pb2.Sampler) -> bool:
    """Whether all windows of a sampler are the whole picture, as those of the empty one are that test nets have."""
    bounds = (sampler.min_scale, sampler.max_scale, sampler.min_aspect_ratio, sampler.max_aspect_ratio)
    return all(bound == 1 for bound in bounds)


def crop_size(param: caffe_pb2.TransformationParameter) -> tuple[int, int]:
    """Returns height and width of the final crop; 0 where there is none."""
    return (param.crop_size or param.crop_h), (param.crop_size or param.crop_w)


def draw_distortions(streams: Streams, param: caffe_pb2.DistortionParameter) -> list[Distortion]:
    """ApplyDistort: contrast comes before saturation and hue, or after, half the time each."""
    random = streams.thread
    distortions: list[Distortion] = []
    middle = ["saturation", "hue"]
    is_first = random.uniform_one(0, 1) > 0.5
    for name in ["brightness", *(["contrast", *middle] if is_first else [*middle, "contrast"])]:
        if random.uniform_one(0, 1) < np.float32(getattr(param, f"{name}_prob")):
            distortions.append((name, float(random.uniform_one(*_distortion_range(param, name)))))
    if random.uniform_one(0, 1) < np.float32(param.random_order_prob):
        order = [0, 1, 2]
        streams.libc.shuffle(order)
        distortions.append(("order", tuple(order)))
    return distortions


def _distortion_range(param: caffe_pb2.DistortionParameter, name: str) -> tuple[float, float]:
    if name in ("brightness", "hue"):
        delta = getattr(param, f"{name}_delta")
        return -delta, delta
    return getattr(param, f"{name}_lower"), getattr(param, f"{name}_upper")


def draw_expansion(random: Random, param: caffe_pb2.ExpansionParameter, height: int, width: int) -> Expansion | None:
    """ExpandImage; None if the picture stays as it is."""
    if random.uniform_one(0, 1) > np.float32(param.prob):
        return None
    if abs(np.float32(param.max_expand_ratio) - 1.0) < 1e-2:
        return None
    ratio = random.uniform_one(1, param.max_expand_ratio)
    new_height, new_width = int(np.float32(height) * ratio), int(np.float32(width) * ratio)
    top = math.floor(random.uniform_one(0, new_height - height))
    left = math.floor(random.uniform_one(0, new_width - width))
    return Expansion(new_height, new_width, top, left)


def draw_interpolation(random: Random, param: caffe_pb2.ResizeParameter) -> int | None:
    """Draws one of `interp_mode`, each as likely as the others; draws nothing and returns None if it is empty."""
    count = len(param.interp_mode)
    if not count:
        return None
    cumulative = _cumulative(count)
    value = float(random.uniform_one(0, cumulative[-1]))
    return param.interp_mode[min(bisect_left(cumulative, value), count - 1)]


@functools.cache
def _cumulative(count: int) -> list[float]:
    """Returns 1/count, 2/count, ... 1, summed up in float32."""
    return np.add.accumulate(np.full(count, np.float32(1) / np.float32(count)), dtype=np.float32).tolist()


def draw_specks(random: Random, param: caffe_pb2.NoiseParameter, height: int, width: int) -> np.ndarray:
    """Salt-and-pepper pixels: (K, 2) x, y."""
    raw = random.raw(2 * num_specks(param, height, width)).reshape(-1, 2)
    return (raw % np.array([width, height], np.uint64)).astype(np.intp)


def _sides(sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Returns width, height, width, height of each picture: (P, 4) float32."""
    return np.array(sizes, np.float32)[:, [1, 0, 1, 0]]


def _crops(windows: np.ndarray, sizes: Sequence[tuple[int, int]]) -> list[Rect]:
    """CropImage: corners truncated to pixels; a crop has at least one pixel, where the original fails on none."""
    corners = windows * _sides(sizes)
    places = corners[:, :2].astype(np.intp).tolist()
    extents = np.maximum((corners[:, 2:] - corners[:, :2]).astype(np.intp), 1).tolist()
    return [
        Rect(min(top, size[0] - 1), min(left, size[1] - 1), height, width)
        for (left, top), (width, height), size in zip(places, extents, sizes, strict=True)
    ]


def _frames(places: Sequence[Rect], sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Returns rectangles in the frames of their pictures: (P, 4) float32."""
    corners = [(rect.left, rect.top, rect.left + rect.width, rect.top + rect.height) for rect in places]
    return np.array(corners, np.float32) / _sides(sizes)
