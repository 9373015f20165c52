"""Reading an ONNX file that a stranger may have made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from pyscratchdet.errors import FileError, WeightsError


def read_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Returns the model of an ONNX file that onnx's checker accepts and that holds all its weights.

    Raises:
        FileError, WeightsError: The file is missing, damaged, or keeps weights in another file.
    """
    name = os.fspath(path)
    try:
        model = onnx.load_model(name, load_external_data=False)
        for tensor in _tensors(model.graph):
            if tensor.data_location == TensorProto.EXTERNAL:  # never follow a path that a file names
                raise WeightsError(f'{name}: "{tensor.name}" is stored in another file', code="weights.external")
        for value in model.graph.output:  # some exporters leave out its shape, which the checker rejects
            value.type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(model)
    except OSError as error:
        raise FileError(f"cannot read {name}: {error.strerror or error}", code="file.read") from error
    except WeightsError:
        raise
    except (DecodeError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "not an ONNX model"
        raise WeightsError(f"{name}: damaged ONNX file: {reason}", code="weights.damaged") from error
    if any(isinstance(text, bytes) for text in _names(model)):  # protobuf returns bytes where it cannot decode
        raise WeightsError(f"{name}: damaged ONNX file: a name that is not UTF-8", code="weights.damaged")
    return model


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Returns a copy of the model that gives these values too, float32; those that it does not compute are left out."""
    copy: onnx.ModelProto = onnx.ModelProto.FromString(model.SerializeToString())
    computed = {name for node in copy.graph.node for name in node.output}
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in dict.fromkeys(names)
        if name in computed - known
    )
    return copy


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yields all arrays, those of subgraphs included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _names(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
    yield graph.name
    for value in (*graph.initializer, *graph.input, *graph.output):
        yield value.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
