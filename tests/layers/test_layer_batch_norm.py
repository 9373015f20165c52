"""BatchNorm's moving sums and its two ways of normalising."""

import numpy as np
import pytest
import torch
from harness import make_layer

SHAPE = (3, 4, 5, 2)
# float32 against float64 arithmetic.
TOLERANCE = {"rtol": 2e-6, "atol": 2e-6}


def batch_norm(text="", shape=SHAPE, phase=0):
    return make_layer(f'name: "bn" type: "BatchNorm" top: "t" {text}', [shape], phase)[0]


def zero_blobs(channels=4):
    return [torch.zeros(channels), torch.zeros(channels), torch.zeros(1)]


def test_blobs():
    specs = batch_norm().blobs
    assert [(spec.role, spec.shape) for spec in specs] == [("mean", (4,)), ("variance", (4,)), ("scale_factor", (1,))]
    assert all(spec.is_statistic and spec.filler is None for spec in specs)


def test_moving_sums_over_three_batches():
    layer, blobs = batch_norm("batch_norm_param { moving_average_fraction: 0.9 }"), zero_blobs()
    sums = np.zeros((2, 4))
    scale = 0.0
    number = 3 * 5 * 2
    for step in range(3):
        bottom = torch.randn(SHAPE) * (step + 1) + step
        layer.forward([bottom], blobs)
        values = bottom.double().numpy()
        batch = np.stack([values.mean((0, 2, 3)), values.var((0, 2, 3)) * number / (number - 1)])
        sums, scale = 0.9 * sums + batch, 0.9 * scale + 1
    np.testing.assert_allclose(blobs[0], sums[0], **TOLERANCE)
    np.testing.assert_allclose(blobs[1], sums[1], **TOLERANCE)
    np.testing.assert_allclose(blobs[2], [scale], **TOLERANCE)


def test_training_normalises_with_the_biased_variance_of_the_batch():
    layer, blobs = batch_norm("batch_norm_param { eps: 0.3 }"), [torch.ones(4), torch.ones(4), torch.ones(1)]
    bottom = torch.randn(SHAPE) + 2
    values = bottom.double().numpy()
    mean, variance = (function((0, 2, 3), keepdims=True) for function in (values.mean, values.var))
    expected = (values - mean) / np.sqrt(variance + 0.3)
    np.testing.assert_allclose(layer.forward([bottom], blobs)[0], expected, **TOLERANCE)


def test_one_value_per_channel_uses_factor_one():
    layer, blobs = batch_norm(shape=(1, 4)), zero_blobs()
    bottom = torch.tensor([[1.0, -2.0, 3.0, 0.5]], requires_grad=True)
    (top,) = layer.forward([bottom], blobs)
    top.sum().backward()
    assert torch.equal(top.detach(), torch.zeros(1, 4))
    assert torch.equal(bottom.grad, torch.zeros(1, 4))
    assert [blob.tolist() for blob in blobs] == [[1, -2, 3, 0.5], [0, 0, 0, 0], [1]]


@pytest.mark.parametrize("phase", [0, 1])
def test_stored_statistics_are_divided_by_the_scale_factor_and_constant_to_the_gradient(phase):
    layer = batch_norm("batch_norm_param { use_global_stats: true eps: 0.5 }", phase=phase)
    blobs = [torch.arange(4.0), torch.arange(4.0) + 2, torch.tensor([4.0])]
    before = [blob.clone() for blob in blobs]
    bottom = torch.randn(SHAPE, requires_grad=True)
    (top,) = layer.forward([bottom], blobs)
    top.backward(torch.ones(SHAPE))
    divisor = ((torch.arange(4.0) + 2) / 4 + 0.5).sqrt().view(4, 1, 1)
    torch.testing.assert_close(
        top.detach(), (bottom.detach() - torch.arange(4.0).view(4, 1, 1) / 4) / divisor, **TOLERANCE
    )
    torch.testing.assert_close(bottom.grad, (1 / divisor).expand(SHAPE), **TOLERANCE)
    assert all(torch.equal(blob, copy) for blob, copy in zip(blobs, before, strict=True))


def test_a_scale_factor_of_zero_means_statistics_of_zero():
    layer = batch_norm("batch_norm_param { eps: 0.25 }", phase=1)
    bottom = torch.randn(SHAPE)
    (top,) = layer.forward([bottom], [torch.ones(4), torch.ones(4), torch.zeros(1)])
    torch.testing.assert_close(top, bottom * 2, **TOLERANCE)


def test_in_the_test_phase_the_batch_counts_where_asked_to():
    layer, blobs = batch_norm("batch_norm_param { use_global_stats: false }", phase=1), zero_blobs()
    (top,) = layer.forward([torch.randn(SHAPE)], blobs)
    torch.testing.assert_close(top.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-6)  # float32 rounding
    assert blobs[2].tolist() == [1]


def test_channels_last_is_kept_and_changes_nothing():
    layer = batch_norm()
    bottom = torch.randn(SHAPE)
    ours, theirs = zero_blobs(), zero_blobs()
    (top,) = layer.forward([bottom.to(memory_format=torch.channels_last)], ours)
    assert top.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(top, layer.forward([bottom], theirs)[0], **TOLERANCE)
    torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("phase", [0, 1])
def test_a_scale_in_the_same_pass(phase):
    layer = batch_norm(phase=phase)
    scale, _ = make_layer('name: "s" type: "Scale" top: "t" scale_param { bias_term: true }', [SHAPE])
    weight, bias = torch.randn(4), torch.randn(4)
    ours, theirs = ([torch.ones(4), torch.ones(4), torch.ones(1)] for _ in range(2))
    bottom = torch.randn(SHAPE)
    expected = scale.forward(layer.forward([bottom], theirs), [weight, bias])[0]
    torch.testing.assert_close(layer.normalize(bottom, ours, weight, bias), expected, **TOLERANCE)
    assert all(torch.equal(blob, other) for blob, other in zip(ours, theirs, strict=True))
