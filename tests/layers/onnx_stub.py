"""A small exporter for tests: layers write into an ONNX model of their own, which onnxruntime then runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from pyscratchdet.layers.base import Layer


class OnnxStub:
    """An OnnxGraph over the bottoms of one layer, whose batch size stays open.

    Args:
        shapes: Caffe shapes of the values that exist beforehand, by name.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, op_type: str, inputs: Sequence[str], num_outputs: int = 1, **attributes: object) -> list[str]:
        outputs = [f"value_{len(self.nodes)}_{i}" for i in range(num_outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, **attributes))
        return outputs

    def constant(self, array: np.ndarray, name: str = "constant") -> str:
        unique = f"{name}_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), unique))
        return unique

    def shape(self, value: str) -> tuple[int, ...]:
        return self.shapes[value]


def run(
    layer: Layer,
    shapes: Sequence[tuple[int, ...]],
    bottoms: Sequence[np.ndarray],
    blobs: Sequence[np.ndarray],
    opset: int,
    dynamic: bool = True,
) -> list[np.ndarray]:
    """Returns the tops that onnxruntime computes for these bottoms.

    The layer is reshaped to `shapes` and the model made for them; with `dynamic` the bottoms' batch size is open.
    """
    top_shapes = layer.reshape(shapes)
    names = [f"bottom_{i}" for i in range(len(bottoms))]
    graph = OnnxStub(dict(zip(names, shapes, strict=True)))
    blob_names = [graph.constant(blob, "blob") for blob in blobs]
    tops = layer.onnx(graph, names, blob_names)
    if not tops:
        return []
    outputs = [f"top_{i}" for i in range(len(tops))]
    graph.nodes += [helper.make_node("Identity", [top], [name]) for top, name in zip(tops, outputs, strict=True)]
    inputs = [_value(name, shape, dynamic) for name, shape in zip(names, shapes, strict=True)]
    values = [
        _value(name, tuple(f"{name}_{i}" for i in range(len(shape))), False)
        for name, shape in zip(outputs, top_shapes, strict=True)
    ]
    proto = helper.make_graph(graph.nodes, "layer", inputs, values, graph.constants)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(outputs, dict(zip(names, bottoms, strict=True)))


def _value(name: str, shape: tuple[int | str, ...], dynamic: bool) -> onnx.ValueInfoProto:
    dims: list[int | str] = list(shape)
    if dynamic and dims:
        dims[0] = "N"
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
