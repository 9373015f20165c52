"""Sampled crops: windows drawn at random and kept where they meet a constraint (sampler.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from pyscratchdet.data import objects as boxes
from pyscratchdet.data.objects import Objects
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom, uniform_of

_ONE = np.float32(1)
Float = TypeVar("Float", np.float32, np.ndarray)


def sample_windows(
    random: CaffeRandom, samplers: Sequence[caffe_pb2.BatchSampler], objects: Objects
) -> list[np.ndarray]:
    """Returns the windows that all samplers found in one picture (GenerateBatchSamples).

    Each is (4,) float32 in the picture's frame.
    """
    windows: list[np.ndarray] = []
    for sampler in samplers:
        if sampler.use_original_image:
            windows += _generate(random, sampler, objects)
    return windows


def _generate(random: CaffeRandom, sampler: caffe_pb2.BatchSampler, objects: Objects) -> list[np.ndarray]:
    """GenerateSamples, many trials at a time."""
    found: list[np.ndarray] = []
    wanted = sampler.max_sample if sampler.HasField("max_sample") else sampler.max_trials
    done = 0
    while done < sampler.max_trials and len(found) < wanted:
        windows = _windows_ahead(random, sampler.sampler, sampler.max_trials - done)
        is_drawn = not len(windows)
        if is_drawn:
            windows = _window(random, sampler.sampler)[None]
        good = np.flatnonzero(satisfies(windows, objects, sampler.sample_constraint))[: wanted - len(found)]
        found.extend(windows[good])
        used = int(good[-1]) + 1 if len(found) == wanted and len(good) else len(windows)
        if not is_drawn:
            random.raw(4 * used)
        done += used
    return found


def _windows_ahead(random: CaffeRandom, sampler: caffe_pb2.Sampler, count: int) -> np.ndarray:
    """Returns up to `count` windows (T, 4) from the next outputs: those before the first number to be redrawn."""
    raw = random.peek(4 * count).reshape(count, 4).T
    scale, first = uniform_of(raw[0], np.float32(sampler.min_scale), np.float32(sampler.max_scale))
    ratio, second = uniform_of(raw[1], np.float32(sampler.min_aspect_ratio), np.float32(sampler.max_aspect_ratio))
    width, height = window_size(scale, ratio)
    left, third = uniform_of(raw[2], np.float32(0), _ONE - width)
    top, fourth = uniform_of(raw[3], np.float32(0), _ONE - height)
    repeats = np.flatnonzero(first | second | third | fourth)
    windows = np.stack([left, top, left + width, top + height], axis=1)
    return windows[: repeats[0]] if len(repeats) else windows


def _window(random: CaffeRandom, sampler: caffe_pb2.Sampler) -> np.ndarray:
    """SampleBBox."""
    scale = random.uniform_one(sampler.min_scale, sampler.max_scale)
    ratio = random.uniform_one(sampler.min_aspect_ratio, sampler.max_aspect_ratio)
    width, height = window_size(scale, ratio)
    left = random.uniform_one(0, float(_ONE - width))
    top = random.uniform_one(0, float(_ONE - height))
    return np.array([left, top, left + width, top + height], np.float32)


def window_size(scale: Float, ratio: Float) -> tuple[Float, Float]:
    """Returns width and height, float32, of windows with a scale and an aspect ratio.

    Roots and squares are computed in double, as in the original. If a side rounds to more than 1, the original aborts;
    here the side is 1.
    """
    square = np.square(scale, dtype=np.float64)
    ratio = np.minimum(np.maximum(ratio, square.astype(np.float32)), (1 / square).astype(np.float32))
    root = np.sqrt(ratio, dtype=np.float64)
    width, height = (scale * root).astype(np.float32), (scale / root).astype(np.float32)
    return np.minimum(width, _ONE), np.minimum(height, _ONE)


Measures = dict[str, np.ndarray]


def satisfies(windows: np.ndarray, objects: Objects, constraint: caffe_pb2.SampleConstraint) -> np.ndarray:
    """SatisfySampleConstraint: for each window (T, 4), whether any one object meets all bounds with it; (T,) bool."""
    if not has_bounds(constraint):
        return np.ones(len(windows), bool)
    measures = measure(windows[:, None], objects.boxes, boxes.true_areas(objects), [constraint])
    return np.any(meets(measures, constraint), axis=1)


def has_bounds(constraint: caffe_pb2.SampleConstraint) -> bool:
    """Whether a constraint asks for anything."""
    return bool(constraint.ListFields())


def bounds(constraint: caffe_pb2.SampleConstraint) -> list[tuple[str, str, float]]:
    """Returns (side, kind, bound) of the bounds that count: those of the first kind given.

    The kinds are Jaccard overlap, sample coverage and object coverage, in this order. The original forgets to reset its
    result between them, so an object within the bounds of the first kind is enough, whatever the other kinds ask.
    """
    parts = [(*field.name.split("_", 1), bound) for field, bound in constraint.ListFields()]
    return [part for part in parts if part[1] == parts[0][1]]


def measure(
    windows: np.ndarray, corners: np.ndarray, areas: np.ndarray, constraints: Sequence[caffe_pb2.SampleConstraint]
) -> Measures:
    """Returns the measures of windows and boxes that any of the constraints needs, broadcast.

    Args:
        windows: (..., 4).
        corners: Boxes, (..., 4).
        areas: Areas of these boxes, (...).
        constraints: What the measures are for.
    """
    bounded = {kind for constraint in constraints for _, kind, _ in bounds(constraint)}
    inner, window_areas = boxes.intersections(windows, corners), boxes.area(windows)
    measures = {}
    if "jaccard_overlap" in bounded:
        measures["jaccard_overlap"] = boxes.jaccard(inner, window_areas, areas)
    if "sample_coverage" in bounded:
        measures["sample_coverage"] = boxes.coverage(inner, window_areas)
    if "object_coverage" in bounded:
        measures["object_coverage"] = boxes.coverage(inner, areas)
    return measures


def meets(measures: Measures, constraint: caffe_pb2.SampleConstraint, which: slice = slice(None)) -> np.ndarray:
    """Returns elementwise whether all bounds are met, for the part `which` of the last axis of the measures.

    The constraint must have bounds.
    """
    results = []
    for side, kind, bound in bounds(constraint):
        values = measures[kind][..., which]
        results.append(values >= np.float32(bound) if side == "min" else values <= np.float32(bound))
    return np.logical_and.reduce(results)
