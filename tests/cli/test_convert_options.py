"""`convert`: each direction reads the options that it declares, and no option is ignored."""

import numpy as np
import pytest

from pyscratchdet.cli import main
from pyscratchdet.cli.convert import DIRECTIONS, OPTIONS
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.weights import write_caffemodel

DEPLOY = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 6 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 1 } }
"""
# One pair of files for each direction, in the order of the table.
PAIRS = {
    "a solver state for PyTorch": "a.solverstate a.pt",
    "a solver state from PyTorch": "a.pt a.solverstate.h5",
    "a PyTorch model under a detector's layers": "torchvision:vgg11 a.caffemodel",
    "a PyTorch classifier to train on, a folder, its name ending in /": "torchvision:resnet18 a/",
    "a detector on a PyTorch classifier, a folder to train, its name ending in /": "torchvision:resnet18 a/",
    "a PyTorch model as a net": "timm:resnet18 a.caffemodel",
    "a checkpoint of mmdetection": "a.pth a.caffemodel",
    "a COCO detector for VOC": "a.caffemodel b.caffemodel",
    "a net for another engine's Caffe reader": "a.pt b.caffemodel",
    "a net in int8": "a.caffemodel b.onnx",
    "a folded net in Caffe's forms": "a.pt b.caffemodel",
    "a folded net for PyTorch": "a.caffemodel b.safetensors",
    "a folded net in ONNX": "a.caffemodel b.onnx",
    "an ONNX graph as a net": "a.onnx b.caffemodel",
    "a net in ONNX": "a.caffemodel b.onnx",
    "a net for torch.export.load": "a.caffemodel b.pt2",
    "a net as PyTorch source, with its weights in a .safetensors file beside it": "a.caffemodel b.py",
    "a folder to deploy, its name ending in /": "a.caffemodel b/",
    "weights in Caffe's forms": "a.caffemodel b.caffemodel.h5",
    "weights for PyTorch": "a.caffemodel b.pth",
}


def words(name):
    """An option as it stands on the command line."""
    settings = OPTIONS.get(name, {"action": "store_true"})
    flag = f"--{name.replace('_', '-')}"
    if settings.get("action") == "store_true":
        return [flag]
    return [flag, settings["choices"][0] if "choices" in settings else "9"]


def test_every_direction_has_a_pair_of_files():
    assert [direction.what for direction in DIRECTIONS] == list(PAIRS)


@pytest.mark.parametrize("direction", DIRECTIONS, ids=lambda direction: direction.what)
def test_an_option_that_is_not_read_is_refused_by_name(direction, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needed = [word for name in direction.required for word in words(name)]
    choosing = {name for other in DIRECTIONS for name in other.chosen_by}
    for name in {*OPTIONS, "allow_unknown"} - {*direction.required, *direction.takes} - choosing:
        assert main(["convert", *PAIRS[direction.what].split(), *needed, *words(name)]) == 2
        message = capsys.readouterr().err
        assert f"{direction.what} does not use --{name.replace('_', '-')}, expected" in message
        assert message.endswith("[convert.option]\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("direction", [d for d in DIRECTIONS if d.needs], ids=lambda direction: direction.what)
def test_an_option_that_is_missing_is_named(direction, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = [word for name in direction.chosen_by for word in words(name)]
    assert main(["convert", *PAIRS[direction.what].split(), *chosen]) == 2
    message = capsys.readouterr().err
    assert all(f"--{name} " in message for name in direction.needs)
    assert message.endswith("[convert.missing-option]\n")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("a.caffemodel b.caffemodel --coco-to-voc --half --size 5 --weights nowhere.pth", "--half, --size, --weights"),
        ("a.caffemodel b.caffemodel --coco-to-voc --mmdetection", "--mmdetection"),
        ("a.caffemodel b.caffemodel --coco-to-voc --fold", "--fold"),
        ("a.onnx b.caffemodel --prototxt c.prototxt --model d.prototxt", "--model"),
        ("a.caffemodel b.pt --mmdetection", "--mmdetection"),
        ("a.caffemodel b.caffemodel --half", "--half"),
    ],
)
def test_options_of_several_directions_at_once(line, named, capsys):
    assert main(["convert", *line.split()]) == 2
    assert f"does not use {named}, expected" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["a.caffemodel b.bin", "a.png b.pt", "torchvision:vgg11 b.pt", "a.solverstate b.onnx"])
def test_files_between_which_there_is_no_direction(line, capsys):
    assert main(["convert", *line.split()]) == 2
    assert "[convert.ending]" in capsys.readouterr().err


def test_help_shows_the_options_of_each_direction(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    text = capsys.readouterr().out
    assert "a net in ONNX: --model PROTOTXT [--half]" in text
    assert "a COCO detector for VOC: --coco-to-voc\n  from .caffemodel\n  to .caffemodel\n" in text


def test_defaults_hold_where_an_option_is_read(tmp_path, capsys):
    (tmp_path / "deploy.prototxt").write_text(DEPLOY)
    structure = caffe_pb2.NetParameter()
    structure.layer.add(name="conv", type="Convolution")
    blobs = {"conv": [np.ones((4, 3, 1, 1), np.float32), np.ones(4, np.float32)]}
    write_caffemodel(tmp_path / "a.caffemodel", structure, blobs)
    files = [str(tmp_path / name) for name in ("a.caffemodel", "a.onnx")]
    assert main(["convert", *files, "--model", str(tmp_path / "deploy.prototxt")]) == 0
    assert capsys.readouterr().out.startswith(f"{files[1]}: 1 layer, 16 values, ")


@pytest.mark.parametrize("target", ["net.onnx", "net.pt2", "net.py", "net/", "net.onnx --calibrate ."])
@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            "--labelmap voc",
            "voc: label map and net differ, expected labels 0 to 2, as the net has num_classes 3 and found",
        ),
        ("--mean 127.5,1", "the mean does not fit the net, expected 1 number or 3, one per channel"),
        ("--scale 0", "a scale that leaves nothing of a picture"),
    ],
)
def test_a_file_says_of_itself_only_what_fits(target, facts, said, block_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, weights, labels = block_model
    words = f"convert {weights} {target} --model {model} --labelmap {labels} {facts}".split()
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


NAMES = """layer { name: "in" type: "Input" top: "d\\033[31m" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 5 } } }
layer { name: "s" type: "SINK" bottom: "d\\033[31m" TOP }"""


def write_names(folder, sink, top, size):
    (folder / "net.prototxt").write_text(NAMES.replace("SINK", sink).replace("TOP", top))
    net = caffe_pb2.NetParameter(layer=[caffe_pb2.LayerParameter(name="s", type=sink)])
    write_caffemodel(folder / "w.caffemodel", net, {"s": [np.ones(size, "f4")]})
    return ["convert", str(folder / "w.caffemodel"), str(folder / "o.onnx"), "--model", str(folder / "net.prototxt")]


def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path, capsys):
    assert main(write_names(tmp_path, "Scale", 'top: "o" scale_param { axis: 2 }', 4)) == 0
    out = capsys.readouterr().out
    assert r"d\x1b[31m" in out
    assert "\x1b" not in out


def test_a_net_without_outputs_is_no_graph(tmp_path, capsys):
    words = write_names(tmp_path, "Silence", "", 2)
    write_caffemodel(words[1], caffe_pb2.NetParameter(layer=[caffe_pb2.LayerParameter(name="x")]), {"x": [np.ones(2)]})
    assert main(words) == 2
    assert "no outputs" in capsys.readouterr().err
