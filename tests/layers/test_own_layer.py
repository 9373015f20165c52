"""docs/own_layer.md does what it says: its code and its net are taken from the page and run."""

import re
import sys
from pathlib import Path

import onnx_stub
import pytest
import torch
from harness import make_layer

import pyscratchdet
from pyscratchdet.errors import LayerError, NetError
from pyscratchdet.layers import base, register

PAGE = (Path(__file__).parents[2] / "docs" / "own_layer.md").read_text(encoding="utf-8")


def block(start):
    """Returns the fenced block of the page that holds `start`."""
    return next(text for text in re.findall(r"^```[^\n]*\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) if start in text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "pixel_shuffle.py").write_text(block('@register("PixelShuffle")'))
    (tmp_path / "enlarged.prototxt").write_text(block('name: "enlarged"'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    base._TYPES.pop("PixelShuffle", None)
    sys.modules.pop("pixel_shuffle", None)


def test_example(folder):
    names = {}
    exec(block("import pixel_shuffle"), names)
    data = torch.arange(48.0).reshape(1, 8, 2, 3).requires_grad_()
    top = names["net"]({"data": data})["enlarge"]
    torch.testing.assert_close(top, torch.nn.functional.pixel_shuffle(data, 2), rtol=0, atol=0)
    top[0, 1, 3, 4].backward()  # row 1, column 2 of the third of its four channels
    assert data.grad.nonzero().tolist() == [[0, 6, 1, 2]]


def test_example_as_onnx(folder):
    __import__("pixel_shuffle")
    text = 'name: "l" type: "PixelShuffle" bottom: "x" top: "t" python_param { param_str: \'{"factor": 3}\' }'
    layer, _ = make_layer(text, [(2, 18, 2, 3)])
    data = torch.randn(2, 18, 2, 3)
    (found,) = onnx_stub.run(layer, [data.shape], [data.numpy()], (), 17)
    assert (found == layer.forward([data], ())[0].numpy()).all()


def test_rule_of_the_example_names_layer_and_place(folder):
    net = folder / "wrong.prototxt"
    net.write_text((folder / "enlarged.prototxt").read_text().replace('"factor": 2', '"factor": 3'))
    __import__("pixel_shuffle")
    with pytest.raises(LayerError) as caught:
        pyscratchdet.load_net(net)
    assert caught.value.code == "layer.factor"
    assert str(caught.value).startswith(f"{net}:3:")
    assert 'layer "enlarge" (PixelShuffle)' in str(caught.value)


def test_unknown_until_imported(folder):
    with pytest.raises(NetError) as caught:
        pyscratchdet.load_net(folder / "enlarged.prototxt")
    assert caught.value.code == "net.unknown-type"


def test_names_are_registered_once(folder):
    __import__("pixel_shuffle")
    for name in ("PixelShuffle", "ReLU"):
        base.layer_types()
        with pytest.raises(NetError) as caught:
            register(name)(type("Mine", (base.Layer,), {}))
        assert caught.value.code == "net.duplicate-type"
