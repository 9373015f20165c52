"""The base of the schema is the original's, field by field, but for an explicit list of additions."""

import hashlib
import importlib.util
from pathlib import Path

from google.protobuf.descriptor import FieldDescriptor

from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.forks import DIALECTS

# What later Caffes and other forks have: (message, field) with its type and number.
ADDED = {
    ("caffe.LayerParameter", "clip_param"): ("caffe.ClipParameter", 148),
    ("caffe.LayerParameter", "roi_pooling_param"): ("caffe.ROIPoolingParameter", 8266711),
    ("caffe.LayerParameter", "smooth_l1_loss_param"): ("caffe.SmoothL1LossParameter", 8266712),
    ("caffe.PoolingParameter", "ceil_mode"): ("bool", 1013),
    ("caffe.PoolingParameter", "round_mode"): ("caffe.PoolingParameter.RoundMode", 13),
    ("caffe.LayerParameter", "swish_param"): ("caffe.SwishParameter", 147),
    ("caffe.LayerParameter", "interp_param"): ("caffe.InterpParameter", 149),
    ("caffe.LayerParameter", "upsample_param"): ("caffe.UpsampleParameter", 150),
    ("caffe.LayerParameter", "shuffle_channel_param"): ("caffe.ShuffleChannelParameter", 164),
    ("caffe.SolverParameter", "layer_wise_reduce"): ("bool", 45),
    ("caffe.SolverParameter", "weights"): ("string", 46),
}
# SHA-256 of the lines `message field number type repeated|single` of RefineDet's caffe.proto, sorted.
NUM_FIELDS, DIGEST = 585, "5d1b96fdf97beaeab419a50b266ec60e90213e5d4210ba67c70a59aa5266f87b"


def fields():
    """Yields (message, descriptor) for every field of the base, without those of the dialects."""
    for message in caffe_pb2.DESCRIPTOR.message_types_by_name.values():
        assert not message.nested_types
        for field in message.fields:
            if field.name not in DIALECTS.fields.get(message.name, ()):
                yield message.full_name, field


def kind(field):
    """Returns a field's type as a proto file writes it, messages and enums by their full names."""
    named = field.message_type or field.enum_type
    names = {value: name for name, value in vars(FieldDescriptor).items() if name.startswith("TYPE_")}
    return named.full_name if named else names[field.type].removeprefix("TYPE_").lower()


def test_additions():
    every = {(message, field.name): (kind(field), field.number) for message, field in fields()}
    assert {name: every[name] for name in ADDED} == ADDED


def test_the_rest_is_the_original():
    own = {type_ for type_, _ in ADDED.values()}
    lines = sorted(
        f"{message} {field.name} {field.number} {kind(field)} {'repeated' if field.is_repeated else 'single'}"
        for message, field in fields()
        if message not in own and (message, field.name) not in ADDED
    )
    assert len(lines) == NUM_FIELDS
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == DIGEST


def test_the_compiled_module_is_what_make_proto_writes():
    script = Path(__file__).parents[2] / "scripts" / "compile_proto.py"
    spec = importlib.util.spec_from_file_location("compile_proto", script)
    compiler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compiler)
    schema, dialects = compiler.compile_schema(compiler.PROTO)
    assert compiler.module_text(schema) == compiler.PROTO.with_name("caffe_pb2.py").read_text()
    assert compiler.stub_text(schema) == compiler.PROTO.with_name("caffe_pb2.pyi").read_text()
    assert compiler.table_text(dialects) == compiler.PROTO.with_name("dialect_table.py").read_text()
