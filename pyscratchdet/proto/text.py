"""prototxt text: parsed and printed by protobuf, with positions and hints in the errors."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from pyscratchdet.errors import Position, PrototxtError, nearest
from pyscratchdet.files import read_bytes, write_text

MessageType = TypeVar("MessageType", bound=Message)

_UNKNOWN_FIELD = re.compile(r'Message type "([\w.]+)" has no field named "([^"]+)"')
_UNKNOWN_ENUM = re.compile(r'Enum type "([\w.]+)" has no value named ([^\s.]+)')
_REPEATED = re.compile(r'Message type "([\w.]+)" should not have multiple "([\w.]+)" fields')


def parse(
    text: str, message_class: type[MessageType], *, path: str = "<string>", allow_unknown: bool = False
) -> MessageType:
    """Returns the message that `text` writes.

    Args:
        text: In protobuf's text format.
        message_class: A class of `caffe_pb2`.
        path: Where the text is from, for errors.
        allow_unknown: Pass over fields that the schema does not have, with a warning.

    Raises:
        PrototxtError: A syntax error, an unknown field or enum name, a value of a wrong type; with its position.
    """
    _check_characters(text, path)
    message = message_class()
    parser = text_format._Parser(allow_unknown_extension=True, allow_unknown_field=allow_unknown)
    try:
        parser.ParseLines(text.split("\n"), message)
    except text_format.ParseError as error:
        raise _explain(error, message, text, path) from None
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise PrototxtError(
            f"not a {message.DESCRIPTOR.name}: {error or type(error).__name__}",
            code="prototxt.value",
            position=Position(path),
        ) from None
    if allow_unknown:
        _warn_unknown(text, message_class, path)
    return message


def read(path: str | os.PathLike[str], message_class: type[MessageType], *, allow_unknown: bool = False) -> MessageType:
    """Returns the message in a text file; see `parse`.

    Raises:
        FileError: The file cannot be read.
        PrototxtError: It is no such message.
    """
    text = decode(read_bytes(path), os.fspath(path))
    return parse(text, message_class, path=os.fspath(path), allow_unknown=allow_unknown)


def decode(data: bytes, path: str) -> str:
    """Returns a text file's content.

    Raises:
        PrototxtError: It is binary or not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PrototxtError(
            "not UTF-8 text",
            code="prototxt.encoding",
            position=Position(path, line),
            hint="is this a binary file, such as a .caffemodel?",
        ) from None


def to_text(message: Message) -> str:
    """Returns a message as Caffe prints it: one field a line, floats in their shortest form."""
    return text_format.MessageToString(message)


def write(path: str | os.PathLike[str], message: Message) -> None:
    """Writes a message as text; atomic.

    Raises:
        FileError: The file cannot be written.
    """
    write_text(path, to_text(message))


class Locator:
    """Finds where in a text a field stands.

    Args:
        text: A message in text format.
        path: Where it is from.
    """

    def __init__(self, text: str, path: str) -> None:
        self.path = path
        self._text = text
        self._places: dict[tuple[Any, ...], tuple[int, int]] | None = None

    def position(self, *keys: str | int) -> Position:
        """Returns the position of a field such as ("layer", 3, "convolution_param", 0, "num_output", 0).

        Where that is not in the text, the deepest part of the way that is.
        """
        if self._places is None:
            self._places = _scan(self._text)
        for end in range(len(keys), 0, -1):
            if keys[:end] in self._places:
                line, column = self._places[keys[:end]]
                return Position(self.path, line, column, self._text.split("\n")[line - 1])
        return Position(self.path)


def _scan(text: str) -> dict[tuple[Any, ...], tuple[int, int]]:
    """Returns {way to a field: (line, column)} with one pass over the tokens; the text has been parsed before."""
    tokenizer = text_format.Tokenizer(text.split("\n"))
    places: dict[tuple[Any, ...], tuple[int, int]] = {}
    way: tuple[Any, ...] = ()
    ways: list[tuple[Any, ...]] = []
    counts: dict[tuple[Any, ...], int] = {}
    name: str | None = None
    place = (1, 1)
    while not tokenizer.AtEnd():
        token = tokenizer.token
        if token in ("{", "<"):
            ways.append(way)
            way = _enter(way, name, place, places, counts)
            name = None
        elif token in ("}", ">"):
            way = ways.pop() if ways else ()
            name = None
        elif token in (":", ",", ";") or token == "[":
            pass
        elif token == "]":
            name = None
        elif name is None:
            name, place = token, (tokenizer._line + 1, tokenizer._column + 1)
        else:
            _enter(way, name, place, places, counts)
            if not _continues(tokenizer):
                name = None
        tokenizer.NextToken()
    return places


def _continues(tokenizer: text_format.Tokenizer) -> bool:
    """Whether the present value is inside a short list, `dim: [1, 2]`."""
    rest = tokenizer._current_line[tokenizer._column + len(tokenizer.token) :].lstrip()
    return rest.startswith(",") and "]" in rest


def _enter(
    way: tuple[Any, ...],
    name: str | None,
    place: tuple[int, int],
    places: dict[tuple[Any, ...], tuple[int, int]],
    counts: dict[tuple[Any, ...], int],
) -> tuple[Any, ...]:
    field = (*way, name)
    index = counts.get(field, 0)
    counts[field] = index + 1
    places.setdefault(field, place)
    places[(*field, index)] = place
    return (*field, index)


def _check_characters(text: str, path: str) -> None:
    bad = re.search(r"[\x00-\x08\x0e-\x1f]", text)
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        raise PrototxtError(
            f"control character 0x{ord(bad.group()):02x}",
            code="prototxt.encoding",
            position=Position(path, line),
            hint="is this a binary file, such as a .caffemodel?",
        )


def _explain(error: text_format.ParseError, message: Message, text: str, path: str) -> PrototxtError:
    """Returns our error for protobuf's: same facts, with the source line, a code and a hint."""
    line, column = error.GetLine() or 0, error.GetColumn() or 0
    lines = text.split("\n")
    position = Position(path, line, column, lines[line - 1] if 0 < line <= len(lines) else "")
    said = re.sub(r"^\d+:\d+ : ", "", str(error))
    said = re.sub(r"^'.*?': (?=Message type|Expected|Couldn|Enum)", "", said, flags=re.DOTALL)
    if found := _UNKNOWN_FIELD.search(said):
        owner, field = found.group(1).removeprefix("caffe."), found.group(2)
        return PrototxtError(
            f'{owner} has no field "{field}"',
            code="prototxt.unknown-field",
            position=position,
            hint=nearest(field, _field_names(message, found.group(1))),
        )
    if found := _UNKNOWN_ENUM.search(said):
        owner, value = found.group(1).removeprefix("caffe."), found.group(2)
        names = _enum_names(message, found.group(1))
        return PrototxtError(
            f'{owner} has no value "{value}"',
            code="prototxt.unknown-enum",
            position=position,
            expected=", ".join(names) or None,
            hint=nearest(value, names),
        )
    if found := _REPEATED.search(said):
        return PrototxtError(
            f'"{found.group(2).rpartition(".")[2]}" is given twice', code="prototxt.twice", position=position
        )
    return PrototxtError(said.rstrip("."), code="prototxt.syntax", position=position)


def _field_names(message: Message, full_name: str) -> list[str]:
    types = message.DESCRIPTOR.file.message_types_by_name
    name = full_name.rpartition(".")[2]
    return list(types[name].fields_by_name) if name in types else []


def _enum_names(message: Message, full_name: str) -> list[str]:
    file = message.DESCRIPTOR.file
    *_, owner, name = ["", *full_name.split(".")]
    if name in file.enum_types_by_name:
        return list(file.enum_types_by_name[name].values_by_name)
    holder = file.message_types_by_name.get(owner)
    return list(holder.enum_types_by_name[name].values_by_name) if holder else []


def _warn_unknown(text: str, message_class: type[Message], path: str) -> None:
    try:
        parse(text, message_class, path=path)
    except PrototxtError as error:
        if error.code != "prototxt.unknown-field":
            raise
        warnings.warn(f"passed over: {error}", stacklevel=3)
