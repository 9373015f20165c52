"""Weights files: round trips byte for byte, and damaged files."""

import random
import re
import struct
import tracemalloc
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from pyscratchdet import files
from pyscratchdet.errors import FileError, PyScratchDetError, WeightsError
from pyscratchdet.proto import caffe_pb2, hdf5, weights


def make_net():
    net = caffe_pb2.NetParameter(name="net")
    layer = net.layer.add(name="conv", type="Convolution")
    layer.blobs.append(weights.array_to_blob(np.arange(24, dtype=np.float32).reshape(2, 3, 4)))
    blob = net.layer.add(name="old", type="InnerProduct").blobs.add(num=1, channels=1, height=5, width=7)
    blob.data.extend(range(35))
    net.layer.add(name="double").blobs.add(double_data=[1.5, 2.5]).shape.dim.append(2)
    return net


def test_arrays_and_bytes_survive(tmp_path):
    data = make_net().SerializeToString()
    skeleton, found = weights.take_apart(data)
    arrays = [array for layer in found.layers for array in layer.arrays]
    assert [array.shape for array in arrays] == [(2, 3, 4), (1, 1, 5, 7), (2,)]
    np.testing.assert_array_equal(arrays[0].ravel(), np.arange(24))
    np.testing.assert_array_equal(arrays[2], [1.5, 2.5])
    assert weights.join_pieces(weights.put_together(skeleton, arrays)) == data


@pytest.mark.parametrize(("name", "dtype"), [("DOUBLE", "<f8"), ("FLOAT", "<f4"), ("FLOAT16", "<f2")])
def test_raw_values_of_nvidias_caffe_are_read(name, dtype):
    values = np.array([[1.5, -2], [0.25, 3], [7, 0.125]])
    kind = caffe_pb2.Type.Value(name)
    net = caffe_pb2.NetParameter(name="net")
    blob = net.layer.add(name="a").blobs.add(raw_data_type=kind, raw_data=values.astype(dtype).tobytes())
    blob.raw_diff_type, blob.raw_diff = kind, bytes(6 * np.dtype(dtype).itemsize)
    blob.shape.dim.extend(values.shape)
    data = net.SerializeToString()
    skeleton, found = weights.take_apart(data)
    np.testing.assert_array_equal(found.blobs["a"][0], values)
    assert weights.join_pieces(weights.put_together(skeleton, found.blobs["a"])) == data


def test_raw_values_of_another_type_are_refused():
    blob = caffe_pb2.BlobProto(raw_data_type=caffe_pb2.INT, raw_data=b"1234")
    blob.shape.dim.append(1)
    with pytest.raises(WeightsError, match="raw_data_type is not a type of weights, expected DOUBLE"):
        weights.blob_to_array(blob)


def varint(value):
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])


def chunk(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def file_with_blob(blob, more=b""):
    """A caffemodel with one layer "a" whose blob is these bytes, written without protobuf."""
    return chunk(100, chunk(1, b"a") + chunk(2, b"InnerProduct") + chunk(7, blob) + more)


VALUES = [1.5, -2.0, 3.25, 0.0, 5.0, -6.5]
FLOATS = struct.pack("<6f", *VALUES)
SHAPE = chunk(7, chunk(1, bytes([2, 3])))
LEGACY = b"".join(varint(number << 3) + varint(size) for number, size in zip((1, 2, 3, 4), (1, 1, 2, 3), strict=True))
WIRE_FORMS = {
    "packed": SHAPE + chunk(5, FLOATS),
    "shape behind the values": chunk(5, FLOATS) + SHAPE,
    "one by one": SHAPE + b"".join(varint(5 << 3 | 5) + struct.pack("<f", value) for value in VALUES),
    "two pieces": SHAPE + chunk(5, FLOATS[:8]) + chunk(5, FLOATS[8:]),
    "one by one and packed": SHAPE + varint(5 << 3 | 5) + FLOATS[:4] + chunk(5, FLOATS[4:]),
    "dimensions one by one": chunk(7, varint(1 << 3) + b"\2" + varint(1 << 3) + b"\3") + chunk(5, FLOATS),
    "doubles": SHAPE + chunk(8, struct.pack("<6d", *VALUES)),
    "doubles one by one": SHAPE + b"".join(varint(8 << 3 | 1) + struct.pack("<d", value) for value in VALUES),
    "diffs beside": SHAPE + chunk(6, FLOATS[::-1]) + chunk(5, FLOATS),
    "unknown field": SHAPE + chunk(5, FLOATS) + chunk(77, b"vendor"),
    "values of another wire type": SHAPE + varint(5 << 3) + b"\1" + chunk(5, FLOATS) + varint(8 << 3 | 5) + b"four",
    "two pieces and another wire type": SHAPE + chunk(5, FLOATS[:8]) + varint(5 << 3) + b"\1" + chunk(5, FLOATS[8:]),
    "shape in two pieces": chunk(7, chunk(1, b"\2")) + chunk(5, FLOATS) + chunk(7, chunk(1, b"\3")),
}


@pytest.mark.parametrize("form", WIRE_FORMS)
def test_every_wire_form_is_read(form, tmp_path):
    data = file_with_blob(WIRE_FORMS[form])
    path = tmp_path / "net.caffemodel"
    path.write_bytes(data)
    (array,) = weights.read_weights(path).blobs["a"]
    assert array.dtype == np.float32
    assert array.tolist() == [VALUES[:3], VALUES[3:]]
    skeleton, found = weights.take_apart(data)
    back = weights.join_pieces(weights.put_together(skeleton, found.layers[0].arrays))
    assert weights.take_apart(back)[1].layers[0].arrays[0].tolist() == array.tolist()
    if "one by one" not in form.replace("dimensions one by one", "") and not form.startswith("two pieces"):
        assert back == data


@pytest.mark.parametrize("form", ["packed", "shape behind the values", "diffs beside", "unknown field"])
def test_arrays_are_views_on_the_file(form):
    data = file_with_blob(WIRE_FORMS[form])
    (array,) = weights.take_apart(data)[1].layers[0].arrays
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert not array.flags.writeable


def test_reading_and_writing_keep_one_copy_of_the_weights(tmp_path):
    """Python's own allocations, which numpy's are among: a map of the file is none."""
    net = caffe_pb2.NetParameter(layer=[{"name": "fc", "type": "InnerProduct"}])
    array = np.arange(2_000_000, dtype=np.float32).reshape(1000, 2000)
    path, back = tmp_path / "net.caffemodel", tmp_path / "back.caffemodel"
    tracemalloc.start()
    weights.write_caffemodel(path, net, {"fc": [array]})
    (found,) = weights.read_weights(path).blobs["fc"]
    skeleton, _ = weights.take_apart(files.map_bytes(path))
    files.write_pieces(back, weights.put_together(skeleton, [found]))
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert back.read_bytes() == path.read_bytes()
    np.testing.assert_array_equal(found, array)
    assert largest < 1e6  # of 8 MB of weights


def test_released_arrays_stay_as_they_are(tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(file_with_blob(WIRE_FORMS["packed"]))
    (array,) = weights.read_weights(path).blobs["a"]
    weights.release(array)
    weights.release(array.copy())  # nobody's pages
    assert array.tolist() == [VALUES[:3], VALUES[3:]]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_copied_arrays_leave_no_pages_behind(tmp_path):
    def resident():
        return int(re.search(r"RssFile:\s*(\d+)", Path("/proc/self/status").read_text())[1])

    net = caffe_pb2.NetParameter(layer=[{"name": "fc", "type": "InnerProduct"}])
    path = tmp_path / "net.caffemodel"
    weights.write_caffemodel(path, net, {"fc": [np.ones((4000, 2000), np.float32)]})  # 32 MB
    (array,) = weights.read_weights(path).blobs["fc"]
    before = resident()
    assert array.sum() == 8e6
    assert resident() - before > 25_000
    weights.release(array)
    assert resident() - before < 5_000


def test_replacing_a_mapped_file_leaves_its_arrays_alone(tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(file_with_blob(WIRE_FORMS["packed"]))
    (array,) = weights.read_weights(path).blobs["a"]
    files.write_bytes(path, b"")
    assert array.tolist() == [VALUES[:3], VALUES[3:]]


def test_empty_doubles_leave_the_floats(tmp_path):
    (layer,) = weights.take_apart(file_with_blob(SHAPE + chunk(8, b"") + chunk(5, FLOATS)))[1].layers
    assert layer.arrays[0].tolist() == [VALUES[:3], VALUES[3:]]


def test_blobs_inside_a_v0_layer_are_found():
    layer = chunk(1, b"a") + chunk(2, b"conv") + chunk(50, WIRE_FORMS["packed"])
    data = chunk(2, chunk(1, layer))
    skeleton, found = weights.take_apart(data)
    assert [(layer.name, len(layer.arrays)) for layer in found.layers] == [("a", 1)]
    assert weights.join_pieces(weights.put_together(skeleton, found.layers[0].arrays)) == data


def test_legacy_shape_counts_where_both_are_given():
    (layer,) = weights.take_apart(file_with_blob(LEGACY + SHAPE + chunk(5, FLOATS)))[1].layers
    assert layer.arrays[0].shape == (1, 1, 2, 3)


def test_mean_file_of_either_form(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    weights.write_blob(tmp_path / "mean.binaryproto", array)
    np.testing.assert_array_equal(weights.read_blob(tmp_path / "mean.binaryproto"), array)
    (tmp_path / "old.binaryproto").write_bytes(LEGACY + WIRE_FORMS["one by one"].removeprefix(SHAPE))
    assert weights.read_blob(tmp_path / "old.binaryproto").tolist() == [[[VALUES[:3], VALUES[3:]]]]


def dims(*sizes):
    return chunk(7, chunk(1, b"".join(varint(size % 2**64) for size in sizes)))


@pytest.mark.parametrize(
    "blob",
    [
        dims(-2, -3) + chunk(5, FLOATS),
        dims(2**62, 4) + chunk(5, FLOATS),  # 2**64 values are 0 in a 64-bit product
        dims(2**40) + chunk(5, FLOATS),
        dims(0, 2**62),
        dims(*[1] * 40, 6) + chunk(5, FLOATS),
        dims(7) + chunk(5, FLOATS),
        dims(6) + chunk(5, FLOATS[:-1]),
        dims(6),
        varint(1 << 3) + varint(2**64 - 2) + chunk(5, FLOATS),
        SHAPE + varint(5 << 3 | 2) + varint(2**31 - 1) + FLOATS,
    ],
)
def test_impossible_counts_are_refused_at_once(blob, tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(file_with_blob(blob))
    with pytest.raises(WeightsError, match=r"net\.caffemodel"):
        weights.read_weights(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the file has no layers"),
        (b"name: 'net'\nlayer { }", "this is text"),
        (b"\x89HDF\r\n\x1a\n and no more", "damaged HDF5 file"),
        (b"PK\x03\x04" + bytes(range(256)), "not a NetParameter, or truncated"),
        (make_net().SerializeToString()[:-3], r"truncated \(byte 313: a field of 33 bytes with only 30 left\)"),
    ],
)
def test_foreign_files_say_what_they_are(data, says, tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=says):
        weights.read_weights(path)


def test_last_layer_of_a_name_wins_and_all_are_listed(tmp_path):
    net = caffe_pb2.NetParameter()
    for value in (1.0, 2.0):
        net.layer.add(name="a").blobs.append(weights.array_to_blob(np.full((1, 2), value, np.float32)))
    net.layer.add(name="a")
    path = tmp_path / "net.caffemodel"
    weights.write_message(path, net)
    found = weights.read_weights(path)
    assert [len(layer.arrays) for layer in found.layers] == [1, 1, 0]
    assert found.blobs["a"][0].tolist() == [[2, 2]]


def test_text_names_and_arrays_survive_hdf5(tmp_path):
    path = tmp_path / "net.caffemodel.h5"
    net = caffe_pb2.NetParameter()
    for name, param in (("stage1/conv.a", "w"), ("stage1", ""), ("stage2/conv.a", "w")):
        net.layer.add(name=name, param=[{"name": param}])
    first, second, bias = np.ones((2, 3), np.float32), np.zeros((4,), np.float32), np.full((5,), 7, np.float32)
    hdf5.write_hdf5(path, net, {"stage1/conv.a": [first, bias], "stage1": [second], "stage2/conv.a": [first, bias]})
    found = weights.read_weights(path).blobs
    assert {name: [None if a is None else a.tolist() for a in arrays] for name, arrays in found.items()} == {
        "stage1/conv.a": [first.tolist(), bias.tolist()],
        "stage1": [second.tolist()],
        "stage2/conv.a": [None, bias.tolist()],  # the owner has it
    }


def test_names_that_hdf5_cannot_have_are_refused(tmp_path):
    net = caffe_pb2.NetParameter(layer=[{"name": "a"}, {"name": "a/0"}])
    array = np.ones((2,), np.float32)
    with pytest.raises(WeightsError) as caught:
        hdf5.write_hdf5(tmp_path / "net.h5", net, {"a": [array], "a/0": [array]})
    assert (caught.value.code, caught.value.layer) == ("weights.hdf5-name", "a/0")
    assert not list(tmp_path.iterdir())


def no_data(file):
    file.create_group("weights")


def data_is_no_group(file):
    file["data"] = [1.0]


def whole_numbers(file):
    file["data/a/0"] = [1, 2]


def values_left_out(file):
    file.create_dataset("data/a/0", (2**40,), "f4", chunks=(1024,))


def index_out_of_reach(file):
    file["data/a/999999999"] = [1.0]


def groups_in_a_circle(file):
    group = file.create_group("data/a")
    group["again"] = group


def groups_linked_twice_a_level(file):
    group = file.create_group("data")
    for _ in range(20):
        group["b"] = group.create_group("a")
        group = group["a"]
    group["0"] = [1.0]


def group_in_another_file(file):
    file["data"] = h5py.ExternalLink("other.h5", "/data")


def blob_behind_a_soft_link(file):
    file["kept"] = [1.0]
    file["data/a/0"] = h5py.SoftLink("/kept")


def values_in_another_file(file):
    file.create_dataset("data/a/0", (2,), "f4", external=[("secret", 0, 8)])


def values_by_another_dataset(file):
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "kept", (2,))
    file.create_virtual_dataset("data/a/0", layout)


def filter_by_a_plugin(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((2,))
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple((2,))
    h5py.h5d.create(file.create_group("data/a").id, b"0", h5py.h5t.NATIVE_FLOAT, space, properties)


def text_for_values(file):
    file["data/a/0"] = [b"one"]


FOREIGN = {
    no_data: "the file has no layers",
    data_is_no_group: "the file has no layers",
    whole_numbers: "not the values of a blob",
    values_left_out: "is not completely in the file",
    index_out_of_reach: "no layer has so many blobs",
    groups_in_a_circle: "a group that is linked twice",
    groups_linked_twice_a_level: "a group that is linked twice",
    group_in_another_file: "a link to another place, which is not followed, found //data -> other.h5:/data",
    blob_behind_a_soft_link: "a link to another place, which is not followed, found /data/a/0 -> :/kept",
    values_in_another_file: "lies in another file",
    values_by_another_dataset: "lies in another file",
    filter_by_a_plugin: "a filter that is not HDF5's own, found 32015",
    text_for_values: "not the values of a blob",
}


@pytest.mark.parametrize(("make", "says"), FOREIGN.items())
def test_foreign_hdf5_is_refused(make, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(8))
    with h5py.File("other.h5", "w") as file:
        file["data/a/0"] = file["kept"] = np.ones(2, np.float32)
    with h5py.File("net.h5", "w") as file:
        make(file)
    with pytest.raises(WeightsError, match=r"net\.h5") as caught:
        weights.read_weights("net.h5")
    assert says in str(caught.value)


def test_hdf5_that_would_become_gigabytes_is_refused(tmp_path):
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        for index in range(3):
            blob = file.create_dataset(f"data/a/{index}", (2**26,), "f4", compression="gzip", chunks=(2**26,))
            blob.id.write_direct_chunk((0,), zlib.compress(bytes(2**20)))  # as if it held all of it
    with pytest.raises(FileError, match=r"bytes that would become 768 MiB, expected at most 256 MiB") as caught:
        weights.read_weights(path)
    assert caught.value.code == "file.unpacked"


def test_chunks_compressed_or_not_are_read(tmp_path):
    path = tmp_path / "net.h5"
    values = np.arange(35, dtype=np.float32).reshape(5, 7)
    with h5py.File(path, "w") as file:
        file.create_dataset("data/a/0", data=values, chunks=(2, 4))
        file.create_dataset("data/a/1", data=values, chunks=(2, 4), compression="gzip", shuffle=True, fletcher32=True)
    assert all((array == values).all() for array in weights.read_weights(path).blobs["a"])


def test_hdf5_that_the_library_does_not_survive_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        file["data/a/0"] = np.ones(2, np.float32)
    monkeypatch.setattr(hdf5, "_TRIAL_SECONDS", 0.0001)
    with pytest.raises(WeightsError, match="crashes or never finishes") as caught:
        weights.read_weights(path)
    assert caught.value.code == "weights.damaged"


@pytest.mark.parametrize("rest", [b"", b"\1\2\3", struct.pack("<QQ3s", 5, 9, b"<x4"), b"\xff" * 40])
@pytest.mark.parametrize("mark", [b"", b"message", b"chunks"])
def test_damaged_skeleton_is_refused(mark, rest):
    skeleton = b"pyscratchdet skeleton: " + mark + b"\n" + rest
    with pytest.raises(WeightsError):
        weights.put_together(skeleton, [np.ones((2, 3), np.float32)])


def test_double_beyond_float32_is_refused():
    with pytest.raises(WeightsError, match="beyond float32"):
        weights.take_apart(file_with_blob(dims(2) + chunk(8, struct.pack("<2d", 1.0, 1e300))))


def test_name_that_is_no_text_is_refused():
    data = chunk(100, chunk(1, b"\xff\xfe") + chunk(7, dims(6) + chunk(5, FLOATS)))
    with pytest.raises(WeightsError):
        weights.take_apart(data)


def test_count_that_does_not_fit_names_the_layer():
    net = make_net()
    net.layer[0].blobs[0].shape.dim[0] = 9
    with pytest.raises(WeightsError, match="do not fit") as caught:
        weights.take_apart(net.SerializeToString(), "net.caffemodel")
    assert caught.value.layer == "conv"


def test_damaged_files_read_or_raise_a_typed_error():
    data = make_net().SerializeToString() + file_with_blob(WIRE_FORMS["one by one"])
    rng = random.Random(7)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
        for _ in range(rng.randrange(1, 4)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            weights.take_apart(bytes(damaged))
        except PyScratchDetError:
            refused += 1
    assert 100 < refused < 2000
