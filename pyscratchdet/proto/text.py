"""prototxt text: parsed and printed by protobuf, with positions and hints in the errors."""

from __future__ import annotations

import bisect
import functools
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from pyscratchdet.errors import Position, PrototxtError, counted, nearest
from pyscratchdet.files import read_bytes, write_text
from pyscratchdet.proto.forks import LATER, UnknownFieldWarning, is_hint, say_harmless, shortened

MessageType = TypeVar("MessageType", bound=Message)

_UNKNOWN_FIELD = re.compile(r'Message type "([\w.]+)" has no field named "([^"]+)"')
_UNKNOWN_ENUM = re.compile(r'Enum type "([\w.]+)" has no value named ([^\s.]+)')
# Strings are quoted and integers have no point, so such a line holds a float.
_FLOAT_LINE = re.compile(r"^( *\w+: )(-?\d+\.\d+(?:e[+-]?\d+)?)$", re.MULTILINE)
_LATER_LINE = re.compile(rf"^( *){LATER}(\w+[:\s])", re.MULTILINE)
_TOKEN = re.compile(r"#[^\n]*|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|[][{}<>:;,]|[^][{}<>:;,\s#\"']+")
_MAX_DEPTH = 100
# What Python accepts as a number and the C++ parser does not: +5, 1_000, 0b11, 0o17.
_PYTHON_NUMBER = re.compile(r"\+|-?\.?\d[^_]*_|-?0[bBoO]")
_REPEATED = re.compile(r'Message type "([\w.]+)" should not have multiple "([\w.]+)" fields')
_ALLOW_UNKNOWN = ContextVar("allow_unknown", default=False)


# The ends of the paths of a layer's name and type: ("layer", 3, "name", 0).
_NAMING = (("name",), ("type",))
_SEPARATOR = re.compile(r"\s*[;,]")


@dataclass(frozen=True)
class PassedOver:
    """A field in a text that the schema does not have, and that was passed over.

    Attributes:
        position: Where it is.
        field: Its path from the layer, or from the whole message: "pooling_param.extra".
        value: What is written there, shortened if long.
        layer: The name of the layer it belongs to; empty outside layers.
        layer_type: That layer's type, as written.
        is_harmless: Whether it is known to change no result.
    """

    position: Position
    field: str
    value: str
    layer: str
    layer_type: str
    is_harmless: bool

    def __str__(self) -> str:
        owner = f'layer "{self.layer}" ({self.layer_type}): ' if self.layer or self.layer_type else ""
        return f"line {self.position.line}: {owner}{self.field}: {self.value}"


@dataclass
class _Field:
    """One value of a field in a text: its name is at `start`, and `text[value:end]` is the value.

    The values in a list are values of one field with the same start; the first of them is the text of the whole list.
    """

    way: tuple[Any, ...]
    start: int
    value: int
    end: int


@contextmanager
def unknown_fields_allowed() -> Iterator[None]:
    """Within this context, parsing skips fields that no known Caffe has, and warns about each."""
    token = _ALLOW_UNKNOWN.set(True)
    try:
        yield
    finally:
        _ALLOW_UNKNOWN.reset(token)


def parse(
    text: str, message_class: type[MessageType], *, path: str = "<string>", passed_over: list[PassedOver] | None = None
) -> MessageType:
    """Returns the message that `text` describes.

    Fields of the dialects are parsed like all others; `forks.refuse_fork_fields` tells which of them matter. Unknown
    values of `engine`, which change no result, are passed over with a warning.

    Args:
        text: In protobuf's text format.
        message_class: A class of `caffe_pb2`.
        path: Where the text comes from, for errors.
        passed_over: Receives the fields that were passed over.

    Raises:
        PrototxtError: A syntax error, an unknown field (but see `unknown_fields_allowed`) or enum name, or a value of a
            wrong type; with its position.
    """
    _check_characters(text, path)
    _check_tokens(text, path)
    try:
        return _parsed(text, message_class)
    except text_format.ParseError as error:
        split = _lists_split(text, message_class.DESCRIPTOR)
        if split != text:
            return parse(split, message_class, path=path, passed_over=passed_over)
        strange = _strange_fields(text, message_class.DESCRIPTOR, path) if _is_unknown(error) else []
        if not strange:
            raise _explain(error, message_class(), text, path) from None
    try:
        message = _parsed(_blanked(text, [field for field, _ in strange]), message_class)
    except text_format.ParseError as error:
        raise _explain(error, message_class(), text, path) from None
    found = [known for _, known in strange]
    _warn(found, path)
    if passed_over is not None:
        passed_over += found
    return message


def read(path: str | os.PathLike[str], message_class: type[MessageType]) -> MessageType:
    """Returns the message in a text file; see `parse`.

    Raises:
        FileError: The file cannot be read.
        PrototxtError: The file does not hold such a message.
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
    """Returns a message as Caffe prints it: one field per line, floats in their shortest form."""
    text = _FLOAT_LINE.sub(_caffe_float, text_format.MessageToString(message))
    if LATER not in text:
        return text
    as_list = _LATER_LINE.sub(r"\1\2", text)
    is_same = _parsed(_lists_split(as_list, message.DESCRIPTOR), type(message)) == message
    return as_list if is_same else text  # later values without a first one are no list


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
    """Finds where in a text a field is written.

    Args:
        text: A message in text format.
        path: Where it comes from.
    """

    def __init__(self, text: str, path: str) -> None:
        self.path = path
        self._text = text
        self._places: dict[tuple[Any, ...], _Field] = {}

    @functools.cached_property
    def _lines(self) -> _Lines:
        return _Lines(self._text, self.path)

    def position(self, *keys: str | int) -> Position:
        """Returns the position of a field such as ("layer", 3, "convolution_param", 0, "num_output", 0).

        If that is not in the text, returns the position of the deepest part of its path that is.
        """
        field = self._find(keys) if keys else None
        return self._lines.position(field.start) if field else Position(self.path)

    def lines(self, *keys: str | int) -> tuple[int, str]:
        """Returns the number of the first line of such a field, from 1 on, and its text from there to its end.

        What is not in the text has the number 0 and no text.
        """
        field = self._find(keys)
        if field is None or field.way[: len(keys)] != keys:
            return 0, ""
        start = self._text.rfind("\n", 0, field.start) + 1
        if self._text[start : field.start].strip():  # another field stands before it in its line
            start = field.start
        return self._text.count("\n", 0, start) + 1, self._text[start : field.end]

    def _find(self, keys: tuple[str | int, ...]) -> _Field | None:
        """Returns the field, or the deepest part of its path that is in the text."""
        if not self._places:
            for field in _scan(self._text):
                self._places.setdefault(field.way[:-1], field)
                self._places[field.way] = field
        return next((self._places[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in self._places), None)


# For a line longer than this, errors show only this many characters on either side of the place.
_LONG_LINE, _SHOWN = 32_768, 200


class _Lines:
    """Where the lines of a text begin."""

    def __init__(self, text: str, path: str) -> None:
        self._text = text
        self._path = path
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def position(self, offset: int) -> Position:
        line = bisect.bisect(self._starts, offset)
        start = self._starts[line - 1]
        end = self._starts[line] - 1 if line < len(self._starts) else len(self._text)
        shown = self._text[start:end]
        if len(shown) > _LONG_LINE:  # so that a net on one line is not repeated for each field
            shown = self._text[max(start, offset - _SHOWN) : min(end, offset + _SHOWN)]
        return Position(self._path, line, offset - start + 1, shown)


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Yields (token, offset) without white space and comments."""
    for match in _TOKEN.finditer(text):
        if not match.group().startswith("#"):
            yield match.group(), match.start()


def _scan(text: str) -> list[_Field]:
    """Returns every value of every field, in one pass over the tokens; the syntax is not checked."""
    fields: list[_Field] = []
    counts: Counter[tuple[Any, ...]] = Counter()
    way: tuple[Any, ...] = ()
    outer: list[tuple[_Field, tuple[Any, ...], str | None, int, int]] = []  # what each open brace began and returns to
    name: str | None = None  # the field whose value comes next
    start = listed = opened = 0  # where that name is; how many fields there were before the open list, and its place
    in_list = after_string = False

    def enter(offset: int, end: int) -> _Field:
        field = (*way, name)
        fields.append(_Field((*field, counts[field]), start, offset, end))
        counts[field] += 1
        return fields[-1]

    for token, offset in _tokens(text):
        end = offset + len(token)
        is_string = token[0] in "\"'"
        if token in "{<":
            outer.append((enter(offset, end), way, name if in_list else None, listed, opened))
            way, name, in_list = outer[-1][0].way, None, False
        elif token in "}>":
            if outer:
                field, way, name, listed, opened = outer.pop()
                field.end = end
            in_list = name is not None
        elif token == "[":
            in_list, listed, opened = True, len(fields), offset
        elif token == "]":
            for field in fields[listed : listed + 1]:
                field.value, field.end = opened, end
            in_list, name = False, None
        elif token in ":;,":
            pass
        elif is_string and after_string:
            fields[-1].end = end  # pieces of one value
        elif name is None:
            name, start = token, offset
        else:
            enter(offset, end)
            name = name if in_list else None
        after_string = is_string
    return fields


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
    """Refuses nesting that no net has and would exhaust the parser's stack, and numbers that only Python accepts."""
    depth = 0
    for token, offset in _tokens(text):
        depth += (token in "{<") - (token in "}>")
        is_wrong_number = token[0] in "+-.0123456789" and _PYTHON_NUMBER.match(token)
        if depth <= _MAX_DEPTH and not is_wrong_number:
            continue
        position = _Lines(text, path).position(offset)
        if is_wrong_number:
            raise PrototxtError(f"{token} is not a number", code="prototxt.syntax", position=position)
        raise PrototxtError(
            "braces are nested too deeply",
            code="prototxt.depth",
            position=position,
            expected=f"at most {_MAX_DEPTH}",
        )


def _explain(error: text_format.ParseError, message: Message, text: str, path: str) -> PrototxtError:
    """Turns protobuf's error into ours: the same facts, with the source line, a code and a hint."""
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
        field = found.group(2).rpartition(".")[2]
        return PrototxtError(f'"{field}" is given twice', code="prototxt.twice", position=position)
    hint = 'is there a "}" too many before it?' if said.endswith("got }.") else _open_brace(text, line)
    return PrototxtError(said.rstrip("."), code="prototxt.syntax", position=position, hint=hint)


def _unknown_field_hint(field: str, message: Message, owner: str) -> str:
    """A field of the outermost message inside another one shows that a brace was left open."""
    if owner != message.DESCRIPTOR.full_name and field in message.DESCRIPTOR.fields_by_name:
        return f'{field} belongs to {message.DESCRIPTOR.name}: is a "}}" missing before it?'
    passing = "--allow-unknown (in Python unknown_fields_allowed) passes over it"
    likely = nearest(field, _field_names(message, owner))
    return (
        f"{likely} If it belongs to another Caffe, {passing}"
        if likely
        else f"if it belongs to another Caffe, {passing}"
    )


def _open_brace(text: str, line: int) -> str | None:
    """Names the brace that is still open at the end of the text, if that is where the error is."""
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


# --- fields of other Caffes ---


def _parsed(text: str, message_class: type[MessageType]) -> MessageType:
    message: MessageType = message_class()
    text_format.ParseLines(text.split("\n"), message)
    return message


def _is_unknown(error: text_format.ParseError) -> bool:
    return bool(_UNKNOWN_FIELD.search(str(error)) or _UNKNOWN_ENUM.search(str(error)))


def _lists_split(text: str, descriptor: Any) -> str:
    """Returns the text with all but the first value of a list in a field of their own where the base has no list.

    A dialect with such a list has that field, such as `later_values_of_resize_param`.
    """
    fields = _scan(text)
    messages = {(): descriptor}
    pieces, place = [], 0
    for number, field in enumerate(fields):
        owner, name, index = messages.get(field.way[:-2]), *field.way[-2:]
        known = owner.fields_by_name.get(name) if owner is not None and name is not None else None
        if owner is None or known is None:
            continue
        if known.message_type is not None:
            messages[field.way] = known.message_type
        if known.is_repeated or f"{LATER}{name}" not in owner.fields_by_name:
            continue
        if text[field.value] == "[":  # of the first value of a list in brackets, which ends where the list does
            listed = [one for one in fields[number:] if one.way[:-1] == field.way[:-1] and one.end <= field.end][1:]
            end = listed[0].value if listed else field.end - 1
            pieces += [text[place : field.value], text[field.value + 1 : end].rstrip(", \n\t")]
            pieces += [f" {LATER}{name}: [", text[end : field.end]] if listed else []
            place = field.end
        elif index and field.start >= place:
            pieces += [text[place : field.start], LATER]
            place = field.start
    return "".join([*pieces, text[place:]])


def _strange_fields(text: str, descriptor: Any, path: str) -> list[tuple[_Field, PassedOver]]:
    """Returns the fields that may be passed over, in the text's order, without those inside another such field."""
    fields = _scan(text)
    names = {field.way: text[field.value : field.end].strip("\"'") for field in fields if field.way[2:3] in _NAMING}
    messages, lines = {(): descriptor}, _Lines(text, path)
    found: list[tuple[_Field, PassedOver]] = []
    for field in fields:
        owner, name = messages.get(field.way[:-2]), field.way[-2]
        if owner is None or name is None:  # inside another such field; or a brace without a name
            continue
        known = owner.fields_by_name.get(name)
        value = text[field.value : field.end]
        if known is not None and known.message_type is not None:
            messages[field.way] = known.message_type
        if _is_known(known, owner.name, value) or (found and found[-1][0].start == field.start):  # once for a list
            continue
        if _ALLOW_UNKNOWN.get() or is_hint(owner.name, name):
            found.append((field, _passed_over(field, owner.name, value, names, lines.position(field.start))))
    return found


def _is_known(field: Any, owner: str, value: str) -> bool:
    """Returns whether the schema has a field and, if the field only chooses an implementation, its value too."""
    if field is None or field.enum_type is None or not is_hint(owner, field.name):
        return field is not None
    return value in field.enum_type.values_by_name or value.isdecimal()


def _passed_over(
    field: _Field, owner: str, value: str, names: dict[tuple[Any, ...], str], position: Position
) -> PassedOver:
    """Returns what is known about a field that the schema does not have."""
    path = [key for key in field.way if isinstance(key, str)]
    layer, kind = "", ""
    if len(path) > 1 and path[0] in ("layer", "layers"):
        layer, kind = (names.get((*field.way[:2], part, 0), "") for part in ("name", "type"))
        path = path[1:]
    return PassedOver(position, ".".join(path), shortened(value), layer, kind, is_hint(owner, path[-1]))


def _blanked(text: str, fields: Sequence[_Field]) -> str:
    """Returns the text with spaces in place of these fields and the separators after them, so that positions stay."""
    pieces, place = [], 0
    for field in fields:
        separator = _SEPARATOR.match(text, field.end)
        end = separator.end() if separator else field.end
        pieces += [text[place : field.start], re.sub(r"[^\n]", " ", text[field.start : end])]
        place = end
    return "".join([*pieces, text[place:]])


def _warn(found: Sequence[PassedOver], path: str) -> None:
    say_harmless(path, (entry.field for entry in found if entry.is_harmless))
    others = [entry for entry in found if not entry.is_harmless]
    if others:
        lines = "".join(f"\n  {entry}" for entry in others)
        fields = counted(len(others), "unknown field")
        warnings.warn(
            f"{path}: passed over {fields}; results may differ from those of its own Caffe{lines}",
            UnknownFieldWarning,
            stacklevel=3,
        )
