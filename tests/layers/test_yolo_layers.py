"""Reorg and the detection outputs of MobileNet-YOLO: the published loops, written out."""

import math

import numpy as np
import onnx_stub
import pytest
import torch
from harness import make_layer

from pyscratchdet.errors import LayerError


def values(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def darknet(x, stride, reverse):
    """reorg_cpu of reorg_layer.hpp, on flat memory; reads the whole bottom and writes the whole top."""
    number, channels, height, width = x.shape
    out_channels, flat, out = channels // stride**2, x.reshape(-1), np.empty(x.size, np.float32)
    for n, c, h, w in np.ndindex(number, channels, height, width):
        here = w + width * (h + height * (c + channels * n))
        offset = c // out_channels
        w2, h2 = w * stride + offset % stride, h * stride + offset // stride
        there = w2 + width * stride * (h2 + height * stride * (c % out_channels + out_channels * n))
        if reverse:
            out[there] = flat[here]
        else:
            out[here] = flat[there]
    return out


@pytest.mark.parametrize(
    ("shape", "stride", "reverse", "top"),
    [
        ((2, 8, 6, 4), 2, False, (2, 32, 3, 2)),
        ((2, 18, 9, 3), 3, False, (2, 162, 3, 1)),
        ((2, 12, 5, 3), 2, True, (2, 3, 10, 6)),
        ((1, 3, 5, 2), 1, False, (1, 3, 5, 2)),
    ],
)
def test_reorg(shape, stride, reverse, top):
    text = f'name: "l" type: "Reorg" top: "t" reorg_param {{ stride: {stride} reverse: {str(reverse).lower()} }}'
    layer, shapes = make_layer(text, [shape])
    assert shapes == [top]
    x = values(*shape)
    bottom = torch.tensor(x, requires_grad=True)
    (found,) = layer.forward([bottom], [])
    expected = darknet(x, stride, reverse).reshape(top)
    np.testing.assert_array_equal(found.detach(), expected)
    np.testing.assert_array_equal(onnx_stub.run(layer, [shape], [x], [], 17)[0], expected)
    found.backward(found.detach())  # a permutation: its transpose is its inverse
    np.testing.assert_array_equal(bottom.grad, x)


@pytest.mark.parametrize(
    ("shape", "param", "code"),
    [
        ((2, 6, 4, 4), "stride: 2", "shape"),
        ((2, 8, 5, 4), "stride: 2", "shape"),
        ((2, 8, 4), "stride: 2", "rank"),
        ((2, 8, 4, 4), "", "stride"),
    ],
)
def test_reorg_refused(shape, param, code):
    with pytest.raises(LayerError) as caught:
        make_layer(f'name: "l" type: "Reorg" top: "t" reorg_param {{ {param} }}', [shape])
    assert caught.value.code == f"layer.{code}"


SIZES, MASK, SCALES, MAPS, CLASSES = [10, 14, 23, 27, 37, 58, 81, 82], [2, 3, 0, 1], [32, 16], [(3, 4), (6, 8)], 3


def detection_output(more="confidence_threshold: 0.3 nms_threshold: 0.4 mask_group_num: 2"):
    lists = " ".join(f"biases: {size}" for size in SIZES) + "".join(f" mask: {index}" for index in MASK)
    lists += "".join(f" anchors_scale: {scale}" for scale in SCALES)
    param = f"yolov3_detection_output_param {{ num_classes: {CLASSES} num_box: 2 {lists} {more} }}"
    return f'name: "l" type: "Yolov3DetectionOutput" top: "t" {param}'


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def overlap(a, b):
    sides = [
        min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2) - max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2) for k in (0, 1)
    ]
    common = max(sides[0], 0) * max(sides[1], 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def v3(bottoms):
    """Forward_cpu of yolov3_detection_output_layer.cpp in double precision: (x, y, width, height, score, label)."""
    found = []
    for t, bottom in enumerate(bottoms):
        height, width = bottom.shape[2:]
        for i, j, n in np.ndindex(height, width, 2):
            code = bottom[0, n * (5 + CLASSES) : (n + 1) * (5 + CLASSES), i, j].astype(float)
            size = MASK[2 * t + n]
            box = [
                (j + sigmoid(code[0])) / width,
                (i + sigmoid(code[1])) / height,
                math.exp(code[2]) * SIZES[2 * size] / (width * SCALES[t]),
                math.exp(code[3]) * SIZES[2 * size + 1] / (height * SCALES[t]),
            ]
            for c in range(CLASSES):
                score = sigmoid(code[4]) * sigmoid(code[5 + c])
                if score > 0.3:
                    found.append([*box, score, c + 1])
    return found


def best(found):
    """ApplyNms, and the rows that it leaves."""
    kept = []
    for row in sorted(found, key=lambda row: -row[4]):
        if all(overlap(other, row) < 0.4 for other in kept):
            kept.append(row)
    rows = np.array(kept)
    half = rows[:, 2:4] / 2
    return np.column_stack([0 * rows[:, 0], rows[:, 5], rows[:, 4], rows[:, :2] - half, rows[:, :2] + half])


def maps(seed, scale=1.0):
    return [values(1, 2 * (5 + CLASSES), *size, seed=seed + k, scale=scale) for k, size in enumerate(MAPS)]


@pytest.mark.parametrize("seed", [0, 2])
def test_yolov3_detection_output(seed):
    bottoms = maps(seed)
    layer, shapes = make_layer(detection_output(), [bottom.shape for bottom in bottoms])
    assert shapes == [(1, 1, 1, 7)]
    (top,) = layer.forward([torch.from_numpy(bottom) for bottom in bottoms], [])
    found = v3(bottoms)
    expected = best(found)
    assert 20 < len(expected) < len(found) - 20
    assert top.shape == (1, 1, len(expected), 7)
    np.testing.assert_allclose(top[0, 0], expected, atol=1e-5)  # exponentials and sigmoids of float32


def test_yolov3_detection_output_of_nothing():
    bottoms = [np.full_like(bottom, -9) for bottom in maps(0)]
    layer, _ = make_layer(detection_output(), [bottom.shape for bottom in bottoms])
    (top,) = layer.forward([torch.from_numpy(bottom) for bottom in bottoms], [])
    assert top.tolist() == [[[[0, -1, -1, -1, -1, -1, -1]]]]


SHAPES = [bottom.shape for bottom in maps(0)]


@pytest.mark.parametrize(
    ("more", "shapes", "code"),
    [
        ("", [SHAPES[0], (1, 15, 6, 8)], "shape"),
        ("", [(2, *SHAPES[0][1:]), SHAPES[1]], "shape"),
        ("", SHAPES[:1], "maps"),
        ("gaussian_box: true", SHAPES, "gaussian"),
        ("mask: 4 mask: 4", SHAPES, "mask"),
        ("num_box: 3", SHAPES, "mask"),
    ],
)
def test_yolov3_detection_output_refused(more, shapes, code):
    text = detection_output(more)
    if "num_box: 3" in more:
        text = text.replace("num_box: 2 ", "")
    if code == "mask":
        text = text.replace("mask: 2 mask: 3", "mask: 4 mask: 3")
    with pytest.raises(LayerError) as caught:
        make_layer(text, shapes)
    assert caught.value.code == f"layer.{code}"


def v2(bottom):
    """Forward_cpu of yolo_detection_output_layer.cpp in double precision."""
    found, side = [], bottom.shape[2]
    for i, j, n in np.ndindex(side, side, 2):
        code = bottom[0, n * (5 + CLASSES) : (n + 1) * (5 + CLASSES), i, j].astype(float)
        classes = np.exp(code[5:] - code[5:].max())
        label, score = classes.argmax(), classes.max() / classes.sum() * sigmoid(code[4])
        if score >= 0.3:
            sides = [math.exp(code[2 + k]) * SIZES[2 * n + k] / 9 / side for k in (0, 1)]
            found.append([(j + sigmoid(code[0])) / side, (i + sigmoid(code[1])) / side, *sides, score, label + 1])
    return found


def v2_output(more=""):
    lists = " ".join(f"biases: {size / 9}" for size in SIZES[:4])
    param = f"num_classes: {CLASSES} num_box: 2 {lists} confidence_threshold: 0.3 nms_threshold: 0.4 {more}"
    return f'name: "l" type: "YoloDetectionOutput" top: "t" yolo_detection_output_param {{ {param} }}'


def test_yolo_detection_output():
    first, second = (values(1, 2 * (5 + CLASSES), side, side, seed=side) for side in (7, 5))
    layer, shapes = make_layer(v2_output(), [first.shape, second.shape])
    assert shapes == [(1, 1, 1, 7)]
    (top,) = layer.forward([torch.from_numpy(first), torch.from_numpy(second)], [])
    found = v2(first) + v2(second)
    expected = best(found)
    assert 20 < len(expected) < len(found) - 5
    np.testing.assert_allclose(top[0, 0], expected, atol=1e-5)  # exponentials and sigmoids of float32


@pytest.mark.parametrize(
    ("text", "shapes", "code"),
    [
        (v2_output(), [(1, 16, 5, 4)], "shape"),
        (v2_output(), [(1, 15, 5, 5)], "shape"),
        (v2_output().replace("num_box: 2", "num_box: 3"), [(1, 24, 5, 5)], "biases"),
    ],
)
def test_yolo_detection_output_refused(text, shapes, code):
    with pytest.raises(LayerError) as caught:
        make_layer(text, shapes)
    assert caught.value.code == f"layer.{code}"


SHAPED = [
    ('type: "RegionLoss" region_loss_param { num_class: 3 num: 2 }', [(4, 16, 5, 7), (1, 1, 9, 8)], ()),
    ('type: "Yolov3" yolov3_param { num_class: 3 num: 2 }', [(4, 16, 5, 7), (1, 1, 9, 8)], ()),
    ('type: "EvalDetection" eval_detection_param { num_class: 3 num_object: 2 side: 5 }',
     [(4, 16, 5, 5), (1, 1, 9, 8), (4, 3, 80, 80)], (4, 203)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "bottoms", "expected"), SHAPED)
def test_types_of_the_training_have_shapes_and_do_not_run(text, bottoms, expected):
    """The Reshape methods of Intel's Caffe and of MobileNet-YOLO."""
    layer, shapes = make_layer(f'name: "l" top: "t" {text}', bottoms)
    assert shapes == [expected]
    assert layer.only_shapes_known().code == "layer.only-shapes"
    with pytest.raises(LayerError) as caught:
        make_layer(f'name: "l" top: "t" {text}', [(4, 17, *bottoms[0][2:]), *bottoms[1:]])
    assert caught.value.code == "layer.shape"
