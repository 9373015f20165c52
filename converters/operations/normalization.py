"""Normalisations; eps is inside the root, as in PyTorch and ONNX and not in Caffe's MVN."""

from __future__ import annotations

import math

import numpy as np

from pyscratchdet.converters.build import SCALE_FACTOR, frozen
from pyscratchdet.converters.operations.arithmetic import add, square
from pyscratchdet.converters.operations.composer import Composer, Exactness, operation
from pyscratchdet.converters.operations.pooling import pool_rows
from pyscratchdet.converters.operations.reductions import log_sum_exp
from pyscratchdet.layers.base import Shape


@operation(Exactness.ROUNDED)
def batch_norm(
    c: Composer,
    x: str,
    scale: np.ndarray | None,
    bias: np.ndarray | None,
    mean: np.ndarray,
    variance: np.ndarray,
    eps: float,
) -> str:
    """BatchNorm with given statistics and a Scale `<name>_scale`."""
    scale = np.ones_like(mean) if scale is None else scale
    bias = np.zeros_like(mean) if bias is None else bias
    factor = np.float32(SCALE_FACTOR)
    statistics = [mean * factor, variance * factor, np.array([factor])]
    top = c.net.add("BatchNorm", c.name, [x], statistics, batch_norm_param={"eps": eps}, param=frozen(3))
    return c.net.add("Scale", f"{top[0]}_scale", top, [scale, bias], top, scale_param={"bias_term": True})[0]


@operation(Exactness.ROUNDED)
def layer_norm(
    c: Composer,
    x: str,
    number_of_axes: int,
    scale: np.ndarray | None,
    bias: np.ndarray | None,
    eps: float,
    *,
    centred: bool = True,
) -> str:
    """Normalisation over the last axes; not `centred`: RMSNorm."""
    shape = c.shape(x)
    start = len(shape) - number_of_axes
    if start < 1:
        raise c.refuse("normalisation over the batch")
    groups = (shape[0], math.prod(shape[1:start]), math.prod(shape[start:]), 1)
    top = _standardize(c.part("standard"), x, groups, eps, centred)
    return _affine(c, top, shape, slice(start, len(shape)), scale, bias)


@operation(Exactness.ROUNDED)
def group_norm(c: Composer, x: str, groups: int, scale: np.ndarray | None, bias: np.ndarray | None, eps: float) -> str:
    """Normalisation of groups of channels; as many groups as channels is InstanceNorm."""
    shape = c.shape(x)
    if len(shape) < 2 or groups < 1 or shape[1] % groups:
        raise c.refuse(f"a blob of shape {shape} in {groups} groups")
    rows = (shape[0], groups, math.prod(shape[1:]) // groups, 1)
    top = _standardize(c.part("standard"), x, rows, eps, centred=True)
    return _affine(c, top, shape, slice(1, 2), scale, bias)


def _standardize(c: Composer, x: str, rows: tuple[int, int, int, int], eps: float, centred: bool) -> str:
    """(x - mean) / sqrt(variance + eps) over axis 2 of a blob seen as (N, groups, values, 1)."""
    x = c.part("rows").reshape(x, rows)
    if centred and c.has("MVN"):
        x = c.part("centred").add("MVN", [x], mvn_param={"normalize_variance": False})
    elif centred:
        x = add(c.part("centred"), x, pool_rows(c.part("mean"), x, "AVE"), -1.0)
    mean = pool_rows(c.part("variance"), square(c.part("square"), x), "AVE")
    factor = c.part("factor").power(mean, shift=eps, power=-0.5)
    factor = c.part("gate").reshape(factor, rows[:2])
    return c.add("Scale", [x, factor], scale_param={"axis": 0})


def _affine(c: Composer, x: str, shape: Shape, axes: slice, scale: np.ndarray | None, bias: np.ndarray | None) -> str:
    """Gives a blob its shape back and scales and shifts it along some axes."""
    if scale is None and bias is None:
        return c.reshape(x, shape)
    x, covered = c.part("shape").reshape(x, shape), shape[axes]
    weights = [np.ones(covered, np.float32) if scale is None else scale.reshape(covered)]
    weights += [] if bias is None else [bias.reshape(covered)]
    values = {"axis": axes.start, "num_axes": len(covered), "bias_term": bias is not None}
    return c.add("Scale", [x], weights, scale_param=values)


@operation(Exactness.ROUNDED)
def local_response_norm(c: Composer, x: str, size: int, alpha: float, beta: float, k: float) -> str:
    """LRN across channels; for targets that read no k it is taken out, as a factor."""
    if size % 2 == 0:
        raise c.refuse("an even size")
    values = {"local_size": size, "alpha": alpha, "beta": beta}
    if "LRN.k" not in c.net.layers.lacks or k == 1:
        return c.add("LRN", [x], lrn_param={**values, "k": k})
    top = c.part("unscaled").add("LRN", [x], lrn_param={**values, "alpha": alpha / k})
    return c.power(top, scale=k**-beta)


@operation(Exactness.ROUNDED)
def softmax(c: Composer, x: str, axis: int) -> str:
    """Softmax along an axis."""
    return c.add("Softmax", [x], softmax_param={"axis": c.axis(axis, len(c.shape(x)))})


@operation(Exactness.ROUNDED)
def log_softmax(c: Composer, x: str, axis: int) -> str:
    """The difference x - log(sum(exp(x)))."""
    return add(c, x, log_sum_exp(c.part("sum"), x, [axis], keep=True), -1.0)
