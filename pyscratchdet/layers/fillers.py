"""Initial values of weights, drawn as the original draws them (filler.hpp): same stream, same order, float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pyscratchdet.errors import LayerError, nearest
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom

Shape = tuple[int, ...]
Filler = caffe_pb2.FillerParameter


def fill(filler: caffe_pb2.FillerParameter, shape: Shape, random: CaffeRandom) -> np.ndarray:
    """Returns a new float32 array of `shape`, filled as `filler` says.

    Args:
        filler: Type and parameters; the type is `constant` if none is given.
        shape: Caffe's shape of the blob. Fan-in is count / axis 0 and fan-out count / axis 1, whatever the axes mean.
        random: The stream to draw from; `constant` and `bilinear` draw nothing.

    Raises:
        LayerError: An unknown type, an empty blob, a range or deviation that makes no sense, `sparse` for a type that
            does not support it, or a shape that the type cannot fill.
    """
    if filler.type not in _FILLERS:
        raise _error(
            f'unknown filler "{filler.type}"',
            "type",
            hint=nearest(filler.type, _FILLERS) or f"known fillers: {', '.join(_FILLERS)}",
        )
    if 0 in shape:
        raise _error("a filler cannot fill an empty blob", "empty", found=tuple(shape))
    if filler.sparse != -1 and filler.type != "gaussian":
        raise _error(f"sparse is not supported by the {filler.type} filler", "sparse", expected=-1, found=filler.sparse)
    values = _FILLERS[filler.type](filler, tuple(shape), random)
    return np.ascontiguousarray(values, np.float32).reshape(shape)


def _constant(filler: Filler, shape: Shape, random: CaffeRandom) -> np.ndarray:
    return np.full(shape, filler.value, np.float32)


def _uniform(filler: Filler, shape: Shape, random: CaffeRandom) -> np.ndarray:
    if not filler.min <= filler.max:
        raise _error("min must not exceed max", "range", found=f"min {filler.min:g}, max {filler.max:g}")
    return random.uniform(filler.min, filler.max, math.prod(shape))


def _gaussian(filler: Filler, shape: Shape, random: CaffeRandom) -> np.ndarray:
    if not filler.std > 0:
        raise _error("std must be positive", "std", found=filler.std)
    if filler.sparse < -1:
        raise _error("sparse must be -1 or more", "sparse", found=filler.sparse)
    values = random.gaussian(filler.mean, filler.std, math.prod(shape))
    if filler.sparse >= 0:
        values = values * _sparse_mask(filler.sparse, shape, random)
    return values


def _sparse_mask(sparse: int, shape: Shape, random: CaffeRandom) -> np.ndarray:
    """On average `sparse` inputs of each output stay non-zero: the original divides by axis 0, the outputs."""
    if not shape or sparse > shape[0]:
        raise _error("sparse must not exceed axis 0 of the blob", "sparse", expected=shape[:1] or 0, found=sparse)
    probability = float(np.float32(sparse) / np.float32(shape[0]))
    return np.asarray(random.bernoulli(probability, math.prod(shape)), np.float32)


def _positive_unitball(filler: Filler, shape: Shape, random: CaffeRandom) -> np.ndarray:
    values = random.uniform(0, 1, math.prod(shape)).astype(np.float32).reshape(_legacy_axis(shape, 0), -1)
    # Added one after the other in float32, as the original does; np.sum adds pairwise.
    sums = np.add.accumulate(values, axis=1, dtype=np.float32)[:, -1:]
    return values / sums


def _xavier(filler: Filler, shape: Shape, random: CaffeRandom) -> np.ndarray:
    scale = np.sqrt(np.float32(3) / _fan(filler, shape))
    return random.uniform(-scale, scale, math.prod(shape))


def _msra(filler: Filler, shape: Shape, random: CaffeRandom) -> np.ndarray:
    return random.gaussian(0, np.sqrt(np.float32(2) / _fan(filler, shape)), math.prod(shape))


def _bilinear(filler: Filler, shape: Shape, random: CaffeRandom) -> np.ndarray:
    if len(shape) != 4:
        raise _error("the bilinear filler needs a blob with 4 axes", "shape", found=shape)
    if shape[2] != shape[3]:
        raise _error("the bilinear filler needs a square kernel", "shape", found=f"{shape[2]} x {shape[3]}")
    size = shape[3]
    half = math.ceil(size / 2)
    centre = np.float32((2 * half - 1 - half % 2) / (2 * half))
    weights = np.float32(1) - np.abs(np.arange(size, dtype=np.float32) / np.float32(half) - centre)
    return np.broadcast_to(weights[:, None] * weights, shape)


def _fan(filler: Filler, shape: Shape) -> np.float32:
    """Returns n of the variance (the FillerParameter's variance_norm), float32."""
    count = math.prod(shape)
    fan_in, fan_out = count // _legacy_axis(shape, 0), count // _legacy_axis(shape, 1)
    if filler.variance_norm == Filler.AVERAGE:
        return np.float32(fan_in + fan_out) / np.float32(2)
    return np.float32(fan_out if filler.variance_norm == Filler.FAN_OUT else fan_in)


def _legacy_axis(shape: Shape, axis: int) -> int:
    """Blob::num and Blob::channels: 1 beyond the last axis, and defined up to 4 axes only."""
    if len(shape) > 4:
        raise _error("this filler needs a blob with at most 4 axes", "shape", found=shape)
    return shape[axis] if axis < len(shape) else 1


_FILLERS: dict[str, Callable[[Filler, Shape, CaffeRandom], np.ndarray]] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}


def _error(message: str, rule: str, **details: Any) -> LayerError:
    return LayerError(message, code=f"filler.{rule}", **details)
