"""From a decoded picture and its plan to network input (data_transformer.cpp)."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence

import numpy as np

from pyscratchdet.data import images, pixels
from pyscratchdet.data.plan import Expansion, Plan, Rect, crop_size
from pyscratchdet.errors import DataError, UsageError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.weights import read_blob


class DataTransformer:
    """Carries out plans.

    The mean file is read at its first use, since shapes do not need it. So every method that returns or uses a mean
    raises FileError, WeightsError or DataError if the file cannot be read or does not hold a mean.

    Args:
        param: The layer's transform_param.

    Raises:
        UsageError: Settings that contradict each other.
    """

    def __init__(self, param: caffe_pb2.TransformationParameter) -> None:
        check(param)
        self.param = param
        self._fills: dict[int, np.ndarray] = {}

    @functools.cached_property
    def _mean(self) -> np.ndarray | None:
        return read_mean(self.param.mean_file) if self.param.HasField("mean_file") else None

    def needs_random(self, is_train: bool) -> bool:
        """Whether the original gives this transformer a generator of its own (InitRand)."""
        return bool(self.param.mirror or (is_train and self.param.crop_size))

    def channels(self, datum: caffe_pb2.Datum) -> int:
        """Returns how many channels a record's picture is decoded to: as many as it has, or 3 if that is unknown."""
        if self.param.force_color or self.param.force_gray:
            return 3 if self.param.force_color else 1
        return datum.channels if datum.channels in (1, 3) or not datum.encoded else 3

    def output_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """InferBlobShape: (channels, height, width) of the output for a picture."""
        if self.param.HasField("resize_param"):
            height, width = pixels.resize_size(self.param.resize_param, height, width)
        crop_height, crop_width = crop_size(self.param)
        return channels, crop_height or height, crop_width or width

    def fixed_shape(self) -> tuple[int, int, int] | None:
        """Returns the output shape if it is the same for all pictures, with 3 channels unless gray is forced."""
        resize = self.param.resize_param
        is_fixed = self.param.HasField("resize_param") and resize.resize_mode != resize.FIT_SMALL_SIZE
        if not is_fixed and not all(crop_size(self.param)):
            return None
        return self.output_shape(1 if self.param.force_gray else 3, resize.height or 1, resize.width or 1)

    def decode_datum(self, datum: caffe_pb2.Datum, name: str) -> np.ndarray:
        """Returns a record's picture, (height, width, channels), uint8 or, from float_data, float32.

        Raises:
            DataError: It is damaged, its size does not fit its data, or it is gray and its colours are to be changed.
        """
        image = self._decoded(datum, name)
        if image.shape[2] != 3 and _needs_colour(self.param.distort_param):
            # The original dies of an OpenCV exception at the first such draw.
            raise DataError(f"{name} is gray, but distort_param changes saturation, hue or the order of channels",
                            code="data.gray", hint="set force_color, or these probabilities to 0")  # fmt: skip
        return image

    def _decoded(self, datum: caffe_pb2.Datum, name: str) -> np.ndarray:
        channels = self.channels(datum)
        if datum.encoded:
            return images.decode_image(datum.data, channels == 3, oriented=self.param.force_color, name=name)
        shape = (datum.channels, datum.height, datum.width)
        values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
        if min(shape) < 1 or values.size != np.prod(shape, dtype=np.int64):
            raise DataError(f"the data of {name} do not fit its size", code="data.size",
                            expected="x".join(map(str, shape)), found=values.size)  # fmt: skip
        return np.array(values.reshape(shape).transpose(1, 2, 0), order="C")

    def render(self, image: np.ndarray, plan: Plan, is_encoded: bool = True) -> np.ndarray:
        """Carries out a plan in the original's way and returns the output, (channels, height, width) float32.

        After each of distortion, expansion and cropping the picture goes through a JPEG, as in the original.

        Raises:
            DataError: The mean file differs in size.
        """
        self.check_mean(plan, image.shape[2], is_encoded)
        if plan.distortions is not None:
            image = self._stored(pixels.distort(image, plan.distortions), is_encoded)
        if plan.expansion is not None:
            image = self._stored(self.expand(image, plan.expansion), is_encoded)
        if plan.crop is not None:
            image = self._stored(cut(image, plan.crop), is_encoded)
        return self.normalize(self.shape(image, plan), plan.place, plan.is_mirrored and not is_encoded)

    def shape(self, image: np.ndarray, plan: Plan) -> np.ndarray:
        """Resizes, adds noise, crops and mirrors; returns (height, width, channels), without mean and scale applied."""
        if self.param.HasField("resize_param"):
            image = pixels.resize(image, self.param.resize_param, plan.interpolation)
        if self.param.HasField("noise_param"):
            image = pixels.noise(image, self.param.noise_param, plan.specks)
        assert plan.place is not None
        image = cut(image, plan.place)
        return image[:, ::-1] if plan.is_mirrored else image

    def normalize(self, image: np.ndarray, place: Rect | None, mirror_mean: bool = False) -> np.ndarray:
        """Subtracts the mean and scales; (height, width, channels) to channels first.

        The original mirrors a mean file with the picture for raw records only, not for encoded ones.
        """
        output = image.transpose(2, 0, 1).astype(np.float32)
        means = self.mean_planes([place], *output.shape)
        if means is not None:
            output -= means[0][..., ::-1] if mirror_mean else means[0]
        if self.param.scale != 1:
            output *= np.float32(self.param.scale)
        return output

    def check_mean(self, plan: Plan, channels: int, is_encoded: bool) -> None:
        """Refuses a mean file that does not fit a picture (Transform's CHECK_EQs).

        It must have the size of the whole resized picture, as in BVLC's Caffe and, for raw records, in the fork. For
        encoded records the fork wants the size of the crop, and then reads beyond it; here such a mean is used as it
        is.

        Raises:
            DataError: It differs in size.
        """
        if self._mean is None or plan.place is None:
            return
        whole, kept = (channels, *plan.resized), (channels, plan.place.height, plan.place.width)
        if self._mean.shape != whole and not (is_encoded and self._mean.shape == kept):
            raise DataError(
                f"the mean file {self.param.mean_file} differs in size from the pictures", code="data.mean",
                expected="x".join(map(str, whole)), found="x".join(map(str, self._mean.shape)),
            )  # fmt: skip

    def mean_planes(self, places: Sequence[Rect | None], channels: int, height: int, width: int) -> np.ndarray | None:
        """Returns what is subtracted from outputs of one shape, broadcast; None if nothing is.

        Args:
            places: Which part of the resized picture each output is.
            channels: Channels of each output.
            height: Height of each output.
            width: Width of each output.
        """
        if self._mean is None:
            return np.array(self.means(channels), np.float32).reshape(1, -1, 1, 1) if self.param.mean_value else None
        shape = (channels, height, width)
        if self._mean.shape == shape:
            return self._mean[None]
        return np.stack([self._mean_of(place, shape) for place in places])

    def means(self, channels: int) -> list[float]:
        """Returns one mean value per channel, 0 where none is given."""
        return pixels.spread(list(self.param.mean_value) or [0.0], channels, "mean_value")

    def mean_margin(self, size: int) -> int:
        """Returns how far from the corner of a square mean file its middle `size` pixels begin; 0 without a file."""
        return 0 if self._mean is None else (self._mean.shape[2] - size) // 2

    def fill(self, channels: int) -> np.ndarray:
        """Returns the colour of an expanded canvas: the mean values rounded to uint8, (channels,)."""
        if self.param.HasField("mean_file"):
            raise DataError("an expanded picture cannot be filled from a mean file", code="data.expand",
                            hint="give mean_value instead of mean_file")  # fmt: skip
        if channels not in self._fills:
            self._fills[channels] = np.rint(self.means(channels)).clip(0, 255).astype(np.uint8)
        return self._fills[channels]

    def expand(self, image: np.ndarray, expansion: Expansion) -> np.ndarray:
        """Pastes a picture into a larger one of the mean colour."""
        canvas = np.empty((expansion.height, expansion.width, image.shape[2]), image.dtype)
        canvas[:] = self.fill(image.shape[2])
        height, width = image.shape[:2]
        canvas[expansion.top : expansion.top + height, expansion.left : expansion.left + width] = image
        return canvas

    def _stored(self, image: np.ndarray, is_encoded: bool) -> np.ndarray:
        if not is_encoded:
            return image
        return images.decode_image(images.encode(image, "jpg"), image.shape[2] == 3)

    def _mean_of(self, place: Rect | None, shape: tuple[int, int, int]) -> np.ndarray:
        """Returns the part of the whole picture's mean that belongs to an output."""
        assert self._mean is not None
        assert place is not None
        part = self._mean[:, place.top : place.top + place.height, place.left : place.left + place.width]
        if part.shape != shape:
            raise DataError("the mean file differs in size from the pictures", code="data.mean",
                            expected=shape, found=self._mean.shape)  # fmt: skip
        return part


def cut(image: np.ndarray, rect: Rect) -> np.ndarray:
    """Returns a view of a rectangle of the image."""
    return image[rect.top : rect.top + rect.height, rect.left : rect.left + rect.width]


def read_mean(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a mean file (binaryproto BlobProto) as (channels, height, width) float32.

    Raises:
        FileError, WeightsError: It cannot be read, or is damaged.
        DataError: It holds something other than a picture.
    """
    blob = np.array(read_blob(path))
    if blob.ndim not in (3, 4) or blob.size != math.prod(blob.shape[-3:]):
        raise DataError(
            f"{os.fspath(path)} is not a mean file", code="data.mean", expected="one picture", found=blob.shape
        )
    return blob.reshape(blob.shape[-3:])


def check(param: caffe_pb2.TransformationParameter) -> None:
    """Raises UsageError for settings that contradict each other or make no sense."""
    rules = [
        (not (param.HasField("mean_file") and param.mean_value), "mean_file and mean_value exclude each other"),
        (not (param.force_color and param.force_gray), "force_color and force_gray exclude each other"),
        (not (param.crop_size and (param.crop_h or param.crop_w)), "crop_size and crop_h, crop_w exclude each other"),
        (bool(param.crop_h) == bool(param.crop_w), "crop_h and crop_w go together"),
        (
            not param.HasField("resize_param") or min(param.resize_param.height, param.resize_param.width) > 0,
            "resize_param needs a height and a width above 0",
        ),
        (
            not param.HasField("expand_param") or param.expand_param.max_expand_ratio > 1,
            "max_expand_ratio must be above 1",
        ),
        (not (_needs_colour(param.distort_param) and param.force_gray), "distort_param needs colour"),
        *_distortion_rules(param.distort_param),
    ]
    for is_met, message in rules:
        if not is_met:
            raise UsageError(message, code="data.transform")


def _needs_colour(param: caffe_pb2.DistortionParameter) -> bool:
    """Whether it may change saturation, hue or the order of channels; brightness and contrast need no colours."""
    return param.saturation_prob > 0 or param.random_order_prob > 0 or (param.hue_prob > 0 and param.hue_delta != 0)


def _distortion_rules(param: caffe_pb2.DistortionParameter) -> list[tuple[bool, str]]:
    rules = []
    for name in ("brightness", "hue"):
        rules.append((name, getattr(param, f"{name}_delta") >= 0, "a delta that is not negative"))
    for name in ("contrast", "saturation"):
        low, high = getattr(param, f"{name}_lower"), getattr(param, f"{name}_upper")
        rules.append((name, 0 <= low <= high, "0 <= lower <= upper"))
    return [(not getattr(param, f"{name}_prob") or is_met, f"{name} needs {rule}") for name, is_met, rule in rules]
