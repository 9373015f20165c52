"""`verify` agrees where engines agree, and finds planted errors at the right layer."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from small_nets import NET, detector, noise, small_net, write_net

from pyscratchdet.cli import main
from pyscratchdet.cli.console import console
from pyscratchdet.converters.compare import (
    BlobComparison,
    Comparison,
    Difference,
    compare,
    difference,
    match_detections,
)
from pyscratchdet.converters.engines import OnnxRuntimeEngine, OpenCVEngine, PyTorchEngine, Recording
from pyscratchdet.converters.report import html_report, print_table
from pyscratchdet.errors import ConversionError, UsageError, WeightsError, printable
from pyscratchdet.files import write_text
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse
from pyscratchdet.runtime import build_net, copy_weights, net_blobs

ROOT = Path(__file__).parents[2]


def run_verify(*arguments):
    return main(["verify", *arguments])


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
    reference = OnnxRuntimeEngine(right) if engine == "onnxruntime" else OpenCVEngine(deploy, caffemodel, right)
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
    result = compare(net, first, OnnxRuntimeEngine(small_net()), {"data": noise((1, 3, 11, 14))})
    assert 1e-4 < result.culprit.own.relative < 5e-3


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
    result = compare(wrong, PyTorchEngine(wrong), OnnxRuntimeEngine(right), {"data": noise((1, 3, 12, 14))})
    assert result.culprit.layer == "pool1"
    assert "shape (1, 6, 5, 6), (1, 6, 6, 7) in the reference" in result.verdict()


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
    assert "shows nothing of (scale1, bn1, conv1)" in printed


def test_recording_made_by_the_dump_script(tmp_path, capsys):
    deploy, caffemodel = write_net(tmp_path, detector())
    target = tmp_path / "recorded.npz"
    command = [sys.executable, "-m", "pyscratchdet.caffe", str(ROOT / "scripts" / "dump_caffe_blobs.py")]
    done = subprocess.run([*command, deploy, caffemodel, str(target)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert run_verify("--model", deploy, "--weights", caffemodel, "--against", str(target)) == 0
    assert "recording recorded.npz agree on all" in " ".join(capsys.readouterr().out.split())


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
    assert run_verify("--model", deploy, "--weights", caffemodel, "--against", "tensorrt") == 2
    assert "verify.engine" in capsys.readouterr().err
    assert run_verify("--model", deploy, "--against", "opencv") == 2
    assert "verify.weights" in capsys.readouterr().err


# --- figures ---


def test_difference_by_hand():
    found = difference(np.array([3.0, 4.0, 0.0]), np.array([3.0, 0.0, 0.0]))
    assert found.max_abs == 4
    assert found.relative == pytest.approx(4 / 3)
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
    from pyscratchdet.converters.compare import compare_blobs

    net = small_net(detector())
    engine = PyTorchEngine(net)
    blobs = engine.run({"data": noise((1, 3, 22, 26)) / 100})
    expected = dict(blobs, detection_out=blobs["detection_out"][:, :, :-1])
    number = blobs["detection_out"].shape[2]
    result = compare_blobs(net, engine, blobs, "other", expected)
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
    from pyscratchdet.converters.compare import compare_blobs

    net = small_net()
    engine = PyTorchEngine(net)
    blobs = engine.run({"data": noise((1, 3, 11, 14))})
    same = compare_blobs(net, engine, blobs, "same", blobs)
    other = compare_blobs(net, engine, blobs, "other", {**blobs, "pool1": blobs["pool1"] * 1.1})
    assert same.verdict() == "pyscratchdet and same agree on all 10 blobs; all values are equal."
    body = html_report([same, other], "title", []).split("<body>")[1]
    assert body.startswith('<p class="bad">pyscratchdet and other part at blob pool1, layer pool1 (Pooling)')
    assert body.index("against other</h2>") < body.index("against same</h2>")
    assert body.count('class="culprit"') == 1


def test_report_is_whole_and_escaped():
    net = small_net()
    engine = PyTorchEngine(net)
    blobs = engine.run({"data": noise((1, 3, 11, 14))})
    from pyscratchdet.converters.compare import compare_blobs

    page = html_report([compare_blobs(net, engine, blobs, "a<b", blobs)], "t&t", [("model", "<x>")])
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
