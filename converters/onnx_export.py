"""From a Caffe net to ONNX: standard operators only, Caffe's blob names kept, the batch size left open.

Each layer writes itself (`Layer.onnx`); this module names values, stores weights and puts the model together. Files
use only what deployment engines compute alike; docs/deployment.md shows which engine takes which form.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from pyscratchdet import __version__
from pyscratchdet.converters.file_facts import explain, file_facts
from pyscratchdet.converters.onnx_simplify import replace, simplify
from pyscratchdet.detect.detector import Preparation
from pyscratchdet.errors import ConversionError
from pyscratchdet.files import write_bytes
from pyscratchdet.layers.base import Shape
from pyscratchdet.layers.detection_output import DetectionOutput
from pyscratchdet.runtime import LayerModule, Net

HEADS = ("decoded", "fixed", "boxes", "raw")
OPSET = 17  # what engines of 2022 and later read
OPSETS = range(13, onnx.defs.onnx_opset_version() + 1)
BATCH = "batch"


@dataclass(frozen=True)
class PictureInput:
    """An input that is a picture, uint8 (N, height, width, channels) of any size, instead of the prepared blob.

    The picture is resized as bytes, as in SSD; then mean and scale are applied. Resized bytes differ from OpenCV's by 1
    at most, since OpenCV computes in fixed point.

    Attributes:
        preparation: Mean, scale and the net's order of channels.
        rgb: The picture has red first.
    """

    preparation: Preparation = field(default_factory=Preparation)
    rgb: bool = False

    def onnx(self, graph: GraphCollector, value: str, shape: Shape) -> str:
        """Adds the preparation and returns the result, float32 (N, *shape)."""
        channels = shape[0]
        picture = graph.node("Cast", [value], to=TensorProto.FLOAT)[0]
        if self.rgb != self.preparation.rgb and channels == 3:
            picture = graph.node("Gather", [picture, graph.constant(np.array([2, 1, 0]), "order")], axis=3)[0]
        picture = graph.node("Transpose", [picture], perm=[0, 3, 1, 2])[0]
        start, end = (graph.constant(np.array([k]), "axis") for k in (0, 1))
        number = graph.node("Slice", [*graph.node("Shape", [picture]), start, end])[0]
        sizes = graph.node("Concat", [number, graph.constant(np.array(shape), "size")], axis=0)[0]
        picture = graph.node("Resize", [picture, "", "", sizes], mode="linear")[0]
        mean = graph.constant(self.preparation.mean_of(channels).reshape(1, channels, 1, 1), "mean")
        picture = graph.node("Sub", [*graph.node("Round", [picture]), mean])[0]
        return graph.node("Mul", [picture, graph.constant(np.array(self.preparation.scale, np.float32), "scale")])[0]


@dataclass
class GraphCollector:
    """Collects operators, constants and shapes; layers see it as `OnnxGraph`."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    scope: str = ""
    first_node: int = 0  # of the layer that is being written
    open_batch: bool = False
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
    net: Net,
    *,
    outputs: Iterable[str] | None = None,
    all_blobs: bool = False,
    heads: str = "decoded",
    opset: int = OPSET,
    batch: int | None = None,
    picture: PictureInput | None = None,
) -> onnx.ModelProto:
    """Returns the net as an ONNX model.

    Values carry the names of Caffe's blobs. Where a blob is written several times, the last value has the name and
    earlier ones are `<blob>@<layer>`, as are all values written to an input (`onnx_names`). Values computed from
    constants are constants, and copies (Split) have the name of what they copy.

    Args:
        net: A TEST net with its weights.
        outputs: Blobs to return; the net's own outputs by default. Layers that none of them needs are left out.
        all_blobs: Return every value that the outputs depend on (`value_keys`), for comparing engines; constants are
            then not computed in advance.
        heads: What a detector ends in: "decoded" rows as Caffe writes them; "fixed", the same in a number of rows that
            does not depend on the pictures (`DetectionOutput.onnx_fixed`); "boxes", decoded boxes `<top>_boxes` and
            scores `<top>_scores` before suppression; "raw", what DetectionOutput reads. For a net without
            DetectionOutput, "decoded" means its outputs.
        opset: Version of the standard operators, one of OPSETS.
        batch: The batch size, to which the net is reshaped; None leaves the first axis of the inputs open, except in
            a net that is bound to its batch size (`NetPlan.fixed_batch`).
        picture: Take pictures and prepare them in the graph.

    Raises:
        ConversionError: A layer has no exact ONNX form, `outputs` names a blob that does not exist, the net has no
            output, or `heads` needs a DetectionOutput and the net has none.
    """
    if heads != "decoded":
        cut = raw_heads(net)
        outputs = cut if heads == "raw" else outputs
    if opset not in OPSETS:
        expected = f"{OPSETS[0]} to {OPSETS[-1]}"
        raise ConversionError("this opset cannot be written", code="onnx.opset", expected=expected, found=opset)
    if batch is None:
        batch = net.plan.fixed_batch()
    else:
        net.reshape({name: (batch, *net.blob_shapes[name][1:]) for name in net.input_names})
    wanted = wanted_blobs(net, outputs)
    if not wanted:
        raise ConversionError("the net has no outputs, so there is no graph to write", code="onnx.no-output")
    graph = GraphCollector(open_batch=batch is None)
    values: dict[int, str] = {}
    halves: dict[int, list[str]] = {}  # boxes and scores instead of detections
    plan = net.plan
    needed = needed_layers(net, wanted)
    names = plan.graph.blob_names
    keys, onnx_name = value_keys(net, needed), onnx_names(net, needed)
    inputs = []
    for i in needed:
        node, module = plan.graph.nodes[i], net.layers[i]
        if node.is_input:
            for blob, shape in zip(node.tops, plan.top_shapes[i], strict=True):
                inputs.append(_input(graph, names[blob], batch, shape[1:], picture))
                values[blob], graph.shapes[names[blob]] = names[blob], shape
            continue
        if cut := [names[blob] for blob in node.bottoms if blob in halves]:
            raise ConversionError(
                f'its bottom "{cut[0]}" does not exist in this form', code="onnx.heads", layer=node.name
            )
        results = _export_layer(graph, module, [values[blob] for blob in node.bottoms], heads)
        if isinstance(module.layer, DetectionOutput) and heads == "boxes":
            halves[node.tops[0]] = _boxes_and_scores(graph, module.layer, results, names[node.tops[0]])
            continue
        for blob, result, key, shape in zip(node.tops, results, keys[i], plan.top_shapes[i], strict=False):
            values[blob] = _named(graph, result, onnx_name[key], values)
            graph.shapes[values[blob]] = shape
        others = plan.storage.rewritten.get(i, {})
        for (blob, position), key in zip(others.items(), keys[i][len(node.tops) :], strict=True):
            values[blob] = _reshaped(graph, values[node.tops[position]], plan.shapes[blob], onnx_name[key])
    graph.store_used_weights()
    returned = (
        [onnx_name[key] for i in needed for key in keys[i]]
        if all_blobs
        else [name for blob in wanted for name in halves.get(blob) or [values[blob]]]
    )
    model = _model(net, graph, inputs, returned, opset)
    if all_blobs:
        return onnx.shape_inference.infer_shapes(model)
    return simplify(model, () if heads == "raw" else returned)


def value_keys(net: Net, indices: Iterable[int] | None = None) -> dict[int, list[str]]:
    """Returns, for layers by index, the names of the values that they write (`NetPlan.written`).

    A blob's final value carries the blob's name; values that are overwritten later are `<blob>@<layer>`.

    Args:
        net: The net.
        indices: The layers that count; all by default.
    """
    chosen = list(range(len(net.layers)) if indices is None else indices)
    last = {blob: i for i in chosen for blob in net.plan.written(i)}
    return _value_names(net, chosen, lambda i, blob: last[blob] == i)


def onnx_names(net: Net, indices: Iterable[int] | None = None) -> dict[str, str]:
    """Returns, for the names that `value_keys` gives, those in the ONNX file; each is written once there.

    They differ where layers work in place on an input: in the file, the input carries the blob's name.
    """
    graph, keys = net.plan.graph, value_keys(net, indices)
    last = {blob: i for i in keys for blob in net.plan.written(i)}
    last |= {blob: i for i in keys if graph.nodes[i].is_input for blob in graph.nodes[i].tops}
    names = _value_names(net, list(keys), lambda i, blob: last[blob] == i)
    return {key: name for i in keys for key, name in zip(keys[i], names[i], strict=True)}


def _value_names(net: Net, indices: Iterable[int], is_plain: Callable[[int, int], bool]) -> dict[int, list[str]]:
    """Returns names for the values that layers write: the blob's name alone where `is_plain(layer index, blob)`."""
    seen: Counter[str] = Counter()
    names: dict[int, list[str]] = {}
    for i in indices:
        names[i] = []
        for blob in net.plan.written(i):
            name = net.plan.graph.blob_names[blob]
            if not is_plain(i, blob):
                name += f"@{net.plan.graph.nodes[i].name}"
                seen[name] += 1
                name += f"%{seen[name]}" if seen[name] > 1 else ""  # several layers may have the same name
            names[i].append(name)
    return names


def save_onnx(
    net: Net,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    half: bool = False,
    transform: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None,
    **options: Any,
) -> onnx.ModelProto:
    """Writes the net as an ONNX file, checked by onnx.checker with full inference of shapes.

    An output that does not depend on any input, such as the priors among raw heads, is not an output of the file, since
    many engines refuse that. It goes into `<path without .onnx>.priors.safetensors` under its blob's name.

    Args:
        net: A TEST net with its weights.
        path: File to write; atomic.
        metadata: Further facts to keep in the file.
        weights: Arrays to keep under their names even if the graph does not use them.
        half: Store weights as float16, widened by Cast operators; the arithmetic stays float32.
        transform: Makes another model of the exported one, with the same inputs and outputs.
        **options: Options of `export_onnx`.

    Returns:
        The model as written.
    """
    model = export_onnx(net, **options)
    priors = _take_constant_outputs(model)
    if transform is not None:
        model = transform(model)
    describe(model, net, options.get("heads", "decoded"), metadata)
    stored = {tensor.name for tensor in model.graph.initializer}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array, order="C"), name)
        for name, array in (weights or {}).items()
        if name not in stored
    )
    if half:
        _halve(model, set(net.state_dict()) | set(weights or {}))
    onnx.checker.check_model(model, full_check=True)
    write_bytes(path, model.SerializeToString())
    if priors:
        write_bytes(priors_path(path), safetensors.numpy.save(priors))
    return model


def describe(
    model: onnx.ModelProto, net: Net, heads: str = "decoded", metadata: Mapping[str, str] | None = None
) -> None:
    """Writes into the model what every file says about itself, and further facts; `onnx_detection` reads them."""
    helper.set_model_props(model, {**file_facts(net, heads), **(metadata or {})})


def notes(model: onnx.ModelProto) -> list[str]:
    """Returns what a user of the file must know: where it runs, what goes in, what comes out."""
    facts = {entry.key: entry.value for entry in model.metadata_props}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    inputs = {name: [dim.dim_param or str(dim.dim_value) for dim in dims] for name, dims in shapes.items()}
    return explain(facts, inputs, "onnxruntime, OpenVINO" if facts.get("precision") == "int8" else "")


def priors_path(path: str | os.PathLike[str]) -> Path:
    """Returns where the priors of raw heads are, for the ONNX file beside it."""
    return Path(path).with_suffix(".priors.safetensors")


def _take_constant_outputs(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Takes the outputs that are constants out of the model; returns their values."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = {
        value.name: numpy_helper.to_array(constants[value.name]) for value in graph.output if value.name in constants
    }
    replace(graph.output, [value for value in graph.output if value.name not in found])
    used = {name for node in graph.node for name in node.input}
    replace(
        graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in found or tensor.name in used]
    )
    return found


def raw_heads(net: Net) -> list[str]:
    """Returns the blobs that DetectionOutput reads, priors included, and the net's other outputs.

    Raises:
        ConversionError: The net makes no detections.
    """
    graph = net.plan.graph
    ends = [graph.nodes[index] for index in net.plan.detection_layers]
    if not ends:
        raise ConversionError(
            "the net has no DetectionOutput, whose form `heads` would choose",
            code="onnx.heads",
            hint="leave out --heads",
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


def _export_layer(graph: GraphCollector, module: LayerModule, bottoms: Sequence[str], heads: str) -> list[str]:
    graph.scope = module.name
    graph.first_node = len(graph.nodes)
    blobs = [
        graph.weight(f"{module.name}.{role}", blob.detach().cpu().numpy())
        for role, blob in zip(module.roles, module.blobs, strict=True)
    ]
    layer = module.layer
    if isinstance(layer, DetectionOutput) and heads == "fixed":
        return layer.onnx_fixed(graph, bottoms)
    if isinstance(layer, DetectionOutput) and heads == "boxes":
        return layer.onnx_boxes(graph, bottoms)
    return layer.onnx(graph, bottoms, blobs)


def _boxes_and_scores(graph: GraphCollector, layer: DetectionOutput, results: Sequence[str], top: str) -> list[str]:
    names = [f"{top}_boxes", f"{top}_scores"]
    for result, name in zip(results, names, strict=True):
        graph.rename(result, name, graph.first_node)
        graph.shapes[name] = (0, 0, 0)
    if not layer.output_param.share_location:
        graph.shapes[names[0]] = (0, 0, 0, 0)
    return names


def _named(graph: GraphCollector, result: str, name: str, values: dict[int, str]) -> str:
    """Gives a layer's result its blob's name; results that are not the layer's own get an Identity."""
    own = any(result in node.output for node in graph.nodes[graph.first_node :])
    if own and result not in values.values():
        graph.rename(result, name, graph.first_node)
        return name
    graph.nodes.append(helper.make_node("Identity", [result], [name], name=f"{name}/Identity"))
    return name


def _reshaped(graph: GraphCollector, value: str, shape: Shape, name: str) -> str:
    """Adds a blob's values under the shape of another one that shares its memory."""
    dims = graph.constant(np.array([-1, *shape[1:]], np.int64), "shape")
    graph.nodes.append(helper.make_node("Reshape", [value, dims], [name], name=f"{name}/Reshape"))
    graph.shapes[name] = shape
    return name


def wanted_blobs(net: Net, outputs: Iterable[str] | None) -> list[int]:
    """Returns blobs by index: those of these names, or the net's outputs.

    Raises:
        ConversionError: There is no such blob.
    """
    graph = net.plan.graph
    if outputs is None:
        return graph.outputs
    latest = {name: blob for blob, name in enumerate(graph.blob_names)}
    for name in outputs:
        if name not in latest:
            raise ConversionError(f'the net has no blob "{name}"', code="onnx.output")
    return [latest[name] for name in outputs]


def needed_layers(net: Net, wanted: Iterable[int]) -> list[int]:
    """Returns the indices of the layers that the wanted blobs depend on, in order."""
    needed_blobs = set(wanted)
    needed = []
    for i in reversed(range(len(net.plan.graph.nodes))):
        node = net.plan.graph.nodes[i]
        if needed_blobs.intersection(net.plan.written(i)):
            needed.append(i)
            needed_blobs.update(node.bottoms)
    return needed[::-1]


def _input(
    graph: GraphCollector, name: str, batch: int | None, shape: Shape, picture: PictureInput | None
) -> onnx.ValueInfoProto:
    number = BATCH if batch is None else batch
    if picture is None:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [number, *shape])
    graph.scope, source = name, f"{name}_picture"
    first, result = len(graph.nodes), picture.onnx(graph, source, shape)
    graph.rename(result, name, first)
    return helper.make_tensor_value_info(source, TensorProto.UINT8, [number, "height", "width", shape[0]])


def _model(
    net: Net, graph: GraphCollector, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[str], opset: int
) -> onnx.ModelProto:
    results = [  # of known rank; the sizes are inferred
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * len(graph.shapes[name]))
        for name in dict.fromkeys(outputs)
    ]
    body = helper.make_graph(graph.nodes, net.name or "net", inputs, results, list(graph.initializers.values()))
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(
        body,
        opset_imports=opsets,
        producer_name="pyscratchdet",
        producer_version=__version__,
        ir_version=helper.find_min_ir_version_for(opsets),
    )
