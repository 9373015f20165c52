"""From ONNX to a Caffe net, for graphs of operators that Caffe has; anything inexact is refused with its reason.

Blobs keep the names of the ONNX values, so both nets can be compared value by value. Chains of integers that compute
shapes are worked out beforehand, with the input shapes of the file (an open batch counts as 1 and stays open).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from pyscratchdet.converters.build import NetBuilder
from pyscratchdet.converters.onnx_operators import HANDLERS
from pyscratchdet.converters.weights import onnx_array
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
    if any(isinstance(text, bytes) for text in _names(model.graph)):  # protobuf leaves what it cannot decode
        raise WeightsError(f"{name}: damaged ONNX file: a name that is no UTF-8", code="weights.damaged")
    return _Importer(model, name).run()


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield graph.name
    for value in (*graph.initializer, *graph.input, *graph.output):
        yield value.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


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
            self.constants[tensor.name] = onnx_array(tensor, self.path)
        for value in self.graph.input:
            if value.name not in self.constants:
                self.blobs[value.name] = self.net.input(value.name, self._input_shape(value))
        for node in self.graph.node:
            OnnxNode(self, node).convert()
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


class OnnxNode:
    """One node on its way into the net."""

    def __init__(self, importer: _Importer, node: onnx.NodeProto) -> None:
        self.importer = importer
        self.net: NetBuilder = importer.net
        self.node = node
        self.inputs = list(node.input)
        self.outputs = list(node.output)
        self.name: str = self.outputs[0]
        self.attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def convert(self) -> None:
        """Works the node out beforehand, or adds its layers to the net."""
        if self._fold():
            return
        handler = HANDLERS.get(self.node.op_type) if self.node.domain in ("", "ai.onnx") else None
        if handler is None:
            raise self.refuse("Caffe has no layer for this operator")
        try:
            with np.errstate(all="ignore"):  # weights may be infinite
                results = handler(self)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # attributes of any type, size and shape
            raise self.refuse(f"an attribute or constant that makes no sense: {error}") from error
        tops = [results] if isinstance(results, str) else results
        self.importer.blobs.update(zip(self.outputs, tops, strict=False))

    def refuse(self, reason: str) -> ConversionError:
        """Returns the error that names the node, its operator and the reason."""
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
        """The number of axes of the first input."""
        return len(self.net.shapes[self.blob()])

    def is_constant(self, index: int) -> bool:
        """Whether an input is known beforehand."""
        return index < len(self.inputs) and self.inputs[index] in self.importer.constants

    def weight(self, index: int) -> np.ndarray:
        """The constant at an input, of any type."""
        if not self.is_constant(index):
            raise self.refuse(f"input {index} is no constant")
        return self.importer.constants[self.inputs[index]]

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
        """The constant at an input, of one entry."""
        if self.weight(index).size != 1:
            raise self.refuse(f"input {index} of shape {self.weight(index).shape} where one number is expected")
        return float(self.floats(index).ravel()[0])

    def text(self, name: str, default: str) -> str:
        """An attribute that is a word."""
        value = self.get(name, default)
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    def axis(self, default: int) -> int:
        """The attribute `axis`, counted from the front."""
        return self.canonical(int(self.get("axis", default)))

    def canonical(self, axis: int) -> int:
        """An axis of the first input, counted from the front."""
        rank = self.rank()
        if not -rank <= axis < rank:
            raise self.refuse(f"axis {axis} of a blob of {rank} axes")
        return axis % rank

    def pair(self, name: str, default: int = 1) -> tuple[int, int]:
        """An attribute of two numbers of at least 1, for height and width."""
        values = tuple(int(value) for value in self.get(name, (default, default)))
        if len(values) != 2:
            raise self.refuse(f"{name} over {len(values)} axes; two are supported")
        if min(values) < 1:
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

    def _fold(self) -> bool:
        """Works out a node of constants; True when it was one."""
        constants, kind = self.importer.constants, self.node.op_type
        if kind == "Constant":
            value = next((v for v in self.attributes.values()), None)
            is_tensor = isinstance(value, onnx.TensorProto)
            array = onnx_array(value, self.importer.path) if is_tensor else np.asarray(value)
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
