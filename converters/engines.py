"""Programs that can run a net: what `verify` compares.

An engine takes inputs and returns every value it can show, by its Caffe blob's name; values that in-place layers
overwrite are `<blob>@<layer>` where an engine can show them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

import cv2
import numpy as np
import torch

from pyscratchdet.converters.merge_bn import merge_bn
from pyscratchdet.converters.onnx_export import export_onnx, value_keys
from pyscratchdet.errors import ConversionError, NetError, UsageError, WeightsError
from pyscratchdet.files import open_bytes
from pyscratchdet.layers.plan import NetFile
from pyscratchdet.runtime import Net, build_net, copy_weights, net_blobs
from pyscratchdet.runtime.optimize import OptimizedNet

Arrays = Mapping[str, np.ndarray]


class Engine(Protocol):
    """Something that runs a net."""

    name: str

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns blobs by Caffe name for {input blob: float32 array}."""


class PyTorchEngine:
    """Our own runtime.

    Args:
        net: A TEST net with its weights.
        device: "cpu" or "cuda".
    """

    def __init__(self, net: Net, device: str = "cpu") -> None:
        self.name = "pyscratchdet" if device == "cpu" else device
        self.device = device
        self.net = net.to(device)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns all values, those that in-place layers overwrite included.

        Raises:
            NetError, LayerError: The inputs do not fit the net.
        """
        if missing := [name for name in self.net.input_names if name not in inputs]:
            raise NetError("inputs are missing", code="net.input", expected=self.net.input_names, found=f"no {missing}")
        self.net.reshape({name: array.shape for name, array in inputs.items()})
        tensors = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in inputs.items()}
        return self._run({name: tensor.to(self.device) for name, tensor in tensors.items()}, {})

    def run_layers(self, reference: Arrays) -> dict[str, np.ndarray]:
        """Runs every layer from the reference's bottoms and returns its tops: what the layer itself does to them.

        A layer whose bottom the reference does not show is run from the nearest earlier values that it shows; what
        depends on no value of the reference is left out.
        """
        return self._run({}, reference)

    def _run(self, inputs: Mapping[str, torch.Tensor], reference: Arrays) -> dict[str, np.ndarray]:
        graph = self.net.plan.graph
        keys = value_keys(self.net)
        values: dict[int, torch.Tensor] = {}
        results: dict[str, np.ndarray] = {}
        with torch.no_grad():
            for i, (node, module) in enumerate(zip(graph.nodes, self.net.layers, strict=True)):
                tops: list[torch.Tensor] = []
                if node.type == "Input":
                    tops = [inputs[key] for key in keys[i]] if inputs else []
                elif all(blob in values for blob in node.bottoms):
                    tops = module(*[values[blob] for blob in node.bottoms])
                for blob, key, top in zip(node.tops, keys[i], tops, strict=False):
                    results[key], values[blob] = top.cpu().numpy(), top
                for blob, key in zip(node.tops, keys[i], strict=True):
                    if key in reference:
                        values[blob] = torch.from_numpy(np.array(reference[key], np.float32)).to(self.device)
                        values[blob] = values[blob].reshape(self._shape(results.get(key), values[blob]))
        return results

    @staticmethod
    def _shape(ours: np.ndarray | None, given: torch.Tensor) -> tuple[int, ...]:
        """Other engines may keep other numbers of axes (OpenCV, old recordings): same values, our shape."""
        return tuple(ours.shape) if ours is not None and ours.size == given.numel() else tuple(given.shape)


class FastEngine:
    """Our runtime's detection mode (runtime.optimize), which shows the net's outputs only.

    Args:
        net: A TEST net with its weights.
    """

    name = "fast"

    def __init__(self, net: Net) -> None:
        self.net = OptimizedNet(net)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the outputs."""
        tensors = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in inputs.items()}
        with torch.no_grad():
            return {name: value.cpu().numpy() for name, value in self.net(tensors).items()}


class FoldedEngine:
    """Our runtime on the net with BatchNorm folded into convolutions (`converters.merge_bn`); shows final blobs only.

    Args:
        model: The net as it is.
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


class OnnxRuntimeEngine:
    """The net exported to ONNX, run by onnxruntime on the CPU.

    Raises:
        ConversionError: onnxruntime is not installed, or a layer has no ONNX form.
    """

    name = "onnxruntime"

    def __init__(self, net: Net) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ConversionError(
                "onnxruntime is not installed", code="engine.missing", hint='pip install "pyscratchdet[verify]"'
            ) from error
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        model = export_onnx(net, all_blobs=True)
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns all blobs that the net's outputs depend on."""
        names = [output.name for output in self.session.get_outputs()]
        known = {value.name for value in self.session.get_inputs()}
        feed = {name: np.ascontiguousarray(array, np.float32) for name, array in inputs.items() if name in known}
        return dict(zip(names, self.session.run(names, feed), strict=True))


class OpenCVEngine:
    """OpenCV 4's own Caffe importer, an independent second opinion; OpenCV 5 has none.

    Args:
        prototxt: Deploy net.
        caffemodel: Weights, binary.
        net: The same net in our runtime, to know which layer makes which blob.

    Raises:
        ConversionError: This OpenCV cannot read Caffe nets, or not this one.
    """

    name = "opencv"

    def __init__(self, prototxt: str | os.PathLike[str], caffemodel: str | os.PathLike[str], net: Net) -> None:
        if not hasattr(cv2.dnn, "readNetFromCaffe"):
            raise ConversionError(
                f"OpenCV {cv2.__version__} cannot read Caffe nets",
                code="engine.missing",
                hint='pip install "opencv-python-headless<5"',
            )
        try:
            self.net = cv2.dnn.readNetFromCaffe(os.fspath(prototxt), os.fspath(caffemodel))
        except cv2.error as error:
            raise ConversionError(f"OpenCV refuses the net: {error.err or error}", code="engine.refused") from error
        self.net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        self.net.enableFusion(False)
        if hasattr(self.net, "enableWinograd"):
            self.net.enableWinograd(False)
        self.tops = _tops_by_layer(net, set(self.net.getLayerNames()))

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the blobs whose layers OpenCV kept."""
        for name, array in inputs.items():
            self.net.setInput(np.ascontiguousarray(array, np.float32), name if len(inputs) > 1 else "")
        try:
            tops = self.net.forwardAndRetrieve(list(self.tops))
        except cv2.error as error:
            raise ConversionError(f"OpenCV cannot run the net: {error.err or error}", code="engine.failed") from error
        found = {}
        for blobs, arrays in zip(self.tops.values(), tops, strict=True):
            found.update({blob: array for blob, array in zip(blobs, arrays, strict=False) if array is not None})
        return {**inputs, **found}


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz by name.

    Raises:
        FileError, WeightsError: The file is missing or no npz of plain arrays.
    """
    with open_bytes(path) as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except Exception as error:  # numpy's reader answers damaged bytes with all kinds
            raise WeightsError(
                f"{os.fspath(path)}: not an npz of plain arrays, or damaged",
                code="verify.recording",
                hint="arrays of numbers are read; code and other objects never",
            ) from error


class Recording:
    """Blobs recorded elsewhere, such as inside an original Caffe by scripts/dump_caffe_blobs.py.

    Args:
        path: An npz with `in:<blob>` for inputs and `out:<blob>` for all others; perhaps gradients, `diff:<blob>` and
            `pdiff:<layer>:<i>`, with the diffs of outputs that they come from, `topdiff:<blob>`; perhaps a solver step
            on `step_in:<blob>` that makes weights `before:<layer>:<i>` to `after:<layer>:<i>`.

    Attributes:
        inputs, blobs, top_diffs, gradients, step_inputs, before, after: Those arrays.

    Raises:
        FileError, WeightsError: The file is missing or no such npz.
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
            UsageError: The inputs are others than the recorded ones.
        """
        for name, array in self.inputs.items():
            if name in inputs and not np.array_equal(inputs[name], array):
                raise UsageError(
                    f'input "{name}" differs from the recorded one', code="verify.inputs", hint="leave out --input"
                )
        return {**self.inputs, **self.blobs}


def _tops_by_layer(net: Net, known: set[str]) -> dict[str, list[str]]:
    """Returns {layer of OpenCV: names of the values it makes}; OpenCV calls some layers after their tops."""
    nodes = net.plan.graph.nodes
    tops: dict[str, list[str]] = {}
    for i, keys in value_keys(net).items():
        name = nodes[i].name if nodes[i].name in known else next((key for key in keys if key in known), None)
        if name is not None and nodes[i].type not in ("Input", "Split"):
            tops[name] = keys
    return tops
