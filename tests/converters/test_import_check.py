"""Imports with their proof: the written net against its source and OpenCV, in Python and by command."""

import sys

import cv2
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save
from torch import nn

import pyscratchdet
from pyscratchdet.cli import main
from pyscratchdet.cli.convert import OPTIONS
from pyscratchdet.converters.imports import import_file, is_proved, report
from pyscratchdet.converters.layer_sets import LAYER_SETS
from pyscratchdet.proto.weights import read_weights, write_caffemodel

OWN = """
import torch
from torch import nn


class Other(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x) * (3 if torch.compiler.is_exporting() else 2)


class Same(Other):
    def forward(self, x):
        return self.conv(x) * 3
"""


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 5, 3), nn.Linear(7, 5)

    def forward(self, picture, features):
        return {"sum": self.conv(picture).relu().mean((2, 3)) + self.fc(features), "fc": self.fc(features)}


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("own_nets", None)


def test_examples_are_what_the_check_runs_on(tmp_path):
    generator = torch.Generator().manual_seed(2)
    examples = torch.randn(2, 3, 8, 9, generator=generator), torch.randn(2, 7, generator=generator)
    imported = pyscratchdet.import_module(TwoInputs(), examples, "two")
    assert imported.net.inputs == ["picture", "features"]
    assert list(imported.net.outputs) == ["sum", "fc"]
    for name, example in zip(imported.net.inputs, examples, strict=True):
        np.testing.assert_array_equal(imported.examples[name], example.numpy())
    comparisons = imported.write(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert [comparison.reference for comparison in comparisons] == ["PyTorch", "opencv"]
    assert is_proved(imported, comparisons)
    shown = {blob.blob for blob in comparisons[0].blobs}
    assert shown >= set(imported.net.outputs.values()) | {imported.net.sources["conv"]}
    assert imported.write(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", check=False) == []


def test_a_wrong_weight_is_found_and_named(tmp_path):
    files = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    imported = pyscratchdet.import_module(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)), (1, 3, 6, 7))
    imported.write(*files, check=False)
    blobs = dict(imported.net.blobs)
    blobs["1"] = [blobs["1"][0], blobs["1"][1] + 1]
    write_caffemodel(files[1], imported.net.param, blobs)
    source, opencv = imported.check(*files)
    assert not source.agrees
    assert source.culprit.layer == "1"
    assert opencv.agrees
    assert not is_proved(imported, [source, opencv])


@pytest.mark.parametrize("activation", [nn.GELU(), nn.ReLU()])
def test_an_approximation_excuses_nothing_but_itself(tmp_path, activation):
    """What comes behind a GELU may drift; a wrong weight there is still found."""
    files = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    module = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Conv2d(4, 5, 1), nn.Conv2d(5, 6, 1))
    imported = pyscratchdet.import_module(module, (1, 3, 6, 7), approximate=True)
    assert bool(imported.net.approximated) == isinstance(activation, nn.GELU)
    assert is_proved(imported, imported.write(*files))
    blobs = dict(imported.net.blobs)
    blobs["3"] = [blobs["3"][0], blobs["3"][1] + 1]
    write_caffemodel(files[1], imported.net.param, blobs)
    assert not is_proved(imported, imported.check(*files))


def test_exit_status_is_1_where_the_written_net_parts(own, capsys):
    """A module that computes something else when it is exported."""
    line = ["convert", "module:own_nets:Other", "a.caffemodel", "--prototxt", "a.prototxt", "--input", "1x3x8x9"]
    assert main(line) == 1
    assert "pyscratchdet and PyTorch part at blob" in capsys.readouterr().out
    assert main([*line, "--no-check"]) == 0
    assert "PyTorch" not in capsys.readouterr().out
    line[1] = "module:own_nets:Same"
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "pyscratchdet and PyTorch agree on all" in said
    assert "pyscratchdet and opencv agree on all" in said


def test_opencv_5_has_no_importer(tmp_path, monkeypatch):
    monkeypatch.delattr(cv2.dnn, "readNetFromCaffe")
    imported = pyscratchdet.import_module(nn.Conv2d(3, 4, 3), (1, 3, 6, 7))
    comparisons = imported.write(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert is_proved(imported, comparisons)
    assert any("cannot read Caffe nets" in line for line in report(imported, comparisons))


def onnx_file(folder):
    weight = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype("f4")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", (1, 3, 6, 7)), ("y", None))
    ]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, folder / "net.onnx")
    return folder / "net.onnx"


def test_an_onnx_file_against_onnxruntime(tmp_path):
    imported = import_file(onnx_file(tmp_path))
    source, opencv = imported.write(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert source.reference == "onnxruntime"
    assert source.agrees
    assert opencv.agrees
    assert {blob.blob for blob in source.blobs} == {"c", "y"}


def test_without_onnxruntime_the_check_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    imported = import_file(onnx_file(tmp_path))
    source, opencv = imported.write(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert "onnxruntime is not installed" in source.verdict()
    assert opencv.agrees
    assert is_proved(imported, [source, opencv])


def test_cuts_by_command(own, capsys):
    path = str(onnx_file(own))
    assert main(["convert", path, "a.caffemodel", "--prototxt", "a.prototxt", "--outputs", "c"]) == 0
    assert list(read_weights("a.caffemodel").blobs) == ["c"]
    assert 'name: "y"' not in (own / "a.prototxt").read_text()
    assert main(["convert", path, "a.caffemodel", "--prototxt", "a.prototxt", "--outputs", "d"]) == 2
    assert "[import.output]" in capsys.readouterr().err


def test_the_command_knows_all_targets():
    assert set(OPTIONS["layers"]["choices"]) == set(LAYER_SETS)
