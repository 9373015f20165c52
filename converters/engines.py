"""Programs that can run a net: what `verify` compares.

An engine takes inputs and returns every value that it computes and can show, by the name of its Caffe blob; values that
in-place layers overwrite are `<blob>@<layer>` where an engine can show them.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import ClassVar

import cv2
import numpy as np
import onnx
import torch

from pyscratchdet.converters.merge_bn import merge_bn
from pyscratchdet.converters.onnx_export import export_onnx, onnx_names, value_keys
from pyscratchdet.converters.onnx_file import read_onnx, with_outputs
from pyscratchdet.converters.sessions import SESSIONS
from pyscratchdet.devices import check_precision, use_tf32
from pyscratchdet.errors import ConversionError, NetError, UsageError, WeightsError
from pyscratchdet.files import check_zip, open_bytes, read_bytes
from pyscratchdet.layers.base import Layer, Shape
from pyscratchdet.layers.plan import NetFile
from pyscratchdet.runtime import Net, build_net, copy_weights, net_blobs, net_to_proto
from pyscratchdet.runtime.optimize import OptimizedNet

Arrays = Mapping[str, np.ndarray]


class Engine(ABC):
    """Something that runs a net.

    Attributes:
        name: What verdicts call it.
        program: Name and version of the program that computes, where it is an optional one.
        shares_memory: Whether an in-place layer changes all blobs that share memory in Caffe (`net.storage`).
    """

    name: str
    program: str = ""
    shares_memory: ClassVar[bool] = True

    @abstractmethod
    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the blobs that it computes by Caffe name, for {input blob: float32 array}.

        Raises:
            ConversionError: It cannot run the net.
        """

    def run_layers(self, reference: Arrays) -> dict[str, np.ndarray]:
        """Runs every layer on the reference's bottoms and returns its tops, if it can run single layers.

        Args:
            reference: Values by their names (`onnx_export.value_keys`), the net's inputs among them.
        """
        return {}

    def known_difference(self, layer: Layer) -> str:
        """Returns how the engine is known to differ from Caffe in this layer; "" where nothing is known.

        Args:
            layer: A layer whose values differ.
        """
        return ""


class PyTorchEngine(Engine):
    """Our own runtime.

    Args:
        net: A TEST net with its weights.
        device: "cpu" or "cuda".

    Raises:
        ConversionError: There is no such device.
    """

    def __init__(self, net: Net, device: str = "cpu") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ConversionError("PyTorch finds no CUDA device", code="engine.missing")
        self.name = "pyscratchdet" if device == "cpu" else device
        self.device = device
        use_tf32(torch.device(device), False)
        self.net = net.to(device)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns all values, including the inputs and those that in-place layers overwrite.

        Raises:
            NetError, LayerError: The inputs do not fit the net.
        """
        if missing := [name for name in self.net.input_names if name not in inputs]:
            raise NetError("inputs are missing", code="net.input", expected=self.net.input_names, found=f"no {missing}")
        self.net.reshape({name: array.shape for name, array in inputs.items()})
        graph, keys = self.net.plan.graph, value_keys(self.net)
        given = {
            key: np.asarray(inputs[graph.blob_names[blob]], np.float32)
            for i, node in enumerate(graph.nodes)
            if node.is_input
            for blob, key in zip(node.tops, keys[i], strict=True)
        }
        return {**given, **self.run_layers(given)}

    def run_layers(self, reference: Arrays) -> dict[str, np.ndarray]:
        """Runs every layer on the reference's bottoms and returns its tops, which show what the layer alone does.

        A layer whose bottom the reference does not show is run from the nearest earlier values that it shows. Values
        that depend on no value of the reference are left out, and so are those that depend on one of another shape.

        Args:
            reference: Values by their names (`onnx_export.value_keys`), the net's inputs among them.
        """
        plan, keys = self.net.plan, value_keys(self.net)
        values: dict[int, torch.Tensor | None] = {}
        results: dict[str, np.ndarray] = {}
        with torch.no_grad():
            for i, (node, module) in enumerate(zip(plan.graph.nodes, self.net.layers, strict=True)):
                bottoms = [value for blob in node.bottoms if (value := values.get(blob)) is not None]
                can_run = len(bottoms) == len(node.bottoms) and not node.is_input
                tops = module(*bottoms) if can_run else [None] * len(node.tops)
                shapes = list(plan.top_shapes[i])
                for blob, position in plan.storage.rewritten.get(i, {}).items():
                    shapes.append(plan.shapes[blob])
                    top = tops[position]
                    tops = [*tops, None if top is None else top.reshape(plan.shapes[blob])]
                for blob, key, top, shape in zip(plan.written(i), keys[i], tops, shapes, strict=True):
                    values[blob] = top
                    if top is not None:
                        results[key], shape = top.cpu().numpy(), tuple(top.shape)
                    if key in reference:
                        values[blob] = self._fitted(reference[key], shape, module.layer)
        return results

    def _fitted(self, array: np.ndarray, shape: Shape, layer: Layer) -> torch.Tensor | None:
        """Returns a value of the reference in our shape, or None if it does not fit."""
        if layer.makes_detections:
            shape = array.shape
        if not same_shape(array.shape, shape):
            return None
        return torch.from_numpy(np.array(array, np.float32)).reshape(shape).to(self.device)


def same_shape(shape: Shape, other: Shape) -> bool:
    """Returns whether two shapes are equal but for axes of size 1, which OpenCV and old recordings add or leave out."""
    return [size for size in shape if size != 1] == [size for size in other if size != 1]


class FastEngine(Engine):
    """Our runtime's detection mode (runtime.optimize), which shows the net's outputs only.

    Args:
        net: A TEST net with its weights.
        precision: "float32", or "bf16" on CPUs that have it.

    Raises:
        UsageError: The CPU does not have the precision.
    """

    def __init__(self, net: Net, precision: str = "float32") -> None:
        check_precision(precision, torch.device("cpu"))
        self.name = "fast" if precision == "float32" else f"fast in {precision}"
        self.net = OptimizedNet(net, torch.float32 if precision == "float32" else torch.bfloat16)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the outputs."""
        tensors = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in inputs.items()}
        with torch.no_grad():
            return {name: value.cpu().numpy() for name, value in self.net(tensors).items()}


class FoldedEngine(Engine):
    """Our runtime on the net with BatchNorm folded into convolutions (`converters.merge_bn`); shows final blobs only.

    Args:
        model: The net before folding.
        net: The same in our runtime, with its weights.
    """

    name = "folded"

    def __init__(self, model: NetFile, net: Net) -> None:
        folded = merge_bn(model.param, net_blobs(net))
        self.net = build_net(folded.param)
        copy_weights(self.net, folded.blobs)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the blobs that are left."""
        return {key: value for key, value in PyTorchEngine(self.net).run(inputs).items() if "@" not in key}


class OnnxEngine(Engine):
    """The net exported to ONNX, or an ONNX file of it, run by an engine of `sessions`.

    Args:
        net: The net.
        engine: A key of SESSIONS.
        path: A file whose values carry the names of the net's blobs, as `convert` writes them; by default the net is
            exported with its present input shapes.
        precision: "float32", or "bf16" in OpenVINO on CPUs that have it.

    Raises:
        FileError, WeightsError: The file is missing or damaged.
        ConversionError: The engine is not installed or refuses the net, or a layer has no ONNX form.
        UsageError: The engine does not show blobs, or the CPU does not have the precision.
    """

    def __init__(
        self,
        net: Net,
        engine: str = "onnxruntime",
        path: str | os.PathLike[str] | None = None,
        precision: str = "float32",
    ) -> None:
        check_precision(precision, torch.device("cpu"))
        where = engine if precision == "float32" else f"{engine} in {precision}"
        self.name = where if path is None else f"{os.path.basename(os.fspath(path))} in {where}"
        self.keys = {name: key for key, name in onnx_names(net).items()}
        if not SESSIONS[engine].shows_blobs:
            raise UsageError(
                f"{engine} does not show every blob of a net",
                code="engine.blobs",
                expected=" or ".join(name for name, session in SESSIONS.items() if session.shows_blobs),
            )
        SESSIONS[engine].import_engine()  # before the work, not after
        if path is None and SESSIONS[engine].needs_static_shapes:
            batch = net.blob_shapes[net.input_names[0]][0]
            heads = "fixed" if net.plan.detection_layers else "decoded"
            model = export_onnx(net, all_blobs=True, heads=heads, batch=batch)
        elif path is None:
            model = export_onnx(net, all_blobs=True)
        else:
            model = read_onnx(path)
            self.keys = _shown(model, self.keys)
            model = with_outputs(model, self.keys)
        self._inputs = [value.name for value in model.graph.input]
        outputs = [value.name for value in model.graph.output if value.name in self.keys]
        if not outputs:
            raise ConversionError(f"{self.name} shows none of the net's blobs", code="engine.refused")
        self._session = SESSIONS[engine](model.SerializeToString(), outputs, optimize=False, precision=precision)
        self.program = f"{engine} {self._session.version}"

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns all blobs that the net's outputs depend on and that the graph has.

        Raises:
            ConversionError: It cannot run the net on them.
        """
        if missing := [name for name in self._inputs if name not in inputs]:
            raise ConversionError(
                f"{self.name} needs other inputs", code="engine.failed", expected=missing, found=list(inputs)
            )
        values = self._session.run({name: np.ascontiguousarray(inputs[name], np.float32) for name in self._inputs})
        return {self.keys[name]: value for name, value in values.items()}


def _shown(model: onnx.ModelProto, keys: Mapping[str, str]) -> dict[str, str]:
    """Returns {value of a file: name of the net's value} for those that stand for the net's.

    Where BatchNorm is folded, what in-place layers overwrite is not the net's. In int8, the name is that of the value
    before its rounding, which also stands for ReLU; what the next layer reads is its dequantised form.
    """
    facts = {entry.key for entry in model.metadata_props}
    computed = {name for node in model.graph.node for name in node.output}
    found = {}
    for name, key in keys.items():
        if "folded" not in facts or "@" not in key:
            rounded = f"{name}_DequantizeLinear_Output"
            found[rounded if rounded in computed else name] = key
    return found


class OpenCVEngine(Engine):
    """OpenCV 4's own Caffe importer, an independent second opinion; OpenCV 5 has none.

    Args:
        prototxt: Deploy net.
        caffemodel: Weights, binary; None for those of `net`.
        net: The same net in our runtime, to know which layer makes which blob.

    Raises:
        ConversionError: This OpenCV cannot read Caffe nets, or not this one.
    """

    name = "opencv"
    shares_memory: ClassVar[bool] = False

    def __init__(self, prototxt: str | os.PathLike[str], caffemodel: str | os.PathLike[str] | None, net: Net) -> None:
        if not hasattr(cv2.dnn, "readNetFromCaffe"):
            raise ConversionError(
                f"OpenCV {cv2.__version__} cannot read Caffe nets",
                code="engine.missing",
                hint='pip install "opencv-python-headless<5"',
            )
        weights = net_to_proto(net).SerializeToString() if caffemodel is None else read_bytes(caffemodel)
        try:
            self.net = cv2.dnn.readNetFromCaffe(_buffer(read_bytes(prototxt)), _buffer(weights))
            self.tops = _tops_by_layer(net, set(self.net.getLayerNames()))
        except cv2.error as error:
            raise ConversionError(f"OpenCV refuses the net: {_reason(error)}", code="engine.refused") from error
        self.net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        self.net.enableFusion(False)
        if hasattr(self.net, "enableWinograd"):
            self.net.enableWinograd(False)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the blobs whose layers OpenCV kept.

        Raises:
            ConversionError: It cannot run the net on them.
        """
        found: dict[str, np.ndarray] = {}
        try:
            for name, array in inputs.items():
                self.net.setInput(np.ascontiguousarray(array, np.float32), name if len(inputs) > 1 else "")
            for layers in self._passes():
                tops = self.net.forwardAndRetrieve(layers)
                for layer, arrays in zip(layers, tops, strict=True):
                    pairs = zip(self.tops[layer], arrays, strict=False)
                    found.update({blob: array for blob, array in pairs if array is not None})
        except cv2.error as error:
            raise ConversionError(f"OpenCV cannot run the net: {_reason(error)}", code="engine.failed") from error
        return found

    def _passes(self) -> Iterator[list[str]]:
        """Yields the layers to ask for in one pass, so that each of their tops is still there when it ends.

        OpenCV keeps the first top of every layer that it is asked for and lets later layers write over the others
        (net_impl.cpp, Net::Impl::forward: one pin per name). A pass ends after the last layer that it is asked for.
        """
        if single := [layer for layer, blobs in self.tops.items() if len(blobs) == 1]:
            yield single
        yield from ([layer] for layer, blobs in self.tops.items() if len(blobs) > 1)

    def known_difference(self, layer: Layer) -> str:
        """Returns what OpenCV 4's importer is known to do otherwise in this layer."""
        return layer.opencv_difference()


def _reason(error: cv2.error) -> str:
    """Returns what OpenCV says, on one line."""
    return " ".join(str(error.err or error).split())


def _buffer(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz by name.

    Raises:
        FileError: The file is missing or would unpack to far more than its size (`files.check_zip`).
        WeightsError: It is not an npz of plain arrays.
    """
    with open_bytes(path) as file:
        check_zip(file, path)
        try:
            with np.load(file, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except Exception as error:  # numpy's reader raises all kinds of exceptions for damaged bytes
            raise WeightsError(
                f"{os.fspath(path)}: not an npz of plain arrays, or damaged",
                code="verify.recording",
                hint="only arrays of numbers are read, never code or other objects",
            ) from error


class Recording(Engine):
    """Blobs recorded elsewhere, such as inside an original Caffe by scripts/dump_caffe_blobs.py.

    Args:
        path: An npz with `in:<blob>` for inputs and `out:<blob>` for all others; perhaps gradients, `diff:<blob>` and
            `pdiff:<layer>:<i>`, with the diffs of outputs that they come from, `topdiff:<blob>`; perhaps a solver step
            on `step_in:<blob>` that turns weights `before:<layer>:<i>` into `after:<layer>:<i>`.

    Attributes:
        inputs, blobs, top_diffs, gradients, step_inputs, before, after: Those arrays.

    Raises:
        FileError, WeightsError: The file is missing or is not such an npz.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = f"recording {os.path.basename(os.fspath(path))}"
        arrays = read_arrays(path)

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}

        self.inputs, self.blobs, self.top_diffs = part("in:"), part("out:"), part("topdiff:")
        self.step_inputs, self.before, self.after = part("step_in:"), part("before:"), part("after:")
        self.gradients = {key: array for key, array in arrays.items() if key.startswith(("diff:", "pdiff:"))}
        if not self.blobs:
            raise WeightsError(f"{os.fspath(path)}: no out:<blob> arrays", code="verify.recording")

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the recorded blobs; they were made from the recorded inputs.

        Raises:
            UsageError: The inputs differ from the recorded ones.
        """
        for name, array in self.inputs.items():
            if name in inputs and not np.array_equal(inputs[name], array):
                raise UsageError(
                    f'input "{name}" differs from the recorded one', code="verify.inputs", hint="leave out --input"
                )
        return dict(self.blobs)


def _tops_by_layer(net: Net, known: set[str]) -> dict[str, list[str]]:
    """Returns {layer of OpenCV: names of the values it makes}.

    OpenCV names some layers after their tops, and calls a second layer of the same name `<name>_1`.
    """
    nodes = net.plan.graph.nodes
    tops: dict[str, list[str]] = {}
    seen: Counter[str] = Counter()
    for i, keys in value_keys(net).items():
        if nodes[i].index < 0 or nodes[i].is_input:  # an inserted Split, which OpenCV does without
            continue
        name = nodes[i].name + (f"_{seen[nodes[i].name]}" if seen[nodes[i].name] else "")
        seen[nodes[i].name] += 1
        found = name if name in known else next((key for key in keys if key in known), None)
        if found is not None:
            tops[found] = keys[: len(nodes[i].tops)]
    return tops
