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


# --- training ---

NUM_TRUTHS, SIDE_X, SIDE_Y = 4, 5, 4
PRIORS = [(14, 22), (31, 18), (40, 55), (90, 70)]


def yolo_labels(number, rows=NUM_TRUTHS, seed=3):
    """Rows of class, x, y, w, h that end with zeros; the first two of each picture share a place and a prior."""
    random = np.random.default_rng(seed)
    labels = np.zeros((number, 1, 300, 5), np.float32)
    for image in range(number):
        for row in range(rows - image):
            x, y, w, h = random.uniform(0.05, 0.95, 4)
            labels[image, 0, row] = random.integers(CLASSES), x, y, 0.6 * w, 0.7 * h
        labels[image, 0, 1] = labels[image, 0, 0] + [0, 0.001, 0.001, 0.01, 0.01]
        labels[image, 0, 1, 0] = (labels[image, 0, 0, 0] + 1) % CLASSES
    return labels


def iou(a, b):
    sides = [
        min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2) - max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2) for k in (0, 1)
    ]
    common = 0 if min(sides) < 0 else sides[0] * sides[1]
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def region_truth(x, labels, priors, is_intel, *, rescore, bias_match, thresh, scales):
    """Forward_cpu of region_loss_layer.cpp of either Caffe, number by number: the loss and what is passed back."""
    object_scale, noobject_scale, class_scale, coord_scale = scales
    number, side = len(x), x.shape[-1]
    x = x.astype(float).reshape(number, len(priors), 5 + CLASSES, side, side)
    diff = np.zeros_like(x)
    for image in range(number):
        truths = labels[image]
        boxes = {}
        for n, j, i in np.ndindex(len(priors), side, side):
            v = x[image, n, :, j, i]
            size = (math.exp(v[2]) * priors[n][0] / side, math.exp(v[3]) * priors[n][1] / side)
            boxes[n, j, i] = ((i + sigmoid(v[0])) / side, (j + sigmoid(v[1])) / side, *size)
            s = sigmoid(v[4])
            if max((iou(boxes[n, j, i], truth[1:]) for truth in truths), default=0) <= thresh:
                diff[image, n, 4, j, i] = noobject_scale * s * s * (1 - s)
        for label, tx, ty, tw, th in truths:
            i, j = int(tx * side), int(ty * side)
            sizes = [(w / side, h / side) if bias_match else boxes[n, j, i][2:] for n, (w, h) in enumerate(priors)]
            n = max(range(len(priors)), key=lambda k: iou((0, 0, *sizes[k]), (0, 0, tw, th)))
            v, out = x[image, n, :, j, i], diff[image, n, :, j, i]
            errors = [tx * side - i - sigmoid(v[0]), ty * side - j - sigmoid(v[1])]
            errors += [math.log(tw * side / priors[n][0]) - v[2], math.log(th * side / priors[n][1]) - v[3]]
            scale = coord_scale
            if is_intel:
                errors = [min(max(error, -1), 1) for error in errors]
            elif not rescore:
                scale *= 2 - tw * th
            for k, error in enumerate(errors):
                out[k] = -scale * error
            for k in (0, 1):
                out[k] *= sigmoid(v[k]) * (1 - sigmoid(v[k]))
            s, overlap = sigmoid(v[4]), iou(boxes[n, j, i], (tx, ty, tw, th))
            if is_intel:
                out[4] = -object_scale * 2 * (1 - s) ** 3 * s * (1 - s)
            else:
                out[4] = -object_scale * ((overlap if rescore else 1) - s) * s * (1 - s)
            total = sum(math.exp(value) for value in v[5:])
            for k in range(CLASSES):
                out[5 + k] = -class_scale * ((k == label) - math.exp(v[5 + k]) / total)
    return (diff**2).sum() / (1 if is_intel else number), diff.reshape(number, -1, side, side) / number


def loss_of(text, x, labels):
    layer, shapes = make_layer(f'name: "l" top: "t" {text}', [x.shape, labels.shape])
    bottom = torch.from_numpy(x).requires_grad_()
    (loss,) = layer.forward([bottom, torch.from_numpy(labels)], [])
    assert shapes == [tuple(loss.shape)] == [()]
    (3 * loss).backward()
    return loss.item(), bottom.grad.numpy() / 3


@pytest.mark.parametrize(("rescore", "bias_match"), [(1, 1), (0, 1), (1, 0)])
@pytest.mark.parametrize("is_intel", [False, True])
def test_region_loss(is_intel, rescore, bias_match):
    priors = [(w / 40, h / 40) for w, h in PRIORS[1:]]
    x = values(2, 3 * (5 + CLASSES), 5, 5, seed=8)
    rows = yolo_labels(2)
    truths = [[row.astype(float) for row in rows[image, 0, : NUM_TRUTHS - image]] for image in range(2)]
    labels = rows
    if is_intel:
        table = [
            (image, label + 1, 0, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, 0)
            for image in range(2)
            for label, cx, cy, w, h in truths[image]
        ]
        labels = np.array(table, np.float32)[None, None]
    scales = (5, 0.7, 1.5, 2)
    numbers = " ".join(f"biases: {value}" for prior in priors for value in prior)
    names = zip(("object", "noobject", "class", "coord"), scales, strict=True)
    numbers += " ".join(f" {name}_scale: {scale}" for name, scale in names)
    text = f"num_class: {CLASSES} num: 3 side: 5 thresh: 0.3 rescore: {rescore} bias_match: {bias_match} {numbers}"
    found, gradient = loss_of(f'type: "RegionLoss" region_loss_param {{ {text} }}', x, labels)
    expected, diff = region_truth(
        x, truths, priors, is_intel, rescore=rescore, bias_match=bias_match, thresh=0.3, scales=scales
    )
    assert found == pytest.approx(expected, rel=1e-5)  # squares of float32 errors
    np.testing.assert_allclose(gradient, diff, rtol=1e-4, atol=1e-6)  # differences of float32 numbers up to 5


def yolov3_truth(x, labels, mask, scale, *, focal, smooth, logic, iou_thresh, thresh, coord_scale, object_scale):
    """Forward_cpu and Backward_cpu of yolov3_layer.cpp with the MSE, number by number."""
    number, (height, width) = len(x), x.shape[-2:]
    x = x.astype(float).reshape(number, len(mask), 5 + CLASSES, height, width)
    diff, slopes = np.zeros_like(x), np.ones_like(x)
    sizes = [(w / (width * scale), h / (height * scale)) for w, h in PRIORS]
    for index in np.ndindex(x.shape):
        if index[2] not in (2, 3):
            slopes[index] = sigmoid(x[index]) * (1 - sigmoid(x[index]))
    for image in range(number):
        for n, j, i in np.ndindex(len(mask), height, width):
            v, prior = x[image, n, :, j, i], sizes[mask[n]]
            x_y = ((i + sigmoid(v[0])) / width, (j + sigmoid(v[1])) / height)
            box = (*x_y, math.exp(v[2]) * prior[0], math.exp(v[3]) * prior[1])
            if max((iou(box, truth[1:]) for truth in labels[image]), default=0) <= thresh:
                diff[image, n, 4, j, i] = sigmoid(v[4])
        for label, tx, ty, tw, th in labels[image]:
            i, j, label = int(tx * width), int(ty * height), int(label)
            overlaps = [iou((0, 0, *size), (0, 0, tw, th)) for size in sizes]
            best = overlaps.index(max(overlaps))
            chosen = []
            if best in mask:
                best = mask.index(best)  # from here on the place in the mask, as in the original
                chosen.append(best)
            chosen += [mask.index(n) for n in range(len(sizes)) if n in mask and n != best and overlaps[n] > iou_thresh]
            for n in chosen:
                v, out, prior = x[image, n, :, j, i], diff[image, n, :, j, i], sizes[mask[n]]
                errors = (tx * width - i - sigmoid(v[0]), ty * height - j - sigmoid(v[1]))
                errors += (math.log(tw / prior[0]) - v[2], math.log(th / prior[1]) - v[3])
                for k, error in enumerate(errors):
                    out[k] = -coord_scale * (2 - tw * th) * error
                out[4] = -(1 - sigmoid(v[4])) * (object_scale if logic else 1)
                wanted = [(k == label) * (1 - smooth) + 0.5 * smooth for k in range(CLASSES)]
                p = [sigmoid(value) for value in v[5:]]
                if out[5 + label]:
                    out[5 + label] = -2 * (wanted[label] - p[label])
                elif focal:
                    factor = -0.5 * (1 - p[label]) * (2 * p[label] * math.log(p[label]) + p[label] - 1)
                    out[5:] = [-2 * ((k == label) - p[k]) * factor for k in range(CLASSES)]
                else:
                    out[5:] = [-2 * (wanted[k] - p[k]) for k in range(CLASSES)]
    loss = (diff**2).sum() / number
    return loss, (diff * (slopes if logic else 1)).reshape(number, -1, height, width) / number


@pytest.mark.parametrize(
    ("mask", "focal", "smooth", "logic", "iou_thresh"),
    [([0, 1, 2], 0, 0.1, 0, 0.4), ([2, 3], 0, 0, 1, 0.3), ([1, 3], 1, 0.2, 0, 0.2), ([0, 2], 0, 0.1, 1, 1)],
)
def test_yolov3_loss(mask, focal, smooth, logic, iou_thresh):
    x, labels = values(2, len(mask) * (5 + CLASSES), SIDE_Y, SIDE_X, seed=9), yolo_labels(2)
    numbers = " ".join(f"biases: {value}" for prior in PRIORS for value in prior)
    numbers += " ".join(f" mask: {number}" for number in mask)
    text = f"""num_class: {CLASSES} num: {len(mask)} anchors_scale: 30 thresh: 0.35 coord_scale: 1.5 object_scale: 4
      class_scale: 2 use_focal_loss: {focal} label_smooth_eps: {smooth} use_logic_gradient: {logic}
      iou_thresh: {iou_thresh} {numbers}"""
    found, gradient = loss_of(f'type: "Yolov3" yolov3_param {{ {text} }}', x, labels)
    truths = [[row.astype(float) for row in labels[image, 0, : NUM_TRUTHS - image]] for image in range(2)]
    options = {"focal": focal, "smooth": smooth, "logic": logic, "iou_thresh": iou_thresh if iou_thresh < 1 else 2}
    expected, diff = yolov3_truth(x, truths, mask, 30, **options, thresh=0.35, coord_scale=1.5, object_scale=4)
    assert found == pytest.approx(expected, rel=1e-5)  # squares of float32 errors
    np.testing.assert_allclose(gradient, diff, rtol=1e-4, atol=1e-6)  # differences of float32 numbers up to 5


REGION = "region_loss_param { num_class: 3 num: 2 side: 5 biases: 1 biases: 2 biases: 3 biases: 1 %s }"
YOLOV3 = "yolov3_param { num_class: 3 num: 2 mask: 0 mask: 1 biases: 1 biases: 2 biases: 3 biases: 1 %s }"


@pytest.mark.parametrize(
    ("type_", "text", "shapes"),
    [
        ("RegionLoss", REGION % 'softmax_tree: "t"', [(4, 16, 5, 5), (1, 1, 9, 8)]),
        ("RegionLoss", REGION % 'class_map: "m"', [(4, 16, 5, 5), (4, 1, 300, 5)]),
        ("RegionLoss", REGION % "biases: 7", [(4, 16, 5, 5), (1, 1, 9, 8)]),
        ("RegionLoss", REGION % "", [(4, 16, 5, 7), (1, 1, 9, 8)]),
        ("RegionLoss", REGION % "", [(4, 16, 7, 7), (1, 1, 9, 8)]),
        ("RegionLoss", REGION % "", [(4, 16, 5, 5), (4, 1, 30, 5)]),
        ("Yolov3", YOLOV3 % "iou_loss: GIOU", [(4, 16, 5, 7), (4, 1, 300, 5)]),
        ("Yolov3", YOLOV3 % "", [(4, 16, 5, 7), (1, 1, 9, 8)]),
        ("Yolov3", YOLOV3.replace("mask: 1", "mask: 2") % "", [(4, 16, 5, 7), (4, 1, 300, 5)]),
        ("Yolov3", YOLOV3.replace("mask: 1", "") % "", [(4, 16, 5, 7), (4, 1, 300, 5)]),
    ],
)
def test_losses_of_which_only_the_shapes_are_known(type_, text, shapes):
    layer, found = make_layer(f'name: "l" top: "t" type: "{type_}" {text}', shapes)
    assert found == [()]
    assert layer.only_shapes
    with pytest.raises(LayerError, match="only the shapes"):
        layer.forward([torch.zeros(shape) for shape in shapes], [])
    with pytest.raises(LayerError, match="the maps do not fit"):
        make_layer(f'name: "l" top: "t" type: "{type_}" {text}', [(4, 17, *shapes[0][2:]), shapes[1]])


@pytest.mark.parametrize(
    ("row", "code"),
    [((3, 0.5, 0.5, 0.1, 0.1), "label"), ((0, 1, 0.5, 0.1, 0.1), "box"), ((0, 0.5, 0.5, 0.1, 0), "box")],
)
def test_true_boxes_that_the_original_writes_beside_its_memory_for(row, code):
    labels = torch.zeros(1, 1, 300, 5)
    labels[0, 0, 0] = torch.tensor(row)
    layer, _ = make_layer(f'name: "l" top: "t" type: "Yolov3" {YOLOV3 % ""}', [(1, 16, 4, 3), (1, 1, 300, 5)])
    with pytest.raises(LayerError) as caught:
        layer.forward([torch.zeros(1, 16, 4, 3), labels], [])
    assert caught.value.code == f"layer.{code}"


def test_a_loss_without_true_boxes():
    layer, _ = make_layer(f'name: "l" top: "t" type: "Yolov3" {YOLOV3 % ""}', [(2, 16, 4, 3), (2, 1, 300, 5)])
    (loss,) = layer.forward([torch.zeros(2, 16, 4, 3), torch.zeros(2, 1, 300, 5)], [])
    assert loss.item() == 2 * 4 * 3 * 0.25  # the objectness of each of 24 boxes a picture is 1/2


SHAPED = [
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
