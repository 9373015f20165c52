"""`convert --for`: nets that other engines' Caffe readers compute right, whatever they are known to get wrong."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from small_nets import detector, noise, small_net, write_net

from pyscratchdet.cli import main
from pyscratchdet.converters.caffe_readers import TARGETS, fit_net
from pyscratchdet.converters.compare import difference
from pyscratchdet.converters.engines import OpenCVEngine, PyTorchEngine
from pyscratchdet.errors import ConversionError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse
from pyscratchdet.runtime import build_net, copy_weights, load_net, net_blobs, save_weights

RUNNER = Path(__file__).parents[2] / "benchmarks" / "engine_runner.py"
# Relative L2: what DESIGN promises of one layer; other engines sum in another order.
TOLERANCE = 1e-5
INPUT = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 7 } } }\n'
CONV = (
    'layer { name: "c" type: "Convolution" bottom: "data" top: "c"'
    ' convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }\n'
)


def layer(kind, name, bottoms, top="", settings=""):
    """A layer in text; its top has its name unless another is given."""
    reads = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}" {reads} top: "{top or name}" {settings} }}\n'


SILENCE = 'layer { name: "quiet" type: "Silence" bottom: "unread" }\n'
SLICE = 'layer { name: "cut" type: "Slice" bottom: "c" top: "cut" top: "middle" top: "unread" }\n' + SILENCE
MEAN = layer("Pooling", "mean", "c", settings="pooling_param { pool: AVE global_pooling: true }")

SILENCED = INPUT + CONV + layer("ReLU", "unread", "c") + SILENCE + layer("TanH", "end", "c")
ON_INPUT = INPUT + layer("BatchNorm", "norm", "data", "data") + CONV
PRELU = INPUT + CONV + layer("PReLU", "slope", "c", "c") + layer("TanH", "end", "c")
ALONE = INPUT + CONV + layer("ReLU", "r", "c", "c") + layer("BatchNorm", "n", "c", "c") + layer("TanH", "end", "c")
CLIP = INPUT + CONV + layer("Clip", "limit", "c", "c", "clip_param { min: -0.25 max: 0.5 }") + layer("TanH", "end", "c")
RELU6 = INPUT + CONV + layer("Clip", "end", "c", settings="clip_param { min: 0 max: 6 }")
LRN = INPUT + CONV + layer("LRN", "end", "c", settings="lrn_param { local_size: 3 alpha: 0.5 beta: 0.75 k: 2 }")
CUT = INPUT + CONV + SLICE + layer("Eltwise", "end", "cut middle")
AXPY = INPUT + CONV + MEAN + layer("TanH", "t", "c") + layer("Axpy", "end", "mean t c")
NO_CLIP = ("mnn", "ncnn", "opencv")
# A net, and the types that targets make of it; a target without an entry leaves the types as they are.
CASES = {
    "silence": (SILENCED, {key: ["Input", "Convolution", "TanH"] for key in TARGETS}),
    "on an input": (
        ON_INPUT,
        {"mnn": ["Input", "Convolution", "Convolution"], "opencv": ["Input", "BatchNorm", "Convolution"]},
    ),
    "PReLU": (PRELU, {"mnn": ["Input", "Convolution", "ReLU", "Power", "ReLU", "Convolution", "Eltwise", "TanH"]}),
    "BatchNorm by itself": (ALONE, {"mnn": ["Input", "Convolution", "ReLU", "Convolution", "TanH"]}),
    "Clip": (
        CLIP,
        {name: ["Input", "Convolution", "Power", "ReLU6", "Power", "TanH"] for name in ("mnn", "ncnn", "opencv")},
    ),
    "Clip from 0 to 6": (RELU6, {name: ["Input", "Convolution", "ReLU6"] for name in ("mnn", "ncnn", "opencv")}),
    "LRN": (LRN, {"opencv": ["Input", "Convolution", "LRN", "Power"]}),
    "Slice": (CUT, {"opencv": ["Input", "Convolution", "Slice", "Eltwise"]}),
    "Axpy": (AXPY, {"opencv": ["Input", "Convolution", "Pooling", "TanH", "Flatten", "Scale", "Eltwise"]}),
    "folding": (
        INPUT + CONV + layer("BatchNorm", "n", "c", "c") + layer("Scale", "end", "c"),
        {key: ["Input", "Convolution"] for key in ("mnn", "ncnn", "rknn")},
    ),
}


def net_of(text):
    """The net with weights that leave no channel as it is."""
    net = small_net(text)
    rng = np.random.default_rng(8)
    copy_weights(
        net,
        {
            name: [rng.uniform(0.2, 1.4, a.shape).astype("f4") for a in arrays]
            for name, arrays in net_blobs(net).items()
        },
    )
    return net


def written(folder, net, text, engine):
    """Converts a net of this text; returns the paths of the new one's prototxt and caffemodel."""
    (folder / "old.prototxt").write_text(text)
    save_weights(net, folder / "old.caffemodel")
    old, new = ([str(folder / f"{name}.{ending}") for ending in ("prototxt", "caffemodel")] for name in ("old", "new"))
    command = ["convert", old[1], new[1], "--model", old[0], "--prototxt", new[0], "--for", engine]
    assert main(command) == 0
    return new


def end_of(net):
    """The name of its output."""
    return net.output_names[0]


@pytest.mark.parametrize("engine", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_layers_and_values(case, engine):
    text, kinds = CASES[case]
    net = net_of(text)
    new = fit_net(parse(text, caffe_pb2.NetParameter), net_blobs(net), engine)
    found = [layer.type for layer in new.param.layer]
    assert found == kinds[engine] if engine in kinds else "Silence" not in found
    inputs = {"data": torch.from_numpy(noise((2, 3, 9, 7)) / 100)}
    again = build_net(new.param)
    assert copy_weights(again, new.blobs).untouched == []
    with torch.no_grad():
        expected, values = net(inputs), again(inputs)
    assert set(expected) <= set(values)  # what Silence kept from being an output is one now
    for name in expected:
        assert difference(values[name].numpy(), expected[name].numpy()).relative < TOLERANCE


def test_prelu_is_the_same_to_the_last_bit():
    net = net_of(PRELU)
    new = fit_net(parse(PRELU, caffe_pb2.NetParameter), net_blobs(net), "mnn")
    again = build_net(new.param)
    copy_weights(again, new.blobs)
    inputs = {"data": torch.from_numpy(noise((2, 3, 9, 7)))}
    with torch.no_grad():
        np.testing.assert_array_equal(again(inputs)["end"].numpy(), net(inputs)["end"].numpy())


@pytest.mark.parametrize("case", [case for case in CASES if "opencv" in CASES[case][1]])
def test_opencv_computes_the_same(case, tmp_path):
    text, _ = CASES[case]
    net = net_of(text)
    prototxt, caffemodel = written(tmp_path, net, text, "opencv")
    inputs = {"data": noise((2, 3, 9, 7)) / 100}
    found = OpenCVEngine(prototxt, caffemodel, load_net(prototxt, caffemodel)).run(inputs)
    expected = PyTorchEngine(net).run(inputs)[end_of(net)]
    assert difference(found[end_of(net)], expected).relative < TOLERANCE


def test_priors_of_broken_sizes_in_opencv(tmp_path):
    text = detector(min_size="9.75")
    net = small_net(text)
    prototxt, caffemodel = written(tmp_path, net, text, "opencv")
    inputs = {"data": noise((1, 3, 22, 26)) / 100}
    found = OpenCVEngine(prototxt, caffemodel, load_net(prototxt, caffemodel)).run(inputs)
    expected = PyTorchEngine(net).run(inputs)["mbox_priorbox"]
    assert difference(found["mbox_priorbox"], expected).relative < TOLERANCE


@pytest.mark.parametrize("case", [case for case in CASES if "mnn" in CASES[case][1]])
def test_mnn_computes_the_same(case, tmp_path):
    """With its input in NCHW, in which MNN's Scale and PReLU go wrong in nets from Caffe."""
    if importlib.util.find_spec("MNN") is None:
        pytest.skip("MNN is not installed")
    text, _ = CASES[case]
    net = net_of(text)
    _, caffemodel = written(tmp_path, net, text, "mnn")
    inputs, name = {"data": noise((2, 3, 9, 7)) / 100}, end_of(net)
    np.savez(tmp_path / "in.npz", outputs=np.array([name]), **{"one:data": inputs["data"]})
    command = [sys.executable, RUNNER, "mnn", caffemodel, tmp_path / "in.npz", tmp_path / "out.npz"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with np.load(tmp_path / "out.npz") as found:
        values = found[f"one:{name}"]
    assert difference(values, PyTorchEngine(net).run(inputs)[end_of(net)]).relative < TOLERANCE


def test_rknn_gets_what_detection_output_reads(tmp_path, capsys):
    deploy, caffemodel = write_net(tmp_path, detector())
    target, prototxt = str(tmp_path / "new.caffemodel"), str(tmp_path / "new.prototxt")
    command = ["convert", caffemodel, target, "--model", deploy, "--prototxt", prototxt, "--for", "rknn"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "not in the net any more: detection_out" in said
    old, new = load_net(deploy, caffemodel), load_net(prototxt, target)
    assert set(new.output_names) == {"mbox_loc", "mbox_conf_flatten"}
    inputs = {"data": noise((1, 3, 22, 26)) / 100}
    expected, found = PyTorchEngine(old).run(inputs), PyTorchEngine(new).run(inputs)
    for name in new.output_names:
        assert difference(found[name], expected[name]).relative < TOLERANCE
    priors = safetensors.numpy.load_file(tmp_path / "new.priors.safetensors")
    np.testing.assert_array_equal(priors["mbox_priorbox"], expected["mbox_priorbox"])


def test_what_nothing_can_make_right_is_refused(tmp_path, capsys):
    refined = detector().replace(
        'bottom: "mbox_priorbox" top', 'bottom: "mbox_priorbox" bottom: "arm" bottom: "mbox_loc" top'
    )
    arm = "".join(
        layer(
            "Convolution",
            f"arm{k}",
            f"conv{k}".replace("conv2", "pool1"),
            settings='convolution_param { num_output: 6 kernel_size: 1 weight_filler { type: "xavier" } }',
        )
        + layer("Permute", f"arm{k}_perm", f"arm{k}", settings="permute_param { order: 0 order: 2 order: 3 order: 1 }")
        + layer("Flatten", f"arm{k}_flat", f"arm{k}_perm")
        for k in (1, 2)
    ) + layer("Concat", "arm", "arm1_flat arm2_flat")
    place = refined.index('layer { name: "detection_out"')
    deploy, caffemodel = write_net(tmp_path, refined[:place] + arm + refined[place:])
    target, prototxt = str(tmp_path / "new.caffemodel"), str(tmp_path / "new.prototxt")
    command = ["convert", caffemodel, target, "--model", deploy, "--prototxt", prototxt, "--for", "opencv"]
    assert main(command) == 2
    assert "OpenCV ignores the fourth and fifth bottom" in capsys.readouterr().err
    assert not Path(target).exists()


@pytest.mark.parametrize("case", ["PReLU", "BatchNorm by itself"])
@pytest.mark.parametrize(("blobs", "says"), [([], "its weights are missing"), ([np.ones(5, "f4")], "do not fit")])
def test_weights_that_are_missing_or_do_not_fit(case, blobs, says):
    text, _ = CASES[case]
    param = parse(text, caffe_pb2.NetParameter)
    weights = net_blobs(net_of(text)) | {"slope": blobs, "n": blobs}
    with pytest.raises(ConversionError, match=says):
        fit_net(param, weights, "mnn")


def test_types_that_the_reader_does_not_know_are_named(tmp_path, capsys):
    text = INPUT + CONV + layer("SPP", "end", "c", settings="spp_param { pyramid_height: 2 }")
    written(tmp_path, net_of(text), text, "mnn")
    assert "mnn does not know SPP" in capsys.readouterr().out
