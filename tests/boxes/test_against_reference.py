"""pyscratchdet.boxes against the literal reference, on random inputs of many settings."""

import caffe_reference as reference
import numpy as np
import pytest
import torch

from pyscratchdet.boxes.codes import decode_boxes, encode_boxes
from pyscratchdet.boxes.detection import DetectionRule, Predictions, detect, objectness_scores
from pyscratchdet.boxes.matching import match_priors
from pyscratchdet.boxes.mining import hardest_after_nms
from pyscratchdet.boxes.overlap import area, pairwise_jaccard
from pyscratchdet.boxes.sorting import std_sort_descending
from pyscratchdet.layers.base import Context
from pyscratchdet.layers.multibox_loss import MultiBoxLoss
from pyscratchdet.proto import caffe_pb2

Param = caffe_pb2.MultiBoxLossParameter
PRIORS = 43


def boxes(rng, number, low=-0.1):
    corner, size = rng.uniform(low, 0.7, (number, 2)), rng.uniform(0.05, 0.45, (number, 2))
    return np.concatenate([corner, corner + size], 1).astype(np.float32)


def variances(number):
    return np.tile(np.float32([0.1, 0.15, 0.2, 0.25]), (number, 1))


def label_rows(rng, images, classes, first_label=1):
    rows = []
    for image in images:
        for instance, box in enumerate(boxes(rng, int(rng.integers(1, 7)), low=0)):
            rows.append([image, rng.integers(first_label, classes), instance, *box, rng.random() < 0.3])
    return np.array(rows, np.float32)


def test_overlap_and_area_to_the_bit():
    rng = np.random.default_rng(1)
    first, second = boxes(rng, 17), boxes(rng, 23)
    first[3] = first[3, [2, 1, 0, 3]]  # exchanged corners
    second[5] = [0.5, 0.5, 0.5, 0.5]
    second[6] = [first[4, 2], 0, 2, 2]  # touches
    rows, columns = torch.from_numpy(first)[:, None], torch.from_numpy(second)[None]
    got = pairwise_jaccard(rows, columns, area(rows), area(columns)).numpy()
    want = np.array([[reference.jaccard(a, b) for b in second] for a in first])
    assert np.array_equal(got, want)
    assert np.count_nonzero(want) > 50
    assert np.array_equal(area(torch.from_numpy(first)).numpy(), [reference.bbox_size(b) for b in first])


def test_mining_leaves_out_boxes_below_the_limit():
    """1e-5 is a double in the original: the float32 of that name is below it, the next one above."""
    limit = np.float32(1e-5)
    widths = [limit, np.nextafter(limit, np.float32(1)), limit / 2, 2 * limit]
    found = torch.tensor([[[10.0 * k, 0, 10 * k + 1, 1] for k in range(4)]])
    found[0, :, 0], found[0, :, 2] = 0, torch.tensor(np.array(widths))
    found[0, :, 1], found[0, :, 3] = torch.tensor([-3.0, -1, 1, 3]), torch.tensor([-2.0, 0, 2, 4])
    losses, everything = torch.tensor([[4.0, 3, 2, 1]]), torch.ones(1, 4, dtype=torch.bool)
    taken = hardest_after_nms(losses, everything, torch.tensor([4]), found, 0.5, -1)
    assert taken.tolist() == [[False, True, False, True]]
    assert [reference.bbox_size(box) < 1e-5 for box in found[0].numpy().astype(np.float64)] == [
        True,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("code", [reference.CORNER, reference.CENTER_SIZE, reference.CORNER_SIZE])
@pytest.mark.parametrize("plain", [False, True])
def test_codes_to_the_last_bits_and_back(code, plain):
    rng = np.random.default_rng(2)
    truth, priors, variance = boxes(rng, 31), boxes(rng, 31), variances(31)
    tensors = [torch.from_numpy(array) for array in (truth, priors, variance)]
    codes = encode_boxes(*tensors, code, plain)
    want = np.array([reference.encode(*row, code, plain) for row in zip(truth, priors, variance, strict=True)])
    np.testing.assert_array_max_ulp(codes.numpy(), want.astype(np.float32), 1)
    decoded = decode_boxes(codes, *tensors[1:], code, plain)
    want = np.array([reference.decode(*row, code, plain) for row in zip(codes.numpy(), priors, variance, strict=True)])
    np.testing.assert_array_max_ulp(decoded.numpy(), want.astype(np.float32), 1)
    # A round trip costs a few roundings of numbers below 2.
    np.testing.assert_allclose(decoded.numpy(), truth, atol=1e-6)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("threshold", [None, 0.5, 0.2])
def test_matching(seed, threshold):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, 5)
    truth, priors = boxes(rng, int(counts.sum()), low=0), boxes(rng, PRIORS)
    truth[1], priors[7] = truth[0], priors[3]  # equal overlaps
    own = seed % 2 == 1
    mine = np.stack([boxes(rng, PRIORS) for _ in counts]) if own else priors
    got = match_priors(
        torch.from_numpy(truth),
        counts,
        torch.from_numpy(mine),
        overlap_threshold=threshold,
        ignore_cross_boundary=seed % 3 == 0,
    )
    start = 0
    for group, count in enumerate(counts):
        part = truth[start : start + count]
        preds = mine[group] if own else mine
        indices, overlaps = reference.match(part, None, preds, -1, threshold is not None, threshold, seed % 3 == 0)
        assert got[0][group].tolist() == [m + start if m > -1 else m for m in indices]
        assert got[1][group].numpy().tolist() == overlaps
        start += count


def test_matching_in_chunks_is_the_same(monkeypatch):
    rng = np.random.default_rng(5)
    counts = np.array([3, 1, 8, 2, 2])
    truth, priors = torch.from_numpy(boxes(rng, 16, low=0)), torch.from_numpy(boxes(rng, PRIORS))
    whole = match_priors(truth, counts, priors, overlap_threshold=0.4)
    monkeypatch.setattr("pyscratchdet.boxes.matching._CPU_OVERLAPS", 1)
    parts = match_priors(truth, counts, priors, overlap_threshold=0.4)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


# Each case: settings of the reference, and what differs in shape. Names follow the layer's parameters.
LOSSES = {
    "plain": {},
    "bipartite": {"per_prediction": False},
    "low_overlap": {"overlap_threshold": 0.3, "neg_overlap": 0.2, "neg_pos_ratio": 2.5},
    "predictions": {"use_prior_for_matching": False},
    "corner": {"code_type": 1},
    "corner_size": {"code_type": 3, "smooth": False},
    "in_target": {"encode_variance_in_target": True},
    "in_target_corner": {"encode_variance_in_target": True, "code_type": 1, "smooth": False},
    "no_difficult": {"use_difficult_gt": False},
    "cross": {"ignore_cross": True},
    "inside": {"bp_inside": True},
    "inside_predictions": {"bp_inside": True, "use_prior_for_matching": False},
    "no_mining": {"mining": "NONE"},
    "background_2": {"background_label_id": 2, "first_label": 0},
    "logistic": {"logistic": True},
    "logistic_no_background": {"logistic": True, "background_label_id": -1, "first_label": 0},
    "logistic_no_mining": {"logistic": True, "mining": "NONE"},
    "logistic_background_2": {"logistic": True, "background_label_id": 2, "first_label": 0},
    "logistic_background_2_no_mining": {
        "logistic": True,
        "background_label_id": 2,
        "first_label": 0,
        "mining": "NONE",
    },
    "hard": {"mining": "HARD_EXAMPLE", "sample_size": 11},
    "hard_l2": {"mining": "HARD_EXAMPLE", "sample_size": 7, "smooth": False, "ignore_cross": True},
    "hard_logistic": {"mining": "HARD_EXAMPLE", "sample_size": 9, "logistic": True},
    "nms": {"nms_threshold": 0.2, "top_k": 30},
    "nms_priors": {"nms_threshold": 0.1, "top_k": -1, "use_prior_for_nms": True, "neg_pos_ratio": 9.0},
    "nms_hard": {"nms_threshold": 0.3, "top_k": 20, "mining": "HARD_EXAMPLE", "sample_size": 8},
    "nms_no_top_k": {"nms_threshold": 0.3, "top_k": 0},
    "own_locations": {"share_location": False, "mining": "NONE"},
    "own_locations_predictions": {"share_location": False, "mining": "NONE", "use_prior_for_matching": False},
    "own_locations_logistic": {"share_location": False, "mining": "NONE", "logistic": True},
    "agnostic": {"agnostic": True, "classes": 2},
    "arm": {"classes": 2},
    "odm": {"arm": True, "objectness_score": 0.3},
    "odm_hard": {"arm": True, "objectness_score": 0.4, "mining": "HARD_EXAMPLE", "sample_size": 10},
    "odm_inside": {"arm": True, "bp_inside": True, "objectness_score": 0.01},
}


COPIED = (
    "overlap_threshold",
    "neg_overlap",
    "neg_pos_ratio",
    "use_prior_for_matching",
    "encode_variance_in_target",
    "use_difficult_gt",
    "bp_inside",
    "sample_size",
    "use_prior_for_nms",
    "share_location",
    "objectness_score",
)


def layer_param(case, normalization):
    names = {"HARD_EXAMPLE": Param.HARD_EXAMPLE, "NONE": Param.NONE, "MAX_NEGATIVE": Param.MAX_NEGATIVE}
    param = caffe_pb2.LayerParameter(name="loss")
    param.loss_param.normalization = normalization
    own = param.multibox_loss_param
    own.num_classes = case.get("classes", 4)
    own.loc_weight = 0.7
    own.loc_loss_type = Param.SMOOTH_L1 if case.get("smooth", True) else Param.L2
    own.conf_loss_type = Param.LOGISTIC if case.get("logistic") else Param.SOFTMAX
    own.match_type = Param.PER_PREDICTION if case.get("per_prediction", True) else Param.BIPARTITE
    own.background_label_id = case.get("background_label_id", 0) % (1 << 32)
    own.code_type = case.get("code_type", 2)
    own.mining_type = names[case.get("mining", "MAX_NEGATIVE")]
    own.map_object_to_agnostic = case.get("agnostic", False)
    own.ignore_cross_boundary_bbox = case.get("ignore_cross", False)
    if "nms_threshold" in case:
        own.nms_param.nms_threshold = case["nms_threshold"]
        if case["top_k"]:
            own.nms_param.top_k = case["top_k"]
    for name in COPIED:
        if name in case:
            setattr(own, name, case[name])
    return param


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients(name, seed):
    case = LOSSES[name]
    rng = np.random.default_rng([seed, *name.encode()])
    num, classes, shared = 4, case.get("classes", 4), case.get("share_location", True)
    priors, variance = boxes(rng, PRIORS), variances(PRIORS)
    loc = rng.normal(0, 0.8, (num, PRIORS, 1 if shared else classes, 4)).astype(np.float32)
    conf = rng.normal(0, 2, (num, PRIORS, classes)).astype(np.float32)
    # Image 1 has no objects, image 5 does not exist, and rows of -1 may stand anywhere.
    label = label_rows(rng, [0, 3, 5, 2], max(classes, 3), case.get("first_label", 1))
    background = case.get("background_label_id", 0)
    label = label[label[:, 1] != background]
    label = np.insert(label, 2, -1, axis=0)
    arm = []
    if case.get("arm"):
        arm = [rng.uniform(0, 1, (num, PRIORS, 2)), rng.normal(0, 0.5, (num, PRIORS, 4))]
        arm = [array.astype(np.float32) for array in arm]
    mode = [0, 1, 2, 3][seed % 4]
    layer = MultiBoxLoss(layer_param(case, mode), Context())
    blob = np.stack([priors.reshape(-1), variance.reshape(-1)])[None]
    arrays = [loc.reshape(num, -1), conf.reshape(num, -1), blob, label[None, None], *(a.reshape(num, -1) for a in arm)]
    bottoms = [torch.from_numpy(array.copy()) for array in arrays]
    for bottom in bottoms[:2]:
        bottom.requires_grad_()
    layer.setup([tuple(bottom.shape) for bottom in bottoms])
    assert layer.reshape([tuple(bottom.shape) for bottom in bottoms]) == [()]
    (loss,) = layer.forward(bottoms, [])
    loss.backward(torch.tensor(1.7))

    want = reference.MultiBoxLoss(loc, conf, priors, variance, label, case, *arm)
    loc_sum, conf_sum, matches, dloc, dconf = want.result()
    assert matches > 0
    divisor = max({0: num * PRIORS, 1: matches, 2: num, 3: 1}[mode], 1)
    # Sums of some hundred float32 numbers.
    assert loss.item() == pytest.approx((0.7 * loc_sum + conf_sum) / divisor, rel=3e-6)
    loc_grad, conf_grad = (bottom.grad.numpy().reshape(PRIORS * num, -1) for bottom in bottoms[:2])
    np.testing.assert_allclose(loc_grad, (dloc * 0.7 * 1.7 / divisor).reshape(PRIORS * num, -1), rtol=2e-5, atol=2e-6)
    dconf = dconf.reshape(PRIORS * num, -1)
    np.testing.assert_allclose(conf_grad, dconf * 1.7 / divisor, rtol=2e-5, atol=1e-6)
    # The rows themselves: what is not chosen has exactly no gradient.
    assert np.array_equal(conf_grad.any(1), dconf.any(1))


RULES = {
    "plain": {},
    "cut": {"keep": 9},
    "cut_hard": {"keep": 3, "top_k": 4, "nms": 0.2},
    "all": {"score": -3.4028234663852886e38, "top_k": -1},
    "all_cut": {"score": -3.4028234663852886e38, "keep": 25, "nms": 0.7},
    "eta": {"nms": 0.9, "eta": 0.7},
    "eta_without_effect": {"nms": 0.5, "eta": 0.7},
    "eta_cut": {"nms": 0.95, "eta": 0.8, "keep": 12},
    "corner": {"code": 1},
    "corner_size_plain": {"code": 3, "plain": True, "keep": 10},
    "center_plain": {"plain": True, "scale": 0.1},
    "background_2": {"background": 2},
    "no_background": {"background": -1, "keep": 20},
    "own_locations": {"loc_classes": 5, "keep": 15},
    "arm": {"arm": 2, "objectness": 0.4},
    "arm_conf": {"arm": 1, "objectness": 0.5, "background": 1},
    # Zeros for all priors without an object: whole lists of equal scores, cut by top_k and keep_top_k.
    "arm_ties": {"arm": 2, "objectness": 0.8, "score": -1.0, "keep": 60, "nms": 0.8},
    "ties": {"levels": 6, "keep": 30, "nms": 0.9, "score": -1.0},
    "ties_cut": {"levels": 3, "keep": 50, "nms": 0.95, "score": -1.0, "top_k": 30},
    "nothing": {"score": 2.0},
    "none_kept": {"keep": 0},
    "none_tried": {"top_k": 0},
}


@pytest.mark.parametrize("look", [256, 8])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", RULES)
def test_detections(name, seed, look, monkeypatch):
    # With a first look at 8 priors the rounds are gone through that large nets need.
    monkeypatch.setattr("pyscratchdet.boxes.detection._FIRST_LOOK", look)
    defaults = {
        "background": 0, "code": 2, "plain": False, "score": 0.05, "nms": 0.45, "eta": 1.0, "top_k": 20, "keep": -1,
        "objectness": 0.01,
    }  # fmt: skip
    case = {**defaults, **RULES[name]}
    rng = np.random.default_rng([seed, *name.encode()])
    num, classes = 3, 5
    priors, variance = boxes(rng, PRIORS), variances(PRIORS)
    scale = case.get("scale", 0.8)
    loc = rng.normal(0, scale, (num, PRIORS, case.get("loc_classes", 1), 4)).astype(np.float32)
    conf = rng.normal(0, 1.5, (num, PRIORS, classes))
    conf = (np.exp(conf) / np.exp(conf).sum(2, keepdims=True)).astype(np.float32)
    if "levels" in case:
        conf = (np.floor(conf * case["levels"]) / case["levels"]).astype(np.float32)
    arm_conf = rng.uniform(0, 1, (num, PRIORS, 2)).astype(np.float32)
    arm_loc = rng.normal(0, 0.3, (num, PRIORS, 4)).astype(np.float32)
    arm = [arm_conf, arm_loc][: case.get("arm", 0)]
    want = reference.detection_output(loc, conf, priors, variance, case, *arm, sort=std_sort_descending)

    tensors = [torch.from_numpy(array) for array in (loc, conf, priors, variance)]
    if arm:
        tensors[1] = objectness_scores(tensors[1], torch.from_numpy(arm_conf), case["objectness"])
    predictions = Predictions(*tensors, torch.from_numpy(arm_loc) if len(arm) > 1 else None)
    rule = DetectionRule(
        num_classes=classes,
        background=case["background"],
        code_type=case["code"],
        plain=case["plain"],
        score_threshold=case["score"],
        nms_threshold=float(np.float32(case["nms"])),
        eta=float(np.float32(case["eta"])),
        top_k=case["top_k"],
        keep_top_k=case["keep"],
    )
    got = detect(predictions, rule).table().numpy()
    if name in ("nothing", "none_kept", "none_tried"):
        assert got.shape == (0, 7)
        assert want[:, 1:].max() == -1
        return
    assert got.shape == want.shape
    assert np.array_equal(got[:, :3], want[:, :3])
    # Coordinates below 4: libm's exp against torch's, rounded to float32 once.
    np.testing.assert_allclose(got[:, 3:], want[:, 3:], atol=5e-7)
