"""Pictures as OpenCV reads them: uint8 arrays (height, width, channels), channels in the order B, G, R."""

from __future__ import annotations

import os

import cv2
import numpy as np

from pyscratchdet.data.picture_size import is_whole_png, picture_size
from pyscratchdet.errors import DataError
from pyscratchdet.files import check_unpacked

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2"})
"""The endings, in lower case, of the files in a folder that are taken for pictures."""

SizedPicture = tuple[np.ndarray, tuple[int, int]]
"""A picture, perhaps decoded at reduced size, and the (height, width) of the whole one."""

# The libraries behind OpenCV print their own complaints; the errors here say the same.
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")

_COLOUR = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
# A block of 64 pixels takes at least one bit in the first scan, and with chroma 256 pixels have six blocks.
_MOST_PIXELS_A_BYTE = 512


def decode_image(
    data: bytes, color: bool = True, oriented: bool = True, name: str = "picture", reduction: int = 1
) -> np.ndarray:
    """Decodes a picture file's bytes, to colour or to gray.

    Args:
        data: A JPEG, PNG or any other kind that OpenCV reads.
        color: Whether to return colour, whatever the file has; otherwise gray.
        oriented: Whether to turn the picture as its EXIF orientation says.
        name: What to call it in errors.
        reduction: 2, 4 or 8 for a picture of half, a quarter or an eighth the width and height, in colour; a JPEG is
            then decoded at that size, which is faster.

    Returns:
        uint8, (height, width, 3), or (height, width, 1) for gray.

    Raises:
        DataError: It is not a picture, or is truncated.
        FileError: It is far larger than its file suggests (`files.check_unpacked`).
    """
    check_complete(data, name)
    flags = _COLOUR[reduction] if color else cv2.IMREAD_GRAYSCALE
    if not oriented:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"cannot decode {name}: {error.err}", code="data.image") from error
    if image is None:
        raise DataError(f"cannot decode {name}", code="data.image", hint="it is not a picture, or of an unknown kind")
    return image if color else image[..., None]


def decode_at_least(data: bytes, name: str, least: tuple[int, int] | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Decodes a picture file's bytes to colour, a JPEG perhaps at reduced size.

    Args:
        data: The file's bytes.
        name: What to call it in errors.
        least: A (height, width): a JPEG that is at least twice as large in both, however it is turned, is decoded at a
            half, a quarter or an eighth of its size, but no smaller than this. None for pictures as they are.

    Returns:
        The picture, uint8 (h, w, 3), and the (height, width) of the whole one.

    Raises:
        DataError, FileError: As in `decode_image`.
    """
    sides = picture_size(data) if least is not None and data[:2] == _JPEG else (0, 0)
    reduction = next((k for k in (8, 4, 2) if least is not None and _can_reduce(sides, k, least)), 1)
    image = decode_image(data, name=name, reduction=reduction)
    shape = (image.shape[0], image.shape[1])
    if reduction == 1:
        return image, shape
    # Height and width change places where the EXIF orientation says so.
    return image, sides if shape == _reduced(sides, reduction) else sides[::-1]


def _can_reduce(sides: tuple[int, int], reduction: int, least: tuple[int, int]) -> bool:
    height, width = _reduced(sides, reduction)
    # Of a picture that is only square once it is reduced one could not see whether it is turned.
    return min(sides) >= reduction * max(least) and (height != width or sides[0] == sides[1])


def _reduced(sides: tuple[int, int], reduction: int) -> tuple[int, int]:
    return -(-sides[0] // reduction), -(-sides[1] // reduction)


def check_complete(data: bytes, name: str) -> None:
    """Refuses data that decoders accept although they do not hold a whole picture.

    Raises:
        DataError: There are no data; a JPEG has no end, and decoders would fill it up with gray; a PNG's chunks are
            incomplete; or a JPEG claims more pixels than its bytes can hold, for which decoders reserve gigabytes.
        FileError: A picture of any kind is far larger than its file suggests.
    """
    if not data:
        raise DataError(f"{name} is empty", code="data.image")
    is_jpeg = data[:2] == _JPEG
    if is_jpeg and data.rfind(b"\xff\xd9") < 0:
        raise DataError(f"{name} is a truncated JPEG", code="data.image", hint="its end marker is missing")
    if data.startswith(_PNG) and not is_whole_png(data):
        raise DataError(f"{name} is a truncated or damaged PNG", code="data.image", hint="its chunks end early")
    height, width = picture_size(data)
    if is_jpeg and height * width > _MOST_PIXELS_A_BYTE * len(data):
        found = f"{width} x {height} in {len(data)} bytes"
        raise DataError(f"{name} is a damaged JPEG: its size is impossible", code="data.image", found=found)
    check_unpacked(3 * height * width, len(data), name)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns a picture resized with linear interpolation, (height, width, channels)."""
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
