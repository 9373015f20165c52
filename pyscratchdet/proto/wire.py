"""The protobuf wire format, walked without copying: which field lies where in a buffer.

Large arrays are read through this, since protobuf itself copies them. Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pyscratchdet.errors import counted

VARINT, FIXED64, BYTES, START_GROUP, END_GROUP, FIXED32 = range(6)

_MAX_VARINT = 10
_MAX_NUMBER = 2**29 - 1
_MAX_DEPTH = 100


class WireError(ValueError):
    """Bytes that are not a protobuf message; the message says which byte is wrong."""


class Field(NamedTuple):
    """One occurrence of a field.

    Attributes:
        number: The field's number.
        kind: Its wire type.
        start: Where its tag begins.
        payload: Where its value begins; for a `BYTES` field, after the length.
        end: Where the next field begins.
    """

    number: int
    kind: int
    start: int
    payload: int
    end: int


def read_fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """Yields the fields of the message in `data[start:end]`, without looking into them.

    Raises:
        WireError: The bytes are not a message: cut short, too long a length or varint, a group that does not end.
    """
    place = start
    while place < end:
        number, kind, payload = _read_tag(data, place, end)
        if kind == START_GROUP:
            after = _skip_group(data, number, payload, end)
        elif kind == END_GROUP:
            raise WireError(f"byte {place}: the end of a group that did not begin")
        else:
            payload, after = _value(data, kind, payload, end)
        yield Field(number, kind, place, payload, after)
        place = after


def join_fields(data: memoryview, fields: Iterable[Field]) -> bytes:
    """Returns a message of only these fields."""
    return b"".join(data[field.start : field.end] for field in fields)


def varint(value: int) -> bytes:
    """Returns an unsigned number in base 128, its lowest digits first."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def tag(number: int, kind: int) -> bytes:
    """Returns what a field begins with."""
    return varint(number << 3 | kind)


def header(number: int, length: int) -> bytes:
    """Returns what stands before the bytes of a field: its tag and their length."""
    return tag(number, BYTES) + varint(length)


def read_number(data: memoryview, start: int, end: int) -> int:
    """Returns the number that a `VARINT` field holds.

    Raises:
        WireError: It has no end.
    """
    return _read_varint(data, start, end)[0]


def _read_tag(data: memoryview, place: int, end: int) -> tuple[int, int, int]:
    read, after = _read_varint(data, place, end)
    number, kind = read >> 3, read & 7
    if not 1 <= number <= _MAX_NUMBER or kind > FIXED32:
        raise WireError(f"byte {place}: no field has number {number} and wire type {kind}")
    return number, kind, after


def _value(data: memoryview, kind: int, place: int, end: int) -> tuple[int, int]:
    """Returns where a value begins and ends."""
    if kind == VARINT:
        return place, _read_varint(data, place, end)[1]
    length = {FIXED32: 4, FIXED64: 8}.get(kind)
    begin = place
    if length is None:
        length, begin = _read_varint(data, place, end)
    if length > end - begin:
        raise WireError(f"byte {place}: a field of {counted(length, 'byte')} with only {end - begin} left")
    return begin, begin + length


def _read_varint(data: memoryview, place: int, end: int) -> tuple[int, int]:
    """Returns a number and where the next byte is."""
    value = 0
    for i, byte in enumerate(data[place : min(end, place + _MAX_VARINT)]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, place + i + 1
    raise WireError(f"byte {place}: a number without an end")


def _skip_group(data: memoryview, number: int, place: int, end: int) -> int:
    """Returns where a group ends; groups nest, and each ends with its own number."""
    open_groups = [number]
    while open_groups:
        begin = place
        number, kind, place = _read_tag(data, place, end)
        if kind == START_GROUP:
            open_groups.append(number)
        elif kind != END_GROUP:
            place = _value(data, kind, place, end)[1]
        elif open_groups.pop() != number:
            raise WireError(f"byte {begin}: the end of another group")
        if len(open_groups) > _MAX_DEPTH:
            raise WireError(f"byte {begin}: groups are nested too deeply")
    return place
