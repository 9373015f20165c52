"""From ONNX to a Caffe net, for graphs of operators that Caffe has; anything inexact is refused with its reason.

Blobs keep the names of the ONNX values, so both nets can be compared value by value. What depends on constants and
shapes alone is computed in advance, with the file's input shapes (an open batch counts as 1 and stays open).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import onnx

from pyscratchdet.converters.build import NetBuilder
from pyscratchdet.converters.graph_import import GraphWalk, Links, known_output
from pyscratchdet.converters.layer_sets import layer_set
from pyscratchdet.converters.onnx_file import read_onnx
from pyscratchdet.converters.onnx_node import FOLDABLE, OnnxNode, OnnxValues
from pyscratchdet.converters.onnx_operators import HANDLERS
from pyscratchdet.converters.weights import onnx_array
from pyscratchdet.errors import ConversionError, PyScratchDetError


def import_onnx(
    path: str | os.PathLike[str],
    *,
    layers: str | None = None,
    approximate: bool = False,
    outputs: Sequence[str] = (),
) -> NetBuilder:
    """Returns the net of an ONNX file.

    Args:
        path: The file, with its weights inside.
        layers: The target whose layers it may have, a key of `layer_sets.LAYER_SETS`; None for all.
        approximate: Whether operators that no layers compute exactly may be approximated.
        outputs: Values at which the graph is cut; by default its own outputs.

    Raises:
        FileError, WeightsError: The file is missing or damaged.
        UsageError: There is no such target or value.
        ConversionError: A node cannot be expressed exactly; names the node, its operator and the reason, and where the
            graph can be cut.
    """
    model = read_onnx(path)
    net = NetBuilder(model.graph.name or "net", layer_set(layers), approximate=approximate)
    return _convert(model, os.fspath(path), net, list(outputs))


def _convert(model: onnx.ModelProto, path: str, net: NetBuilder, outputs: list[str]) -> NetBuilder:
    graph = model.graph
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    computed = {name for node in graph.node for name in node.output if name}
    if unknown := [name for name in outputs if name not in computed]:
        raise known_output(unknown[0], computed)
    outputs = outputs or [value.name for value in graph.output]
    values = OnnxValues(net, path, os.path.getsize(path), opset, set(outputs))
    net.check_size = values.check_size
    values.constants.update((tensor.name, onnx_array(tensor, path)) for tensor in graph.initializer)
    for value in graph.input:
        if value.name not in values.constants:
            values.blobs[value.name] = net.input(value.name, _input_shape(value))
    steps = [(OnnxNode(values, proto), _links(proto)) for proto in graph.node]
    walk = GraphWalk(net, steps, values.blobs)
    walk.cut(outputs)
    walk.run(_add_layers, outputs)
    if missing := sorted(set(outputs) - values.blobs.keys()):
        raise ConversionError(
            f'output "{missing[0]}" does not depend on any input', code="import.output", found="a constant"
        )
    net.outputs = {name: net.made(values.blobs[name]) for name in outputs}
    net.sources = {name: blob for name, blob in values.blobs.items() if net.is_made(blob)}
    net.select(net.outputs.values())
    net.sources = {name: blob for name, blob in net.sources.items() if blob in net.tops()}
    return net


def _links(proto: onnx.NodeProto) -> Links:
    return Links([name for name in proto.input if name], [name for name in proto.output if name])


def _add_layers(node: OnnxNode) -> None:
    """Computes a node in advance, or adds its layers to the net."""
    if node.node.domain not in ("", "ai.onnx"):
        raise node.refuse("Caffe has no layer for this operator")
    if node.fold():
        return
    handler = HANDLERS.get(node.node.op_type)
    if handler is None:
        blob = " on a blob" if node.node.op_type in FOLDABLE else ""
        raise node.refuse(f"Caffe has no layer for this operator{blob}")
    try:
        with np.errstate(all="ignore"):  # weights may be infinite
            results = handler(node)
    except PyScratchDetError:  # a refusal with its own reason
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # attributes of any type, size and shape
        raise node.refuse(f"an attribute or constant that makes no sense: {error}") from error
    results = [results] if isinstance(results, str) else results
    node.graph.blobs.update((name, blob) for name, blob in zip(node.outputs, results, strict=False) if name)


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
