"""`verify` agrees where engines agree, and finds planted errors at the right layer."""

import importlib.metadata
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_nets import NET, detector, noise, small_net, write_net

from pyscratchdet.cli import main
from pyscratchdet.cli.console import console
from pyscratchdet.converters.compare import (
    BlobComparison,
    Comparison,
    Difference,
    compare,
    compare_blobs,
    difference,
    match_detections,
)
from pyscratchdet.converters.engines import Engine, OnnxEngine, OpenCVEngine, PyTorchEngine, Recording
from pyscratchdet.converters.onnx_export import PictureInput, save_onnx
from pyscratchdet.converters.report import html_report, print_table
from pyscratchdet.errors import ConversionError, UsageError, WeightsError, printable
from pyscratchdet.files import write_text
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse
from pyscratchdet.runtime import build_net, copy_weights, net_blobs

ROOT = Path(__file__).parents[2]


HEAD = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 4 dim: 5 dim: 7 } } }'
CONV = """convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } }"""
IN_PLACE_ON_INPUT = f"""{HEAD}
layer {{ name: "p" type: "Power" bottom: "data" top: "data" power_param {{ scale: 2 shift: 1 }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" {CONV} }}"""


def run_verify(*arguments):
    return main(["verify", *arguments])


class Shown(Engine):
    """An engine that shows given blobs."""

    def __init__(self, name="other"):
        self.name = name

    def run(self, inputs):
        raise AssertionError("its blobs are given")


@pytest.mark.parametrize("text", [NET, detector()], ids=["classifier", "detector"])
def test_onnxruntime_and_opencv_agree(tmp_path, text, capsys):
    deploy, caffemodel = write_net(tmp_path, text)
    np.savez(tmp_path / "in.npz", data=noise((1, 3, 22, 26) if "DetectionOutput" in text else (1, 3, 11, 14)) / 100)
    figures, report = tmp_path / "v.json", tmp_path / "v.html"
    status = run_verify(
        *("--model", deploy, "--weights", caffemodel, "--input", str(tmp_path / "in.npz")),
        *("--json", str(figures), "--report", str(report)),
    )
    printed = capsys.readouterr().out
    assert status == 0, printed
    for comparison in json.loads(figures.read_text()):
        assert comparison["agrees"]
        assert comparison["missing"] == []
        names = [blob["blob"] for blob in comparison["blobs"]]
        assert names[:5] == ["conv1@conv1", "conv1@bn1", "conv1@scale1", "conv1", "pool1"]
        for blob in comparison["blobs"]:
            # What README promises of one layer; this net is small enough to keep to it as a whole.
            assert blob["drift"]["relative"] < 1e-5
            assert blob["own"]["relative"] < 1e-5
    assert "onnxruntime agree on all" in printed
    assert "opencv agree on all" in printed
    body = report.read_text().split("<body>")[1]
    assert body.startswith('<p class="good">pyscratchdet and onnxruntime agree')


@pytest.mark.parametrize("text", [NET, detector()], ids=["classifier", "detector"])
def test_folded_and_fast_agree(tmp_path, text, capsys):
    deploy, caffemodel = write_net(tmp_path, text)
    np.savez(tmp_path / "in.npz", data=noise((1, 3, 22, 26) if "DetectionOutput" in text else (1, 3, 11, 14)) / 100)
    status = run_verify(
        *("--model", deploy, "--weights", caffemodel, "--input", str(tmp_path / "in.npz")),
        *("--against", "folded", "fast", "--json", str(tmp_path / "v.json")),
    )
    assert status == 0, capsys.readouterr().out
    folded, fast = json.loads((tmp_path / "v.json").read_text())
    assert "conv1" in [blob["blob"] for blob in folded["blobs"]]
    assert [blob["blob"] for blob in fast["blobs"]] == ["detection_out" if "DetectionOutput" in text else "prob"]


# --- planted errors: our net carries the error, the engine does not ---


def planted(text=NET, blobs=None):
    """Returns our engine on a net with other text or blobs."""
    net = build_net(parse(text, caffe_pb2.NetParameter))
    copy_weights(net, blobs or net_blobs(small_net()))
    return net, PyTorchEngine(net)


def transposed_kernel():
    blobs = net_blobs(small_net())
    blobs["side"][0] = blobs["side"][0].transpose(0, 1, 3, 2).copy()
    return "side", planted(blobs=blobs)


def swapped_channel():
    blobs = net_blobs(small_net())
    blobs["conv1"][0] = blobs["conv1"][0][:, [2, 1, 0]].copy()
    return "conv1", planted(blobs=blobs)


def other_eps():
    blobs = net_blobs(small_net())
    text = NET.replace('name: "bn1" type: "BatchNorm"', 'name: "bn1" type: "BatchNorm" batch_norm_param { eps: 1e-3 }')
    return "bn1", planted(text, blobs)


def floor_for_ceil():
    text = NET.replace("pool: MAX kernel_size: 2 stride: 2", "pool: MAX kernel_h: 1 kernel_w: 2 stride: 2")
    return "pool1", planted(text)


ERRORS = {function.__name__: function for function in (transposed_kernel, swapped_channel, other_eps, floor_for_ceil)}


@pytest.mark.parametrize("engine", ["onnxruntime", "opencv"])
@pytest.mark.parametrize("error", ERRORS)
def test_planted_error_is_found_at_its_layer(tmp_path, error, engine):
    layer, (net, first) = ERRORS[error]()
    deploy, caffemodel = write_net(tmp_path)
    right = small_net()
    reference = OnnxEngine(right) if engine == "onnxruntime" else OpenCVEngine(deploy, caffemodel, right)
    result = compare(net, first, reference, {"data": noise((1, 3, 11, 14))})
    assert not result.agrees
    assert result.culprit.layer == layer
    assert result.culprit.suspects == (layer,)
    assert f"layer {layer} (" in result.verdict()
    later = [blob for blob in result.blobs if blob.is_culprit]
    assert [blob.layer for blob in later] == [layer]


def test_eps_of_a_small_variance_is_found_by_its_own_error_only():
    """1e-3 for 1e-5 moves values of variance about 1 by 5e-4: drift and own error both say so, at bn1 alone."""
    _, (net, first) = other_eps()
    result = compare(net, first, OnnxEngine(small_net()), {"data": noise((1, 3, 11, 14))})
    assert 1e-4 < result.culprit.own.relative < 5e-3  # a fifth to ten times of that, as variances differ


def test_pooling_that_rounds_down_is_found_by_its_shape():
    text = NET.replace("dim: 11 dim: 14", "dim: 12 dim: 14").replace(
        "kernel_size: 2 stride: 2", "kernel_size: 3 stride: 2"
    )
    smaller = text.replace("kernel_size: 3 stride: 2", "kernel_size: 4 stride: 2")
    short = NET[: NET.index('layer { name: "conv2"')]
    cut = [part[: part.index('layer { name: "conv2"')] for part in (text, smaller)]
    assert short.count("layer {") == cut[0].count("layer {")
    right, wrong = (build_net(parse(part, caffe_pb2.NetParameter)) for part in cut)
    blobs = {name: value for name, value in net_blobs(small_net()).items() if name in right.params}
    copy_weights(right, blobs)
    copy_weights(wrong, blobs)
    result = compare(wrong, PyTorchEngine(wrong), OnnxEngine(right), {"data": noise((1, 3, 12, 14))})
    assert result.culprit.layer == "pool1"
    assert "shape 1x6x5x6 here, 1x6x6x7 in the reference" in result.verdict()


def test_command_finds_a_wrong_caffemodel(tmp_path, capsys):
    """By hand: a recording of the right weights against a caffemodel with a swapped channel."""
    deploy, _ = write_net(tmp_path)
    right = PyTorchEngine(small_net()).run({"data": noise((1, 3, 11, 14))})
    finals = {f"out:{key}": value for key, value in right.items() if "@" not in key and key != "data"}
    np.savez(tmp_path / "recorded.npz", **{"in:data": right["data"]}, **finals)
    blobs = net_blobs(small_net())
    blobs["conv1"][0] = blobs["conv1"][0][:, [2, 1, 0]].copy()
    wrong = small_net()
    copy_weights(wrong, blobs)
    from pyscratchdet.runtime import save_weights

    save_weights(wrong, tmp_path / "wrong.caffemodel")
    status = run_verify(
        "--model", deploy, "--weights", str(tmp_path / "wrong.caffemodel"), "--against", str(tmp_path / "recorded.npz")
    )
    printed = " ".join(capsys.readouterr().out.split())
    assert status == 1
    # A recording shows in-place blobs as they finally are, so the whole chain is under suspicion, and it says so.
    assert "part at blob conv1, layer relu1 (ReLU) or one before it that" in printed
    assert "does not show (scale1, bn1, conv1)" in printed


def test_recording_made_by_the_dump_script(tmp_path, capsys):
    deploy, caffemodel = write_net(tmp_path, detector())
    target = tmp_path / "recorded.npz"
    command = [sys.executable, "-m", "pyscratchdet.caffe", str(ROOT / "scripts" / "dump_caffe_blobs.py")]
    done = subprocess.run([*command, deploy, caffemodel, str(target)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert run_verify("--model", deploy, "--weights", caffemodel, "--against", str(target)) == 0
    assert "recording recorded.npz agree on all" in " ".join(capsys.readouterr().out.split())


def test_recording_of_a_layer_in_place_on_the_input(tmp_path):
    """The script keeps the input as it was given and as the layer leaves it."""
    deploy, caffemodel = write_net(tmp_path, IN_PLACE_ON_INPUT)
    target = tmp_path / "recorded.npz"
    command = [sys.executable, "-m", "pyscratchdet.caffe", str(ROOT / "scripts" / "dump_caffe_blobs.py")]
    done = subprocess.run([*command, deploy, caffemodel, str(target)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    arrays = np.load(target)
    np.testing.assert_array_equal(arrays["out:data"], arrays["in:data"] * 2 + 1)
    assert run_verify("--model", deploy, "--weights", caffemodel, "--against", str(target)) == 0


@pytest.mark.parametrize("option", ["--input", "--against"])
def test_an_npz_that_would_become_far_larger_is_refused(option, tmp_path, capsys):
    import zipfile

    path = tmp_path / "r.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("data.npy", "w") as entry:
        for _ in range(300):
            entry.write(bytes(1 << 20))
    assert main(["verify", "--model", write_net(tmp_path)[0], option, str(path)]) == 2
    assert "would become 300 MiB" in " ".join(capsys.readouterr().err.split())


def test_other_inputs_than_the_recorded_are_refused(tmp_path):
    path = tmp_path / "r.npz"
    np.savez(path, **{"in:data": noise((1, 3, 4, 5)), "out:a": noise((2, 7))})
    with pytest.raises(UsageError) as caught:
        Recording(path).run({"data": noise((1, 3, 4, 5), seed=6)})
    assert caught.value.code == "verify.inputs"


def test_pickled_recording_is_refused_without_advice_to_unpickle(tmp_path):
    path = tmp_path / "r.npz"
    np.savez(path, **{"out:a": np.array([{"a": 1}], object)})
    with pytest.raises(WeightsError, match="plain arrays") as caught:
        Recording(path)
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", b"not an archive at all"])
def test_damaged_recordings_are_refused(tmp_path, content):
    path = tmp_path / "r.npz"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        Recording(path)
    assert caught.value.code == "verify.recording"


def test_opencv_refusals_are_typed(tmp_path):
    deploy, caffemodel = write_net(tmp_path)
    Path(caffemodel).write_bytes(b"no caffemodel")
    with pytest.raises(ConversionError) as caught:
        OpenCVEngine(deploy, caffemodel, small_net())
    assert caught.value.code == "engine.refused"


def test_status_2_for_bad_arguments(tmp_path, capsys):
    deploy, caffemodel = write_net(tmp_path)
    assert run_verify("--model", deploy, "--weights", caffemodel, "--against", "ncnn") == 2
    assert "verify.engine" in capsys.readouterr().err


# --- OpenCV shows every value as it was made, though it reuses memory ---

SLICED = f"""{HEAD}
layer {{ name: "cut" type: "Slice" bottom: "data" top: "a" top: "b" top: "c"
  slice_param {{ axis: 1 slice_point: 1 slice_point: 2 }} }}
layer {{ name: "conv" type: "Convolution" bottom: "a" top: "conv" {CONV} }}
layer {{ name: "max" type: "Eltwise" bottom: "a" bottom: "b" top: "max" eltwise_param {{ operation: MAX }} }}
layer {{ name: "rb" type: "ReLU" bottom: "c" top: "rc" }}"""
SLICED_IN_PLACE = f"""{HEAD}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" {CONV} }}
layer {{ name: "cut" type: "Slice" bottom: "conv" top: "a" top: "b"
  slice_param {{ axis: 1 slice_point: 1 }} }}
layer {{ name: "rb" type: "ReLU" bottom: "b" top: "b" }}
layer {{ name: "sb" type: "Sigmoid" bottom: "b" top: "b" }}
layer {{ name: "again" type: "Slice" bottom: "b" top: "d" top: "e"
  slice_param {{ axis: 2 slice_point: 1 }} }}
layer {{ name: "re" type: "TanH" bottom: "e" top: "e" }}
layer {{ name: "p" type: "Power" bottom: "e" top: "p" power_param {{ scale: 3 shift: 1 }} }}"""
SPLIT = f"""{HEAD}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" {CONV} }}
layer {{ name: "two" type: "Split" bottom: "conv" top: "x" top: "y" }}
layer {{ name: "px" type: "Power" bottom: "x" top: "px" power_param {{ scale: -2 }} }}
layer {{ name: "py" type: "Power" bottom: "y" top: "py" power_param {{ scale: 3 shift: 1 }} }}
layer {{ name: "qy" type: "TanH" bottom: "py" top: "qy" }}"""


def opencv_of(tmp_path, text, weights=True):
    deploy, caffemodel = write_net(tmp_path, text)
    net = small_net(text)
    return net, OpenCVEngine(deploy, caffemodel if weights else None, net)


@pytest.mark.parametrize("text", [SLICED, SLICED_IN_PLACE, SPLIT, NET], ids=["slice", "in place", "split", "chain"])
def test_opencv_shows_every_top(tmp_path, text):
    net, engine = opencv_of(tmp_path, text)
    data = noise(net.blob_shapes["data"]) / 100
    result = compare(net, PyTorchEngine(net), engine, {"data": data})
    assert result.agrees, result.verdict()
    assert not result.missing
    shown = engine.run({"data": data})
    for layer, blobs in engine.tops.items():  # asked for one by one
        for blob, array in zip(blobs, engine.net.forwardAndRetrieve([layer])[0], strict=True):
            np.testing.assert_array_equal(shown[blob], array, err_msg=blob)


def test_layers_of_one_name_are_told_apart_in_opencv(tmp_path):
    text = f"""{HEAD}
layer {{ name: "twin" type: "Power" bottom: "data" top: "a" power_param {{ scale: 2 }} }}
layer {{ name: "twin" type: "Power" bottom: "a" top: "b" power_param {{ shift: 5 }} }}"""
    net, engine = opencv_of(tmp_path, text)
    assert engine.tops == {"twin": ["a"], "twin_1": ["b"]}
    assert compare(net, PyTorchEngine(net), engine, {"data": noise((1, 4, 5, 7))}).agrees


def test_without_weights_every_engine_gets_those_drawn(tmp_path, capsys):
    (tmp_path / "deploy.prototxt").write_text(NET)
    engines = ("onnxruntime", "opencv", "fast", "folded")
    assert run_verify("--model", str(tmp_path / "deploy.prototxt"), "--against", *engines) == 0, capsys.readouterr().out
    printed = " ".join(capsys.readouterr().out.split())
    assert all(f"pyscratchdet and {engine} agree on all" in printed for engine in engines)


@pytest.mark.parametrize("engine", ["onnxruntime", "opencv"])
def test_input_of_another_size_than_the_file_says(tmp_path, engine, capsys):
    text = NET[: NET.index('layer { name: "fc"')]
    deploy, caffemodel = write_net(tmp_path, text)
    np.savez(tmp_path / "in.npz", data=noise((1, 3, 15, 18)) / 100)
    options = ("--input", str(tmp_path / "in.npz"), "--against", engine)
    assert run_verify("--model", deploy, "--weights", caffemodel, *options) == 0, capsys.readouterr().out


def test_layer_in_place_on_the_input(tmp_path):
    net, engine = opencv_of(tmp_path, IN_PLACE_ON_INPUT)
    result = compare(net, PyTorchEngine(net), engine, {"data": noise((1, 4, 5, 7))})
    assert result.agrees
    assert [blob.blob for blob in result.blobs] == ["data", "conv"]
    assert all(blob.own is not None for blob in result.blobs)


# --- what is known of peers stands beside the blob ---


def test_opencv_ignores_the_k_of_lrn(tmp_path):
    text = f"""{HEAD}
layer {{ name: "norm" type: "LRN" bottom: "data" top: "norm" lrn_param {{ local_size: 3 alpha: 0.01 k: 2 }} }}
layer {{ name: "p" type: "Power" bottom: "norm" top: "p" power_param {{ scale: 2 }} }}"""
    net, engine = opencv_of(tmp_path, text)
    result = compare(net, PyTorchEngine(net), engine, {"data": noise((1, 4, 5, 7))})
    assert not result.agrees
    assert result.verdict().endswith("; OpenCV ignores k.")
    assert [blob.note for blob in result.blobs] == ["OpenCV ignores k", ""]
    net, engine = opencv_of(tmp_path, text.replace("k: 2", "k: 1"))
    result = compare(net, PyTorchEngine(net), engine, {"data": noise((1, 4, 5, 7))})
    assert result.agrees
    assert not any(blob.note for blob in result.blobs)


def test_opencv_scales_the_other_blob_of_axpy(tmp_path):
    text = """layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 1 dim: 2 dim: 1 dim: 1 } } }
layer { name: "x" type: "Input" top: "x" top: "y"
  input_param { shape { dim: 1 dim: 2 dim: 3 dim: 5 } shape { dim: 1 dim: 2 dim: 3 dim: 5 } } }
layer { name: "o" type: "Axpy" bottom: "a" bottom: "x" bottom: "y" top: "o" }"""
    net, engine = opencv_of(tmp_path, text)
    inputs = {name: noise(net.blob_shapes[name], seed) for seed, name in enumerate(("a", "x", "y"))}
    assert compare(net, PyTorchEngine(net), engine, inputs).verdict().endswith("OpenCV computes aY + X, Caffe aX + Y.")
    swapped = engine.run({"a": inputs["a"], "x": inputs["y"], "y": inputs["x"]})["o"]
    # What the note says: with the bottoms exchanged the same sum, but for the order of rounding.
    assert difference(swapped, PyTorchEngine(net).run(inputs)["o"]).relative < 1e-6


def test_opencv_divides_a_slice_among_the_tops_that_are_read(tmp_path):
    text = f"""{HEAD}
layer {{ name: "cut" type: "Slice" bottom: "data" top: "a" top: "b" slice_param {{ axis: 1 }} }}
layer {{ name: "p" type: "Power" bottom: "a" top: "p" }}"""
    net, engine = opencv_of(tmp_path, text)
    verdict = compare(net, PyTorchEngine(net), engine, {"data": noise((1, 4, 5, 7))}).verdict()
    assert "part at blob a, layer cut (Slice): shape 1x2x5x7 here, 1x4x5x7 in the reference" in verdict
    assert "OpenCV divides the axis among the tops that a layer reads" in verdict


SHARED = f"""{HEAD}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" {CONV} }}
layer {{ name: "perm" type: "Permute" bottom: "conv" top: "perm"
  permute_param {{ order: 0 order: 2 order: 3 order: 1 }} }}
layer {{ name: "flat" type: "Reshape" bottom: "perm" top: "flat"
  reshape_param {{ shape {{ dim: 0 dim: -1 dim: 2 }} }} }}
layer {{ name: "sig" type: "Sigmoid" bottom: "flat" top: "flat" }}
layer {{ name: "p" type: "Power" bottom: "flat" top: "p" power_param {{ scale: 2 }} }}"""


def test_opencv_shares_no_memory(tmp_path):
    """As in a face-mask detector: what OpenCV shows before the Sigmoid is compared with what Caffe has before it."""
    net, engine = opencv_of(tmp_path, SHARED)
    result = compare(net, PyTorchEngine(net), engine, {"data": noise((1, 4, 5, 7)) / 100})
    assert result.agrees
    assert [blob.blob for blob in result.blobs] == ["conv", "perm@perm", "flat@flat", "flat", "p"]
    assert result.missing == ["perm"]
    net, engine = opencv_of(tmp_path, SHARED.replace('type: "Power" bottom: "flat"', 'type: "Power" bottom: "perm"'))
    result = compare(net, PyTorchEngine(net), engine, {"data": noise((1, 4, 5, 7)) / 100})
    assert result.culprit.blob == "p"
    assert "Caffe reads what an in-place layer wrote into shared memory; the reference does not" in result.verdict()
    assert [blob.blob for blob in result.blobs if blob.note] == ["p"]
    assert not any("split" in blob for blob in result.missing)


def refinedet():
    """Returns a detector whose DetectionOutput reads the ARM's objectness and boxes too."""
    heads = """
layer { name: "arm_loc" type: "Power" bottom: "mbox_loc" top: "arm_loc" power_param { scale: 0.5 shift: 0.1 } }
layer { name: "arm_raw" type: "Reshape" bottom: "mbox_loc" top: "arm_raw"
  reshape_param { shape { dim: 0 dim: -1 dim: 2 } } }
layer { name: "arm_softmax" type: "Softmax" bottom: "arm_raw" top: "arm_softmax" softmax_param { axis: 2 } }
layer { name: "arm_flat" type: "Flatten" bottom: "arm_softmax" top: "arm_flat" }
layer { name: "arm_cut" type: "Slice" bottom: "arm_flat" top: "arm_conf" top: "arm_rest"
  slice_param { slice_point: 4290 } }
layer { name: "detection_out" """
    text = detector().replace('layer { name: "detection_out" ', heads.lstrip("\n"))
    text = text.replace('bottom: "mbox_priorbox"', 'bottom: "mbox_priorbox" bottom: "arm_conf" bottom: "arm_loc"')
    return text.replace("confidence_threshold: 0.3", "confidence_threshold: 0.3 objectness_score: 0.4")


def test_opencv_ignores_the_bottoms_of_refinedet(tmp_path):
    net, engine = opencv_of(tmp_path, refinedet())
    result = compare(net, PyTorchEngine(net), engine, {"data": noise((1, 3, 22, 26)) / 100})
    assert result.culprit.blob == "detection_out"
    assert "OpenCV ignores the fourth and fifth bottom, RefineDet's ARM" in result.verdict()
    assert all(blob.agrees for blob in result.blobs if blob.blob != "detection_out")


def test_rows_of_zeros_are_named(tmp_path):
    net, engine = opencv_of(tmp_path, detector().replace("keep_top_k: 21", "keep_top_k: 300"))
    result = compare(net, PyTorchEngine(net), engine, {"data": noise((1, 3, 22, 26)) / 100})
    assert result.agrees
    found = PyTorchEngine(net).run({"data": noise((1, 3, 22, 26)) / 100})["detection_out"].shape[2]
    assert result.blobs[-1].note == (
        f"{found} of {found} detections found again; the reference ends with {300 - found} rows of zeros, "
        "which are padding"
    )


# --- engines that cannot, nets that cannot be compared ---

UPSAMPLE = f"""{HEAD}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" {CONV} }}
layer {{ name: "up" type: "Upsample" bottom: "conv" top: "up" upsample_param {{ scale: 2 }} }}"""


def test_an_engine_that_cannot_run_the_net_leaves_the_others_to_judge(tmp_path, capsys):
    deploy, caffemodel = write_net(tmp_path, UPSAMPLE)
    figures, report = tmp_path / "v.json", tmp_path / "v.html"
    options = ("--against", "opencv", "onnxruntime", "--json", str(figures), "--report", str(report))
    assert run_verify("--model", deploy, "--weights", caffemodel, *options) == 0
    printed = " ".join(capsys.readouterr().out.split())
    said = "opencv did not run, so nothing can be said about it: OpenCV cannot run the net: Can't create layer"
    assert said in printed
    assert "pyscratchdet and onnxruntime agree on all 2 blobs" in printed
    opencv, onnxruntime = json.loads(figures.read_text())
    assert opencv["failure"].endswith("[engine.failed]")
    assert not opencv["blobs"]
    assert onnxruntime["agrees"]
    assert not onnxruntime["failure"]
    body = report.read_text().split("<body>")[1]
    assert "opencv did not run" in body
    assert "against opencv</h2>" not in body
    wrong = PyTorchEngine(small_net(UPSAMPLE)).run({"data": noise((1, 4, 5, 7))})
    np.savez(tmp_path / "r.npz", **{"in:data": wrong["data"], "out:conv": wrong["conv"] + 1, "out:up": wrong["up"]})
    options = ("--against", "opencv", str(tmp_path / "r.npz"))
    assert run_verify("--model", deploy, "--weights", caffemodel, *options) == 1


@pytest.mark.parametrize(
    ("engines", "said", "code"),
    [
        (["opencv", "opencv"], "OpenCV cannot run the net: ", "[engine.failed]"),
        (["opencv", "openvino"], "nothing was compared: opencv did not run: OpenCV cannot", "[verify.nothing-ran]"),
    ],
)
def test_where_no_engine_runs_nothing_is_proved(tmp_path, monkeypatch, capsys, engines, said, code):
    monkeypatch.setitem(sys.modules, "openvino", None)
    deploy, caffemodel = write_net(tmp_path, UPSAMPLE)
    assert run_verify("--model", deploy, "--weights", caffemodel, "--against", *engines) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pyscratchdet: {said}")
    assert re.findall(r"\[[\w-]+\.[\w-]+\]", error) == [code]


def test_the_verdict_repeats_what_was_passed_over(tmp_path, capsys):
    """Fields of an unknown Caffe; those that are known to change nothing are not worth repeating."""
    conv = CONV.replace("kernel_size: 3", "kernel_size: 3 surprise: 7 engine: MKLDNN")
    text = f"""{HEAD}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" {conv} }}"""
    (tmp_path / "deploy.prototxt").write_text(text)
    figures, report = tmp_path / "v.json", tmp_path / "v.html"
    options = ("--allow-unknown", "--against", "onnxruntime", "--json", str(figures), "--report", str(report))
    assert run_verify("--model", str(tmp_path / "deploy.prototxt"), *options) == 0
    said = (
        'Unknown fields of the net file that may change results were passed over: line 2: layer "conv" (Convolution): '
    )
    said += "convolution_param.surprise: 7."
    printed = " ".join(capsys.readouterr().out.split())
    assert "agree on all 1 blob; worst relative L2 error" in printed
    assert printed.endswith(f"{said} report: {report}")
    (comparison,) = json.loads(figures.read_text())
    assert comparison["verdict"].endswith(said)
    assert comparison["passed_over"] == ['line 2: layer "conv" (Convolution): convolution_param.surprise: 7']
    assert "convolution_param.surprise: 7" in report.read_text()


def test_net_without_outputs(tmp_path, capsys):
    (tmp_path / "deploy.prototxt").write_text(f'{HEAD} layer {{ name: "s" type: "Silence" bottom: "data" }}')
    assert run_verify("--model", str(tmp_path / "deploy.prototxt")) == 2
    error = capsys.readouterr().err
    assert error.startswith("pyscratchdet: the net has no outputs")
    assert error.count("\n") == 1


def test_first_blob_of_another_shape_is_named_with_both_shapes():
    """Whatever comes behind it: layers that cannot take the reference's shape, and some that make the same again."""
    text = f"""{HEAD}
layer {{ name: "pool1" type: "Pooling" bottom: "data" top: "pool1" pooling_param {{ kernel_size: 3 stride: 2 }} }}
layer {{ name: "conv" type: "Convolution" bottom: "pool1" top: "conv"
  convolution_param {{ num_output: 3 kernel_size: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param {{ num_output: 6 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "pool2" type: "Pooling" bottom: "conv" top: "pool2" pooling_param {{ pool: AVE global_pooling: true }} }}
layer {{ name: "turn" type: "Permute" bottom: "data" top: "turn"
  permute_param {{ order: 0 order: 1 order: 3 order: 2 }} }}"""
    net = small_net(text)
    engine = PyTorchEngine(net)
    blobs = engine.run({"data": noise((1, 4, 5, 7))})
    larger = {"pool1": noise((1, 4, 3, 4)), "conv": noise((1, 3, 2, 3))}
    assert larger["pool1"].shape != blobs["pool1"].shape
    others = {key: value for key, value in blobs.items() if not key.endswith(("_split_0", "_split_1"))}
    result = compare_blobs(net, engine, blobs, Shown(), {**others, **larger})
    assert not result.agrees
    assert result.culprit.blob == "pool1"
    assert result.verdict() == (
        "pyscratchdet and other part at blob pool1, layer pool1 (Pooling): "
        "shape 1x4x2x3 here, 1x4x3x4 in the reference."
    )
    by_name = {blob.blob: blob for blob in result.blobs}
    assert by_name["conv"].own is None
    assert by_name["fc"].own is None
    turned = compare_blobs(net, engine, blobs, Shown(), {**blobs, "turn": blobs["turn"].transpose(0, 1, 3, 2)})
    assert "part at blob turn, layer turn (Permute): shape 1x4x7x5 here, 1x4x5x7 in" in turned.verdict()
    flat = compare_blobs(net, engine, blobs, Shown(), {**blobs, "fc": blobs["fc"].reshape(1, 6, 1, 1)})
    assert flat.agrees


# --- figures ---


def test_difference_by_hand():
    found = difference(np.array([3.0, 4.0, 0.0]), np.array([3.0, 0.0, 0.0]))
    assert found.max_abs == 4
    assert found.relative == pytest.approx(4 / 3)  # approx: square roots in float64
    assert found.cosine == pytest.approx(0.6)


def test_difference_of_zeros_and_of_what_is_not_finite():
    assert difference(np.zeros(3), np.zeros(3)) == Difference(0, 0, 1)
    assert difference(np.array([1.0, np.nan]), np.array([1.0, 2.0])).relative == float("inf")
    assert difference(np.array([np.inf, 2.0]), np.array([np.inf, 2.0])).relative == 0
    assert difference(np.zeros((0, 7)), np.zeros((0, 7))).relative == 0


def test_detections_are_paired_whatever_the_order_of_ties():
    rows = np.array([[0, 1, 0.5, 0.1, 0.1, 0.2, 0.2], [0, 1, 0.5, 0.6, 0.6, 0.9, 0.9], [0, 2, 0.4, 0, 0, 1, 1]])
    other = rows[[2, 1, 0]]
    padded = np.concatenate([other, np.zeros((2, 7)), [[0, -1, -1, -1, -1, -1, -1]]])
    mine, theirs = match_detections(rows, padded)
    np.testing.assert_array_equal(mine, theirs)
    assert len(mine) == 3


def test_a_missing_detection_is_reported(tmp_path):
    net = small_net(detector())
    engine = PyTorchEngine(net)
    blobs = engine.run({"data": noise((1, 3, 22, 26)) / 100})
    expected = dict(blobs, detection_out=blobs["detection_out"][:, :, :-1])
    number = blobs["detection_out"].shape[2]
    result = compare_blobs(net, engine, blobs, Shown(), expected)
    assert result.culprit.blob == "detection_out"
    assert result.culprit.note == f"{number - 1} of {number - 1} detections found again, {number} here"


def test_opencv_keeps_fractions_of_min_size_and_verify_says_so(tmp_path):
    deploy, caffemodel = write_net(tmp_path, detector(min_size="9.7"))
    net = small_net(detector(min_size="9.7"))
    engine = OpenCVEngine(deploy, caffemodel, net)
    result = compare(net, PyTorchEngine(net), engine, {"data": noise((1, 3, 22, 26)) / 100})
    assert result.culprit.layer == "prior1"
    assert "truncates min_size" in result.verdict()


def test_report_begins_with_what_parts():
    net = small_net()
    engine = PyTorchEngine(net)
    blobs = engine.run({"data": noise((1, 3, 11, 14))})
    same = compare_blobs(net, engine, blobs, Shown("same"), blobs)
    other = compare_blobs(net, engine, blobs, Shown(), {**blobs, "pool1": blobs["pool1"] * 1.1})
    assert same.verdict() == "pyscratchdet and same agree on all 10 blobs; all values are equal."
    body = html_report([same, other], "title", []).split("<body>")[1]
    assert body.startswith('<p class="bad">pyscratchdet and other part at blob pool1, layer pool1 (Pooling)')
    assert body.index("against other</h2>") < body.index("against same</h2>")
    assert body.count('class="culprit"') == 1


def test_report_is_whole_and_escaped():
    net = small_net()
    engine = PyTorchEngine(net)
    blobs = engine.run({"data": noise((1, 3, 11, 14))})
    page = html_report([compare_blobs(net, engine, blobs, Shown("a<b"), blobs)], "t&t", [("model", "<x>")])
    assert "a<b" not in page
    assert "a&lt;b" in page
    assert "t&amp;t" in page
    assert "&lt;x&gt;" in page
    assert page.count("<tr class=") == 10
    assert page.count("<circle") == 20


class Texts(HTMLParser):
    """Gathers a page's text and its elements."""

    def __init__(self, page):
        super().__init__()
        self.text, self.tags = "", set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("name", ["</title><script>alert(1)</script>", "<!--<script>", "[/b]$x$", "\x1b[2J\udc80"])
def test_names_from_a_file_are_text(name, capsys, tmp_path):
    """Names of blobs and layers may hold anything: the page shows them, and so does the terminal."""
    apart = Difference(1.0, 0.5, 0.9)
    blob = BlobComparison(name, name, name, (2, 3), apart, apart, 1e-5, note=name)
    comparison = Comparison(name, "first", name, [blob], [name])
    write_text(tmp_path / "page.html", html_report([comparison], name, [(name, name)]))
    page = Texts((tmp_path / "page.html").read_text(errors="strict"))
    # title, verdict, heading, fact twice, section, two dots, culprit, not shown, blob, layer, note
    assert page.text.count(printable(name)) >= 13
    assert "script" not in page.tags
    print_table(comparison, console())
    printed = capsys.readouterr().out
    assert printable(name) in printed
    assert "\x1b" not in printed


# --- deployment engines and files ---


def verify_figures(tmp_path, *arguments):
    """Returns the exit status and the comparisons of `verify` on the small detector with quiet noise."""
    deploy, caffemodel = write_net(tmp_path, detector())
    np.savez(tmp_path / "in.npz", data=noise((1, 3, 22, 26)) / 100)
    status = run_verify(
        *("--model", deploy, "--weights", caffemodel, "--input", str(tmp_path / "in.npz")),
        *("--json", str(tmp_path / "v.json"), "--report", str(tmp_path / "v.html"), *arguments),
    )
    return status, json.loads((tmp_path / "v.json").read_text())


def write_onnx(tmp_path, **options):
    save_onnx(small_net(detector()), tmp_path / "net.onnx", **options)
    return str(tmp_path / "net.onnx")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_shows_every_blob(tmp_path, engine, capsys):
    pytest.importorskip(engine)
    status, (comparison,) = verify_figures(tmp_path, "--against", engine)
    assert status == 0, capsys.readouterr().out
    assert comparison["missing"] == []
    names = [blob["blob"] for blob in comparison["blobs"]]
    assert names[:5] == ["conv1@conv1", "conv1@bn1", "conv1@scale1", "conv1", "pool1"]
    assert names[-1] == "detection_out"
    assert f"{engine} {importlib.metadata.version(engine)}" in (tmp_path / "v.html").read_text()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_file_shows_the_blobs_that_it_has(tmp_path, engine, capsys):
    pytest.importorskip(engine)
    path = write_onnx(tmp_path, heads="boxes")
    name = path if engine == "onnxruntime" else f"{engine}:{path}"
    status, (comparison,) = verify_figures(tmp_path, "--against", name)
    assert status == 0, capsys.readouterr().out
    assert comparison["reference"] == f"net.onnx in {engine}"
    names = {blob["blob"] for blob in comparison["blobs"]}
    assert {"conv1", "pool1", "mbox_loc", "mbox_conf_flatten"} <= names
    assert "detection_out" in comparison["missing"]


def test_a_file_of_other_weights_parts_at_its_layer(tmp_path, capsys):
    path = write_onnx(tmp_path)
    model = onnx.load(path)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "loc1.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.25, bias.name))
    onnx.save(model, path)
    status, (comparison,) = verify_figures(tmp_path, "--against", path)
    assert status == 1
    assert "part at blob loc1, layer loc1 (Convolution)" in comparison["verdict"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"picture": PictureInput()}, "needs other inputs"), ({"batch": 2}, "cannot run the net")],
)
def test_a_file_that_takes_other_inputs_is_not_compared(tmp_path, options, message, capsys):
    path = write_onnx(tmp_path, **options)
    deploy, caffemodel = write_net(tmp_path, detector())
    assert run_verify("--model", deploy, "--weights", caffemodel, "--against", path) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_another_engine_can_be_judged(tmp_path, capsys):
    status, comparisons = verify_figures(tmp_path, "--engine", "onnxruntime", "--against", "torch", "opencv")
    assert status == 0, capsys.readouterr().out
    assert [(one["first"], one["reference"]) for one in comparisons] == [
        ("onnxruntime", "pyscratchdet"),
        ("onnxruntime", "opencv"),
    ]
    assert all(blob["own"] is None for one in comparisons for blob in one["blobs"])
    assert len(comparisons[0]["blobs"]) > len(comparisons[1]["blobs"]) - 1 > 10


def test_only_torch_can_train(tmp_path, capsys):
    deploy, _ = write_net(tmp_path)
    assert run_verify("--model", deploy, "--engine", "onnxruntime", "--against", "torch", "--gradients") == 2
    assert "only torch can train" in capsys.readouterr().err


@pytest.mark.parametrize("everything", [True, False])
def test_the_table_fits_a_terminal_of_80_columns(everything):
    """Names are folded; no figure is cut."""
    import io

    from rich.console import Console

    long = "inception_4e/5x5_reduce_with_a_name_that_goes_on"
    blobs = [
        BlobComparison(
            long, long + "x", "Convolution", (16, 1024, 128, 128), Difference(1.5e-4, 2.5e-7, 0.5), None, 1e-5
        ),
        BlobComparison(
            "b", "b", "ReLU", (1, 2), Difference(3.5e4, 4.5e-2, 0.5), Difference(1, 5.5e-3, 1), 1e-5, note="n" * 100
        ),
    ]
    stream = io.StringIO()
    print_table(Comparison("net", "ours", "theirs", blobs), Console(file=stream, width=80), everything=everything)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    rows = "\n".join(lines)
    for figure in ("1.5e-04", "2.5e-07", "3.5e+04", "4.5e-02", "5.5e-03", "PARTS"):
        assert figure in rows
    assert "".join(rows.split()).count("n" * 20)
