"""What a Detector asks of whatever runs its net: prepared pictures in, rows of detections out."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pyscratchdet.devices import check_precision, use_tf32
from pyscratchdet.errors import DataError, LayerError, NetError
from pyscratchdet.runtime import Net, OptimizedNet, load_net


class DetectionEngine(ABC):
    """Runs one detection net.

    Attributes:
        name, version: Of the program that computes.
        channels: Of the input, 3 or 1.
        size: (height, width) of the input.
        num_classes, background: As DetectionOutput has them.
        confidence_threshold: Below it nothing is found.
        precision: What it multiplies in, "float32" or "bf16"; a file may hold yet others.
        nms_seconds: Time spent in DetectionOutput so far; 0 where it cannot be told from the rest.
    """

    name: str
    version: str
    channels: int
    size: tuple[int, int]
    num_classes: int
    background: int
    confidence_threshold: float
    precision: str = "float32"
    nms_seconds: float = 0.0

    @property
    def title(self) -> str:
        """What pages of results call it."""
        return f"{self.name} {self.version}" + ("" if self.precision == "float32" else f", {self.precision}")

    @abstractmethod
    def find(self, prepared: np.ndarray) -> np.ndarray:
        """Returns rows image, label, score, xmin, ymin, xmax, ymax (R, 7), boxes relative to the picture.

        Args:
            prepared: float32 (N, channels, height, width), of `size` or another that fits.

        Raises:
            DataError: The net's boxes or scores are not numbers.
        """

    @abstractmethod
    def fits(self, size: tuple[int, int]) -> bool:
        """Returns whether the net can take an input of this (height, width)."""


class PictureNet:
    """A deploy net that takes pictures, in our runtime's detection mode (`runtime.optimize`).

    Args:
        model: Prototxt of the deploy net, one input (batch, channels, height, width).
        weights: .caffemodel or .caffemodel.h5.
        size: (height, width) of the net's input if it should differ from the prototxt's.
        device: The torch device.
        precision: "float32", or "bf16" on devices that have it.

    Attributes:
        net: The net, on the device.
        device: The torch device.
        channels: Of the input, 3 or 1.
        size: (height, width) of the input.
        batch_size: How many pictures the net is bound to; None for any number.

    Raises:
        FileError, PrototxtError, NetError, LayerError, WeightsError: A file is missing or invalid.
        UsageError: The device does not have the precision.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        weights: str | os.PathLike[str] | None,
        size: tuple[int, int] | None = None,
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        self.device = torch.device(device)
        check_precision(precision, self.device)
        use_tf32(self.device, False)
        dtype = torch.float32 if precision == "float32" else torch.bfloat16
        net = load_net(model, weights, "TEST")
        self.batch_size = net.plan.fixed_batch()
        self.net: Net = OptimizedNet(net, dtype).to(self.device)
        self._input_name, self.channels, declared = picture_input(self.net)
        self.size = size or declared
        self.reshape(self.size)  # refuses a size that does not fit

    def __call__(self, prepared: np.ndarray) -> dict[str, torch.Tensor]:
        """Returns the net's outputs for pictures, float32 (N, channels, height, width)."""
        with torch.inference_mode():
            outputs: dict[str, torch.Tensor] = self.net({self._input_name: torch.from_numpy(prepared).to(self.device)})
        return outputs

    def reshape(self, size: tuple[int, int]) -> None:
        """Works out the shapes for another (height, width).

        Raises:
            LayerError: A layer cannot take it.
        """
        self.net.reshape({self._input_name: (self.batch_size or 1, self.channels, *size)})


class TorchDetection(DetectionEngine):
    """Our own runtime in detection mode: a `PictureNet`, whose arguments it takes, with DetectionOutput at its end."""

    name = "torch"

    def __init__(
        self,
        model: str | os.PathLike[str],
        weights: str | os.PathLike[str] | None,
        size: tuple[int, int] | None = None,
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        self.version, self.precision = torch.__version__, precision
        self._run = PictureNet(model, weights, size, device, precision)
        self.net, self.device = self._run.net, self._run.device
        self.channels, self.size = self._run.channels, self._run.size
        self._output_layer = output_layer(self.net)
        end = self._output_layer.layer
        self.num_classes, self.background = end.num_labels, end.background_label
        self.confidence_threshold = end.confidence_threshold
        self._nms_started = 0.0
        self._output_layer.register_forward_pre_hook(self._before_nms)

    @property
    def title(self) -> str:
        """With the device, where that is not the CPU."""
        return super().title if self.device.type == "cpu" else f"{super().title} on {self.device}"

    def find(self, prepared: np.ndarray) -> np.ndarray:
        """See the base class."""
        return find_in_parts(self._find, prepared, self._run.batch_size)

    def _find(self, prepared: np.ndarray) -> np.ndarray:
        outputs = self._run(prepared)
        top = self._output_layer.layer.param.top[0]
        if top not in outputs:
            raise NetError(f'"{top}" is not an output of the net', code="detect.output")
        rows: np.ndarray = outputs[top].reshape(-1, 7).cpu().numpy()
        self.nms_seconds += time.perf_counter() - self._nms_started
        return rows

    def fits(self, size: tuple[int, int]) -> bool:
        """See the base class; worked out from shapes alone."""
        try:
            self._run.reshape(size)
        except LayerError:
            return False
        return True

    def _before_nms(self, _: object, bottoms: Sequence[torch.Tensor]) -> None:
        """Measures the time, and refuses NaN, which DetectionOutput would silently drop: it is above no threshold."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._nms_started = time.perf_counter()
        if any(bool(torch.isnan(blob).any()) for blob in bottoms):
            raise not_numbers()


def find_in_parts(find: Callable[[np.ndarray], np.ndarray], prepared: np.ndarray, batch_size: int | None) -> np.ndarray:
    """Runs a net that may be bound to its batch size.

    Args:
        find: Returns the rows (R, 7) of as many pictures as the net takes.
        prepared: (N, channels, height, width).
        batch_size: What it takes; None for any. Zeros fill up the last batch.

    Returns:
        The rows of the N pictures, their image numbers counted from 0.
    """
    number = len(prepared)
    step = batch_size or number
    filling = np.zeros((-number % step, *prepared.shape[1:]), np.float32)
    filled = np.concatenate([prepared, filling]) if len(filling) else prepared
    parts = []
    for first in range(0, number, step):
        rows = find(filled[first : first + step])
        rows = rows[(rows[:, 0] >= 0) & (rows[:, 0] < number - first)]  # others are fillings
        parts.append(np.column_stack([rows[:, 0] + first, rows[:, 1:]]))
    return np.concatenate(parts)


def not_numbers() -> DataError:
    """Returns the error for boxes or scores that are NaN."""
    return DataError(
        "the net's boxes or scores are not numbers",
        code="detect.nan",
        hint="did the training diverge, or do mean and scale differ from those of the training?",
    )


def picture_input(net: Net) -> tuple[str, int, tuple[int, int]]:
    """Returns name, channels and (height, width) of the one input of a net for pictures.

    Raises:
        NetError: The net has no input, several, or one that cannot take a picture.
    """
    names = net.input_names
    shape = net.blob_shapes[names[0]] if len(names) == 1 else ()
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise NetError(
            "not a deploy net for pictures",
            code="detect.input",
            expected="one input of shape (batch, 3 or 1, height, width)",
            found=", ".join(f"{name} {net.blob_shapes[name]}" for name in names) or "no input",
            hint="give the deploy prototxt, not the train or test one",
        )
    return names[0], shape[1], (shape[2], shape[3])


def output_layer(net: Net) -> Any:
    """Returns the module of the net's one layer that makes detections.

    Raises:
        NetError: It has none, or several.
    """
    found = [net.layers[index] for index in net.plan.detection_layers]
    if len(found) != 1:
        raise NetError(
            "the detections cannot be told from other outputs",
            code="detect.output",
            expected="one layer that makes detections, such as DetectionOutput",
            found=f"{len(found)}",
        )
    return found[0]
