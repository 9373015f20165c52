"""Pictures of nets: what is in them, whatever lays them out."""

import shutil
import xml.etree.ElementTree as ElementTree

import pytest

from pyscratchdet.caffe import draw
from pyscratchdet.cli import main
from pyscratchdet.errors import ConversionError, UsageError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse

TEXT = """
name: "a<b"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_size: 3 pad: 1 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "pool" bottom: "conv" top: "sum" }
layer { name: "loss" type: "EuclideanLoss" bottom: "sum" bottom: "conv" top: "loss" include { phase: TRAIN } }
"""
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def net():
    return parse(TEXT, caffe_pb2.NetParameter)


def test_boxes_hold_in_place_layers_and_shapes(net):
    boxes = draw.boxes_of(net, caffe_pb2.TEST)
    assert [box.name for box in boxes] == ["data", "conv", "pool", "sum"]
    assert boxes[1].lines() == ["conv", "Convolution 3 / 2 -> 5", "ReLU", "1 x 5 x 4 x 3"]
    assert [box.sources for box in boxes] == [[], [0], [1], [2, 1]]
    assert [box.name for box in draw.boxes_of(net)][-1] == "loss"


def test_priors_are_not_tied_to_the_images():
    net = parse(
        """
        input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
        layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
                convolution_param { num_output: 5 kernel_size: 3 } }
        layer { name: "prior" type: "PriorBox" bottom: "conv" bottom: "data" top: "prior"
                prior_box_param { min_size: 3 } }
        """,
        caffe_pb2.NetParameter,
    )
    assert draw.boxes_of(net)[-1].sources == [1]


@pytest.fixture
def no_graphviz(monkeypatch):
    monkeypatch.setattr(draw.shutil, "which", lambda name: None)


@pytest.mark.parametrize("rankdir", draw.RANKDIRS)
def test_plain_svg_is_laid_out_along_the_direction(net, rankdir, no_graphviz):
    picture = ElementTree.fromstring(draw.draw_net(net, rankdir, "svg", caffe_pb2.TEST))
    assert picture.find(f"{SVG}title").text == "a<b"
    width, height = float(picture.get("width")), float(picture.get("height"))
    boxes = [tuple(float(box.get(key)) for key in ("x", "y", "width", "height")) for box in picture.iter(f"{SVG}rect")]
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
    along = [box[1 if rankdir in ("TB", "BT") else 0] for box in boxes]
    assert along == sorted(along, reverse=rankdir in ("BT", "RL"))
    assert len(list(picture.iter(f"{SVG}path"))) == 4
    # The text of each box stands within it.
    texts = iter(picture.iter(f"{SVG}text"))
    for (x, y, w, h), box in zip(boxes, draw.boxes_of(net, caffe_pb2.TEST), strict=True):
        for line in box.lines():
            text = next(texts)
            assert text.text == line
            assert x < float(text.get("x")) < x + w
            assert y < float(text.get("y")) < y + h
    # No two boxes overlap.
    for index, (x, y, w, h) in enumerate(boxes):
        for x2, y2, w2, h2 in boxes[:index]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_graph_of_pydot(net):
    net.layer[1].name = 'co"n\\v'
    graph = draw.get_pydot_graph(net, "LR", phase=caffe_pb2.TEST)
    lines = graph.to_string().splitlines()
    assert lines[:2] == ['digraph "a<b" {', "rankdir=LR;"]
    assert 'n1 [label="co\\"n\\\\v\\nConvolution 3 / 2 -> 5\\nReLU\\n1 x 5 x 4 x 3", fillcolor="#cfe2f3"];' in lines
    assert 'n1 -> n3 [label="5"];' in lines  # the convolution's outputs
    assert "n1 -> n3;" in draw.get_pydot_graph(net, "LR", False, caffe_pb2.TEST).to_string()


def test_multipliers_of_the_learning_rate_are_shown_where_asked_for(net, no_graphviz):
    """BVLC's draw_net.py gives `display_lrm` as the fifth argument."""
    for values, text in (((), "lr_mult 1"), ((1, 2), "lr_mult 1, 2")):
        del net.layer[1].param[:]
        for value in values:
            net.layer[1].param.add(lr_mult=value)
        for graph in (
            draw.get_pydot_graph(net, "TB", display_lrm=True).to_string(),
            draw.draw_net(net, "TB", "svg", None, True).decode(),
        ):
            assert graph.count("lr_mult") == 1
            assert text in graph
    assert b"lr_mult" not in draw.draw_net(net, "TB", "svg")


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@pytest.mark.parametrize("rankdir", draw.RANKDIRS)
def test_graphviz_draws_the_same_boxes(net, rankdir):
    picture = ElementTree.fromstring(draw.draw_net(net, rankdir, "svg", caffe_pb2.TEST))
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert {line for box in draw.boxes_of(net, caffe_pb2.TEST) for line in box.lines()} <= set(texts)
    assert draw.draw_net(net, rankdir, "png", caffe_pb2.TEST).startswith(b"\x89PNG")
    assert b"<svg" in draw.draw_net(net, rankdir, "html", caffe_pb2.TEST)


def test_nets_without_known_shapes_are_drawn(net):
    net.layer[0].input_param.Clear()
    net.layer[1].convolution_param.Clear()
    assert draw.boxes_of(net)[1].lines()[0] == "conv"


@pytest.mark.parametrize("suffix", ["svg", "html", "dot"])
def test_command_writes_files(suffix, tmp_path, no_graphviz, capsys):
    source = tmp_path / "net.prototxt"
    source.write_text(TEXT)
    target = tmp_path / f"net.{suffix}"
    assert main(["draw-net", str(source), str(target), "--phase", "ALL"]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    text = target.read_text(encoding="utf-8")
    assert "loss" in text
    assert {"svg": "<svg", "html": "<!doctype html>", "dot": "digraph"}[suffix] in text


def test_what_cannot_be_drawn(net, tmp_path, no_graphviz):
    with pytest.raises(ConversionError, match="png pictures need Graphviz, whose `dot` program is not on PATH"):
        draw.draw_net_to_file(net, tmp_path / "net.png")
    with pytest.raises(UsageError, match="has no suffix"):
        draw.draw_net_to_file(net, tmp_path / "net")
    with pytest.raises(UsageError, match="expected TB, LR, BT, RL and found UP"):
        draw.draw_net(net, "UP", "svg")
    assert not list(tmp_path.iterdir())
