"""ONNX operators in terms of `pyscratchdet.converters.operations`: names, attributes and forms of arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pyscratchdet.converters.onnx_node import OnnxNode
from pyscratchdet.converters.operations import (
    activations,
    arithmetic,
    convolution,
    normalization,
    pooling,
    reductions,
    shapes,
)
from pyscratchdet.errors import counted

Handler = Callable[[OnnxNode], str | list[str]]


def _conv(n: OnnxNode) -> str:
    weight, bias = n.floats(1), n.floats_or_none(2)
    axes = max(weight.ndim - 2, 1)
    window: dict[str, Any] = {
        "stride": n.window("strides", axes),
        "pads": n.pads(weight.shape[2:]),
        "dilation": n.window("dilations", axes),
        "group": int(n.get("group", 1)),
    }
    if n.node.op_type == "Conv":
        return convolution.convolution(n.composer, n.blob(), weight, bias, **window)
    more = n.window("output_padding", axes, 0, least=0)
    return convolution.deconvolution(n.composer, n.blob(), weight, bias, **window, more=more)


def _gemm(n: OnnxNode) -> str:
    if n.get("transA", 0) or n.rank() != 2:
        raise n.refuse("a transposed first input")
    weight = n.floats(1) * np.float32(n.get("alpha", 1.0))
    weight = weight if n.get("transB", 0) else weight.T
    bias = n.floats_or_none(2)
    if bias is not None:
        bias = bias * np.float32(n.get("beta", 1.0))
        if bias.size not in (1, len(weight)) or bias.shape[-1:] not in ((), (1,), (len(weight),)):
            raise n.refuse(f"a third input of shape {bias.shape} for {counted(len(weight), 'output')}")
        bias = np.broadcast_to(bias.ravel(), len(weight))
    return convolution.linear(n.composer, n.blob(), weight, bias)


def _matmul(n: OnnxNode) -> str:
    if n.is_constant(0):
        blob, matrix = n.blob(1), n.floats(0)
        if matrix.ndim != 2:
            raise n.refuse(f"a first factor of {counted(matrix.ndim, 'axis', 'axes')}")
        return n.composer.along(blob, -2, matrix)
    if not n.is_constant(1):
        return reductions.product(n.composer, n.blob(0), n.blob(1))
    weight = n.floats(1)
    return convolution.linear(n.composer, n.blob(), weight.T, None)


def _einsum(n: OnnxNode) -> str:
    constants = [index for index in range(len(n.inputs)) if n.is_constant(index)]
    if len(n.inputs) != 2 or len(constants) != 1:
        raise n.refuse("a product of blobs, as in attention; Caffe has no layer for it")
    (index,) = constants
    equation = n.text("equation", "")
    return convolution.einsum(n.composer, equation, n.blob(1 - index), n.floats(index), blob_first=index == 1)


def _batch_norm(n: OnnxNode) -> str:
    if n.get("training_mode", 0) or len(n.outputs) > 1:
        raise n.refuse("normalisation in training mode")
    scale, bias, mean, variance = (n.floats(index) for index in range(1, 5))
    eps = float(n.get("epsilon", 1e-5))
    return normalization.batch_norm(n.composer, n.blob(), scale, bias, mean, variance, eps)


def _instance_norm(n: OnnxNode) -> str:
    eps = float(n.get("epsilon", 1e-5))
    return normalization.group_norm(n.composer, n.blob(), n.shape()[1], n.floats(1), n.floats(2), eps)


def _group_norm(n: OnnxNode) -> str:
    groups, eps = int(n.attributes["num_groups"]), float(n.get("epsilon", 1e-5))
    return normalization.group_norm(n.composer, n.blob(), groups, n.floats(1), n.floats(2), eps)


def _layer_norm(n: OnnxNode) -> str:
    if any(n.outputs[1:]):
        raise n.refuse("mean and deviation as further outputs")
    number, eps = n.rank() - n.axis(-1), float(n.get("epsilon", 1e-5))
    centred = n.node.op_type == "LayerNormalization"
    bias = n.floats_or_none(2) if centred else None
    return normalization.layer_norm(n.composer, n.blob(), number, n.floats(1), bias, eps, centred=centred)


def _simple(function: Callable[..., str], **attributes: tuple[str, float]) -> Handler:
    """An operation of one blob; `attributes` maps its arguments to ONNX attributes and their defaults."""

    def convert(n: OnnxNode) -> str:
        given = {name: float(n.get(attribute, default)) for name, (attribute, default) in attributes.items()}
        return function(n.composer, n.blob(), **given)

    return convert


def _prelu(n: OnnxNode) -> str:
    slope, channels = n.floats(1), n.shape()[1]
    if slope.size not in (1, channels) or (slope.ndim > 1 and slope.shape[-3:] not in ((channels, 1, 1), (1, 1, 1))):
        raise n.refuse(f"slopes of shape {slope.shape}; Caffe has one per channel")
    if slope.ndim == 1 and slope.size > 1 and n.rank() > 2:
        raise n.refuse("slopes along the last axis")
    return activations.prelu(n.composer, n.blob(), slope)


def _gelu(n: OnnxNode) -> str:
    is_tanh = n.text("approximate", "none") == "tanh"
    return (activations.gelu_tanh if is_tanh else activations.gelu)(n.composer, n.blob())


def _clip(n: OnnxNode) -> str:
    limits = [n.get("min", None), n.get("max", None)]
    for index in (1, 2):
        if n.has(index):
            limits[index - 1] = n.number(index)
    low, high = (
        default if limit is None else limit for limit, default in zip(limits, (-math.inf, math.inf), strict=True)
    )
    return arithmetic.clamp(n.composer, n.blob(), low, high)


def _pad(n: OnnxNode) -> str:
    """Pad, whose numbers are an input or, up to opset 10, an attribute."""
    pads = n.optional(1, "pads") or []
    axes = [n.canonical(axis) for axis in (n.optional(3, "axes") if n.has(3) else None) or range(n.rank())]
    if len(pads) != 2 * len(axes):
        raise n.refuse(f"padding {pads}")
    both = [(0, 0)] * n.rank()
    for k, axis in enumerate(axes):
        both[axis] = pads[k], pads[k + len(axes)]
    value = n.number(2) if n.has(2) else float(n.get("value", 0.0))
    return _kept(n, convolution.pad(n.composer, n.blob(), both, n.text("mode", "constant"), value))


def _max_pool(n: OnnxNode) -> str:
    if len(n.outputs) > 1 and n.outputs[1]:
        raise n.refuse("indices of the maxima")
    kernel = [int(size) for size in n.attributes["kernel_shape"]]
    if any(step != 1 for step in n.window("dilations", len(kernel))) or n.get("storage_order", 0):
        raise n.refuse("dilated windows")
    stride, ceil = n.window("strides", len(kernel)), bool(n.get("ceil_mode", 0))
    return pooling.max_pool(n.composer, n.blob(), kernel, stride=stride, pads=n.pads(kernel), ceil=ceil)


def _average_pool(n: OnnxNode) -> str:
    kernel = [int(size) for size in n.attributes["kernel_shape"]]
    if any(step != 1 for step in n.window("dilations", len(kernel))):
        raise n.refuse("dilated windows")
    stride, pads, include = n.window("strides", len(kernel)), n.pads(kernel), bool(n.get("count_include_pad", 0))
    ceil = bool(n.get("ceil_mode", 0))
    if ceil and include and _rounds_up(n, kernel, stride, pads):
        raise n.refuse("averages over windows that end beyond the padding; engines divide them differently")
    return pooling.average_pool(n.composer, n.blob(), kernel, stride=stride, pads=pads, ceil=ceil, include_pad=include)


def _rounds_up(n: OnnxNode, kernel: list[int], stride: list[int], pads: list[int]) -> bool:
    """Whether the last window of a pooling does not fit in full."""
    sizes = n.shape()[2:]
    return any((sizes[i] + sum(pads[i :: len(kernel)]) - kernel[i]) % stride[i] for i in range(len(kernel)))


def _reduce(method: str) -> Handler:
    def convert(n: OnnxNode) -> str:
        axes, keep = n.optional(1, "axes"), bool(n.get("keepdims", 1))
        if not axes and n.get("noop_with_empty_axes", 0):
            return _identity(n)
        axes = axes or list(range(n.rank()))
        c, x = n.composer, n.blob()
        if method in ("L1", "L2"):
            return reductions.norm(c, x, axes, int(method[1]), keep=keep)
        if method == "SUMSQ":
            return reductions.reduce(c, arithmetic.square(c.part("square"), x), axes, "SUM", keep=keep)
        if method == "LOGSUMEXP":
            return reductions.log_sum_exp(c, x, axes, keep=keep)
        return reductions.reduce(c, x, axes, method, keep=keep)

    return convert


def _arg_max(n: OnnxNode) -> str:
    keep, last = bool(n.get("keepdims", 1)), bool(n.get("select_last_index", 0))
    return reductions.arg_max(n.composer, n.blob(), n.axis(0), keep=keep, last_of_equals=last)


def _resize(n: OnnxNode) -> str:
    """Resize, and Upsample of older opsets."""
    is_newer = n.node.op_type == "Resize" and n.graph.opset > 10
    place = n.text("coordinate_transformation_mode", "half_pixel") if is_newer else "asymmetric"
    shape, mode = n.shape(), n.text("mode", "nearest")
    if n.has(3):
        sizes = n.optional(3, "sizes") or []
        axes = n.get("axes", None)
        if axes is not None:
            given = dict(zip((n.canonical(axis) for axis in axes), sizes, strict=True))
            sizes = [given.get(axis, have) for axis, have in enumerate(shape)]
        factors = [size / have for size, have in zip(sizes, shape, strict=False)]
    elif "scales" in n.attributes:
        factors = [float(value) for value in n.attributes["scales"]]
    else:
        factors = [float(value) for value in n.floats(2 if is_newer else 1).ravel()]
    if len(shape) != 4 or len(factors) != 4 or factors[:2] != [1, 1]:
        raise n.refuse(f"factors {factors} of a blob of shape {shape}; only height and width have layers")
    size = [int(have * factor + 1e-6) for have, factor in zip(shape[2:], factors[2:], strict=True)]
    if n.get("antialias", 0) or min(size) < 1:
        raise n.refuse("antialias" if min(size) else f"size {size}")
    steps = factors[2:] if not n.has(3) else [new / have for new, have in zip(size, shape[2:], strict=True)]
    if mode == "linear":
        return _resize_linear(n, place, (size[0], size[1]), steps)
    if mode != "nearest":
        raise n.refuse(f"mode {mode}")
    rounding = n.text("nearest_mode", "round_prefer_floor") if is_newer else "floor"
    rows = [
        _nearest(n, place, rounding, have, new, step) for have, new, step in zip(shape[2:], size, steps, strict=True)
    ]
    return pooling.resize_nearest(n.composer, n.blob(), rows)


def _resize_linear(n: OnnxNode, place: str, size: tuple[int, int], steps: list[float]) -> str:
    exact = all(new == step * have for new, step, have in zip(size, steps, n.shape()[2:], strict=True))
    if place == "align_corners" or (place in ("half_pixel", "pytorch_half_pixel") and exact and min(size) > 1):
        corners = place == "align_corners"
        return pooling.resize_bilinear(n.composer, n.blob(), size, align_corners=corners)
    rows = [
        _linear(n, _places(n, place, have, new, step), have)
        for have, new, step in zip(n.shape()[2:], size, steps, strict=True)
    ]
    return pooling.resize_by(n.composer, n.blob(), rows)


def _places(n: OnnxNode, place: str, size: int, wanted: int, step: float) -> np.ndarray:
    """Where each pixel of the result lies in the source."""
    at = n.composer.entries(wanted).astype(np.float64)
    if place == "asymmetric":
        return (at.astype(np.float32) / np.float32(step)).astype(np.float64)  # rounded as engines do
    if place == "align_corners":
        return at * ((size - 1) / (wanted - 1) if wanted > 1 else 0)
    if place == "pytorch_half_pixel" and wanted == 1:
        return at * 0
    if place in ("half_pixel", "pytorch_half_pixel"):
        return (at + 0.5) / step - 0.5
    raise n.refuse(f"coordinates {place}")


def _linear(n: OnnxNode, places: np.ndarray, size: int) -> np.ndarray:
    n.net.check_size(8 * len(places) * size)
    places = np.clip(places, 0, size - 1)
    low = np.floor(places).astype(int)
    matrix = np.zeros((len(places), size))
    np.add.at(matrix, (np.arange(len(places)), low), 1 - (places - low))
    np.add.at(matrix, (np.arange(len(places)), np.minimum(low + 1, size - 1)), places - low)
    return matrix


def _nearest(n: OnnxNode, place: str, rounding: str, size: int, wanted: int, step: float) -> np.ndarray:
    places = _places(n, place, size, wanted, step)
    rounded = {
        "floor": np.floor(places),
        "ceil": np.ceil(places),
        "round_prefer_floor": np.ceil(places - 0.5),
        "round_prefer_ceil": np.floor(places + 0.5),
    }.get(rounding)
    if rounded is None:
        raise n.refuse(f"rounding {rounding}")
    shown: np.ndarray = np.clip(rounded, 0, size - 1).astype(int)
    return shown


def _add(n: OnnxNode) -> str:
    factor = -1.0 if n.node.op_type == "Sub" else 1.0
    return arithmetic.add(n.composer, n.value(0), n.value(1), factor)


def _sum(n: OnnxNode) -> str:
    values = n.values()
    if len(values) == 1:
        return _identity(n)
    if len(values) > 2 and len({n.net.shapes[v] if isinstance(v, str) else () for v in values}) == 1:
        return n.composer.add("Eltwise", [n.blob(i) for i in range(len(values))], eltwise_param={"operation": "SUM"})
    top = values[0]
    for index, value in enumerate(values[1:], 1):
        c = n.composer if index == len(values) - 1 else n.composer.part(f"term_{index}")
        top = arithmetic.add(c, top, value)
    return top  # type: ignore[return-value]


def _pow(n: OnnxNode) -> str:
    if not n.is_constant(1):
        raise n.refuse("a blob as exponent")
    return arithmetic.power(n.composer, n.blob(), n.number(1))


def _power(exponent: float, scale: float = 1.0) -> Handler:
    return lambda n: arithmetic.power(n.composer, n.blob(), exponent, scale)


def _extreme(function: Callable[..., str]) -> Handler:
    return lambda n: function(n.composer, n.values()) if len(n.inputs) > 1 else _identity(n)


def _where(n: OnnxNode) -> str:
    if not n.is_constant(0):
        raise n.refuse("a condition that depends on a blob")
    return arithmetic.where(n.composer, n.weight(0).astype(bool), n.value(1), n.value(2))


def _flatten(n: OnnxNode) -> str:
    axis, shape = n.axis(1), n.shape()
    if axis == 1:
        return shapes.flatten(n.composer, n.blob()) if len(shape) > 2 else _identity(n)
    return shapes.reshape(n.composer, n.blob(), (math.prod(shape[:axis]), -1))


def _reshape(n: OnnxNode) -> str:
    shape = n.optional(1, "shape") or []
    if n.get("allowzero", 0) and 0 in shape:
        raise n.refuse("an axis without entries")
    return _kept(n, shapes.reshape(n.composer, n.blob(), shape))


def _squeeze(n: OnnxNode) -> str:
    found, axes = list(n.shape()), n.optional(1, "axes")
    if n.node.op_type == "Unsqueeze":
        rank = len(found) + len(axes or [])
        for axis in sorted(axis % rank for axis in axes or []):
            found.insert(axis, 1)
    else:
        gone = {axis % len(found) for axis in axes} if axes else {i for i, size in enumerate(found) if size == 1}
        found = [size for i, size in enumerate(found) if i not in gone]
    return _kept(n, shapes.reshape(n.composer, n.blob(), found))


def _transpose(n: OnnxNode) -> str:
    order = [int(axis) for axis in n.get("perm", range(n.rank())[::-1])]
    return _kept(n, shapes.permute(n.composer, n.blob(), order))


def _softmax(n: OnnxNode) -> str:
    function = normalization.softmax if n.node.op_type == "Softmax" else normalization.log_softmax
    axis = n.axis(-1 if n.graph.opset >= 13 else 1)
    if n.graph.opset < 13 and any(size != 1 for size in n.shape()[axis + 1 :]):
        raise n.refuse(f"a Softmax of opset {n.graph.opset} over axes {axis} to {n.rank() - 1} together")
    return function(n.composer, n.blob(), axis)


def _lrn(n: OnnxNode) -> str:
    alpha, beta, k = (float(n.get(name, default)) for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return normalization.local_response_norm(n.composer, n.blob(), int(n.attributes["size"]), alpha, beta, k)


def _identity(n: OnnxNode) -> str:
    if len(n.outputs) > 1 and n.outputs[1]:
        raise n.refuse("the mask of a Dropout")
    return _kept(n, n.blob())


def _kept(n: OnnxNode, blob: str) -> str:
    """The blob; a copy for an output, which must carry its own name."""
    return n.composer.power(blob) if n.name in n.graph.outputs and blob != n.name else blob


def _split(n: OnnxNode) -> list[str]:
    axis, sizes = n.axis(0), n.optional(1, "split")
    size, number = n.shape()[axis], int(n.get("num_outputs", len(n.outputs)))
    if sizes is None:
        part = -(-size // number)
        if n.graph.opset < 18 and size % number:
            raise n.refuse(f"{counted(size, 'entry', 'entries')} in {number} unequal parts")
        sizes = [min(part, size - start) for start in range(0, size, part)]
    if len(sizes) == 1:
        return [_identity(n)]
    names = [name or f"{n.name}_{index}" for index, name in enumerate(n.outputs)]
    return shapes.split(n.composer, n.blob(), axis, sizes, names)


def _slice(n: OnnxNode) -> str:
    starts, ends = n.optional(1, "starts") or [], n.optional(2, "ends") or []
    axes = n.optional(3, "axes") or list(range(len(starts)))
    steps = n.optional(4, "steps") or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise n.refuse(
            f"starts, ends, axes and steps of {len(starts)}, {len(ends)}, {len(axes)} and {len(steps)} numbers"
        )
    x, shape = n.blob(), n.shape()
    cuts = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = n.canonical(axis)
        limits = slice(start, end, step).indices(shape[axis])
        if len(range(*limits)) != shape[axis] or step != 1:
            cuts.append((axis, range(*limits)))
    for index, (axis, places) in enumerate(cuts):
        if not places:
            raise n.refuse("no entries left")
        c = n.composer if index == len(cuts) - 1 else n.composer.part(f"axis_{axis}")
        n.net.check_size(8 * len(places))
        x = shapes.take(c, x, axis, np.array(places))
    return _kept(n, x)


def _gather(n: OnnxNode) -> str:
    axis, indices, x = n.axis(0), n.weight(1), n.blob()
    shape = n.shape()
    final = (*shape[:axis], *indices.shape, *shape[axis + 1 :])
    c = n.composer if indices.ndim == 1 else n.composer.part("entries")
    return _kept(n, n.composer.reshape(shapes.take(c, x, axis, indices), final))


def _tile(n: OnnxNode) -> str:
    return _kept(n, shapes.tile(n.composer, n.blob(), n.optional(1, "repeats") or []))


def _expand(n: OnnxNode) -> str:
    wanted, x = n.optional(1, "shape") or [], n.blob()
    rank = max(len(wanted), n.rank())
    full = (1,) * (rank - n.rank()) + n.shape()
    x = n.composer.part("axes").reshape(x, full)
    wanted = [1] * (rank - len(wanted)) + wanted
    wanted = [max(have, size) if 1 in (have, size) else size for have, size in zip(full, wanted, strict=True)]
    return _kept(n, shapes.expand(n.composer, x, wanted))


def _depth_to_space(n: OnnxNode) -> str:
    factor, first = int(n.attributes["blocksize"]), n.text("mode", "DCR") == "DCR"
    if n.node.op_type == "SpaceToDepth":
        return shapes.space_to_depth(n.composer, n.blob(), factor, blocks_first=True)
    return shapes.depth_to_space(n.composer, n.blob(), factor, blocks_first=first)


HANDLERS: dict[str, Handler] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _layer_norm,
    "Relu": _simple(activations.relu),
    "LeakyRelu": _simple(activations.relu, slope=("alpha", 0.01)),
    "ThresholdedRelu": lambda n: arithmetic.multiply(
        n.composer, n.blob(), arithmetic.greater(n.composer.part("large"), n.blob(), float(n.get("alpha", 1.0)))
    ),
    "PRelu": _prelu,
    "Elu": _simple(activations.elu, alpha=("alpha", 1.0)),
    "Selu": _simple(
        activations.elu, alpha=("alpha", 1.67326319217681884765625), scale=("gamma", 1.05070102214813232421875)
    ),
    "Celu": lambda n: activations.elu(n.composer, n.blob(), a := float(n.get("alpha", 1.0)), input_scale=1 / a),
    "Sigmoid": _simple(activations.sigmoid),
    "Tanh": _simple(activations.tanh),
    "Abs": _simple(activations.absolute),
    "Exp": _simple(activations.exponential),
    "Log": _simple(activations.logarithm),
    "Softplus": _simple(activations.softplus),
    "Softsign": _simple(activations.softsign),
    "HardSwish": _simple(activations.hard_swish),
    "Swish": _simple(activations.silu),
    "Mish": _simple(activations.mish),
    "Gelu": _gelu,
    "Erf": _simple(activations.error_function),
    "HardSigmoid": _simple(arithmetic.hard_sigmoid, alpha=("alpha", 0.2), beta=("beta", 0.5)),
    "Pad": _pad,
    "Neg": _power(1.0, -1.0),
    "Sqrt": _power(0.5),
    "Reciprocal": _power(-1.0),
    "Pow": _pow,
    "Clip": _clip,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda n: pooling.global_pool(n.composer, n.blob(), "AVE"),
    "GlobalMaxPool": lambda n: pooling.global_pool(n.composer, n.blob(), "MAX"),
    "ReduceMean": _reduce("AVE"),
    "ReduceSum": _reduce("SUM"),
    "ReduceMax": _reduce("MAX"),
    "ReduceMin": _reduce("MIN"),
    "ReduceL1": _reduce("L1"),
    "ReduceL2": _reduce("L2"),
    "ReduceSumSquare": _reduce("SUMSQ"),
    "ReduceLogSumExp": _reduce("LOGSUMEXP"),
    "ArgMax": _arg_max,
    **dict.fromkeys(("Add", "Sub"), _add),
    "Mul": lambda n: arithmetic.multiply(n.composer, n.value(0), n.value(1)),
    "Div": lambda n: arithmetic.divide(n.composer, n.value(0), n.value(1)),
    "Sum": _sum,
    "Max": _extreme(arithmetic.maximum),
    "Min": _extreme(arithmetic.minimum),
    "Where": _where,
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Concat": lambda n: shapes.concat(n.composer, n.values(), int(n.attributes["axis"])),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _squeeze,
    "Transpose": _transpose,
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "LRN": _lrn,
    **dict.fromkeys(("Dropout", "Identity", "Cast"), _identity),
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Tile": _tile,
    "Expand": _expand,
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _depth_to_space),
}
