"""Blobs that are one memory in the original: what a layer in place changes, and who sees it."""

import numpy as np
import pytest
import torch

import pyscratchdet
import pyscratchdet.caffe as caffe
from pyscratchdet.proto import caffe_pb2, text
from pyscratchdet.runtime.optimize import OptimizedNet

INPUT = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } } }'
PLAIN = 'layer { name: "p" type: "Power" bottom: "data" top: "a" power_param { shift: 0.25 } }'
SIGMOID = 'layer { name: "s" type: "Sigmoid" bottom: "%s" top: "%s" }'

# A layer between "a" and "b", and whether the original makes "b" of the memory of "a".
BETWEEN = {
    "Reshape": ('type: "Reshape" reshape_param { shape { dim: 0 dim: -1 dim: 2 } }', True),
    "Flatten": ('type: "Flatten" flatten_param { axis: 2 }', True),
    "Split": ('type: "Split"', True),
    "Concat of one": ('type: "Concat"', True),
    "Slice into one": ('type: "Slice"', True),
    "Permute to the same order": ('type: "Permute" permute_param { order: 0 order: 1 }', True),
    "Permute": ('type: "Permute" permute_param { order: 0 order: 2 order: 3 order: 1 }', False),
    "Dropout": ('type: "Dropout"', False),
    "Power": ('type: "Power"', False),
}


def build(*layers, phase="TEST"):
    return pyscratchdet.build_net(text.parse("\n".join([INPUT, *layers]), caffe_pb2.NetParameter), phase)


def between(kind, bottom="a", top="b"):
    return f'layer {{ name: "{bottom}-{top}" bottom: "{bottom}" top: "{top}" {BETWEEN[kind][0]} }}'


def picture():
    return torch.from_numpy(np.random.default_rng(3).normal(size=(2, 3, 5, 4)).astype(np.float32))


def flat(blobs, name):
    return blobs[name].detach().flatten()


@pytest.mark.parametrize("kind", BETWEEN)
def test_a_layer_in_place_behind_it(kind):
    net, x = build(PLAIN, between(kind), SIGMOID % ("b", "b")), picture()
    blobs = net.forward_blobs(x)
    before, after = (x + 0.25).flatten(), (x + 0.25).sigmoid().flatten()
    assert torch.equal(flat(blobs, "a"), after if BETWEEN[kind][1] else before)
    assert blobs["a"].shape == x.shape
    if kind != "Permute":
        assert torch.equal(flat(blobs, "b"), after)
    assert torch.equal(flat(blobs, "data"), x.flatten())


def test_through_a_chain_and_several_layers_in_place():
    """The case that public nets were found with: every blob holds what the last of them wrote."""
    power = 'layer { name: "twice" type: "Power" bottom: "c" top: "c" power_param { scale: 2 } }'
    layers = [PLAIN, between("Reshape"), SIGMOID % ("b", "b"), between("Flatten", "b", "c"), power]
    net, x = build(*layers), picture()
    expected = 2 * (x + 0.25).sigmoid().flatten()
    blobs = net.forward_blobs(x)
    assert all(torch.equal(flat(blobs, name), expected) for name in "abc")
    smaller = net.forward_blobs(x[:1])
    assert all(torch.equal(flat(smaller, name), expected[:60]) for name in "abc")


READERS = [
    PLAIN,
    'layer { name: "first" type: "Power" bottom: "a" top: "early" power_param { scale: 3 } }',
    between("Flatten"),
    SIGMOID % ("b", "b"),
    'layer { name: "second" type: "Power" bottom: "a" top: "late" power_param { scale: 5 } }',
    'layer { name: "relu" type: "ReLU" bottom: "a" top: "rectified" }',
]


def test_what_layers_read_before_and_after():
    """A blob with several readers is split, and its copies are one memory."""
    net, x = build(*READERS), picture()
    before = x + 0.25
    expected = {
        "early": 3 * before,
        "late": 5 * before.sigmoid(),
        "rectified": before.sigmoid(),
        "b": before.sigmoid().flatten(2),
    }
    # The optimized net may round otherwise: with AVX-512 a sigmoid depends on the order of the elements in memory.
    for outputs, rounding in ((net(x), 0), (net.forward_blobs(x), 0), (OptimizedNet(net)(x), 2**-22)):
        for name, value in expected.items():
            torch.testing.assert_close(outputs[name], value, rtol=rounding, atol=0)


def test_gradients_go_where_the_blob_came_from():
    """The original's backward pass knows blobs, not memory: the late reader's gradient does not see the Sigmoid."""
    net, x = build(*READERS), picture().requires_grad_()
    net(x)["late"].sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 5))


NORMALISED = [
    'layer { name: "conv" type: "Convolution" bottom: "data" top: "a" convolution_param { num_output: 4 kernel_size: 3'
    ' weight_filler { type: "xavier" } } }',
    between("Permute to the same order"),
    'layer { name: "bn" type: "BatchNorm" bottom: "b" top: "b" }',
    'layer { name: "scale" type: "Scale" bottom: "b" top: "c" scale_param { filler { value: 3 } } }',
    'layer { name: "relu" type: "ReLU" bottom: "c" top: "c" }',
]


def test_layers_that_are_run_as_one():
    """BatchNorm and Scale in one pass, ReLU over its bottom: others must still see what lies between."""
    net, x = build(*NORMALISED), picture()
    net.params["bn"][2].fill_(2)
    net.params["bn"][0].fill_(0.5)
    net.params["bn"][1].fill_(4)
    expected = (torch.nn.functional.conv2d(x, *net.params["conv"]) - 0.25) / (2 + 1e-5) ** 0.5
    for _ in range(2):
        blobs = net.forward_blobs(x)
        # One division and one multiplication in float32, in another order.
        torch.testing.assert_close(blobs["a"], expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(blobs["c"], 3 * expected.relu(), rtol=1e-5, atol=1e-6)
        net.work_in_place()
    torch.testing.assert_close(OptimizedNet(net)(x)["c"], 3 * expected.relu(), rtol=1e-5, atol=1e-6)


def test_pycaffe_shows_one_memory(tmp_path):
    """Values and, for Reshape, gradients: what is written to one blob is in the others, as in the original."""
    (tmp_path / "net.prototxt").write_text(
        "\n".join(["force_backward: true", INPUT, PLAIN, between("Reshape"), SIGMOID % ("b", "b")])
    )
    net, x = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST), picture().numpy()
    for _ in range(2):
        net.blobs["data"].data[...] = x
        net.forward()
        expected = torch.from_numpy(x + np.float32(0.25)).sigmoid().numpy()
        np.testing.assert_array_equal(net.blobs["a"].data, expected)
        np.testing.assert_array_equal(net.blobs["b"].data.ravel(), expected.ravel())
        assert net.blobs["b"].data.shape == (2, 30, 2)
    net.blobs["b"].diff[...] = 2
    net.backward()
    slope = 2 * expected * (1 - expected)
    # The gradient of the Sigmoid is two multiplications in float32.
    np.testing.assert_allclose(net.blobs["a"].diff, slope, rtol=1e-6)
    np.testing.assert_array_equal(net.blobs["b"].diff.ravel(), net.blobs["a"].diff.ravel())
    net.blobs["a"].data[...] = 7
    assert (net.blobs["b"].data == 7).all()
    net.blobs["data"].reshape(3, 3, 5, 4)
    net.reshape()
    assert (net.blobs["a"].data.shape, net.blobs["b"].data.shape) == ((3, 3, 5, 4), (3, 30, 2))
    assert net.blobs["b"].diff.shape == (3, 30, 2)


def test_pycaffe_split_shares_values_but_not_gradients(tmp_path):
    (tmp_path / "net.prototxt").write_text("\n".join(["force_backward: true", INPUT, *READERS]))
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    net.blobs["data"].data[...] = picture().numpy()
    net.forward()
    for name, value in zip(("early", "late", "rectified", "b"), (1, 10, 0, 0), strict=True):
        net.blobs[name].diff[...] = value
    net.backward()
    shown = [net.blobs[f"a_p_0_split_{k}"].diff.ravel()[0] for k in (0, 2)]
    assert shown == [3, 50]
    assert (net.blobs["a"].diff == 53).all()
    assert (net.blobs["a_p_0_split_0"].data == net.blobs["a"].data).all()
