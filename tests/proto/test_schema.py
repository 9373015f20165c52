"""The schema is the original's, field by field, but for an explicit list of additions."""

import hashlib

from google.protobuf.descriptor import FieldDescriptor

from pyscratchdet.proto import caffe_pb2

# Fields of LayerParameter that later Caffes and other forks have; each with its message.
ADDED = {
    "swish_param": ("SwishParameter", 147),
    "interp_param": ("InterpParameter", 149),
    "upsample_param": ("UpsampleParameter", 150),
    "shuffle_channel_param": ("ShuffleChannelParameter", 164),
}
# SHA-256 of the lines `message field number type repeated|single` of RefineDet's caffe.proto, sorted.
NUM_FIELDS, DIGEST = 585, "5d1b96fdf97beaeab419a50b266ec60e90213e5d4210ba67c70a59aa5266f87b"


def fields():
    """Yields (message, descriptor) for every field of the schema, nested messages included."""
    messages = list(caffe_pb2.DESCRIPTOR.message_types_by_name.values())
    for message in messages:
        messages.extend(message.nested_types)
        for field in message.fields:
            yield message.full_name, field


def kind(field):
    """Returns a field's type as a proto file writes it, messages and enums by their full names."""
    named = field.message_type or field.enum_type
    names = {value: name for name, value in vars(FieldDescriptor).items() if name.startswith("TYPE_")}
    return named.full_name if named else names[field.type].removeprefix("TYPE_").lower()


def test_additions():
    layer = caffe_pb2.DESCRIPTOR.message_types_by_name["LayerParameter"]
    found = {name: (layer.fields_by_name[name].message_type.name, layer.fields_by_name[name].number) for name in ADDED}
    assert found == ADDED


def test_the_rest_is_the_original():
    own = {f"caffe.{message}" for message, _ in ADDED.values()}
    lines = sorted(
        f"{message} {field.name} {field.number} {kind(field)} {'repeated' if field.is_repeated else 'single'}"
        for message, field in fields()
        if message not in own and field.name not in ADDED
    )
    assert len(lines) == NUM_FIELDS
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == DIGEST
