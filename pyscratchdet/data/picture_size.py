"""Height and width of a picture file according to its header, for kinds whose small files can claim huge pictures.

Decoders reserve the whole picture before they look at its data, so a header alone can take gigabytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

Size = tuple[int, int]

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
_PNM = re.compile(rb"P[1-6Ff]" + 2 * rb"(?:\s+|#[^\n]*\n)+(\d{1,10})" + rb"\s")


def picture_size(data: bytes) -> Size:
    """Returns (height, width) of a JPEG, PNG, BMP, GIF, WebP, TIFF, JPEG 2000, AVIF, PNM, PAM, PFM, HDR or Sun raster.

    Zeros if the header does not say or it is of another kind: OpenCV itself then limits a picture to 2^30 pixels.
    """
    for begin, read in _READERS:
        if re.match(begin, data, re.DOTALL):
            try:
                return read(data)
            except (struct.error, ValueError, IndexError):
                return 0, 0
    return 0, 0


def is_whole_png(data: bytes) -> bool:
    """Whether the chunks of a PNG lie inside the file up to the last one, IEND (PNG specification, 5.3).

    OpenCV reserves the length that a chunk claims before it looks for the chunk's data.
    """
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if kind == b"IEND":
            return position <= len(data)
    return False


def _jpeg(data: bytes) -> Size:
    """ITU T.81, B.2.2."""
    position = 2
    while 0 <= (position := data.find(b"\xff", position)) < len(data) - 9:
        marker = data[position + 1]
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return height, width
        if marker == _START_OF_SCAN:
            break
        is_alone = marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8
        position += 1 if is_alone else 2 + int.from_bytes(data[position + 2 : position + 4])
    return 0, 0


def _swapped(form: str, offset: int) -> Callable[[bytes], Size]:
    """Returns a reader of headers that have width and then height at a fixed place."""

    def read(data: bytes) -> Size:
        width, height = struct.unpack_from(form, data, offset)
        return abs(height), abs(width)

    return read


def _bmp(data: bytes) -> Size:
    (header,) = struct.unpack_from("<I", data, 14)
    return _swapped("<HH" if header == 12 else "<ii", 18)(data)


def _webp(data: bytes) -> Size:
    """RFC 9649, 2.4 to 2.7."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[place : place + 3], "little") + 1 for place in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return height, width


def _tiff(data: bytes) -> Size:
    """TIFF 6.0, section 2; 43 instead of 42 is BigTIFF."""
    order = "<" if data[:2] == b"II" else ">"
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    is_big = version == 43
    (start,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}I", data, 8 if is_big else 4)
    (count,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}H", data, start)
    start, step = start + (8 if is_big else 2), 20 if is_big else 12
    sides = {256: 0, 257: 0}
    for entry in range(start, start + step * min(count, 4096), step):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag in sides and kind in (3, 4, 16):
            form = {3: "H", 4: "I", 16: "Q"}[kind]
            (sides[tag],) = struct.unpack_from(order + form, data, entry + step - (8 if is_big else 4))
    return sides[257], sides[256]


def _jpeg_2000(data: bytes) -> Size:
    """ISO 15444-1, A.5.1: the size of the reference grid less the picture's offset on it."""
    place = data.index(b"\xff\x4f\xff\x51")
    right, bottom, left, top = struct.unpack_from(">4I", data, place + 8)
    return max(0, bottom - top), max(0, right - left)


def _avif(data: bytes) -> Size:
    """ISO 23008-12, 6.5.3: the largest of its pictures."""
    places = [match.end() + 4 for match in re.finditer(b"ispe", data[: 1 << 16])]
    sizes = [_swapped(">II", place)(data) for place in places]
    return max(sizes, key=lambda size: size[0] * size[1])


def _matched(pattern: re.Pattern[bytes], is_height_first: bool = False) -> Callable[[bytes], Size]:
    """Returns a reader of headers that are text."""

    def read(data: bytes) -> Size:
        found = pattern.search(data[: 1 << 16])
        first, second = (int(number) for number in found.groups()) if found else (0, 0)
        return (first, second) if is_height_first else (second, first)

    return read


_READERS: list[tuple[bytes, Callable[[bytes], Size]]] = [
    (rb"\xff\xd8", _jpeg),
    (rb"\x89PNG\r\n\x1a\n", _swapped(">II", 16)),
    (rb"BM", _bmp),
    (rb"GIF8[79]a", _swapped("<HH", 6)),
    (rb"RIFF....WEBP", _webp),
    (rb"II[*+]\0|MM\0[*+]", _tiff),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", _jpeg_2000),
    (rb"....ftyp(?:avif|avis|mif1)", _avif),
    (rb"\x59\xa6\x6a\x95", _swapped(">II", 4)),
    (rb"P7", _matched(re.compile(rb"WIDTH\s+(\d{1,10})\s.*?HEIGHT\s+(\d{1,10})\s", re.DOTALL))),
    (rb"P[1-6Ff]", _matched(_PNM)),
    (rb"#\?R", _matched(re.compile(rb"[-+]Y\s+(\d{1,10})\s+[-+]X\s+(\d{1,10})"), is_height_first=True)),
]
