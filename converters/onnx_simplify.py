"""A simpler ONNX graph: no copies, and what depends on constants alone is computed by onnx's own reference."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

# A result may be this many bytes larger than its inputs; beyond that, keeping the operator gives the smaller file.
_GROWTH = 1 << 16


def simplify(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """Replaces operators whose inputs are constants by their results, under the same names, and leaves out Identity.

    The shapes of values that do not depend on the batch size count as constants too.

    Args:
        model: A valid model; it is not changed.
        keep: Values that must stay results of operators.

    Returns:
        A new model, with the shapes of its values.
    """
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    _drop_copies(graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = dict(_known_shapes(graph))
    left = []
    for node in graph.node:
        results = {} if set(keep).intersection(node.output) else _evaluate(node, constants, shapes, model.opset_import)
        constants.update(results)
        if not results:
            left.append(node)
    used = {name for node in left for name in node.input} | {value.name for value in graph.output}
    stored = [tensor for tensor in graph.initializer if tensor.name in used]
    known = {tensor.name for tensor in graph.initializer}
    stored += [numpy_helper.from_array(constants[name], name) for name in constants if name in used - known]
    for field, content in ((graph.node, left), (graph.initializer, stored), (graph.value_info, [])):
        replace(field, content)
    return onnx.shape_inference.infer_shapes(model)


def _drop_copies(graph: onnx.GraphProto) -> None:
    outputs = {value.name for value in graph.output}
    source: dict[str, str] = {}
    left = []
    for node in graph.node:
        node.input[:] = [source.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.output[0] not in outputs:
            source[node.output[0]] = node.input[0]
        else:
            left.append(node)
    replace(graph.node, left)


def _evaluate(
    node: onnx.NodeProto,
    constants: Mapping[str, np.ndarray],
    shapes: Mapping[str, np.ndarray],
    opsets: Collection[onnx.OperatorSetIdProto],
) -> dict[str, np.ndarray]:
    """Returns the outputs of an operator by name; nothing where they are not constant or are too large to store."""
    if node.op_type == "Shape" and node.input[0] in shapes:
        return {node.output[0]: shapes[node.input[0]]}
    names = [name for name in node.input if name]
    if not names or not all(name in constants for name in names):
        return {}
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(constants[name].dtype), None)
        for name in dict.fromkeys(names)
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    alone = helper.make_model(helper.make_graph([node], "constant", values, outputs), opset_imports=list(opsets))
    with np.errstate(all="ignore"):  # a scale factor of 0 has an infinite inverse, which nothing reads
        results = ReferenceEvaluator(alone).run(None, {name: constants[name] for name in names})
    found = {value.name: np.asarray(result) for value, result in zip(outputs, results, strict=True)}
    growth = sum(array.nbytes for array in found.values()) - sum(constants[name].nbytes for name in names)
    return found if growth <= _GROWTH else {}


def _known_shapes(graph: onnx.GraphProto) -> Iterator[tuple[str, np.ndarray]]:
    for value in (*graph.input, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            yield value.name, np.array([dim.dim_value for dim in dims], np.int64)


def replace(field: Any, content: Iterable[Any]) -> None:
    """Replaces the elements of a repeated protobuf field; some of the new ones may be its own."""
    copies = [type(item).FromString(item.SerializeToString()) for item in content]
    del field[:]
    field.extend(copies)
