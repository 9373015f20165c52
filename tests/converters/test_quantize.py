"""`convert --calibrate`: what is int8, what stays float32, and what becomes of the detections."""

import json

import cv2
import numpy as np
import onnx
import pytest
from small_nets import detector, small_net, write_net

from pyscratchdet.cli import main
from pyscratchdet.converters.onnx_detection import OnnxDetection, OnnxDetector
from pyscratchdet.converters.onnx_export import export_onnx
from pyscratchdet.converters.quantize import last_layers, quantize
from pyscratchdet.converters.sessions import SESSIONS

pytest.importorskip("onnxruntime")


@pytest.fixture
def pictures(tmp_path):
    """Five smooth pictures of several sizes."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(4)
    for number in range(5):
        small = random.integers(0, 256, (4, 5, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(small, (40 + number, 30), interpolation=cv2.INTER_LINEAR))
    return folder


def convert(tmp_path, pictures, *options):
    deploy, caffemodel = write_net(tmp_path, detector())
    target = tmp_path / "int8.onnx"
    arguments = ["convert", caffemodel, str(target), "--model", deploy, "--calibrate", str(pictures)]
    assert main([*arguments, "--scale", "0.01", *options]) == 0
    return onnx.load(target)


def test_the_heads_stay_in_float32(tmp_path, pictures, capsys):
    model = convert(tmp_path, pictures)
    said = capsys.readouterr().out
    assert "known to run in onnxruntime, OpenVINO\n" in said
    assert "1 layer in int8, the last 4 layers in float32" in said
    assert "ranges from 5 pictures" in said
    assert "detections of score 0.5 or more" in said
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv":
            source = made_by.get(node.input[1])
            is_int8 = source is not None and source.op_type == "DequantizeLinear"
            assert is_int8 == (node.name.split("/")[0] == "conv1")
    assert sorted(name.split("/")[0] for name in last_layers(model)) == ["conf1", "conf2", "loc1", "loc2"]
    assert not {"BatchNormalization", "Relu"} & {node.op_type for node in model.graph.node}  # folded, and within ranges
    (scales,) = (tensor for tensor in model.graph.initializer if tensor.name == "conv1.weight_scale")
    assert list(scales.dims) == [6]  # one per channel of conv1


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("options", [["--heads", "decoded"], ["--heads", "fixed", "--batch", "2"]], ids=" ".join)
def test_the_detections_are_nearly_the_same(tmp_path, pictures, engine, options, capsys):
    pytest.importorskip(engine)
    convert(tmp_path, pictures, *options)
    out, plain = tmp_path / "out", tmp_path / "plain"
    common = [str(pictures), "--threshold", "0.4"]
    names = ["--labelmap", str(tmp_path / "labels.prototxt")]
    (tmp_path / "labels.prototxt").write_text("".join(f'item {{ name: "{k}" label: {k} }}' for k in range(3)))
    arguments = ["--weights", str(tmp_path / "int8.onnx"), "--engine", engine, "-o", str(out)]
    assert main(["detect", *common, *names, *arguments]) == 0
    deploy, caffemodel = write_net(tmp_path, detector())
    assert (
        main(["detect", *common, "--model", deploy, "--weights", caffemodel, "--scale", "0.01", "-o", str(plain)]) == 0
    )
    found, expected = (json.loads((folder / "detections.json").read_text())["images"] for folder in (out, plain))
    number = sum(len(image["detections"]) for image in expected)
    assert number > 5
    again = 0
    for one, other in zip(found, expected, strict=True):
        for row in other["detections"]:
            again += any(
                mine["label"] == row["label"]
                and np.abs(np.subtract(mine["box"], row["box"])).max() < 1  # pixel, of pictures of 40x30
                and abs(mine["score"] - row["score"]) < 0.02  # values of 7 bits, of which few are added up here
                for mine in one["detections"]
            )
    assert again >= 0.9 * number


NORMALIZE = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 7 dim: 9 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 1 bias_term: false weight_filler { type: "uniform" min: 0.1 } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "norm" type: "Normalize" bottom: "conv1" top: "norm"
  norm_param { across_spatial: false scale_filler { type: "constant" value: 20 } channel_shared: false } }
layer { name: "head" type: "Convolution" bottom: "norm" top: "head"
  convolution_param { num_output: 5 kernel_size: 1 weight_filler { type: "gaussian" std: 0.1 } } }
"""


def test_what_keeps_a_divisor_above_zero_stays_in_float32():
    """Where ReLU leaves nothing, Normalize divides 0 by the root of its eps of 1e-10."""
    net = small_net(NORMALIZE)
    data = np.random.default_rng(1).uniform(0.3, 1, (1, 3, 7, 9)).astype("f4")
    data[:, :, :3] = -1
    exported = export_onnx(net)
    before, after = (
        SESSIONS["onnxruntime"](model.SerializeToString(), ["head"]).run({"data": data})["head"]
        for model in (exported, quantize(exported, [{"data": data}]))
    )
    assert np.ptp(before[:, :, :3], axis=(2, 3)).max() == 0
    np.testing.assert_array_equal(after[:, :, :3], before[:, :, :3])
    # 128 steps over the range of weights, 256 over that of values, which Normalize makes as large as 20 / 4 each.
    np.testing.assert_allclose(after, before, atol=0.05 * np.abs(before).max())


def test_verify_shows_the_drift(tmp_path, pictures, capsys):
    convert(tmp_path, pictures)
    deploy, caffemodel = (str(tmp_path / name) for name in ("deploy.prototxt", "model.caffemodel"))
    picture = str(pictures / "1.png")
    command = ["verify", "--model", deploy, "--weights", caffemodel, "--input", picture, "--scale", "0.01"]
    assert main([*command, "--against", str(tmp_path / "int8.onnx"), "--json", str(tmp_path / "v.json")]) == 1
    (comparison,) = json.loads((tmp_path / "v.json").read_text())
    drift = {blob["blob"]: blob["drift"] for blob in comparison["blobs"]}
    assert not [name for name in drift if "@" in name]
    # 256 steps over the range of values, 128 over that of weights: between float32's error and a few hundredths.
    assert 1e-4 < drift["conv1"]["relative"] < 0.03
    assert {"pool1", "mbox_loc", "mbox_conf_flatten"} <= drift.keys()


def test_the_file_says_how_pictures_are_prepared(tmp_path, pictures, capsys):
    convert(tmp_path, pictures, "--mean", "1,2,3", "--rgb")
    read = OnnxDetector.of_file(tmp_path / "int8.onnx")
    preparation = read.preparation()
    assert (preparation.mean, preparation.scale, preparation.rgb) == ((1.0, 2.0, 3.0), 0.01, True)
    assert read.facts["precision"] == "int8"
    assert OnnxDetection("onnxruntime", read).size == (22, 26)


def test_what_cannot_be_calibrated(tmp_path, pictures, capsys):
    deploy, caffemodel = write_net(tmp_path, detector())
    target = str(tmp_path / "int8.onnx")
    (tmp_path / "empty").mkdir()
    for source, extra, code in (
        (tmp_path / "empty", [], "detect.empty-folder"),
        (tmp_path / "none", [], "file.read"),
        (pictures, ["--half"], "convert.option"),
        (pictures, ["--mean", "1,2"], "detect.mean"),
        (pictures, ["--heads", "fixed"], "wrongly; give --batch N, or --heads decoded [convert.calibrate]"),
    ):
        arguments = ["convert", caffemodel, target, "--model", deploy, "--calibrate", str(source)]
        assert main([*arguments, *extra]) == 2
        assert code in capsys.readouterr().err
    assert not (tmp_path / "int8.onnx").exists()


def test_a_net_of_one_layer_has_nothing_to_quantise(tmp_path, pictures, capsys):
    text = (
        'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 9 } } }'
        'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 2 kernel_size: 3'
        ' weight_filler { type: "xavier" } } }'
    )
    deploy, caffemodel = write_net(tmp_path, text)
    arguments = ["convert", caffemodel, str(tmp_path / "x.onnx"), "--model", deploy, "--calibrate", str(pictures)]
    assert main(arguments) == 2
    assert "nothing to quantise before the last layers [convert.calibrate]" in capsys.readouterr().err
