"""The names at the top of the package: there, lazily, documented and typed; what they do is tried on a small net."""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pyscratchdet
from pyscratchdet.errors import ConversionError, FileError, UsageError

# What the project promises its users (issue 20), besides what else is there.
PROMISED = {"load_net", "Detector", "convert", "verify", "import_module", "read_net", "Layer", "register"}
NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 5 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
"""
NAMES = [name for name in pyscratchdet.__all__ if name != "__version__"]


def test_what_is_promised_is_there():
    assert set(pyscratchdet.__all__) >= PROMISED
    assert pyscratchdet.__all__ == sorted(pyscratchdet.__all__)
    assert set(NAMES) == set(pyscratchdet._PLACES)
    assert set(pyscratchdet.__all__) <= set(dir(pyscratchdet))
    with pytest.raises(AttributeError, match="no attribute 'load_nets'"):
        pyscratchdet.load_nets  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_documented_and_typed(name):
    thing = getattr(pyscratchdet, name)
    assert len(inspect.getdoc(thing)) > 40
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(one.annotation is not inspect.Parameter.empty for one in signature.parameters.values())


@pytest.mark.parametrize(("code", "absent"), [
    ("import pyscratchdet", {"torch", "numpy", "cv2", "google.protobuf", "pyscratchdet.layers"}),
    ("import pyscratchdet; pyscratchdet.read_net, pyscratchdet.Layer, pyscratchdet.register", {"torch"}),
    ("import pyscratchdet; pyscratchdet.convert, pyscratchdet.verify", {"torch", "onnx"}),
])  # fmt: skip
def test_a_name_brings_no_more_than_it_needs(code, absent):
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not absent & set(done.stdout.split())


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    net = pyscratchdet.load_net("net.prototxt")
    pyscratchdet.save_weights(net, "net.caffemodel")
    return net


def test_convert_and_verify_are_the_commands(net, tmp_path, capsys):
    outcome = pyscratchdet.convert("net.caffemodel", tmp_path / "net.onnx", model="net.prototxt", batch=1, half=False)
    assert outcome.is_sound
    assert outcome.text.startswith("1 layer, 56 values")
    found = pyscratchdet.verify("net.prototxt", "net.caffemodel", against=["torch"])
    assert [comparison.agrees for comparison in found] == [True]
    assert capsys.readouterr().out == ""
    again = pyscratchdet.convert("net.caffemodel", "folded.caffemodel", model="net.prototxt", for_="opencv",
                                 prototxt="folded.prototxt")  # fmt: skip
    assert again.is_sound
    assert np.array_equal(pyscratchdet.load_net("folded.prototxt", "folded.caffemodel").params["conv"][0].detach(),
                          net.params["conv"][0].detach())  # fmt: skip


def test_a_call_does_not_replace_what_it_reads(net):
    before = Path("net.caffemodel").read_bytes()
    with pytest.raises(FileError, match="is not replaced"):
        pyscratchdet.convert("net.caffemodel", Path("net.caffemodel"))
    assert Path("net.caffemodel").read_bytes() == before


def test_a_wrong_call_is_one_typed_error(net, capsys):
    with pytest.raises(UsageError, match="modle"):
        pyscratchdet.convert("net.caffemodel", "net.onnx", modle="net.prototxt")
    with pytest.raises(UsageError, match="invalid choice"):
        pyscratchdet.verify("net.prototxt", phase="BOTH")
    with pytest.raises(ConversionError, match="by their endings"):
        pyscratchdet.convert("net.caffemodel", "net.jpg")
    assert capsys.readouterr().err == ""
