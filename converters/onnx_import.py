"""From ONNX to a Caffe net, for graphs of operators that Caffe has; anything inexact is refused with its reason.

Blobs keep the names of the ONNX values, so both nets can be compared value by value. Integers from which
shapes are computed are evaluated in advance, with the file's input shapes (an open batch counts as 1 and stays open).
"""

from __future__ import annotations

import os

import numpy as np
import onnx

from pyscratchdet.converters.build import NetBuilder
from pyscratchdet.converters.onnx_file import read_onnx
from pyscratchdet.converters.onnx_node import EVALUATED, OnnxNode, OnnxValues
from pyscratchdet.converters.onnx_operators import HANDLERS
from pyscratchdet.converters.weights import onnx_array
from pyscratchdet.errors import ConversionError, PyScratchDetError


def import_onnx(path: str | os.PathLike[str]) -> NetBuilder:
    """Returns the net of an ONNX file.

    Args:
        path: The file, with its weights inside.

    Raises:
        FileError, WeightsError: The file is missing or damaged.
        ConversionError: A node cannot be expressed exactly; names the node, its operator and the reason.
    """
    return _convert(read_onnx(path), os.fspath(path))


def _convert(model: onnx.ModelProto, path: str) -> NetBuilder:
    graph = model.graph
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    outputs = {value.name for value in graph.output}
    values = OnnxValues(NetBuilder(graph.name or "net"), path, os.path.getsize(path), opset, outputs)
    values.net.check_size = values.check_size
    values.constants.update((tensor.name, onnx_array(tensor, path)) for tensor in graph.initializer)
    for value in graph.input:
        if value.name not in values.constants:
            values.blobs[value.name] = values.net.input(value.name, _input_shape(value))
    _check_operators(values, graph)
    for proto in graph.node:
        node = OnnxNode(values, proto)
        if not node.fold():
            values.blobs.update(zip(node.outputs, _add_layers(node), strict=False))
    if missing := sorted(values.outputs - values.blobs.keys()):
        raise ConversionError(
            f'output "{missing[0]}" does not depend on any input', code="import.output", found="a constant"
        )
    for name in graph.output:
        values.net.made(values.blobs[name.name])
    return values.net


def _check_operators(values: OnnxValues, graph: onnx.GraphProto) -> None:
    """Refuses a graph with an operator that has no layer, and gives that as the reason whatever else is wrong."""
    for proto in graph.node:
        if proto.domain not in ("", "ai.onnx") or proto.op_type not in HANDLERS.keys() | EVALUATED:
            raise OnnxNode(values, proto).refuse("Caffe has no layer for this operator")


def _add_layers(node: OnnxNode) -> list[str]:
    """Adds a node's layers to the net and returns their blobs."""
    handler = HANDLERS.get(node.node.op_type)
    if handler is None:
        raise node.refuse("Caffe has no layer for this operator on a blob")
    try:
        with np.errstate(all="ignore"):  # weights may be infinite
            results = handler(node)
    except PyScratchDetError:  # a refusal with its own reason
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # attributes of any type, size and shape
        raise node.refuse(f"an attribute or constant that makes no sense: {error}") from error
    return [results] if isinstance(results, str) else results


def _input_shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    shape = [dim.dim_value or (1 if i == 0 else 0) for i, dim in enumerate(dims)]
    if not shape or not all(shape) or value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise ConversionError(
            f'input "{value.name}" is not a float tensor of fixed shape',
            code="import.shape",
            expected="numbers for all axes but the batch",
            found=[dim.dim_value or dim.dim_param or "?" for dim in dims],
        )
    return tuple(shape)
