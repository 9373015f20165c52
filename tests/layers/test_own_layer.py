"""docs/own_layer.md does what it says: its code and its net are taken from the page and run."""

import re
import sys
from pathlib import Path

import pytest
import torch

import pyscratchdet
from pyscratchdet.errors import LayerError, NetError
from pyscratchdet.layers import base, register

PAGE = (Path(__file__).parents[2] / "docs" / "own_layer.md").read_text(encoding="utf-8")


def block(start):
    """Returns the fenced block of the page that holds `start`."""
    return next(text for text in re.findall(r"^```\w*\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) if start in text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "shuffle_channel.py").write_text(block('@register("ShuffleChannel")'))
    (tmp_path / "shuffled.prototxt").write_text(block('name: "shuffled"'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    base._TYPES.pop("ShuffleChannel", None)
    sys.modules.pop("shuffle_channel", None)


def test_example(folder):
    names = {}
    exec(block("load_net"), names)
    data = torch.arange(24.0).reshape(1, 6, 2, 2).requires_grad_()
    top = names["net"]({"data": data})["shuffle"]
    assert top[0, :, 0, 0].tolist() == [0, 8, 16, 4, 12, 20]
    top[0, 1].sum().backward()
    assert data.grad[0, :, 0, 0].tolist() == [0, 0, 1, 0, 0, 0]


def test_rule_of_the_example_names_layer_and_place(folder):
    net = folder / "wrong.prototxt"
    net.write_text((folder / "shuffled.prototxt").read_text().replace('"group": 3', '"group": 4'))
    __import__("shuffle_channel")
    with pytest.raises(LayerError) as caught:
        pyscratchdet.load_net(net)
    assert caught.value.code == "layer.group"
    assert str(caught.value).startswith(f"{net}:3:")
    assert 'layer "shuffle" (ShuffleChannel)' in str(caught.value)


def test_unknown_until_imported(folder):
    with pytest.raises(NetError) as caught:
        pyscratchdet.load_net(folder / "shuffled.prototxt")
    assert caught.value.code == "net.unknown-type"


def test_names_are_registered_once(folder):
    __import__("shuffle_channel")
    for name in ("ShuffleChannel", "ReLU"):
        base.layer_types()
        with pytest.raises(NetError) as caught:
            register(name)(type("Mine", (base.Layer,), {}))
        assert caught.value.code == "net.duplicate-type"
