"""Schemas: .proto files read and merged, for the committed dialects and for a user's own caffe.proto.

Read is what Caffe's schemas are written in: proto2 with messages, enums, fields, defaults and options. protobuf
itself reads .proto files only through its compiler, which is a large package, and this is needed at run time. Source:
protobuf.dev, "Protocol Buffers Language Specification (Proto2 Syntax)".
"""

from __future__ import annotations

import ast
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from pyscratchdet.errors import Position, PrototxtError, nearest
from pyscratchdet.files import read_bytes
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.forks import DIALECTS, LATER, Dialects, Known

# In the merged schema, a number that has another meaning elsewhere becomes `block * _BLOCK + number`: no Caffe has such
# numbers.
_BLOCK = 10_000_000
# From here on: schemas that are registered at run time.
_OWN_BLOCKS = 40
_TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|-?\.?\d[\w.]*(?:(?<=[eE])[+-]\d+)?|-?[\w.]+|[][{}<>()=;,]"""
    r"""|\S""",
    re.DOTALL,
)
_NAME = re.compile(r"\.?[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_SCALARS = {
    name.removeprefix("TYPE_").lower(): number
    for name, number in FieldDescriptorProto.Type.items()
    if name not in ("TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP")
}
_MESSAGE, _ENUM = FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.TYPE_ENUM
_REPEATED = FieldDescriptorProto.LABEL_REPEATED
# Layers check what their types need; "required" would refuse a message before its layer is known.
_LABELS = {
    "optional": FieldDescriptorProto.LABEL_OPTIONAL,
    "required": FieldDescriptorProto.LABEL_OPTIONAL,
    "repeated": _REPEATED,
}
_FLOATS = (FieldDescriptorProto.TYPE_FLOAT, FieldDescriptorProto.TYPE_DOUBLE)
_TEXTS = (FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_BYTES)
# Types whose values are written alike, in text and in binary; enums are compared by name.
_ALIKE = [
    {FieldDescriptorProto.TYPE_INT32, FieldDescriptorProto.TYPE_INT64, FieldDescriptorProto.TYPE_UINT32,
     FieldDescriptorProto.TYPE_UINT64},
    {FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_BYTES},
]  # fmt: skip
_MAX_DEPTH = 32
_FIELD_NUMBERS = range(1, 2**29)


@dataclass
class Schema:
    """What a .proto file declares.

    Attributes:
        file: Its messages and enums; the names of types are as written.
        path: Where it comes from.
        options: The file's own options: `origin`, `layer_types` and `block` of a dialect.
        notes: Options of fields that protobuf does not know, by message and field: `hint`, `neutral`.
        places: Where each message, field, enum and value is declared, by its full name.
    """

    file: FileDescriptorProto
    path: str
    options: dict[str, str] = field(default_factory=dict)
    notes: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    places: dict[str, Position] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The dialect's name: that of the file."""
        return Path(self.path).stem

    @property
    def origin(self) -> str:
        """Which Caffe it describes."""
        return self.options.get("origin", self.path)


def read_schema(path: str | os.PathLike[str]) -> Schema:
    """Returns what a .proto file declares.

    Raises:
        FileError: The file cannot be read.
        PrototxtError: It is not a schema in proto2, or uses what no Caffe does (imports, groups, extensions, services).
    """
    name = os.fspath(path)
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PrototxtError("not UTF-8 text", code="schema.encoding", position=Position(name)) from error
    return parse_schema(text, name)


def parse_schema(text: str, path: str = "<string>") -> Schema:
    """Returns what the text of a .proto file declares; see `read_schema`."""
    return _Parser(text, path).schema()


class _Parser:
    """Reads one .proto file, token by token."""

    def __init__(self, text: str, path: str) -> None:
        self._lines = text.split("\n")
        self._tokens = [found for found in _TOKEN.finditer(text) if not found[0].startswith(("//", "/*"))]
        self._text = text
        self._next = 0
        self._schema = Schema(FileDescriptorProto(), path)

    def schema(self) -> Schema:
        file = self._schema.file
        while self._peek():
            word = self._take()
            if word == "syntax":
                self._expect("=")
                if self._string() != "proto2":
                    raise self._error("only proto2 is read", expected='"proto2"')
                self._expect(";")
            elif word == "package":
                file.package = self._name()
                self._expect(";")
            elif word == "option":
                name, value = self._option()
                self._schema.options[name] = value
                self._expect(";")
            elif word == "message":
                self._message(file.message_type.add(), "", 0)
            elif word == "enum":
                self._enum(file.enum_type.add(), "")
            elif word != ";":
                raise self._error(f'"{word}" is not read here', expected="message or enum")
        return self._schema

    def _message(self, message: DescriptorProto, owner: str, depth: int) -> None:
        message.name = self._name()
        name = f"{owner}{message.name}"
        self._declare(name)
        if depth > _MAX_DEPTH:
            raise self._error("messages are nested too deeply", expected=f"at most {_MAX_DEPTH}")
        self._expect("{")
        while (word := self._take()) != "}":
            if word == "message":
                self._message(message.nested_type.add(), f"{name}.", depth + 1)
            elif word == "enum":
                self._enum(message.enum_type.add(), f"{name}.")
            elif word in _LABELS:
                self._field(message.field.add(label=_LABELS[word]), name)
            elif word in ("option", "reserved", "extensions"):
                while self._take() != ";":
                    pass
            elif word != ";":
                raise self._error(f'"{word}" is not read here', expected="optional, repeated, message or enum")

    def _field(self, declared: FieldDescriptorProto, owner: str) -> None:
        kind = self._name()
        if kind == "group":
            raise self._error("groups are not read")
        if kind in _SCALARS:
            declared.type = _SCALARS[kind]
        else:
            declared.type_name = kind
        declared.name = self._name()
        self._declare(f"{owner}.{declared.name}")
        self._expect("=")
        declared.number = self._number()
        if declared.number not in _FIELD_NUMBERS:
            raise self._error("no field has such a number", expected=f"1 to {_FIELD_NUMBERS[-1]}")
        if self._peek() == "[":
            self._field_options(declared, owner)
        self._expect(";")

    def _field_options(self, declared: FieldDescriptorProto, owner: str) -> None:
        self._take()
        while True:
            name, value = self._option()
            if name == "default":
                declared.default_value = self._default(declared, value)
            elif name == "packed":
                declared.options.packed = value == "true"
            else:
                self._schema.notes.setdefault((owner, declared.name), {})[name] = value
            if self._take_one_of(",", "]") == "]":
                return

    def _default(self, declared: FieldDescriptorProto, value: str) -> str:
        """Returns a default as descriptors hold it: numbers in their shortest form."""
        if declared.type in _TEXTS or not declared.HasField("type"):
            return value
        if declared.type == FieldDescriptorProto.TYPE_BOOL:
            if value not in ("true", "false"):
                raise self._error("not a bool", expected="true or false")
            return value
        try:
            return format(float(value), ".15g") if declared.type in _FLOATS else str(_integer(value))
        except ValueError:
            raise self._error(f'"{value}" is not a number') from None

    def _enum(self, enum: EnumDescriptorProto, owner: str) -> None:
        enum.name = self._name()
        name = f"{owner}{enum.name}"
        self._declare(name)
        self._expect("{")
        while (word := self._take()) != "}":
            if word in ("option", "reserved"):
                while self._take() != ";":
                    pass
            elif word != ";":
                self._declare(f"{name}.{self._check_name(word)}")
                self._expect("=")
                enum.value.add(name=word, number=self._number())
                if self._peek() == "[":
                    while self._take() != "]":
                        pass
                self._expect(";")

    def _option(self) -> tuple[str, str]:
        is_own = self._peek() == "("
        if is_own:
            self._take()
        name = self._name()
        if is_own:
            self._expect(")")
        self._expect("=")
        return name, self._string() if self._peek()[:1] in ("'", '"') else self._take()

    # --- tokens ---

    def _peek(self) -> str:
        return self._tokens[self._next][0] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        if self._next == len(self._tokens):
            raise self._error("the file ends too early")
        self._next += 1
        return self._tokens[self._next - 1][0]

    def _take_one_of(self, *wanted: str) -> str:
        if self._take() not in wanted:
            raise self._error("a syntax error", expected=" or ".join(wanted), found=self._tokens[self._next - 1][0])
        return self._tokens[self._next - 1][0]

    def _expect(self, wanted: str) -> None:
        self._take_one_of(wanted)

    def _name(self) -> str:
        return self._check_name(self._take())

    def _check_name(self, word: str) -> str:
        if not _NAME.fullmatch(word):
            raise self._error("a syntax error", expected="a name", found=word)
        return word

    def _number(self) -> int:
        word = self._take()
        try:
            return _integer(word)
        except ValueError:
            raise self._error("a syntax error", expected="a number", found=word) from None

    def _string(self) -> str:
        pieces = []
        while self._peek()[:1] in ("'", '"') and self._peek():
            pieces.append(self._take())
        try:
            return "".join(ast.literal_eval(piece) for piece in pieces)
        except (SyntaxError, ValueError):
            raise self._error("a string with a wrong escape") from None

    def _declare(self, name: str) -> None:
        if name in self._schema.places:
            raise self._error(f"{name} is declared twice")
        self._schema.places[name] = self._position()

    def _position(self) -> Position:
        place = self._tokens[self._next - 1].start() if self._next else 0
        line = self._text.count("\n", 0, place)
        column = place - self._text.rfind("\n", 0, place)
        return Position(self._schema.path, line + 1, column, self._lines[line])

    def _error(self, message: str, **details: Any) -> PrototxtError:
        return PrototxtError(message, code="schema.syntax", position=self._position(), **details)


def _integer(word: str) -> int:
    return int(word, 8) if re.fullmatch(r"-?0[0-7]+", word) else int(word, 0)


def register_schema(path: str | os.PathLike[str]) -> None:
    """Adds the messages, fields and enum values of a .proto file to the schema of this process, as another dialect.

    The file is a whole caffe.proto or only what it adds. Layer types that read its fields are registered as usual and
    name them in `fork_fields`. Call it before nets are read: messages made earlier do not mix with later ones.

    Raises:
        FileError: The file cannot be read.
        PrototxtError: It is not a schema, or gives a field another type than the schema has.
    """
    schema = read_schema(path)
    if DIALECTS.paths.get(schema.name) == os.path.realpath(path):
        return
    if schema.name in DIALECTS.origins:
        raise PrototxtError(
            f'a dialect with the name "{schema.name}" is there already',
            code="schema.name",
            position=Position(schema.path),
            hint="rename the file",
        )
    base = FileDescriptorProto()
    caffe_pb2.DESCRIPTOR.CopyToProto(base)
    schema.options["block"] = str(_OWN_BLOCKS + len(DIALECTS.paths))
    file, dialects = merge(base, [schema])
    try:
        caffe_pb2.load(file.SerializeToString())
    except TypeError as error:
        raise PrototxtError(str(error), code="schema.conflict", position=Position(schema.path)) from error
    dialects.paths[schema.name] = os.path.realpath(path)
    DIALECTS.add(dialects)


# --- merging ---


def merge(base: FileDescriptorProto, schemas: Sequence[Schema]) -> tuple[FileDescriptorProto, Dialects]:
    """Returns the base with the messages, fields and enum values of other schemas, and what each of them says.

    A field is found by its name. It keeps its number if nothing else has that number in its message and all schemas
    agree on it; otherwise it gets one in the block of the first schema that has it. What is a list in a schema and a
    single value in the base gets a second field there, `later_values_of_<name>`, for all but the first value of a text.

    Raises:
        PrototxtError: Two schemas give one field types that exclude each other, or a type is unknown.
    """
    return _Merger(base, schemas).merged()


class _Merger:
    def __init__(self, base: FileDescriptorProto, schemas: Sequence[Schema]) -> None:
        self._result = FileDescriptorProto()
        self._result.CopyFrom(base)
        self._schemas = schemas
        self._tables = Dialects()
        self._messages = dict(_messages(self._result))
        self._enums = dict(_enums(self._result))

    def merged(self) -> tuple[FileDescriptorProto, Dialects]:
        for schema in self._schemas:
            self._tables.origins[schema.name] = schema.origin
            for layer_type in schema.options.get("layer_types", "").split():
                self._tables.types[layer_type] = (*self._tables.types.get(layer_type, ()), schema.name)
            self._add_containers(schema.file, self._result, "")
        self._add_values()
        self._add_fields()
        return self._result, self._tables

    def _add_containers(self, source: Any, target: Any, owner: str) -> None:
        """Adds the messages and enums that are new, still empty."""
        is_file = isinstance(source, FileDescriptorProto)
        for message in source.message_type if is_file else source.nested_type:
            name = owner + message.name
            if name not in self._messages:
                self._messages[name] = (target.message_type if is_file else target.nested_type).add(name=message.name)
            self._add_containers(message, self._messages[name], f"{name}.")
        for enum in source.enum_type:
            if owner + enum.name not in self._enums:
                self._enums[owner + enum.name] = target.enum_type.add(name=enum.name)

    def _add_values(self) -> None:
        declared: dict[str, dict[str, dict[int, list[Schema]]]] = defaultdict(lambda: defaultdict(dict))
        for schema in self._schemas:
            for enum_name, enum in _enums(schema.file):
                for value in enum.value:
                    declared[enum_name][value.name].setdefault(value.number, []).append(schema)
        for enum_name, values in declared.items():
            enum = self._enums[enum_name]
            own = {value.name: value.number for value in enum.value}
            numbers = _numbers(own, values)
            for name, by_number in values.items():
                if name not in own:
                    enum.value.add(name=name, number=numbers[name])
                    who = tuple(schema.name for schemas in by_number.values() for schema in schemas)
                    self._tables.values.setdefault(enum_name, {})[name] = who
                self._map(self._tables.enum_numbers, enum_name, numbers[name], by_number)

    def _add_fields(self) -> None:
        declared: dict[str, dict[str, list[tuple[Schema, FieldDescriptorProto]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for schema in self._schemas:
            for message_name, message in _messages(schema.file):
                for one in message.field:
                    declared[message_name][one.name].append((schema, self._resolved(one, message_name, schema)))
        for message_name, fields in declared.items():
            message = self._messages[message_name]
            own = {one.name: one for one in message.field}
            by_number: dict[str, dict[int, list[Schema]]] = {
                name: _grouped([(one.number, schema) for schema, one in found]) for name, found in fields.items()
            }
            numbers = _numbers({one.name: one.number for one in message.field}, by_number)
            for name, found in fields.items():
                if name not in own:
                    own[name] = message.field.add()
                    own[name].CopyFrom(found[0][1])
                    own[name].number = numbers[name]
                    self._tables.fields.setdefault(message_name, {})[name] = _known(message_name, name, found)
                    _check(own[name], message_name, found)
                    if any(one.label == _REPEATED for _, one in found):
                        own[name].label = _REPEATED
                        own[name].ClearField("default_value")
                else:
                    _check(own[name], message_name, found)
                    lists = [(schema, one) for schema, one in found if one.label == _REPEATED != own[name].label]
                    if lists:
                        self._add_later_values(message, name, lists)
                self._map(self._tables.numbers, message_name, numbers[name], by_number[name])

    def _add_later_values(
        self, message: DescriptorProto, name: str, found: Sequence[tuple[Schema, FieldDescriptorProto]]
    ) -> None:
        """Adds a field for all but the first value of what is a list in some schemas and a single value in the base."""
        schema, declared = found[0]
        later = message.field.add()
        later.CopyFrom(declared)
        later.name, later.number = LATER + name, int(schema.options["block"]) * _BLOCK + declared.number
        self._tables.fields.setdefault(message.name, {})[later.name] = _known(message.name, name, found)

    def _resolved(self, declared: FieldDescriptorProto, owner: str, schema: Schema) -> FieldDescriptorProto:
        """Returns a field with the full name of its type, which is looked up from the inside outwards."""
        if declared.HasField("type"):
            return declared
        result = FieldDescriptorProto()
        result.CopyFrom(declared)
        written = declared.type_name.removeprefix(f".{self._result.package}.").removeprefix(f"{self._result.package}.")
        scope = owner.split(".")
        for depth in range(len(scope), -1, -1):
            name = ".".join([*scope[:depth], written])
            if name in self._messages or name in self._enums:
                result.type = _MESSAGE if name in self._messages else _ENUM
                result.type_name = f".{self._result.package}.{name}"
                return result
        raise PrototxtError(
            f'there is no type "{declared.type_name}"',
            code="schema.type",
            position=schema.places[f"{owner}.{declared.name}"],
            hint=nearest(written, [*self._messages, *self._enums]),
        )

    @staticmethod
    def _map(
        table: dict[str, dict[str, dict[int, int]]], owner: str, merged: int, by_number: dict[int, list[Schema]]
    ) -> None:
        for number, schemas in by_number.items():
            for schema in schemas if number != merged else ():
                table.setdefault(schema.name, {}).setdefault(owner, {})[number] = merged


def _grouped(pairs: Sequence[tuple[int, Schema]]) -> dict[int, list[Schema]]:
    result: dict[int, list[Schema]] = {}
    for number, schema in pairs:
        result.setdefault(number, []).append(schema)
    return result


def _numbers(own: dict[str, int], declared: dict[str, dict[int, list[Schema]]]) -> dict[str, int]:
    """Returns the number of each declared name in the merged schema."""
    users: dict[int, set[str]] = defaultdict(set)
    for name, number in own.items():
        users[number].add(name)
    for name, by_number in declared.items():
        for number in by_number:
            users[number].add(name)
    result = {}
    for name, by_number in declared.items():
        number, schemas = next(iter(by_number.items()))
        if name in own:
            result[name] = own[name]
        elif len(by_number) == 1 and len(users[number]) == 1:
            result[name] = number
        else:
            result[name] = int(schemas[0].options["block"]) * _BLOCK + number
    return result


def _known(message: str, name: str, found: Sequence[tuple[Schema, FieldDescriptorProto]]) -> Known:
    """Returns what the schemas say about a field: an explicit default leaves results as they are without the field."""
    neutral = None
    for schema, declared in found:
        notes = schema.notes.get((message, name), {})
        neutral = notes.get("neutral", neutral)
        if neutral is None and declared.HasField("default_value"):
            neutral = declared.default_value
    is_hint = any(schema.notes.get((message, name), {}).get("hint") == "true" for schema, _ in found)
    changes = any(schema.notes.get((message, name), {}).get("changes") == "true" for schema, _ in found)
    return Known(tuple(schema.name for schema, _ in found), is_hint, None if changes else neutral)


def _check(own: FieldDescriptorProto, message: str, found: Sequence[tuple[Schema, FieldDescriptorProto]]) -> None:
    for schema, declared in found:
        if (own.type, own.type_name) == (declared.type, declared.type_name):
            continue
        if any({own.type, declared.type} <= alike for alike in _ALIKE):
            continue
        raise PrototxtError(
            f'the field "{declared.name}" of {message} has another type elsewhere',
            code="schema.conflict",
            position=schema.places[f"{message}.{declared.name}"],
            expected=_type_of(own),
            found=_type_of(declared),
        )


def _type_of(declared: FieldDescriptorProto) -> str:
    kind = FieldDescriptorProto.Type.Name(declared.type).removeprefix("TYPE_").lower()
    return str(declared.type_name.rpartition(".")[2] or kind)


def _messages(file: FileDescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
    """Yields every message with its name within the package."""
    open_messages = [(message.name, message) for message in file.message_type]
    for name, message in open_messages:
        yield name, message
        open_messages += [(f"{name}.{nested.name}", nested) for nested in message.nested_type]


def _enums(file: FileDescriptorProto) -> Iterator[tuple[str, EnumDescriptorProto]]:
    """Yields every enum with its name within the package."""
    yield from ((enum.name, enum) for enum in file.enum_type)
    for name, message in _messages(file):
        yield from ((f"{name}.{enum.name}", enum) for enum in message.enum_type)
