"""From ONNX to a Caffe net, for graphs of operators that Caffe has; anything inexact is refused with its reason.

Blobs keep the names of the ONNX values, so both nets can be compared value by value. Chains of integers that compute
shapes are worked out beforehand, with the input shapes of the file (an open batch counts as 1 and stays open).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from converters.build import NetBuilder
from pyscratchdet.errors import ConversionError, FileError, WeightsError

# What may be computed beforehand from constants alone.
_FOLDABLE = {"Add", "Cast", "Concat", "Div", "Equal", "Gather", "Identity", "Mul", "Reciprocal", "Reshape"}
_FOLDABLE |= {"Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where"}


def import_onnx(path: str | os.PathLike[str]) -> NetBuilder:
    """Returns the net of an ONNX file.

    Args:
        path: The file; weights inside it.

    Raises:
        FileError, WeightsError: The file is missing or damaged.
        ConversionError: A node cannot be expressed exactly; names the node, its operator and the reason.
    """
    name = os.fspath(path)
    try:
        model = onnx.load_model(name, load_external_data=False)
        for value in model.graph.output:  # some exporters leave their shapes out, which the checker minds
            value.type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(model)
    except OSError as error:
        raise FileError(f"cannot read {name}: {error.strerror or error}", code="file.read") from error
    except (DecodeError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "not an ONNX model"
        raise WeightsError(f"{name}: damaged ONNX file: {reason}", code="weights.damaged") from error
    return _Importer(model, name).run()


class _Importer:
    def __init__(self, model: onnx.ModelProto, path: str) -> None:
        self.graph = model.graph
        self.path = path
        self.opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
        self.net = NetBuilder(model.graph.name or "net")
        self.constants: dict[str, np.ndarray] = {}
        self.blobs: dict[str, str] = {}  # ONNX value -> our blob

    def run(self) -> NetBuilder:
        for tensor in self.graph.initializer:
            if tensor.data_location:
                raise WeightsError(f'{self.path}: "{tensor.name}" lies in another file', code="weights.external")
            self.constants[tensor.name] = numpy_helper.to_array(tensor)
        for value in self.graph.input:
            if value.name not in self.constants:
                self.blobs[value.name] = self.net.input(value.name, self._input_shape(value))
        for node in self.graph.node:
            _Node(self, node).convert()
        for value in self.graph.output:
            if value.name not in self.blobs:
                raise ConversionError(
                    f'output "{value.name}" depends on no input', code="import.output", found="a constant"
                )
        return self.net

    def _input_shape(self, value: onnx.ValueInfoProto) -> tuple[int, ...]:
        dims = value.type.tensor_type.shape.dim
        shape = [dim.dim_value or (1 if i == 0 else 0) for i, dim in enumerate(dims)]
        if not shape or not all(shape) or value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise ConversionError(
                f'input "{value.name}" has no fixed shape of floats',
                code="import.shape",
                expected="numbers for all axes but the batch",
                found=[dim.dim_value or dim.dim_param or "?" for dim in dims],
            )
        return tuple(shape)


class _Node:
    """One node on its way into the net."""

    def __init__(self, importer: _Importer, node: onnx.NodeProto) -> None:
        self.importer = importer
        self.net = importer.net
        self.node = node
        self.inputs = list(node.input)
        self.outputs = list(node.output)
        self.name = self.outputs[0]
        self.attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def convert(self) -> None:
        if self._fold():
            return
        handler = _HANDLERS.get(self.node.op_type) if self.node.domain in ("", "ai.onnx") else None
        if handler is None:
            raise self.refuse("Caffe has no layer for this operator")
        results = handler(self)
        tops = [results] if isinstance(results, str) else results
        self.importer.blobs.update(zip(self.outputs, tops, strict=False))

    def refuse(self, reason: str) -> ConversionError:
        return self.net.refuse(self.node.name or self.name, self.node.op_type, reason)

    # --- reading the node ---

    def blob(self, index: int = 0) -> str:
        """The blob at an input."""
        name = self.inputs[index] if index < len(self.inputs) else ""
        if name in self.importer.constants:
            raise self.refuse(f'"{name}" is a constant where Caffe needs a blob')
        if name not in self.importer.blobs:
            raise self.refuse(f'"{name}" is computed by nothing before it')
        return self.importer.blobs[name]

    def rank(self) -> int:
        return len(self.net.shapes[self.blob()])

    def is_constant(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] in self.importer.constants

    def weight(self, index: int) -> np.ndarray:
        """The constant at an input, of any type."""
        if not self.is_constant(index):
            raise self.refuse(f"input {index} is no constant")
        return self.importer.constants[self.inputs[index]]

    def floats(self, index: int) -> np.ndarray:
        return self.weight(index).astype(np.float32)

    def optional(self, index: int, attribute: str) -> list[int] | None:
        """Integers that older opsets give as an attribute and newer ones as an input."""
        if attribute in self.attributes:
            return [int(value) for value in np.atleast_1d(self.attributes[attribute])]
        if index < len(self.inputs) and self.inputs[index]:
            return [int(value) for value in self.weight(index).ravel()]
        return None

    def get(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)

    def number(self, index: int) -> float:
        """The constant at an input, of one entry."""
        if self.weight(index).size != 1:
            raise self.refuse(f"input {index} of shape {self.weight(index).shape} where one number is expected")
        return float(self.floats(index).ravel()[0])

    def axis(self, default: int) -> int:
        return self.canonical(int(self.get("axis", default)))

    def canonical(self, axis: int) -> int:
        """An axis of the first input, counted from the front."""
        rank = self.rank()
        if not -rank <= axis < rank:
            raise self.refuse(f"axis {axis} of a blob of {rank} axes")
        return axis % rank

    def pair(self, name: str, default: int = 1) -> tuple[int, int]:
        values = tuple(int(value) for value in self.get(name, (default, default)))
        if len(values) != 2:
            raise self.refuse(f"{name} over {len(values)} axes; two are supported")
        if min(values) < 1:
            raise self.refuse(f"{name} of {list(values)}")
        return values

    def pads(self) -> tuple[int, int, int, int]:
        auto = self.get("auto_pad", b"NOTSET").decode()
        if auto not in ("NOTSET", "VALID"):
            raise self.refuse(f"auto_pad {auto}; give the padding in numbers")
        values = tuple(int(value) for value in self.get("pads", (0, 0, 0, 0)))
        if len(values) != 4 or min(values) < 0:
            raise self.refuse(f"padding {values}")
        return values

    # --- constants ---

    def _fold(self) -> bool:
        """Works out a node of constants; True when it was one."""
        constants, kind = self.importer.constants, self.node.op_type
        if kind == "Constant":
            value = next((v for v in self.attributes.values()), None)
            array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
            constants[self.name] = array
            return True
        if kind == "Shape" and not self.is_constant(0):
            constants[self.name] = np.array(self.net.shapes[self.blob()], np.int64)
            return True
        given = [name for name in self.inputs if name]
        if kind not in _FOLDABLE or not given or any(name not in constants for name in given):
            return False
        constants[self.name] = self._evaluate(given)
        return True

    def _evaluate(self, given: list[str]) -> np.ndarray:
        from onnx.reference import ReferenceEvaluator

        feed = {name: self.importer.constants[name] for name in given}
        types = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feed.items()
        ]
        body = helper.make_graph([self.node], "constant", types, [onnx.ValueInfoProto(name=self.name)])
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", self.importer.opset)])
        try:
            with np.errstate(all="ignore"):
                results: Any = ReferenceEvaluator(model).run(None, feed)
                return np.asarray(results[0])
        except Exception as error:  # the evaluator answers bad shapes and values with all kinds
            raise self.refuse(f"its constants cannot be worked out: {error}") from error


def _conv(n: _Node) -> str:
    weight = n.floats(1)
    if weight.ndim != 4:
        raise n.refuse(f"a convolution over {weight.ndim - 2} axes; two are supported")
    transposed = n.node.op_type == "ConvTranspose"
    if transposed and (any(n.get("output_padding", [0])) or "output_shape" in n.attributes):
        raise n.refuse("output_padding or output_shape; Caffe has neither")
    return n.net.convolution(
        n.name,
        n.blob(),
        weight,
        n.floats(2) if len(n.inputs) > 2 and n.inputs[2] else None,
        stride=n.pair("strides"),
        pads=n.pads(),
        dilation=n.pair("dilations"),
        group=int(n.get("group", 1)),
        transposed=transposed,
    )


def _gemm(n: _Node) -> str:
    if n.get("transA", 0) or n.rank() != 2:
        raise n.refuse("a transposed first input")
    weight = n.floats(1) * np.float32(n.get("alpha", 1.0))
    weight = weight if n.get("transB", 0) else weight.T
    bias = None
    if len(n.inputs) > 2 and n.inputs[2]:
        bias = n.floats(2) * np.float32(n.get("beta", 1.0))
        if bias.size not in (1, len(weight)) or bias.shape[-1:] not in ((), (1,), (len(weight),)):
            raise n.refuse(f"a third input of shape {bias.shape} for {len(weight)} outputs")
        bias = np.broadcast_to(bias.ravel(), len(weight))
    return n.net.inner_product(n.name, n.blob(), weight, bias)


def _matmul(n: _Node) -> str:
    weight = n.floats(1)
    if weight.ndim != 2:
        raise n.refuse(f"a second factor of {weight.ndim} axes")
    return n.net.inner_product(n.name, n.blob(), weight.T, None)


def _batch_norm(n: _Node) -> str:
    if n.get("training_mode", 0) or len(n.outputs) > 1:
        raise n.refuse("normalisation in training mode")
    return n.net.batch_norm(
        n.name, n.blob(), n.floats(1), n.floats(2), n.floats(3), n.floats(4), float(n.get("epsilon", 1e-5))
    )


def _simple(kind: str, **params: Any) -> Callable[[_Node], str]:
    return lambda n: n.net.add(kind, n.name, [n.blob()], **params)[0]


def _leaky_relu(n: _Node) -> str:
    return n.net.add("ReLU", n.name, [n.blob()], relu_param={"negative_slope": float(n.get("alpha", 0.01))})[0]


def _elu(n: _Node) -> str:
    return n.net.add("ELU", n.name, [n.blob()], elu_param={"alpha": float(n.get("alpha", 1.0))})[0]


def _prelu(n: _Node) -> str:
    slope, channels = n.floats(1), n.net.shapes[n.blob()][1]
    if slope.size not in (1, channels) or (slope.ndim > 1 and slope.shape[-3:] not in ((channels, 1, 1), (1, 1, 1))):
        raise n.refuse(f"slopes of shape {slope.shape}; Caffe has one per channel")
    if slope.ndim == 1 and slope.size > 1 and n.rank() > 2:
        raise n.refuse("slopes along the last axis")
    shared = slope.size == 1 and channels > 1
    values = {"channel_shared": shared}
    weight = slope.reshape(()) if shared else slope.ravel()
    return n.net.add("PReLU", n.name, [n.blob()], [weight], prelu_param=values)[0]


def _clip(n: _Node) -> str:
    limits = [n.get("min", None), n.get("max", None)]
    for index in (1, 2):
        if index < len(n.inputs) and n.inputs[index]:
            limits[index - 1] = n.number(index)
    if limits == [0, 6]:
        return n.net.add("ReLU6", n.name, [n.blob()])[0]
    if limits[0] == 0 and limits[1] is None:
        return n.net.add("ReLU", n.name, [n.blob()])[0]
    raise n.refuse(f"limits {limits}; only 0 to 6 and 0 to infinity have layers")


def _pool(method: str) -> Callable[[_Node], str]:
    def convert(n: _Node) -> str:
        if len(n.outputs) > 1 and n.outputs[1]:
            raise n.refuse("indices of the maxima")
        if n.pair("dilations") != (1, 1) or n.get("storage_order", 0):
            raise n.refuse("dilated windows")
        ceil = bool(n.get("ceil_mode", 0))
        if ceil and method == "AVE":
            raise n.refuse("averages that round up; engines divide them differently")
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


def _reduce_mean(n: _Node) -> str:
    axes = n.optional(1, "axes")
    if n.rank() != 4 or axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
        raise n.refuse(f"a mean over axes {axes}; only that over height and width has a layer")
    keep = bool(n.get("keepdims", 1))
    top = n.net.global_pool(n.name if keep else f"{n.name}_mean", n.blob(), "AVE")
    return top if keep else n.net.add("Flatten", n.name, [top])[0]


def _sum(n: _Node) -> str:
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


def _div(n: _Node) -> str:
    divisor = n.floats(1)
    inverse = np.float32(1) / divisor
    if not np.array_equal(inverse * divisor, np.ones_like(divisor)) or np.any(np.frexp(divisor)[0] != 0.5):
        raise n.refuse("a division by what is no power of two, which a product does not give exactly")
    return n.net.constant(n.name, "Mul", n.blob(), inverse)


def _power(n: _Node) -> str:
    exponent = {"Sqrt": 0.5, "Neg": 1.0}.get(n.node.op_type)
    if exponent is None:
        exponent = n.number(1)
    values = {"scale": -1.0} if n.node.op_type == "Neg" else {"power": exponent}
    return n.net.add("Power", n.name, [n.blob()], power_param=values)[0]


def _concat(n: _Node) -> str:
    bottoms = [n.blob(i) for i in range(len(n.inputs))]
    return n.net.add("Concat", n.name, bottoms, concat_param={"axis": n.axis(1)})[0]


def _flatten(n: _Node) -> str:
    axis = n.axis(1)
    if axis != 1:
        raise n.refuse(f"axis {axis}; Caffe's Flatten keeps two axes from axis 1 only")
    return n.net.add("Flatten", n.name, [n.blob()])[0]


def _reshape(n: _Node) -> str:
    shape = n.optional(1, "shape") or []
    if n.get("allowzero", 0) and 0 in shape:
        raise n.refuse("an axis of no entries")
    return n.net.reshape(n.name, n.blob(), shape)


def _squeeze(n: _Node) -> str:
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


def _transpose(n: _Node) -> str:
    order = [int(axis) for axis in n.get("perm", range(n.rank())[::-1])]
    return n.net.add("Permute", n.name, [n.blob()], permute_param={"order": order})[0]


def _softmax(n: _Node) -> str:
    rank = n.rank()
    axis = n.axis(-1 if n.importer.opset >= 13 else 1)
    if n.importer.opset < 13 and any(size != 1 for size in n.net.shapes[n.blob()][axis + 1 :]):
        raise n.refuse(f"a Softmax of opset {n.importer.opset} over axes {axis} to {rank - 1} together")
    return n.net.add("Softmax", n.name, [n.blob()], softmax_param={"axis": axis})[0]


def _lrn(n: _Node) -> str:
    values = {
        "local_size": int(n.attributes["size"]),
        "alpha": float(n.get("alpha", 1e-4)),
        "beta": float(n.get("beta", 0.75)),
        "k": float(n.get("bias", 1.0)),
    }
    if values["local_size"] % 2 == 0:
        raise n.refuse("an even size")
    return n.net.add("LRN", n.name, [n.blob()], lrn_param=values)[0]


def _identity(n: _Node) -> str:
    if len(n.outputs) > 1 and n.outputs[1]:
        raise n.refuse("the mask of a Dropout")
    if n.name in {value.name for value in n.importer.graph.output}:  # an output must carry its own name
        return n.net.add("Power", n.name, [n.blob()])[0]
    return n.blob()


def _split(n: _Node) -> list[str]:
    axis, sizes = n.axis(0), n.optional(1, "split")
    size = n.net.shapes[n.blob()][axis]
    if sizes is None:
        if size % len(n.outputs):
            raise n.refuse(f"{size} entries in {len(n.outputs)} unequal parts")
        sizes = [size // len(n.outputs)] * len(n.outputs)
    return [n.blob()] if len(sizes) == 1 else n.net.split(n.node.name or n.name, n.blob(), axis, sizes, n.outputs)


def _slice(n: _Node) -> str:
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


_HANDLERS: dict[str, Callable[[_Node], str | list[str]]] = {
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
    **dict.fromkeys(("Neg", "Pow", "Sqrt"), _power),
    "Clip": _clip,
    "MaxPool": _pool("MAX"),
    "AveragePool": _pool("AVE"),
    "GlobalAveragePool": lambda n: n.net.global_pool(n.name, n.blob(), "AVE"),
    "GlobalMaxPool": lambda n: n.net.global_pool(n.name, n.blob(), "MAX"),
    "ReduceMean": _reduce_mean,
    **dict.fromkeys(("Add", "Sum", "Mul", "Max", "Sub"), _sum),
    "Div": _div,
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
