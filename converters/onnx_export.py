"""From a Caffe net to ONNX: standard operators only, Caffe's blob names kept, the batch size left open.

Each layer writes itself (`Layer.onnx`); this module names values, stores weights and puts the model together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pyscratchdet import __version__
from pyscratchdet.errors import ConversionError
from pyscratchdet.files import write_bytes
from pyscratchdet.layers.base import Shape
from pyscratchdet.runtime import LayerModule, Net

OPSET = 23  # operators of onnx 1.18; onnxruntime runs it since 1.23
IR_VERSION = 11
BATCH = "batch"


@dataclass
class OnnxGraph:
    """Collects operators, constants and shapes; what a layer sees as `OnnxGraph`."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    scope: str = ""
    first_node: int = 0  # of the layer that is being written
    _counts: dict[str, int] = field(default_factory=dict)

    def node(self, op_type: str, inputs: Sequence[str], num_outputs: int = 1, **attributes: object) -> list[str]:
        """Adds an operator and returns the names of its outputs."""
        name = self._unique(f"{self.scope}/{op_type}")
        outputs = [name if num_outputs == 1 else f"{name}:{k}" for k in range(num_outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, name=name, **attributes))  # type: ignore[arg-type]
        return outputs

    def constant(self, array: np.ndarray, name: str = "constant") -> str:
        """Stores an array and returns its name; the same name with the same values is stored once."""
        array = np.asarray(array, order="C")  # not ascontiguousarray, which makes scalars one-dimensional
        key = base = f"{self.scope}/{name}"
        number = 1
        while key in self.arrays and not _same(self.arrays[key], array):
            number += 1
            key = f"{base}_{number}"
        self.arrays[key] = array
        return self._store(key)

    def weight(self, name: str, array: np.ndarray) -> str:
        """Registers a layer's blob; it is stored when an operator uses it."""
        self.arrays[name] = array
        return name

    def array(self, name: str) -> np.ndarray:
        """Returns the values of a weight or constant."""
        return self.arrays[name]

    def shape(self, value: str) -> Shape:
        """Returns the Caffe shape of a layer's result, batch size included."""
        return self.shapes[value]

    def rename(self, old: str, new: str, since: int) -> None:
        """Renames a value made by the operators from index `since` on."""
        for node in self.nodes[since:]:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]

    def store_used_weights(self) -> None:
        """Stores the registered blobs that an operator uses."""
        used = {name for node in self.nodes for name in node.input}
        for name in used & self.arrays.keys():
            self._store(name)

    def _store(self, name: str) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(self.arrays[name], order="C"), name)
        return name

    def _unique(self, name: str) -> str:
        self._counts[name] = self._counts.get(name, 0) + 1
        count = self._counts[name]
        return name if count == 1 else f"{name}_{count}"


def export_onnx(
    net: Net, *, outputs: Iterable[str] | None = None, all_blobs: bool = False, dynamic_batch: bool = True
) -> onnx.ModelProto:
    """Returns the net as an ONNX model.

    Values carry the names of Caffe's blobs; where in-place layers write a blob several times, the last value has the
    name and earlier ones are `<blob>@<layer>`.

    Args:
        net: A TEST net with its weights.
        outputs: Blobs to return; the net's own outputs by default. Layers that none of them needs are left out, so
            naming `mbox_loc` and `mbox_conf_flatten` cuts a detector before its post-processing.
        all_blobs: Return every value that the outputs depend on (`value_keys`), for comparing engines.
        dynamic_batch: Leave the first axis of inputs open.

    Raises:
        ConversionError: A layer has no exact ONNX form, or `outputs` names no blob.
    """
    wanted = _wanted_blobs(net, outputs)
    graph = OnnxGraph()
    values: dict[int, str] = {}
    plan = net.plan
    needed = _needed_layers(net, wanted)
    names = plan.graph.blob_names
    keys = value_keys(net, needed)
    for i in needed:
        node, module = plan.graph.nodes[i], net.layers[i]
        if node.type == "Input":
            results = [names[blob] for blob in node.tops]
        else:
            results = _export_layer(graph, module, [values[blob] for blob in node.bottoms])
        for blob, result, name, shape in zip(node.tops, results, keys[i], plan.top_shapes[i], strict=True):
            values[blob] = result if node.type == "Input" else _named(graph, result, name, values)
            graph.shapes[values[blob]] = shape
    graph.store_used_weights()
    returned = [key for i in needed for key in keys[i]] if all_blobs else [values[blob] for blob in wanted]
    return _model(net, graph, returned, needed, dynamic_batch)


def value_keys(net: Net, indices: Iterable[int] | None = None) -> dict[int, list[str]]:
    """Returns, for layers by index, the names of the values that their tops are.

    The value that a blob finally has carries the blob's name; what an in-place layer overwrites is `<blob>@<layer>`.

    Args:
        net: The net.
        indices: The layers that count; all by default.
    """
    graph = net.plan.graph
    chosen = list(range(len(graph.nodes)) if indices is None else indices)
    last = {blob: i for i in chosen for blob in graph.nodes[i].tops}
    names = graph.blob_names
    return {
        i: [names[b] if last[b] == i else f"{names[b]}@{graph.nodes[i].name}" for b in graph.nodes[i].tops]
        for i in chosen
    }


def save_onnx(
    net: Net,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    half: bool = False,
    **options: object,
) -> None:
    """Writes the net as an ONNX file, checked by onnx.checker; see `export_onnx` for options.

    Args:
        net: A TEST net with its weights.
        path: File to write; atomic.
        metadata: Further facts to keep in the file.
        weights: Arrays to keep under their names though the graph may not use them.
        half: Store weights as float16, widened by Cast operators; the arithmetic stays float32.
        **options: Of `export_onnx`.
    """
    model = export_onnx(net, **options)  # type: ignore[arg-type]
    helper.set_model_props(model, dict(metadata or {}))
    stored = {tensor.name for tensor in model.graph.initializer}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array, order="C"), name)
        for name, array in (weights or {}).items()
        if name not in stored
    )
    if half:
        _halve(model, set(net.state_dict()) | set(weights or {}))
    onnx.checker.check_model(model)
    write_bytes(path, model.SerializeToString())


def raw_heads(net: Net) -> list[str]:
    """Returns the blobs that DetectionOutput reads, priors included, and the net's other outputs.

    Raises:
        ConversionError: The net has no DetectionOutput.
    """
    graph = net.plan.graph
    ends = [node for node in graph.nodes if node.type == "DetectionOutput"]
    if not ends:
        raise ConversionError(
            "the net has no DetectionOutput to cut off", code="onnx.heads", hint="leave out raw heads"
        )
    cut = {blob for node in ends for blob in node.tops}
    blobs = [blob for node in ends for blob in node.bottoms] + [blob for blob in graph.outputs if blob not in cut]
    return [graph.blob_names[blob] for blob in dict.fromkeys(blobs)]


def _halve(model: onnx.ModelProto, names: set[str]) -> None:
    """Stores the initializers of these names as float16 and puts a Cast behind each."""
    casts = []
    used = {name for node in model.graph.node for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in names and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
            if tensor.name in used:
                wide = f"{tensor.name}:float32"
                casts.append(helper.make_node("Cast", [tensor.name], [wide], name=wide, to=TensorProto.FLOAT))
    wider = {cast.input[0]: cast.output[0] for cast in casts}
    for node in model.graph.node:
        node.input[:] = [wider.get(name, name) for name in node.input]
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _export_layer(graph: OnnxGraph, module: LayerModule, bottoms: Sequence[str]) -> list[str]:
    graph.scope = module.name
    graph.first_node = len(graph.nodes)
    blobs = [
        graph.weight(f"{module.name}.{role}", blob.detach().cpu().numpy())
        for role, blob in zip(module.roles, module.blobs, strict=True)
    ]
    return module.layer.onnx(graph, bottoms, blobs)


def _named(graph: OnnxGraph, result: str, name: str, values: dict[int, str]) -> str:
    """Gives a layer's result its blob's name; results that are not the layer's own get an Identity."""
    own = any(result in node.output for node in graph.nodes[graph.first_node :])
    if own and result not in values.values():
        graph.rename(result, name, graph.first_node)
        return name
    graph.nodes.append(helper.make_node("Identity", [result], [name], name=f"{name}/Identity"))
    return name


def _wanted_blobs(net: Net, outputs: Iterable[str] | None) -> list[int]:
    graph = net.plan.graph
    if outputs is None:
        return graph.outputs
    latest = {name: blob for blob, name in enumerate(graph.blob_names)}
    for name in outputs:
        if name not in latest:
            raise ConversionError(f'the net has no blob "{name}"', code="onnx.output")
    return [latest[name] for name in outputs]


def _needed_layers(net: Net, wanted: Iterable[int]) -> list[int]:
    """Returns the indices of the layers that the wanted blobs depend on, in order."""
    needed_blobs = set(wanted)
    needed = []
    for i in reversed(range(len(net.plan.graph.nodes))):
        node = net.plan.graph.nodes[i]
        if needed_blobs.intersection(node.tops):
            needed.append(i)
            needed_blobs.update(node.bottoms)
    return needed[::-1]


def _model(
    net: Net, graph: OnnxGraph, outputs: Sequence[str], needed: Sequence[int], dynamic_batch: bool
) -> onnx.ModelProto:
    plan = net.plan
    inputs = []
    for i in needed:
        node = plan.graph.nodes[i]
        for blob, shape in zip(node.tops, plan.top_shapes[i], strict=True):
            if node.type == "Input":
                dims: list[str | int | None] = [BATCH, *shape[1:]] if dynamic_batch else list(shape)
                inputs.append(helper.make_tensor_value_info(plan.graph.blob_names[blob], TensorProto.FLOAT, dims))
    results = [  # of known rank; the sizes are inferred
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * len(graph.shapes[name]))
        for name in dict.fromkeys(outputs)
    ]
    body = helper.make_graph(graph.nodes, net.name or "net", inputs, results, list(graph.initializers.values()))
    model = helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="pyscratchdet",
        producer_version=__version__,
        ir_version=IR_VERSION,
    )
    return onnx.shape_inference.infer_shapes(model)
