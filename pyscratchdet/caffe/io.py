"""caffe.io: pictures, arrays and protobuf messages, as pycaffe's io.py offers them.

Pictures are read and resized with OpenCV instead of skimage; values differ by OpenCV's rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from pyscratchdet.caffe.missing import check_file
from pyscratchdet.errors import DataError, UsageError, counted
from pyscratchdet.files import read_bytes
from pyscratchdet.proto import caffe_pb2

# skimage's spline orders, where OpenCV has them.
_INTERPOLATION = {0: cv2.INTER_NEAREST, 1: cv2.INTER_LINEAR, 3: cv2.INTER_CUBIC}


def blobproto_to_array(blob: caffe_pb2.BlobProto, return_diff: bool = False) -> np.ndarray:
    """Returns the values (or diffs) of a BlobProto in its shape, legacy 4-d shapes included.

    Raises:
        ValueError: The number of values does not fit the shape.
    """
    values = np.array(blob.diff if return_diff else blob.data)
    legacy = any(blob.HasField(name) for name in ("num", "channels", "height", "width"))
    shape = [blob.num, blob.channels, blob.height, blob.width] if legacy else list(blob.shape.dim)
    return values.reshape(shape)


def array_to_blobproto(arr: np.ndarray, diff: np.ndarray | None = None) -> caffe_pb2.BlobProto:
    """Returns a BlobProto with the array's shape and values, and diffs where given."""
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(np.asarray(arr, np.float32).ravel().tolist())
    if diff is not None:
        blob.diff.extend(np.asarray(diff, np.float32).ravel().tolist())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[np.ndarray]) -> bytes:
    """Returns arrays as a serialized BlobProtoVector."""
    vector = caffe_pb2.BlobProtoVector(blobs=[array_to_blobproto(array) for array in arraylist])
    data: bytes = vector.SerializeToString()
    return data


def blobprotovector_str_to_arraylist(str: bytes) -> list[np.ndarray]:
    """Returns the arrays of a serialized BlobProtoVector."""
    return [blobproto_to_array(blob) for blob in caffe_pb2.BlobProtoVector.FromString(str).blobs]


def array_to_datum(arr: np.ndarray, label: int | None = None) -> caffe_pb2.Datum:
    """Returns a Datum of a channels x height x width array: bytes for uint8, floats otherwise.

    Raises:
        ValueError: The array is not three-dimensional.
    """
    if arr.ndim != 3:
        raise ValueError(f"a Datum needs a channels x height x width array, found {counted(arr.ndim, 'dimension')}")
    datum = caffe_pb2.Datum(channels=arr.shape[0], height=arr.shape[1], width=arr.shape[2])
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).ravel().tolist())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: caffe_pb2.Datum) -> np.ndarray:
    """Returns a Datum's channels x height x width array (uint8 or float); its label is not part of it."""
    shape = datum.channels, datum.height, datum.width
    if datum.data:
        return np.frombuffer(datum.data, np.uint8).reshape(shape)
    return np.array(datum.float_data).astype(float).reshape(shape)


class Transformer:
    """Turns pictures (height x width x channels) into net inputs and back.

    The steps, in order: resize, transpose, swap channels, scale raw values, subtract the mean, scale.

    Args:
        inputs: {input blob: its shape}.
    """

    def __init__(self, inputs: dict[str, Sequence[int]]) -> None:
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """Returns a picture as the float32 channels x height x width array that input `in_` takes."""
        self._check(in_)
        result = data.astype(np.float32)
        if result.shape[:2] != tuple(self.inputs[in_][2:]):
            result = resize_image(result, self.inputs[in_][2:])
        if in_ in self.transpose:
            result = result.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            result = result[list(self.channel_swap[in_]), :, :]
        if in_ in self.raw_scale:
            result = result * np.float32(self.raw_scale[in_])
        if in_ in self.mean:
            result = result - self.mean[in_].astype(np.float32)
        if in_ in self.input_scale:
            result = result * np.float32(self.input_scale[in_])
        return result

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """Undoes `preprocess`, except for the resizing."""
        self._check(in_)
        result = data.copy().squeeze()
        if in_ in self.input_scale:
            result = result / self.input_scale[in_]
        if in_ in self.mean:
            result = result + self.mean[in_]
        if in_ in self.raw_scale:
            result = result / self.raw_scale[in_]
        if in_ in self.channel_swap:
            result = result[np.argsort(self.channel_swap[in_]), :, :]
        if in_ in self.transpose:
            result = result.transpose(np.argsort(self.transpose[in_]))
        return result

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Sets the order of axes, such as (2, 0, 1) from height x width x channels."""
        self._check(in_)
        if len(order) != len(self.inputs[in_]) - 1:
            raise UsageError(
                "transpose order has the wrong length",
                code="io.transpose",
                expected=len(self.inputs[in_]) - 1,
                found=len(order),
            )
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Sets the order of channels, such as (2, 1, 0) for RGB to BGR; at this step channels come first."""
        self._check(in_)
        if len(order) != self.inputs[in_][1]:
            raise UsageError(
                "channel order has the wrong length",
                code="io.channel-swap",
                expected=self.inputs[in_][1],
                found=len(order),
            )
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Sets the factor applied before the mean, such as 255 for pictures in [0, 1]."""
        self._check(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """Sets what is subtracted: one value per channel, or a picture of the input's size."""
        self._check(in_)
        channels = self.inputs[in_][1]
        if mean.ndim == 1:
            if len(mean) != channels:
                raise UsageError("mean has the wrong length", code="io.mean", expected=channels, found=len(mean))
            mean = mean[:, None, None]
        else:
            shape = (1, *mean.shape) if mean.ndim == 2 else mean.shape
            if tuple(shape) != tuple(self.inputs[in_][1:]):
                raise UsageError(
                    "mean has the wrong shape", code="io.mean", expected=tuple(self.inputs[in_][1:]), found=mean.shape
                )
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Sets the factor applied last."""
        self._check(in_)
        self.input_scale[in_] = scale

    def _check(self, name: str) -> None:
        if name not in self.inputs:
            raise UsageError(f'"{name}" is not an input', code="io.input", expected=list(self.inputs))


def load_image(filename: str | os.PathLike[str], color: bool = True) -> np.ndarray:
    """Returns a picture as float32 in [0, 1]: height x width x 3 in RGB, or x 1 where `color` is False.

    Raises:
        MissingFileError: There is no such file; an IOError too.
        DataError: It is not a picture.
    """
    check_file(filename)
    data = np.frombuffer(read_bytes(filename), np.uint8)
    flag = (cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE) | cv2.IMREAD_ANYDEPTH
    picture = cv2.imdecode(data, flag) if data.size else None
    if picture is None:
        raise DataError(f"{os.fspath(filename)}: not a picture that can be decoded", code="data.image")
    largest = 1 if picture.dtype.kind == "f" else np.iinfo(picture.dtype.str).max
    result = picture.astype(np.float32) / largest
    return np.ascontiguousarray(result[:, :, ::-1]) if color else result[:, :, None]


def resize_image(im: np.ndarray, new_dims: Sequence[int] | np.ndarray, interp_order: int = 1) -> np.ndarray:
    """Returns a float32 picture resized to (height, width).

    Args:
        im: height x width x channels.
        new_dims: (height, width).
        interp_order: 0 nearest, 1 linear, 3 cubic.
    """
    if interp_order not in _INTERPOLATION:
        raise UsageError(
            "unknown interpolation order", code="io.interpolation", expected=sorted(_INTERPOLATION), found=interp_order
        )
    height, width = (int(size) for size in new_dims)
    method = _INTERPOLATION[interp_order]
    resized = cv2.resize(np.ascontiguousarray(im, np.float32), (width, height), interpolation=method)
    return resized.reshape(height, width, im.shape[-1])


def oversample(images: Sequence[np.ndarray] | np.ndarray, crop_dims: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns ten crops of each picture: four corners, the centre, and all five mirrored.

    Args:
        images: height x width x channels, all of one size.
        crop_dims: (height, width) of the crops.

    Returns:
        (10 * number, height, width, channels), float32.
    """
    stack = np.stack([np.asarray(image, np.float32) for image in images])
    height, width = stack.shape[1:3]
    rows, columns = (int(size) for size in crop_dims)
    corners = [(top, left) for top in (0, height - rows) for left in (0, width - columns)]
    corners.append((int(height / 2 - rows / 2), int(width / 2 - columns / 2)))
    crops = np.stack([stack[:, top : top + rows, left : left + columns] for top, left in corners], axis=1)
    both = np.concatenate([crops, crops[:, :, :, ::-1]], axis=1)
    return both.reshape(-1, rows, columns, stack.shape[-1])
