"""What a page says of a net, against the net."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pyscratchdet.cli import main
from pyscratchdet.converters.compare import BlobComparison, Comparison, Difference
from pyscratchdet.errors import DataError
from pyscratchdet.layers.plan import plan_net, read_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.weights import write_caffemodel
from pyscratchdet.runtime import build_net, save_weights
from pyscratchdet.view.difference import difference_facts
from pyscratchdet.view.drift import read_drift
from pyscratchdet.view.features import MOST_MAPS, blob_maps
from pyscratchdet.view.fields import receptive_fields
from pyscratchdet.view.layers import graph_boxes, layer_facts, shown_layers
from pyscratchdet.view.page import ViewChoices, view_data
from pyscratchdet.view.priors import UNIT, best_overlap, coverage_facts, prior_heads
from pyscratchdet.view.weights import weight_facts


def by_name(layers):
    return {layer["name"]: layer for layer in layers}


def test_layers_have_their_shapes_costs_and_lines(small):
    layers = by_name(view_data(small, ViewChoices())["nets"][0]["layers"])
    assert list(layers) == ["data", "conv", "norm", "relu", "left", "right", "sum", "priors"]  # no Split
    conv = layers["conv"]
    assert conv["bottoms"] == [["data", [2, 3, 24, 20]]]
    assert conv["tops"] == [["conv", [2, 5, 12, 10]]]
    assert (conv["parameters"], conv["macs"]) == (5 * 3 * 9 + 5, 2 * 5 * 12 * 10 * 3 * 9)
    assert conv["memory"] == 4 * 2 * 5 * 12 * 10
    assert layers["left"]["bottoms"] == [["conv", [2, 5, 12, 10]]]  # not the copy that a Split made
    assert conv["line"] == 4
    assert conv["text"].splitlines() == Path(small).read_text().splitlines()[3:10]
    assert layers["relu"]["text"].startswith('layer { name: "relu"')  # another layer begins the line
    assert layers["relu"]["text"].endswith('top: "conv" }')
    assert [layers[name]["kind"] for name in ("data", "conv", "norm", "relu", "sum", "priors")] == [
        "data", "weights", "norm", "other", "other", "priors"]  # fmt: skip


def test_the_graph_is_the_nets(small):
    """Layers in place share a box, and lines are what each box reads: the sizes that priors read are none."""
    plan = plan_net(small)
    boxes, lines = graph_boxes(plan)
    names = [plan.graph.nodes[index].name for index in shown_layers(plan)]
    assert [[names[place] for place in box] for box in boxes] == [
        ["data"], ["conv", "norm", "relu"], ["left"], ["right"], ["sum"], ["priors"]]  # fmt: skip
    assert lines == [(0, 1), (1, 2), (1, 3), (2, 4), (3, 4), (4, 5)]


@pytest.mark.parametrize("recipe", ["ssd300_resnet101_voc0712", "refinedet320_vgg16_coco", "dsod300_voc0712"])
def test_every_layer_of_a_published_net_is_in_one_box_and_reads_what_its_box_is_joined_to(recipe):
    file = read_net(f"prototxt/models/{recipe}/deploy.prototxt")
    plan = plan_net(file)
    facts = layer_facts(file, plan)
    boxes, lines = graph_boxes(plan)
    assert sorted(place for box in boxes for place in box) == list(range(len(facts)))
    assert len(facts) == len(file.param.layer)
    box_of = {place: at for at, box in enumerate(boxes) for place in box}
    wanted, made = set(), {}
    for place, layer in enumerate(file.param.layer):
        bottoms = layer.bottom[:1] if layer.type == "PriorBox" else layer.bottom
        wanted |= {(box_of[made[blob]], box_of[place]) for blob in bottoms}
        made.update(dict.fromkeys(layer.top, place))
    assert {(a, b) for a, b in wanted if a != b} == set(lines)
    assert facts[0]["text"].startswith('name: "input"')  # of the file's `input:`, as it is read
    assert all(layer["line"] and f'name: "{layer["name"]}"' in layer["text"] for layer in facts[1:])


FIELDS = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 60 dim: 64 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param {
  num_output: 2 kernel_h: 3 kernel_w: 5 stride: 2 pad: 1 weight_filler { type: "constant" value: 1 } } }
layer { name: "b" type: "Pooling" bottom: "a" top: "b" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "c" type: "Convolution" bottom: "b" top: "c" convolution_param {
  num_output: 2 kernel_size: 3 dilation: 2 pad: 2 weight_filler { type: "constant" value: 1 } } }
layer { name: "d" type: "Deconvolution" bottom: "c" top: "d" convolution_param {
  num_output: 2 kernel_size: 3 stride: 2 weight_filler { type: "constant" value: 1 } } }
layer { name: "e" type: "Concat" bottom: "c" bottom: "b" top: "e" }
"""


def test_receptive_fields_are_what_a_position_sees(tmp_path):
    """The gradient of one position in the middle reaches as many pixels of the input as its field says."""
    import torch

    path = tmp_path / "net.prototxt"
    path.write_text(FIELDS)
    net = build_net(str(path))
    fields = dict(zip(net.layer_names, receptive_fields(net.plan), strict=True))
    data = torch.ones(1, 1, 60, 64, requires_grad=True)
    blobs = net.forward_blobs(data)
    for name in "abcde":
        value = blobs[name]
        height, width = value.shape[2:]
        sizes = []
        for k in (0, 1):  # of a deconvolution, neighbours lie in differently many windows
            place = value[0, 0, height // 2 + k, width // 2 + k]
            grad = torch.autograd.grad(place, data, retain_graph=True)[0][0, 0]
            sizes.append(tuple(np.ptp(np.flatnonzero(grad.any(axis))) + 1 for axis in (1, 0)))
        assert fields[name].size == tuple(map(max, zip(*sizes, strict=True))), name
    assert fields["c"].size == (3 + 2 + 4 * 4, 5 + 2 + 4 * 4)
    assert fields["c"].step == (4, 4)
    assert fields["d"].step == (2, 2)


def test_positions_that_are_no_places_have_no_field():
    plan = plan_net("prototxt/models/ssd300_vgg16_voc0712/deploy.prototxt")
    fields = dict(zip([node.name for node in plan.graph.nodes], receptive_fields(plan), strict=True))
    assert fields["conv4_3"].size == (92, 92)
    assert fields["conv4_3"].step == (8, 8)
    assert fields["mbox_loc"] is None
    assert fields["detection_out"] is None


def weights_file(tmp_path, plan, **arrays):
    """Writes a caffemodel of ones, but for the arrays given by layer."""
    message, blobs = caffe_pb2.NetParameter(), []
    for layer in plan.layers:
        if layer.blobs:
            message.layer.add(name=layer.name, type=layer.type)
            blobs.append(arrays.get(layer.name) or [np.ones(spec.shape, np.float32) for spec in layer.blobs])
    path = tmp_path / "net.caffemodel"
    write_caffemodel(path, message, blobs)
    return str(path)


def test_weights_have_their_figures_and_dead_channels(small, tmp_path):
    plan = plan_net(small)
    weight = np.random.default_rng(1).normal(size=(5, 3, 3, 3)).astype(np.float32)
    weight[3] = 0
    weight[1, 0, 0, 0] = np.nan
    variance = np.array([1, 0, 2, 3, 4], np.float32)
    path = weights_file(
        tmp_path, plan,
        conv=[weight, np.arange(5, dtype=np.float32)],
        norm=[np.ones(5, np.float32), variance, np.ones(1, np.float32)],
    )  # fmt: skip
    facts, notes = weight_facts(plan, path)
    names = [plan.graph.nodes[index].name for index in shown_layers(plan)]
    blobs = dict(zip(names, facts, strict=True))
    conv = blobs["conv"][0]
    values = weight[np.isfinite(weight)].astype(np.float64)
    assert (conv["role"], conv["shape"], conv["notFinite"], conv["zeros"]) == ("weight", [5, 3, 3, 3], 1, 27)
    # Both sums are over float64, in whatever order.
    assert (conv["mean"], conv["deviation"]) == pytest.approx((values.mean(), values.std()), rel=1e-12)
    assert (conv["low"], conv["high"], sum(conv["bins"])) == (values.min(), values.max(), values.size)
    assert conv["dead"] == [3]
    assert blobs["norm"][1]["dead"] == [1]
    assert not notes


def test_weights_that_do_not_fit_are_said(small, tmp_path):
    plan = plan_net(small)
    path = weights_file(tmp_path, plan, left=[np.ones((6, 5, 1, 1), np.float32)])
    other = tmp_path / "other.prototxt"
    other.write_text(Path(small).read_text().replace('"right"', '"wrong"'))
    notes = weight_facts(plan_net(str(other)), path)[1]
    assert notes == [
        "left: the net has 7 x 5 x 1 x 1, the file 6 x 5 x 1 x 1",
        "wrong: not in the weights file",
        "only in the weights file: right",
    ]


def test_priors_are_those_of_the_layer(small):
    plan = plan_net(small)
    heads, boxes, notes = prior_heads(plan)
    top = build_net(small).forward_blobs({"data": np.zeros((2, 3, 24, 20), np.float32)})["priors"]
    assert (top[0, 0].numpy().reshape(-1, 4) == boxes[0]).all()
    stored = np.frombuffer(base64.b64decode(heads[0]["corners"]), "<i2").reshape(-1, 4)
    assert np.abs(stored / UNIT - boxes[0]).max() <= 0.5 / UNIT  # rounded to the nearest unit
    assert (heads[0]["map"], heads[0]["perCell"], len(boxes[0])) == ([12, 10], 4, 12 * 10 * 4)
    assert not notes


def test_coverage_is_the_best_overlap_of_each_box():
    import torch

    from pyscratchdet.boxes.overlap import area, pairwise_jaccard

    rng = np.random.default_rng(3)
    corners = np.sort(rng.uniform(0, 1, (2, 40, 2, 2)), axis=2).astype(np.float32)
    boxes, priors = corners.transpose(0, 1, 2, 3).reshape(2, 40, 4)
    first, second = torch.from_numpy(boxes), torch.from_numpy(priors)
    table = pairwise_jaccard(first[:, None], second[None], area(first)[:, None], area(second)[None]).numpy()
    # One rounding of the area's product may differ.
    np.testing.assert_allclose(best_overlap(boxes, priors), table.max(1), rtol=1e-6)
    facts = coverage_facts(boxes, [priors[:15], priors[15:]])
    best = np.stack([table[:, :15].max(1), table[:, 15:].max(1)], 1)
    assert facts["boxes"] == sum(facts["bins"]) == len(facts["points"]) == 40
    assert facts["covered"] == (best.max(1) >= 0.5).sum()
    assert [head["covered"] for head in facts["heads"]] == (best >= 0.5).sum(0).tolist()
    assert sum(head["best"] for head in facts["heads"]) == (best.max(1) > 0).sum()


def test_label_sets_of_both_forms_give_the_same_boxes(tmp_path):
    from pyscratchdet.view.priors import read_boxes

    assert main(["demo-data", str(tmp_path / "data"), "--images", "5", "--test", "1", "--size", "96"]) == 0
    kit = str(tmp_path / "data" / "VOCdevkit")
    labels = str(tmp_path / "data" / "labelmap.prototxt")
    for split in ("trainval", "test"):
        assert main(["lmdb", "voc", kit, str(tmp_path / split), "--split", split, "--label-map", labels]) == 0
    stored = np.concatenate([read_boxes(str(tmp_path / split))[0] for split in ("trainval", "test")])
    listed, text, left_out = read_boxes(kit)
    order = np.lexsort(stored.T), np.lexsort(listed.T)
    # A division in float32 there, in float64 here.
    np.testing.assert_allclose(stored[order[0]], listed[order[1]], atol=1e-6)
    assert text == f"{len(listed)} boxes in 6 pictures"
    assert left_out == []


def test_maps_are_the_channels_that_vary_most():
    rng = np.random.default_rng(5)
    blob = rng.normal(size=(1, MOST_MAPS + 9, 30, 40)).astype(np.float32)
    blob[0, 7], blob[0, 8] = 0.25, 0.5
    blob[0, 20, 3, 4] = 90
    facts = blob_maps(blob)
    assert len(facts["channels"]) == MOST_MAPS
    assert {7, 8}.isdisjoint(facts["channels"])
    assert 20 in facts["channels"]
    assert (facts["shape"], facts["still"], facts["high"]) == ([MOST_MAPS + 9, 30, 40], 2, 90.0)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(facts["source"].split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    height, width = facts["cell"]
    assert picture.shape[:2] == (6 * height, 6 * width)
    at = facts["channels"].index(20)
    bright = picture.sum(2)[at // 6 * height :, at % 6 * width :][:height, :width]
    assert np.unravel_index(bright.argmax(), bright.shape) == (3, 4)


def test_maps_of_one_value_are_left_out():
    assert blob_maps(np.zeros((1, 5, 1, 1), np.float32)) is None
    assert blob_maps(np.full((1, 2, 3, 4), np.nan, np.float32))["still"] == 2


def test_maps_that_overflow_have_finite_figures():
    """An untrained deep net goes beyond float32; a page's JSON has no word for that."""
    largest = np.finfo(np.float32).max
    blob = np.clip(np.random.default_rng(2).normal(size=(1, 3, 5, 4)) * 3e38, -largest, largest).astype(np.float32)
    blob[0, 0, 0, 0], blob[0, 1, 0, 0], blob[0, 2, 0, :2] = np.inf, -np.inf, np.nan
    facts = blob_maps(blob)
    assert facts["notFinite"] == 4
    json.dumps(facts, allow_nan=False)
    assert facts["high"] == float(largest)


def test_a_picture_gives_maps_and_detections(block_model, tmp_path):
    from pyscratchdet.detect.detector import Preparation

    deploy, weights, _ = block_model
    image = np.zeros((32, 48, 3), np.uint8)
    image[8:16, 16:24] = (255, 0, 0)
    cv2.imwrite(str(tmp_path / "picture.png"), image)
    choices = ViewChoices(
        weights=str(weights), picture=str(tmp_path / "picture.png"), preparation=Preparation((0.0,), 1 / 255)
    )
    data = view_data(str(deploy), choices)["features"]
    assert {"data", "pool", "conf"} <= set(data["maps"])
    (label, score, *box), *others = data["detections"]
    assert not others
    assert label == 1
    assert score > 0.9
    # Written with four digits.
    assert box == pytest.approx([16 / 48, 8 / 32, 24 / 48, 16 / 32], abs=1e-4)


def comparison(*blobs, **parts):
    return Comparison("net", "pyscratchdet", "other", list(blobs), **parts)


def blob(layer, drift, own=0.0, tolerance=1e-5):
    return BlobComparison(layer, layer, "X", (1,), Difference(1, drift, 1), Difference(1, own, 1), tolerance)


def test_drift_is_what_verify_wrote(tmp_path):
    path = tmp_path / "report.json"
    found = [
        comparison(blob("a", 1e-7), blob("b", 2e-3, own=1e-3), blob("c", float("inf"), own=1e-7)),
        comparison(what="gradient"),
        comparison(failure="no such engine"),
    ]
    path.write_text(json.dumps([each.as_dict() for each in found]))
    (drift,) = read_drift(str(path))
    assert drift["parts"] == "b"
    assert drift["layers"]["a"] == {"drift": 1e-7, "own": 0.0, "agrees": True, "note": ""}
    assert drift["layers"]["b"]["agrees"] is False
    assert drift["layers"]["c"]["drift"] == 1e9
    assert drift["verdict"] == found[0].verdict()


@pytest.mark.parametrize("text", ["{", "7", "{}", '["a"]', '[{"what": "blob", "failure": "", "blobs": [3]}]', "[]",
                                  '[{"what": "blob", "failure": "it did not run"}]'])  # fmt: skip
def test_what_is_not_a_report_is_refused(tmp_path, text, small, capsys):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"view\.report"):
        read_drift(str(path))
    assert main(["view", small, "--verify", str(path), "-o", str(tmp_path / "page.html")]) == 2
    assert str(path) in capsys.readouterr().err


def test_two_nets_differ_where_their_layers_do(small, tmp_path):
    other = tmp_path / "other.prototxt"
    text = Path(small).read_text().replace("num_output: 7 kernel_size: 1", "num_output: 7 kernel_size: 1 group: 1")
    text = text.replace("dim: 24", "dim: 22").replace('name: "norm"', 'name: "norm2"')
    other.write_text(text)
    facts = difference_facts(plan_net(small), plan_net(str(other)))
    rows = {row["name"]: row for row in facts["rows"]}
    assert rows["norm"]["second"] is None
    assert rows["norm2"]["first"] is None
    assert rows["conv"]["fields"] == [("shape of top 0", "2 x 5 x 12 x 10", "2 x 5 x 11 x 10")]
    assert rows["conv"]["isShape"]
    assert ("convolution_param.group", "-", "1") in rows["left"]["fields"]
    assert not rows["left"]["isShape"]
    assert (1, 1) in facts["pairs"]
    assert difference_facts(plan_net(small), plan_net(small))["rows"] == []


def test_no_torch_without_a_picture(small, tmp_path):
    save_weights(build_net(small), tmp_path / "net.caffemodel")
    code = (
        "import sys; from pyscratchdet.cli import main\n"
        f"main(['view', {small!r}, '--weights', {str(tmp_path / 'net.caffemodel')!r}, '--against', {small!r},"
        f" '-o', {str(tmp_path / 'page.html')!r}])\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
