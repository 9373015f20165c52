"""MS-CNN's BoxOutput against loops over one number at a time (box_output_layer.cpp), and the shapes of its training."""

import math

import numpy as np
import pytest
import torch
from harness import make_layer

from pyscratchdet.errors import LayerError

# fields: width, height, downsample_rate of each map
FIELDS = [(20, 30, 8), (31, 44, 8), (50, 70, 16)]
MEANS, DEVIATIONS = (0.1, -0.05, 0.02, 0.03), (0.3, 0.2, 0.4, 0.5)


def params(more, has_codes=True):
    numbers = [f"field_w: {w} field_h: {h} downsample_rate: {d}" for w, h, d in FIELDS]
    codes = " ".join(f"bbox_mean: {m} bbox_std: {s}" for m, s in zip(MEANS, DEVIATIONS, strict=True))
    text = f'name: "l" type: "BoxOutput" box_output_param {{ {" ".join(numbers)} {more} }}'
    return f"{text} bbox_reg_param {{ {codes if has_codes else ''} }}"


def run(text, bottoms, tops=2):
    names = " ".join(f'top: "t{index}"' for index in range(tops))
    layer, shapes = make_layer(f"{names} {text}", [bottom.shape for bottom in bottoms])
    return layer.forward([torch.from_numpy(bottom) for bottom in bottoms], []), shapes


def overlap(kind, a, b):
    if min(*a[2:4], *b[2:4]) <= 0:
        return 0.0
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = width * height if width > 0 and height > 0 else 0.0
    first, second = a[2] * a[3], b[2] * b[3]
    return common / {"IOU": first + second - common, "IOMU": min(first, second), "IOFU": first}[kind]


def expected(bottoms, kind, fg_thr, iou_thr, min_size, whr, xyr, before, after, has_codes):
    means, deviations = (MEANS, DEVIATIONS) if has_codes else ([0] * 4, [1] * 4)
    rows = []
    for image in range(len(bottoms[0])):
        boxes = []
        for (field_w, field_h, stride), bottom in zip(FIELDS, bottoms, strict=True):
            values = bottom[image].astype(float)
            height, width = values.shape[1:]
            for y, x in np.ndindex(height, width):
                score = max(values[1:-4, y, x]) - values[0, y, x]
                codes = [c * s + m for c, s, m in zip(values[-4:, y, x], deviations, means, strict=True)]
                moves = [min(max(code, -1 / xyr), 1 / xyr) for code in codes[:2]]
                logs = [min(max(code, -math.log(whr)), math.log(whr)) for code in codes[2:]]
                w, h = field_w * math.exp(logs[0]), field_h * math.exp(logs[1])
                left = max(moves[0] * field_w + (x + 0.5) * stride - w / 2, 0)
                upper = max(moves[1] * field_h + (y + 0.5) * stride - h / 2, 0)
                w, h = min(w, width * stride - left), min(h, height * stride - upper)
                if score >= fg_thr and min(w, h) >= min_size:
                    boxes.append((left, upper, w, h, score))
        boxes.reverse()
        kept = []
        for box in sorted(boxes, key=lambda box: -box[4])[: before or None]:
            if all(overlap(kind, better, box) <= iou_thr for better in kept):
                kept.append(box)
        rows += [(image, l, u, l + w, u + h, s) for l, u, w, h, s in kept[: after or None]]  # noqa: E741
    return np.array(rows)


CASES = [
    ("IOU", -0.5, 0.4, 3, 2.0, 2.0, 0, 0, True),
    ("IOMU", 0.0, 0.6, 9, 1.5, 4.0, 25, 0, True),
    ("IOFU", -9.0, 0.3, 0, 3.0, 1.0, 40, 7, False),
]


@pytest.mark.parametrize("case", CASES)
def test_box_output_against_loops(case):
    kind, fg_thr, iou_thr, min_size, whr, xyr, before, after, has_codes = case
    random = np.random.default_rng(11)
    bottoms = [random.normal(size=(2, 7, *size)).astype(np.float32) for size in ((5, 6), (5, 6), (2, 3))]
    for bottom in bottoms:
        bottom[:, :3, 0, :2] = bottom[:, :3, :1, 0]  # equal scores: the later place comes first
    text = params(
        f'nms_type: "{kind}" fg_thr: {fg_thr} iou_thr: {iou_thr} min_size: {min_size} field_whr: {whr} '
        f"field_xyr: {xyr} max_nms_num: {before} max_post_nms_num: {after}",
        has_codes,
    )
    (regions, scored), shapes = run(text, bottoms)
    truth = expected(bottoms, *case)
    assert shapes == [(1, 5, 1, 1), (1, 6, 1, 1)]
    assert 4 < len(truth) < 150
    np.testing.assert_allclose(scored[:, :, 0, 0], truth, rtol=1e-5, atol=1e-5)  # exp of float32, pixels up to 100
    torch.testing.assert_close(regions, scored[:, :5], rtol=0, atol=0)


def test_without_a_box_there_is_one_region_of_image_0():
    (regions, scored), _ = run(params("fg_thr: 99"), [np.zeros((2, 6, 3, 4), np.float32)] * 3)
    assert regions.flatten().tolist() == [0, 1, 1, 10, 10]
    assert scored.flatten().tolist() == [0] * 6


@pytest.mark.parametrize(
    ("more", "shapes", "code"),
    [
        ("field_w: 3", [(1, 6, 2, 3)] * 3, "fields"),
        ('nms_type: "X"', [(1, 6, 2, 3)] * 3, "nms-type"),
        ("field_whr: 0", [(1, 6, 2, 3)] * 3, "field"),
        ("", [(1, 6, 2, 3), (1, 7, 2, 3), (1, 6, 2, 3)], "shape"),
        ("", [(1, 5, 2, 3)] * 3, "shape"),
    ],
)
def test_rules(more, shapes, code):
    with pytest.raises(LayerError) as caught:
        make_layer(f'top: "t" {params(more)}', shapes)
    assert caught.value.code == f"layer.{code}"


def test_what_trains_it_can_be_looked_at():
    """image_gt_data_layer.cpp: a map of 2 + 4 channels per prior, sizes rounded, and then the true boxes."""
    text = """name: "data" type: "ImageGtData" top: "data" top: "a" top: "b" top: "boxes" image_gt_data_param {
      source: "gone" batch_size: 2 resize_width: 96 resize_height: 72 crop_width: 60 crop_height: 36
      downsample_rate: 8 downsample_rate: 16 field_w: 30 field_w: 60 field_h: 9 field_h: 8 output_gt_boxes: true }"""
    _, shapes = make_layer(text, [])
    assert shapes == [(2, 3, 36, 60), (2, 6, 5, 8), (2, 6, 2, 4), (1, 7, 1, 1)]
    maps = [(2, 9, 5, 8), (2, 6, 5, 8)]
    for type_, field, tops in (("Loss", "loss", ["l"]), ("Accuracy", "accuracy", ["a", "i"])):
        names = " ".join(f'top: "{top}"' for top in tops)
        text = f'name: "n" type: "Detection{type_}" {names} detection_{field}_param {{ cls_num: 5 }}'
        layer, shapes = make_layer(text, maps)
        assert shapes == [(1, 1, 1, 2), (1, 1, 1, 1)][: len(tops)]
        assert layer.only_shapes
        with pytest.raises(LayerError, match="do not fit"):
            make_layer(text.replace("5", "4"), maps)
