"""One ONNX node as the operators' functions see it: its blobs, constants and attributes, with errors that name it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from pyscratchdet.converters.build import NetBuilder
from pyscratchdet.converters.operations.composer import Composer, Value
from pyscratchdet.converters.weights import onnx_array
from pyscratchdet.errors import ConversionError, counted
from pyscratchdet.files import check_unpacked

# Operators that are computed in advance where they depend on constants alone, by how large their results can be:
# as the first input, as all inputs broadcast together, or by a rule of their own (`_folded_size`).
_AS_FIRST = """Abs ArgMax ArgMin BatchNormalization Cast CastLike Ceil Clip Erf Exp Flatten Floor Identity
InstanceNormalization IsNaN Log Neg Not Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu
Reshape Round Shape Sigmoid Sign Size Slice Softmax Split Sqrt Squeeze Tanh Transpose Unsqueeze"""
_BROADCAST = "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul Or Pow Sub Sum Where Xor"
_AS_FIRST_SET, _BROADCAST_SET = frozenset(_AS_FIRST.split()), frozenset(_BROADCAST.split())
FOLDABLE = _AS_FIRST_SET | _BROADCAST_SET | {"Concat", "ConstantOfShape", "Expand", "Gather", "Range", "Tile"}


@dataclass
class OnnxValues:
    """The values of a graph that is being converted.

    Attributes:
        net: The net that is being built.
        path: The file.
        stored: Its size in bytes.
        opset: Version of the standard operators.
        outputs: Names of the graph's outputs.
        constants: Values known in advance.
        blobs: ONNX value -> our blob.
    """

    net: NetBuilder
    path: str
    stored: int
    opset: int
    outputs: set[str]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    blobs: dict[str, str] = field(default_factory=dict)
    _made: int = 0  # bytes of constants that the file does not hold

    def check_size(self, num_bytes: int) -> None:
        """Adds to the bytes made so far, and refuses a sum that is out of proportion to the file.

        Raises:
            FileError: See `check_unpacked`.
        """
        self._made += num_bytes
        check_unpacked(self._made, self.stored, self.path)


class OnnxNode:
    """One node on its way into the net: what it reads, and the error that names it."""

    def __init__(self, graph: OnnxValues, node: onnx.NodeProto) -> None:
        self.graph = graph
        self.net = graph.net
        self.node = node
        self.inputs = list(node.input)
        self.outputs = list(node.output)
        self.name: str = self.outputs[0]
        self.attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def refuse(self, reason: str) -> ConversionError:
        """Returns the error that names the node, its operator and the reason."""
        return self.net.refuse(self.node.name or self.name, self.node.op_type, reason)

    @property
    def composer(self) -> Composer:
        """Where its layers are added: the last is named after the first output."""
        return Composer(self.net, self.name, self.node.op_type, self.node.name)

    # --- reading the node ---

    def blob(self, index: int = 0) -> str:
        """The blob at an input."""
        name = self.inputs[index] if index < len(self.inputs) else ""
        if name in self.graph.constants:
            raise self.refuse(f'"{name}" is a constant where Caffe needs a blob')
        if name not in self.graph.blobs:
            raise self.refuse(f'"{name}" is not computed by any node before it')
        return self.graph.blobs[name]

    def rank(self) -> int:
        """The number of axes of the first input."""
        return len(self.net.shapes[self.blob()])

    def shape(self) -> tuple[int, ...]:
        """The shape of the first input."""
        return self.net.shapes[self.blob()]

    def has(self, index: int) -> bool:
        """Whether an input is given."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def is_constant(self, index: int) -> bool:
        """Whether an input is known in advance."""
        return index < len(self.inputs) and self.inputs[index] in self.graph.constants

    def value(self, index: int) -> Value:
        """The blob or the constant at an input."""
        return self.floats(index) if self.is_constant(index) else self.blob(index)

    def values(self) -> list[Value]:
        """The blobs and constants at all inputs."""
        return [self.value(index) for index in range(len(self.inputs))]

    def floats_or_none(self, index: int) -> np.ndarray | None:
        """The constant at an input that may be left out, as float32."""
        return self.floats(index) if self.has(index) else None

    def weight(self, index: int) -> np.ndarray:
        """The constant at an input, of any type."""
        if not self.is_constant(index):
            raise self.refuse(f"input {index} is not a constant")
        return self.graph.constants[self.inputs[index]]

    def floats(self, index: int) -> np.ndarray:
        """The constant at an input, as float32."""
        return self.weight(index).astype(np.float32)

    def optional(self, index: int, attribute: str) -> list[int] | None:
        """Integers that older opsets give as an attribute and newer ones as an input."""
        if attribute in self.attributes:
            return [int(value) for value in np.atleast_1d(self.attributes[attribute])]
        if index < len(self.inputs) and self.inputs[index]:
            return [int(value) for value in self.weight(index).ravel()]
        return None

    def get(self, name: str, default: Any) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def number(self, index: int) -> float:
        """The constant at an input that holds one number."""
        if self.weight(index).size != 1:
            raise self.refuse(f"input {index} of shape {self.weight(index).shape} where one number is expected")
        return float(self.floats(index).ravel()[0])

    def text(self, name: str, default: str) -> str:
        """An attribute that is text."""
        value = self.get(name, default)
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    def axis(self, default: int) -> int:
        """The attribute `axis`, counted from the front."""
        return self.canonical(int(self.get("axis", default)))

    def canonical(self, axis: int) -> int:
        """An axis of the first input, counted from the front."""
        rank = self.rank()
        if not -rank <= axis < rank:
            raise self.refuse(f"axis {axis} of a blob of {counted(rank, 'axis', 'axes')}")
        return axis % rank

    def window(self, name: str, axes: int, default: int = 1, least: int = 1) -> list[int]:
        """An attribute with a number for each axis of a window."""
        values = [int(value) for value in self.get(name, (default,) * axes)]
        if len(values) != axes:
            raise self.refuse(f"{name} over {counted(len(values), 'axis', 'axes')} instead of {axes}")
        if min(values, default=least) < least:
            raise self.refuse(f"{name} of {values}")
        return values

    def pads(self, kernel: Sequence[int]) -> list[int]:
        """The padding of a window: at the start of each axis, then at the end; worked out where it is not given."""
        auto, axes = self.text("auto_pad", "NOTSET"), len(kernel)
        if "output_shape" in self.attributes:
            totals = self._padding_to(kernel, [int(size) for size in self.get("output_shape", ())][-axes:])
            smaller, larger = [total // 2 for total in totals], [-(-total // 2) for total in totals]
            return [*smaller, *larger] if auto == "SAME_UPPER" else [*larger, *smaller]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            sizes, strides = self.shape()[2:], self.window("strides", axes)
            if self.node.op_type == "ConvTranspose":  # the top is `stride` times as large
                totals = [
                    (size - 1) * dilation + 1 - stride
                    for size, dilation, stride in zip(kernel, self.window("dilations", axes), strides, strict=True)
                ]
            else:
                totals = [
                    max((-(-have // stride) - 1) * stride + (size - 1) * dilation + 1 - have, 0)
                    for have, stride, size, dilation in zip(
                        sizes, strides, kernel, self.window("dilations", axes), strict=True
                    )
                ]
            smaller, larger = [total // 2 for total in totals], [-(-total // 2) for total in totals]
            return [*smaller, *larger] if auto == "SAME_UPPER" else [*larger, *smaller]
        if auto not in ("NOTSET", "VALID"):
            raise self.refuse(f"auto_pad {auto}")
        values = [int(value) for value in self.get("pads", (0,) * 2 * axes)]
        if len(values) != 2 * axes or min(values, default=0) < 0:
            raise self.refuse(f"padding {tuple(values)}")
        return values

    def _padding_to(self, kernel: Sequence[int], wanted: Sequence[int]) -> list[int]:
        """The padding of a ConvTranspose, both ends of each axis together, that makes its output of this shape."""
        axes = len(kernel)
        if len(wanted) != axes:
            raise self.refuse(f"output_shape {tuple(wanted)} for {counted(axes, 'axis', 'axes')}")
        totals = [
            (have - 1) * stride + more + (size - 1) * dilation + 1 - want
            for have, stride, more, size, dilation, want in zip(
                self.shape()[2:],
                self.window("strides", axes),
                self.window("output_padding", axes, 0, least=0),
                kernel,
                self.window("dilations", axes),
                wanted,
                strict=True,
            )
        ]
        if min(totals) < 0:
            raise self.refuse(f"output_shape {tuple(wanted)}, which is larger than what the kernel reaches")
        return totals

    # --- constants ---

    def fold(self) -> bool:
        """Computes the node in advance if it depends on constants and shapes alone; returns whether it did."""
        constants, kind = self.graph.constants, self.node.op_type
        if kind == "Constant":
            value = next((v for v in self.attributes.values()), None)
            is_tensor = isinstance(value, onnx.TensorProto)
            array = onnx_array(value, self.graph.path) if is_tensor else np.asarray(value)
            constants[self.name] = array
            return True
        if kind == "Shape" and not self.is_constant(0):
            constants[self.name] = np.array(self.net.shapes[self.blob()], np.int64)
            return True
        given = [name for name in self.inputs if name]
        if kind not in FOLDABLE or not given or any(name not in constants for name in given):
            return False
        try:
            size = self._folded_size([constants[name] for name in given])
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # constants of any shape and type
            raise self.refuse(f"its constants cannot be computed: {error}") from error
        self.graph.check_size(size)
        constants.update(
            (name, array) for name, array in zip(self.outputs, self._evaluate(given), strict=False) if name
        )
        return True

    def _folded_size(self, inputs: list[np.ndarray]) -> int:
        """Returns an upper bound on the size in bytes of a constant node's result, before it is computed."""
        first, last, kind = inputs[0], inputs[-1], self.node.op_type
        itemsize = max(array.itemsize for array in inputs)
        if kind == "Concat":
            return sum(array.nbytes for array in inputs)
        if kind == "Gather":
            axis = int(self.get("axis", 0)) % max(first.ndim, 1)
            return first.itemsize * last.size * math.prod(first.shape[:axis] + first.shape[axis + 1 :])
        if kind == "Range":
            start, limit, delta = (float(array.ravel()[0]) for array in inputs)
            return int(itemsize * max(0.0, (limit - start) / delta + 1))
        if kind in ("ConstantOfShape", "Expand"):
            sizes = [max(int(size), 1) for size in last.ravel()]
            return 8 * math.prod(np.broadcast_shapes(first.shape, sizes) if kind == "Expand" else sizes)
        if kind == "Tile":
            return first.nbytes * math.prod(max(int(number), 1) for number in last.ravel())
        if kind in _BROADCAST_SET:
            return itemsize * math.prod(np.broadcast_shapes(*(array.shape for array in inputs)))
        return 8 * first.size  # the same values, or some of them, in another order or type

    def _evaluate(self, given: list[str]) -> list[np.ndarray]:
        from onnx.reference import ReferenceEvaluator

        feed = {name: self.graph.constants[name] for name in given}
        types = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feed.items()
        ]
        body = helper.make_graph(
            [self.node], "constant", types, [onnx.ValueInfoProto(name=name) for name in self.outputs if name]
        )
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", self.graph.opset)])
        try:
            with np.errstate(all="ignore"):
                results: Any = ReferenceEvaluator(model).run(None, feed)
                return [np.asarray(result) for result in results]
        except Exception as error:  # the evaluator raises all kinds of exceptions for bad shapes and values
            raise self.refuse(f"its constants cannot be computed: {error}") from error
