"""Binary messages of other Caffes: their field numbers turned into those of the merged schema, and back.

One number may mean different fields in different Caffes. A binary file is read by the numbers of caffe.proto unless
`binary_dialect` names another Caffe or the types of its layers show it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from google.protobuf.message import Message

from pyscratchdet.errors import UsageError, nearest
from pyscratchdet.proto.forks import DIALECTS
from pyscratchdet.proto.wire import BYTES, VARINT, Field, read_fields, read_number, tag, varint

_log = logging.getLogger(__name__)
_DIALECT: ContextVar[str] = ContextVar("dialect", default="")
# NetParameter.layer and LayerParameter.type, the same in all Caffes.
_LAYER, _TYPE = 100, 2
# A type that many Caffes beside those of the schema have, and nets from PyTorch: it shows nobody's numbers.
_OF_MANY = "ReLU6"
Numbers = Mapping[str, Mapping[int, int]]


@contextmanager
def binary_dialect(name: str) -> Iterator[None]:
    """Inside this context, binary nets, weights and states are read and written by the numbers of a dialect.

    Raises:
        UsageError: There is no such dialect.
    """
    if name not in DIALECTS.origins:
        hint = nearest(name, DIALECTS.origins) or f"known are {', '.join(DIALECTS.origins)}"
        raise UsageError("no such dialect", code="schema.dialect", found=name, hint=hint)
    token = _DIALECT.set(name)
    try:
        yield
    finally:
        _DIALECT.reset(token)


def dialect_of_net(data: memoryview) -> str:
    """Returns the dialect of a binary NetParameter: the one asked for, or the only one that has all its layer types.

    Types of the base are every dialect's. The result is empty where the types do not decide.
    """
    if _DIALECT.get():
        return _DIALECT.get()
    candidates = None
    for layer in read_fields(data, 0, len(data)):
        if (layer.number, layer.kind) != (_LAYER, BYTES):
            continue
        for field in read_fields(data, layer.payload, layer.end):
            if (field.number, field.kind) == (_TYPE, BYTES):
                layer_type = bytes(data[field.payload : field.end]).decode("utf-8", "replace")
                own = set() if layer_type == _OF_MANY else set(DIALECTS.types.get(layer_type, ()))
                if own:
                    candidates = own if candidates is None else candidates & own
    return candidates.pop() if candidates and len(candidates) == 1 else ""


def dialect_of_message() -> str:
    """Returns the dialect asked for; empty for the base."""
    return _DIALECT.get()


def say_dialect(path: str, dialect: str) -> None:
    """Says that a file's own layer types decided by whose numbers it is read."""
    if dialect and not _DIALECT.get():
        origin = DIALECTS.origins[dialect]
        _log.warning(
            "%s: read by the field numbers of %s, which its layer types show (--dialect %s)", path, origin, dialect
        )


def from_dialect(data: bytes, message_class: type[Message], dialect: str) -> bytes:
    """Returns a message of a dialect with the merged schema's numbers.

    Raises:
        WireError: The bytes are not a message.
    """
    return _renumbered(data, message_class, DIALECTS.numbers.get(dialect, {}), DIALECTS.enum_numbers.get(dialect, {}))


def to_dialect(data: bytes, message_class: type[Message]) -> bytes:
    """Returns a message with the numbers of the dialect asked for; unchanged if none is."""
    dialect = _DIALECT.get()
    return _renumbered(
        data,
        message_class,
        _inverse(DIALECTS.numbers.get(dialect, {})),
        _inverse(DIALECTS.enum_numbers.get(dialect, {})),
        is_merged=True,
    )


def _inverse(numbers: Numbers) -> Numbers:
    return {owner: {merged: own for own, merged in pairs.items()} for owner, pairs in numbers.items()}


def _renumbered(
    data: bytes, message_class: type[Message], fields: Numbers, values: Numbers, *, is_merged: bool = False
) -> bytes:
    if not fields and not values:
        return data
    return _message(memoryview(data), 0, len(data), message_class.DESCRIPTOR, fields, values, is_merged)


def _message(
    data: memoryview, start: int, end: int, descriptor: Any, fields: Numbers, values: Numbers, is_merged: bool
) -> bytes:
    own = fields.get(_name(descriptor), {})
    pieces = []
    for field in read_fields(data, start, end):
        number = own.get(field.number, field.number)
        known = descriptor.fields_by_number.get(field.number if is_merged else number)
        pieces.append(_piece(data, field, number, known, fields, values, is_merged))
    return b"".join(pieces)


def _piece(
    data: memoryview, field: Field, number: int, known: Any, fields: Numbers, values: Numbers, is_merged: bool
) -> bytes:
    """Returns one field with another number, and with its inside renumbered; arrays are left as they are."""
    content = data[field.payload : field.end]
    if field.kind == BYTES and known is not None and known.message_type is not None:
        if known.message_type.name != "BlobProto":
            content = memoryview(
                _message(data, field.payload, field.end, known.message_type, fields, values, is_merged)
            )
    elif field.kind == VARINT and known is not None and known.enum_type is not None:
        value = read_number(data, field.payload, field.end)
        content = memoryview(varint(values.get(_name(known.enum_type), {}).get(value, value)))
    length = varint(len(content)) if field.kind == BYTES else b""
    return b"".join([tag(number, field.kind), length, content])


def _name(descriptor: Any) -> str:
    return str(descriptor.full_name.removeprefix("caffe."))
