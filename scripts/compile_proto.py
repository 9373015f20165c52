#!/usr/bin/env python3
"""Compile pyscratchdet/proto/caffe.proto into the committed module caffe_pb2.py (`make proto`).

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

DESCRIPTOR = descriptor_pool.DescriptorPool().AddSerializedFile(
    {serialized}
)

for _name, _descriptor in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = message_factory.GetMessageClass(_descriptor)
for _name, _descriptor in DESCRIPTOR.enum_types_by_name.items():
    globals()[_name] = enum_type_wrapper.EnumTypeWrapper(_descriptor)
    for _value in _descriptor.values:
        globals()[_value.name] = _value.number
'''


def compile_schema(proto: Path) -> str:
    """Returns the text of caffe_pb2.py for the schema in `proto`."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "caffe.desc"
        include = importlib.resources.files("grpc_tools") / "_proto"
        command = ["protoc", f"-I{proto.parent}", f"-I{include}", f"--descriptor_set_out={output}", proto.name]
        if protoc.main(command):
            raise SystemExit(f"{proto}: protoc failed")
        file = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes()).file[0]
    file.name = "pyscratchdet/proto/caffe.proto"
    data = file.SerializeToString(deterministic=True)
    lines = [repr(data[i : i + 80]) for i in range(0, len(data), 80)]
    return TEMPLATE.format(serialized="\n    ".join(lines))


if __name__ == "__main__":
    PROTO.with_name("caffe_pb2.py").write_text(compile_schema(PROTO))
