"""R-FCN's online hard example mining: formulas, and the published loop of BoxAnnotatorOHEM."""

import numpy as np
import pytest
import torch
from harness import make_layer

from pyscratchdet.errors import LayerError

ROUNDING = 1e-6  # sums of a dozen float32 numbers


def random(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=torch.float32)


def run(type_, bottoms, tops, params=""):
    text = "".join(f' top: "t{i}"' for i in range(tops))
    layer, shapes = make_layer(f'name: "l" type: "{type_}"{text} {params}', [tuple(each.shape) for each in bottoms])
    results = layer.forward(bottoms, [])
    assert [tuple(top.shape) for top in results] == shapes
    return results


def test_softmax_gives_probabilities_and_the_loss_of_each_place():
    scores, labels = random(3, 4, 2, 5), torch.tensor(np.random.default_rng(1).integers(-1, 4, (3, 1, 2, 5))).float()
    params = "loss_param { ignore_label: -1 normalization: PRE_FIXED pre_fixed_normalizer: 7 }"
    bottom = scores.clone().requires_grad_()
    loss, probabilities, losses = run("SoftmaxWithLossOHEM", [bottom, labels], 3, params)
    exponentials = np.exp(scores.numpy().astype(float))
    expected = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities.detach(), expected, rtol=ROUNDING)
    picked = np.take_along_axis(expected, np.maximum(labels.numpy(), 0).astype(int), 1)
    each = np.where(labels.numpy() >= 0, -np.log(picked), 0)
    assert (labels < 0).any()
    np.testing.assert_allclose(losses, each, rtol=ROUNDING, atol=ROUNDING)
    assert loss.item() == pytest.approx(each.sum() / 7, rel=ROUNDING)
    loss.backward()
    one_hot = np.arange(4)[None, :, None, None] == labels.numpy()
    slopes = np.where(labels.numpy() >= 0, expected - one_hot, 0) / 7
    np.testing.assert_allclose(bottom.grad, slopes, atol=ROUNDING)


@pytest.mark.parametrize(
    ("params", "divisor"),
    [
        ("", 3 * 2 * 5),
        ("loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 128 }", 128),
        ("loss_param { normalization: BATCH_SIZE }", 3),
        ("loss_param { normalization: NONE }", 1),
    ],
)
def test_smooth_l1(params, divisor):
    values, targets = (2 * random(3, 4, 2, 5, seed=seed) for seed in (1, 2))
    weights = torch.tensor(np.random.default_rng(3).integers(0, 3, (3, 4, 2, 5)) / 2).float()
    bottoms = [values.clone().requires_grad_(), targets.clone().requires_grad_(), weights]
    loss, each = run("SmoothL1LossOHEM", bottoms, 2, params)
    d = (weights * (values - targets)).numpy().astype(float)
    errors = np.where(np.abs(d) < 1, d**2 / 2, np.abs(d) - 0.5)
    assert loss.item() == pytest.approx(errors.sum() / divisor, rel=ROUNDING)
    np.testing.assert_allclose(each, errors.sum(1, keepdims=True), rtol=ROUNDING)
    loss.backward()
    # The fork's Backward: f'(w * d), not w * f'(w * d).
    slopes = np.where(np.abs(d) < 1, d, np.sign(d)) / divisor
    np.testing.assert_allclose(bottoms[0].grad, slopes, atol=ROUNDING)
    np.testing.assert_allclose(bottoms[1].grad, -slopes, atol=ROUNDING)


def test_smooth_l1_without_weights():
    (loss,) = run("SmoothL1LossOHEM", [torch.tensor([[3.0, 0.5]]), torch.zeros(1, 2)], 1)
    assert loss.item() == 2.5 + 0.125


def test_box_annotator_keeps_the_regions_of_largest_loss():
    """The loop of box_annotator_ohem_layer.cpp over regions in falling order of their losses."""
    generator = np.random.default_rng(5)
    images = np.array([0, 1, 1, 0, 1, 0, 0, 2])
    regions = generator.normal(size=(8, 5, 2, 3)).astype(np.float32)
    regions[:, 0] = images[:, None, None]
    losses = generator.permutation(48).reshape(8, 1, 2, 3).astype(np.float32)
    labels = generator.integers(0, 9, (8, 1, 2, 3)).astype(np.float32)
    weights = generator.normal(size=(8, 4, 2, 3)).astype(np.float32)
    param = "box_annotator_ohem_param { roi_per_img: 8 ignore_label: -2 }"
    bottoms = [torch.from_numpy(each) for each in (regions, losses, labels, weights)]
    found_labels, found_weights = run("BoxAnnotatorOHEM", bottoms, 2, param)
    expected_labels, expected_weights = np.full_like(labels, -2), np.zeros_like(weights)
    left = {0: 8, 1: 8, 2: 8}
    for index in np.argsort(-losses.reshape(-1)):
        n, y, x = index // 6, index % 6 // 3, index % 3
        if left[images[n]] > 0:
            left[images[n]] -= 1
            expected_labels[n, 0, y, x] = labels[n, 0, y, x]
            expected_weights[n, :, y, x] = weights[n, :, y, x]
    assert list(left.values()) == [0, 0, 2]
    np.testing.assert_array_equal(found_labels, expected_labels)
    np.testing.assert_array_equal(found_weights, expected_weights)


REGIONS = [(6, 5), (6, 1), (6, 1), (6, 8)]


@pytest.mark.parametrize(
    ("type_", "shapes", "tops", "params", "code"),
    [
        ("SmoothL1LossOHEM", [(2, 3), (2, 4)], 1, "", "shape"),
        ("SmoothL1LossOHEM", [(2, 3), (2, 3), (2, 1)], 1, "", "shape"),
        ("SoftmaxWithLossOHEM", [(2, 3), (3, 1)], 1, "", "batch"),
        ("BoxAnnotatorOHEM", REGIONS, 2, "", "number"),
        ("BoxAnnotatorOHEM", [(6, 4), *REGIONS[1:]], 2, "box_annotator_ohem_param { roi_per_img: 2 }", "shape"),
        ("BoxAnnotatorOHEM", [*REGIONS[:3], (5, 8)], 2, "box_annotator_ohem_param { roi_per_img: 2 }", "shape"),
    ],
)
def test_refused(type_, shapes, tops, params, code):
    with pytest.raises(LayerError) as caught:
        run(type_, [torch.zeros(shape) for shape in shapes], tops, params)
    assert caught.value.code == f"layer.{code}"
