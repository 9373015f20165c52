"""BN of SegNet and PSPNet, and BatchNorm with a scale of its own, against their definitions in float64."""

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from harness import make_layer

from pyscratchdet.errors import LayerError
from pyscratchdet.layers.plan import NetFile, plan_net
from pyscratchdet.proto import caffe_pb2

SHAPE = (3, 4, 5, 2)
# float32 against float64 arithmetic.
TOLERANCE = {"rtol": 2e-6, "atol": 2e-6}
AXES = (0, 2, 3)


def layer_of(text, shape=SHAPE, phase=caffe_pb2.TRAIN, tops=1):
    names = " ".join(f'top: "t{index}"' for index in range(tops))
    return make_layer(f'name: "bn" {names} {text}', [shape], phase)[0]


def batch(offset=2.0):
    values = np.random.default_rng(5).standard_normal(SHAPE) * np.array([1, 3, 0.5, 2]).reshape(4, 1, 1) + offset
    return torch.from_numpy(values.astype(np.float32)), values.astype(np.float32).astype(np.float64)


def per_channel(values):
    return np.asarray(values).reshape(-1, 1, 1)


def blobs_of(*values):
    return [torch.tensor(value).view(1, 4, 1, 1) for value in values]


WEIGHT, BIAS = [1.5, -2.0, 0.25, 3.0], [0.5, 0.0, -1.0, 2.0]


def test_segnet_learns_from_the_batch_in_either_phase_and_gives_its_statistics():
    for phase in (caffe_pb2.TRAIN, caffe_pb2.TEST):
        layer = layer_of('type: "BN" bn_param { bn_mode: LEARN scale_filler { value: 1 } }', phase=phase, tops=3)
        assert [(spec.role, spec.shape, spec.is_statistic) for spec in layer.blobs] == [
            ("weight", (1, 4, 1, 1), False),
            ("bias", (1, 4, 1, 1), False),
        ]
        bottom, x = batch()
        top, mean, variance = layer.forward([bottom], blobs_of(WEIGHT, BIAS))
        expected = (x - x.mean(AXES, keepdims=True)) / np.sqrt(x.var(AXES, keepdims=True) + 1e-9)
        np.testing.assert_allclose(top, expected * per_channel(WEIGHT) + per_channel(BIAS), **TOLERANCE)
        np.testing.assert_allclose(mean, x.mean(AXES).reshape(1, 4, 1, 1), **TOLERANCE)
        np.testing.assert_allclose(variance, x.var(AXES).reshape(1, 4, 1, 1), **TOLERANCE)


def test_segnet_inference_is_a_scale_and_a_shift():
    layer = layer_of('type: "BN" bn_param { bn_mode: INFERENCE }', phase=caffe_pb2.TEST)
    bottom, x = batch()
    blobs = blobs_of(WEIGHT, BIAS)
    np.testing.assert_allclose(
        layer.forward([bottom], blobs)[0], x * per_channel(WEIGHT) + per_channel(BIAS), **TOLERANCE
    )
    factor, summand = layer.affine(SHAPE, [blob.numpy() for blob in blobs])
    np.testing.assert_array_equal(factor, WEIGHT)
    np.testing.assert_array_equal(summand, BIAS)


def test_pspnet_moves_its_averages_by_the_biased_statistics():
    layer = layer_of('type: "BN" bn_param { momentum: 0.75 eps: 0.01 }')
    assert [(spec.role, spec.is_statistic) for spec in layer.blobs] == [
        ("weight", False),
        ("bias", False),
        ("mean", True),
        ("variance", True),
    ]
    blobs = blobs_of(WEIGHT, BIAS, [0.0] * 4, [0.0] * 4)
    mean = variance = np.zeros(4)
    for step in range(3):
        bottom, x = batch(step)
        (top,) = layer.forward([bottom], blobs)
        expected = (x - x.mean(AXES, keepdims=True)) / np.sqrt(x.var(AXES, keepdims=True) + 0.01)
        np.testing.assert_allclose(top, expected * per_channel(WEIGHT) + per_channel(BIAS), **TOLERANCE)
        mean, variance = 0.75 * mean + 0.25 * x.mean(AXES), 0.75 * variance + 0.25 * x.var(AXES)
    np.testing.assert_allclose(blobs[2].flatten(), mean, **TOLERANCE)
    np.testing.assert_allclose(blobs[3].flatten(), variance, **TOLERANCE)


@pytest.mark.parametrize(
    ("text", "phase"), [("", caffe_pb2.TEST), ("bn_param { frozen: true }", caffe_pb2.TRAIN)], ids=["test", "frozen"]
)
def test_pspnet_normalises_by_stored_statistics(text, phase):
    layer = layer_of(f'type: "BN" {text}', phase=phase)
    mean, variance = [0.1, 1.0, -2.0, 0.0], [0.5, 2.0, 1.0, 4.0]
    blobs = blobs_of(WEIGHT, BIAS, mean, variance)
    before = [blob.clone() for blob in blobs]
    bottom, x = batch()
    bottom.requires_grad_()
    (top,) = layer.forward([bottom], blobs)
    factor = np.array(WEIGHT) / np.sqrt(np.array(variance) + 1e-5)
    expected = (x - per_channel(mean)) * per_channel(factor) + per_channel(BIAS)
    np.testing.assert_allclose(top.detach(), expected, **TOLERANCE)
    top.sum().backward()
    np.testing.assert_allclose(bottom.grad, np.broadcast_to(per_channel(factor), SHAPE), **TOLERANCE)
    assert all(torch.equal(one, other) for one, other in zip(before, blobs, strict=True))
    found = layer.affine(SHAPE, [blob.numpy() for blob in blobs])
    np.testing.assert_allclose(x * per_channel(found[0]) + per_channel(found[1]), expected, **TOLERANCE)


def test_frozen_starts_with_variance_one_and_learns_nothing():
    specs = layer_of('type: "BN" bn_param { frozen: true }').blobs
    assert all(spec.is_statistic for spec in specs)
    assert [spec.value for spec in specs[2:]] == [0, 1]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('type: "BN" bn_param { bn_mode: LEARN frozen: true }', "layer.dialect"),
        ('type: "BatchNorm" batch_norm_param { scale_bias: true use_weight_bias: true }', "layer.dialect"),
        ('type: "BatchNorm" batch_norm_param { stats_batch_size: 2 }', "layer.stats-batch-size"),
    ],
)
def test_refusals(text, code):
    with pytest.raises(LayerError) as caught:
        layer_of(text)
    assert caught.value.code == code


def test_the_choice_is_said_where_no_field_makes_it(caplog):
    layer_of('type: "BN" bn_param { eps: 0.1 }')
    assert not caplog.messages
    layer_of('type: "BN"')
    assert caplog.messages == ["layer \"bn\" (BN): without bn_param it is taken as PSPNet's, not as SegNet's"]


def test_pspnet_has_one_top():
    with pytest.raises(LayerError, match=r"at most 1 and found 2 .*\[layer.tops\]"):
        layer_of('type: "BN"', tops=2)


NVIDIA = 'type: "BatchNorm" batch_norm_param { scale_bias: true moving_average_fraction: 0.75 eps: 0.01 }'


def test_nvidia_stores_first_and_averages_then():
    layer = layer_of(NVIDIA)
    assert [(spec.role, spec.shape) for spec in layer.blobs] == [
        ("mean", (4,)), ("variance", (4,)), ("scale_factor", (1,)), ("weight", (4,)), ("bias", (4,))
    ]  # fmt: skip
    assert [spec.is_statistic for spec in layer.blobs] == [True, True, True, False, False]
    blobs = [torch.full((4,), 9.0), torch.full((4,), 9.0), torch.ones(1), torch.tensor(WEIGHT), torch.tensor(BIAS)]
    number = 3 * 5 * 2
    assert layer.state is None
    stored = None
    for step in range(3):
        bottom, x = batch(step)
        (top,) = layer.forward([bottom], blobs)
        expected = (x - x.mean(AXES, keepdims=True)) / np.sqrt(x.var(AXES, keepdims=True) + 0.01)
        np.testing.assert_allclose(top, expected * per_channel(WEIGHT) + per_channel(BIAS), **TOLERANCE)
        new = np.stack([x.mean(AXES), x.var(AXES) * number / (number - 1)])
        stored = new if stored is None else 0.75 * stored + 0.25 * new
    np.testing.assert_allclose(blobs[0], stored[0], **TOLERANCE)
    np.testing.assert_allclose(blobs[1], stored[1], **TOLERANCE)
    assert layer.state is True
    resumed = layer_of(NVIDIA)
    resumed.state = layer.state
    copies = [blob.clone() for blob in blobs]
    for one, values in ((layer, blobs), (resumed, copies)):
        one.forward([batch(7)[0]], values)
    assert all(torch.equal(one, other) for one, other in zip(blobs, copies, strict=True))


def test_nvidia_does_not_divide_its_statistics():
    layer = layer_of(NVIDIA, phase=caffe_pb2.TEST)
    mean, variance = [0.1, 1.0, -2.0, 0.0], [0.5, 2.0, 1.0, 4.0]
    blobs = [torch.tensor(values) for values in (mean, variance, [5.0], WEIGHT, BIAS)]
    bottom, x = batch()
    factor = np.array(WEIGHT) / np.sqrt(np.array(variance) + 0.01)
    expected = (x - per_channel(mean)) * per_channel(factor) + per_channel(BIAS)
    np.testing.assert_allclose(layer.forward([bottom], blobs)[0], expected, **TOLERANCE)
    found = layer.affine(SHAPE, [blob.numpy() for blob in blobs])
    np.testing.assert_allclose(x * per_channel(found[0]) + per_channel(found[1]), expected, **TOLERANCE)


@pytest.mark.parametrize(("text", "has_bias"), [("use_weight_bias: true", True), ("bias_term: false", False)])
def test_intel_scales_after_the_usual_statistics(text, has_bias):
    layer = layer_of(f'type: "BatchNorm" batch_norm_param {{ {text} }}', phase=caffe_pb2.TEST)
    assert [spec.role for spec in layer.blobs[3:]] == ["weight", "bias"][: 1 + has_bias]
    assert layer.blobs[3].filler.value == 1
    sums = [[0.2, 2.0, -4.0, 0.0], [1.0, 4.0, 2.0, 8.0], [2.0], WEIGHT, BIAS][: 4 + has_bias]
    bottom, x = batch()
    mean, variance = np.array(sums[0]) / 2, np.array(sums[1]) / 2
    factor = np.array(WEIGHT) / np.sqrt(variance + 1e-5)
    expected = (x - per_channel(mean)) * per_channel(factor) + (per_channel(BIAS) if has_bias else 0)
    blobs = [torch.tensor(values) for values in sums]
    np.testing.assert_allclose(layer.forward([bottom], blobs)[0], expected, **TOLERANCE)
    found = layer.affine(SHAPE, [blob.numpy() for blob in blobs])
    np.testing.assert_allclose(x * per_channel(found[0]) + per_channel(found[1]), expected, **TOLERANCE)


def test_use_weight_bias_false_leaves_three_blobs():
    assert len(layer_of('type: "BatchNorm" batch_norm_param { use_weight_bias: false filler { } }').blobs) == 3


def test_the_net_says_of_how_many_items():
    text = """bn_stats_batch_size: 2
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 6 dim: 4 dim: 5 dim: 2 } } }
        layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" batch_norm_param { stats_batch_size: 3 } }"""
    net = NetFile(text_format.Parse(text, caffe_pb2.NetParameter()))
    sizes = [plan_net(net, phase).layers[1].group_size for phase in (caffe_pb2.TRAIN, caffe_pb2.TEST)]
    assert sizes == [2, 0]


def test_intel_takes_statistics_of_parts_of_the_batch():
    shape = (6, 4, 5, 2)
    layer = layer_of('type: "BatchNorm" batch_norm_param { stats_batch_size: 2 moving_average_fraction: 0.5 }', shape)
    plain = layer_of('type: "BatchNorm" batch_norm_param { moving_average_fraction: 0.5 }', (2, 4, 5, 2))
    bottom = torch.randn(shape) + torch.arange(6.0).view(6, 1, 1, 1)
    mine, theirs = ([torch.zeros(4), torch.zeros(4), torch.zeros(1)] for _ in range(2))
    (top,) = layer.forward([bottom], mine)
    parts = [plain.forward([part], theirs)[0] for part in bottom.split(2)]
    assert torch.equal(top, torch.cat(parts))
    assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))
