"""The wire format's fields are found where protobuf has them, and malformed bytes end in one error with a position."""

import random

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from pyscratchdet.proto import caffe_pb2, weights
from pyscratchdet.proto.wire import BYTES, FIXED32, START_GROUP, VARINT, WireError, header, read_fields, varint


def fields(data):
    return list(read_fields(memoryview(data), 0, len(data)))


def test_fields_of_every_kind_by_hand():
    group = b"\x1b" + b"\x08\x05" + b"\x1c"  # field 3: a group around field 1
    data = b"\x08\x96\x01" + header(2, 3) + b"abc" + group + b"\x25\x00\x00\x80\x3f" + b"\x29" + bytes(8)
    found = fields(data)
    assert [(field.number, field.kind) for field in found] == [
        (1, VARINT), (2, BYTES), (3, START_GROUP), (4, FIXED32), (5, 1)
    ]  # fmt: skip
    assert [data[field.payload : field.end] for field in found[:2]] == [b"\x96\x01", b"abc"]
    assert [(field.start, field.end) for field in found] == [(0, 3), (3, 8), (8, 12), (12, 17), (17, 26)]


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31 - 1])
def test_varint_is_what_protobuf_writes(number):
    message = caffe_pb2.SolverState(iter=number).SerializeToString()
    assert message == b"\x08" + varint(number)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x08", "byte 1: a number without an end"),
        (b"\x08" + b"\xff" * 12, "byte 1: a number without an end"),
        (b"\x12\x05abc", "byte 1: a field of 5 bytes with only 3 left"),
        (b"\x12" + varint(2**63) + b"abc", "byte 1: a field of 9223372036854775808 bytes with only 3 left"),
        (b"\x08\x01\x25\x00", "byte 3: a field of 4 bytes with only 1 left"),
        (b"\x00\x01", "byte 0: no field has number 0"),
        (b"\x0f", "byte 0: no field has number 1 and wire type 7"),
        (b"\x1c", "byte 0: the end of a group that did not begin"),
        (b"\x1b\x08\x01", "byte 3: a number without an end"),
        (b"\x1b\x24", "byte 1: the end of another group"),
        (b"\x1b" * 200, "groups are nested too deeply"),
    ],
)
def test_malformed_bytes_say_where(data, says):
    with pytest.raises(WireError, match=says):
        fields(data)


def test_random_bytes_are_read_as_protobuf_reads_them():
    """What protobuf takes is walked to its end; the other way round protobuf also looks into messages."""
    rng = random.Random(5)
    taken = 0
    for _ in range(3000):
        data = bytes(rng.choice([8, 18, 26, 3, 4, 27, 28, 1, rng.randrange(256)]) for _ in range(rng.randrange(1, 12)))
        try:
            caffe_pb2.BlobShape.FromString(data)
        except DecodeError:
            continue
        taken += 1
        assert fields(data)[-1].end == len(data)
    assert taken > 100


def net_of_all_orders():
    """Fields before and behind the blobs, in the net and in layers; unknown ones last."""
    net = caffe_pb2.NetParameter(name="net", force_backward=True)
    layer = net.layer.add(name="conv", type="Convolution", bottom=["a"], top=["b"], phase=caffe_pb2.TEST)
    layer.convolution_param.kernel_size.append(3)
    layer.param.add(lr_mult=0.5)
    net.layer.add(name="relu", type="ReLU")
    net.layer.add(name="fc", type="InnerProduct", propagate_down=[True])
    net.layer[2].MergeFromString(b"\xaa\x7d\x05hello")
    net.MergeFromString(b"\xb8\x7d\x2a")
    return net


def test_written_bytes_are_those_of_protobuf(tmp_path):
    rng = np.random.default_rng(2)
    shapes = {"conv": [(2, 3, 4, 5), (2,)], "fc": [(7, 300), (), (0, 3)]}
    blobs = {name: [rng.normal(size=shape).astype("f4") for shape in arrays] for name, arrays in shapes.items()}
    net = net_of_all_orders()
    weights.write_caffemodel(tmp_path / "net.caffemodel", net, blobs)
    for layer in net.layer:
        for array in blobs.get(layer.name, ()):
            blob = layer.blobs.add(data=array.ravel().tolist())
            blob.shape.dim.extend(array.shape)
    assert (tmp_path / "net.caffemodel").read_bytes() == net.SerializeToString()
