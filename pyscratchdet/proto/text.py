"""prototxt text: parsed and printed by protobuf, with positions and hints in the errors."""

from __future__ import annotations

import bisect
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from pyscratchdet.errors import Position, PrototxtError, nearest
from pyscratchdet.files import read_bytes, write_text

MessageType = TypeVar("MessageType", bound=Message)

_UNKNOWN_FIELD = re.compile(r'Message type "([\w.]+)" has no field named "([^"]+)"')
_UNKNOWN_ENUM = re.compile(r'Enum type "([\w.]+)" has no value named ([^\s.]+)')
# Strings are quoted and integers have no point, so such a line is a float's.
_FLOAT_LINE = re.compile(r"^( *\w+: )(-?\d+\.\d+(?:e[+-]?\d+)?)$", re.MULTILINE)
_TOKEN = re.compile(r"#[^\n]*|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|[][{}<>:;,]|[^][{}<>:;,\s#\"']+")
_MAX_DEPTH = 100
# What Python takes for a number and the C++ parser does not: +5, 1_000, 0b11, 0o17.
_PYTHON_NUMBER = re.compile(r"\+|-?\.?\d[^_]*_|-?0[bBoO]")
_REPEATED = re.compile(r'Message type "([\w.]+)" should not have multiple "([\w.]+)" fields')
_ALLOW_UNKNOWN = ContextVar("allow_unknown", default=False)


class UnknownFieldWarning(UserWarning):
    """A field that the schema does not have was passed over."""


@contextmanager
def unknown_fields_allowed() -> Iterator[None]:
    """Within it, whatever reads text passes over fields that the schema does not have, with a warning for each."""
    token = _ALLOW_UNKNOWN.set(True)
    try:
        yield
    finally:
        _ALLOW_UNKNOWN.reset(token)


def parse(text: str, message_class: type[MessageType], *, path: str = "<string>") -> MessageType:
    """Returns the message that `text` writes.

    Args:
        text: In protobuf's text format.
        message_class: A class of `caffe_pb2`.
        path: Where the text is from, for errors.

    Raises:
        PrototxtError: A syntax error, an unknown field (but see `unknown_fields_allowed`) or enum name, a value of a
            wrong type; with its position.
    """
    _check_characters(text, path)
    _check_tokens(text, path)
    message: MessageType = message_class()
    allow_unknown = _ALLOW_UNKNOWN.get()
    try:
        text_format.ParseLines(
            text.split("\n"), message, allow_unknown_extension=allow_unknown, allow_unknown_field=allow_unknown
        )
    except text_format.ParseError as error:
        raise _explain(error, message, text, path) from None
    if allow_unknown:
        _warn_unknown(text, message.DESCRIPTOR, path)
    return message


def read(path: str | os.PathLike[str], message_class: type[MessageType]) -> MessageType:
    """Returns the message in a text file; see `parse`.

    Raises:
        FileError: The file cannot be read.
        PrototxtError: It is no such message.
    """
    text = decode_text(read_bytes(path), os.fspath(path))
    return parse(text, message_class, path=os.fspath(path))


def decode_text(data: bytes, path: str) -> str:
    """Returns a text file's content; its comments may be in any encoding, as the original never looks into them.

    Raises:
        PrototxtError: It is binary or not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = data.decode("latin-1")
        if all(token.isascii() for token, _ in _tokens(text)):
            return text
        line = data.count(b"\n", 0, error.start) + 1
        raise PrototxtError(
            "not UTF-8 text",
            code="prototxt.encoding",
            position=Position(path, line),
            hint="is this a binary file, such as a .caffemodel?",
        ) from None


def to_text(message: Message) -> str:
    """Returns a message as Caffe prints it: one field a line, floats in their shortest form."""
    return _FLOAT_LINE.sub(_caffe_float, text_format.MessageToString(message))


def _caffe_float(match: re.Match[str]) -> str:
    """Returns a line with its float as C prints it: 1 for 1.0, 1e+06 for 1000000.0."""
    field, value = match.groups()
    short = format(float(value), ".15g" if "double_" in field else ".6g")
    return field + (short if float(short) == float(value) else value.removesuffix(".0"))


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
        self._lines = text.split("\n")
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
                return Position(self.path, line, column, self._lines[line - 1])
        return Position(self.path)


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Yields (token, offset) without white space and comments."""
    for match in _TOKEN.finditer(text):
        if not match.group().startswith("#"):
            yield match.group(), match.start()


def _scan(text: str) -> dict[tuple[Any, ...], tuple[int, int]]:
    """Returns {way to a field: (line, column)} with one pass over the tokens; the text has been parsed before."""
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    places: dict[tuple[Any, ...], tuple[int, int]] = {}
    counts: Counter[tuple[Any, ...]] = Counter()
    way: tuple[Any, ...] = ()
    outer: list[tuple[tuple[Any, ...], str | None]] = []  # where each open brace returns to
    name: str | None = None  # the field whose value comes next
    place = (1, 1)
    in_list = after_string = False
    for token, offset in _tokens(text):
        is_string = token[0] in "\"'"
        if token in "{<":
            outer.append((way, name if in_list else None))
            way = _enter(way, name, place, places, counts)
            name, in_list = None, False
        elif token in "}>":
            way, name = outer.pop() if outer else ((), None)
            in_list = name is not None
        elif token in "[]":
            in_list = token == "["
            name = name if in_list else None
        elif token in ":;,":
            pass
        elif is_string and after_string:
            continue  # pieces of one value
        elif name is None:
            line = bisect.bisect(starts, offset)
            name, place = token, (line, offset - starts[line - 1] + 1)
        else:
            _enter(way, name, place, places, counts)
            name = name if in_list else None
        after_string = is_string
    return places


def _enter(
    way: tuple[Any, ...],
    name: str | None,
    place: tuple[int, int],
    places: dict[tuple[Any, ...], tuple[int, int]],
    counts: Counter[tuple[Any, ...]],
) -> tuple[Any, ...]:
    field = (*way, name)
    index = counts[field]
    counts[field] += 1
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


def _check_tokens(text: str, path: str) -> None:
    """Refuses nesting that no net has and that would exhaust the parser's stack, and numbers only Python knows."""
    depth = 0
    for token, offset in _tokens(text):
        depth += (token in "{<") - (token in "}>")
        is_wrong_number = _PYTHON_NUMBER.match(token)
        if depth <= _MAX_DEPTH and not is_wrong_number:
            continue
        line = text.count("\n", 0, offset) + 1
        position = Position(path, line, offset - text.rfind("\n", 0, offset), text.split("\n")[line - 1])
        if is_wrong_number:
            raise PrototxtError(f"{token} is no number", code="prototxt.syntax", position=position)
        raise PrototxtError(
            "too many braces inside each other",
            code="prototxt.depth",
            position=position,
            expected=f"at most {_MAX_DEPTH}",
        )


def _explain(error: text_format.ParseError, message: Message, text: str, path: str) -> PrototxtError:
    """Returns our error for protobuf's: same facts, with the source line, a code and a hint."""
    line, column = error.GetLine() or 0, error.GetColumn() or 0
    lines = text.split("\n")
    position = Position(path, line, column, lines[line - 1] if 0 < line <= len(lines) else "")
    said = re.sub(r"^\d+:\d+ : ", "", str(error))
    said = said.removeprefix(f"'{position.text}': ").removeprefix("'': ")
    if found := _UNKNOWN_FIELD.search(said):
        owner, field = found.group(1).removeprefix("caffe."), found.group(2)
        return PrototxtError(
            f'{owner} has no field "{field}"',
            code="prototxt.unknown-field",
            position=position,
            hint=_unknown_field_hint(field, message, found.group(1)),
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
    hint = 'is there a "}" too many before it?' if said.endswith("got }.") else _open_brace(text, line)
    return PrototxtError(said.rstrip("."), code="prototxt.syntax", position=position, hint=hint)


def _unknown_field_hint(field: str, message: Message, owner: str) -> str | None:
    """A field of the outermost message inside another one shows that a brace was left open."""
    hint = nearest(field, _field_names(message, owner))
    if owner != message.DESCRIPTOR.full_name and field in message.DESCRIPTOR.fields_by_name:
        return f'{field} belongs to {message.DESCRIPTOR.name}: is a "}}" missing before it?'
    return hint or "a field of another fork? --allow-unknown (in Python unknown_fields_allowed) passes over it"


def _open_brace(text: str, line: int) -> str | None:
    """Names the brace that is still open where the text ends, if the error is there."""
    if "".join(text.split("\n")[line:]).strip():
        return None
    opened: list[int] = []
    for token, offset in _tokens(text):
        if token in "{<":
            opened.append(offset)
        elif token in "}>" and opened:
            opened.pop()
    return f"the brace of line {text.count(chr(10), 0, opened[-1]) + 1} is not closed" if opened else None


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


def _warn_unknown(text: str, descriptor: Any, path: str) -> None:
    """Warns once for every field that was passed over; what is inside such a field is not mentioned again."""
    for way, (line, column) in _scan(text).items():
        names = [key for key in way if isinstance(key, str)]
        if way[-1] != 0:
            continue  # one warning however often it is repeated
        owner = descriptor
        for name in names[:-1]:
            field = owner.fields_by_name.get(name) if owner else None
            owner = field.message_type if field else None
        if owner and names[-1] not in owner.fields_by_name:
            position = Position(path, line, column)
            warnings.warn(
                f'{position}: {owner.name} has no field "{names[-1]}"; passed over', UnknownFieldWarning, stacklevel=4
            )
