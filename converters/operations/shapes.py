"""Operations that move or repeat values; none computes one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pyscratchdet.converters.build import frozen, window_fields
from pyscratchdet.converters.operations.composer import Composer, Exactness, Value, operation
from pyscratchdet.errors import counted

MAX_MIXED = 2048  # entries that a matrix of 16 MiB still moves


@operation(Exactness.SAME)
def identity(c: Composer, x: str) -> str:
    """Nothing: the blob itself."""
    return x


@operation(Exactness.SAME)
def reshape(c: Composer, x: str, shape: Sequence[int]) -> str:
    """Reshape; -1 is worked out, 0 copied."""
    found = c.shape(x)
    dims = [found[i] if size == 0 and i < len(found) else int(size) for i, size in enumerate(shape)]
    rest = math.prod(size for size in dims if size != -1)
    if dims.count(-1) > 1 or rest <= 0 or math.prod(found) % rest:
        raise c.refuse(f"a blob of shape {found} as {list(shape)}")
    dims = [math.prod(found) // rest if size == -1 else size for size in dims]
    if math.prod(dims) != math.prod(found):
        raise c.refuse(f"a blob of shape {found} as {list(shape)}")
    return c.reshape(x, dims)


@operation(Exactness.SAME)
def flatten(c: Composer, x: str, first: int = 1, last: int = -1) -> str:
    """Flatten of the axes from `first` to `last`, both included."""
    rank = len(c.shape(x))
    if rank == 0:
        return c.reshape(x, (1,))
    first, last = c.axis(first, rank), c.axis(last, rank)
    if last < first:
        raise c.refuse(f"axes {first} to {last} in one")
    if first == last:
        return x
    end = {} if last == rank - 1 else {"end_axis": last}
    return c.add("Flatten", [x], flatten_param={"axis": first, **end})


@operation(Exactness.SAME)
def permute(c: Composer, x: str, order: Sequence[int]) -> str:
    """Axes in another order; a Reshape where only axes of size 1 move."""
    shape = c.shape(x)
    order = [c.axis(axis, len(shape)) for axis in order]
    if sorted(order) != list(range(len(shape))):
        raise c.refuse(f"an order of axes {list(order)} for {counted(len(shape), 'axis', 'axes')}")
    if order == list(range(len(shape))):
        return x
    long = [axis for axis in order if shape[axis] > 1 or axis == 0]
    if long == sorted(long) and order[0] == 0:
        return c.reshape(x, [shape[axis] for axis in order])
    return c.add("Permute", [x], permute_param={"order": order}) if c.has("Permute") else _mixed(c, x, order)


def _mixed(c: Composer, x: str, order: Sequence[int]) -> str:
    """Moves axes that lie together as entries of one axis, for targets without Permute: channel shuffles above all."""
    shape = c.shape(x)
    moved = [axis for axis, source in enumerate(order) if axis != source]
    start, end = moved[0], moved[-1] + 1
    size = math.prod(shape[start:end])
    if start == 0 or size > MAX_MIXED:
        raise c.refuse(f"the layer Permute is needed, which {c.net.layers.name} lacks")
    entries = np.arange(size).reshape(shape[start:end]).transpose([axis - start for axis in order[start:end]])
    rest = math.prod(shape[end:])
    one = c.part("one").reshape(
        x, (shape[0], math.prod(shape[1:start]), size, rest) if start > 1 else (shape[0], size, rest, 1)
    )
    top = take(c.part("mixed"), one, 2 if start > 1 else 1, entries.ravel())
    return c.reshape(top, [shape[axis] for axis in order])


@operation(Exactness.SAME)
def concat(c: Composer, values: Sequence[Value], axis: int) -> str:
    """Concat; constants are repeated for each item of the batch."""
    blobs = [value for value in values if isinstance(value, str)]
    if not blobs:
        raise c.refuse("constants alone")
    axis = c.axis(axis, len(c.shape(blobs[0])))
    bottoms = []
    for index, value in enumerate(values):
        if not isinstance(value, str):
            if value.size == 0:
                continue
            value = constant_blob(c.part(f"constant_{index}"), blobs[0], _one_item(c, value, axis))
        bottoms.append(value)
    return bottoms[0] if len(bottoms) == 1 else c.add("Concat", bottoms, concat_param={"axis": axis})


def _one_item(c: Composer, value: np.ndarray, axis: int) -> np.ndarray:
    if axis == 0 or len(value) != 1:
        raise c.refuse("a constant with values for each picture of a batch")
    item: np.ndarray = value[0]
    return item


def constant_blob(c: Composer, like: str, array: np.ndarray) -> str:
    """A blob (N, *array.shape) that holds a constant for each item of another blob, whose values must be finite."""
    size = math.prod(c.shape(like)[1:])
    x = c.part("row").reshape(like, (c.shape(like)[0], size))
    x = c.net.part(f"{c.name}_any", x, 1, 0, 1) if size > 1 else x
    weights = [np.zeros((array.size, 1), np.float32), array.astype(np.float32).ravel()]
    x = c.part("flat").add(
        "InnerProduct", [x], weights, inner_product_param={"num_output": array.size}, param=frozen(2)
    )
    return c.reshape(x, (c.shape(like)[0], *array.shape))


@operation(Exactness.SAME)
def split(c: Composer, x: str, axis: int, sizes: Sequence[int], names: Sequence[str]) -> list[str]:
    """Slice into parts of these sizes."""
    shape = c.shape(x)
    axis = c.axis(axis, len(shape))
    if sum(sizes) != shape[axis] or min(sizes, default=0) < 1:
        raise c.refuse(f"{counted(shape[axis], 'entry', 'entries')} in parts of {list(sizes)}")
    return [x] if len(sizes) == 1 else c.net.split(c.name, x, axis, sizes, [c.net.unique(name) for name in names])


@operation(Exactness.SAME)
def slice_(c: Composer, x: str, axis: int, start: int | None, end: int | None, step: int = 1) -> str:
    """Every `step`-th entry of a range, with Python's rules: Slice, and a strided pointwise Convolution."""
    shape = c.shape(x)
    axis = c.axis(axis, len(shape))
    if step == 0:
        raise c.refuse("a step of 0")
    indices = c.entries(shape[axis])[start:end:step]
    if not len(indices):
        raise c.refuse("no entries left")
    return take(c, x, axis, indices)


@operation(Exactness.SAME)
def take(c: Composer, x: str, axis: int, indices: np.ndarray) -> str:
    """Entries of an axis in any order: Slice where they lie together, else the cheapest layers that select them."""
    shape = c.shape(x)
    axis = c.axis(axis, len(shape))
    size = shape[axis]
    indices = np.asarray(indices, np.int64).ravel()
    if np.any(indices < -size) or np.any(indices >= size) or not len(indices):
        raise c.refuse(f"entries {indices.tolist()[:9]} of {size}")
    indices = indices % size
    if np.array_equal(indices, c.entries(size)):
        return x
    if axis == 0:
        raise c.refuse("entries of the batch")
    steps = {int(after) - int(before) for before, after in pairwise(indices)} or {1}
    if steps == {1}:
        return c.net.part(c.name, x, axis, int(indices[0]), int(indices[-1]) + 1)
    if len(steps) == 1 and (step := next(iter(steps))) > 1 and len(shape) == 4 and axis > 1:
        return _every(c, x, axis, int(indices[0]), step, len(indices))
    runs = _runs(indices)
    if len(runs) <= 16:
        return _pieces(c, x, axis, runs)
    return c.along(x, axis, c.identity_matrix(size)[indices])


def _every(c: Composer, x: str, axis: int, first: int, step: int, number: int) -> str:
    """Every `step`-th row or column: a Convolution of each channel by itself with stride."""
    shape = c.shape(x)
    if first:
        x = c.net.part(f"{c.name}_from", x, axis, first, shape[axis])
    end = (number - 1) * step + 1
    if -(-c.shape(x)[axis] // step) > number:
        x = c.net.part(f"{c.name}_to", x, axis, 0, end)
    stride = (step, 1) if axis == 2 else (1, step)
    values = {"num_output": shape[1], "group": shape[1], "bias_term": False, "kernel_size": 1}
    values |= window_fields("stride", stride)
    weight = np.ones((shape[1], 1, 1, 1), np.float32)
    return c.add("Convolution", [x], [weight], convolution_param=values, param=frozen(1))


def _runs(indices: np.ndarray) -> list[tuple[int, int]]:
    """Divides entries into ranges (start, end)."""
    breaks = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(indices)) if b != a + 1), len(indices)]
    return [(int(indices[start]), int(indices[end - 1]) + 1) for start, end in pairwise(breaks)]


def _pieces(c: Composer, x: str, axis: int, runs: Sequence[tuple[int, int]]) -> str:
    """Concatenates ranges of an axis."""
    whole = (0, c.shape(x)[axis])
    blobs = {run: x if run == whole else "" for run in runs}
    for index, run in enumerate(blobs):
        if run != whole:
            blobs[run] = c.net.part(f"{c.name}_part_{index}", x, axis, *run)
    return c.add("Concat", [blobs[run] for run in runs], concat_param={"axis": axis})


@operation(Exactness.SAME)
def expand(c: Composer, x: str, shape: Sequence[int]) -> str:
    """A blob whose axes of size 1 are repeated to this shape: Convolutions, InnerProducts, Deconvolutions of ones."""
    found = c.shape(x)
    if len(found) < len(shape):
        raise c.refuse(f"new axes before the batch's: {found} as {tuple(shape)}")
    wanted = [have if size == -1 else int(size) for have, size in zip(found, shape, strict=True)]
    axes = [axis for axis, (have, size) in enumerate(zip(found, wanted, strict=True)) if have != size]
    if any(found[axis] != 1 for axis in axes) or 0 in axes:
        raise c.refuse(f"blobs of different shapes, {found} and {tuple(shape)}")
    if axes == [2, 3] and len(found) == 4:
        return enlarge(c, x, (wanted[2], wanted[3]))
    for axis in axes:
        step = c if axis == axes[-1] else c.part(f"axis_{axis}")
        c.net.check_size(4 * wanted[axis])
        x = step.along(x, axis, np.ones((wanted[axis], 1), np.float32))
    return x


@operation(Exactness.SAME)
def tile(c: Composer, x: str, repeats: Sequence[int]) -> str:
    """The blob repeated along its axes."""
    axes = [axis for axis, number in enumerate(repeats) if number != 1]
    if len(repeats) != len(c.shape(x)) or 0 in axes or min(repeats) < 1:
        raise c.refuse(f"repeating {list(repeats)} times a blob of shape {c.shape(x)}")
    for axis in axes:
        step = c if axis == axes[-1] else c.part(f"axis_{axis}")
        if c.shape(x)[axis] == 1 or not step.has("Tile") or step.net.layers.types is None:
            x = _copies(step, x, axis, repeats[axis])
        else:
            x = step.add("Tile", [x], tile_param={"axis": axis, "tiles": repeats[axis]})
    return x


def _copies(c: Composer, x: str, axis: int, number: int) -> str:
    size = c.shape(x)[axis]
    if size == 1 or number > 16:
        c.net.check_size(4 * number * size**2)
        return c.along(x, axis, np.tile(c.identity_matrix(size), (number, 1)))
    return c.add("Concat", [x] * number, concat_param={"axis": axis})


@operation(Exactness.SAME)
def repeat_interleave(c: Composer, x: str, number: int, axis: int) -> str:
    """Each entry of an axis repeated."""
    size = c.shape(x)[c.axis(axis, len(c.shape(x)))]
    c.net.check_size(8 * size * number)
    return take(c, x, axis, np.repeat(c.entries(size), number))


@operation(Exactness.SAME)
def enlarge(c: Composer, x: str, factors: Sequence[int]) -> str:
    """Each pixel repeated in both directions: a Deconvolution of ones, which every Caffe has; it does not learn."""
    if tuple(factors) == (1, 1):
        return x
    channels = c.shape(x)[1]
    c.net.check_size(4 * channels * math.prod(factors))
    values = {
        "num_output": channels,
        "group": channels,
        "bias_term": False,
        **window_fields("kernel", factors),
        **window_fields("stride", factors),
    }
    weight = np.ones((channels, 1, *factors), np.float32)
    return c.add("Deconvolution", [x], [weight], convolution_param=values, param=frozen(1))


@operation(Exactness.SAME)
def depth_to_space(c: Composer, x: str, factor: int, *, blocks_first: bool = False) -> str:
    """Channels spread over squares of pixels, by a Deconvolution that selects.

    Args:
        c: Where to.
        x: (N, C * factor^2, H, W).
        factor: The squares' side.
        blocks_first: Whether the place in the square is the slowest index of a channel (ONNX's DCR), not the fastest
            (CRD, PyTorch's pixel_shuffle).
    """
    channels = _channels(c, x, c.shape(x)[1], factor)
    if blocks_first:
        order = c.entries(channels * factor**2).reshape(factor**2, channels).T.ravel()
        x = take(c.part("order"), x, 1, order)
    weight = c.identity_matrix(factor**2).reshape(factor**2, 1, factor, factor)
    return _squares(c, "Deconvolution", x, _each(c, weight, channels), channels, channels)


@operation(Exactness.SAME)
def space_to_depth(c: Composer, x: str, factor: int, *, blocks_first: bool = False) -> str:
    """The reverse of `depth_to_space`, by a Convolution that selects."""
    shape = c.shape(x)
    if len(shape) != 4 or shape[2] % factor or shape[3] % factor:
        raise c.refuse(f"squares of {factor} pixels of a blob of shape {shape}")
    channels = shape[1]
    weight = c.identity_matrix(factor**2).reshape(factor**2, 1, factor, factor)
    last = c.part("squares") if blocks_first else c
    top = _squares(last, "Convolution", x, _each(c, weight, channels), channels * factor**2, channels)
    if not blocks_first:
        return top
    return take(c, top, 1, c.entries(channels * factor**2).reshape(channels, factor**2).T.ravel())


def _each(c: Composer, weight: np.ndarray, channels: int) -> np.ndarray:
    c.net.check_size(weight.nbytes * channels)
    return np.tile(weight, (channels, 1, 1, 1))


def _channels(c: Composer, x: str, number: int, factor: int) -> int:
    if len(c.shape(x)) != 4 or factor < 1 or number % factor**2:
        raise c.refuse(f"squares of {factor} pixels from a blob of shape {c.shape(x)}")
    return number // factor**2


def _squares(c: Composer, kind: str, x: str, weight: np.ndarray, outputs: int, group: int) -> str:
    factor = weight.shape[-1]
    values = {"num_output": outputs, "group": group, "bias_term": False, "kernel_size": factor, "stride": factor}
    return c.add(kind, [x], [weight], convolution_param=values, param=frozen(1))


@operation(Exactness.SAME)
def shuffle_channels(c: Composer, x: str, group: int) -> str:
    """Channels, seen as a table of `group` rows, transposed."""
    shape = c.shape(x)
    if len(shape) < 2 or group < 1 or shape[1] % group:
        raise c.refuse(f"channels of a blob of shape {shape} in {counted(group, 'group')}")
    if c.has("ShuffleChannel"):
        return c.add("ShuffleChannel", [x], shuffle_channel_param={"group": group})
    return take(c, x, 1, c.entries(shape[1]).reshape(group, -1).T.ravel())


@operation(Exactness.SAME)
def flip(c: Composer, x: str, axes: Sequence[int]) -> str:
    """Axes in reverse order."""
    for index, axis in enumerate(axes):
        step = c if index == len(axes) - 1 else c.part(f"axis_{axis}")
        x = take(step, x, axis, c.entries(c.shape(x)[axis])[::-1])
    return x


@operation(Exactness.SAME)
def roll(c: Composer, x: str, shifts: Sequence[int], axes: Sequence[int]) -> str:
    """Axes turned round: entries that leave at the end come back at the start."""
    for index, (axis, shift) in enumerate(zip(axes, shifts, strict=True)):
        step = c if index == len(axes) - 1 else c.part(f"axis_{axis}")
        x = take(step, x, axis, np.roll(c.entries(c.shape(x)[axis]), shift))
    return x
