"""Weights into nets and out of them: by name, all or nothing, shared blobs, both file forms."""

import numpy as np
import pytest
import torch

import pyscratchdet
from pyscratchdet.errors import FileError, LayerError, WeightsError
from pyscratchdet.layers.fillers import fill
from pyscratchdet.proto import caffe_pb2, text, weights
from pyscratchdet.rng import CaffeRandom, Undrawn
from pyscratchdet.runtime import build_net, copy_weights, net_blobs, net_to_proto, save_weights, share_weights

NET = """
input: "x" input_shape { dim: 2 dim: 3 }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "bn" type: "BatchNorm" bottom: "a" top: "bn" }
layer { name: "b" type: "InnerProduct" bottom: "bn" top: "b" param { name: "w" } param { name: "v" }
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "c" type: "InnerProduct" bottom: "b" top: "c" param { name: "w" } param { name: "v" }
  inner_product_param { num_output: 4 } }
"""


def build(source=NET):
    return pyscratchdet.build_net(text.parse(source, caffe_pb2.NetParameter))


def arrays(*shapes):
    rng = np.random.default_rng(1)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_load_net_logs_what_did_not_match(tmp_path, caplog):
    path = tmp_path / "net.caffemodel"
    save_weights(build(), path)
    with caplog.at_level("INFO", "pyscratchdet"):
        pyscratchdet.load_net(text.parse(NET, caffe_pb2.NetParameter), path)
        assert not caplog.messages
        pyscratchdet.load_net(text.parse(NET.replace('name: "a"', 'name: "new"'), caffe_pb2.NetParameter), path)
    assert caplog.records[0].levelname == "WARNING"
    (line,) = caplog.messages
    assert line.startswith(f"{path}: ")
    assert "1 layer only in the file: a;" in line
    assert line.endswith(": new")


@pytest.mark.parametrize("ending", ["caffemodel", "caffemodel.h5"])
def test_saved_weights_load_alike(ending, tmp_path):
    net, other = build(), build()
    path = tmp_path / f"net.{ending}"
    save_weights(net, path)
    report = copy_weights(other, path)
    assert equal(state(other), state(net))
    copied = ["a", "b", "bn"] if ending.endswith("h5") else ["a", "b", "bn", "c"]  # HDF5 has shared blobs once
    assert (sorted(report.copied), report.ignored, report.untouched) == (copied, [], [])
    assert other.params["c"][0].data_ptr() == other.params["b"][0].data_ptr()


@pytest.mark.parametrize("ending", ["caffemodel", "caffemodel.h5"])
def test_loading_draws_nothing_for_layers_that_the_file_has(ending, tmp_path, monkeypatch):
    path = tmp_path / f"net.{ending}"
    net = build()
    save_weights(net, path)
    more = (
        NET
        + """layer { name: "d" type: "InnerProduct" bottom: "c" top: "d"
      inner_product_param { num_output: 7 weight_filler { type: "uniform" min: 1 max: 2 } } }
      layer { name: "a" type: "InnerProduct" bottom: "d" top: "e"
      inner_product_param { num_output: 4 weight_filler { type: "uniform" min: 3 max: 4 } } }"""
    )
    sizes = []
    draw = CaffeRandom.uniform
    monkeypatch.setattr(CaffeRandom, "uniform", lambda *args: sizes.append(args[3]) or draw(*args))
    found = pyscratchdet.load_net(text.parse(more, caffe_pb2.NetParameter), path)
    # "d" is not in the file, and of the two "a" the second is not what the weights go to.
    assert sizes == [28, 28]
    assert equal({key: state(found)[key] for key in state(net)}, state(net))
    values = net_blobs(found)["d"][0]
    assert 1 <= values.min() < values.max() <= 2
    sizes.clear()
    pyscratchdet.load_net(text.parse(NET, caffe_pb2.NetParameter), path, random=CaffeRandom(3))
    assert sizes == [12, 16]  # the stream is the caller's, who may go on with it


def test_loading_checks_fillers_all_the_same(tmp_path):
    save_weights(build(), tmp_path / "net.caffemodel")
    for name, text_of in {"typo": 'type: "xavir"', "range": 'type: "uniform" min: 2 max: 1'}.items():
        net = text.parse(NET.replace('type: "xavier"', text_of), caffe_pb2.NetParameter)
        with pytest.raises(LayerError, match="unknown filler" if name == "typo" else "min must not exceed max"):
            pyscratchdet.load_net(net, tmp_path / "net.caffemodel")


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "positive_unitball", "xavier", "msra", "bilinear", "constant"])
def test_every_filler_works_without_draws(kind):
    filler = caffe_pb2.FillerParameter(type=kind, min=-1, std=2, sparse=3 if kind == "gaussian" else -1)
    assert fill(filler, (4, 3, 5, 5), Undrawn()).shape == (4, 3, 5, 5)


def test_shared_blobs_are_stored_once_in_hdf5_and_may_be_missing(tmp_path):
    path = tmp_path / "net.h5"
    save_weights(build(), path)
    assert "c" not in weights.read_weights(path).blobs
    net = build()
    values = arrays((4, 4), (4,))
    report = copy_weights(net, {"b": values, "c": [None, None]})
    assert report.copied == ["b", "c"]
    np.testing.assert_array_equal(net_blobs(net)["c"][0], values[0])
    with pytest.raises(WeightsError, match="the number of blobs differs"):
        copy_weights(net, {"b": [values[0], None]})  # its owner must have it


def test_report_of_what_did_not_meet():
    net = build()
    report = copy_weights(net, {"a": arrays((4, 3), (4,)), "gone": arrays((1, 2)), "relu": []})
    assert (report.copied, report.ignored, report.untouched) == (["a"], ["gone"], ["bn", "b"])
    assert report.summary() == (
        "1 layer copied; 1 layer only in the file: gone; 2 layers not in the file, left unchanged: bn, b"
    )


@pytest.mark.parametrize("found", [{}, {"gone": arrays((4, 3), (4,))}, {"relu": []}], ids=["none", "other", "empty"])
def test_weights_of_another_net_are_refused(found):
    net = build()
    before = state(net)
    with pytest.raises(WeightsError, match="nothing fits this net") as caught:
        copy_weights(net, found)
    assert (caught.value.code, caught.value.hint[:22]) == ("weights.nothing-fits", "weights of another net")
    assert equal(state(net), before)
    copy_weights(build('input: "x" input_shape { dim: 2 }'), found)  # a net without blobs is as it should be


@pytest.mark.parametrize(
    ("layer", "shapes", "says"),
    [
        ("b", [(4, 4)], "the number of blobs differs, expected 2 and found 1"),
        ("b", [], "the number of blobs differs, expected 2 and found 0"),
        ("b", [(4, 4), (4,), (1,)], "the number of blobs differs, expected 2 and found 3"),
        ("b", [(4, 5), (4,)], r"the shape of weight differs, expected \(4, 4\) and found \(4, 5\); rename the layer"),
        ("b", [(4, 4), (2, 2)], r"the shape of bias differs, expected \(4,\) and found \(2, 2\)"),
        ("relu", [(4,)], "the number of blobs differs, expected 0 and found 1"),
    ],
)
def test_refusal_leaves_the_net_unchanged(layer, shapes, says):
    net = build()
    before = state(net)
    with pytest.raises(WeightsError, match=says) as caught:
        copy_weights(net, {"a": arrays((4, 3), (4,)), layer: arrays(*shapes)})
    assert (caught.value.layer, caught.value.code) == (layer, "weights.shape")
    assert equal(state(net), before)


def test_legacy_shapes_fit():
    net = build()
    weight, bias = arrays((1, 1, 4, 3), (1, 1, 1, 4))
    copy_weights(net, {"a": [weight, bias]})
    np.testing.assert_array_equal(net_blobs(net)["a"][0], weight[0, 0])


def test_first_layer_of_a_name_takes_the_last_of_the_file(tmp_path):
    source = 'input: "x" input_shape { dim: 2 dim: 3 }' + "".join(
        f'layer {{ name: "twin" type: "InnerProduct" bottom: "{bottom}" top: "{top}" '
        'inner_product_param { num_output: 3 bias_term: false weight_filler { type: "gaussian" } } }'
        for bottom, top in (("x", "p"), ("p", "q"))
    )
    net, other = build(source), build(source)
    path = tmp_path / "net.caffemodel"
    save_weights(net, path)
    stored = [layer.arrays[0] for layer in weights.read_weights(path).layers if layer.arrays]
    assert [
        np.array_equal(array, module.blobs[0].detach()) for array, module in zip(stored, net.layers[1:], strict=True)
    ]
    before = other.layers[2].blobs[0].clone()
    copy_weights(other, path)
    assert torch.equal(other.layers[1].blobs[0], net.layers[2].blobs[0])
    assert torch.equal(other.layers[2].blobs[0], before)


def test_missing_and_damaged_files_change_nothing(tmp_path):
    net = build()
    before = state(net)
    with pytest.raises(FileError):
        copy_weights(net, tmp_path / "none.caffemodel")
    path = tmp_path / "net.caffemodel"
    save_weights(build(), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(WeightsError):
        copy_weights(net, path)
    assert equal(state(net), before)


def test_message_holds_blobs_and_diffs():
    net = build()
    net(torch.ones(2, 3))["c"].sum().backward()
    message = net_to_proto(net, diffs=True)
    layer = next(layer for layer in message.layer if layer.name == "a")
    np.testing.assert_array_equal(weights.blob_to_array(layer.blobs[0]), net_blobs(net)["a"][0])
    np.testing.assert_array_equal(layer.blobs[1].diff, net.params["a"][1].grad)
    assert not net_to_proto(net).layer[1].blobs[0].diff


def test_sharing_is_all_or_nothing_and_follows_the_learnable():
    net, other = build(), build()
    share_weights(other, net)
    with torch.no_grad():
        net.params["a"][0].fill_(3)
        net.params["bn"][0].fill_(7)
    assert (other.params["a"][0] == 3).all()
    assert (other.params["bn"][0] == 7).all()
    assert [id(entry.parameter) for entry in other.learnable] == [id(entry.parameter) for entry in net.learnable]
    wide = build(NET.replace("num_output: 4", "num_output: 5"))
    before = state(wide)
    with pytest.raises(WeightsError, match="the shape of weight differs"):
        share_weights(wide, net)
    assert equal(state(wide), before)


def test_half_precision_is_saved_as_float32(tmp_path):
    net = build().to(torch.bfloat16)
    save_weights(net, tmp_path / "net.caffemodel")
    stored = weights.read_weights(tmp_path / "net.caffemodel").blobs["a"][0]
    np.testing.assert_array_equal(stored, net.params["a"][0].detach().float())


def test_what_set_up_adds_is_written(tmp_path):
    source = """layer { name: "in" type: "Input" top: "x" top: "y"
      input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
    layer { name: "bn" type: "BatchNorm" bottom: "x" top: "x" param { lr_mult: 0 decay_mult: 2 } }
    layer { name: "scale" type: "Scale" bottom: "x" top: "x" }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "y" top: "loss" }"""
    net = build_net(text.parse(source, caffe_pb2.NetParameter), "TRAIN")
    save_weights(net, tmp_path / "n.caffemodel")
    written = caffe_pb2.NetParameter.FromString((tmp_path / "n.caffemodel").read_bytes())
    for message in (written, net_to_proto(net)):
        _, norm, scale, loss = message.layer
        assert [spec.lr_mult for spec in norm.param] == [0, 0, 0]
        assert [spec.HasField("decay_mult") for spec in norm.param] == [True, False, False]
        assert (len(scale.param), list(loss.loss_weight)) == (0, [1])
