"""ONNX operators as Caffe layers, one function each; what a layer does not do exactly is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyscratchdet.converters.onnx_node import OnnxNode
from pyscratchdet.errors import counted


def _conv(n: OnnxNode) -> str:
    weight = n.floats(1)
    if weight.ndim != 4:
        raise n.refuse(f"a convolution over {counted(weight.ndim - 2, 'axis', 'axes')}; two are supported")
    bias = n.floats(2) if len(n.inputs) > 2 and n.inputs[2] else None
    window: dict[str, Any] = {
        "stride": n.pair("strides"),
        "pads": n.pads(),
        "dilation": n.pair("dilations"),
        "group": int(n.get("group", 1)),
    }
    if n.node.op_type == "Conv":
        return n.net.convolution(n.name, n.blob(), weight, bias, **window)
    if "output_shape" in n.attributes:
        raise n.refuse("output_shape; give the padding in numbers")
    more = n.pair("output_padding", 0, least=0)
    return n.net.deconvolution(n.name, n.blob(), weight, bias, **window, more=more)


def _gemm(n: OnnxNode) -> str:
    if n.get("transA", 0) or n.rank() != 2:
        raise n.refuse("a transposed first input")
    weight = n.floats(1) * np.float32(n.get("alpha", 1.0))
    weight = weight if n.get("transB", 0) else weight.T
    bias = None
    if len(n.inputs) > 2 and n.inputs[2]:
        bias = n.floats(2) * np.float32(n.get("beta", 1.0))
        if bias.size not in (1, len(weight)) or bias.shape[-1:] not in ((), (1,), (len(weight),)):
            raise n.refuse(f"a third input of shape {bias.shape} for {counted(len(weight), 'output')}")
        bias = np.broadcast_to(bias.ravel(), len(weight))
    return n.net.inner_product(n.name, n.blob(), weight, bias)


def _matmul(n: OnnxNode) -> str:
    weight = n.floats(1)
    if weight.ndim != 2:
        raise n.refuse(f"a second factor of {counted(weight.ndim, 'axis', 'axes')}")
    return n.net.inner_product(n.name, n.blob(), weight.T, None)


def _batch_norm(n: OnnxNode) -> str:
    if n.get("training_mode", 0) or len(n.outputs) > 1:
        raise n.refuse("normalisation in training mode")
    return n.net.batch_norm(
        n.name, n.blob(), n.floats(1), n.floats(2), n.floats(3), n.floats(4), float(n.get("epsilon", 1e-5))
    )


def _simple(kind: str, **params: Any) -> Callable[[OnnxNode], str]:
    return lambda n: n.net.add(kind, n.name, [n.blob()], **params)[0]


def _leaky_relu(n: OnnxNode) -> str:
    return n.net.add("ReLU", n.name, [n.blob()], relu_param={"negative_slope": float(n.get("alpha", 0.01))})[0]


def _elu(n: OnnxNode) -> str:
    return n.net.add("ELU", n.name, [n.blob()], elu_param={"alpha": float(n.get("alpha", 1.0))})[0]


def _prelu(n: OnnxNode) -> str:
    slope, channels = n.floats(1), n.net.shapes[n.blob()][1]
    if slope.size not in (1, channels) or (slope.ndim > 1 and slope.shape[-3:] not in ((channels, 1, 1), (1, 1, 1))):
        raise n.refuse(f"slopes of shape {slope.shape}; Caffe has one per channel")
    if slope.ndim == 1 and slope.size > 1 and n.rank() > 2:
        raise n.refuse("slopes along the last axis")
    shared = slope.size == 1 and channels > 1
    values = {"channel_shared": shared}
    weight = slope.reshape(()) if shared else slope.ravel()
    return n.net.add("PReLU", n.name, [n.blob()], [weight], prelu_param=values)[0]


def _clip(n: OnnxNode) -> str:
    limits = [n.get("min", None), n.get("max", None)]
    for index in (1, 2):
        if index < len(n.inputs) and n.inputs[index]:
            limits[index - 1] = n.number(index)
    low, high = (default if limit is None else limit for limit, default in zip(limits, (-np.inf, np.inf), strict=True))
    return n.net.clamp(n.name, n.blob(), low, high)


def _hard_sigmoid(n: OnnxNode) -> str:
    return n.net.hard_sigmoid(n.name, n.blob(), float(n.get("alpha", 0.2)), float(n.get("beta", 0.5)))


def _pad(n: OnnxNode) -> str:
    """Pad of zeros, as an input or, up to opset 10, as attributes; dropped where it adds nothing."""
    pads = n.optional(1, "pads") or []
    if len(n.inputs) > 3 and n.inputs[3]:
        given, axes = pads, [n.canonical(axis) for axis in n.optional(3, "axes") or []]
        pads = [0] * 2 * n.rank()
        for k, axis in enumerate(axes):
            pads[axis], pads[axis + n.rank()] = given[k], given[k + len(axes)]
    if not any(pads):
        return _identity(n)
    value = n.number(2) if len(n.inputs) > 2 and n.inputs[2] else float(n.get("value", 0.0))
    if n.text("mode", "constant") != "constant" or value:
        raise n.refuse(f"{n.text('mode', 'constant')} padding with {value:g}; Caffe pads with zeros")
    if n.rank() != 4 or len(pads) != 8 or any(pads[:2] + pads[4:6]) or min(pads) < 0:
        raise n.refuse(f"padding {pads}; only height and width can be padded")
    return n.net.pad(n.name, n.blob(), (*pads[2:4], *pads[6:8]))  # type: ignore[arg-type]


def _pool(method: str) -> Callable[[OnnxNode], str]:
    def convert(n: OnnxNode) -> str:
        if len(n.outputs) > 1 and n.outputs[1]:
            raise n.refuse("indices of the maxima")
        if n.pair("dilations") != (1, 1) or n.get("storage_order", 0):
            raise n.refuse("dilated windows")
        ceil = bool(n.get("ceil_mode", 0))
        if ceil and method == "AVE" and _rounds_up(n):
            raise n.refuse("averages over windows that end beyond the padding; engines divide them differently")
        return n.net.pool(
            n.name,
            n.blob(),
            method,
            n.pair("kernel_shape"),
            stride=n.pair("strides"),
            pads=n.pads(),
            ceil=ceil,
            include_pad=bool(n.get("count_include_pad", 0)),
        )

    return convert


def _rounds_up(n: OnnxNode) -> bool:
    """Whether the last window of a pooling does not fit in full."""
    pads, kernel, stride = n.pads(), n.pair("kernel_shape"), n.pair("strides")
    return any((n.net.shapes[n.blob()][i + 2] + sum(pads[i::2]) - kernel[i]) % stride[i] for i in (0, 1))


def _reduce_mean(n: OnnxNode) -> str:
    axes = n.optional(1, "axes")
    if n.rank() != 4 or axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
        raise n.refuse(f"a mean over axes {axes}; only a mean over height and width has a layer")
    keep = bool(n.get("keepdims", 1))
    top = n.net.global_pool(n.name if keep else f"{n.name}_mean", n.blob(), "AVE")
    return top if keep else n.net.add("Flatten", n.name, [top])[0]


def _resize(n: OnnxNode) -> str:
    """Resize, and Upsample of older opsets."""
    is_newer = n.node.op_type == "Resize" and n.graph.opset > 10
    place = n.text("coordinate_transformation_mode", "half_pixel") if is_newer else "asymmetric"
    shape = n.net.shapes[n.blob()]
    if len(n.inputs) > 3 and n.inputs[3]:
        factors = [size / have for size, have in zip(n.optional(3, "sizes") or [], shape, strict=False)]
    elif "scales" in n.attributes:
        factors = [float(value) for value in n.attributes["scales"]]
    else:
        factors = [float(value) for value in n.floats(2 if is_newer else 1).ravel()]
    if len(shape) != 4 or len(factors) != 4 or factors[:2] != [1, 1]:
        raise n.refuse(f"factors {factors} of a blob of shape {shape}; only height and width have layers")
    if n.text("mode", "nearest") == "linear" and place == "align_corners" and not n.get("antialias", 0):
        size = [int(have * factor) for have, factor in zip(shape[2:], factors[2:], strict=True)]
        return n.net.enlarge_bilinear(n.name, n.blob(), (size[0], size[1]), align_corners=True)
    if any(factor < 1 or factor % 1 for factor in factors):
        raise n.refuse(f"factors {factors}; only whole ones over height and width have a layer")
    height, width = int(factors[2]), int(factors[3])
    halves = place in ("half_pixel", "pytorch_half_pixel")
    if n.text("mode", "nearest") == "linear" and halves:
        size = [shape[2] * height, shape[3] * width]
        return n.net.enlarge_bilinear(n.name, n.blob(), (size[0], size[1]), align_corners=False)
    if n.text("mode", "nearest") != "nearest":
        raise n.refuse(f"mode {n.text('mode', '')} with {place} coordinates, which no layer computes")
    rounding = n.text("nearest_mode", "round_prefer_floor") if is_newer else "floor"
    if not (halves and rounding.startswith("round_prefer")) and (place, rounding) != ("asymmetric", "floor"):
        raise n.refuse(f"{place} coordinates with {rounding}, which do not repeat each pixel equally often")
    return n.net.enlarge(n.name, n.blob(), (height, width))


def _sum(n: OnnxNode) -> str:
    if n.node.op_type in ("Add", "Mul") and (n.is_constant(0) or n.is_constant(1)):
        blob, constant = (1, 0) if n.is_constant(0) else (0, 1)
        return n.net.constant(n.name, n.node.op_type, n.blob(blob), n.weight(constant))
    operation = {"Add": "SUM", "Sum": "SUM", "Mul": "PROD", "Max": "MAX", "Sub": "SUM"}[n.node.op_type]
    if n.node.op_type == "Sub" and n.is_constant(1):
        return n.net.constant(n.name, "Add", n.blob(), -n.floats(1))
    if n.node.op_type == "Sub" and n.is_constant(0):
        negative = n.net.constant(f"{n.name}_negative", "Mul", n.blob(1), np.array(-1, np.float32))
        return n.net.constant(n.name, "Add", negative, n.floats(0))
    coeff = (1, -1) if n.node.op_type == "Sub" else ()
    if len(n.inputs) == 1:
        return n.blob()
    return n.net.eltwise(n.name, operation, [n.blob(i) for i in range(len(n.inputs))], coeff)


def _div(n: OnnxNode) -> str:
    divisor = n.floats(1)
    inverse = np.float32(1) / divisor
    if not np.array_equal(inverse * divisor, np.ones_like(divisor)) or np.any(np.frexp(divisor)[0] != 0.5):
        raise n.refuse("a division by a number that is not a power of two; multiplying does not give it exactly")
    return n.net.constant(n.name, "Mul", n.blob(), inverse)


def _power(n: OnnxNode) -> str:
    exponent = {"Sqrt": 0.5, "Neg": 1.0}.get(n.node.op_type)
    if exponent is None:
        exponent = n.number(1)
    values = {"scale": -1.0} if n.node.op_type == "Neg" else {"power": exponent}
    return n.net.add("Power", n.name, [n.blob()], power_param=values)[0]


def _concat(n: OnnxNode) -> str:
    bottoms = [n.blob(i) for i in range(len(n.inputs))]
    return n.net.add("Concat", n.name, bottoms, concat_param={"axis": n.axis(1)})[0]


def _flatten(n: OnnxNode) -> str:
    axis = n.axis(1)
    if axis != 1:
        raise n.refuse(f"axis {axis}; Caffe's Flatten keeps two axes from axis 1 only")
    return n.net.add("Flatten", n.name, [n.blob()])[0]


def _reshape(n: OnnxNode) -> str:
    shape = n.optional(1, "shape") or []
    if n.get("allowzero", 0) and 0 in shape:
        raise n.refuse("an axis without entries")
    return n.net.reshape(n.name, n.blob(), shape)


def _squeeze(n: OnnxNode) -> str:
    found = list(n.net.shapes[n.blob()])
    axes = n.optional(1, "axes")
    if n.node.op_type == "Unsqueeze":
        rank = len(found) + len(axes or [])
        for axis in sorted(axis % rank for axis in axes or []):
            found.insert(axis, 1)
    else:
        gone = {axis % len(found) for axis in axes} if axes else {i for i, size in enumerate(found) if size == 1}
        found = [size for i, size in enumerate(found) if i not in gone]
    return n.net.reshape(n.name, n.blob(), found)


def _transpose(n: OnnxNode) -> str:
    order = [int(axis) for axis in n.get("perm", range(n.rank())[::-1])]
    return n.net.add("Permute", n.name, [n.blob()], permute_param={"order": order})[0]


def _softmax(n: OnnxNode) -> str:
    rank = n.rank()
    axis = n.axis(-1 if n.graph.opset >= 13 else 1)
    if n.graph.opset < 13 and any(size != 1 for size in n.net.shapes[n.blob()][axis + 1 :]):
        raise n.refuse(f"a Softmax of opset {n.graph.opset} over axes {axis} to {rank - 1} together")
    return n.net.add("Softmax", n.name, [n.blob()], softmax_param={"axis": axis})[0]


def _lrn(n: OnnxNode) -> str:
    values = {
        "local_size": int(n.attributes["size"]),
        "alpha": float(n.get("alpha", 1e-4)),
        "beta": float(n.get("beta", 0.75)),
        "k": float(n.get("bias", 1.0)),
    }
    if values["local_size"] % 2 == 0:
        raise n.refuse("an even size")
    return n.net.add("LRN", n.name, [n.blob()], lrn_param=values)[0]


def _identity(n: OnnxNode) -> str:
    if len(n.outputs) > 1 and n.outputs[1]:
        raise n.refuse("the mask of a Dropout")
    if n.name in n.graph.outputs:  # an output must carry its own name
        return n.net.add("Power", n.name, [n.blob()])[0]
    return n.blob()


def _split(n: OnnxNode) -> list[str]:
    axis, sizes = n.axis(0), n.optional(1, "split")
    size = n.net.shapes[n.blob()][axis]
    if sizes is None:
        if size % len(n.outputs):
            raise n.refuse(f"{counted(size, 'entry', 'entries')} in {len(n.outputs)} unequal parts")
        sizes = [size // len(n.outputs)] * len(n.outputs)
    return [n.blob()] if len(sizes) == 1 else n.net.split(n.node.name or n.name, n.blob(), axis, sizes, n.outputs)


def _slice(n: OnnxNode) -> str:
    starts, ends = n.optional(1, "starts"), n.optional(2, "ends")
    axes, steps = n.optional(3, "axes"), n.optional(4, "steps")
    shape = n.net.shapes[n.blob()]
    if not starts or not ends or len(starts) != 1 or (steps and steps != [1]) or (axes and len(axes) != 1):
        raise n.refuse("several axes at once, or steps")
    axis = n.canonical(axes[0]) if axes else 0
    start, end, _ = slice(starts[0], ends[0]).indices(shape[axis])
    if end <= start:
        raise n.refuse("no entries left")
    return n.blob() if end - start == shape[axis] else n.net.part(n.name, n.blob(), axis, start, end)


HANDLERS: dict[str, Callable[[OnnxNode], str | list[str]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "Relu": _simple("ReLU"),
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Elu": _elu,
    "Sigmoid": _simple("Sigmoid"),
    "Tanh": _simple("TanH"),
    "Abs": _simple("AbsVal"),
    "Exp": _simple("Exp"),
    "Log": _simple("Log"),
    "Softplus": _simple("BNLL"),
    "HardSwish": _simple("HardSwish"),
    "HardSigmoid": _hard_sigmoid,
    "Pad": _pad,
    **dict.fromkeys(("Neg", "Pow", "Sqrt"), _power),
    "Clip": _clip,
    "MaxPool": _pool("MAX"),
    "AveragePool": _pool("AVE"),
    "GlobalAveragePool": lambda n: n.net.global_pool(n.name, n.blob(), "AVE"),
    "GlobalMaxPool": lambda n: n.net.global_pool(n.name, n.blob(), "MAX"),
    "ReduceMean": _reduce_mean,
    **dict.fromkeys(("Add", "Sum", "Mul", "Max", "Sub"), _sum),
    "Div": _div,
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Concat": _concat,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _squeeze,
    "Transpose": _transpose,
    "Softmax": _softmax,
    "LRN": _lrn,
    "Dropout": _identity,
    "Identity": _identity,
    "Split": _split,
    "Slice": _slice,
}
