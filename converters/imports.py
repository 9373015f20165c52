"""A PyTorch module or an ONNX file as a Caffe net, with the proof that it computes the same.

`import_module` is what `pyscratchdet.import_module` is; torchvision's SSDs become whole detectors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch

from pyscratchdet.converters.build import NetBuilder
from pyscratchdet.converters.compare import BlobComparison, Comparison, all_agree
from pyscratchdet.converters.engines import Arrays, Engine
from pyscratchdet.converters.given_priors import add_detection, read_priors
from pyscratchdet.converters.import_check import ModuleEngine, OnnxSourceEngine, SsdEngine, check_import
from pyscratchdet.converters.onnx_import import import_onnx
from pyscratchdet.converters.torch_import import import_module as import_graph
from pyscratchdet.converters.torch_models import Shapes
from pyscratchdet.errors import ConversionError, UsageError
from pyscratchdet.layers.base import Shape


@dataclass
class ImportedNet:
    """A Caffe net and what it was made from.

    Attributes:
        net: The net with its weights.
        make_source: Makes the engine that runs the source.
        notes: What its user must know, one sentence each.
        takes_pictures: Whether its input is a picture as it is read, 0 to 255; else about -1 to 1.
        examples: {input blob: array} for the check; empty for noise.
    """

    net: NetBuilder
    make_source: Callable[[], Engine]
    notes: list[str] = field(default_factory=list)
    takes_pictures: bool = False
    examples: Arrays = field(default_factory=dict)

    def write(
        self, prototxt: str | os.PathLike[str], caffemodel: str | os.PathLike[str], check: bool = True
    ) -> list[Comparison]:
        """Writes both files and runs them against the source and OpenCV 4.

        Args:
            prototxt: Where the net goes; atomic.
            caffemodel: Where its weights go; atomic.
            check: False leaves the runs out.

        Returns:
            See `check`; [] without it.
        """
        self.net.write(prototxt, caffemodel)
        return self.check(prototxt, caffemodel) if check else []

    def check(
        self, prototxt: str | os.PathLike[str], caffemodel: str | os.PathLike[str], seed: int = 1
    ) -> list[Comparison]:
        """Runs written files against the source and OpenCV 4, blob by blob.

        Args:
            prototxt: The net.
            caffemodel: Its weights.
            seed: Of the noise that stands for the inputs where there are no examples.

        Returns:
            One comparison with the source, one with OpenCV; an engine that cannot run says why.
        """
        inputs = self.examples or self.noise(seed)
        try:
            source = self.make_source()
        except ConversionError as error:
            missing = [Comparison(self.net.param.name, "pyscratchdet", "the source", failure=str(error))]
            return missing + check_import(None, prototxt, caffemodel, inputs)
        return check_import(source, prototxt, caffemodel, inputs)

    def noise(self, seed: int) -> dict[str, np.ndarray]:
        """Returns seeded values for each input: noise, or pictures of noise at all scales for a detector to see."""
        rng = np.random.default_rng(seed)
        make = picture_noise if self.takes_pictures else _noise
        return {name: make(rng, self.net.shapes[name]) for name in self.net.inputs}


def import_module(
    module: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[Any],
    name: str = "net",
    *,
    layers: str | None = None,
    approximate: bool = False,
    outputs: Sequence[str] = (),
) -> ImportedNet:
    """Returns a PyTorch module, put into evaluation mode, as a Caffe net.

    Args:
        module: Takes tensors and returns tensors; or an SSD of torchvision's, which becomes a whole detector.
        example_inputs: A tensor, or one for each that the module takes: their shapes become the net's, and their values
            are what the check runs on. Or one shape, or a list of shapes. For an SSD, only the batch size counts.
        name: The net's name.
        layers: The Caffe whose layers may be used: bvlc, ssd, opencv, mnn, ncnn or rknn; by default all that this
            runtime has.
        approximate: Whether operations without an exact layer, such as GELU, may become approximations; they are listed
            with their errors in `net.approximations`.
        outputs: Submodules or blobs at which the net ends, before what has no layer; by default what the module
            returns.

    Raises:
        ConversionError: torch.export cannot follow the module, or an operation has no exact Caffe layer.
        UsageError: `layers` or `outputs` are unknown.
    """
    from torchvision.models.detection.ssd import SSD

    examples, shapes = _examples(example_inputs)
    if isinstance(module, SSD):
        return _import_detector(module, shapes, name, layers, outputs)
    net = import_graph(
        module, shapes[0] if len(shapes) == 1 else shapes, name, layers=layers, approximate=approximate, outputs=outputs
    )
    arrays = [example.detach().float().numpy() for example in examples]
    return ImportedNet(
        net,
        lambda: ModuleEngine(module, net),
        examples=dict(zip(net.inputs, arrays, strict=True)) if arrays else {},
    )


def import_file(
    path: str | os.PathLike[str],
    *,
    layers: str | None = None,
    approximate: bool = False,
    outputs: Sequence[str] = (),
    priors: str | os.PathLike[str] | None = None,
) -> ImportedNet:
    """Returns an ONNX file as a Caffe net; see `import_module`.

    Args:
        path: The file.
        layers: See `import_module`, as the next two.
        approximate: See there.
        outputs: Names of ONNX values.
        priors: A file of priors (`given_priors.read_priors`) for heads that give locations and scores; the net then
            ends in a DetectionOutput.

    Raises:
        FileError, WeightsError, ConversionError, UsageError: See `onnx_import.import_onnx`.
        DataError: The file of priors does not hold any.
    """
    boxes = None if priors is None else read_priors(priors)
    net = import_onnx(path, layers=layers, approximate=approximate, outputs=outputs)
    notes = [] if boxes is None else add_detection(net, *boxes)
    return ImportedNet(net, lambda: OnnxSourceEngine(path, net), notes)


def report(imported: ImportedNet, comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yields what to print of an import: approximations, notes and verdicts."""
    yield from (f"approximated: {sentence}" for sentence in imported.net.approximations)
    yield from (f"note: {sentence}" for sentence in imported.notes)
    for comparison in comparisons:
        yield comparison.verdict()


def is_proved(imported: ImportedNet, comparisons: Sequence[Comparison]) -> bool:
    """Returns whether no engine parts from the net; from its source, approximations may part, and what they lead to."""
    approximated = imported.net.approximated
    if not approximated:
        return all_agree(comparisons)
    return all_agree(comparisons[1:]) and all(
        blob.agrees or _is_excused(blob, approximated) for comparison in comparisons[:1] for blob in comparison.blobs
    )


def _is_excused(blob: BlobComparison, approximated: set[str]) -> bool:
    """Returns whether it drifted behind an approximation, or its own error may be one's."""
    return blob.drift is not None and (not blob.is_culprit or not approximated.isdisjoint(blob.suspects))


def _import_detector(module: Any, shapes: Shapes, name: str, layers: str | None, outputs: Sequence[str]) -> ImportedNet:
    from pyscratchdet.converters.torchvision_ssd import import_ssd

    if outputs:
        raise UsageError("an SSD is converted as a whole", code="import.output", found=", ".join(outputs))
    net, notes = import_ssd(module, name, shapes[0][0], layers)
    return ImportedNet(net, lambda: SsdEngine(module, net), notes, takes_pictures=True)


def _noise(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.uniform(-1, 1, shape).astype(np.float32)


def picture_noise(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Returns pictures, 0 to 255, with shapes of every size, without which all places would look alike to a net.

    Args:
        rng: Draws them.
        shape: (N, C, H, W).
    """
    batch, channels, height, width = shape
    sums = np.zeros((batch, height, width, channels), np.float32)
    for level in range(1, 7):
        for picture in sums:
            coarse = rng.normal(0, 25 * level, (2**level, 2**level, channels)).astype(np.float32)
            picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(np.clip(128 + sums, 0, 255).transpose(0, 3, 1, 2))


def _examples(given: torch.Tensor | Sequence[Any]) -> tuple[list[torch.Tensor], Shapes]:
    """Returns the tensors, [] where shapes are given, and the shapes."""
    if isinstance(given, torch.Tensor):
        given = [given]
    if all(isinstance(each, torch.Tensor) for each in given):
        return list(given), tuple(tuple(each.shape) for each in given)
    if all(isinstance(each, int) for each in given):
        given = [given]
    return [], tuple(tuple(int(size) for size in shape) for shape in given)
