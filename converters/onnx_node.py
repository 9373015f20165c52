"""One ONNX node as the operators' functions see it: its blobs, constants and attributes, with errors that name it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from pyscratchdet.converters.build import NetBuilder
from pyscratchdet.converters.weights import onnx_array
from pyscratchdet.errors import ConversionError, counted
from pyscratchdet.files import check_unpacked

# Operators that may be computed in advance from constants alone.
FOLDABLE = {"Add", "Cast", "Concat", "Div", "Equal", "Gather", "Identity", "Mul", "Reciprocal", "Reshape"}
FOLDABLE |= {"Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where", "ConstantOfShape", "Expand", "Range"}


EVALUATED = FOLDABLE | {"Constant", "Shape"}


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

    def is_constant(self, index: int) -> bool:
        """Whether an input is known in advance."""
        return index < len(self.inputs) and self.inputs[index] in self.graph.constants

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

    def pair(self, name: str, default: int = 1, least: int = 1) -> tuple[int, int]:
        """An attribute of two numbers, for height and width."""
        values = tuple(int(value) for value in self.get(name, (default, default)))
        if len(values) != 2:
            raise self.refuse(f"{name} over {counted(len(values), 'axis', 'axes')}; two are supported")
        if min(values) < least:
            raise self.refuse(f"{name} of {list(values)}")
        return values

    def pads(self) -> tuple[int, int, int, int]:
        """The padding: top, left, bottom, right."""
        auto = self.text("auto_pad", "NOTSET")
        if auto not in ("NOTSET", "VALID"):
            raise self.refuse(f"auto_pad {auto}; give the padding in numbers")
        values = tuple(int(value) for value in self.get("pads", (0, 0, 0, 0)))
        if len(values) != 4 or min(values) < 0:
            raise self.refuse(f"padding {values}")
        return values

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
        constants[self.name] = self._evaluate(given)
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
        if kind in ("Add", "Div", "Equal", "Mul", "Sub", "Where"):
            return itemsize * math.prod(np.broadcast_shapes(*(array.shape for array in inputs)))
        return 8 * first.size  # the same values, or some of them, in another order or type

    def _evaluate(self, given: list[str]) -> np.ndarray:
        from onnx.reference import ReferenceEvaluator

        feed = {name: self.graph.constants[name] for name in given}
        types = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feed.items()
        ]
        body = helper.make_graph([self.node], "constant", types, [onnx.ValueInfoProto(name=self.name)])
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", self.graph.opset)])
        try:
            with np.errstate(all="ignore"):
                results: Any = ReferenceEvaluator(model).run(None, feed)
                return np.asarray(results[0])
        except Exception as error:  # the evaluator raises all kinds of exceptions for bad shapes and values
            raise self.refuse(f"its constants cannot be computed: {error}") from error
