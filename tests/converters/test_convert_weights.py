"""Weights through every form and back: the same bytes; and what is damaged is refused."""

import itertools
import json
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small_nets import write_net

from pyscratchdet.cli import main
from pyscratchdet.converters.fold import convert_folded
from pyscratchdet.converters.solver_state import state_from_torch
from pyscratchdet.converters.weights import convert_weights
from pyscratchdet.errors import ConversionError, FileError, WeightsError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.file_names import clear_file_names, file_names
from pyscratchdet.proto.weights import array_to_blob, read_weights

FORMS = ["safetensors", "pt", "onnx"]


def message(path):
    return caffe_pb2.NetParameter.FromString(path.read_bytes())


@pytest.fixture
def files(tmp_path):
    deploy, caffemodel = write_net(tmp_path)
    return tmp_path, deploy, caffemodel


def varied(tmp_path, kind):
    """Rewrites model.caffemodel into one of the kinds that are met in the wild."""
    path = tmp_path / "model.caffemodel"
    net = message(path)
    if kind == "foreign-layer":
        layer = net.layer.add(name="of/another.net", type="Convolution")
        layer.blobs.add().CopyFrom(array_to_blob(np.arange(24, dtype="f4").reshape(2, 3, 4, 1)))
        layer.blobs.add().CopyFrom(array_to_blob(np.zeros(2, "f4")))
    elif kind == "zero-scale-factor":
        next(layer for layer in net.layer if layer.name == "bn1").blobs[2].data[:] = [0]
    elif kind == "legacy-shapes":
        for layer in net.layer:
            for blob in layer.blobs:
                shape = [1] * (4 - len(blob.shape.dim)) + list(blob.shape.dim)
                blob.ClearField("shape")
                blob.num, blob.channels, blob.height, blob.width = shape
    elif kind == "double":
        blob = net.layer[1].blobs[0]
        blob.double_data.extend(blob.data)
        blob.ClearField("data")
    elif kind == "v1":
        v1 = caffe_pb2.NetParameter(name="old")
        for layer in net.layer:
            if layer.type in ("Convolution", "InnerProduct"):
                kind_v1 = caffe_pb2.V1LayerParameter.LayerType.Value(
                    {"Convolution": "CONVOLUTION", "InnerProduct": "INNER_PRODUCT"}[layer.type]
                )
                v1.layers.add(name=layer.name, type=kind_v1, blobs=layer.blobs, blobs_lr=[1, 2])
        net = v1
    data = net.SerializeToString()
    if kind == "vendor-field":  # a field number that Caffe does not know, in the net and in front
        data = b"\xaa\x7d\x05hello" + data + b"\xb8\x7d\x2a"
    path.write_bytes(data)
    return str(path)


KINDS = ["plain", "foreign-layer", "zero-scale-factor", "legacy-shapes", "double", "v1", "vendor-field"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_gives_the_same_bytes(files, kind, form):
    folder, deploy, _ = files
    source = varied(folder, kind)
    middle, back = folder / f"middle.{form}", folder / "back.caffemodel"
    convert_weights(source, middle, deploy)
    convert_weights(middle, back, deploy)
    assert back.read_bytes() == Path(source).read_bytes()


@pytest.mark.parametrize("path", list(itertools.permutations(["caffemodel", "safetensors", "onnx"], 2)))
@pytest.mark.parametrize("kind", ["plain", "foreign-layer"])
def test_six_directions_keep_every_value(files, kind, path):
    folder, deploy, _ = files
    source = varied(folder, kind)
    expected = read_weights(source).blobs
    first, second = folder / f"a.{path[0]}", folder / f"b.{path[1]}"
    convert_weights(source, first, deploy)
    convert_weights(first, second, deploy)
    found = convert_weights(second, folder / "c.safetensors", deploy).blobs
    assert list(found) == list(expected)
    for layer, arrays in expected.items():
        for mine, theirs in zip(found[layer], arrays, strict=True):
            assert mine.dtype == np.float32
            np.testing.assert_array_equal(mine.ravel(), theirs.ravel())


def test_hdf5_keeps_every_value(files):
    folder, deploy, caffemodel = files
    convert_weights(caffemodel, folder / "m.caffemodel.h5", deploy)
    convert_weights(folder / "m.caffemodel.h5", folder / "back.caffemodel", deploy)
    expected, found = read_weights(caffemodel), read_weights(folder / "back.caffemodel")
    assert {layer.name: layer.type for layer in found.layers if layer.arrays} == {
        layer.name: layer.type for layer in expected.layers if layer.arrays
    }
    for layer, arrays in expected.blobs.items():
        for mine, theirs in zip(found.blobs[layer], arrays, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_hdf5_takes_layers_that_the_net_lacks(files):
    """Such as a head that a deploy net left out."""
    folder, deploy, _ = files
    source = varied(folder, "foreign-layer")
    convert_weights(source, folder / "m.caffemodel.h5", deploy)
    assert read_weights(folder / "m.caffemodel.h5").blobs["of/another.net"][0].shape == (2, 3, 4, 1)
    convert_weights(folder / "m.caffemodel.h5", folder / "back.caffemodel", deploy)
    expected, found = read_weights(source).blobs, read_weights(folder / "back.caffemodel").blobs
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal(found["of/another.net"][0], expected["of/another.net"][0])


def trained(path):
    """Makes a caffemodel one that a training wrote: it names the databases and folders of that machine."""
    net = message(path)
    data = net.layer.add(name="data", type="AnnotatedData", top=["data", "label"])
    data.data_param.source = "/home/me/train_lmdb"
    data.annotated_data_param.label_map_file = "/home/me/labelmap.prototxt"
    data.transform_param.mean_file = "/home/me/mean.binaryproto"
    output = net.layer.add(name="found", type="DetectionOutput").detection_output_param.save_output_param
    output.output_directory, output.output_format = "/home/me/results", "VOC"
    path.write_bytes(net.SerializeToString())
    return path


@pytest.mark.parametrize("middle", [None, "safetensors"])
def test_an_onnx_file_does_not_tell_where_the_training_was(files, middle, capsys):
    folder, deploy, _ = files
    source = trained(folder / "model.caffemodel")
    given = str(source)
    if middle:
        given = str(folder / f"m.{middle}")
        convert_weights(source, given, deploy)
    target = folder / "net.onnx"
    assert main(["convert", given, str(target), "--model", deploy]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "left out: 4 names of files and folders of the training" in said
    texts = {entry.key: entry.value for entry in onnx.load(target).metadata_props}
    assert "caffe_skeleton" not in texts
    assert not [text for text in texts.values() if "/" in text or "home" in text]
    assert b"/home/me" not in target.read_bytes()
    back = convert_weights(target, folder / "back.caffemodel", deploy).blobs
    for layer, arrays in read_weights(source).blobs.items():
        for mine, theirs in zip(back[layer], arrays, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_paths_are_kept_where_the_same_bytes_are_wanted_back(files, capsys):
    folder, deploy, _ = files
    source = trained(folder / "model.caffemodel")
    assert main(["convert", str(source), str(folder / "net.onnx"), "--model", deploy, "--keep-paths"]) == 0
    assert "left out" not in capsys.readouterr().out
    convert_weights(folder / "net.onnx", folder / "back.caffemodel", deploy)
    assert (folder / "back.caffemodel").read_bytes() == source.read_bytes()


def test_file_names_of_old_forms_are_found():
    old = caffe_pb2.NetParameter()
    layer = old.layers.add(name="data").layer
    layer.source, layer.meanfile = "a_lmdb", "mean.binaryproto"
    assert file_names(old) == ["a_lmdb", "mean.binaryproto"]
    clear_file_names(old)
    assert old.layers[0].layer.ListFields() == []


@pytest.mark.parametrize("form", ["caffemodel.h5", "safetensors", "pt"])
def test_layers_that_the_net_lacks_are_named(files, form, capsys):
    folder, deploy, _ = files
    source = str(varied(folder, "foreign-layer"))
    for path in (source, str(folder / f"m.{form}")):
        target = str(folder / ("back.caffemodel" if path != source else f"m.{form}"))
        assert main(["convert", path, target, "--model", deploy]) == 0
        assert "kept, though the net has no such layers: of/another.net\n" in capsys.readouterr().out


def test_a_tensor_of_one_value_repeated_is_refused(files):
    """2.6 kB that say they are 4 GB: one stored number and a stride of 0."""
    folder, _, _ = files
    torch.save({"conv1.weight": torch.ones(1).expand(1 << 30)}, folder / "m.pt")
    assert (folder / "m.pt").stat().st_size < 4000
    with pytest.raises(FileError, match=r"would become 4096 MiB.*\[file.unpacked\]"):
        convert_weights(folder / "m.pt", folder / "out.safetensors")


def test_what_is_named_often_counts_each_time(files):
    folder, _, _ = files
    for target, content in (
        ("m.solverstate", {"optimizer": {"state": {0: {"history0": torch.ones(1).expand(1 << 30)}}}, "solver": {}}),
        ("m.safetensors", {f"conv{k}.weight": torch.ones(1).expand(1 << 21) for k in range(40)}),
    ):
        torch.save(content, folder / "m.pt")
        with pytest.raises(FileError, match="would become"):
            (state_from_torch if target == "m.solverstate" else convert_weights)(folder / "m.pt", folder / target)


def test_a_dict_that_holds_itself_is_no_endless_loop(files):
    folder, _, _ = files
    content = {"conv1.weight": torch.ones(2)}
    content["more"] = content
    torch.save(content, folder / "m.pt")
    with pytest.raises(WeightsError, match="no state_dict"):
        convert_weights(folder / "m.pt", folder / "out.safetensors")


def test_a_deflated_pt_is_refused(files):
    import zipfile

    folder, _, _ = files
    with zipfile.ZipFile(folder / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("m/data/0", "w") as entry:
        for _ in range(300):
            entry.write(bytes(1 << 20))
    with pytest.raises(FileError, match=r"would become 300 MiB"):
        convert_weights(folder / "m.pt", folder / "out.safetensors")


def test_a_graph_says_which_layers_have_no_weights_in_the_file(files, capsys):
    folder, deploy, _ = files
    path = folder / "model.caffemodel"
    net = message(path)
    kept = [layer for layer in net.layer if layer.name == "fc"]
    path.write_bytes(caffe_pb2.NetParameter(layer=kept).SerializeToString())
    assert main(["convert", str(path), str(folder / "net.onnx"), "--model", deploy]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "so with the values that their fillers drew: conv1, bn1" in said


def test_keys_are_those_of_the_state_dict(files):
    folder, deploy, caffemodel = files
    convert_weights(caffemodel, folder / "m.pt", deploy)
    state = torch.load(folder / "m.pt", weights_only=True)["state_dict"]
    assert {"conv1.weight", "conv1.bias", "bn1.mean", "bn1.variance", "bn1.scale_factor", "fc.bias"} <= set(state)
    assert tuple(state["fc.weight"].shape) == (7, 4 * 4 * 5)
    assert float(state["bn1.scale_factor"]) == 7


def test_without_model_blobs_are_numbered(files):
    folder, _, caffemodel = files
    convert_weights(caffemodel, folder / "m.safetensors")
    convert_weights(folder / "m.safetensors", folder / "back.caffemodel")
    assert (folder / "back.caffemodel").read_bytes() == Path(caffemodel).read_bytes()
    size = struct.unpack("<Q", (folder / "m.safetensors").read_bytes()[:8])[0]
    header = json.loads((folder / "m.safetensors").read_bytes()[8 : 8 + size])
    assert "conv1.blob0" in header


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_halves_the_file_and_rounds_once(files, form):
    folder, deploy, caffemodel = files
    convert_weights(caffemodel, folder / f"full.{form}", deploy)
    convert_weights(caffemodel, folder / f"half.{form}", deploy, half=True)
    found = convert_weights(folder / f"half.{form}", folder / "back.caffemodel", deploy).blobs
    for layer, arrays in read_weights(caffemodel).blobs.items():
        for mine, theirs in zip(found[layer], arrays, strict=True):
            np.testing.assert_array_equal(mine.ravel(), theirs.astype("f2").astype("f4").ravel())
    values = sum(a.size for arrays in found.values() for a in arrays)
    saved = (folder / f"full.{form}").stat().st_size - (folder / f"half.{form}").stat().st_size
    assert saved > values  # two bytes each, less the Cast operators of ONNX


def test_values_beyond_half_precision_are_refused(files):
    folder, deploy, _ = files
    net = message(folder / "model.caffemodel")
    net.layer[1].blobs[0].data[0] = 1e6
    (folder / "big.caffemodel").write_bytes(net.SerializeToString())
    with pytest.raises(ConversionError) as caught:
        convert_weights(folder / "big.caffemodel", folder / "m.safetensors", deploy, half=True)
    assert caught.value.code == "convert.half"
    assert not (folder / "m.safetensors").exists()


def test_folding_is_named_where_it_helps_half_precision(files):
    """A BatchNorm's variance is too large; then the convolution's weights are, and folding is no help."""
    folder, deploy, _ = files
    net = message(folder / "model.caffemodel")
    layers = {layer.name: layer for layer in net.layer}
    layers["bn1"].blobs[1].data[0] = 1e6
    (folder / "big.caffemodel").write_bytes(net.SerializeToString())
    with pytest.raises(ConversionError) as caught:
        convert_weights(folder / "big.caffemodel", folder / "m.onnx", deploy, half=True)
    assert caught.value.layer == "bn1"
    assert caught.value.hint == "--fold beside --half folds the layer into the one before it"
    convert_folded(folder / "big.caffemodel", folder / "m.onnx", deploy, None, half=True)
    layers["conv1"].blobs[0].data[:] = [1e9] * len(layers["conv1"].blobs[0].data)
    (folder / "big.caffemodel").write_bytes(net.SerializeToString())
    with pytest.raises(ConversionError) as caught:
        convert_weights(folder / "big.caffemodel", folder / "n.onnx", deploy, half=True)
    assert caught.value.hint is None


def test_duplicate_layer_names_are_refused(files):
    folder, deploy, _ = files
    net = message(folder / "model.caffemodel")
    net.layer.add().CopyFrom(net.layer[1])
    (folder / "twice.caffemodel").write_bytes(net.SerializeToString())
    with pytest.raises(ConversionError, match="conv1") as caught:
        convert_weights(folder / "twice.caffemodel", folder / "m.pt", deploy)
    assert caught.value.code == "convert.duplicate"


def test_missing_blob_is_refused(files):
    from safetensors.numpy import load_file, save_file

    folder, deploy, caffemodel = files
    convert_weights(caffemodel, folder / "m.safetensors", deploy)
    arrays = load_file(folder / "m.safetensors")
    del arrays["conv1.bias"]
    save_file(arrays, folder / "less.safetensors")
    with pytest.raises(WeightsError) as caught:
        convert_weights(folder / "less.safetensors", folder / "b.caffemodel", deploy)
    assert caught.value.layer == "conv1"


def test_unknown_ending_and_missing_file(files, capsys):
    folder, _, caffemodel = files
    assert main(["convert", caffemodel, str(folder / "m.bin")]) == 2
    assert "convert.ending" in capsys.readouterr().err
    assert main(["convert", str(folder / "none.caffemodel"), str(folder / "m.pt")]) == 2
    assert "none.caffemodel" in capsys.readouterr().err


def test_pt_runs_no_code(files):
    import pickle

    folder, deploy, _ = files
    mark = folder / "mark"

    class Evil:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    torch.save({"state_dict": Evil()}, folder / "evil.pt")
    (folder / "raw.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(WeightsError, match="plain weights") as caught:
            convert_weights(folder / name, folder / "out.safetensors", deploy)
        assert "weights_only" not in str(caught.value)  # torch's advice to load it all the same
    assert not mark.exists()
    assert not (folder / "out.safetensors").exists()
