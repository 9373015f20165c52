"""Sums, products, powers and comparisons of blobs and constants, which are broadcast as in PyTorch and ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyscratchdet.converters.operations.composer import Composer, Exactness, Value, operation
from pyscratchdet.converters.operations.shapes import expand
from pyscratchdet.layers.base import Shape


@operation(Exactness.ROUNDED)
def add(c: Composer, a: Value, b: Value, factor: float = 1.0) -> str:
    """The sum a + factor * b."""
    if isinstance(b, np.ndarray):
        return _constant(c, "Add", _blob(c, a), np.float32(factor) * b.astype(np.float32))
    if isinstance(a, np.ndarray):
        scaled = b if factor == 1 else ""
        if a.size == 1 and not scaled:
            return c.power(_covering(c, b, a), scale=factor, shift=float(a.ravel()[0]))
        return _constant(c, "Add", scaled or c.part("scaled").power(b, scale=factor), a)
    a, b = _same_shape(c, a, b)
    coeff: dict[str, Any] = {} if factor == 1 else {"coeff": [1.0, factor]}
    return c.add("Eltwise", [a, b], eltwise_param={"operation": "SUM", **coeff})


@operation(Exactness.ROUNDED)
def multiply(c: Composer, a: Value, b: Value) -> str:
    """The product a * b: Power or Scale for constants and for gates (one value for each leading axis), else Eltwise."""
    if isinstance(a, np.ndarray):
        a, b = b, a
    if isinstance(b, np.ndarray):
        return _constant(c, "Mul", _blob(c, a), b)
    a, b = _blob(c, a), _blob(c, b)
    a, b = _same_rank(c, a, b)
    shapes = c.shape(a), c.shape(b)
    if shapes[0] != shapes[1]:
        gate, blob = sorted((a, b), key=lambda name: math.prod(c.shape(name)))
        shape, full = c.shape(gate), c.shape(blob)
        covered = next((i for i in range(len(full), 0, -1) if shape[i - 1] != 1), 1)
        if shape[:covered] == full[:covered] and math.prod(shape) < math.prod(full):
            flat = c.part("gate").reshape(gate, shape[:covered])
            return c.add("Scale", [blob, flat], scale_param={"axis": 0})
        a, b = _same_shape(c, a, b)
    return c.add("Eltwise", [a, b], eltwise_param={"operation": "PROD"})


@operation(Exactness.ROUNDED)
def divide(c: Composer, a: Value, b: Value) -> str:
    """The quotient a / b: a product with the reciprocal, which is rounded too."""
    if isinstance(b, np.ndarray):
        divisor = b.astype(np.float32)
        if np.any(divisor == 0):
            raise c.refuse("a division by 0")
        return _constant(c, "Mul", _blob(c, a), np.float32(1) / divisor)
    if isinstance(a, np.ndarray) and a.size == 1 and np.all(a != 0):
        return c.power(_covering(c, b, a), scale=1 / float(a.ravel()[0]), power=-1)
    return multiply(c, a, c.part("inverse").power(b, power=-1))


@operation(Exactness.ROUNDED)
def maximum(c: Composer, values: Sequence[Value]) -> str:
    """The largest of several values at each place."""
    blobs = [value for value in values if isinstance(value, str)]
    numbers = [value for value in values if not isinstance(value, str)]
    if any(number.size != 1 for number in numbers) or not blobs:
        raise c.refuse("a maximum with a constant of several values")
    low = max((float(number.ravel()[0]) for number in numbers), default=-math.inf)
    if len(blobs) == 1:
        return clamp(c, blobs[0], low, math.inf)
    top = (c if low == -math.inf else c.part("blobs")).add(
        "Eltwise", _all_same_shape(c, blobs), eltwise_param={"operation": "MAX"}
    )
    return top if low == -math.inf else clamp(c, top, low, math.inf)


@operation(Exactness.ROUNDED)
def minimum(c: Composer, values: Sequence[Value]) -> str:
    """The smallest of several values at each place: -max(-a, -b)."""
    blobs = [value for value in values if isinstance(value, str)]
    if len(blobs) == len(values) == 1:
        return blobs[0]
    if len(blobs) == 1:
        numbers = [value for value in values if not isinstance(value, str)]
        if any(number.size != 1 for number in numbers):
            raise c.refuse("a minimum with a constant of several values")
        return clamp(c, blobs[0], -math.inf, min(float(number.ravel()[0]) for number in numbers))
    negative = [
        c.part(f"negative_{i}").power(value, scale=-1) if isinstance(value, str) else -value
        for i, value in enumerate(values)
    ]
    return c.power(maximum(c.part("largest"), negative), scale=-1)


@operation(Exactness.ROUNDED)
def power(c: Composer, x: str, exponent: float, scale: float = 1.0) -> str:
    """(scale * x) ^ exponent."""
    if exponent == 2 and scale == 1:
        return square(c, x)
    return c.power(x, power=exponent, scale=scale)


@operation(Exactness.SAME)
def square(c: Composer, x: str) -> str:
    """The square of each value."""
    return c.add("Eltwise", [x, x], eltwise_param={"operation": "PROD"})


@operation(Exactness.ROUNDED)
def clamp(c: Composer, x: str, low: float, high: float) -> str:
    """min(max(x, low), high): ReLU, ReLU6, or one of them between two Powers; Clip where the target has no ReLU6."""
    if math.isnan(low) or math.isnan(high) or low == math.inf or high == -math.inf:
        raise c.refuse(f"limits {[low, high]}")
    if low == -math.inf and high == math.inf:
        return x
    if low > high:  # as PyTorch and ONNX: high wins
        return c.power(x, scale=0, shift=high)
    if high == math.inf:
        return _at_least(c, x, low)
    if low == -math.inf:
        below = c.part("below").power(x, scale=-1, shift=high)
        return c.power(c.part("relu").add("ReLU", [below]), scale=-1, shift=high)
    if low == high:
        return c.power(x, scale=0, shift=high)
    scale = 6 / (high - low)
    return hard_sigmoid(c, x, scale / 6, -low * scale / 6, high - low, low)


def _at_least(c: Composer, x: str, low: float) -> str:
    if low == 0:
        return c.add("ReLU", [x])
    above = c.part("above").power(x, shift=-low)
    return c.power(c.part("relu").add("ReLU", [above]), shift=low)


@operation(Exactness.ROUNDED)
def hard_sigmoid(
    c: Composer, x: str, alpha: float = 1 / 6, beta: float = 0.5, height: float = 1.0, shift: float = 0.0
) -> str:
    """The function shift + height * min(max(alpha * x + beta, 0), 1)."""
    if not c.has("ReLU6"):
        if c.has("Clip") and (height, shift) == (1, 0):
            inner = c.part("in").power(x, scale=alpha, shift=beta)
            return c.add("Clip", [inner], clip_param={"min": 0.0, "max": 1.0})
        above = c.part("above").add("ReLU", [c.part("in").power(x, scale=alpha, shift=beta)])
        below = c.part("below").add("ReLU", [c.part("rest").power(above, scale=-1, shift=1)])
        return c.power(below, scale=-height, shift=height + shift)
    if (alpha, beta) != (1 / 6, 0):
        x = c.part("in").power(x, scale=6 * alpha, shift=6 * beta)
    if (height, shift) == (6, 0):
        return c.add("ReLU6", [x])
    return c.power(c.part("relu6").add("ReLU6", [x]), scale=height / 6, shift=shift)


@operation(Exactness.SAME)
def greater(c: Composer, x: str, threshold: float) -> str:
    """1 where x is greater than a number, else 0."""
    return c.add("Threshold", [x], threshold_param={"threshold": threshold})


@operation(Exactness.ROUNDED)
def where(c: Composer, condition: np.ndarray, a: Value, b: Value) -> str:
    """Values of a where a constant condition holds, of b elsewhere."""
    mask = condition.astype(np.float32)
    parts: list[Value] = []
    for name, value, factor in (("chosen", a, mask), ("other", b, np.asarray(1 - mask))):
        if isinstance(value, np.ndarray):
            parts.append(np.asarray(np.where(factor != 0, value, 0), np.float32))
        else:
            parts.append(multiply(c.part(name), value, factor))
    return add(c, parts[0], parts[1])


# --- operands ---


def _blob(c: Composer, value: Value) -> str:
    if isinstance(value, np.ndarray):
        raise c.refuse("two constants")
    return value


def _constant(c: Composer, kind: str, x: str, array: np.ndarray) -> str:
    """Adds or multiplies ("Add", "Mul") a number, or an array that is broadcast over any axes but the batch."""
    array = np.asarray(array, np.float32)
    x = _covering(c, x, array)
    shape = c.shape(x)
    full = (1,) * (len(shape) - array.ndim) + array.shape
    axes = [axis for axis, size in enumerate(full) if size > 1]
    if not axes:
        return c.power(x, **{"shift" if kind == "Add" else "scale": float(array.ravel()[0])})
    if axes[0] == 0:
        raise c.refuse(f"a constant of shape {array.shape}, with values for each picture of a batch")
    covered = slice(axes[0], axes[-1] + 1)
    c.net.check_size(8 * math.prod(shape[covered]))
    weight = np.broadcast_to(array.reshape(full[covered]), shape[covered])
    maker = c.net.maker(c.net.made(x))
    if covered != slice(1, 2) and maker is not None and maker.type not in ("Input", "ReLU", "Reshape", "Permute"):
        x = c.apart(x)  # OpenCV folds a Scale into a Convolution before it, whatever its axis
    # Scale with a factor of 1 adds exactly, and works where Bias is unknown (OpenCV).
    weights = [np.ones_like(weight), weight] if kind == "Add" else [weight]
    values = {"axis": covered.start, "num_axes": weight.ndim, "bias_term": kind == "Add"}
    return c.add("Scale", [x], weights, scale_param=values)


def _covering(c: Composer, x: str, array: np.ndarray) -> str:
    """The blob with the axes of a constant that it lacks or has with size 1."""
    shape = c.shape(x)
    try:
        wanted = np.broadcast_shapes(shape, array.shape)
    except ValueError:
        raise c.refuse(f"a constant of shape {array.shape} on a blob of {shape}") from None
    if wanted == shape:
        return x
    if len(wanted) > len(shape):
        raise c.refuse(f"a constant of shape {array.shape} on a blob of {shape}")
    return expand(c.part("wide"), x, wanted)


def _same_rank(c: Composer, a: str, b: str) -> tuple[str, str]:
    """Two blobs with the same number of axes; those added come first, after the batch's only if it is one item."""
    rank = max(len(c.shape(a)), len(c.shape(b)))
    found = []
    for suffix, blob in (("left", a), ("right", b)):
        shape = c.shape(blob)
        if len(shape) < rank:
            if shape[:1] != (1,):
                raise c.refuse(f"blobs of different shapes, {c.shape(a)} and {c.shape(b)}")
            blob = c.part(suffix).reshape(blob, (*(1,) * (rank - len(shape)), *shape))
        found.append(blob)
    return found[0], found[1]


def _same_shape(c: Composer, a: Value, b: Value) -> tuple[str, str]:
    """Two blobs repeated to their common shape."""
    a, b = _same_rank(c, _blob(c, a), _blob(c, b))
    wanted = _common_shape(c, a, b)
    return expand(c.part("wide"), a, wanted), expand(c.part("wide"), b, wanted)


def _all_same_shape(c: Composer, blobs: Sequence[str]) -> list[str]:
    wanted = c.shape(blobs[0])
    for blob in blobs[1:]:
        wanted = _common_shape(c, blobs[0], blob) if len(c.shape(blob)) == len(wanted) else c.shape(blob)
    return [expand(c.part("wide"), blob, wanted) for blob in blobs]


def _common_shape(c: Composer, a: str, b: str) -> Shape:
    try:
        return tuple(np.broadcast_shapes(c.shape(a), c.shape(b)))
    except ValueError:
        raise c.refuse(f"blobs of different shapes, {c.shape(a)} and {c.shape(b)}") from None
