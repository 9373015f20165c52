"""Sampled crops: windows drawn at random and kept where they meet a constraint (sampler.cpp)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyscratchdet.data.objects import Objects, coverages, jaccard
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom

_ONE = np.float32(1)


def sample_windows(
    random: CaffeRandom, samplers: Sequence[caffe_pb2.BatchSampler], objects: Objects
) -> list[np.ndarray]:
    """Returns the windows that all samplers found, each (4,) float32 in the picture's frame (GenerateBatchSamples)."""
    windows: list[np.ndarray] = []
    for sampler in samplers:
        if not sampler.use_original_image:
            continue
        found = 0
        for _ in range(sampler.max_trials):
            if sampler.HasField("max_sample") and found >= sampler.max_sample:
                break
            window = _window(random, sampler.sampler)
            if satisfies(window[None], objects, sampler.sample_constraint)[0]:
                windows.append(window)
                found += 1
    return windows


def _window(random: CaffeRandom, sampler: caffe_pb2.Sampler) -> np.ndarray:
    """SampleBBox."""
    scale = random.uniform_one(sampler.min_scale, sampler.max_scale)
    ratio = random.uniform_one(sampler.min_aspect_ratio, sampler.max_aspect_ratio)
    width, height = window_size(scale, ratio)
    left = random.uniform_one(0, _ONE - width)
    top = random.uniform_one(0, _ONE - height)
    return np.array([left, top, left + width, top + height], np.float32)


def window_size(scale: np.ndarray, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns width and height, float32, of windows of a scale and an aspect ratio.

    Roots and squares go through double as in the original. Where its width or height rounds to more than 1 it aborts;
    here that is 1.
    """
    square = np.square(scale, dtype=np.float64)
    ratio = np.minimum(np.maximum(ratio, square.astype(np.float32)), (1 / square).astype(np.float32))
    root = np.sqrt(ratio, dtype=np.float64)
    width, height = (scale * root).astype(np.float32), (scale / root).astype(np.float32)
    return np.minimum(width, _ONE), np.minimum(height, _ONE)


def satisfies(windows: np.ndarray, objects: Objects, constraint: caffe_pb2.SampleConstraint) -> np.ndarray:
    """SatisfySampleConstraint: whether any one object meets all bounds with each window (T, 4); (T,) bool."""
    checks = []
    if constraint.HasField("min_jaccard_overlap") or constraint.HasField("max_jaccard_overlap"):
        checks.append(_within(constraint, "jaccard_overlap", jaccard(windows, objects)))
    kinds = [
        kind
        for kind in ("sample_coverage", "object_coverage")
        if constraint.HasField(f"min_{kind}") or constraint.HasField(f"max_{kind}")
    ]
    if kinds:
        values = dict(zip(("sample_coverage", "object_coverage"), coverages(windows, objects), strict=True))
        checks += [_within(constraint, kind, values[kind]) for kind in kinds]
    if not checks:
        return np.ones(len(windows), bool)
    return np.logical_and.reduce(checks).any(1)


def _within(constraint: caffe_pb2.SampleConstraint, kind: str, values: np.ndarray) -> np.ndarray:
    is_met = np.ones(values.shape, bool)
    if constraint.HasField(f"min_{kind}"):
        is_met &= values >= np.float32(getattr(constraint, f"min_{kind}"))
    if constraint.HasField(f"max_{kind}"):
        is_met &= values <= np.float32(getattr(constraint, f"max_{kind}"))
    return is_met
