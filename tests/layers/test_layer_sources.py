"""Layers that make or draw values: DummyData, Parameter, Dropout; and what a forward pass costs."""

import numpy as np
import pytest
import torch
from harness import make_layer

from pyscratchdet.errors import ConversionError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom


def test_dummy_data_fills_constants_once_and_others_each_time():
    text = (
        'name: "d" type: "DummyData" top: "a" top: "b" dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 4 } '
        'data_filler { type: "constant" value: 1.5 } data_filler { type: "uniform" min: 2 max: 3 } }'
    )
    layer, shapes = make_layer(text, [])
    assert shapes == [(2, 3), (4,)]
    first, second = layer.forward([], ()), layer.forward([], ())
    assert first[0].tolist() == [[1.5] * 3] * 2
    assert first[0] is second[0]
    assert not torch.equal(first[1], second[1])
    assert all(2 <= value < 3 for value in (*first[1].tolist(), *second[1].tolist()))


def test_dummy_data_with_legacy_dims_and_one_filler_for_all():
    text = (
        'name: "d" type: "DummyData" top: "a" top: "b" dummy_data_param { num: 2 channels: 3 channels: 5 height: 1 '
        "width: 4 }"
    )
    layer, shapes = make_layer(text, [])
    assert shapes == [(2, 3, 1, 4), (2, 5, 1, 4)]
    assert [top.abs().sum().item() for top in layer.forward([], ())] == [0, 0]


def test_a_parameter_is_its_blob():
    layer, shapes = make_layer('name: "p" type: "Parameter" top: "t" parameter_param { shape { dim: 2 dim: 3 } }', [])
    assert shapes == [(2, 3)]
    blob = torch.randn(2, 3, requires_grad=True)
    layer.forward([], [blob])[0].sum().backward()
    assert blob.grad.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_dropout_draws_the_original_mask_and_scales_what_stays():
    layer, _ = make_layer('name: "d" type: "Dropout" top: "t" dropout_param { dropout_ratio: 0.3 }', [(50, 40)], seed=9)
    bottom = torch.ones(50, 40, requires_grad=True)
    (top,) = layer.forward([bottom], ())
    # boost::bernoulli_distribution: a value stays where the generator's output is at most p times its largest.
    stays = CaffeRandom(9).raw(2000) <= 0.7 * (2**32 - 1)
    np.testing.assert_allclose(top.detach().flatten(), stays / 0.7, rtol=1e-6)  # float32 rounding
    top.sum().backward()
    assert torch.equal(bottom.grad, top.detach())
    assert not torch.equal(layer.forward([bottom], ())[0], top)


def test_dropout_that_does_not_scale_in_training():
    """Fast R-CNN's scale_train: false: the mask alone in TRAIN, times 1 - ratio in TEST (dropout_layer.cpp)."""
    text = 'name: "d" type: "Dropout" top: "t" dropout_param { dropout_ratio: 0.3 scale_train: false }'
    bottom = torch.full((50, 40), 2.0, requires_grad=True)
    layer, _ = make_layer(text, [(50, 40)], seed=9)
    (top,) = layer.forward([bottom], [])
    mask = torch.from_numpy(CaffeRandom(9).bernoulli(1 - np.float32(0.3), 2000)).view(50, 40)
    assert torch.equal(top, 2.0 * mask)
    top.sum().backward()
    assert torch.equal(bottom.grad, mask.float())
    layer, _ = make_layer(text, [(50, 40)], caffe_pb2.TEST)
    assert not layer.copies_bottom
    np.testing.assert_allclose(layer.forward([bottom], [])[0].detach(), 1.4, rtol=1e-6)  # one float32 product
    factor, summand = layer.affine((50, 40), [])
    np.testing.assert_allclose(factor, 0.7, rtol=1e-6)  # 0.3 is a float32
    assert (factor.shape, summand.any()) == ((40,), False)


def test_dropout_that_draws_in_testing_too():
    """SegNet's sample_weights_test, whose mean over passes is the answer and whose spread the doubt."""
    text = 'name: "d" type: "Dropout" top: "t" dropout_param { dropout_ratio: 0.3 sample_weights_test: true }'
    bottom = torch.full((50, 40), 2.0)
    layer, _ = make_layer(text, [(50, 40)], caffe_pb2.TEST, seed=9)
    assert not layer.copies_bottom
    mask = torch.from_numpy(CaffeRandom(9).bernoulli(1 - np.float32(0.3), 2000)).view(50, 40)
    np.testing.assert_allclose(layer.forward([bottom], [])[0], 2 * mask / 0.7, rtol=1e-6)  # one float32 product
    with pytest.raises(ConversionError):
        layer.onnx(None, ["x"], [])


def test_spatial_dropout_drops_whole_channels():
    """caffe_rng_bernoulli(num * channels, 1 - ratio), of Intel's spatial_dropout_layer.cpp."""
    text = 'name: "d" type: "SpatialDropout" top: "t" dropout_param { dropout_ratio: 0.25 }'
    bottom = torch.rand((3, 20, 2, 5), requires_grad=True)
    layer, shapes = make_layer(text, [(3, 20, 2, 5)], seed=9)
    assert shapes == [(3, 20, 2, 5)]
    (top,) = layer.forward([bottom], [])
    mask = torch.from_numpy(CaffeRandom(9).bernoulli(0.75, 60)).view(3, 20, 1, 1)
    assert 0 < int(mask.sum()) < 60
    np.testing.assert_allclose(top.detach(), bottom.detach() * mask / 0.75, rtol=1e-6)  # float32
    top.sum().backward()
    np.testing.assert_allclose(bottom.grad, (mask / 0.75).expand(3, 20, 2, 5), rtol=1e-6)
    layer, _ = make_layer(text, [(3, 20, 2, 5)], caffe_pb2.TEST)
    assert layer.copies_bottom
    assert torch.equal(layer.forward([bottom], [])[0], bottom)


def test_dropout_in_testing_changes_nothing():
    layer, _ = make_layer('name: "d" type: "Dropout" top: "t"', [(2, 3)], phase=1)
    bottom = torch.randn(2, 3)
    assert torch.equal(layer.forward([bottom], ())[0], bottom)


@pytest.mark.parametrize(
    ("text", "macs"),
    [
        ('type: "Convolution" convolution_param { num_output: 8 kernel_h: 3 kernel_w: 2 }', 2 * 8 * 3 * 6 * 6 * 3 * 2),
        ('type: "Convolution" convolution_param { num_output: 8 kernel_size: 1 group: 2 }', 2 * 8 * 5 * 7 * 3),
        ('type: "DepthwiseConvolution" convolution_param { num_output: 6 kernel_size: 3 pad: 1 }', 2 * 6 * 5 * 7 * 9),
        ('type: "Deconvolution" convolution_param { num_output: 4 kernel_size: 2 stride: 2 }', 2 * 6 * 5 * 7 * 4 * 4),
        ('type: "InnerProduct" inner_product_param { num_output: 3 }', 2 * 3 * 6 * 5 * 7),
        ('type: "InnerProduct" inner_product_param { num_output: 3 axis: 2 }', 2 * 6 * 3 * 5 * 7),
        ('type: "ReLU"', 0),
    ],
)
def test_multiply_accumulates(text, macs):
    bottom = (2, 6, 5, 7)
    layer, shapes = make_layer(f'name: "l" top: "t" {text}', [bottom])
    assert layer.macs([bottom], shapes) == macs
