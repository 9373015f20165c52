"""The proof of an import: the written net in our runtime against its source and OpenCV 4, blob by blob."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torchvision.models.detection.ssd import SSD

from pyscratchdet.converters.build import NetBuilder
from pyscratchdet.converters.compare import Comparison, compare_blobs
from pyscratchdet.converters.engines import Arrays, Engine, OpenCVEngine, PyTorchEngine
from pyscratchdet.converters.onnx_file import read_onnx, with_outputs
from pyscratchdet.converters.sessions import SESSIONS
from pyscratchdet.errors import ConversionError
from pyscratchdet.runtime import load_net


class ModuleEngine(Engine):
    """The PyTorch module that a net was made from; shows what it returns and what its submodules return.

    Args:
        module: In evaluation mode.
        net: What became of it.
    """

    name = "PyTorch"

    def __init__(self, module: torch.nn.Module, net: NetBuilder) -> None:
        self.module, self.net = module, net
        self.program = f"torch {torch.__version__}"

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the values that the net has blobs for."""
        found: dict[str, np.ndarray] = {}
        modules = dict(self.module.named_modules())
        hooks = [
            modules[path].register_forward_hook(self._keeper(found, blob))
            for path, blob in self.net.sources.items()
            if path in modules
        ]
        try:
            with torch.no_grad():
                found.update(self._results({name: torch.from_numpy(inputs[name]) for name in self.net.inputs}))
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def _results(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Calls the module and returns what it gives, where the net gives that too."""
        results = [value for value in pytree.tree_leaves(self.module(*inputs.values())) if torch.is_tensor(value)]
        if set(self.net.outputs).issubset(self.net.sources):  # the net ends at submodules
            return {}
        return {blob: value.detach().numpy() for blob, value in zip(self.net.outputs.values(), results, strict=True)}

    @staticmethod
    def _keeper(found: dict[str, np.ndarray], blob: str) -> Callable[[torch.nn.Module, object, object], None]:
        def keep(module: torch.nn.Module, arguments: object, result: object) -> None:
            if isinstance(result, torch.Tensor):
                found[blob] = result.detach().clone().numpy()  # what follows may work in place

        return keep


class SsdEngine(ModuleEngine):
    """torchvision's SSD, its transform and choice of boxes included, on pictures of its own size."""

    module: SSD

    def _results(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        (pictures,) = inputs.values()
        height, width = pictures.shape[2:]
        found = self.module(list(pictures.flip(1) / 255))
        rows = [
            torch.cat([torch.full_like(labels, image), labels, scores, boxes], 1)
            for image, each in enumerate(found)
            for labels, scores in [(each["labels"][:, None].float(), each["scores"][:, None])]
            for boxes in [each["boxes"] / torch.tensor([width, height, width, height])]
        ]
        (blob,) = self.net.outputs.values()
        return {blob: torch.cat(rows).numpy()[None, None]}


class OnnxSourceEngine(Engine):
    """The ONNX file that a net was made from, in onnxruntime.

    Args:
        path: The file.
        net: What became of it.

    Raises:
        ConversionError: onnxruntime is not installed, or refuses the file.
    """

    def __init__(self, path: str | os.PathLike[str], net: NetBuilder) -> None:
        session = SESSIONS["onnxruntime"]
        session.import_engine()
        model = with_outputs(read_onnx(path), net.sources)
        shown = [value.name for value in model.graph.output if value.name in net.sources]
        self.net = net
        self._session = session(model.SerializeToString(), shown, optimize=False, precision="float32")
        self.name = "onnxruntime"
        self.program = f"onnxruntime {self._session.version}"

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the values that the net has blobs for."""
        values = self._session.run({name: inputs[name] for name in self.net.inputs})
        return {self.net.sources[name]: value for name, value in values.items()}


def check_import(
    source: Engine | None, prototxt: str | os.PathLike[str], caffemodel: str | os.PathLike[str], inputs: Arrays
) -> list[Comparison]:
    """Runs the files of a written net in our runtime, and compares them with the source and with OpenCV 4.

    Args:
        source: What the net was made from; None leaves it out.
        prototxt: The net.
        caffemodel: Its weights.
        inputs: {input blob: float32 array}.

    Returns:
        One comparison with the source, one with OpenCV; OpenCV says why where it cannot run the net.
    """
    net = load_net(prototxt, caffemodel)
    ours = PyTorchEngine(net)
    blobs = ours.run(inputs)
    result = [] if source is None else [compare_blobs(net, ours, blobs, source, source.run(inputs))]
    try:
        opencv = OpenCVEngine(prototxt, caffemodel, net)
        result.append(compare_blobs(net, ours, blobs, opencv, opencv.run(inputs)))
    except ConversionError as error:
        result.append(Comparison(net.name, ours.name, OpenCVEngine.name, failure=str(error)))
    return result
