#!/usr/bin/env python3
"""Compile pyscratchdet/proto/caffe.proto and dialects/ into committed modules (`make proto`).

caffe_pb2.py and its stub hold the merged schema, dialect_table.py what the dialects say beyond it. The
schema is in a descriptor pool of its own, so that another `caffe_pb2` in the same process never clashes.
The module uses public protobuf API only, so that it is not tied to one release.
"""

from __future__ import annotations

import keyword
from dataclasses import fields
from pathlib import Path

from google.protobuf import descriptor_pb2

from pyscratchdet.proto.forks import Dialects
from pyscratchdet.proto.schema import Schema, merge, read_schema

NAME = "pyscratchdet/proto/caffe.proto"
PROTO = Path(__file__).resolve().parents[1] / "pyscratchdet" / "proto" / "caffe.proto"

TEMPLATE = '''"""Caffe's messages, generated from caffe.proto by scripts/compile_proto.py; do not edit."""

# ruff: noqa
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

from pyscratchdet.proto.wire import header

# A serialized FileDescriptorProto, one field or enum per line; the lengths of messages are computed below.
_FILE = {file!r}
_ENUMS = [
{enums}
]
_MESSAGES = [
{messages}
]


def _piece(number: int, content: bytes) -> bytes:
    return header(number, len(content)) + content


def load(file: bytes) -> None:
    """Makes this module's classes anew, those of a serialized FileDescriptorProto, in a pool of their own."""
    global DESCRIPTOR
    DESCRIPTOR = descriptor_pool.DescriptorPool().AddSerializedFile(file)
    for name, descriptor in DESCRIPTOR.message_types_by_name.items():
        globals()[name] = message_factory.GetMessageClass(descriptor)
    for name, descriptor in DESCRIPTOR.enum_types_by_name.items():
        globals()[name] = enum_type_wrapper.EnumTypeWrapper(descriptor)
        for value in descriptor.values:
            globals()[value.name] = value.number


load(b"".join([_FILE, *(_piece({message_number}, b"".join(lines)) for lines in _MESSAGES), *_ENUMS]))
'''

STUB_HEAD = '''"""Types of caffe_pb2, generated from caffe.proto by scripts/compile_proto.py; do not edit."""

# ruff: noqa
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

def load(file: bytes) -> None: ...
'''

TABLE_HEAD = "# ruff: noqa"
TABLE_TYPES = {
    "origins": "dict[str, str]",
    "fields": "dict[str, dict[str, tuple[tuple[str, ...], bool, str | None]]]",
    "values": "dict[str, dict[str, tuple[str, ...]]]",
    "types": "dict[str, tuple[str, ...]]",
    "numbers": "dict[str, dict[str, dict[int, int]]]",
    "enum_numbers": "dict[str, dict[str, dict[int, int]]]",
}

Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    Field.TYPE_BOOL: "bool",
    Field.TYPE_BYTES: "bytes",
    Field.TYPE_DOUBLE: "float",
    Field.TYPE_ENUM: "int",
    Field.TYPE_FLOAT: "float",
    Field.TYPE_INT32: "int",
    Field.TYPE_INT64: "int",
    Field.TYPE_STRING: "str",
    Field.TYPE_UINT32: "int",
}


def compile_schema(proto: Path) -> tuple[descriptor_pb2.FileDescriptorProto, Dialects]:
    """Returns the schema in `proto` merged with those of the folder `dialects` beside it, by their blocks."""
    base, _ = merge(descriptor_pb2.FileDescriptorProto(name=NAME, package="caffe"), [read_schema(proto)])
    return merge(base, sorted(map(read_schema, proto.parent.glob("dialects/*.proto")), key=_block))


def _block(schema: Schema) -> int:
    return int(schema.options["block"])


def module_text(file: descriptor_pb2.FileDescriptorProto) -> str:
    """Returns the text of caffe_pb2.py for a schema, in lines that change only with their own field or enum."""
    kind = descriptor_pb2.FileDescriptorProto
    return TEMPLATE.format(
        file=kind(name=file.name, package=file.package).SerializeToString(),
        enums="\n".join(f"    {kind(enum_type=[enum]).SerializeToString()}," for enum in file.enum_type),
        messages="\n".join(line for message in file.message_type for line in _message_lines(message)),
        message_number=kind.MESSAGE_TYPE_FIELD_NUMBER,
    )


def _message_lines(message: descriptor_pb2.DescriptorProto) -> list[str]:
    """Returns the pieces of a message's descriptor: its name, then each field and enum."""
    kind = descriptor_pb2.DescriptorProto
    pieces = [
        kind(name=message.name),
        *(kind(field=[field]) for field in message.field),
        *(kind(enum_type=[enum]) for enum in message.enum_type),
    ]
    return ["    [", *(f"        {piece.SerializeToString()}," for piece in pieces), "    ],"]


def stub_text(file: descriptor_pb2.FileDescriptorProto) -> str:
    """Returns the text of caffe_pb2.pyi for a schema: one class per message, with its fields as attributes."""
    lines = [STUB_HEAD]
    for enum in file.enum_type:
        lines += [f"{enum.name}: EnumTypeWrapper", *(f"{value.name}: int" for value in enum.value)]
    for message in file.message_type:
        lines += ["", *_message_stub(message)]
    return "\n".join(lines) + "\n"


def _message_stub(message: descriptor_pb2.DescriptorProto) -> list[str]:
    lines = [f"class {message.name}(Message):"]
    for enum in message.enum_type:
        lines += [f"    {enum.name}: EnumTypeWrapper", *(f"    {value.name}: int" for value in enum.value)]
    for field in message.field:
        if keyword.iskeyword(field.name):  # reached by getattr alone
            continue
        kind = field.type_name.rpartition(".")[2] if field.type == Field.TYPE_MESSAGE else SCALARS[field.type]
        if field.label != Field.LABEL_REPEATED and field.type != Field.TYPE_MESSAGE:
            lines.append(f"    {field.name}: {kind}")
            continue
        if field.label == Field.LABEL_REPEATED:
            holder = "Composite" if field.type == Field.TYPE_MESSAGE else "Scalar"
            kind = f"Repeated{holder}FieldContainer[{kind}]"
        lines += ["    @property", f"    def {field.name}(self) -> {kind}: ..."]
    return [*lines, "    def __init__(self, **fields: Any) -> None: ..."]


def table_text(dialects: Dialects) -> str:
    """Returns the text of dialect_table.py, with one line a field."""
    lines = [
        '"""What the dialects say, generated from dialects/ by scripts/compile_proto.py; do not edit."""',
        "",
        TABLE_HEAD,
    ]
    for one in fields(Dialects)[:-1]:  # all but the paths, which only schemas of a user have
        lines += [
            "",
            f"{one.name.upper()}: {TABLE_TYPES[one.name]} = {{",
            *_entries(getattr(dialects, one.name), 1),
            "}",
        ]
    return "\n".join(lines) + "\n"


def _entries(table: dict, depth: int) -> list[str]:
    """Returns the lines of a table's entries, nested tables included."""
    indent, lines = "    " * depth, []
    for key, value in table.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key!r}: {{", *_entries(value, depth + 1), f"{indent}}},"]
        else:
            lines.append(f"{indent}{key!r}: {tuple(value) if isinstance(value, tuple) else value!r},")
    return lines


if __name__ == "__main__":
    schema, known = compile_schema(PROTO)
    PROTO.with_name("caffe_pb2.py").write_text(module_text(schema))
    PROTO.with_name("caffe_pb2.pyi").write_text(stub_text(schema))
    PROTO.with_name("dialect_table.py").write_text(table_text(known))
