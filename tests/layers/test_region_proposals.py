"""The Python layers of py-faster-rcnn without its modules: published priors, loops, torchvision's NMS, a whole net."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from harness import make_layer
from torchvision.ops import nms

import pyscratchdet
from pyscratchdet.boxes.regions import best_regions, pixel_overlaps, window_priors
from pyscratchdet.errors import LayerError
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.layers.python_layer import UserLayer, python_layers_allowed
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse

# The comment of lib/rpn/generate_anchors.py: what the authors' Matlab code gives, where the first pixel is 1.
PUBLISHED = """
    -83 -39 100 56   -175 -87 192 104   -359 -183 376 200   -55 -55 72 72   -119 -119 136 136   -247 -247 264 264
    -35 -79 52 96    -79 -167 96 184    -167 -343 184 360
"""
NUMBER, HEIGHT, WIDTH = 12, 4, 5
INFO = np.array([[70, 90, 1.5]], np.float32)


def python(module, layer, param_str, bottoms, tops=1, phase=caffe_pb2.TEST):
    made = " ".join(f'top: "t{i}"' for i in range(tops))
    param = f'python_param {{ module: "{module}" layer: "{layer}" param_str: "{param_str}" }}'
    return make_layer(f'name: "l" type: "Python" {made} {param}', bottoms, phase)


def proposal(bottoms, tops=1, param_str=r"'feat_stride': 16 \n'scales': !!python/tuple [1, 2, 4, 8]", phase=1):
    return python("rpn.proposal_layer", "ProposalLayer", param_str, bottoms, tops, phase)


def random_bottoms(seed=0):
    random = np.random.default_rng(seed)
    scores = random.random((1, 2 * NUMBER, HEIGHT, WIDTH)).astype(np.float32)
    return [scores, random.normal(0, 0.4, (1, 4 * NUMBER, HEIGHT, WIDTH)).astype(np.float32), INFO]


def test_priors_are_the_published_ones():
    expected = np.array(PUBLISHED.split(), float).reshape(-1, 4) - 1
    np.testing.assert_array_equal(window_priors((0.5, 1, 2), (8, 16, 32), 16), expected)


def loops(scores, codes, info, stride, scales, num_after):
    """The algorithm in the comment of proposal_layer.py, box by box in double precision."""
    priors, rows = window_priors((0.5, 1, 2), scales, 16), []
    height, width, scale = info[0]
    for y in range(scores.shape[2]):
        for x in range(scores.shape[3]):
            for k, prior in enumerate(priors):
                xmin, ymin, xmax, ymax = prior + np.array([x, y, x, y]) * stride
                w, h = xmax - xmin + 1, ymax - ymin + 1
                dx, dy, dw, dh = codes[0, 4 * k : 4 * k + 4, y, x].astype(float)
                cx, cy, w, h = xmin + w / 2 + dx * w, ymin + h / 2 + dy * h, w * math.exp(dw), h * math.exp(dh)
                box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                box = [max(min(value, limit - 1), 0) for value, limit in zip(box, [width, height] * 2, strict=True)]
                if min(box[2] - box[0], box[3] - box[1]) + 1 >= 16 * scale:
                    rows.append([*box, scores[0, len(priors) + k, y, x]])
    rows = np.array(rows)
    # torchvision's widths lack the pixel that is counted here.
    kept = nms(torch.tensor(rows[:, :4] + [0, 0, 1, 1]), torch.tensor(rows[:, 4]), 0.7)[:num_after]
    return rows[kept.numpy()]


@pytest.mark.parametrize("seed", [0, 1])
def test_proposals_against_loops(seed):
    bottoms = random_bottoms(seed)
    layer, shapes = proposal([bottom.shape for bottom in bottoms], tops=2)
    assert shapes == [(1, 5), (1, 1, 1, 1)]
    regions, scores = layer.forward([torch.from_numpy(bottom) for bottom in bottoms], [])
    expected = loops(*bottoms, 16, (1, 2, 4, 8), 300)
    assert 20 < len(expected) < 240
    assert regions.shape == (len(expected), 5)
    assert not regions[:, 0].any()
    np.testing.assert_allclose(regions[:, 1:], expected[:, :4], atol=1e-4)  # float32 pixels up to 90
    np.testing.assert_array_equal(scores[:, 0], expected[:, 4])


@pytest.mark.parametrize("scales", [(1.5,), (1.5, 2.5)])
def test_proposal_in_cpp_keeps_small_boxes_with_score_0(scales):
    """The same loops as of proposal_layer.cpp: boxes too small in one direction score 0, and stay if there is room."""
    bottoms = random_bottoms(3)
    bottoms[2] = np.array([[70, 90, *scales]], np.float32)
    text = (
        'name: "p" type: "Proposal" top: "r" top: "s" proposal_param { ratio: 0.5 ratio: 1 ratio: 2 scale: 1 scale: 2 '
    )
    text += "scale: 4 scale: 8 post_nms_topn: 200 }"
    layer, shapes = make_layer(text, [bottom.shape for bottom in bottoms])
    assert shapes == [(200, 5), (200,)]
    regions, scores = layer.forward([torch.from_numpy(bottom) for bottom in bottoms], [])
    priors, rows = window_priors((0.5, 1, 2), (1, 2, 4, 8), 16), []
    for y, x in np.ndindex(HEIGHT, WIDTH):
        for k, prior in enumerate(priors):
            xmin, ymin, xmax, ymax = prior + np.array([x, y, x, y]) * 16
            w, h = xmax - xmin + 1, ymax - ymin + 1
            dx, dy, dw, dh = bottoms[1][0, 4 * k : 4 * k + 4, y, x].astype(float)
            cx, cy, w, h = xmin + w / 2 + dx * w, ymin + h / 2 + dy * h, w * math.exp(dw), h * math.exp(dh)
            box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
            box = [max(min(value, limit - 1), 0) for value, limit in zip(box, [90, 70] * 2, strict=True)]
            fits = box[2] - box[0] + 1 >= 16 * scales[-1] and box[3] - box[1] + 1 >= 16 * scales[0]
            rows.append([*box, bottoms[0][0, NUMBER + k, y, x] * fits])
    rows = np.array(rows)
    assert (rows[:, 4] == 0).any()
    kept = nms(torch.tensor(rows[:, :4] + [0, 0, 1, 1]), torch.tensor(rows[:, 4]), 0.7)
    kept = kept[rows[kept, 4] > 0].numpy()[:200]  # the order of those of score 0 is open
    assert 20 < len(kept) < len(regions) <= 200
    np.testing.assert_allclose(regions[: len(kept), 1:], rows[kept, :4], atol=1e-4)  # float32 pixels up to 90
    np.testing.assert_array_equal(scores[: len(kept)], rows[kept, 4].astype(np.float32))
    assert not scores[len(kept) :].any()


@pytest.mark.parametrize(
    ("params", "shapes", "code"),
    [
        ("scale: 8", [(1, 2, 3, 4), (1, 4, 3, 4), (1, 3)], "priors"),
        ("scale: 8 ratio: 1 post_nms_topn: 0", [(1, 2, 3, 4), (1, 4, 3, 4), (1, 3)], "number"),
        ("scale: 8 ratio: 1", [(1, 2, 3, 4), (1, 4, 3, 4), (1, 2)], "shape"),
        ("scale: 8 ratio: 1", [(2, 2, 3, 4), (2, 4, 3, 4), (1, 3)], "shape"),
        ("scale: 8 ratio: 1", [(1, 2, 3, 4), (1, 4, 3, 5), (1, 3)], "shape"),
    ],
)
def test_proposal_in_cpp_refused(params, shapes, code):
    with pytest.raises(LayerError) as caught:
        make_layer(f'name: "p" type: "Proposal" top: "r" proposal_param {{ {params} }}', shapes)
    assert caught.value.code == f"layer.{code}"


def test_limits_before_and_after():
    random = np.random.default_rng(2)
    corners = random.uniform(0, 100, (400, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + random.uniform(0, 60, (400, 2)).astype(np.float32)], 1)
    scores = random.permutation(400).astype(np.float32)
    best = np.argsort(-scores)[:150]
    expected = best[nms(torch.tensor(boxes[best] + [0, 0, 1, 1]), torch.tensor(scores[best]).double(), 0.5).numpy()]
    assert 20 < len(expected) < 150

    def near(box, others):
        return pixel_overlaps(box, others) > 0.5

    np.testing.assert_array_equal(best_regions(boxes, scores, near, 150), expected)
    np.testing.assert_array_equal(best_regions(boxes, scores, near, 150, 7), expected[:7])


def test_no_region_is_large_enough():
    bottoms = random_bottoms()
    bottoms[2] = np.array([[70, 90, 9]], np.float32)
    layer, _ = proposal([bottom.shape for bottom in bottoms])
    assert layer.forward([torch.from_numpy(bottom) for bottom in bottoms], [])[0].shape == (0, 5)


NET = """
input: "prob" input_shape { dim: 1 dim: 18 dim: 12 dim: 15 }
input: "codes" input_shape { dim: 1 dim: 36 dim: 12 dim: 15 }
input: "im_info" input_shape { dim: 1 dim: 3 }
input: "features" input_shape { dim: 1 dim: 2 dim: 12 dim: 15 }
layer { name: "proposal" type: "Python" bottom: "prob" bottom: "codes" bottom: "im_info" top: "rois"
        python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" param_str: "'feat_stride': 16" } }
layer { name: "pool" type: "ROIPooling" bottom: "features" bottom: "rois" top: "pool"
        roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.0625 } }
"""


def test_a_net_runs_without_the_users_module(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    net = pyscratchdet.load_net(path)
    blobs = net.forward_blobs(
        {
            "prob": torch.rand(1, 18, 12, 15),
            "codes": torch.zeros(1, 36, 12, 15),
            "im_info": torch.tensor([[192.0, 240.0, 1.0]]),
            "features": torch.rand(1, 2, 12, 15),
        }
    )
    assert blobs["rois"].shape[0] > 1
    assert blobs["pool"].shape == (len(blobs["rois"]), 2, 2, 3)
    assert "rpn" not in sys.modules


def test_the_users_module_comes_first_where_it_is_allowed(monkeypatch):
    class ProposalLayer(UserLayer):
        def reshape(self, bottom, top):
            top[0].reshape(7, 5)

    net = parse(NET, caffe_pb2.NetParameter)
    with python_layers_allowed():
        assert plan_net(net).shapes[-1] == (1, 2, 2, 3)  # allowed, but there is no such module
        monkeypatch.setitem(sys.modules, "rpn", types.ModuleType("rpn"))
        module = types.ModuleType("rpn.proposal_layer")
        module.ProposalLayer = ProposalLayer
        monkeypatch.setitem(sys.modules, "rpn.proposal_layer", module)
        assert plan_net(net).shapes[-1] == (7, 2, 2, 3)
    assert plan_net(net).shapes[-1] == (1, 2, 2, 3)


TARGETS = [
    ("rpn.anchor_target_layer", "AnchorTargetLayer", "'feat_stride': 16",
     [(1, 18, 4, 5), (1, 4), (1, 3), (1, 3, 64, 80)],
     [(1, 1, 36, 5), *[(1, 36, 4, 5)] * 3]),
    ("rpn.anchor_target_layer", "AnchorTargetLayer", "{'feat_stride': 16, 'scales': [4, 8]}", [(1, 12, 4, 5)],
     [(1, 1, 24, 5), *[(1, 24, 4, 5)] * 3]),
    ("rpn.proposal_target_layer", "ProposalTargetLayer", "'num_classes': 21", [(1, 5), (1, 4)],
     [(1, 5, 1, 1), (1, 1, 1, 1), *[(1, 84, 1, 1)] * 3]),
    ("roi_data_layer.layer", "RoIDataLayer", "'num_classes': 21", [],
     [(2, 3, 600, 1000), (1, 5, 1, 1), (1, 1, 1, 1), *[(1, 84, 1, 1)] * 3]),
    ("roi_data_layer.layer", "RoIDataLayer", "'num_classes': 21", [],
     [(2, 3, 600, 1000), (1, 5, 1, 1), (1, 1, 1, 1), *[(1, 84, 1, 1)] * 2]),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "param_str", "bottoms", "expected"), TARGETS)
def test_layers_of_the_training_have_shapes_and_do_not_run(module, name, param_str, bottoms, expected):
    layer, shapes = python(module, name, param_str, bottoms, len(expected), caffe_pb2.TRAIN)
    assert shapes == expected
    error = layer.only_shapes_known()
    assert error.code == "layer.only-shapes"
    assert "--allow-python" in str(error)


def test_data_for_a_region_proposal_network():
    text = 'name: "d" type: "Python" top: "data" top: "im_info" top: "gt_boxes" python_param { module: '
    text += '"roi_data_layer.layer" layer: "RoIDataLayer" param_str: "\'num_classes\': 21" }'
    assert make_layer(text, [])[1] == [(1, 3, 600, 1000), (1, 3), (1, 4)]


SHAPES = [(1, 2 * NUMBER, HEIGHT, WIDTH), (1, 4 * NUMBER, HEIGHT, WIDTH), (1, 3)]


@pytest.mark.parametrize(
    ("param_str", "shapes", "code"),
    [
        ("{'feat_stride': 16", SHAPES, "param-str"),
        ("{'feat_stride': 16, 'x': 1}", SHAPES, "param-str"),
        ("'feat_stride': 16", SHAPES, "bottoms"),  # 9 priors
        ("'feat_stride': 16\\n'scales': [1, 2, 4, 8]", [(2, *SHAPES[0][1:]), *SHAPES[1:]], "bottoms"),
        ("'feat_stride': 16\\n'scales': [1, 2, 4, 8]", SHAPES[:2], "bottoms"),
        ("'feat_stride': 16\\n'scales': [1, 2, -4, 8]", SHAPES, "param-str"),
        ("'feat_stride': 0", SHAPES, "param-str"),
        ("'scales': [1, 2, 4, 8]", SHAPES, "param-str"),
        ("'feat_stride': 16\\n'ratios': [1]", SHAPES, "param-str"),
        ("'feat_stride': open('x')", SHAPES, "param-str"),
        ("feat_stride", SHAPES, "param-str"),
    ],
)
def test_refused(param_str, shapes, code):
    with pytest.raises(LayerError) as caught:
        proposal(shapes, param_str=param_str)
    assert caught.value.code == f"layer.{code}"
