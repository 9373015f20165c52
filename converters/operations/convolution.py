"""Operations with weights, and padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pyscratchdet.converters.build import Pads, Pair, window_fields
from pyscratchdet.converters.operations.composer import Composer, Exactness, operation
from pyscratchdet.converters.operations.shapes import concat, constant_blob, permute, take
from pyscratchdet.errors import counted


@operation(Exactness.ROUNDED)
def convolution(
    c: Composer,
    x: str,
    weight: np.ndarray,
    bias: np.ndarray | None,
    *,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    group: int,
) -> str:
    """Convolution over one axis or two; weights (out, in / group, ...), pads of all starts, then of all ends."""

    def add(c: Composer, x: str, weight: np.ndarray, stride: Pair, pads: Pads, dilation: Pair) -> str:
        x, pads = c.net.take_padding(c.name, x, pads)
        return _layer(c, "Convolution", x, weight, bias, stride, pads[:2], dilation, group)

    return _over_two_axes(c, x, weight, (stride, dilation), pads, add)


@operation(Exactness.ROUNDED)
def deconvolution(
    c: Composer,
    x: str,
    weight: np.ndarray,
    bias: np.ndarray | None,
    *,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    group: int,
    more: Sequence[int] = (0, 0),
) -> str:
    """Transposed convolution; weights (in, out / group, ...).

    Its top is larger at the end than padding leaves it, by `more` rows and columns. Less is cut off to get them; where
    that is not enough, the kernel is extended by zeros at its end.
    """

    def add(c: Composer, x: str, weight: np.ndarray, stride: Pair, pads: Pads, dilation: Pair) -> str:
        extra, ends = (*more, 0)[:2], pads[2:]
        short = [max(0, rows - pad) for rows, pad in zip(extra, ends, strict=True)]
        if any(short):
            zeros = [-(-size // step) for size, step in zip(short, dilation, strict=True)]
            c.net.check_size(4 * math.prod(weight.shape[:2]) * math.prod(np.add(weight.shape[2:], zeros)))
            weight = np.pad(weight, [(0, 0), (0, 0), *((0, number) for number in zeros)])
            ends = ends[0] + zeros[0] * dilation[0], ends[1] + zeros[1] * dilation[1]
        pads = (*pads[:2], ends[0] - extra[0], ends[1] - extra[1])
        common = min(pads[0], pads[2]), min(pads[1], pads[3])
        top = _layer(c, "Deconvolution", x, weight, bias, stride, common, dilation, group)
        return c.net.crop(top, [pad - common[i % 2] for i, pad in enumerate(pads)])

    return _over_two_axes(c, x, weight, (stride, dilation), pads, add)


def _over_two_axes(
    c: Composer,
    x: str,
    weight: np.ndarray,
    steps: tuple[Sequence[int], Sequence[int]],
    pads: Sequence[int],
    add: Callable[[Composer, str, np.ndarray, Pair, Pads, Pair], str],
) -> str:
    """Adds a convolution; one over one axis as one over two of which the second has size 1."""
    shape, axes = c.shape(x), weight.ndim - 2
    if axes not in (1, 2) or len(shape) != weight.ndim:
        reason = f"a convolution over {counted(axes, 'axis', 'axes')} of a blob of shape {shape}"
        raise c.refuse(f"{reason}; one and two are supported")
    if axes == 2:
        return add(c, x, weight, tuple(steps[0]), tuple(pads), tuple(steps[1]))  # type: ignore[arg-type]
    x = c.part("rows").reshape(x, (*shape, 1))
    padding = (pads[0], 0, pads[1], 0)
    top = add(c.part("columns"), x, weight[..., None], (steps[0][0], 1), padding, (steps[1][0], 1))
    return c.reshape(top, c.shape(top)[:3])


def _layer(
    c: Composer,
    kind: str,
    x: str,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: Pair,
    pad: Sequence[int],
    dilation: Pair,
    group: int,
) -> str:
    values: dict[str, Any] = {
        "num_output": weight.shape[1] * group if kind == "Deconvolution" else weight.shape[0],
        "bias_term": bias is not None,
        "group": group,
        **window_fields("kernel", weight.shape[2:]),
        **window_fields("stride", stride),
        **window_fields("pad", pad),
    }
    if dilation != (1, 1):
        values["dilation"] = list(dilation)
    return c.add(kind, [x], [weight] if bias is None else [weight, bias], convolution_param=values)


@operation(Exactness.ROUNDED)
def linear(c: Composer, x: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
    """InnerProduct over the last axis; weights (out, in)."""
    if weight.ndim != 2:
        raise c.refuse(f"a second factor of {counted(weight.ndim, 'axis', 'axes')}")
    values = {"num_output": weight.shape[0], "bias_term": bias is not None, "axis": len(c.shape(x)) - 1}
    return c.add("InnerProduct", [x], [weight] if bias is None else [weight, bias], inner_product_param=values)


@operation(Exactness.ROUNDED)
def einsum(c: Composer, equation: str, x: str, array: np.ndarray, *, blob_first: bool) -> str:
    """Einstein sum of a blob and a constant that share no axis but those that are summed up."""
    terms, _, result = equation.replace(" ", "").partition("->")
    ours, theirs = terms.split(",") if blob_first else terms.split(",")[::-1]
    summed = [letter for letter in ours if letter in theirs]
    kept, new = [o for o in ours if o not in summed], [o for o in theirs if o not in summed]
    simple = all(len(set(word)) == len(word) for word in (ours, theirs, result)) and kept[:1] == [ours[0]]
    if not simple or not summed or sorted(result) != sorted(kept + new):
        raise c.refuse(f"the equation {equation}; only a product with a constant matrix has a layer")
    shape = c.shape(x)
    x = permute(c.part("order"), x, [ours.index(letter) for letter in kept + summed])
    x = c.part("flat").reshape(x, (*c.shape(x)[: len(kept)], math.prod(shape[ours.index(o)] for o in summed)))
    matrix = array.transpose([theirs.index(letter) for letter in new + summed]).reshape(-1, c.shape(x)[-1])
    x = linear(c.part("product"), x, matrix, None)
    x = c.part("parts").reshape(x, (*c.shape(x)[:-1], *(array.shape[theirs.index(letter)] for letter in new)))
    return permute(c, x, [(kept + new).index(letter) for letter in result])


@operation(Exactness.SAME)
def pad(c: Composer, x: str, pads: Sequence[tuple[int, int]], mode: str = "constant", value: float = 0.0) -> str:
    """Padding of each axis by (before, after); negative numbers cut off.

    Zeros around height and width are taken over by the layer that reads them; -inf by a MAX pooling. Elsewhere a
    constant is concatenated.

    Args:
        c: Where to.
        x: The blob.
        pads: For each axis.
        mode: "constant", "reflect" (without the edge), "replicate" or "circular".
        value: For "constant".
    """
    shape = c.shape(x)
    if any(before or after for before, after in pads[:1]):
        raise c.refuse("padding of the batch")
    for axis, (before, after) in enumerate(pads):
        if min(before, after) < 0:
            start, end = max(-before, 0), shape[axis] - max(-after, 0)
            if end <= start:
                raise c.refuse("padding that leaves nothing")
            x = c.net.part(f"{c.name}_cut_{axis}", x, axis, start, end)
    pads = [(max(before, 0), max(after, 0)) for before, after in pads]
    axes = [axis for axis, both in enumerate(pads) if any(both)]
    if not axes:
        return x
    if mode == "constant" and len(shape) == 4 and set(axes) <= {2, 3}:
        (top, bottom), (left, right) = pads[2:]
        return c.net.pad(c.name, x, (top, left, bottom, right), value)
    for axis in axes:
        step = c if axis == axes[-1] else c.part(f"axis_{axis}")
        if mode == "constant":
            x = _extended(step, x, axis, *pads[axis], value)
        else:
            x = take(step, x, axis, _source_indices(c, mode, c.shape(x)[axis], *pads[axis]))
    return x


def _extended(c: Composer, x: str, axis: int, before: int, after: int, value: float) -> str:
    """Concatenates a constant at both ends of an axis."""
    if not math.isfinite(value):
        raise c.refuse(f"padding of axis {axis} with {value:g}")
    rest = [*c.shape(x)[1:]]
    ends = []
    for suffix, size in (("before", before), ("after", after)):
        rest[axis - 1] = size
        c.net.check_size(4 * math.prod(rest))
        ends.append(constant_blob(c.part(suffix), x, np.full(rest, value, np.float32)) if size else "")
    return concat(c, [part for part in (ends[0], x, ends[1]) if part], axis)


def _source_indices(c: Composer, mode: str, size: int, before: int, after: int) -> np.ndarray:
    """The entries of an axis that its padded form shows, in order."""
    modes: dict[str, Any] = {
        "reflect": "reflect",
        "replicate": "edge",
        "edge": "edge",
        "circular": "wrap",
        "wrap": "wrap",
    }
    if mode not in modes or (mode == "reflect" and max(before, after) >= size):
        raise c.refuse(f"{mode} padding by {max(before, after)} of {size}")
    c.net.check_size(8 * (before + after))
    padded: np.ndarray = np.pad(c.entries(size), (before, after), modes[mode])
    return padded
