"""A PyTorch classifier that is trained on: the folder that `convert` writes, and what comes of it."""

import sys

import cv2
import numpy as np
import pytest
import torch

from pyscratchdet.cli import main
from pyscratchdet.converters.torch_models import named_model
from pyscratchdet.layers.plan import read_net
from pyscratchdet.proto.weights import read_weights
from pyscratchdet.runtime import load_net

NETS = """
import torch
from torch import nn


def small(classes=3):
    body = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Dropout(0.5), nn.Linear(8, classes))


def probable():
    return nn.Sequential(small(), nn.Softmax(1))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.small = small()

    def forward(self, x):
        return torch.cat([self.small(x), self.small(x)], 1)
"""
COLOURS = ((220, 30, 30), (30, 30, 220))  # of two classes


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with the nets' module and two classes of pictures that their colour tells apart."""
    (tmp_path / "classifiers.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(1)
    for name, number in (("train", 12), ("test", 7)):
        lines = []
        for k in range(number):
            noise = rng.integers(-30, 30, (40, 44, 3))
            cv2.imwrite(f"data/{name}{k}.png", np.clip(COLOURS[k % 2] + noise, 0, 255).astype(np.uint8))
            lines.append(f"{name}{k}.png {k % 2}")
        (tmp_path / "data" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    torch.manual_seed(1)
    yield tmp_path
    sys.modules.pop("classifiers", None)


def convert(factory, *more):
    lists = ["--lists", "data/train.txt,data/test.txt", "--size", "28"]
    return main(["convert", f"module:classifiers:{factory}", "net/", *lists, *more])


def test_new_classes_are_learnt_from_the_first_command_on(data, capsys):
    assert convert("small") == 0
    said = capsys.readouterr().out
    assert "2 classes, 12 pictures to train on, 7 to test on" in said
    assert "begins anew: 6_new" in said
    assert "not in the nets: its 1 Dropout layer" in said
    assert "6_new" not in read_weights("net/start.caffemodel").blobs
    train = read_net("net/train.prototxt").param
    rates = {layer.name: [param.lr_mult for param in layer.param] for layer in train.layer}
    assert rates["0"] == [1]
    assert rates["6_new"] == [10, 20]
    solver = (data / "net/solver.prototxt").read_text()
    assert "test_iter: 1" in solver
    (data / "net/solver.prototxt").write_text(solver.replace("base_lr: 0.001", "base_lr: 0.02"))  # 30 updates
    assert main(["train", "--solver", "net/solver.prototxt", "--weights", "net/start.caffemodel"]) == 0
    assert "accuracy = 1" in capsys.readouterr().err
    snapshot = max((data / "net").glob("*.caffemodel"), key=lambda path: path.stat().st_mtime)
    net = load_net("net/deploy.prototxt", snapshot)
    picture = np.full((28, 28, 3), COLOURS[1], np.float32) - train.layer[0].transform_param.mean_value
    with torch.no_grad():
        assert net(torch.from_numpy(picture.astype("f4").transpose(2, 0, 1)[None]))["prob"].argmax() == 1


@pytest.mark.parametrize("factory", ["small", "probable"])
def test_with_as_many_classes_nothing_begins_anew(data, capsys, factory):
    """The deploy net gives what the module gives, for the same picture prepared in the other way."""
    with open("data/train.txt", "a") as file:
        file.write("train0.png 2\n")
    torch.manual_seed(3)
    assert convert(factory) == 0
    assert "begins anew" not in capsys.readouterr().out
    torch.manual_seed(3)
    module = named_model(f"module:classifiers:{factory}").module
    bgr = np.random.default_rng(1).integers(0, 256, (28, 28, 3)).astype("f4")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    rgb = ((bgr[:, :, ::-1] / 255 - mean) / std).astype("f4")
    layer = read_net("net/test.prototxt").param.layer[0]
    caffe = bgr - np.array(layer.transform_param.mean_value, "f4")
    with torch.no_grad():
        expected = module(torch.from_numpy(rgb.transpose(2, 0, 1)[None].copy()))
        expected = expected if factory == "probable" else expected.softmax(1)
        found = load_net("net/deploy.prototxt", "net/start.caffemodel")(
            torch.from_numpy(caffe.transpose(2, 0, 1)[None])
        )["prob"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)  # a few float32 layers


def test_lists_that_do_not_fit_are_refused(data, capsys):
    assert main(["convert", "module:classifiers:small", "net/", "--lists", "data/train.txt", "--size", "28"]) == 2
    assert "two lists are needed" in capsys.readouterr().err
    (data / "data/test.txt").write_text("test0.png 5\n")
    assert convert("small") == 2
    assert "labels up to 1 in data/train.txt, up to 5 in data/test.txt" in capsys.readouterr().err
    (data / "data/test.txt").write_text("test0.png -1\n")
    assert convert("small") == 2
    assert "labels count from 0" in capsys.readouterr().err
    assert not (data / "net").exists()


def test_scores_that_no_layer_makes_are_refused(data, capsys):
    assert convert("Twice") == 2
    assert "the last layer with weights does not make the scores" in capsys.readouterr().err
    assert not (data / "net").exists()
