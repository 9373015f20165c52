"""Pictures as OpenCV reads them: uint8 arrays (height, width, channels), channels in the order B, G, R."""

from __future__ import annotations

import os

import cv2
import numpy as np

from pyscratchdet.errors import DataError

# The libraries behind OpenCV print what they dislike; the errors here say it.
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")

_JPEG = b"\xff\xd8"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
# A block of 64 pixels takes a bit at least in the first scan, and with chroma there are six blocks to 256 pixels.
_MOST_PIXELS_A_BYTE = 512


def decode_image(data: bytes, color: bool = True, oriented: bool = True, name: str = "picture") -> np.ndarray:
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
    """Refuses what decoders make something of all the same.

    Raises:
        DataError: No data; a JPEG without an end, which they fill up with gray; or one that claims to be larger than
            its bytes can tell, on which they spend gigabytes.
    """
    if not data:
        raise DataError(f"{name} is empty", code="data.image")
    if data[:2] != _JPEG:
        return
    if data.rfind(b"\xff\xd9") < 0:
        raise DataError(f"{name} is a truncated JPEG", code="data.image", hint="its end marker is missing")
    height, width = _jpeg_size(data)
    if height * width > _MOST_PIXELS_A_BYTE * len(data):
        found = f"{width} x {height} in {len(data)} bytes"
        raise DataError(f"{name} is a damaged JPEG: its size cannot be", code="data.image", found=found)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Returns height and width as the header of a JPEG has them (ITU T.81, B.2.2); zeros where there is none."""
    position = 2
    while 0 <= (position := data.find(b"\xff", position)) < len(data) - 9:
        marker = data[position + 1]
        if marker in _START_OF_FRAME:
            return tuple(int.from_bytes(data[position + k : position + k + 2]) for k in (5, 7))  # type: ignore[return-value]
        if marker == _START_OF_SCAN:
            break
        is_alone = marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8
        position += 1 if is_alone else 2 + int.from_bytes(data[position + 2 : position + 4])
    return 0, 0


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
