"""ROIAlign, PSROIPooling, padded ROIPooling and Cascade R-CNN's boxes: published loops, and torchvision.ops."""

import math

import numpy as np
import onnx_stub
import pytest
import torch
from google.protobuf import text_format
from harness import make_layer
from torchvision.ops import nms, ps_roi_pool, roi_align, roi_pool

from pyscratchdet.errors import LayerError
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.runtime import build_net

REGIONS = np.array(
    [
        [0, 0, 0, 17, 13],
        [1, 2.5, 3.5, 12.25, 9],
        [0, 1, 1, 1, 1],
        [1, 9, 11, 2, 3],  # turned round
        [0, -9, -8, -5, -4],  # beside the map
        [1, 11, 8, 40, 30],  # across its border
    ],
    np.float32,
)
GROUP, CHANNELS, SHAPE = 3, 2, (2, 18, 7, 9)


def run(text, *bottoms, phase=caffe_pb2.TEST, tops=1):
    made = " ".join(f'top: "t{i}"' for i in range(tops))
    layer, shapes = make_layer(f'name: "l" {made} {text}', [bottom.shape for bottom in bottoms], phase)
    return layer.forward([torch.as_tensor(bottom) for bottom in bottoms], []), shapes


def features(*shape, seed=5):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rounded(value):
    return math.copysign(math.floor(abs(value) + 0.5), value)


def cells(low, high, scale, size):
    """Pixels [first, last) of a region's cells along one axis: psroi_pooling_layer.cu, in float32."""
    scale, one = np.float32(scale), np.float32
    start, end = one(rounded(low)) * scale, one(rounded(high) + 1) * scale
    length = max(end - start, one(0.1)) / one(GROUP)
    spans = [(math.floor(one(k) * length + start), math.ceil(one(k + 1) * length + start)) for k in range(GROUP)]
    return [(min(max(first, 0), size), min(max(last, 0), size)) for first, last in spans]


def position_sensitive(x, scale, gradient):
    """Top and the features' gradient, cell by cell."""
    top, diff = np.zeros((len(REGIONS), CHANNELS, GROUP, GROUP)), np.zeros(x.shape)
    for n, (image, xmin, ymin, xmax, ymax) in enumerate(REGIONS):
        rows, columns = cells(ymin, ymax, scale, x.shape[2]), cells(xmin, xmax, scale, x.shape[3])
        for c, i, j in np.ndindex(CHANNELS, GROUP, GROUP):
            place = (int(image), (c * GROUP + i) * GROUP + j, slice(*rows[i]), slice(*columns[j]))
            if x[place].size:
                top[n, c, i, j] = x[place].astype(float).mean()
                diff[place] += gradient[n, c, i, j] / x[place].size
    return top, diff


def psroi(scale, more=""):
    param = f"psroi_pooling_param {{ spatial_scale: {scale} output_dim: {CHANNELS} group_size: {GROUP} {more} }}"
    return f'type: "PSROIPooling" {param}'


@pytest.mark.parametrize("scale", [0.5, 1.0, 0.0625])
def test_psroi_pooling_against_loops(scale):
    x, gradient = features(*SHAPE), features(len(REGIONS), CHANNELS, GROUP, GROUP, seed=6)
    bottom = torch.tensor(x, requires_grad=True)
    (top,), shapes = run(psroi(scale), bottom, torch.tensor(REGIONS))
    expected, diff = position_sensitive(x, scale, gradient)
    assert shapes == [top.shape]
    np.testing.assert_allclose(top.detach(), expected, atol=1e-6)  # one rounding to float32
    top.backward(torch.tensor(gradient))
    np.testing.assert_allclose(bottom.grad, diff, atol=1e-6)  # sums of at most 6 float32 numbers


def test_psroi_pooling_against_torchvision():
    """It leaves out a region's last pixel and the map's last row and column, and agrees on whole pixels of the map."""
    x = torch.tensor(features(*SHAPE))
    regions = torch.tensor([[0.0, 0, 0, 15, 11], [1, 2, 4, 9, 11], [1, 4, 2, 15, 11]])
    (top,), _ = run(psroi(0.5), x, regions.view(3, 5, 1, 1))
    expected = ps_roi_pool(x, regions + torch.tensor([0.0, 0, 0, 1, 1]), GROUP, 0.5)
    np.testing.assert_allclose(top, expected, atol=1e-6)  # averages of up to 12 values


def roi(type_, more):
    return f'type: "{type_}" roi_pooling_param {{ pooled_h: 3 pooled_w: 2 spatial_scale: 0.5 {more} }}'


def padded(ratio):
    sides = REGIONS[:, 3:] - REGIONS[:, 1:3] + 1
    return np.concatenate([REGIONS[:, :1], REGIONS[:, 1:3] - sides * ratio, REGIONS[:, 3:] + sides * ratio], 1)


def test_roi_pooling_with_padding():
    x, text = features(2, 3, 7, 9), roi("ROIPooling", "pad_ratio: 0.25")
    (top,), _ = run(text, x, REGIONS)
    np.testing.assert_array_equal(top, roi_pool(torch.tensor(x), torch.tensor(padded(0.25)), (3, 2), 0.5))
    layer, _ = make_layer(f'name: "l" top: "t" {text}', [x.shape, REGIONS.shape])
    found = onnx_stub.run(layer, [x.shape, REGIONS.shape], [x, REGIONS], [], 17)
    np.testing.assert_array_equal(found[0], top)


@pytest.mark.parametrize("ratio", [0, 0.25])
def test_roi_align_against_torchvision(ratio):
    """Corners of cells are the centres of cells half a cell further out, of which torchvision takes one sample each."""
    x, gradient = features(2, 3, 7, 9), torch.tensor(features(len(REGIONS), 3, 4, 3, seed=7))
    bottom, theirs = (torch.tensor(x, requires_grad=True) for _ in range(2))
    (top,), shapes = run(roi("ROIAlign", f"pad_ratio: {ratio}"), bottom, torch.tensor(REGIONS))
    assert shapes == [top.shape]
    low, high = np.split(padded(ratio)[:, 1:] * 0.5, 2, 1)
    half = (high - low) / [2, 3] / 2
    outer = np.concatenate([REGIONS[:, :1], low - half, high + half], 1).astype(np.float32)
    expected = roi_align(theirs, torch.tensor(outer), (4, 3), 1.0, 1, aligned=True)
    is_inside = np.zeros((len(REGIONS), 1, 4, 3), bool)
    for n, i, j in np.ndindex(len(REGIONS), 4, 3):
        place = low[n] - 0.5 + (high[n] - low[n]) * np.array([j / 2, i / 3])
        inside = (place >= -0.5).all() and (place <= np.array([9, 7]) - 0.5).all()
        is_inside[n, 0, i, j] = inside and (high[n] > low[n]).all()
    assert 10 < is_inside.sum() < is_inside.size - 10
    expected = expected * torch.tensor(is_inside)
    np.testing.assert_allclose(top.detach(), expected.detach(), atol=1e-5)  # places up to 9 are float32, and blended
    top.backward(gradient)
    expected.backward(gradient)
    np.testing.assert_allclose(bottom.grad, theirs.grad, atol=1e-5)  # likewise


@pytest.mark.parametrize(
    ("text", "shapes", "code"),
    [
        (psroi(0.5), [SHAPE, (4, 4)], "regions"),
        (psroi(0.5), [(2, 19, 7, 9), (4, 5)], "channels"),
        (psroi(0), [SHAPE, (4, 5)], "scale"),
        (psroi(1, "group_size: 0").replace("group_size: 3", ""), [SHAPE, (4, 5)], "pooled"),
        (roi("ROIAlign", "").replace("pooled_h: 3", "pooled_h: 0"), [SHAPE, (4, 5)], "pooled"),
        (roi("ROIAlign", ""), [SHAPE[1:], (4, 5)], "rank"),
    ],
)
def test_pooling_refused(text, shapes, code):
    with pytest.raises(LayerError) as caught:
        make_layer(f'name: "l" top: "t" {text}', shapes)
    assert caught.value.code == f"layer.{code}"


@pytest.mark.parametrize(("column", "value", "code"), [(0, 2, "image"), (3, np.nan, "regions"), (2, np.inf, "regions")])
def test_regions_that_are_not_there(column, value, code):
    regions = REGIONS.copy()
    regions[1, column] = value
    with pytest.raises(LayerError) as caught:
        run(psroi(0.5), features(*SHAPE), regions)
    assert caught.value.code == f"layer.{code}"


# --- Cascade R-CNN's boxes ---

MEANS, DEVIATIONS = (0.1, 0, -0.2, 0.05), (0.1, 0.1, 0.2, 0.3)
NORMALISED = "bbox_reg_param { bbox_mean: 0.1 bbox_mean: 0 bbox_mean: -0.2 bbox_mean: 0.05"
NORMALISED += " bbox_std: 0.1 bbox_std: 0.1 bbox_std: 0.2 bbox_std: 0.3 }"


def decoded(code, width, height, x, y):
    """The box around (x, y) for a prior of this size; xmax and ymax belong to it."""
    dx, dy, dw, dh = code
    new_width, new_height = width * math.exp(dw), height * math.exp(dh)
    return dx * width + x, dy * height + y, new_width, new_height


def test_decode_bbox():
    codes, regions = features(6, 8), REGIONS + np.array([0, 0, 0, 9, 11], np.float32)
    (top,), shapes = run(f'type: "DecodeBBox" {NORMALISED}', codes, regions)
    assert shapes == [(6, 5)]
    for found, code, (image, xmin, ymin, xmax, ymax) in zip(top.flatten(1), codes[:, 4:], regions, strict=True):
        plain = code * DEVIATIONS + MEANS
        sides = (xmax - xmin + 1, ymax - ymin + 1)
        x, y, width, height = decoded(plain, *sides, (xmin + xmax) / 2, (ymin + ymax) / 2)
        left, upper = x - (width - 1) / 2, y - (height - 1) / 2
        expected = [image, left, upper, left + width - 1, upper + height - 1]
        np.testing.assert_allclose(found, expected, atol=1e-4)  # float32 pixels up to 60


def test_decode_bbox_in_training_drops_copies_of_the_truth_and_boxes_without_an_area():
    codes = np.zeros((4, 8), np.float32)
    codes[2, 6:] = -5  # exp(-5) * 10 is less than a pixel: xmax < xmin
    regions = np.array([[0, 1, 1, 10, 10], [0, 2, 2, 11, 11], [1, 3, 3, 12, 12], [1, 4, 4, 13, 13]], np.float32)
    truth = np.array([[9, 0.9], [9, 0.95], [9, 0.1], [9, 0.2]], np.float32)
    (top,), _ = run('type: "DecodeBBox"', codes, regions, truth, phase=caffe_pb2.TRAIN)
    np.testing.assert_array_equal(top.flatten(1), regions[[0, 3]])
    (top,), _ = run('type: "DecodeBBox"', codes, regions)
    assert len(top) == 4
    with pytest.raises(LayerError, match="no box is left"):
        run('type: "DecodeBBox"', codes[2:3], regions[2:3], phase=caffe_pb2.TRAIN)


GROUPS = [((40, 56), (32, 72), 8), ((90,), (70,), 16)]  # widths, heights, stride
MAPS = [(5, 7), (3, 4)]


def group_bottoms(seed):
    random = np.random.default_rng(seed)
    bottoms = []
    for (widths, _, _), size in zip(GROUPS, MAPS, strict=True):
        bottoms += [random.random((2 * len(widths), 2, *size)), random.normal(0, 0.6, (2 * len(widths), 4, *size))]
    return [bottom.astype(np.float32) for bottom in bottoms]


def box_group(more):
    groups = ""
    for widths, heights, stride in GROUPS:
        sides = " ".join(f"field_w: {w} field_h: {h}" for w, h in zip(widths, heights, strict=True))
        groups += f" box_group_param {{ {sides} stride: {stride} }}"
    return f'type: "BoxGroupOutput" box_group_output_param {{ {groups} {more} }} {NORMALISED}'


def group_candidates(bottoms, image, fg_thr, min_size):
    """Every box of an image, one after another: DecodeGroupBBoxes and the loop of box_group_output_layer.cpp."""
    rows = []
    for (widths, heights, stride), scores, codes in zip(GROUPS, bottoms[::2], bottoms[1::2], strict=True):
        for k, (field_w, field_h) in enumerate(zip(widths, heights, strict=True)):
            item = image * len(widths) + k
            for i, j in np.ndindex(scores.shape[2:]):
                plain = codes[item, :, i, j].astype(float) * DEVIATIONS + MEANS
                bounds = [1 / 2, 1 / 2, math.log(2), math.log(2)]
                plain = np.clip(plain, np.negative(bounds), bounds)
                x, y, width, height = decoded(plain, field_w, field_h, (j + 0.5) * stride, (i + 0.5) * stride)
                left, upper = x - width / 2, y - height / 2
                right = min(left + width - 1, scores.shape[3] * stride)
                lower = min(upper + height - 1, scores.shape[2] * stride)
                box, score = [max(left, 0), max(upper, 0), right, lower], 1 - scores[item, 0, i, j]
                if score >= fg_thr and min(right - box[0], lower - box[1]) + 1 >= min_size:
                    rows.append([*box, score])
    return np.array(rows)


def test_box_group_output():
    bottoms = group_bottoms(1)
    text = box_group("fg_thr: 0.4 iou_thr: 0.6 min_size: 18 max_nms_num: 60 max_post_nms_num: 9")
    (regions, scored), shapes = run(text, *bottoms, tops=2)
    assert shapes == [(1, 5, 1, 1), (1, 6, 1, 1)]
    expected = []
    for image in range(2):
        rows = group_candidates(bottoms, image, 0.4, 18)
        rows = rows[np.argsort(-rows[:, 4], kind="stable")][:60]
        kept = nms(torch.tensor(rows[:, :4] + [0, 0, 1, 1]), torch.tensor(rows[:, 4]), 0.6)[:9]
        expected.append(np.insert(rows[kept], 0, image, axis=1))
    expected = np.concatenate(expected)
    assert len(expected) == 18
    np.testing.assert_allclose(scored.flatten(1), expected, atol=1e-4)  # float32 pixels up to 64
    assert torch.equal(regions, scored[:, :5])


@pytest.mark.parametrize("kind", ["IOU", "IOMU", "IOFU"])
def test_box_group_output_divides_by(kind):
    """Two boxes, one inside the other: 40 x 32 of score 0.9 and 56 x 72 of score 0.8, or the other way round."""
    for scores, share in [((0.9, 0.8), "IOFU"), ((0.8, 0.9), "")]:
        text = box_group(f"iou_thr: 0.9 min_size: 1 fg_thr: 0.5 nms_type: '{kind}'").replace(NORMALISED, "")
        bottoms = [np.ones((2, 2, 5, 7)), np.zeros((2, 4, 5, 7)), np.ones((1, 2, 3, 4)), np.zeros((1, 4, 3, 4))]
        bottoms[0][:, 0, 2, 3] = 1 - np.array(scores)
        (top,), _ = run(text, *(bottom.astype(np.float32) for bottom in bottoms))
        suppressed = kind in ("IOMU", share)
        assert len(top) == (1 if suppressed else 2)


def test_box_group_output_of_nothing():
    (regions, scored), _ = run(box_group("fg_thr: 2"), *group_bottoms(2), tops=2)
    assert regions.flatten().tolist() == [0, 1, 1, 10, 10]
    assert scored.flatten().tolist() == [0] * 6


@pytest.mark.parametrize("is_aware", [False, True])
def test_frcnn_output(is_aware):
    """The published loop, class by class, with torchvision's non-maximum suppression; the picture is 50 x 70."""
    number, num_classes = 60, 4
    random = np.random.default_rng(3)
    corners = random.uniform(0, 40, (number, 2))
    regions = np.column_stack([np.zeros(number), corners, corners + random.uniform(5, 40, (number, 2))])
    codes = random.normal(size=(number, 4 * num_classes if is_aware else 8))
    logits = random.normal(size=(number, num_classes))
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    bottoms = [each.astype(np.float32) for each in (scores, codes, regions, np.array([[50, 70]]))]
    text = f'type: "FrcnnOutput" {NORMALISED[:-1]} cls_aware: {str(is_aware).lower()} }}'
    text += " frcnn_output_param { conf_thr: 0.2 iou_thr: 0.4 max_det_num: 30 }"
    (top,), shapes = run(text, *bottoms)
    assert shapes == [(1, 7, 1, 1)]
    expected = []
    for label in range(1, num_classes):
        boxes = np.zeros((number, 4))
        for k, (_, xmin, ymin, xmax, ymax) in enumerate(regions):
            plain = codes[k, 4 * (label if is_aware else 1) :][:4] * DEVIATIONS + MEANS
            sides = (xmax - xmin + 1, ymax - ymin + 1)
            x, y, width, height = decoded(plain, *sides, (xmin + xmax) / 2, (ymin + ymax) / 2)
            left, upper = x - (width - 1) / 2, y - (height - 1) / 2
            boxes[k] = max(left, 0), max(upper, 0), min(left + width - 1, 70), min(upper + height - 1, 50)
        chosen = np.flatnonzero(scores[:, label] >= 0.2)
        values = torch.tensor(scores[chosen, label])
        for k in chosen[nms(torch.tensor(boxes[chosen] + [0, 0, 1, 1]), values, 0.4)]:
            expected.append([0, *boxes[k], label, scores[k, label]])
    assert len(expected) > 30
    best = sorted(range(len(expected)), key=lambda k: -expected[k][6])[:30]
    expected = [[0, *[-1] * 6], *(expected[k] for k in sorted(best))]
    np.testing.assert_allclose(top.flatten(1), expected, atol=1e-4)  # float32 pixels up to 80


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ("low_scale: 10", [1, 3]),
        ("high_scale: 20", [0, 2, 3]),
        ("low_scale: 10 high_scale: 20", [3]),
        ("low_scale: 11 high_scale: 12", [3]),  # none: the nearest to the root of 132
        ("", [0, 1, 2, 3]),
    ],
)
def test_scale_route(limits, kept):
    """Scales: 3, 32, 0 (turned round), 10."""
    boxes = [[5, 5, 7, 7], [0, 0, 31, 31], [9, 9, 2, 20], [4, 4, 23, 8]]
    regions = np.array([[0, *box] for box in boxes], np.float32)
    others = features(4, 2, 3)
    tops, shapes = run(f'type: "ScaleRoute" scale_route_param {{ {limits} }}', regions, others, tops=2)
    assert shapes == [(1, 5, 1, 1), (1, 2, 3, 1)]
    np.testing.assert_array_equal(tops[0].flatten(1), regions[kept])
    np.testing.assert_array_equal(tops[1][..., 0], others[kept])


GROUP_SIZES = "field_w: 8 field_w: 16 field_h: 8 field_h: 4"
OF_GROUPS = [(6, 2, 5, 7), (6, 4, 5, 7), (6, 6, 5, 7)]
SHAPED = [
    ('type: "EvalData" eval_data_param { batch_size: 2 resize_width: 70 resize_height: 50 }', [],
     [(2, 3, 50, 70), (1, 8, 1, 1), (2, 2, 1, 1)]),
    ('type: "EvalData" eval_data_param { batch_size: 1 short_size: 600 long_size: 1000 }', [],
     [(1, 3, 1000, 600), (1, 8, 1, 1)]),
    ('type: "DetectionData" detection_data_param { batch_size: 2 short_size: 60 long_size: 100 output_gt_boxes: true '
     f'stride: 8 stride: 16 {GROUP_SIZES} }}', [], [(2, 3, 100, 60), (2, 6, 13, 8), (2, 6, 6, 4), (1, 8, 1, 1)]),
    (f'type: "DetectionGroupLoss" detection_group_loss_param {{ cls_num: 2 {GROUP_SIZES} }}', OF_GROUPS,
     [(1, 1, 1, 2)]),
    (f'type: "DetectionGroupAccuracy" detection_group_accuracy_param {{ cls_num: 2 {GROUP_SIZES} }}', OF_GROUPS,
     [(1, 1, 1, 2), (1, 1, 1, 1)]),
    ('type: "ProposalTarget" proposal_target_param { cls_num: 21 batch_size: 128 }', [(300, 5), (7, 8)],
     [(128, 5, 1, 1), (128, 1, 1, 1), *[(128, 84, 1, 1)] * 3, (128, 6, 1, 1)]),
    ('type: "ProposalTarget" proposal_target_param { cls_num: 21 batch_size: -1 } bbox_reg_param { cls_aware: false }',
     [(30, 5), (7, 8)], [(30, 5, 1, 1), (30, 1, 1, 1), *[(30, 8, 1, 1)] * 3, (30, 6, 1, 1), (30, 1, 1, 1)]),
    ('type: "BboxAccuracy"', [(9, 8), (9, 5), (9, 6)], [(1, 1, 1, 1)] * 2),
    ('type: "DetectionEvaluate" detection_evaluate_param { num_classes: 4 }',
     [(6, 7, 1, 1), (3, 8, 1, 1), (1, 2, 1, 1)], [(9, 5, 1, 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "bottoms", "expected"), SHAPED)
def test_layers_of_which_only_shapes_are_known(text, bottoms, expected):
    """The Reshape methods of zhaoweicai/cascade-rcnn; nets with them are looked at, not run."""
    tops = " ".join(f'top: "t{i}"' for i in range(len(expected)))
    layer, shapes = make_layer(f'name: "l" {tops} {text}', bottoms)
    assert shapes == expected
    assert layer.only_shapes
    names = [f"b{k}" for k in range(len(bottoms))]
    sizes = [" ".join(f"dim: {size}" for size in shape) for shape in bottoms]
    inputs = [
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {size} }} }} }}'
        for name, size in zip(names, sizes, strict=True)
    ]
    net = "\n".join([*inputs, f'layer {{ name: "l" {" ".join(f"bottom: {name!r}" for name in names)} {tops} {text} }}'])
    param = text_format.Parse(net, caffe_pb2.NetParameter())
    plan = plan_net(param)
    assert plan.top_shapes[-1] == expected
    with pytest.raises(LayerError) as caught:
        build_net(param)
    assert caught.value.code == "layer.only-shapes"


@pytest.mark.parametrize(
    ("text", "shapes", "code"),
    [
        ('type: "EvalData" top: "u" eval_data_param { batch_size: 2 }', [], "size"),
        ('type: "DetectionData" top: "u" detection_data_param { batch_size: 2 crop_width: 9 crop_height: 9 stride: 4 }',
         [], "stride"),
        ('type: "DetectionData" top: "u" top: "v" detection_data_param { batch_size: 2 crop_width: 9 crop_height: 9 '
         "stride: 4 field_w: 3 field_h: 3 }", [], "tops"),
        (SHAPED[3][0].replace("cls_num: 2", "cls_num: 3"), OF_GROUPS, "shape"),
        (SHAPED[3][0], [(5, *shape[1:]) for shape in OF_GROUPS], "shape"),
        (SHAPED[5][0] + ' top: "b" top: "c" top: "d" top: "e" top: "f"', [(300, 4), (7, 8)], "shape"),
        ('type: "BboxAccuracy"', [(9, 8), (8, 5), (9, 6)], "shape"),
        (SHAPED[8][0], [(6, 7, 1, 1), (3, 7, 1, 1), (1, 2, 1, 1)], "shape"),
        ('type: "FrcnnOutput"', [(4, 3), (4, 8), (4, 5), (1, 2)], "shape"),
        ('type: "FrcnnOutput" frcnn_output_param { nms_type: "x" }', [(4, 3), (4, 12), (4, 5), (1, 2)], "nms-type"),
        ('type: "ScaleRoute" scale_route_param { low_scale: 3 high_scale: 2 }', [(4, 5)], "scale"),
        ('type: "ScaleRoute"', [(4, 5), (4, 5)], "tops"),
        ('type: "ScaleRoute"', [(4, 6)], "shape"),
        ('type: "DecodeBBox"', [(4, 8), (3, 5)], "bottoms"),
        ('type: "DecodeBBox"', [(4, 4), (4, 5)], "bottoms"),
        ('type: "DecodeBBox"', [(4, 8), (4, 5), (4, 2)], "bottoms"),
        ('type: "DecodeBBox" bbox_reg_param { bbox_mean: 1 bbox_std: 1 }', [(4, 8), (4, 5)], "codes"),
        (box_group(""), [bottom.shape for bottom in group_bottoms(0)][:2], "bottoms"),
        (box_group(""), [(4, 2, 5, 7), (4, 4, 5, 6), (2, 2, 3, 4), (2, 4, 3, 4)], "shape"),
        (box_group("nms_type: 'X'"), [bottom.shape for bottom in group_bottoms(0)], "nms-type"),
        (box_group("field_whr: 0"), [bottom.shape for bottom in group_bottoms(0)], "field"),
        (box_group("").replace("stride: 8", ""), [bottom.shape for bottom in group_bottoms(0)], "group"),
    ],
)  # fmt: skip
def test_boxes_refused(text, shapes, code):
    with pytest.raises(LayerError) as caught:
        make_layer(f'name: "l" top: "t" {text}', shapes, caffe_pb2.TEST)
    assert caught.value.code == f"layer.{code}"
