"""A detection net as a function from pictures to boxes, prepared as SSD prepares its test pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import cv2
import numpy as np
import torch

from pyscratchdet.data.label_map import BACKGROUND_NAMES, label_to_name, read_label_map
from pyscratchdet.detect import zoo
from pyscratchdet.detect.engine import DetectionEngine, TorchDetection
from pyscratchdet.detect.media import read_picture
from pyscratchdet.detect.tables import ImageDetections
from pyscratchdet.errors import DataError, UsageError, counted

SSD_MEAN = (104.0, 117.0, 123.0)

Picture = np.ndarray | str | os.PathLike[str]
Labels = Mapping[int, str] | str | os.PathLike[str]


@dataclass
class StageSeconds:
    """Time spent by stage: `pre` (resize, mean), `forward` (the net without its DetectionOutput), `nms`, `post`."""

    pre: float = 0.0
    forward: float = 0.0
    nms: float = 0.0
    post: float = 0.0
    images: int = 0


@dataclass
class Preparation:
    """How a picture becomes the net's input; the prototxt of a deploy net does not say.

    Attributes:
        mean: Subtracted per channel, in the net's channel order; one value applies to all.
        scale: Multiplies what remains.
        rgb: The net takes red first; Caffe's nets take blue first.

    Raises:
        UsageError: The scale is 0 in float32, or not finite.
    """

    mean: tuple[float, ...] = SSD_MEAN
    scale: float = 1.0
    rgb: bool = False
    _cache: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        with np.errstate(over="ignore", under="ignore"):
            scale = np.float32(self.scale)
        if scale == 0 or not np.isfinite(scale):
            raise UsageError(
                "a scale that leaves nothing of a picture",
                code="detect.scale",
                expected="a number other than 0",
                found=self.scale,
            )

    def __call__(
        self, image: np.ndarray, channels: int, height: int, width: int, resize_first: bool = True
    ) -> np.ndarray:
        """Returns float32 (channels, height, width).

        Args:
            image: uint8 (h, w, 3) BGR, (h, w, 4) BGRA, or grey (h, w).
            channels: 3 or 1.
            height: Height of the net's input.
            width: Width of the net's input.
            resize_first: Resize the bytes (SSD's data transformer), or the float picture (RefineDet's test code).

        Raises:
            DataError: Not such a picture.
            UsageError: The mean has another number of channels, or is not finite.
        """
        image = _as_channels(image, channels, self.rgb)
        if resize_first:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        mean = self.mean_of(channels)
        if not resize_first:
            values = image.reshape(*image.shape[:2], channels).astype(np.float32) - mean
            image = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
            mean = np.zeros_like(mean)
        planes = np.empty((channels, height, width), np.float32)
        for plane, channel, offset in zip(planes, cv2.split(image), mean, strict=True):  # twice as fast as all at once
            plane[...] = channel
            plane -= offset
        if self.scale != 1:
            planes *= np.float32(self.scale)
        return planes

    def mean_of(self, channels: int) -> np.ndarray:
        """Returns what is subtracted from each of this many channels, float32.

        Raises:
            UsageError: The mean has another number of channels.
        """
        if channels not in self._cache:
            mean = np.array(self.mean or (0.0,), np.float32)
            if channels == 1 and self.mean == SSD_MEAN:
                mean = mean.mean(keepdims=True)
            if len(mean) not in (1, channels) or not np.isfinite(mean).all():
                raise UsageError(
                    "the mean does not fit the net",
                    code="detect.mean",
                    expected=f"1 number or {channels}, one per channel",
                    found=self.mean,
                )
            self._cache[channels] = np.broadcast_to(mean, (channels,))
        return self._cache[channels]


class Detector:
    """A deploy net with its label map, ready to be called, in our runtime's detection mode (`runtime.optimize`).

        detector = Detector("deploy.prototxt", "model.caffemodel", "labelmap.prototxt")
        found = detector.detect("photo.jpg", threshold=0.5)
        for label, score, (xmin, ymin, xmax, ymax) in zip(found.labels, found.scores, found.boxes_px):
            print(detector.names[label], score, xmin, ymin, xmax, ymax)

    Pictures are files or uint8 arrays (height, width, 3) with blue first, as `cv2.imread` gives them; PIL's and
    torchvision's have red first. Boxes are in pixels of the picture that was given, whatever the net's input size.

    Args:
        model: Prototxt of the deploy net, one input (batch, channels, height, width), DetectionOutput at its end.
        weights: .caffemodel or .caffemodel.h5.
        labelmap: LabelMap prototxt, or {label: class name}; without one classes are named by their number.
        preparation: Mean, scale and channel order.
        batch_size: Pictures per forward pass.
        size: (height, width) of the net's input if it should differ from the prototxt's.
        device: The torch device.
        precision: "float32", or "bf16" on CPUs that have it.

    Raises:
        FileError, PrototxtError, NetError, LayerError, WeightsError: A file is missing or invalid.
        UsageError: The device does not have the precision.
        DataError: Label map and net differ in their number of classes.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        weights: str | os.PathLike[str] | None,
        labelmap: Labels | None = None,
        *,
        preparation: Preparation | None = None,
        batch_size: int = 8,
        size: tuple[int, int] | None = None,
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        engine = TorchDetection(model, weights, size, device, precision)
        self._set_up(engine, labelmap, preparation or Preparation(), batch_size)

    @classmethod
    def from_zoo(cls, name: str, *, batch_size: int = 8, device: torch.device | str = "cpu") -> Detector:
        """Returns a detector that comes with the package, such as "bccd".

        Args:
            name: A folder of `detect.zoo`.
            batch_size: Pictures per forward pass.
            device: The torch device.

        Raises:
            UsageError: No detector has this name.
        """
        files = zoo.files(name)
        return cls(files.model, files.weights, files.labelmap, batch_size=batch_size, device=device)

    @classmethod
    def in_engine(
        cls,
        engine: DetectionEngine,
        labels: Labels | None = None,
        *,
        preparation: Preparation | None = None,
        batch_size: int = 8,
    ) -> Detector:
        """Returns a detector whose net another engine runs.

        Args:
            engine: Has loaded the net.
            labels: {label: class name}, or a LabelMap prototxt.
            preparation: Mean, scale and channel order.
            batch_size: Pictures per forward pass.

        Raises:
            DataError: Labels and net differ in their number of classes.
        """
        detector = cls.__new__(cls)
        detector._set_up(engine, labels, preparation or Preparation(), batch_size)
        return detector

    def _set_up(
        self,
        engine: DetectionEngine,
        labels: Labels | None,
        preparation: Preparation,
        batch_size: int,
    ) -> None:
        self.engine, self.size = engine, engine.size  # (height, width) of the net's input
        self.preparation = preparation
        self.batch_size = batch_size
        self.names = self._class_names(labels)
        self.seconds = StageSeconds()

    @property
    def num_classes(self) -> int:
        """With the background."""
        return self.engine.num_classes

    @property
    def confidence_threshold(self) -> float:
        """The net's own, below which it finds nothing."""
        return self.engine.confidence_threshold

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels from 1 on."""
        return tuple(self.names[label] for label in range(1, self.num_classes))

    @overload
    def detect(self, pictures: Picture, threshold: float = 0.0) -> ImageDetections: ...  # type: ignore[overload-overlap]

    @overload
    def detect(self, pictures: Sequence[Picture], threshold: float = 0.0) -> list[ImageDetections]: ...

    def detect(
        self, pictures: Picture | Sequence[Picture], threshold: float = 0.0
    ) -> ImageDetections | list[ImageDetections]:
        """Finds objects.

        Args:
            pictures: One picture, or a list of them: files, and uint8 arrays (h, w, 3) in BGR, (h, w, 4) in BGRA or
                (h, w) in grey. Those of a list may differ in size; `batch_size` of them are run at a time.
            threshold: The lowest score to return; the net's own confidence_threshold applies first.

        Returns:
            What is in the picture, boxes in its pixels; for a list, a list in the same order.

        Raises:
            FileError: There is no such file.
            DataError: Something that is not a picture, or the net's boxes or scores are not numbers.
        """
        if isinstance(pictures, (str, os.PathLike)) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4):
            return self.detect_at([pictures], self.size, threshold)[0]
        return self.detect_at(pictures, self.size, threshold)  # type: ignore[arg-type]

    def detect_at(
        self, pictures: Sequence[Picture], size: tuple[int, int], threshold: float = 0.0, resize_first: bool = True
    ) -> list[ImageDetections]:
        """Finds objects with the net's input at another (height, width); see `detect`."""
        check_pictures(pictures)
        found: list[ImageDetections] = []
        for start in range(0, len(pictures), self.batch_size):
            batch = [
                read_picture(one) if isinstance(one, (str, os.PathLike)) else one
                for one in pictures[start : start + self.batch_size]
            ]
            began = time.perf_counter()
            prepared = np.stack([self.prepare(image, size, resize_first) for image in batch])
            self.seconds.pre += time.perf_counter() - began
            found += self.find(prepared, [image.shape[:2] for image in batch], threshold)
        return found

    def prepare(self, image: np.ndarray, size: tuple[int, int] | None = None, resize_first: bool = True) -> np.ndarray:
        """Returns the net's input for a picture, float32 (channels, height, width); safe in several threads.

        Args:
            image: A uint8 array, as `detect` takes it.
            size: (height, width) of the input, by default the net's.
            resize_first: See `Preparation`.

        Raises:
            DataError: Not a picture.
        """
        return self.preparation(image, self.engine.channels, *(size or self.size), resize_first)

    def find(
        self, prepared: np.ndarray, sizes: Sequence[tuple[int, ...]], threshold: float = 0.0
    ) -> list[ImageDetections]:
        """Finds objects in prepared pictures.

        Args:
            prepared: (N, channels, height, width), each as `prepare` returns it.
            sizes: (height, width) of each picture, in whose pixels the boxes are to be.
            threshold: The lowest score to return.

        Raises:
            DataError: The net's boxes or scores are not numbers.
        """
        began, in_nms = time.perf_counter(), self.engine.nms_seconds
        rows = self.engine.find(prepared)
        done, in_nms = time.perf_counter(), self.engine.nms_seconds - in_nms
        found = [self._of_image(rows[rows[:, 0] == k], size, threshold) for k, size in enumerate(sizes)]
        total = self.seconds
        total.forward += done - began - in_nms
        total.nms += in_nms
        total.post += time.perf_counter() - done
        total.images += len(sizes)
        return found

    def fits(self, size: tuple[int, int]) -> bool:
        """Returns whether the net can take an input of another (height, width)."""
        return self.engine.fits(size)

    def _of_image(self, rows: np.ndarray, size: tuple[int, ...], threshold: float) -> ImageDetections:
        rows = rows[(rows[:, 1] != self.engine.background) & (rows[:, 1] >= 0) & (rows[:, 2] >= threshold)]
        rows = rows[np.argsort(-rows[:, 2], kind="stable")]
        height, width = size
        scale = np.array([width, height, width, height], np.float32)
        return ImageDetections(rows[:, 1].astype(np.int64), rows[:, 2].copy(), np.clip(rows[:, 3:7], 0, 1) * scale)

    def _class_names(self, labels: Labels | None) -> dict[int, str]:
        number, background = self.num_classes, self.engine.background
        if labels is None:
            return {label: "background" if label == background else str(label) for label in range(number)}
        if isinstance(labels, Mapping):
            names, where = dict(labels), ""
        else:
            names, where = label_to_name(read_label_map(labels), strict=True, display=True, path=labels), f"{labels}: "
        check_class_names(names, number, where)
        return names


def check_class_names(names: Mapping[int, str], number: int, where: str = "") -> None:
    """Refuses names that are not those of a net's labels.

    Args:
        names: {label: class name}.
        number: The net's labels, background included.
        where: What the message begins with, such as "labelmap.prototxt: ".

    Raises:
        DataError: They are others.
    """
    if sorted(names) != list(range(number)):
        lacks_background = len(names) == number - 1 and names.get(0) not in BACKGROUND_NAMES
        raise DataError(
            f"{where}label map and net differ",
            code="evaluate.class-count",
            expected=f"labels 0 to {number - 1}, as the net has num_classes {number}",
            found=f"{counted(len(names), 'label')} from {min(names, default=0)} to {max(names, default=0)}",
            hint="label 0, the background, has no item; `create-label-map --include_background` adds one"
            if lacks_background
            else "is this the label map that the net was trained with?",
        )


def check_pictures(pictures: object) -> None:
    """Refuses what is no sequence of pictures, such as None.

    Raises:
        DataError: It is none.
    """
    if not isinstance(pictures, (Sequence, np.ndarray)):
        raise _not_a_picture(pictures)


def _not_a_picture(given: object) -> DataError:
    """Returns the error that says what was given, and how usual things become pictures."""
    shape, dtype = tuple(getattr(given, "shape", ())), getattr(given, "dtype", None)
    hints = []
    if given is None:
        hints.append("cv2.imread returns None for a file that it cannot read: give the file's name")
    elif type(given).__module__.startswith("PIL."):
        hints.append('np.array(image.convert("RGB"))[:, :, ::-1] is in BGR')
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        hints.append("the channels go last: transpose(1, 2, 0)")
    if "float" in str(dtype):
        hints.append('values from 0 to 1 become bytes by (255 * array).round().astype("uint8")')
    return DataError(
        "not a picture",
        code="detect.picture",
        expected="a file's name, or a uint8 array: (height, width, 3) in BGR, (height, width, 4) in BGRA or "
        "(height, width) in grey",
        found=type(given).__name__ if dtype is None else f"{dtype} {shape}",
        hint="; ".join(hints) or None,
    )


def _as_channels(image: np.ndarray, channels: int, rgb: bool) -> np.ndarray:
    is_bytes = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size > 0
    if not is_bytes or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))):
        raise _not_a_picture(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim == 3 and image.shape[2] == 4:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    if channels == 1:
        return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return image[:, :, ::-1] if rgb else image
