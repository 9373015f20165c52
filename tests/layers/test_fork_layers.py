"""Types of other forks, Interp, Upsample, ShuffleChannel and Swish: formulas of their own, and OpenCV's importer."""

import cv2
import numpy as np
import onnx_stub
import pytest
import torch
from harness import make_layer

from pyscratchdet.errors import LayerError

TOLERANCE = 1e-6  # float32: products of a few values


def bottom(*shape):
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def run(text, *bottoms):
    layer, shapes = make_layer(f'name: "layer" top: "top" {text}', [array.shape for array in bottoms])
    (top,) = layer.forward([torch.from_numpy(array) for array in bottoms], ())
    assert shapes == [tuple(top.shape)]
    return top.numpy()


def bilinear(x, height, width):
    """The corners of both sizes on each other; each axis as a matrix of two weights a row."""

    def weights(size, new_size):
        places = np.linspace(0, size - 1, new_size) if new_size > 1 else np.zeros(1)
        return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size)))

    return np.einsum("ai,bj,ncij->ncab", weights(x.shape[2], height), weights(x.shape[3], width), x.astype(np.float64))


# Parameters, rows and columns cut off at either end, and the size for a bottom of 9 by 6.
INTERPS = [
    ("height: 5 width: 11", (0, 0), (5, 11)),
    ("height: 1 width: 2", (0, 0), (1, 2)),
    ("height: 9 width: 6", (0, 0), (9, 6)),
    ("height: 7 width: 8 pad_beg: -2 pad_end: -1", (2, 1), (7, 8)),
    ("zoom_factor: 3", (0, 0), (25, 16)),
    ("shrink_factor: 2", (0, 0), (5, 3)),
    ("shrink_factor: 4 zoom_factor: 3", (0, 0), (7, 4)),
    ("zoom_factor: 2 height: 4 width: 4", (0, 0), (17, 11)),
    ("shrink_factor: 2 zoom_factor: 3 height: 4 width: 5", (0, 0), (4, 5)),
]


@pytest.mark.parametrize(("params", "cut", "size"), INTERPS)
def test_interp(params, cut, size):
    x = bottom(2, 3, 9, 6)
    found = run(f'type: "Interp" interp_param {{ {params} }}', x)
    begin, end = cut
    expected = bilinear(x[:, :, begin : 9 - end, begin : 6 - end], *size)
    np.testing.assert_allclose(found, expected, atol=5 * TOLERANCE)  # places up to 8 are float32 too


def test_interp_to_the_size_of_a_second_bottom():
    x, text = bottom(2, 3, 4, 5), 'type: "Interp" interp_param { use_blob_size: true }'
    np.testing.assert_allclose(run(text, x, bottom(2, 7, 9, 3)), bilinear(x, 9, 3), atol=5 * TOLERANCE)
    with pytest.raises(LayerError, match="use_blob_size"):
        run(text, x)
    with pytest.raises(LayerError, match="use_blob_size"):
        run(text.replace("true", "false"), x, x)


def test_interp_of_one_pixel():
    x = bottom(2, 3, 1, 1)
    found = run('type: "Interp" interp_param { height: 4 width: 5 }', x)
    np.testing.assert_array_equal(found, np.broadcast_to(x, (2, 3, 4, 5)))


@pytest.mark.parametrize("scale", [1, 2, 3, 41])
def test_upsample_repeats_pixels(scale):
    x = bottom(2, 3, 43, 5)
    found = run(f'type: "Upsample" upsample_param {{ scale: {scale} }}', x)
    np.testing.assert_array_equal(found, x.repeat(scale, 2).repeat(scale, 3))


UNPOOLINGS = [
    ("", (8, 6)),
    ("pad_out_h: true", (7, 6)),
    ("scale: 2 pad_out_w: true", (8, 5)),
    ("scale_h: 2 scale_w: 3", (8, 9)),
    ("upsample_h: 9 upsample_w: 7", (9, 7)),
]


@pytest.mark.parametrize(("params", "size"), UNPOOLINGS)
def test_upsample_undoes_a_pooling(params, size):
    x, places = bottom(2, 3, 4, 3), np.zeros((2, 3, 4, 3), np.float32)
    random = np.random.default_rng(4)
    expected = np.zeros((2, 3, *size), np.float32)
    for n, c in np.ndindex(2, 3):
        places[n, c] = random.permutation(size[0] * size[1])[:12].reshape(4, 3)
        for place, value in zip(places[n, c].flat, x[n, c].flat, strict=True):
            expected[n, c].flat[int(place)] = value
    text = f'type: "Upsample" upsample_param {{ {params} }}'
    np.testing.assert_array_equal(run(text, x, places), expected)
    layer, _ = make_layer(f'name: "layer" top: "top" {text}', [x.shape] * 2)
    for opset in (17, 21):
        (found,) = onnx_stub.run(layer, [x.shape] * 2, [x, places], (), opset)
        np.testing.assert_array_equal(found, expected)


def test_upsample_passes_the_gradient_back_to_where_the_values_came_from():
    layer, _ = make_layer('name: "l" type: "Upsample" top: "t"', [(1, 1, 1, 3)] * 2)
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]], requires_grad=True)
    places = torch.tensor([[[[11.0, 0.0, 0.0]]]])
    layer.forward([x, places], ())[0].backward(torch.arange(12.0).view(1, 1, 2, 6))
    assert x.grad.flatten().tolist() == [11, 0, 0]
    double = torch.randn(1, 1, 1, 3, dtype=torch.float64, requires_grad=True)
    distinct = torch.tensor([[[[11.0, 4.0, 0.0]]]])
    assert torch.autograd.gradcheck(lambda value: layer.forward([value, distinct], ())[0], double)


@pytest.mark.parametrize("place", [-1.0, 12.0])
def test_a_place_outside_the_top(place):
    layer, _ = make_layer('name: "l" type: "Upsample" top: "t"', [(1, 1, 1, 3)] * 2)
    with pytest.raises(LayerError, match=r"expected 0 to 11 .*\[layer.index\]"):
        layer.forward([torch.ones(1, 1, 1, 3), torch.tensor([[[[0.0, 3.0, place]]]])], ())


def test_shuffle_channel_transposes_a_table():
    x = bottom(2, 6, 4, 3)
    found = run('type: "ShuffleChannel" shuffle_channel_param { group: 2 }', x)
    np.testing.assert_array_equal(found, x[:, [0, 3, 1, 4, 2, 5]])


def test_swish():
    x = bottom(2, 5) * 4
    found = run('type: "Swish" swish_param { beta: 0.6 }', x)
    np.testing.assert_allclose(found, x / (1 + np.exp(-0.6 * x.astype(np.float64))), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    "text",
    [
        'type: "Interp" interp_param { height: 5 width: 13 }',
        'type: "Interp" interp_param { zoom_factor: 3 }',
        'type: "ShuffleChannel" shuffle_channel_param { group: 3 }',
        'type: "ReLU6"',
    ],
)
def test_opencv(text):
    x = 4 * bottom(2, 6, 4, 7)
    net = 'input: "data" input_shape { dim: 2 dim: 6 dim: 4 dim: 7 } '
    net += f'layer {{ name: "layer" bottom: "data" top: "top" {text} }}'
    theirs = cv2.dnn.readNetFromCaffe(np.frombuffer(net.encode(), np.uint8))
    theirs.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    theirs.setInput(x)
    np.testing.assert_allclose(run(text, x), theirs.forward(), atol=4 * TOLERANCE)  # the values are four times as large
