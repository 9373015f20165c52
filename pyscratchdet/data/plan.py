"""Every random decision about one picture, taken before a pixel is touched, in the original's order of draws.

Order and sources (annotated_data_layer.cpp, data_transformer.cpp, im_transforms.cpp, sampler.cpp): distortion,
expansion, windows, the choice of one of them, interpolation and noise come from the prefetch thread's generator;
mirroring and the crop to `crop_size` from the transformer's own; the order of channels from the C library's rand().
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pyscratchdet.data import objects as boxes
from pyscratchdet.data.objects import Objects
from pyscratchdet.data.pixels import Distortion, num_specks, resize_size
from pyscratchdet.data.sampling import sample_windows
from pyscratchdet.errors import DataError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom, LibcRandom

NO_SPECKS = np.zeros((0, 2), np.intp)
WindowSampler = Callable[[CaffeRandom, Sequence[caffe_pb2.BatchSampler], Objects], list[np.ndarray]]


@dataclass
class Streams:
    """The three sources of random numbers of a data layer."""

    thread: CaffeRandom
    transformer: CaffeRandom
    libc: LibcRandom | CaffeRandom


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
        distortions: Photometric changes; None where the net asks for none at all.
        expansion: None where the picture is not expanded.
        crop: The sampled window, in pixels of the expanded picture; None for all of it.
        interpolation: Of the resizing; None for linear.
        specks: (K, 2) x, y of salt-and-pepper pixels of the resized picture.
        is_mirrored: Whether the result is flipped.
        place: The part of the resized picture that is kept; its size is the output's.
        objects: What is left of the objects at the end.
    """

    distortions: list[Distortion] | None = None
    expansion: Expansion | None = None
    crop: Rect | None = None
    interpolation: int | None = None
    specks: np.ndarray = field(default_factory=lambda: NO_SPECKS)
    is_mirrored: bool = False
    place: Rect | None = None
    objects: Objects | None = None


class Planner:
    """Draws plans.

    Args:
        param: The layer's transform_param.
        samplers: Its batch samplers.
        is_train: Whether crops to `crop_size` are random.
        sampler: How windows are found; the original's way unless given.
    """

    def __init__(
        self,
        param: caffe_pb2.TransformationParameter,
        samplers: Sequence[caffe_pb2.BatchSampler] = (),
        is_train: bool = False,
        sampler: WindowSampler = sample_windows,
    ) -> None:
        self._param = param
        self._samplers = list(samplers)
        self._is_train = is_train
        self._sample = sampler
        self._emit = param.emit_constraint if param.HasField("emit_constraint") else None

    def draw(self, streams: Streams, objects: Objects, height: int, width: int) -> Plan:
        """Returns a plan for a picture of (height, width) pixels with these objects.

        Raises:
            DataError: The picture is too small for the crop.
        """
        param, plan = self._param, Plan()
        if param.HasField("distort_param"):
            plan.distortions = draw_distortions(streams, param.distort_param)
        if param.HasField("expand_param"):
            plan.expansion = draw_expansion(streams.thread, param.expand_param, height, width)
        if plan.expansion is not None:
            objects = boxes.project(objects, _expanded_frame(plan.expansion, height, width), self._emit)
            height, width = plan.expansion.height, plan.expansion.width
        windows = self._sample(streams.thread, self._samplers, objects) if self._samplers else []
        if windows:
            window = boxes.clip(windows[streams.thread.below(len(windows))])
            plan.crop = _crop(window, height, width)
            objects = boxes.project(objects, window, self._emit)
            height, width = plan.crop.height, plan.crop.width
        self._draw_transform(streams, plan, objects, height, width)
        return plan

    def _draw_transform(self, streams: Streams, plan: Plan, objects: Objects, height: int, width: int) -> None:
        """DataTransformer::Transform: mirror, resize, noise, crop, and the objects through all of it."""
        param, resize = self._param, self._param.resize_param
        plan.is_mirrored = bool(param.mirror and streams.transformer.below(2))
        new_height, new_width = height, width
        if param.HasField("resize_param"):
            plan.interpolation = draw_interpolation(streams.thread, resize)
            new_height, new_width = resize_size(resize, height, width)
            objects = boxes.resize(objects, resize, height, width)
        if param.HasField("noise_param"):
            plan.specks = draw_specks(streams.thread, param.noise_param, new_height, new_width)
        plan.place = self._place(streams.transformer, new_height, new_width)
        window = _frame(plan.place, new_height, new_width)
        objects = boxes.project(objects, window, self._emit)
        if plan.is_mirrored:
            objects = boxes.mirror(objects)
        if param.HasField("resize_param"):
            objects = boxes.extrapolate(objects, resize, height, width, window)
        plan.objects = objects

    def _place(self, random: CaffeRandom, height: int, width: int) -> Rect:
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


def crop_size(param: caffe_pb2.TransformationParameter) -> tuple[int, int]:
    """Returns height and width of the final crop; 0 where there is none."""
    return (param.crop_size or param.crop_h), (param.crop_size or param.crop_w)


def draw_distortions(streams: Streams, param: caffe_pb2.DistortionParameter) -> list[Distortion]:
    """ApplyDistort: contrast comes before saturation and hue, or after, half the time each."""
    random, distortions = streams.thread, []
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


def draw_expansion(
    random: CaffeRandom, param: caffe_pb2.ExpansionParameter, height: int, width: int
) -> Expansion | None:
    """ExpandImage; None where the picture stays as it is."""
    if random.uniform_one(0, 1) > np.float32(param.prob):
        return None
    if abs(np.float32(param.max_expand_ratio) - 1.0) < 1e-2:
        return None
    ratio = random.uniform_one(1, param.max_expand_ratio)
    new_height, new_width = int(np.float32(height) * ratio), int(np.float32(width) * ratio)
    top = math.floor(random.uniform_one(0, new_height - height))
    left = math.floor(random.uniform_one(0, new_width - width))
    return Expansion(new_height, new_width, top, left)


def draw_interpolation(random: CaffeRandom, param: caffe_pb2.ResizeParameter) -> int | None:
    """One of `interp_mode`, all alike; None, and nothing drawn, where there is none."""
    count = len(param.interp_mode)
    if not count:
        return None
    cumulative = np.add.accumulate(np.full(count, np.float32(1) / np.float32(count)), dtype=np.float32)
    value = random.uniform_one(0, cumulative[-1])
    return param.interp_mode[min(int(np.searchsorted(cumulative, value)), count - 1)]


def draw_specks(random: CaffeRandom, param: caffe_pb2.NoiseParameter, height: int, width: int) -> np.ndarray:
    """Salt-and-pepper pixels: (K, 2) x, y."""
    raw = random.raw(2 * num_specks(param, height, width)).reshape(-1, 2)
    return (raw % np.array([width, height], np.uint64)).astype(np.intp)


def _expanded_frame(expansion: Expansion, height: int, width: int) -> np.ndarray:
    """The canvas in the picture's frame."""
    low = -np.float32([expansion.left, expansion.top])
    high = low + np.float32([expansion.width, expansion.height])
    return np.concatenate([low, high]) / np.float32([width, height, width, height])


def _crop(window: np.ndarray, height: int, width: int) -> Rect:
    """CropImage: corners truncated to pixels; at least one pixel, where the original fails on none."""
    xmin, ymin, xmax, ymax = window * np.float32([width, height, width, height])
    left, top = min(int(xmin), width - 1), min(int(ymin), height - 1)
    return Rect(top, left, max(1, int(ymax - ymin)), max(1, int(xmax - xmin)))


def _frame(place: Rect, height: int, width: int) -> np.ndarray:
    corners = np.float32([place.left, place.top, place.left + place.width, place.top + place.height])
    return corners / np.float32([width, height, width, height])
