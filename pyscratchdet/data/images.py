"""Pictures as OpenCV reads them: uint8 arrays (height, width, channels), channels in the order B, G, R."""

from __future__ import annotations

import os

import cv2
import numpy as np

from pyscratchdet.errors import DataError

# The libraries behind OpenCV print what they dislike; the errors here say it.
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")


def decode(data: bytes, color: bool = True, oriented: bool = True, name: str = "picture") -> np.ndarray:
    """Decodes a picture file's bytes; a gray one becomes colour where `color` is set.

    Args:
        data: A JPEG, PNG or whatever OpenCV knows.
        color: 3 channels, or 1.
        oriented: Whether to turn the picture as its EXIF orientation says.
        name: What to call it in errors.

    Returns:
        uint8, (height, width, 3), or (height, width, 1) for gray.

    Raises:
        DataError: It is no picture, or a truncated one.
    """
    check_complete(data, name)
    flags = cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE
    if not oriented:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"cannot decode {name}: {error.err}", code="data.image") from error
    if image is None:
        raise DataError(f"cannot decode {name}", code="data.image", hint="no picture, or of an unknown kind")
    return image if color else image[..., None]


def check_complete(data: bytes, name: str) -> None:
    """Raises DataError for empty data and for a JPEG without an end, which decoders fill up with gray."""
    if not data:
        raise DataError(f"{name} is empty", code="data.image")
    if data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < 0:
        raise DataError(f"{name} is a truncated JPEG", code="data.image", hint="its end marker is missing")


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns a picture resized linearly, (height, width, channels)."""
    result = cv2.resize(image, (width, height))
    # OpenCV drops the axis of a single channel.
    return result if result.ndim == 3 else result[..., None]


def encode(image: np.ndarray, kind: str) -> bytes:
    """Encodes a picture as `kind` (`jpg`, `png`...), with OpenCV's default quality.

    Raises:
        DataError: OpenCV cannot write that kind.
    """
    try:
        done, data = cv2.imencode(f".{kind.lstrip('.')}", image)
    except cv2.error as error:
        raise DataError(f'cannot encode a picture as "{kind}"', code="data.encode", hint=error.err) from error
    if not done:
        raise DataError(f'cannot encode a picture as "{kind}"', code="data.encode")
    return bytes(data)
