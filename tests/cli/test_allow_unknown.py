"""`--allow-unknown`: whatever reads a prototxt refuses a field Caffe does not have, and passes it over if asked."""

import argparse
import importlib
import shlex

import cv2
import numpy as np
import pytest

from pyscratchdet.cli import COMMANDS, main
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.weights import write_caffemodel

DATA = """
layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 2 dim: 3 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 4 } surprise: 1 }
layer { name: "loss" type: "Reduction" bottom: "fc" top: "loss" loss_weight: 1 }
"""
DEPLOY = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 6 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" surprise: 1
  convolution_param { num_output: 4 kernel_size: 1 } }
"""
DETECTOR = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 6 dim: 8 } } }
layer { name: "loc" type: "Pooling" bottom: "data" top: "pool" pooling_param { global_pooling: true } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "loc" inner_product_param { num_output: 4 } surprise: 1 }
layer { name: "conf" type: "InnerProduct" bottom: "pool" top: "conf" inner_product_param { num_output: 2 } }
layer { name: "prior" type: "PriorBox" bottom: "pool" bottom: "data" top: "prior" prior_box_param { min_size: 4 } }
layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "out"
  detection_output_param { num_classes: 2 nms_param { top_k: 5 } keep_top_k: 5 } }
"""
LINES = [
    "summary KIT/deploy.prototxt",
    "draw-net KIT/deploy.prototxt OUT/net.svg",
    "upgrade-net KIT/deploy.prototxt OUT/net.prototxt",
    "upgrade-solver KIT/solver.prototxt OUT/solver.prototxt",
    "time --model KIT/data.prototxt --iterations 1",
    "test --model KIT/data.prototxt --weights KIT/data.caffemodel --iterations 1",
    "train --solver KIT/solver.prototxt",
    "extract-features KIT/data.caffemodel KIT/data.prototxt fc OUT/features 1 lmdb",
    "convert KIT/deploy.caffemodel OUT/net.safetensors --model KIT/deploy.prototxt",
    "convert KIT/deploy.caffemodel OUT/net.onnx --model KIT/deploy.prototxt",
    "convert KIT/deploy.caffemodel OUT/folded.caffemodel --fold --prototxt OUT/f.prototxt --model KIT/deploy.prototxt",
    "verify --model KIT/deploy.prototxt --weights KIT/deploy.caffemodel --against fast folded onnxruntime opencv",
    "detect KIT/picture.png --model KIT/detector.prototxt --weights KIT/detector.caffemodel -o OUT/found",
]
READERS = {*(line.split()[0] for line in LINES), "score"}
KINDS = ("voc", "coco", "caffe")


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    from pyscratchdet.proto.forks import UnknownFieldWarning
    from pyscratchdet.proto.text import unknown_fields_allowed
    from pyscratchdet.runtime import build_net, save_weights

    folder = tmp_path_factory.mktemp("kit")
    for name, text in (("data", DATA), ("deploy", DEPLOY), ("detector", DETECTOR)):
        path = folder / f"{name}.prototxt"
        path.write_text(text)
        with pytest.warns(UnknownFieldWarning), unknown_fields_allowed():
            save_weights(build_net(str(path)), folder / f"{name}.caffemodel")
    (folder / "solver.prototxt").write_text(
        f'net: "{folder}/data.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 snapshot_after_train: false\n'
        "surprise: 2\n"
    )
    assert cv2.imwrite(str(folder / "picture.png"), np.zeros((6, 8, 3), np.uint8))
    return folder


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split()[0])
def test_refused_unless_asked(line, kit, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    arguments = shlex.split(line.replace("KIT", str(kit)).replace("OUT", str(tmp_path / "out")))
    assert main(arguments) == 2
    assert 'has no field "surprise"' in capfd.readouterr().err
    assert main([*arguments, "--allow-unknown"]) == 0
    warnings = [text for text in capfd.readouterr().err.splitlines() if "passed over" in text]
    # One per file, however often it is read.
    assert len(warnings) == (2 if arguments[0] == "train" else 1)
    assert all(text.startswith(f"pyscratchdet: warning: {kit}/") for text in warnings)


def parser_of(command):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"pyscratchdet.cli.{COMMANDS[command][0]}").configure(parser)
    return parser


@pytest.mark.parametrize("command", sorted(READERS))
def test_every_reader_has_the_option(command):
    assert "--allow-unknown" in parser_of(command).format_help()


@pytest.mark.parametrize("kind", KINDS)
def test_every_evaluation_has_the_option(kind):
    options = {"voc": ["--data", "d"], "coco": ["--data", "d"], "caffe": []}[kind]
    assert parser_of("evaluate").parse_args([kind, *options, "--allow-unknown"]).allow_unknown


def test_convert_repeats_in_its_verdict_what_was_passed_over(tmp_path, capsys):
    (tmp_path / "deploy.prototxt").write_text(DEPLOY)
    net = caffe_pb2.NetParameter()
    net.layer.add(name="conv", type="Convolution")
    blobs = {"conv": [np.ones((4, 3, 1, 1), np.float32), np.ones(4, np.float32)]}
    write_caffemodel(tmp_path / "a.caffemodel", net, blobs)
    files = [str(tmp_path / name) for name in ("a.caffemodel", "a.onnx", "f.caffemodel", "f.prototxt")]
    for line in ([*files[:2]], [files[0], files[2], "--fold", "--prototxt", files[3]]):
        assert main(["convert", *line, "--model", str(tmp_path / "deploy.prototxt"), "--allow-unknown"]) == 0
        printed = capsys.readouterr().out
        assert "results may differ from those of the net's own Caffe, since these fields were passed over:\n" in printed
        assert printed.endswith('layer "conv" (Convolution): surprise: 1\n')


@pytest.mark.parametrize(
    "text", ['layer { name: "a" }', 'layer { name: "a', "layers: 1", "base_lr: 0.1 layer { a { b: 1 } }"]
)
def test_a_net_given_as_a_solver_is_one_message(text, tmp_path, capsys):
    (tmp_path / "s.prototxt").write_text(text)
    assert main(["upgrade-solver", str(tmp_path / "s.prototxt"), str(tmp_path / "out.prototxt")]) == 2
    assert capsys.readouterr().err.startswith("pyscratchdet: ")
    assert not (tmp_path / "out.prototxt").exists()
