"""Pooling and resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pyscratchdet.converters.build import Pads, Pair, frozen, window_fields
from pyscratchdet.converters.operations.composer import Composer, Exactness, operation
from pyscratchdet.converters.operations.shapes import enlarge, take
from pyscratchdet.errors import counted


@operation(Exactness.SAME)
def max_pool(
    c: Composer, x: str, kernel: Sequence[int], *, stride: Sequence[int], pads: Sequence[int], ceil: bool = False
) -> str:
    """Maximum of windows over one axis or two; padding counts for nothing, as in Caffe."""
    if len(kernel) == 1:
        return _one_axis(
            c,
            x,
            lambda c, x: max_pool(
                c, x, (kernel[0], 1), stride=(stride[0], 1), pads=(pads[0], 0, pads[1], 0), ceil=ceil
            ),
        )
    _check(c, x, kernel)
    window = kernel[0], kernel[1]
    before, more, value = c.net.padding_before(x)
    if value == -math.inf:
        x, pads = before, [own + other for own, other in zip(pads, more, strict=True)]
    x = c.net.made(x)
    wanted = [_pooled(c.shape(x)[2 + i], kernel[i], stride[i], pads[i::2], ceil) for i in (0, 1)]
    # Caffe's windows may end beyond the picture: what the start is not padded with, the end need not be either.
    return _pool(c, x, "MAX", window, stride, pads, wanted)


@operation(Exactness.ROUNDED)
def average_pool(
    c: Composer,
    x: str,
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    pads: Sequence[int],
    ceil: bool = False,
    include_pad: bool = True,
) -> str:
    """Average of windows over one axis or two.

    Caffe divides by the window's part in the padded picture, as PyTorch does with count_include_pad. Without it, each
    place is multiplied by what its window counts too much.
    """
    if len(kernel) == 1:
        return _one_axis(
            c,
            x,
            lambda c, x: average_pool(
                c,
                x,
                (kernel[0], 1),
                stride=(stride[0], 1),
                pads=(pads[0], 0, pads[1], 0),
                ceil=ceil,
                include_pad=include_pad,
            ),
        )
    if len(kernel) == 3:
        return _over_channels(c, x, kernel, stride, pads)
    _check(c, x, kernel)
    padding: Pads = tuple(pads)  # type: ignore[assignment]
    if not include_pad and any(pads):
        x = c.net.made(x)
        padded, size = _divisors(c, x, kernel, stride, padding, ceil)
        top = average_pool(c.part("padded"), x, kernel, stride=stride, pads=pads, ceil=ceil)
        c.net.check_size(4 * len(padded[0]) * len(padded[1]))
        ratio = np.outer(*(all_ / inside for all_, inside in zip(padded, size, strict=True)))
        return c.add("Scale", [top], [ratio], scale_param={"axis": 2, "num_axes": 2}, param=frozen(1))
    # Rounding up, no window begins in the end padding: padding before the layer differs from the layer's own.
    x, padding = c.net.take_padding(c.name, c.net.made(x) if ceil else x, padding, (kernel[0], kernel[1]))
    wanted = [_pooled(c.shape(x)[2 + i], kernel[i], stride[i], padding[i::2], ceil) for i in (0, 1)]
    return _pool(c, x, "AVE", kernel, stride, padding, wanted)


def _over_channels(c: Composer, x: str, kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int]) -> str:
    """Averages along axis 2 of a blob (N, 1, C, H, W), which PyTorch's local_response_norm takes."""
    shape = c.shape(x)
    if len(shape) != 5 or list(kernel[1:]) != [1, 1] or any(pads[i] for i in (1, 2, 4, 5)) or set(stride) != {1}:
        raise c.refuse("pooling over three axes")
    rows = c.part("rows").reshape(x, (*shape[:3], shape[3] * shape[4]))
    window = (kernel[0], 1)
    top = average_pool(c.part("average"), rows, window, stride=(1, 1), pads=(pads[0], 0, pads[3], 0))
    return c.reshape(top, (*shape[:2], c.shape(top)[2], *shape[3:]))


def _one_axis(c: Composer, x: str, add: object) -> str:
    shape = c.shape(x)
    if len(shape) != 3:
        raise c.refuse(f"pooling over one axis of a blob of shape {shape}")
    x = c.part("rows").reshape(x, (*shape, 1))
    top: str = add(c.part("columns"), x)  # type: ignore[operator]
    return c.reshape(top, c.shape(top)[:3])


def _check(c: Composer, x: str, kernel: Sequence[int]) -> None:
    if len(c.shape(x)) != 4 or len(kernel) != 2:
        raise c.refuse(f"pooling of a blob of {counted(len(c.shape(x)), 'axis', 'axes')}")


def _pool(
    c: Composer,
    x: str,
    method: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
    wanted: Sequence[int],
) -> str:
    """Adds Pooling. Caffe rounds up: rows and columns that the source does not have are cut off."""
    if min(wanted) < 1:
        raise c.refuse(f"a window of {tuple(kernel)} that does not fit into {c.shape(x)[2:]}")
    if tuple(kernel) == c.shape(x)[2:] and list(wanted) == [1, 1] and not any(pads):
        return global_pool(c, x, method)
    for i in (0, 1):  # a last window beyond the picture, which engines fill with anything
        size = c.shape(x)[2 + i]
        if pads[i] == 0 and -(-(size - kernel[i]) // stride[i]) * stride[i] >= size:
            x = c.net.part(f"{c.name}_used_{i}", x, 2 + i, 0, (wanted[i] - 1) * stride[i] + kernel[i])
    values = {"pool": method, **window_fields("kernel", kernel), **window_fields("stride", stride)}
    top = c.add("Pooling", [x], pooling_param={**values, **window_fields("pad", pads[:2])})
    found = c.shape(top)[2:]
    if any(f < w for f, w in zip(found, wanted, strict=True)):
        raise c.refuse(f"{list(wanted)} windows where Caffe has {list(found)}")
    return c.net.crop(top, (0, 0, *(f - w for f, w in zip(found, wanted, strict=True))))


def _pooled(size: int, kernel: int, stride: int, pads: Sequence[int], ceil: bool) -> int:
    """Number of windows as PyTorch and ONNX count them: no window begins in the end padding."""
    number = (math.ceil if ceil else math.floor)((size + sum(pads) - kernel) / stride) + 1
    return number - 1 if ceil and (number - 1) * stride >= size + pads[0] else number


def _divisors(
    c: Composer, x: str, kernel: Sequence[int], stride: Sequence[int], pads: Pads, ceil: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For rows and columns: how many of each window lie in the padded picture, and how many in the picture."""
    padded, inside = [], []
    for i in (0, 1):
        size = c.shape(x)[2 + i]
        starts = c.entries(_pooled(size, kernel[i], stride[i], pads[i::2], ceil)) * stride[i] - pads[i]
        ends = np.minimum(starts + kernel[i], size + pads[i + 2])
        padded.append(ends - starts)
        inside.append(np.minimum(ends, size) - np.maximum(starts, 0))
    return padded, inside


LONG_SUM = 256  # values; engines add up the window of a pooling one by one


def pool_rows(c: Composer, x: str, method: str) -> str:
    """One value for each item and channel of a blob (N, C, values, 1); long averages in two steps, for their digits."""
    shape = c.shape(x)
    size = shape[2]
    step = max(number for number in range(1, math.isqrt(size) + 1) if size % number == 0)
    if method == "AVE" and size > LONG_SUM and step > 1:
        table = c.part("table").reshape(x, (*shape[:2], size // step, step))
        values = {"pool": method, **window_fields("kernel", (1, step)), **window_fields("stride", (1, step))}
        x = c.part("lines").add("Pooling", [table], pooling_param=values)
    return global_pool(c, x, method)


@operation(Exactness.ROUNDED)
def global_pool(c: Composer, x: str, method: str) -> str:
    """One value per channel, "MAX" or "AVE"; axes are kept."""
    shape = c.shape(x)
    if len(shape) < 3:
        raise c.refuse(f"pooling of a blob of {counted(len(shape), 'axis', 'axes')}")
    if len(shape) == 4:
        return c.add("Pooling", [x], pooling_param={"pool": method, "global_pooling": True})
    x = c.part("flat").reshape(x, (*shape[:2], math.prod(shape[2:]), 1))
    x = pool_rows(c.part("pool"), x, method)
    return c.reshape(x, (*shape[:2], *(1,) * (len(shape) - 2)))


@operation(Exactness.ROUNDED)
def adaptive_pool(c: Composer, x: str, wanted: Sequence[int], method: str) -> str:
    """PyTorch's adaptive pooling: equal windows by Pooling; averages of unequal ones by constant matrices."""
    shape = c.shape(x)
    if len(wanted) == 1:
        return _one_axis(c, x, lambda c, x: adaptive_pool(c, x, (wanted[0], 1), method))
    _check(c, x, wanted)
    size = shape[2:]
    if size == tuple(wanted):
        return x
    if tuple(wanted) == (1, 1):
        return global_pool(c, x, method)
    if all(s % w == 0 for s, w in zip(size, wanted, strict=True)):
        kernel = size[0] // wanted[0], size[1] // wanted[1]
        return _pool(c, c.net.made(x), method, kernel, kernel, (0, 0, 0, 0), wanted)
    if method != "AVE":
        raise c.refuse(f"maxima of {size} in {tuple(wanted)} windows of unequal sizes")
    return resize_by(c, x, [_adaptive_rows(s, w) for s, w in zip(size, wanted, strict=True)])


def _adaptive_rows(size: int, wanted: int) -> np.ndarray:
    matrix = np.zeros((wanted, size))
    for row in range(wanted):
        start, end = row * size // wanted, -(-(row + 1) * size // wanted)
        matrix[row, start:end] = 1 / (end - start)
    return matrix


@operation(Exactness.ROUNDED)
def resize_by(c: Composer, x: str, matrices: Sequence[np.ndarray]) -> str:
    """Any linear resizing: rows and columns each multiplied by a constant matrix (new size, old size)."""
    steps = [(axis + 2, m) for axis, m in enumerate(matrices) if not np.array_equal(m, np.eye(*m.shape))]
    for index, (axis, matrix) in enumerate(steps):
        step = c if index == len(steps) - 1 else c.part("rows")
        x = step.along(x, axis, matrix.astype(np.float32))
    return x


@operation(Exactness.SAME)
def resize_nearest(c: Composer, x: str, sources: Sequence[np.ndarray]) -> str:
    """Rows and columns repeated or left out; `sources` are the indices of the pixels shown."""
    shape = c.shape(x)
    factors = [len(rows) / size for rows, size in zip(sources, shape[2:], strict=True)]
    whole = [int(factor) for factor in factors]
    c.net.check_size(8 * sum(size * number for size, number in zip(shape[2:], whole, strict=True)))
    repeated = [np.repeat(c.entries(size), number) for size, number in zip(shape[2:], whole, strict=True)]
    if factors == whole and all(np.array_equal(a, b) for a, b in zip(sources, repeated, strict=True)):
        return enlarge(c, x, whole)
    x = take(c.part("rows"), x, 2, sources[0])
    return take(c, x, 3, sources[1])


@operation(Exactness.ROUNDED)
def resize_bilinear(c: Composer, x: str, size: Pair, *, align_corners: bool) -> str:
    """Bilinear resizing to (height, width).

    With `align_corners` Interp, where the target has it. By whole factors a Deconvolution, which treats everything
    outside the picture as zeros, and a Scale: each row and column is divided by the sum of the weights that lie inside,
    as if the outermost pixels went on beyond the edge. Any other size by constant matrices.
    """
    found = c.shape(x)[2:]
    if found == tuple(size):
        return x
    if align_corners and c.has("Interp"):
        return c.add("Interp", [x], interp_param={"height": size[0], "width": size[1]})
    factors = [wanted // have for wanted, have in zip(size, found, strict=True)]
    if align_corners or any(wanted % have for wanted, have in zip(size, found, strict=True)):
        c.net.check_size(8 * sum(s * w for s, w in zip(found, size, strict=True)))
        return resize_by(c, x, [linear_rows(s, w, align_corners) for s, w in zip(found, size, strict=True)])
    channels = c.shape(x)[1]
    rows = [_bilinear(factor) for factor in factors]
    kernel, pad = [len(row) for row in rows], [factor // 2 for factor in factors]
    c.net.check_size(4 * channels * math.prod(kernel) + 4 * math.prod(size))
    values = {
        "num_output": channels,
        "group": channels,
        "bias_term": False,
        **window_fields("kernel", kernel),
        **window_fields("stride", factors),
        **window_fields("pad", pad),
    }
    weight = np.broadcast_to(np.outer(*rows), (channels, 1, *kernel))
    top = c.part("sum").add("Deconvolution", [x], [weight], convolution_param=values, param=frozen(1))
    # OpenCV folds a Scale into a Deconvolution before it, whatever its axis.
    top = c.net.reshape(f"{c.name}_apart", top, c.shape(top))
    inside = [_inside(*values) for values in zip(rows, found, factors, pad, strict=True)]
    scale = {"axis": 2, "num_axes": 2}
    return c.add("Scale", [top], [1 / np.outer(*inside)], scale_param=scale, param=frozen(1))


def linear_rows(size: int, wanted: int, align_corners: bool) -> np.ndarray:
    """The matrix of linear resizing along one axis, as PyTorch's F.interpolate places the pixels."""
    places = np.arange(wanted, dtype=np.float64)
    if align_corners:
        places = places * ((size - 1) / (wanted - 1) if wanted > 1 else 0)
    else:
        places = np.maximum((places + 0.5) * size / wanted - 0.5, 0)
    low = np.minimum(np.floor(places).astype(int), size - 1)
    high, part = np.minimum(low + 1, size - 1), places - low
    matrix = np.zeros((wanted, size))
    np.add.at(matrix, (np.arange(wanted), low), 1 - part)
    np.add.at(matrix, (np.arange(wanted), high), part)
    return matrix


def _bilinear(factor: int) -> np.ndarray:
    """The weights of a Deconvolution that enlarges an axis linearly: Caffe's bilinear filler."""
    size = 2 * factor - factor % 2
    row: np.ndarray = 1 - np.abs(np.arange(size) - (size - 1) / 2) / factor
    return row


def _inside(row: np.ndarray, size: int, factor: int, pad: int) -> np.ndarray:
    """For each place of an enlarged axis, the sum of the weights that lie on pixels of the picture."""
    sums = np.zeros((size - 1) * factor + len(row))
    for place in range(size):
        sums[place * factor : place * factor + len(row)] += row
    return sums[pad : pad + size * factor]
