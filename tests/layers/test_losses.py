"""Losses, Accuracy, BatchReindex and Filter: recordings, hand-computed values, gradients of their own, rules."""

import harness
import numpy as np
import pytest
import torch

from pyscratchdet.errors import ConversionError, LayerError
from pyscratchdet.proto import caffe_pb2

TYPES = [
    "Accuracy",
    "BatchReindex",
    "ContrastiveLoss",
    "EuclideanLoss",
    "Filter",
    "HingeLoss",
    "InfogainLoss",
    "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss",
    "SmoothL1Loss",
    "SoftmaxWithLoss",
]
TOLERANCE = 1e-5  # relative L2 of one layer
ROUNDING = 1e-6  # relative: a few float32 operations, each off by at most 6e-8
FOUR_DIGITS = 1e-4  # of -log(FLT_MIN) as it is written here
GRADIENT = {"rtol": 1e-5, "atol": 1e-7}  # float32: differences of probabilities lose digits where they are near 0


def layer(type_, shapes, params="", tops=1):
    bottoms = "".join(f' bottom: "b{i}"' for i in range(len(shapes)))
    made = "".join(f' top: "t{i}"' for i in range(tops))
    return harness.make_layer(f'name: "l" type: "{type_}"{bottoms}{made} {params}', shapes)


def tensor(values):
    return torch.tensor(values, dtype=torch.float32)


def forward(type_, bottoms, params="", tops=1):
    made, shapes = layer(type_, [tuple(bottom.shape) for bottom in bottoms], params, tops)
    results = made.forward(bottoms, [])
    if type_ != "Filter":
        assert [tuple(top.shape) for top in results] == shapes
    return results


def gradient(type_, bottoms, params="", weight=1.0):
    """Returns the gradients of all bottoms for a top diff of `weight`."""
    bottoms = [bottom.clone().requires_grad_() for bottom in bottoms]
    forward(type_, bottoms, params)[0].backward(torch.tensor(weight))
    return [bottom.grad for bottom in bottoms]


@pytest.mark.parametrize("case", harness.recorded_cases(*TYPES))
def test_recorded(case):
    errors = harness.errors(case)
    assert errors == {key: pytest.approx(0, abs=TOLERANCE) for key in errors}


@pytest.mark.parametrize("type_", TYPES)
def test_every_type_is_recorded(type_):
    assert harness.recorded_cases(type_)


# --- SoftmaxWithLoss ---

SCORES = tensor(np.sin(np.arange(2 * 3 * 4)).reshape(2, 3, 4) * 2)
LABELS = tensor([[0, 2, 1, 2], [1, 1, 0, 2]])


@pytest.mark.parametrize(
    ("params", "divisor"),
    [
        ("", 5),  # VALID by default: three labels are 2
        ("loss_param { normalization: FULL }", 8),
        ("loss_param { normalization: BATCH_SIZE }", 2),
        ("loss_param { normalization: NONE }", 1),
        ("loss_param { normalize: false }", 2),
        ("loss_param { normalize: true }", 5),
        ("loss_param { normalize: false normalization: FULL }", 8),
    ],
)
def test_softmax_normalization(params, divisor):
    params = params.replace("loss_param {", "loss_param { ignore_label: 2") or "loss_param { ignore_label: 2 }"
    log_probs = torch.log_softmax(SCORES, 1)
    kept = (LABELS != 2)[:, None]
    picked = log_probs.gather(1, LABELS.long()[:, None])
    expected = -(picked * kept).sum() / divisor
    assert forward("SoftmaxWithLoss", [SCORES, LABELS], params)[0].item() == pytest.approx(
        expected.item(), rel=ROUNDING
    )
    one_hot = torch.nn.functional.one_hot(LABELS.long(), 3).movedim(-1, 1)
    found = gradient("SoftmaxWithLoss", [SCORES, LABELS], params, weight=0.5)
    torch.testing.assert_close(found[0], 0.5 * (log_probs.exp() - one_hot) * kept / divisor, **GRADIENT)
    assert found[1] is None


def test_softmax_axis():
    labels = tensor([[0, 3, 1], [2, 2, 0]])
    loss = forward("SoftmaxWithLoss", [SCORES, labels], "softmax_param { axis: -1 }")[0]
    expected = torch.nn.functional.cross_entropy(SCORES.reshape(6, 4), labels.reshape(6).long())
    assert loss.item() == pytest.approx(expected.item(), rel=ROUNDING)


def test_softmax_floor_keeps_its_gradient():
    scores = tensor([[0.0, 500.0]])
    assert forward("SoftmaxWithLoss", [scores, tensor([0])])[0].item() == pytest.approx(87.3365, abs=FOUR_DIGITS)
    assert gradient("SoftmaxWithLoss", [scores, tensor([0])])[0].tolist() == [[-1.0, 1.0]]


def test_softmax_of_scores_that_overflow():
    loss = forward("SoftmaxWithLoss", [tensor([[-3e38, 3e38]]), tensor([0])])[0]
    assert loss.item() == pytest.approx(87.3365, abs=FOUR_DIGITS)


def test_softmax_all_ignored_is_zero():
    labels = torch.full((2, 4), 2.0)
    loss = forward("SoftmaxWithLoss", [SCORES, labels], "loss_param { ignore_label: 2 }")[0]
    assert loss.item() == 0


@pytest.mark.parametrize("label", [3, -1, float("nan")])
def test_softmax_label_out_of_range(label):
    labels = LABELS.clone()
    labels[1, 2] = label
    with pytest.raises(LayerError) as caught:
        forward("SoftmaxWithLoss", [SCORES, labels])
    assert caught.value.code == "layer.label"


# --- losses of one label per item ---


def test_hinge_l2():
    scores, labels = tensor([[0.5, -2.0, 0.25], [2.0, 1.0, -1.0]]), tensor([0, 1])
    # Margins: 0.5, 0, 1.25 and 3, 0, 0.
    params = "hinge_loss_param { norm: L2 }"
    assert forward("HingeLoss", [scores, labels], params)[0].item() == pytest.approx(
        (0.25 + 1.5625 + 9) / 2, rel=ROUNDING
    )
    assert gradient("HingeLoss", [scores, labels], params)[0].tolist() == [[-0.5, 0, 1.25], [3, 0, 0]]


def test_hinge_l1_has_no_gradient_at_the_margin():
    scores, labels = tensor([[1.0, -1.0, 0.5]]), tensor([0])
    assert forward("HingeLoss", [scores, labels])[0].item() == 1.5
    assert gradient("HingeLoss", [scores, labels])[0].tolist() == [[0, 0, 1]]


def test_multinomial_floor():
    probs, labels = tensor([[0.5, 0.0], [0.25, 0.75]]), tensor([1, 0])
    expected = -(np.log(1e-20) + np.log(0.25)) / 2
    assert forward("MultinomialLogisticLoss", [probs, labels])[0].item() == pytest.approx(expected, rel=ROUNDING)
    found = gradient("MultinomialLogisticLoss", [probs, labels], weight=4.0)[0]
    torch.testing.assert_close(found, tensor([[0, -2e20], [-8, 0]]), rtol=ROUNDING, atol=0)


def test_infogain_matrix_from_file(tmp_path):
    matrix = np.array([[1, 0.5], [0.25, 2]], np.float32)
    blob = caffe_pb2.BlobProto(num=1, channels=1, height=2, width=2, data=matrix.ravel().tolist())
    (tmp_path / "h.binaryproto").write_bytes(blob.SerializeToString())
    params = f'infogain_loss_param {{ source: "{tmp_path}/h.binaryproto" }}'
    probs, labels = tensor([[0.5, 0.0], [0.25, 0.75], [0.125, 0.875]]), tensor([1, 0, 1])
    clipped = np.maximum(probs.numpy(), 1e-20)
    weights = matrix[[1, 0, 1]]
    found = forward("InfogainLoss", [probs, labels], params)[0].item()
    assert found == pytest.approx(-(weights * np.log(clipped)).sum() / 3, rel=ROUNDING)
    expected = torch.from_numpy(-weights / clipped / 3)
    torch.testing.assert_close(gradient("InfogainLoss", [probs, labels], params)[0], expected, rtol=ROUNDING, atol=0)


def test_infogain_damaged_file(tmp_path):
    (tmp_path / "h.binaryproto").write_bytes(b"\xff\xff\xff")
    params = f'infogain_loss_param {{ source: "{tmp_path}/h.binaryproto" }}'
    with pytest.raises(LayerError) as caught:
        layer("InfogainLoss", [(3, 2), (3,)], params)
    assert caught.value.code == "layer.source"


# --- losses of numbers ---


def test_euclidean():
    a, b = tensor([[1, 2, 4], [0, 1, 3]]), tensor([[0, 2, 2], [1, 1, 0]])
    assert forward("EuclideanLoss", [a, b])[0].item() == (1 + 4 + 1 + 9) / 4
    found = gradient("EuclideanLoss", [a, b], weight=3.0)
    assert found[0].tolist() == [[1.5, 0, 3], [-1.5, 0, 4.5]]
    assert found[1].tolist() == [[-1.5, 0, -3], [1.5, 0, -4.5]]


@pytest.mark.parametrize(("more", "ignored"), [("", -1), ("loss_param { ignore_label: 1 normalization: FULL }", 1)])
def test_infogain_of_scores(more, ignored):
    """BVLC's newer infogain_loss_layer.cpp, number by number; the gradient is the loss's own."""
    random = np.random.default_rng(5)
    scores, labels = random.normal(size=(2, 3, 4)), random.integers(0, 3, (2, 4))
    matrix, shape = random.uniform(0, 2, (3, 3)), (2, 3, 4)
    total = count = 0.0
    diff = np.zeros(shape)
    for n, k in np.ndindex(2, 4):
        row = matrix[labels[n, k]]
        p = np.exp(scores[n, :, k]) / np.exp(scores[n, :, k]).sum()
        if labels[n, k] != ignored:
            total -= (row * np.log(p)).sum()
            diff[n, :, k] = p * row.sum() - row
            count += 1
    divisor = 8 if more else count
    bottoms = [tensor(scores), tensor(labels), tensor(matrix)]
    text = f"infogain_loss_param {{ axis: 1 }} {more}"
    # Sums of up to 24 float32 numbers below 5.
    assert forward("InfogainLoss", bottoms, text)[0].item() == pytest.approx(total / divisor, rel=1e-6)
    found = gradient("InfogainLoss", bottoms, text, weight=2.0)
    np.testing.assert_allclose(found[0], 2 * diff / divisor, rtol=1e-5, atol=1e-6)
    with pytest.raises(LayerError, match="infogain matrix does not fit"):
        forward("InfogainLoss", [*bottoms[:2], torch.ones(1, 1, 2, 3)], text)


@pytest.mark.parametrize(("gamma", "ignored"), [(2, -1), (0.5, 1), (0, -1)])
def test_focal_loss(gamma, ignored):
    """focal_loss_layer.cpp: its own loss, differentiated by finite differences; at gamma 0 the softmax's."""
    random = np.random.default_rng(7)
    scores, labels = random.normal(size=(2, 3, 4)), random.integers(0, 3, (2, 4))

    def loss_of(values):
        p = np.exp(values) / np.exp(values).sum(1, keepdims=True)
        true = np.take_along_axis(p, labels[:, None], 1)[:, 0]
        return (-0.7 * (1 - true) ** gamma * np.log(true))[labels != ignored].sum() / (labels != ignored).sum()

    bottoms = [tensor(scores), tensor(labels)]
    text = f"focal_loss_param {{ alpha: 0.7 gamma: {gamma} engine: CAFFE }} loss_param {{ ignore_label: {ignored} }}"
    assert forward("FocalLoss", bottoms, text)[0].item() == pytest.approx(loss_of(scores), rel=1e-5)  # a float32 sum
    found = gradient("FocalLoss", bottoms, text)[0]
    for place in np.ndindex(scores.shape):
        step = np.zeros(scores.shape)
        step[place] = 1e-5
        slope = (loss_of(scores + step) - loss_of(scores - step)) / 2e-5
        assert found[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)  # differences of float32 shares
    if not gamma:
        plain = gradient("SoftmaxWithLoss", bottoms)[0]
        np.testing.assert_allclose(found, 0.7 * plain, rtol=1e-5, atol=1e-7)  # the same shares, in another order


def test_the_focal_loss_of_a_certain_label_passes_no_nan_back():
    found = gradient("FocalLoss", [tensor([[99, 0.0]]), tensor([0.0])], "focal_loss_param { gamma: 0.5 }")[0]
    assert found.tolist() == [[0, 0]]


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 3)])
def test_label_smoothing(shape):
    """Intel's softmax_loss_layer.cpp: the loss without it; its gradient divides by the scores of an item."""
    random = np.random.default_rng(6)
    scores = random.normal(size=shape)
    labels = random.integers(0, shape[1], (shape[0], *shape[2:]))
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    dim = int(np.prod(shape[1:]))
    alpha, beta = 0.9, 0.1 / dim
    diff = p * (alpha + (dim - 1) * beta) - beta
    for place in np.ndindex(labels.shape):
        diff[(place[0], labels[place], *place[1:])] += beta - alpha
    bottoms, text = [tensor(scores), tensor(labels)], "loss_param { label_smoothing: 0.1 }"
    assert torch.equal(forward("SoftmaxWithLoss", bottoms, text)[0], forward("SoftmaxWithLoss", bottoms)[0])
    found = gradient("SoftmaxWithLoss", bottoms, text)
    np.testing.assert_allclose(found[0], diff / labels.size, rtol=1e-5, atol=1e-7)  # differences of float32 shares


def test_smooth_l1():
    a, b = tensor([[0.5, 3.0, -4.0], [0, 1, 0.25]]), tensor([[0.25, 0, 0], [0, 0, 0]])
    assert forward("SmoothL1Loss", [a, b])[0].item() == (0.03125 + 2.5 + 3.5 + 0.5 + 0.03125) / 2
    found = gradient("SmoothL1Loss", [a, b])
    assert found[0].tolist() == [[0.125, 0.5, -0.5], [0, 0.5, 0.125]]
    assert found[1].tolist() == [[-0.125, -0.5, 0.5], [0, -0.5, -0.125]]


@pytest.mark.parametrize("sigma", [1, 2, 0.5])
def test_smooth_l1_sigma(sigma):
    """The two parts of Fast R-CNN's definition, and their derivatives, on both sides of 1 / sigma^2."""
    differences = np.array([[0.2, 0.3, -0.2], [-3, 5, 0.9]], np.float64)
    inside = np.abs(differences) < 1 / sigma**2
    values = np.where(inside, 0.5 * (sigma * differences) ** 2, np.abs(differences) - 0.5 / sigma**2)
    slopes = np.where(inside, sigma**2 * differences, np.sign(differences)) / 2
    a, b = tensor(differences + 1), torch.ones(2, 3)
    text = f"smooth_l1_loss_param {{ sigma: {sigma} }}"
    # A sum of six float32 numbers up to 5.
    assert forward("SmoothL1Loss", [a, b], text)[0].item() == pytest.approx(values.sum() / 2, rel=ROUNDING)
    found = gradient("SmoothL1Loss", [a, b], text)
    np.testing.assert_allclose(found[0], slopes, rtol=ROUNDING)
    np.testing.assert_allclose(found[1], -slopes, rtol=ROUNDING)


def test_smooth_l1_with_inside_and_outside_weights():
    """Fast R-CNN: the weight inside f scales the difference, the one outside the value."""
    a, b = tensor([[0.5, 3.0, -4.0], [0, 1, 0.25]]), tensor([[0.25, 0, 0], [0, 0, 0]])
    inside, outside = tensor([[2, 1, 0.25], [1, 0, 4]]), tensor([[3, 0.5, 0], [1, 7, 2]])
    # v * d is [0.5, 3, -1], [0, 0, 1]
    text = "smooth_l1_loss_param { sigma: 1 }"
    assert forward("SmoothL1Loss", [a, b, inside, outside], text)[0].item() == (3 * 0.125 + 0.5 * 2.5 + 2 * 0.5) / 2
    found = gradient("SmoothL1Loss", [a, b, inside, outside], text)
    expected = [[3 * 2 * 0.5 / 2, 0.5 / 2, 0], [0, 0, 2 * 4 / 2]]
    assert found[0].tolist() == expected
    assert (found[0] + found[1]).abs().max() == 0
    assert found[2] is None
    assert found[3] is None


def test_smooth_l1_with_one_bottom_of_weights():
    """The first Fast R-CNN and R-FCN: f(w * d), and its slope at w * d without another w (smooth_L1_loss_layer.cu)."""
    a, b = tensor([[0.5, 3.0, -4.0], [0, 1, 0.25]]), tensor([[0.25, 0, 0], [0, 0, 0]])
    weights = tensor([[2, 1, 0.25], [1, 0, 3]])
    # w * d is [0.5, 3, -1], [0, 0, 0.75]
    assert forward("SmoothL1Loss", [a, b, weights])[0].item() == (0.125 + 2.5 + 0.5 + 0.28125) / 2
    found = gradient("SmoothL1Loss", [a, b, weights])
    assert found[0].tolist() == [[0.25, 0.5, -0.5], [0, 0, 0.375]]
    assert (found[0] + found[1]).abs().max() == 0
    assert found[2] is None
    with pytest.raises(LayerError, match="one bottom of weights"):
        forward("SmoothL1Loss", [torch.ones(1, 2, 3, 1)] * 3)


@pytest.mark.parametrize("legacy", [False, True])
def test_contrastive(legacy):
    a, b = tensor([[0, 0], [3, 4], [0, 0.5], [5, 0]]), torch.zeros(4, 2)
    labels = tensor([0, 1, 0, 0])
    params = f"contrastive_loss_param {{ margin: 2 legacy_version: {str(legacy).lower()} }}"
    penalty = 2 - 0.25 if legacy else 1.5**2
    at_zero = 2 if legacy else 4
    found = forward("ContrastiveLoss", [a, b, labels], params)[0].item()
    assert found == pytest.approx((at_zero + 25 + penalty) / 8, rel=ROUNDING)
    factor = 1 if legacy else 1.5 / (0.5 + 1e-4)
    expected = tensor([[0, 0], [3, 4], [0, -0.5 * factor], [0, 0]]) / 4
    gradients = gradient("ContrastiveLoss", [a, b, labels], params)
    torch.testing.assert_close(gradients[0], expected, rtol=ROUNDING, atol=0)
    torch.testing.assert_close(gradients[1], -expected, rtol=ROUNDING, atol=0)


@pytest.mark.parametrize(
    ("params", "divisor"),
    [
        ("", 2),
        ("normalization: VALID", 4),
        ("normalization: FULL", 6),
        ("normalize: true", 4),
        ("normalization: NONE", 1),
    ],
)
def test_sigmoid_cross_entropy(params, divisor):
    scores, targets = tensor([[0.5, -90.0, 2.0], [90.0, -1.0, 0.0]]), tensor([[1, 0.25, 7], [0, 1, 7]])
    params = f"loss_param {{ ignore_label: 7 {params} }}"
    x, t = scores[:, :2].double(), targets[:, :2].double()
    expected = (torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0) - x * t).sum().item() / divisor
    found = forward("SigmoidCrossEntropyLoss", [scores, targets], params)[0].item()
    assert found == pytest.approx(expected, rel=ROUNDING)
    kept = tensor([[1, 1, 0], [1, 1, 0]])
    gradients = gradient("SigmoidCrossEntropyLoss", [scores, targets], params, weight=2.0)
    torch.testing.assert_close(gradients[0], 2 * (scores.sigmoid() - targets) * kept / divisor, **GRADIENT)


# --- Accuracy, BatchReindex, Filter ---


def test_accuracy_top_k_ties_and_classes():
    scores = tensor([[3, 1, 2, 0], [1, 1, 0, 1], [0, 5, 1, 2], [9, 0, 0, 0]])
    labels = tensor([2, 0, 1, 3])
    # Ranks of the true class: 1, 2 (of equal scores the higher class wins), 0, 1.
    share, classes = forward("Accuracy", [scores, labels], "accuracy_param { top_k: 2 }", tops=2)
    assert share.item() == 0.75
    assert classes.tolist() == [0, 1, 1, 1]


def test_accuracy_axis_and_ignored():
    scores = tensor(np.arange(12).reshape(3, 4))
    labels = tensor([2, 0, 1, 2])
    share = forward("Accuracy", [scores, labels], "accuracy_param { axis: 0 ignore_label: 1 }")[0]
    assert share.item() == pytest.approx(2 / 3, rel=ROUNDING)


def test_accuracy_without_labels_is_nan():
    share, classes = forward("Accuracy", [tensor([[1, 2]]), tensor([1])], "accuracy_param { ignore_label: 1 }", tops=2)
    assert share.isnan()
    assert classes.tolist() == [0, 0]


def test_batch_reindex_adds_gradients():
    values = torch.arange(6.0).reshape(3, 2).requires_grad_()
    top = forward("BatchReindex", [values, tensor([2, 0, 2, 2])])[0]
    assert top.tolist() == [[4, 5], [0, 1], [4, 5], [4, 5]]
    top.backward(torch.ones(4, 2))
    assert values.grad.tolist() == [[1, 1], [0, 0], [3, 3]]


@pytest.mark.parametrize("index", [-1, 3])
def test_batch_reindex_out_of_range(index):
    with pytest.raises(LayerError) as caught:
        forward("BatchReindex", [torch.zeros(3, 2), tensor([0, index])])
    assert caught.value.code == "layer.index"


def test_filter_several_bottoms():
    a, b = torch.arange(8.0).reshape(4, 2).requires_grad_(), torch.arange(4.0)
    tops = forward("Filter", [a, b, tensor([0, 1, -0.5, 0])], tops=2)
    assert [top.tolist() for top in tops] == [[[2, 3], [4, 5]], [1, 2]]
    tops[0].backward(tensor([[1, 2], [3, 4]]))
    assert a.grad.tolist() == [[0, 0], [1, 2], [3, 4], [0, 0]]


def test_filter_that_keeps_nothing():
    assert forward("Filter", [torch.ones(3, 2), torch.zeros(3)])[0].shape == (0, 2)


# --- rules ---


@pytest.mark.parametrize(
    ("type_", "shapes", "params", "code"),
    [
        ("SoftmaxWithLoss", [(2, 3, 4), (2, 3)], "", "labels"),
        ("SoftmaxWithLoss", [(2, 3), (3,)], "", "batch"),
        ("SoftmaxWithLoss", [(2, 3), (2,)], "softmax_param { axis: 2 }", "axis"),
        ("SoftmaxWithLoss", [(2, 0), (2,)], "", "empty"),
        ("FocalLoss", [(2, 3), (2,)], "focal_loss_param { alpha: 0 }", "focal"),
        ("FocalLoss", [(2, 3), (2,)], "focal_loss_param { gamma: -1 }", "focal"),
        ("FocalLoss", [(2, 3, 4), (2, 3)], "focal_loss_param { axis: 2 }", "axis"),
        ("FocalLoss", [(2, 3), (3,)], "", "batch"),
        ("EuclideanLoss", [(2, 3), (2, 4)], "", "shape"),
        ("EuclideanLoss", [(), ()], "", "batch"),
        ("SmoothL1Loss", [(2, 3), (2, 4)], "", "shape"),
        ("SmoothL1Loss", [(2, 3, 2, 1), (2, 3, 2, 1), (2, 3, 2, 1)], "", "bottoms"),
        ("SmoothL1Loss", [(2, 3), (2, 3), (2, 3), (2, 1)], "", "shape"),
        ("SmoothL1Loss", [(2, 3, 1, 1, 4), (2, 3, 1, 1, 4)], "", "rank"),
        ("ContrastiveLoss", [(4, 3), (4, 2), (4,)], "", "shape"),
        ("ContrastiveLoss", [(4, 3, 2), (4, 3, 2), (4,)], "", "shape"),
        ("ContrastiveLoss", [(4, 3), (4, 3), (4, 2)], "", "shape"),
        ("SigmoidCrossEntropyLoss", [(4, 3), (4, 2)], "", "shape"),
        ("HingeLoss", [(4, 3), (4, 2)], "", "labels"),
        ("MultinomialLogisticLoss", [(4, 3), (4, 2)], "", "labels"),
        ("InfogainLoss", [(4, 3), (4,)], "", "source"),
        ("InfogainLoss", [(4, 3), (4,), (1, 1, 3, 2)], "", "infogain"),
        ("InfogainLoss", [(4, 3), (4,), (3, 3)], "", "infogain"),
        ("Accuracy", [(4, 3), (4,)], "accuracy_param { top_k: 4 }", "top-k"),
        ("Accuracy", [(4, 3), (3,)], "", "labels"),
        ("BatchReindex", [(4, 3), (4, 1)], "", "index"),
        ("Filter", [(4, 3), (4, 2)], "", "selector"),
        ("Filter", [(4, 3), (5,)], "", "batch"),
        ("Filter", [(4, 3), (4, 2), (4,)], "", "tops"),
    ],
)
def test_refused(type_, shapes, params, code):
    with pytest.raises(LayerError) as caught:
        layer(type_, shapes, params)
    assert caught.value.code == f"layer.{code}"


@pytest.mark.parametrize("type_", ["SoftmaxWithLoss", "Accuracy"])
def test_no_onnx(type_):
    with pytest.raises(ConversionError):
        layer(type_, [(2, 3), (2,)])[0].onnx(None, [], [])


def test_onnx_of_picks():
    import onnx_stub

    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    index, selector = np.array([3, 0, 3], np.float32), np.array([[0], [1], [0.5], [0]], np.float32)
    reindex = layer("BatchReindex", [(4, 3), (3,)])[0]
    found = onnx_stub.run(reindex, [(4, 3), (3,)], [values, index], [], 17, dynamic=False)
    np.testing.assert_array_equal(found[0], values[[3, 0, 3]])
    kept = layer("Filter", [(4, 3), (4, 1)])[0]
    found = onnx_stub.run(kept, [(4, 3), (4, 1)], [values, selector], [], 17, dynamic=False)
    np.testing.assert_array_equal(found[0], values[[1, 2]])
