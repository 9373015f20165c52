"""Sums, means, extremes and norms over axes, and products that are summed up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pyscratchdet.converters.build import window_fields
from pyscratchdet.converters.operations.activations import absolute, exponential, logarithm
from pyscratchdet.converters.operations.arithmetic import add, multiply, square
from pyscratchdet.converters.operations.composer import Composer, Exactness, operation
from pyscratchdet.converters.operations.pooling import global_pool, pool_rows
from pyscratchdet.converters.operations.shapes import flip

REDUCTIONS = ("AVE", "SUM", "MAX", "MIN")


@operation(Exactness.ROUNDED)
def reduce(c: Composer, x: str, axes: Sequence[int], method: str, *, keep: bool) -> str:
    """Mean, sum, maximum or minimum ("AVE", "SUM", "MAX", "MIN") over axes; each run of axes is one Pooling."""
    shape = c.shape(x)
    axes = sorted({c.axis(axis, len(shape)) for axis in axes})
    final = [1 if axis in axes else size for axis, size in enumerate(shape)]
    last = final if keep else [size for axis, size in enumerate(shape) if axis not in axes]
    if axes[:1] == [0]:
        raise c.refuse("a reduction over the batch")
    if not axes:
        return x
    if method == "SUM":
        mean = reduce(c.part("mean"), x, axes, "AVE", keep=keep)
        return c.power(mean, scale=math.prod(shape[axis] for axis in axes))
    if method == "MIN":
        negative = c.part("negative").power(x, scale=-1)
        return c.power(reduce(c.part("largest"), negative, axes, "MAX", keep=keep), scale=-1)
    if axes == [2, 3] and len(shape) == 4:
        top = global_pool(c if keep else c.part("pool"), x, method)
        return top if keep else c.add("Flatten", [top])
    runs = np.split(axes, np.flatnonzero(np.diff(axes) > 1) + 1)
    for index, run in enumerate(runs[::-1]):
        x = _reduce_run(c.part(f"pool_{index}"), x, int(run[0]), int(run[-1]) + 1, method)
    return c.reshape(x, last) if tuple(last) != c.shape(x) else x


def _reduce_run(c: Composer, x: str, start: int, end: int, method: str) -> str:
    """Reduces the axes `start` to `end`, kept with size 1, by a Pooling over the rows of (N, before, run, after)."""
    shape = c.shape(x)
    size = math.prod(shape[start:end])
    rows = (shape[0], math.prod(shape[1:start]), size, math.prod(shape[end:]))
    x = c.part("rows").reshape(x, rows)
    if rows[3] == 1:
        x = pool_rows(c, x, method)
    else:
        x = c.add("Pooling", [x], pooling_param={"pool": method, **window_fields("kernel", (size, 1))})
    return c.part("top").reshape(x, (*shape[:start], *(1,) * (end - start), *shape[end:]))


@operation(Exactness.ROUNDED)
def norm(c: Composer, x: str, axes: Sequence[int], order: float, *, keep: bool) -> str:
    """L1, L2 or maximum norm over axes."""
    if order == 1:
        return reduce(c, absolute(c.part("abs"), x), axes, "SUM", keep=keep)
    if order == math.inf:
        return reduce(c, absolute(c.part("abs"), x), axes, "MAX", keep=keep)
    if order != 2:
        raise c.refuse(f"a norm of order {order:g}; 1, 2 and infinity have layers")
    total = reduce(c.part("sum"), square(c.part("square"), x), axes, "SUM", keep=keep)
    return c.power(total, power=0.5)


@operation(Exactness.ROUNDED)
def variance(c: Composer, x: str, axes: Sequence[int], *, keep: bool, correction: float) -> str:
    """Variance over axes, of n - correction degrees of freedom."""
    number = math.prod(c.shape(x)[c.axis(axis, len(c.shape(x)))] for axis in axes)
    if number <= correction:
        raise c.refuse(f"a variance of {number} values with correction {correction:g}")
    mean = reduce(c.part("mean"), x, axes, "AVE", keep=True)
    squared = square(c.part("square"), add(c.part("centred"), x, mean, -1.0))
    top = reduce(c if correction == 0 else c.part("biased"), squared, axes, "AVE", keep=keep)
    return top if correction == 0 else c.power(top, scale=number / (number - correction))


@operation(Exactness.ROUNDED)
def log_sum_exp(c: Composer, x: str, axes: Sequence[int], *, keep: bool) -> str:
    """log(sum(exp(x))), the largest value taken out first."""
    largest = reduce(c.part("largest"), x, axes, "MAX", keep=True)
    rest = exponential(c.part("exp"), add(c.part("less"), x, largest, -1.0))
    top = logarithm(c.part("log"), reduce(c.part("sum"), rest, axes, "SUM", keep=True))
    top = add(c if keep else c.part("kept"), top, largest)
    if keep:
        return top
    gone = {c.axis(axis, len(c.shape(top))) for axis in axes}
    return c.reshape(top, [size for axis, size in enumerate(c.shape(top)) if axis not in gone])


@operation(Exactness.SAME)
def arg_max(c: Composer, x: str, axis: int, *, keep: bool, last_of_equals: bool = False) -> str:
    """The place of the largest value; Caffe takes the last of equals, so for the first the axis is reversed."""
    shape = c.shape(x)
    axis = c.axis(axis, len(shape))
    if not last_of_equals:
        x = flip(c.part("reversed"), x, [axis])
    step = c.part("last") if not last_of_equals or not keep else c
    x = step.add("ArgMax", [x], argmax_param={"axis": axis})
    if not last_of_equals:
        x = (c if keep else c.part("first")).power(x, scale=-1, shift=shape[axis] - 1)
    return x if keep else c.reshape(x, [size for i, size in enumerate(shape) if i != axis])


@operation(Exactness.ROUNDED)
def product(c: Composer, a: str, b: str) -> str:
    """Matrix product of two blobs of which one is a single row or column: a gate, summed up."""
    first, second = c.shape(a), c.shape(b)
    if len(first) != len(second) or len(first) < 3 or first[:-2] != second[:-2] or first[-1] != second[-2]:
        raise c.refuse(f"a product of blobs of shapes {first} and {second}")
    if first[-1] == 1:  # a column by a row
        return multiply(c, a, b)
    if second[-1] == 1:
        row = c.part("row").reshape(b, (*second[:-2], 1, second[-2]))
        return reduce(c, multiply(c.part("product"), a, row), [len(first) - 1], "SUM", keep=True)
    if first[-2] == 1:
        column = c.part("column").reshape(a, (*first[:-2], first[-1], 1))
        return reduce(c, multiply(c.part("product"), b, column), [len(first) - 2], "SUM", keep=True)
    raise c.refuse("a product of two blobs, as in attention; Caffe has no layer for it")
