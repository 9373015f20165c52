"""What augmentation does to pixels (im_transforms.cpp): distortion, expansion, resizing, noise. uint8, B G R."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from pyscratchdet.errors import DataError
from pyscratchdet.proto import caffe_pb2

Distortion = tuple[str, float | tuple[int, ...]]

_RAMP = np.arange(256, dtype=np.float32)
_INTERPOLATION = {
    caffe_pb2.ResizeParameter.LINEAR: cv2.INTER_LINEAR,
    caffe_pb2.ResizeParameter.AREA: cv2.INTER_AREA,
    caffe_pb2.ResizeParameter.NEAREST: cv2.INTER_NEAREST,
    caffe_pb2.ResizeParameter.CUBIC: cv2.INTER_CUBIC,
    caffe_pb2.ResizeParameter.LANCZOS4: cv2.INTER_LANCZOS4,
}
_BORDER = {
    caffe_pb2.ResizeParameter.CONSTANT: cv2.BORDER_CONSTANT,
    caffe_pb2.ResizeParameter.MIRRORED: cv2.BORDER_REFLECT_101,
    caffe_pb2.ResizeParameter.REPEAT_NEAREST: cv2.BORDER_REPLICATE,
}


def table(scale: float, shift: float) -> np.ndarray:
    """Returns cv::Mat::convertTo(-1, scale, shift) of every uint8 value: (256,) uint8."""
    return np.rint(_RAMP * np.float32(scale) + np.float32(shift)).clip(0, 255).astype(np.uint8)


def distort(image: np.ndarray, distortions: Sequence[Distortion]) -> np.ndarray:
    """Applies distortions in their order; each is brightness, contrast, saturation, hue or order of the channels."""
    for name, amount in distortions:
        image = _with_channels(_DISTORTIONS[name](image, amount))
    return image


def _brightness(image: np.ndarray, delta: float) -> np.ndarray:
    return cv2.LUT(image, table(1, delta))


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.LUT(image, table(factor, 0)) if abs(np.float32(factor) - np.float32(1)) > 1e-3 else image


def _saturation(image: np.ndarray, factor: float) -> np.ndarray:
    return in_hsv(image, saturation=table(factor, 0))


def _hue(image: np.ndarray, delta: float) -> np.ndarray:
    return in_hsv(image, hue=table(1, delta)) if delta != 0 else image


def in_hsv(image: np.ndarray, hue: np.ndarray | None = None, saturation: np.ndarray | None = None) -> np.ndarray:
    """Changes hue and saturation through tables of 256 uint8 values each."""
    same = _RAMP.astype(np.uint8)
    tables = np.stack([same if hue is None else hue, same if saturation is None else saturation, same], axis=-1)
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), tables[None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def _order(image: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(image[..., list(order)])


_DISTORTIONS: dict[str, Callable[[np.ndarray, Any], np.ndarray]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
    "order": _order,
}


def resize_size(param: caffe_pb2.ResizeParameter, height: int, width: int) -> tuple[int, int]:
    """InferNewSize: height and width of a picture after resizing."""
    if param.resize_mode != param.FIT_SMALL_SIZE:
        return param.height, param.width
    aspect = np.float32(width) / np.float32(height)
    if aspect < np.float32(param.width) / np.float32(param.height):
        return int(np.float32(param.width) / aspect), param.width
    return param.height, int(aspect * np.float32(param.height))


def resize(image: np.ndarray, param: caffe_pb2.ResizeParameter, interpolation: int | None) -> np.ndarray:
    """ApplyResize.

    Args:
        image: (height, width, channels).
        param: Mode, size and padding.
        interpolation: One of `param.interp_mode`; None for linear.
    """
    flag = interpolation_flag(interpolation)
    if param.resize_mode != param.FIT_LARGE_SIZE_AND_PAD:
        height, width = resize_size(param, *image.shape[:2])
        return _with_channels(cv2.resize(image, (width, height), interpolation=flag))
    top, left, height, width = padded_place(param, *image.shape[:2])
    inner = cv2.resize(image, (width, height), interpolation=flag)
    bottom, right = param.height - height - top, param.width - width - left
    padded = cv2.copyMakeBorder(
        inner, top, bottom, left, right, _BORDER[param.pad_mode], value=pad_values(param, image.shape[2])
    )
    return _with_channels(padded)


def interpolation_flag(interpolation: int | None) -> int:
    """Returns OpenCV's flag for one of `interp_mode`; linear for None."""
    return cv2.INTER_LINEAR if interpolation is None else _INTERPOLATION[interpolation]


def padded_place(param: caffe_pb2.ResizeParameter, height: int, width: int) -> tuple[int, int, int, int]:
    """AspectKeepingResizeAndPad: top, left, height and width of the picture inside its padding."""
    aspect = np.float32(width) / np.float32(height)
    if aspect > np.float32(param.width) / np.float32(param.height):
        inner = max(1, math.floor(np.float32(param.width) / aspect))
        return (param.height - inner) // 2, 0, inner, param.width
    inner = max(1, math.floor(aspect * np.float32(param.height)))
    return 0, (param.width - inner) // 2, param.height, inner


def pad_values(param: caffe_pb2.ResizeParameter, channels: int) -> list[float]:
    """Returns one padding value per channel.

    Raises:
        DataError: `pad_value` has neither one value nor one per channel.
    """
    return spread(list(param.pad_value) or [0.0], channels, "pad_value")


def spread(values: Sequence[float], channels: int, name: str) -> list[float]:
    """Returns one value per channel, given either one value for all or one for each."""
    if len(values) not in (1, channels):
        raise DataError(f"{name} must be given once or once per channel", code="data.channels",
                        expected=f"1 or {channels} values", found=len(values))  # fmt: skip
    return list(values) if len(values) == channels else list(values) * channels


def noise(image: np.ndarray, param: caffe_pb2.NoiseParameter, specks: np.ndarray) -> np.ndarray:
    """ApplyNoise; ignores `prob`, as the original does.

    Args:
        image: (height, width, channels).
        param: What to do.
        specks: (K, 2) x, y of salt-and-pepper pixels.
    """
    color = image.shape[2] == 3
    if param.decolorize and color:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if param.gauss_blur:
        image = cv2.GaussianBlur(image, (7, 7), 1.5)
    if param.hist_eq:
        image = _on_luma(image, cv2.equalizeHist)
    if param.clahe:
        image = _on_luma(image, cv2.createCLAHE(clipLimit=4).apply)
    if param.jpeg > 0:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(param.jpeg)])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        image = decoded
    if param.erode:
        image = cv2.erode(image, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3), (1, 1)))
    if param.posterize:
        image = cv2.LUT(image, (_RAMP.astype(np.int32) // 64 * 64 + 32).astype(np.uint8))
    if param.inverse:
        image = cv2.bitwise_not(image)
    image = _with_channels(image)
    if len(specks):
        image = image.copy()
        values = list(param.saltpepper_param.value) or [0.0]
        colour = spread(values, image.shape[2], "saltpepper_param.value")
        image[specks[:, 1], specks[:, 0]] = np.array(colour, np.uint8)
    if param.convert_to_hsv:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    if param.convert_to_lab:
        image = cv2.cvtColor(image.astype(np.float32) * np.float32(1 / 255), cv2.COLOR_BGR2Lab)
    return image


def num_specks(param: caffe_pb2.NoiseParameter, height: int, width: int) -> int:
    """Returns how many salt-and-pepper pixels a picture gets."""
    if not param.saltpepper:
        return 0
    return math.floor(np.float32(param.saltpepper_param.fraction) * np.float32(width) * np.float32(height))


def _on_luma(image: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    if image.ndim == 2 or image.shape[2] == 1:
        return function(image)
    planes = cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb)
    planes[..., 0] = function(np.ascontiguousarray(planes[..., 0]))
    return cv2.cvtColor(planes, cv2.COLOR_YCrCb2BGR)


def _with_channels(image: np.ndarray) -> np.ndarray:
    """Restores the axis of a single channel, which OpenCV drops."""
    return image if image.ndim == 3 else image[..., None]
