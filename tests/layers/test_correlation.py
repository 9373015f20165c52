"""Correlation against loops over one number at a time (correlation_layer.cu), and in ONNX."""

import math

import numpy as np
import onnx_stub
import pytest
import torch
from harness import make_layer

from pyscratchdet.errors import LayerError


def loops(first, second, pad, kernel, reach, stride_1, stride_2, subtracts):
    """CorrelateData and CorrelateDataSubtract: the top, number by number, in double precision."""
    first, second = (np.pad(x.astype(float), ((0, 0), (0, 0), (pad, pad), (pad, pad))) for x in (first, second))
    number, channels, height, width = first.shape
    border, radius = reach + (kernel - 1) // 2, reach // stride_2
    grid = 2 * radius + 1
    sizes = [math.ceil((size - 2 * border) / stride_1) for size in (height, width)]
    top = np.zeros((number, grid * grid, *sizes))
    for n, c, y, x in np.ndindex(top.shape):
        over, down = (c % grid - radius) * stride_2, (c // grid - radius) * stride_2
        y1, x1 = y * stride_1 + reach, x * stride_1 + reach
        for j, i, k in np.ndindex(kernel, kernel, channels):
            a, b = first[n, k, y1 + j, x1 + i], second[n, k, y1 + down + j, x1 + over + i]
            top[n, c, y, x] += abs(a - b) if subtracts else a * b
    return top / (kernel * kernel * channels)


CASES = [(3, 1, 3, 1, 1, False), (2, 3, 2, 2, 1, False), (4, 1, 5, 1, 2, True), (3, 3, 4, 3, 3, True)]


@pytest.mark.parametrize(("pad", "kernel", "reach", "stride_1", "stride_2", "subtracts"), CASES)
def test_correlation(pad, kernel, reach, stride_1, stride_2, subtracts):
    random = np.random.default_rng(2)
    first, second = (random.normal(size=(2, 3, 9, 11)).astype(np.float32) for _ in range(2))
    numbers = f"pad: {pad} kernel_size: {kernel} max_displacement: {reach} stride_1: {stride_1} stride_2: {stride_2}"
    kind = "SUBTRACT" if subtracts else "MULTIPLY"
    text = f'name: "l" type: "Correlation" top: "t" correlation_param {{ {numbers} correlation_type: {kind} }}'
    layer, shapes = make_layer(text, [first.shape] * 2)
    bottoms = [torch.from_numpy(x).double().requires_grad_() for x in (first, second)]
    (top,) = layer.forward(bottoms, [])
    expected = loops(first, second, pad, kernel, reach, stride_1, stride_2, subtracts)
    assert shapes == [tuple(top.shape)]
    np.testing.assert_allclose(top.detach(), expected, atol=1e-12)  # both in double precision
    layer, _ = make_layer(text, [(1, 2, 9, 8)] * 2)
    smaller = [bottom.detach()[:1, :2, :, :8].requires_grad_() for bottom in bottoms]
    assert torch.autograd.gradcheck(lambda *values: layer.forward(values, [])[0].sum((0, 1)), smaller, fast_mode=True)
    layer, _ = make_layer(text, [first.shape] * 2)
    (found,) = onnx_stub.run(layer, [first.shape] * 2, [first, second], [], 18)
    np.testing.assert_allclose(found, expected, atol=1e-6)  # means of up to 27 float32 products
    assert layer.macs([first.shape] * 2, shapes) == expected.size * 3 * kernel * kernel


@pytest.mark.parametrize(
    ("text", "shapes", "code"),
    [
        ("kernel_size: 2 max_displacement: 1", [(1, 2, 9, 9)] * 2, "kernel"),
        ("kernel_size: 3", [(1, 2, 9, 9)] * 2, "kernel"),
        ("kernel_size: 1 max_displacement: 1 stride_2: 0", [(1, 2, 9, 9)] * 2, "stride"),
        ("kernel_size: 1 max_displacement: 4", [(1, 2, 9, 8)] * 2, "size"),
        ("kernel_size: 1 max_displacement: 1", [(1, 2, 9, 9), (1, 2, 9, 8)], "shape"),
    ],
)
def test_rules(text, shapes, code):
    with pytest.raises(LayerError) as caught:
        make_layer(f'name: "l" type: "Correlation" top: "t" correlation_param {{ {text} }}', shapes)
    assert caught.value.code == f"layer.{code}"
