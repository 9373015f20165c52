"""Gradients: true ones against finite differences, and the original's where they are not the true ones."""

import numpy as np
import pytest
import torch
from harness import make_layer
from layer_cases import CASES, case_id
from layer_values import build, values


@pytest.mark.parametrize("case", [case for case in CASES if case.differentiable], ids=case_id)
def test_finite_differences(case):
    layer, _ = build(case)
    bottoms, blobs = values(case, layer, case.bottoms, torch.float64)
    wanted = [bottom.requires_grad_(not case.whole and i not in layer.no_gradient) for i, bottom in enumerate(bottoms)]
    statistics = [spec.is_statistic for spec in layer.blobs]
    learned = [blob.requires_grad_(not fixed) for blob, fixed in zip(blobs, statistics, strict=True)]

    def forward(*tensors):
        given = tensors[: len(bottoms)]
        # Statistics are copied: a training pass moves them.
        used = [t.clone() if s else t for t, s in zip(tensors[len(bottoms) :], statistics, strict=True)]
        return tuple(top for top in layer.forward(given, used) if top.requires_grad)

    # 1e-6: gradcheck's default in float64.
    assert torch.autograd.gradcheck(forward, (*wanted, *learned), atol=1e-6, fast_mode=True)


def gradient(text, *bottoms, top_diff=None):
    layer, _ = make_layer(f'name: "l" top: "t" {text}', [tuple(bottom.shape) for bottom in bottoms])
    blobs = [torch.full(spec.shape, spec.filler.value) for spec in layer.blobs]
    (top,) = layer.forward(bottoms, blobs)
    top.backward(torch.ones_like(top) if top_diff is None else top_diff)
    return [bottom.grad.tolist() for bottom in bottoms]


def leaf(values):
    return torch.tensor(values, requires_grad=True)


def test_maximum_of_equals_goes_to_the_second_of_the_first_two_and_to_no_later_one():
    bottoms = [leaf([1.0, 3.0, 2.0]), leaf([1.0, 2.0, 2.0]), leaf([1.0, 3.0, 5.0])]
    assert gradient('type: "Eltwise" eltwise_param { operation: MAX }', *bottoms) == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('type: "ReLU"', [0, 0, 1]),
        ('type: "ReLU" relu_param { negative_slope: 0.5 }', [0.5, 0.5, 1]),
        ('type: "AbsVal" bottom: "b"', [-1, 0, 1]),
        # A float32 exponential, off by a last bit or two.
        ('type: "ELU" elu_param { alpha: 0.5 }', [pytest.approx(0.5 * np.exp(-1), rel=1e-6), 0.5, 1]),
        ('type: "Power" power_param { power: 0 }', None),
        ('type: "Reduction" reduction_param { operation: ASUM }', [-1, 0, 1]),
    ],
)
def test_at_zero(text, expected):
    bottom = leaf([-1.0, 0.0, 1.0])
    if expected is None:
        layer, _ = make_layer(f'name: "l" top: "t" {text}', [(3,)])
        assert not layer.forward([bottom], ())[0].requires_grad
    else:
        assert gradient(text, bottom) == [expected]


def test_relu6_at_its_ends():
    assert gradient('type: "ReLU6"', leaf([0.0, 0.1, 6.0, 7.0])) == [[0, 1, 0, 0]]


def test_clip_passes_gradients_at_its_ends():
    assert gradient('type: "Clip" clip_param { min: -1 max: 2 }', leaf([-1.5, -1.0, 0.0, 2.0, 2.5])) == [
        [0, 1, 1, 1, 0]
    ]


def test_max_pooling_of_equals_goes_to_the_first_of_the_window():
    (found,) = gradient(
        'type: "Pooling" pooling_param { kernel_size: 2 }', leaf([[[[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]]])
    )
    assert found == [[[[1, 1, 0], [0, 0, 0]]]]


def test_normalize_leaves_the_scale_out_of_the_inner_product():
    x, g, scale = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5), torch.tensor([2.0, 0.5, 1.5])
    text = 'name: "l" type: "Normalize" top: "t" norm_param { across_spatial: false channel_shared: false eps: 0.1 }'
    layer, _ = make_layer(text, [x.shape])
    x.requires_grad_()
    layer.forward([x], [scale])[0].backward(g)
    x = x.detach()
    norm = (x.square().sum(1, keepdim=True) + 0.1).sqrt()
    expected = scale.view(3, 1, 1) * (g - x * (x * g).sum(1, keepdim=True) / norm**2) / norm
    torch.testing.assert_close(layer_gradient(layer, x, scale, g), expected, rtol=1e-5, atol=1e-6)  # float32 rounding


def layer_gradient(layer, x, scale, g):
    x = x.clone().requires_grad_()
    layer.forward([x], [scale])[0].backward(g)
    return x.grad


def test_mvn_takes_the_divisor_for_the_root_of_a_variance():
    x, g = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    layer, _ = make_layer('name: "l" type: "MVN" top: "t" mvn_param { eps: 0.5 }', [x.shape])
    inputs = x.clone().requires_grad_()
    (y,) = layer.forward([inputs], ())
    y.backward(g)
    divisor = x.var((2, 3), unbiased=False, keepdim=True).sqrt() + 0.5
    means = [value.mean((2, 3), keepdim=True) for value in (g, g * y.detach())]
    expected = (g - means[0] - y.detach() * means[1]) / divisor
    torch.testing.assert_close(inputs.grad, expected, rtol=1e-5, atol=1e-6)  # float32 rounding


def test_mvn_of_a_constant_has_a_finite_gradient():
    (found,) = gradient('type: "MVN"', torch.full((1, 2, 3, 4), 5.0, requires_grad=True))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("type_", ["Normalize", "Scale", "Bias"])
def test_half_precision_bottoms(type_):
    layer, _ = make_layer(f'name: "l" type: "{type_}" top: "t"', [(2, 3, 4, 5)])
    bottom = (torch.randn(2, 3, 4, 5) * 100).half().requires_grad_()  # squares above half precision's 65504
    blobs = [torch.rand(spec.shape, requires_grad=True) for spec in layer.blobs]
    (top,) = layer.forward([bottom], blobs)
    wide = layer.forward([bottom.detach().float()], blobs)[0]
    torch.testing.assert_close(top.float(), wide, rtol=2e-3, atol=1e-3)  # half precision has 11 bits
    top.sum().backward()
    assert bottom.grad.dtype == torch.float16
    assert bottom.grad.isfinite().all()
    assert all(blob.grad.isfinite().all() for blob in blobs)
