#!/usr/bin/env python3
"""Compile pyscratchdet/proto/caffe.proto into the committed module caffe_pb2.py and its stub (`make proto`).

The module keeps the schema in a descriptor pool of its own, so that another `caffe_pb2` in the same process never
clashes, and uses public protobuf API only, so that it is not tied to one protoc release.
"""

from __future__ import annotations

import importlib.resources
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

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


DESCRIPTOR = descriptor_pool.DescriptorPool().AddSerializedFile(
    b"".join([_FILE, *(_piece({message_number}, b"".join(lines)) for lines in _MESSAGES), *_ENUMS])
)

for _name, _descriptor in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = message_factory.GetMessageClass(_descriptor)
for _name, _descriptor in DESCRIPTOR.enum_types_by_name.items():
    globals()[_name] = enum_type_wrapper.EnumTypeWrapper(_descriptor)
    for _value in _descriptor.values:
        globals()[_value.name] = _value.number
'''

STUB_HEAD = '''"""Types of caffe_pb2, generated from caffe.proto by scripts/compile_proto.py; do not edit."""

# ruff: noqa
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor
'''

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


def compile_schema(proto: Path) -> descriptor_pb2.FileDescriptorProto:
    """Returns the schema in `proto`."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "caffe.desc"
        include = importlib.resources.files("grpc_tools") / "_proto"
        command = ["protoc", f"-I{proto.parent}", f"-I{include}", f"--descriptor_set_out={output}", proto.name]
        if protoc.main(command):
            raise SystemExit(f"{proto}: protoc failed")
        file = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes()).file[0]
    file.name = "pyscratchdet/proto/caffe.proto"
    for message in file.message_type:
        for field in message.field:
            field.ClearField("json_name")  # protobuf derives it from the name
    return file


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
    lines = [STUB_HEAD.rstrip()]
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
        kind = field.type_name.rpartition(".")[2] if field.type == Field.TYPE_MESSAGE else SCALARS[field.type]
        if field.label != Field.LABEL_REPEATED and field.type != Field.TYPE_MESSAGE:
            lines.append(f"    {field.name}: {kind}")
            continue
        if field.label == Field.LABEL_REPEATED:
            holder = "Composite" if field.type == Field.TYPE_MESSAGE else "Scalar"
            kind = f"Repeated{holder}FieldContainer[{kind}]"
        lines += ["    @property", f"    def {field.name}(self) -> {kind}: ..."]
    return [*lines, "    def __init__(self, **fields: Any) -> None: ..."]


if __name__ == "__main__":
    schema = compile_schema(PROTO)
    PROTO.with_name("caffe_pb2.py").write_text(module_text(schema))
    PROTO.with_name("caffe_pb2.pyi").write_text(stub_text(schema))
