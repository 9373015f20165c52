"""Detection nets as ONNX models in other engines, behind the seam that a Detector has for them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch

from pyscratchdet.converters.onnx_export import describe, export_onnx
from pyscratchdet.converters.onnx_file import read_onnx, with_outputs
from pyscratchdet.converters.sessions import SESSIONS
from pyscratchdet.detect.detector import Preparation
from pyscratchdet.detect.engine import DetectionEngine, find_in_parts, not_numbers, output_layer, picture_input
from pyscratchdet.devices import check_precision
from pyscratchdet.errors import WeightsError
from pyscratchdet.runtime import load_net

_ROWS = ("decoded", "fixed")  # the forms whose files give rows
_PREPARED, _NAMED = ("mean", "scale", "channels"), "labels"
# What a file must say for `detect` to run it alone.
_NEEDED = ("heads", "rows", "predictions", "num_classes", "background", "confidence_threshold", *_PREPARED, _NAMED)


@dataclass
class OnnxDetector:
    """A detector's ONNX model with what `convert` wrote into it.

    Attributes:
        model: The model.
        path: Its file, or the prototxt that it was made from; for messages.
    """

    model: onnx.ModelProto
    path: str

    @classmethod
    def of_net(
        cls,
        model: str | os.PathLike[str],
        weights: str | os.PathLike[str] | None,
        size: tuple[int, int] | None = None,
        batch: int | None = None,
    ) -> OnnxDetector:
        """Makes the model of a deploy net.

        Args:
            model: Prototxt of the deploy net.
            weights: .caffemodel or .caffemodel.h5.
            size: (height, width) of the input where it should differ from the prototxt's.
            batch: Pictures at a time, with a fixed number of rows, so that all shapes are static; None for any number
                of pictures and rows as Caffe writes them.

        Raises:
            FileError, PrototxtError, NetError, LayerError, WeightsError, ConversionError: A file is missing, not
                sound, or cannot be written as ONNX.
        """
        net = load_net(model, weights, "TEST")
        name, channels, declared = picture_input(net)
        net.reshape({name: (1, channels, *(size or declared))})
        output_layer(net)
        heads = "decoded" if batch is None else "fixed"
        exported = export_onnx(net, heads=heads, batch=batch and (net.plan.fixed_batch() or batch))
        describe(exported, net, heads=heads)
        return cls(exported, os.fspath(model))

    @classmethod
    def of_file(cls, path: str | os.PathLike[str]) -> OnnxDetector:
        """Reads the model that `convert` wrote.

        Raises:
            FileError, WeightsError: It is missing or damaged.
        """
        return cls(read_onnx(path), os.fspath(path))

    @property
    def facts(self) -> dict[str, str]:
        """The metadata."""
        return {entry.key: entry.value for entry in self.model.metadata_props}

    def labels(self) -> dict[int, str]:
        """Returns {label: class name}.

        Raises:
            WeightsError: The file does not have it.
        """
        text = self.fact(_NAMED, "--labelmap")
        try:
            return {int(label): str(name) for label, name in json.loads(text).items()}
        except (ValueError, AttributeError) as error:
            raise self._damaged("labels", text) from error

    def preparation(self) -> Preparation:
        """Returns mean, scale and the order of channels.

        Raises:
            WeightsError: The file does not have them.
        """
        texts = [self.fact(name, "--mean, --scale and --rgb") for name in _PREPARED]
        try:
            mean = tuple(float(part) for part in texts[0].split(","))
            return Preparation(mean, float(texts[1]), texts[2] == "rgb")
        except ValueError as error:
            raise self._damaged("mean and scale", " ".join(texts[:2])) from error

    def number(self, name: str) -> float:
        """Returns a fact that is a number.

        Raises:
            WeightsError: The file does not have it.
        """
        text = self.fact(name)
        try:
            return float(text)
        except ValueError as error:
            raise self._damaged(name, text) from error

    def check_form(self) -> None:
        """Checks that the file takes prepared pictures and gives rows.

        Raises:
            WeightsError: It does not.
        """
        if "pyscratchdet" not in self.facts:
            raise WeightsError(
                f"{self.path}: not a detector that `pyscratchdet convert` wrote",
                code="onnx.metadata",
                expected=f"metadata {', '.join(_NEEDED)}",
                found=", ".join(sorted(self.facts)) or "none",
                hint="as a Caffe net it runs if its layers have a Caffe form: "
                f"pyscratchdet convert {shlex.quote(self.path)} net.caffemodel --prototxt net.prototxt",
            )
        heads = self.fact("heads")
        if heads not in _ROWS:
            raise WeightsError(
                f"{self.path}: gives no rows of detections", code="onnx.form", expected="--heads decoded or fixed",
                found=f"--heads {heads}",
            )  # fmt: skip
        if "picture" in self.facts:
            raise WeightsError(
                f"{self.path}: prepares pictures itself",
                code="onnx.form",
                expected="a file converted without --input-picture",
            )
        outputs = [value.name for value in self.model.graph.output]
        if self.fact("rows") not in outputs:
            raise WeightsError(f'{self.path}: "{self.facts["rows"]}" is not an output', code="onnx.form", found=outputs)

    def fact(self, name: str, option: str = "") -> str:
        """Returns what the file says under a name.

        Args:
            name: Of the entry.
            option: What the command line has for it.

        Raises:
            WeightsError: It says nothing.
        """
        if name in self.facts:
            return self.facts[name]
        raise WeightsError(
            f'{self.path}: says nothing of its "{name}"',
            code="onnx.metadata",
            expected="metadata as `pyscratchdet convert` writes it",
            found=", ".join(sorted(self.facts)) or "none",
            hint=f"give {option}, or convert the net with it" if option else "convert the net again",
        )

    def _damaged(self, name: str, found: object) -> WeightsError:
        return WeightsError(f"{self.path}: its {name} cannot be read", code="onnx.metadata", found=found)


class OnnxDetection(DetectionEngine):
    """A detector's ONNX model in one of the engines of `sessions`.

    A file that declares a batch size is given that many pictures at a time, the last ones filled up with zeros.

    Args:
        engine: A key of SESSIONS.
        detector: The model.
        threads: How many the engine may use; 0 leaves it to the engine.
        precision: "float32", or "bf16" in OpenVINO on CPUs that have it.

    Raises:
        ConversionError: The engine is not installed, does not have the precision or refuses the model.
        UsageError: The CPU does not have the precision.
        WeightsError: The model is not a detector that takes prepared pictures and gives rows, or not as the engine
            needs it.
    """

    def __init__(self, engine: str, detector: OnnxDetector, threads: int = 0, precision: str = "float32") -> None:
        check_precision(precision, torch.device("cpu"))
        detector.check_form()
        facts = detector.facts
        self._rows, predictions = facts["rows"], detector.fact("predictions").split("\n")
        self._input, self._batch_size, self.channels, *size = _input(detector)
        if SESSIONS[engine].needs_static_shapes and (facts["heads"] != "fixed" or not self._batch_size):
            raise WeightsError(
                f"{detector.path}: {engine} needs static shapes",
                code="onnx.form",
                expected="a file converted with --heads fixed --batch N",
                found=f"--heads {facts['heads']}, batch size {self._batch_size or 'open'}",
            )
        self.size = (size[0], size[1])
        self.num_classes, self.background = (int(detector.number(name)) for name in ("num_classes", "background"))
        self.confidence_threshold = detector.number("confidence_threshold")
        model = with_outputs(detector.model, predictions)
        outputs = {value.name for value in model.graph.output}
        self._predictions = [name for name in predictions if name in outputs]
        asked = [self._rows, *self._predictions]
        session = SESSIONS[engine](model.SerializeToString(), asked, threads=threads, precision=precision)
        self.name, self.version, self._session = engine, session.version, session
        self.precision = precision

    def find(self, prepared: np.ndarray) -> np.ndarray:
        """See the base class."""
        return find_in_parts(self._find, prepared, self._batch_size or None)

    def fits(self, size: tuple[int, int]) -> bool:
        """See the base class: the size is part of the model."""
        return size == self.size

    def _find(self, prepared: np.ndarray) -> np.ndarray:
        values = self._session.run({self._input: prepared})
        # What DetectionOutput would pass over in silence: "nan" is above no threshold.
        if any(np.isnan(values[name]).any() for name in self._predictions):
            raise not_numbers()
        return np.array(values[self._rows]).reshape(-1, 7)


def _input(detector: OnnxDetector) -> tuple[Any, ...]:
    """Returns name, batch size (0 if open), channels, height and width of the one input."""
    inputs: Mapping[str, Any] = {value.name: value.type.tensor_type for value in detector.model.graph.input}
    found = [(name, [dim.dim_value for dim in kind.shape.dim]) for name, kind in inputs.items()]
    if len(found) != 1 or len(found[0][1]) != 4 or not all(found[0][1][1:]):
        raise WeightsError(
            f"{detector.path}: does not take pictures",
            code="onnx.form",
            expected="one input (batch, channels, height, width)",
            found=found,
        )
    return found[0][0], *found[0][1]
