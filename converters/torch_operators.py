"""PyTorch's operators in terms of `pyscratchdet.converters.operations`: names and forms of arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pyscratchdet.converters.operations import (
    activations,
    arithmetic,
    convolution,
    normalization,
    pooling,
    reductions,
    shapes,
)
from pyscratchdet.converters.operations.composer import Composer, Value
from pyscratchdet.converters.torch_node import TorchCall

Handler = Callable[[TorchCall], str | list[str]]


# --- weights ---


def _conv(c: TorchCall) -> str:
    weight, bias = c.weight("weight"), c.array("bias")
    axes = weight.ndim - 2
    dilation, stride = c.window("dilation", axes, [1] * axes), c.window("stride", axes, [1] * axes)
    if c.args.get("padding") == "same":
        totals = [(size - 1) * step for size, step in zip(weight.shape[2:], dilation, strict=True)]
        pads = [*(total // 2 for total in totals), *(-(-total // 2) for total in totals)]
    else:
        padding = [0] * axes if c.args.get("padding") == "valid" else c.window("padding", axes, [0] * axes)
        pads = padding * 2
    window: dict[str, Any] = {
        "stride": stride,
        "pads": pads,
        "dilation": dilation,
        "group": int(c.args.get("groups", 1)),
    }
    if c.args.get("transposed") or c.kind.startswith("conv_transpose"):
        more = c.window("output_padding", axes, [0] * axes)
        return convolution.deconvolution(c.composer, c.input(), weight, bias, **window, more=more)
    return convolution.convolution(c.composer, c.input(), weight, bias, **window)


def _linear(c: TorchCall) -> str:
    return convolution.linear(c.composer, c.input(), c.weight("weight"), c.array("bias"))


def _matmul(c: TorchCall) -> str:
    a, b = (c.value(argument) for argument in c.node.args[:2])
    if isinstance(a, str) and isinstance(b, str):
        return reductions.product(c.composer, a, b)
    if isinstance(b, np.ndarray):
        return convolution.linear(c.composer, c.input(), b.T, None)
    if not isinstance(a, np.ndarray) or a.ndim != 2 or not isinstance(b, str):
        raise c.refuse("a first factor with several matrices")
    return c.composer.along(b, -2, a)


def _addmm(c: TorchCall) -> str:
    if c.number("alpha", 1) != 1 or c.number("beta", 1) != 1:
        raise c.refuse("alpha or beta other than 1")
    bias, weight = c.weight("self"), c.weight("mat2")
    return convolution.linear(c.composer, c.blob("mat1"), weight.T, np.broadcast_to(bias, weight.shape[1]))


def _attention(c: TorchCall) -> str:
    raise c.refuse("a product of two blobs, as in attention; Caffe has no layer for it")


def _einsum(c: TorchCall) -> str:
    operands = [c.value(value) for value in c.args["tensors"]]
    constants = [index for index, value in enumerate(operands) if isinstance(value, np.ndarray)]
    if len(operands) != 2 or len(constants) != 1:
        raise c.refuse("a product of blobs, as in attention; Caffe has no layer for it")
    (index,) = constants
    blob, array = operands[1 - index], operands[index]
    assert isinstance(blob, str)
    assert isinstance(array, np.ndarray)
    return convolution.einsum(c.composer, c.args["equation"], blob, array, blob_first=index == 1)


def _pad(c: TorchCall) -> str:
    """PyTorch gives the last axis first."""
    numbers = [int(number) for number in c.args.get("pad") or c.args["padding"]]
    pads = [(0, 0)] * len(c.shape())
    for index in range(len(numbers) // 2):
        pads[-1 - index] = numbers[2 * index], numbers[2 * index + 1]
    kinds = {"reflection": "reflect", "replication": "replicate"}
    mode = c.args.get("mode") or kinds.get(c.kind.partition("_")[0], "constant")
    value = c.number("value", 0.0)
    return convolution.pad(c.composer, c.input(), pads, mode, value)


# --- normalisation ---


def _batch_norm(c: TorchCall) -> str:
    if c.args.get("training") and "no_training" not in c.kind:
        raise c.refuse("normalisation in training mode")
    scale, bias, mean, variance = c.array("weight"), c.array("bias"), c.weight("running_mean"), c.weight("running_var")
    return normalization.batch_norm(c.composer, c.input(), scale, bias, mean, variance, float(c.args["eps"]))


def _instance_norm(c: TorchCall) -> str:
    if not c.args.get("use_input_stats"):
        return _batch_norm(c)
    scale, bias = c.array("weight"), c.array("bias")
    return normalization.group_norm(c.composer, c.input(), c.shape()[1], scale, bias, float(c.args["eps"]))


def _group_norm(c: TorchCall) -> str:
    groups = int(c.args.get("num_groups", c.args.get("group", 0)))
    return normalization.group_norm(
        c.composer, c.input(), groups, c.array("weight"), c.array("bias"), float(c.args["eps"])
    )


def _layer_norm(c: TorchCall) -> str:
    number, eps = len(c.args["normalized_shape"]), c.args.get("eps")
    centred = c.kind == "layer_norm"
    eps = float(torch.finfo(torch.float32).eps) if eps is None else float(eps)
    bias = c.array("bias") if centred else None
    return normalization.layer_norm(c.composer, c.input(), number, c.array("weight"), bias, eps, centred=centred)


def _softmax(c: TorchCall) -> str:
    function = normalization.log_softmax if "log" in c.kind else normalization.softmax
    return function(c.composer, c.input(), c.axis())


# --- functions of single values ---


def _simple(function: Callable[..., str], **arguments: str) -> Handler:
    """An operation of one blob; `arguments` maps its arguments to PyTorch's, which are numbers."""

    def convert(c: TorchCall) -> str:
        given = {name: float(c.args[argument]) for name, argument in arguments.items()}
        return function(c.composer, c.input(), **given)

    return convert


def _gelu(c: TorchCall) -> str:
    is_tanh = c.args.get("approximate", "none") == "tanh"
    return (activations.gelu_tanh if is_tanh else activations.gelu)(c.composer, c.input())


def _elu(c: TorchCall) -> str:
    alpha, scale, inner = (c.number(name, 1.0) for name in ("alpha", "scale", "input_scale"))
    return activations.elu(c.composer, c.input(), alpha, scale, inner)


def _clamp(low: str, high: str) -> Handler:
    def convert(c: TorchCall) -> str:
        limits = c.number(low, -math.inf), c.number(high, math.inf)
        return arithmetic.clamp(c.composer, c.input(), *limits)

    return convert


def _threshold(c: TorchCall) -> str:
    if c.number("value"):
        raise c.refuse("a value other than 0 below the threshold")
    large = arithmetic.greater(c.composer.part("large"), c.input(), c.number("threshold"))
    return arithmetic.multiply(c.composer, c.input(), large)


def _glu(c: TorchCall) -> str:
    axis, step = c.axis(default=-1), c.composer
    size = c.shape()[axis] // 2
    names = [f"{c.node.name}_value", f"{c.node.name}_gate"]
    value, gate = shapes.split(step.part("parts"), c.input(), axis, [size, size], names)
    return arithmetic.multiply(step, value, activations.sigmoid(step.part("sigmoid"), gate))


def _power(exponent: float, scale: float = 1.0) -> Handler:
    return lambda c: arithmetic.power(c.composer, c.input(), exponent, scale)


def _pow(c: TorchCall) -> str:
    exponent = c.value("exponent")
    if isinstance(exponent, str) or exponent.size != 1:
        raise c.refuse("an exponent that is not a single number")
    return arithmetic.power(c.composer, c.input(), float(exponent.ravel()[0]))


# --- arithmetic ---


def _add(c: TorchCall) -> str:
    factor = c.number("alpha", 1.0)
    a, b = c.value(c.node.args[0]), c.value("other")
    if c.kind == "rsub":
        a, b = b, a
    return arithmetic.add(c.composer, a, b, factor if c.kind == "add" else -factor)


def _add_product(c: TorchCall) -> str:
    first, a, b = (c.value(value) for value in c.node.args[:3])
    step = c.composer
    product = a * b if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else None
    value = arithmetic.multiply(step.part("product"), a, b) if product is None else product
    return arithmetic.add(step, first, value, c.number("value", 1.0))


def _binary(function: Callable[[Composer, Value, Value], str]) -> Handler:
    return lambda c: function(c.composer, c.value(c.node.args[0]), c.value(c.node.args[1]))


def _divide(c: TorchCall) -> str:
    if c.args.get("rounding_mode") is not None:
        raise c.refuse("a division that rounds")
    return arithmetic.divide(c.composer, c.value(c.node.args[0]), c.value("other"))


def _extreme(function: Callable[[Composer, Sequence[Value]], str]) -> Handler:
    return lambda c: function(c.composer, [c.value(value) for value in c.node.args[:2]])


def _where(c: TorchCall) -> str:
    condition, a, b = (c.value(value) for value in c.node.args[:3])
    if isinstance(condition, str):
        raise c.refuse("a condition that depends on a blob")
    return arithmetic.where(c.composer, condition.astype(bool), a, b)


# --- pooling and resizing ---


def _max_pool(c: TorchCall) -> str:
    axes = int(c.kind[-2])
    if c.window("dilation", axes, [1] * axes) != [1] * axes:
        raise c.refuse("dilated windows")
    kernel = c.window("kernel_size", axes)
    return pooling.max_pool(
        c.composer,
        c.input(),
        kernel,
        stride=c.window("stride", axes, kernel),
        pads=c.window("padding", axes, [0] * axes) * 2,
        ceil=bool(c.args.get("ceil_mode")),
    )


def _average_pool(c: TorchCall) -> str:
    axes = int(c.kind[-2])
    kernel = c.window("kernel_size", axes)
    divisor, step = c.args.get("divisor_override"), c.composer
    top = pooling.average_pool(
        step if divisor is None else step.part("average"),
        c.input(),
        kernel,
        stride=c.window("stride", axes, kernel),
        pads=c.window("padding", axes, [0] * axes) * 2,
        ceil=bool(c.args.get("ceil_mode")),
        include_pad=bool(c.args.get("count_include_pad", True)),
    )
    if divisor is None:
        return top
    if c.args.get("ceil_mode") or not c.args.get("count_include_pad", True):
        raise c.refuse("divisor_override where windows are of unequal sizes")
    return step.power(top, scale=math.prod(kernel) / int(divisor))


def _adaptive(method: str) -> Handler:
    def convert(c: TorchCall) -> list[str] | str:
        axes = int(c.kind[-2])
        given = c.args["output_size"]
        given = [given] * axes if isinstance(given, int) else given
        wanted = [have if size is None else int(size) for size, have in zip(given, c.shape()[2:], strict=True)]
        top = pooling.adaptive_pool(c.composer, c.input(), wanted, method)
        return [top, ""] if method == "MAX" and "max_pool" in c.kind else top

    return convert


def _resized(c: TorchCall) -> tuple[list[int], list[float]]:
    """The size of a resized blob, and the steps of its pixels in the source."""
    have, size = c.shape()[2:], c.args.get("output_size", c.args.get("size"))
    scales = c.args.get("scale_factors") or [c.args.get("scales_h"), c.args.get("scales_w")]
    if size is None:
        size = [math.floor(number * scale) for number, scale in zip(have, scales, strict=True)]
    if len(have) != 2 or len(size) != 2:
        raise c.refuse(f"resizing of a blob of shape {c.shape()}")
    steps = [
        1 / scale if scale else old / new for old, new, scale in zip(have, size, [*scales, None, None][:2], strict=True)
    ]
    return [int(number) for number in size], steps


def _nearest(c: TorchCall) -> str:
    (size, steps), exact = _resized(c), 0.5 if "exact" in c.kind else 0.0
    rows = [
        np.minimum(np.floor((np.arange(new) + exact) * np.float32(step)).astype(int), have - 1)
        for new, step, have in zip(size, steps, c.shape()[2:], strict=True)
    ]
    return pooling.resize_nearest(c.composer, c.input(), rows)


def _bilinear(c: TorchCall) -> str:
    size, steps = _resized(c)
    corners = bool(c.args.get("align_corners"))
    even = all(have == step * new for have, step, new in zip(c.shape()[2:], steps, size, strict=True))
    if "aa" not in c.kind.split("_") and (corners or even):
        return pooling.resize_bilinear(c.composer, c.input(), (size[0], size[1]), align_corners=corners)
    return _resized_as_torch(c, size)


def _resized_as_torch(c: TorchCall, size: Sequence[int]) -> str:
    """Resizing that is linear in each axis, by the matrices that PyTorch's own operator has."""
    matrices = []
    for axis, (have, new) in enumerate(zip(c.shape()[2:], size, strict=True)):
        one = torch.eye(have, dtype=torch.float64)[None, :, :, None]  # each pixel of a column in a channel of its own
        args = {**c.args, c.node.target._schema.arguments[0].name: one}  # type: ignore[union-attr]
        for key in ("scales_h", "scales_w"):
            if key in args and key != ("scales_h", "scales_w")[axis]:
                args[key] = None
        args["scales_h"], args["scales_w"] = c.args.get(("scales_h", "scales_w")[axis]), None
        factors = c.args.get("scale_factors")
        args["scale_factors"] = [factors[axis], 1.0] if factors else None
        args["output_size"] = None if factors else [new, 1]
        names = [argument.name for argument in c.node.target._schema.arguments]  # type: ignore[union-attr]
        column = c.node.target(**{name: args[name] for name in names})  # type: ignore[operator]
        matrices.append(column[0, :, :, 0].T.numpy())
    return pooling.resize_by(c.composer, c.input(), matrices)


# --- reductions ---


def _reduce(method: str) -> Handler:
    def convert(c: TorchCall) -> str:
        return reductions.reduce(c.composer, c.input(), c.axes(), method, keep=bool(c.args.get("keepdim")))

    return convert


def _largest(method: str) -> Handler:
    """`max` and `min` of all values, of two blobs, or along an axis with indices, which must not be read."""

    def convert(c: TorchCall) -> str | list[str]:
        if "other" in c.args:
            return _extreme(arithmetic.maximum if method == "MAX" else arithmetic.minimum)(c)
        keep = bool(c.args.get("keepdim"))
        top = reductions.reduce(c.composer, c.input(), c.axes(), method, keep=keep)
        return [top, ""] if "dim" in c.args else top

    return convert


def _norm(c: TorchCall) -> str:
    order = c.args.get("ord", c.args.get("p", 2))
    keep = bool(c.args.get("keepdim"))
    return reductions.norm(c.composer, c.input(), c.axes(), 2.0 if order is None else float(order), keep=keep)


def _correction(c: TorchCall) -> float:
    if "unbiased" in c.args:
        return float(bool(c.args["unbiased"]))
    return c.number("correction", 1.0)


def _variance(c: TorchCall) -> str:
    keep, step = bool(c.args.get("keepdim")), c.composer
    if c.kind == "var":
        return reductions.variance(step, c.input(), c.axes(), keep=keep, correction=_correction(c))
    inner = reductions.variance(step.part("variance"), c.input(), c.axes(), keep=keep, correction=_correction(c))
    return step.power(inner, power=0.5)


def _variance_and_mean(c: TorchCall) -> list[str]:
    keep, axes, step = bool(c.args.get("keepdim")), c.axes(), c.composer
    mean = reductions.reduce(step.part("mean"), c.input(), axes, "AVE", keep=keep)
    return [reductions.variance(step, c.input(), axes, keep=keep, correction=_correction(c)), mean]


def _arg_max(c: TorchCall) -> str:
    if c.args.get("dim") is None:
        raise c.refuse("the place in the whole batch")
    return reductions.arg_max(c.composer, c.input(), c.axis(), keep=bool(c.args.get("keepdim")))


# --- shapes ---


def _cat(c: TorchCall) -> str:
    return shapes.concat(c.composer, [c.value(value) for value in c.args["tensors"]], int(c.args.get("dim", 0)))


def _stack(c: TorchCall) -> str:
    values = [c.value(value) for value in c.args["tensors"]]
    blobs = [value for value in values if isinstance(value, str)]
    if len(blobs) < len(values):
        raise c.refuse("a constant among the blobs")
    shape = c.net.shapes[blobs[0]]
    axis = c.composer.axis(int(c.args.get("dim", 0)), len(shape) + 1)
    wider = (*shape[:axis], 1, *shape[axis:])
    parts = [c.composer.part(f"part_{index}").reshape(blob, wider) for index, blob in enumerate(blobs)]
    return shapes.concat(c.composer, parts, axis)


def _flatten(c: TorchCall) -> str:
    return shapes.flatten(c.composer, c.input(), int(c.args.get("start_dim", 0)), int(c.args.get("end_dim", -1)))


def _view(c: TorchCall) -> str:
    return shapes.reshape(c.composer, c.input(), [int(size) for size in c.node.meta["val"].shape])


def _permute(c: TorchCall) -> str:
    return shapes.permute(c.composer, c.input(), c.args["dims"])


def _transpose(c: TorchCall) -> str:
    order = list(range(len(c.shape())))
    names = ("axis0", "axis1") if "axis0" in c.args else ("dim0", "dim1")
    first, second = (int(c.args.get(name, default)) for name, default in zip(names, (-2, -1), strict=True))
    order[first], order[second] = order[second], order[first]
    return shapes.permute(c.composer, c.input(), order)


def _parts(c: TorchCall) -> list[str]:
    """Chunk(number), split(size), split(sizes) and unbind along an axis."""
    axis = c.axis()
    size = c.shape()[axis]
    given = c.args.get("chunks", c.args.get("split_size", c.args.get("split_sizes")))
    if isinstance(given, int):
        step = -(-size // given) if c.kind == "chunk" else given
        sizes = [min(step, size - start) for start in range(0, size, step)]
    else:
        sizes = [1] * size if c.kind == "unbind" else [int(number) for number in given or []]
    names = [f"{c.node.name}_{k}" for k in range(len(sizes))]
    tops = shapes.split(c.composer, c.input(), axis, sizes, names)
    if c.kind != "unbind":
        return tops
    shape = [have for index, have in enumerate(c.shape()) if index != axis]
    return [c.composer.part(f"entry_{index}").reshape(top, shape) for index, top in enumerate(tops)]


def _slice(c: TorchCall) -> str:
    start, end = c.args.get("start"), c.args.get("end")
    return shapes.slice_(c.composer, c.input(), c.axis(), start, end, int(c.args.get("step", 1)))


def _narrow(c: TorchCall) -> str:
    start = int(c.args["start"])
    return shapes.slice_(c.composer, c.input(), c.axis(), start, start + int(c.args["length"]))


def _select(c: TorchCall) -> str:
    axis, index, step = c.axis(), int(c.args["index"]), c.composer
    if axis == 0:
        raise c.refuse("one picture of the batch")
    top = shapes.take(step.part("entry"), c.input(), axis, np.array([index]))
    return step.reshape(top, [size for i, size in enumerate(c.shape()) if i != axis])


def _index(c: TorchCall) -> str:
    """Indexing with constant integers along one axis."""
    given = c.args["indices"] if "indices" in c.args else [*[None] * c.axis(), c.args["index"]]
    axes = [axis for axis, value in enumerate(given) if value is not None]
    if len(axes) != 1:
        raise c.refuse(f"indices along axes {axes}")
    (axis,) = axes
    indices = c.value(given[axis])
    if isinstance(indices, str):
        raise c.refuse("indices that depend on a blob")
    step = c.composer
    top = shapes.take(step if indices.ndim == 1 else step.part("entries"), c.input(), axis, indices.astype(np.int64))
    shape = c.shape()
    return step.reshape(top, (*shape[:axis], *indices.shape, *shape[axis + 1 :]))


def _expand(c: TorchCall) -> str:
    wanted = [int(size) for size in c.node.meta["val"].shape]
    added = len(wanted) - len(c.shape())
    x = c.composer.part("axes").reshape(c.input(), (*(1,) * added, *c.shape()))
    return shapes.expand(c.composer, x, wanted)


def _repeat(c: TorchCall) -> str:
    repeats = [int(number) for number in c.args.get("repeats") or c.args["dims"]]
    added = len(repeats) - len(c.shape())
    x = c.composer.part("axes").reshape(c.input(), (*(1,) * added, *c.shape()))
    return shapes.tile(c.composer, x, [*(1,) * -added, *repeats])


def _repeat_interleave(c: TorchCall) -> str:
    number = c.args.get("repeats")
    if not isinstance(number, int) or c.args.get("dim") is None:
        raise c.refuse("other than a number of repeats along one axis")
    return shapes.repeat_interleave(c.composer, c.input(), number, c.axis())


def _roll(c: TorchCall) -> str:
    return shapes.roll(c.composer, c.input(), c.args["shifts"], c.args["dims"])


def _identity(c: TorchCall) -> str:
    return c.input()


_COPIES = "_to_copy alias alpha_dropout clone contiguous detach dropout feature_dropout lift_fresh_copy to type_as"
OF_SHAPES = frozenset({"full_like", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like"})
HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "convolution", "conv3d", "conv_transpose3d"), _conv
    ),
    "linear": _linear,
    **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
    "addmm": _addmm,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(
        ("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"),
        _pad,
    ),
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": lambda c: [_batch_norm(c), "", ""],
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _softmax),
    "relu": _simple(activations.relu),
    "leaky_relu": _simple(activations.relu, slope="negative_slope"),
    "rrelu": lambda c: activations.relu(c.composer, c.input(), (c.number("lower") + c.number("upper")) / 2),
    "prelu": lambda c: activations.prelu(c.composer, c.input(), c.weight("weight")),
    "elu": _elu,
    "celu": lambda c: activations.elu(c.composer, c.input(), a := c.number("alpha", 1.0), input_scale=1 / a),
    "selu": lambda c: activations.elu(c.composer, c.input(), 1.6732632423543772, 1.0507009873554805),
    "sigmoid": _simple(activations.sigmoid),
    "log_sigmoid": lambda c: c.composer.power(
        activations.softplus(c.composer.part("softplus"), c.composer.part("negative").power(c.input(), scale=-1)),
        scale=-1,
    ),
    "silu": _simple(activations.silu),
    "mish": _simple(activations.mish),
    "gelu": _gelu,
    "erf": _simple(activations.error_function),
    "hardswish": _simple(activations.hard_swish),
    "hardsigmoid": _simple(arithmetic.hard_sigmoid),
    "hardshrink": _simple(activations.hard_shrink, limit="lambd"),
    "softshrink": _simple(activations.soft_shrink, limit="lambd"),
    "softplus": _simple(activations.softplus, beta="beta"),
    "tanh": _simple(activations.tanh),
    "abs": _simple(activations.absolute),
    "exp": _simple(activations.exponential),
    "log": _simple(activations.logarithm),
    "hardtanh": _clamp("min_val", "max_val"),
    "clamp": _clamp("min", "max"),
    "clamp_min": _clamp("min", ""),
    "clamp_max": _clamp("", "max"),
    "relu6": lambda c: arithmetic.clamp(c.composer, c.input(), 0.0, 6.0),
    "threshold": _threshold,
    "glu": _glu,
    "neg": _power(1.0, -1.0),
    "sqrt": _power(0.5),
    "rsqrt": _power(-0.5),
    "reciprocal": _power(-1.0),
    "square": _power(2.0),
    "pow": _pow,
    **dict.fromkeys(("add", "sub", "rsub"), _add),
    "addcmul": _add_product,
    "mul": _binary(arithmetic.multiply),
    "div": _divide,
    "maximum": _extreme(arithmetic.maximum),
    "minimum": _extreme(arithmetic.minimum),
    "where": _where,
    **dict.fromkeys(("max_pool1d", "max_pool2d"), _max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _average_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d"), _adaptive("AVE")),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d"), _adaptive("MAX")),
    **dict.fromkeys(("upsample_nearest2d", "_upsample_nearest_exact2d"), _nearest),
    **dict.fromkeys(("upsample_bilinear2d", "_upsample_bilinear2d_aa"), _bilinear),
    **dict.fromkeys(("upsample_bicubic2d", "_upsample_bicubic2d_aa"), lambda c: _resized_as_torch(c, _resized(c)[0])),
    "mean": _reduce("AVE"),
    "sum": _reduce("SUM"),
    "amax": _reduce("MAX"),
    "amin": _reduce("MIN"),
    "max": _largest("MAX"),
    "min": _largest("MIN"),
    **dict.fromkeys(("norm", "linalg_vector_norm"), _norm),
    **dict.fromkeys(("var", "std"), _variance),
    "var_mean": _variance_and_mean,
    "logsumexp": lambda c: reductions.log_sum_exp(c.composer, c.input(), c.axes(), keep=bool(c.args.get("keepdim"))),
    "argmax": _arg_max,
    **dict.fromkeys(("cat", "concat"), _cat),
    "stack": _stack,
    "flatten": _flatten,
    **dict.fromkeys(
        ("view", "reshape", "reshape_as", "view_as", "unflatten", "squeeze", "unsqueeze", "_unsafe_view"), _view
    ),
    "permute": _permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t", "mT"), _transpose),
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "unbind"), _parts),
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    **dict.fromkeys(("index", "index_select"), _index),
    **dict.fromkeys(("expand", "expand_as"), _expand),
    **dict.fromkeys(("repeat", "tile"), _repeat),
    "repeat_interleave": _repeat_interleave,
    "flip": lambda c: shapes.flip(c.composer, c.input(), c.axes("dims")),
    "roll": _roll,
    "pixel_shuffle": lambda c: shapes.depth_to_space(c.composer, c.input(), int(c.args["upscale_factor"])),
    "pixel_unshuffle": lambda c: shapes.space_to_depth(c.composer, c.input(), int(c.args["downscale_factor"])),
    "channel_shuffle": lambda c: shapes.shuffle_channels(c.composer, c.input(), int(c.args["groups"])),
    **dict.fromkeys(_COPIES.split(), _identity),
}
