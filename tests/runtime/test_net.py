"""Nets as torch modules: keys, inputs, memory, gradients, shared weights, other types and copies."""

import copy
import io
import weakref

import numpy as np
import pytest
import torch

import pyscratchdet
from pyscratchdet.errors import LayerError, NetError
from pyscratchdet.proto import caffe_pb2, text

NET = """
name: "toy"
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 6 } } }
layer { name: "conv.1" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } bias_filler { value: 0.5 } } }
"""


def build(source, phase="TEST"):
    return pyscratchdet.build_net(text.parse(source, caffe_pb2.NetParameter), phase)


def noise(*shape):
    return torch.from_numpy(np.random.default_rng(5).normal(size=shape).astype(np.float32))


def test_names_shapes_and_keys():
    net = build(NET)
    assert net.layer_names == ["in", "conv.1", "bn", "relu", "pool", "fc"]
    assert net.blob_shapes == {"data": (2, 3, 7, 6), "conv": (2, 4, 5, 4), "pool": (2, 4, 3, 2), "fc": (2, 5)}
    assert (net.input_names, net.output_names, net.name, net.phase) == (["data"], ["fc"], "toy", caffe_pb2.TEST)
    assert [key for key in net.state_dict() if "bn" not in key] == [
        "conv%2E1.weight",
        "conv%2E1.bias",
        "fc.weight",
        "fc.bias",
    ]
    assert [tuple(blob.shape) for blob in net.params["fc"]] == [(5, 24), (5,)]
    assert net.params["fc"][0].data_ptr() == net.state_dict()["fc.weight"].data_ptr()
    assert "conv.1" in repr(net) or "conv%2E1" in repr(net)


def test_names_that_clash_with_attributes_or_each_other():
    net = build("""
        input: "x" input_shape { dim: 2 dim: 3 }
        layer { name: "forward" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 4 } }
        layer { name: "twin" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 5 } }
        layer { name: "twin" type: "InnerProduct" bottom: "b" top: "c" inner_product_param { num_output: 6 } }
        layer { name: "twin%2" type: "InnerProduct" bottom: "c" top: "d" inner_product_param { num_output: 7 } }
        layer { type: "InnerProduct" bottom: "d" top: "e" inner_product_param { num_output: 8 } }
    """)
    weights = [key for key in net.state_dict() if key.endswith("weight")]
    assert weights == ["forward.weight", "twin.weight", "twin%2.weight", "twin%252.weight", "%.weight"]
    assert net(noise(2, 3))["e"].shape == (2, 8)


@pytest.mark.parametrize("kind", ["tensor", "mapping", "numpy float64", "whole numbers"])
def test_inputs_of_every_kind(kind):
    net = build(NET)
    data = noise(2, 3, 7, 6).round()
    given = {
        "tensor": data,
        "mapping": {"data": data},
        "numpy float64": data.numpy().astype(np.float64),
        "whole numbers": data.to(torch.int32),
    }[kind]
    torch.testing.assert_close(net(given)["fc"], net.forward_blobs({"data": data})["fc"], rtol=0, atol=0)


def test_wrong_inputs_are_refused():
    net = build(NET)
    with pytest.raises(NetError, match="inputs are missing"):
        net()
    with pytest.raises(NetError, match="unknown input dta"):
        net({"data": noise(2, 3, 7, 6), "dta": noise(1)})
    with pytest.raises(NetError, match="not an array of numbers"):
        net({"data": "picture"})
    two = build('input: "a" input: "b" input_shape { dim: 1 } input_shape { dim: 2 }')
    with pytest.raises(NetError, match="a bare array needs a net with one input"):
        two(noise(1))
    before = net.blob_shapes
    with pytest.raises(LayerError) as caught:
        net(noise(2, 4, 7, 6))
    assert caught.value.layer == "conv.1"
    with pytest.raises(LayerError):
        net(noise(2, 3, 2, 6))
    assert net.blob_shapes == before


def test_other_sizes_reshape_the_net():
    net = build(NET)
    assert net.forward_blobs(noise(3, 3, 7, 6))["fc"].shape == (3, 5)
    assert net.blob_shapes["conv"] == (3, 4, 5, 4)
    net.reshape({"data": (1, 3, 6, 7)})
    assert net.blob_shapes["pool"] == (1, 4, 2, 3)
    with pytest.raises(LayerError, match="fc"):
        net.reshape({"data": (1, 3, 9, 9)})


def test_in_place_chain_leaves_the_input_alone():
    net = build(NET)
    data = noise(2, 3, 7, 6)
    kept = data.clone()
    blobs = net.forward_blobs(data)
    assert torch.equal(data, kept)
    assert blobs["conv"].min() == 0
    weight, bias = net.params["conv.1"]
    expected = torch.relu(torch.nn.functional.conv2d(data, weight, bias) / (0 + 1e-5) ** 0.5)
    torch.testing.assert_close(blobs["conv"], expected, rtol=1e-4, atol=1e-3)  # sums of 27 scaled by 316


def test_blobs_are_differentiable_and_propagate_down_cuts():
    source = NET.replace('bottom: "pool"', 'bottom: "pool" propagate_down: false')
    for text_, reaches in ((NET, True), (source, False)):
        net = build(text_)
        data = noise(2, 3, 7, 6).requires_grad_()
        net.forward_blobs(data)["fc"].sum().backward()
        assert (data.grad is not None) is reaches
        assert net.params["fc"][0].grad is not None


def test_frozen_and_statistic_blobs():
    net = build(NET.replace('top: "fc"', 'top: "fc" param { lr_mult: 0 } param { lr_mult: 2 }'))
    assert [parameter.requires_grad for parameter in net.params["fc"]] == [False, True]
    assert "bn.weight" not in dict(net.named_parameters())
    assert [(entry.name, entry.lr_mult) for entry in net.learnable][-2:] == [("fc/0", 0), ("fc/1", 2)]
    assert [entry.is_statistic for entry in net.learnable] == [False, False, True, True, True, False, False]


def test_blobs_die_as_soon_as_nobody_needs_them():
    net = build(NET)
    alive = []

    def watch(module, bottoms, tops):
        alive.append([reference().data_ptr() for reference in references if reference() is not None])
        references.extend(weakref.ref(top) for top in tops)

    references = []
    for module in net.layers[1:]:
        module.register_forward_hook(watch)
    with torch.no_grad():
        out = net(noise(2, 3, 7, 6))
    # conv, bn, relu, pool, fc: each sees its bottom alive and nothing older than that one's own bottom.
    assert max(len(pointers) for pointers in alive) <= 2
    assert [reference() is not None for reference in references] == [False, False, False, False, True]
    del out


SHARED = """
    input: "x" input_shape { dim: 2 dim: 3 dim: 1 dim: 1 }
    layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } param { name: "b" }
      inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
    layer { name: "b" type: "Convolution" bottom: "x" top: "b" param { name: "w" share_mode: PERMISSIVE lr_mult: 3 }
      convolution_param { num_output: 4 kernel_size: 1 } }
    layer { name: "c" type: "InnerProduct" bottom: "x" top: "c" param { name: "w" } param { name: "b" }
      inner_product_param { num_output: 4 } }
"""


def test_shared_blobs_are_one_parameter():
    net = build(SHARED)
    assert [(entry.name, entry.lr_mult, len(entry.places)) for entry in net.learnable] == [
        ("a/0", 3, 3),
        ("a/1", 1, 2),
        ("b/1", 1, 1),
    ]
    assert net.params["b"][0].shape == (4, 3, 1, 1)
    blobs = net.forward_blobs(noise(2, 3, 1, 1))
    torch.testing.assert_close(blobs["a"], blobs["b"].flatten(1))
    assert torch.equal(blobs["a"], blobs["c"])
    (blobs["a"].sum() + blobs["c"].sum()).backward()
    torch.testing.assert_close(net.learnable[0].parameter.grad, 2 * noise(2, 3, 1, 1).flatten(1).sum(0).expand(4, 3))
    with pytest.raises(NetError, match='param "w" cannot be shared with layer "a"') as caught:
        build(SHARED.replace(" share_mode: PERMISSIVE", ""))
    assert (caught.value.layer, caught.value.expected, caught.value.found) == ("b", (4, 3), (4, 3, 1, 1))
    with pytest.raises(NetError, match="mismatched lr_mult"):
        build(SHARED.replace('name: "w" }', 'name: "w" lr_mult: 2 }', 1))


def test_shared_statistics_stay_shared_in_another_type():
    source = """
        input: "x" input_shape { dim: 4 dim: 3 }
        layer { name: "a" type: "BatchNorm" bottom: "x" top: "a" %s }
        layer { name: "b" type: "BatchNorm" bottom: "x" top: "b" %s }
    """
    params = 'param { name: "m" lr_mult: 0 } param { name: "v" lr_mult: 0 }'  # three would be cleared
    net = build(source % (params, params), "TRAIN")
    assert [len(entry.places) for entry in net.learnable] == [2, 2, 1, 1]
    net(noise(4, 3))
    double = net.to(torch.float64)
    torch.testing.assert_close(net.params["b"][0], net.params["a"][0], rtol=0, atol=0)
    for entry in double.learnable:
        assert entry.parameter.dtype == torch.float64
        assert all(module.blob(role) is entry.parameter for module, role in entry.places)


def test_double_precision():
    net = build(NET)
    single = net(noise(2, 3, 7, 6))["fc"]
    double = net.to(torch.float64)(noise(2, 3, 7, 6).numpy())["fc"]
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-3)  # float32 values scaled by 316


def test_deepcopy_is_independent():
    net = build(SHARED)
    twin = copy.deepcopy(net)
    assert all(entry.parameter is module.blob(role) for entry in twin.learnable for module, role in entry.places)
    with torch.no_grad():
        twin.params["a"][0].zero_()
    assert twin.params["c"][0].abs().sum() == 0
    assert net.params["a"][0].abs().sum() > 0
    assert twin(noise(2, 3, 1, 1))["b"].shape == (2, 4, 1, 1)


def test_state_dict_survives_torch_save_without_pickle():
    net, other = build(NET), build(NET)
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    data = noise(2, 3, 7, 6)
    assert torch.equal(other(data)["fc"], net(data)["fc"])


def test_anonymous_losses_all_count():
    source = """
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "l1" type: "EuclideanLoss" bottom: "x" bottom: "y" }
        layer { name: "l2" type: "EuclideanLoss" bottom: "x" bottom: "y" loss_weight: 5 }
    """
    net = build(source)
    assert net.loss_weights == {"(automatic)": 1, "(automatic)%2": 5}
    blobs = net.forward_blobs({"x": torch.full((2, 3), 2.0), "y": torch.zeros(2, 3)})
    assert net.total_loss(blobs) == 6 * 24 / 4
    assert build(NET).total_loss({}) == 0


def test_load_net_as_its_docstring_says(tmp_path):
    (tmp_path / "deploy.prototxt").write_text(NET)
    net = build(NET)
    pyscratchdet.runtime.save_weights(net, tmp_path / "model.caffemodel")
    loaded = pyscratchdet.load_net(tmp_path / "deploy.prototxt", str(tmp_path / "model.caffemodel"), phase="TEST")
    x = noise(2, 3, 7, 6)
    assert torch.equal(loaded({"data": x})["fc"], net(x)["fc"])
    assert set(loaded.forward_blobs({"data": x})) == {"data", "conv", "pool", "fc"}


def test_filler_error_names_layer_and_line(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(NET.replace('"xavier"', '"xavie"', 1))
    with pytest.raises(LayerError, match=r'net\.prototxt:4:1: layer "conv\.1" \(Convolution\): unknown filler "xavie"'):
        pyscratchdet.build_net(path)


def test_no_memory_is_a_typed_error(monkeypatch):
    def refuse(*arguments, **settings):
        raise MemoryError

    monkeypatch.setattr("pyscratchdet.runtime.layer_module.fill", refuse)
    with pytest.raises(LayerError, match="no memory for a blob") as caught:
        build(NET)
    assert caught.value.layer == "conv.1"
