"""ONNX graphs that are well formed and wrong: imported, or refused by a typed error."""

import numpy as np
import onnx
import pytest
from test_import import CASES, model_of

from pyscratchdet.converters.onnx_import import import_onnx
from pyscratchdet.errors import PyScratchDetError

INTEGERS = [-(2**40), -1, 0, 2, 3, 7, 100, 2**31]


@pytest.mark.slow
def test_wrong_graphs_end_in_typed_errors(tmp_path):
    number = 600
    sources = [model_of(nodes, ["y"], weights) for nodes, weights in CASES.values()]
    operators = [node.op_type for model in sources for node in model.graph.node]
    rng, refused = np.random.default_rng(7), 0
    for index in range(number):
        model = onnx.ModelProto()
        model.CopyFrom(sources[index % len(sources)])
        for _ in range(int(rng.integers(1, 4))):
            damage(model.graph, operators, rng)
        (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
        try:
            import_onnx(tmp_path / "bad.onnx")
        except PyScratchDetError:
            refused += 1
    assert number // 3 < refused < number


def damage(graph, operators, rng):
    """Changes an attribute, an operator, an input, a constant or the shape of the net's input."""
    node = graph.node[int(rng.integers(len(graph.node)))]
    kind = int(rng.integers(8))
    if kind == 0:
        node.op_type = operators[int(rng.integers(len(operators)))]
    elif kind == 1:
        node.input.append("x")
    elif kind == 2 and node.input:
        node.input.pop()
    elif kind == 3 and node.input:
        node.input[int(rng.integers(len(node.input)))] = str(rng.choice(["x", "", "nothing"]))
    elif kind == 4:
        graph.input[0].type.tensor_type.shape.dim[int(rng.integers(4))].dim_value = int(rng.choice([1, 2, 5]))
    elif kind == 5 and graph.initializer:
        tensor = graph.initializer[int(rng.integers(len(graph.initializer)))]
        tensor.CopyFrom(onnx.numpy_helper.from_array(_other(onnx.numpy_helper.to_array(tensor), rng), tensor.name))
    elif node.attribute:
        _change(node.attribute[int(rng.integers(len(node.attribute)))], rng)


def _other(array, rng):
    other = array.astype("i8") if array.dtype.kind == "f" else array.astype("f4")
    choices = [array.reshape(-1), array[None], other, np.zeros(0, array.dtype), np.full_like(array, 1000)]
    return choices[int(rng.integers(len(choices)))]


def _change(attribute, rng):
    integer = int(rng.choice(INTEGERS))
    if attribute.ints and rng.random() < 0.3:
        attribute.ints.append(1)
    elif attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = integer
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = integer
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = float(rng.choice([np.nan, np.inf, -1, 0]))
