"""SegAccuracy and what else segmentation nets need, against counting pixel by pixel."""

import numpy as np
import pytest
import torch
from harness import make_layer

from pyscratchdet.errors import LayerError

SHAPE = (2, 4, 3, 5)


def scores_and_labels(seed, labels=(0, 1, 2, 9)):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 3, SHAPE).astype(np.float32)  # few values, so that many are equal
    return scores, random.choice(labels, (2, 1, 3, 5)).astype(np.float32)


def counted(batches, ignored):
    """Pixels by (label, best class), one by one."""
    table = np.zeros((4, 4))
    for scores, labels in batches:
        for n, y, x in np.ndindex(2, 3, 5):
            label = int(labels[n, 0, y, x])
            if label not in ignored:
                pairs = [(scores[n, c, y, x], c) for c in range(4)]
                table[label, max(pairs)[1]] += 1
    return table


def measures(table):
    recalls, overlaps = [], []
    for c in range(4):
        if table[c].sum():
            recalls.append(table[c, c] / table[c].sum())
        union = table[c].sum() + table[:, c].sum() - table[c, c]
        overlaps.append(table[c, c] / union if union else 1)
    return [np.trace(table) / table.sum(), np.mean(recalls), np.mean(overlaps)]


def seg_accuracy(text):
    layer, shapes = make_layer(
        f'name: "a" type: "SegAccuracy" top: "t" seg_accuracy_param {{ {text} }}', [SHAPE, (2, 1, 3, 5)]
    )
    assert shapes == [(1, 1, 1, 3)]
    return layer


def forward(layer, batch):
    (top,) = layer.forward([torch.from_numpy(array) for array in batch], ())
    return top.flatten().tolist()


def test_seg_accuracy_counts_each_pass_for_itself():
    layer = seg_accuracy("ignore_label: 9")
    for seed in (1, 2):
        batch = scores_and_labels(seed)
        # Float32 results.
        assert forward(layer, batch) == pytest.approx(measures(counted([batch], {9})), rel=1e-6)
    assert layer.state is None


def test_seg_accuracy_sums_up_and_continues():
    layer, batches = seg_accuracy("ignore_label: 9 ignore_label: 0 reset: false"), [*map(scores_and_labels, (1, 2, 3))]
    for batch in batches[:2]:
        found = forward(layer, batch)
    assert found == pytest.approx(measures(counted(batches[:2], {0, 9})), rel=1e-6)  # float32 results
    resumed = seg_accuracy("ignore_label: 9 ignore_label: 0 reset: false")
    resumed.state = layer.state
    assert forward(resumed, batches[2]) == pytest.approx(measures(counted(batches, {0, 9})), rel=1e-6)  # likewise


def test_seg_accuracy_without_pixels():
    batch = scores_and_labels(1, labels=(9,))
    assert forward(seg_accuracy("ignore_label: 9"), batch) == [0, 0, 1]


def test_seg_accuracy_refuses_a_label_that_is_no_class():
    with pytest.raises(LayerError, match=r"expected 0 to 3 and found 9.0 \[layer.label\]"):
        forward(seg_accuracy(""), scores_and_labels(1))


def test_l1_loss():
    layer, _ = make_layer('name: "l" type: "L1Loss" top: "t"', [(3, 2), (3, 2)])
    a = torch.tensor([[1.0, -2.0], [0.5, 3.0], [4.0, 0.0]], requires_grad=True)
    b = torch.tensor([[2.0, -2.0], [0.0, 5.0], [1.0, 1.0]], requires_grad=True)
    (loss,) = layer.forward([a, b], ())
    assert loss.item() == pytest.approx((1 + 0 + 0.5 + 2 + 3 + 1) / 3, rel=1e-6)  # float32 sum
    loss.backward()
    signs = torch.tensor([[-1.0, 0.0], [1.0, -1.0], [1.0, -1.0]])
    assert torch.equal(a.grad, signs / 3)
    assert torch.equal(b.grad, -signs / 3)


def softmax_loss(text, scores, labels):
    layer, _ = make_layer(f'name: "l" type: "SoftmaxWithLoss" top: "t" {text}', [scores.shape, labels.shape])
    values = torch.from_numpy(scores).requires_grad_()
    (loss,) = layer.forward([values, torch.from_numpy(labels)], ())
    loss.backward()
    return loss.item(), values.grad.numpy()


def test_class_weights_of_segnet():
    weights = [0.5, 2.0, 3.0, 0.25]
    scores, labels = scores_and_labels(4)
    loss_param = "ignore_label: 9 weight_by_label_freqs: true " + " ".join(f"class_weighting: {w}" for w in weights)
    loss, gradient = softmax_loss(f"loss_param {{ {loss_param} }}", scores, labels)
    wide = scores.astype(np.float64)
    probabilities = np.exp(wide) / np.exp(wide).sum(1, keepdims=True)
    expected, count, wanted = 0.0, 0, np.zeros(SHAPE)
    for n, y, x in np.ndindex(2, 3, 5):
        label = int(labels[n, 0, y, x])
        if label != 9:
            count += 1
            expected -= weights[label] * np.log(probabilities[n, label, y, x])
            wanted[n, :, y, x] = weights[label] * (probabilities[n, :, y, x] - np.eye(4)[label])
    assert loss == pytest.approx(expected / count, rel=1e-6)  # float32 against float64
    np.testing.assert_allclose(gradient, wanted / count, atol=1e-7)  # likewise


def test_class_weights_must_fit_the_classes():
    text = 'name: "l" type: "SoftmaxWithLoss" top: "t" loss_param { weight_by_label_freqs: true class_weighting: 1 }'
    with pytest.raises(LayerError, match=r"expected 4 and found 1 \[layer.class-weights\]"):
        make_layer(text, [SHAPE, (2, 1, 3, 5)])


@pytest.mark.parametrize("type_", ["SoftmaxWithLoss", "SigmoidCrossEntropyLoss"])
@pytest.mark.parametrize(("fixed", "divisor"), [(7, 7), (0.5, 1)])
def test_pre_fixed_normalizer(type_, fixed, divisor):
    scores, labels = scores_and_labels(5, labels=(0, 1, 2, 3))
    targets = labels if type_ == "SoftmaxWithLoss" else np.minimum(scores, 1)
    losses = []
    for loss_param in ("normalization: NONE", f"normalization: PRE_FIXED pre_fixed_normalizer: {fixed}"):
        text = f'name: "l" type: "{type_}" top: "t" loss_param {{ {loss_param} }}'
        layer, _ = make_layer(text, [scores.shape, targets.shape])
        losses.append(layer.forward([torch.from_numpy(scores), torch.from_numpy(targets)], ())[0].item())
    assert losses[1] == pytest.approx(losses[0] / divisor, rel=1e-6)  # one float32 division


def test_selu_and_mish():
    x = np.linspace(-4, 4, 17).astype(np.float32)
    wide = x.astype(np.float64)
    formulas = {
        "SeLu": np.where(wide > 0, 1.0507009873554805 * wide, 1.0507009873554805 * 1.6732632423543772 * np.expm1(wide)),
        "Mish": wide * np.tanh(np.log1p(np.exp(wide))),
    }
    for type_, expected in formulas.items():
        layer, _ = make_layer(f'name: "l" type: "{type_}" top: "t"', [x.shape])
        (top,) = layer.forward([torch.from_numpy(x)], ())
        np.testing.assert_allclose(top, expected, rtol=1e-6, atol=1e-6)  # float32 against float64


def test_average_without_the_padding():
    text = "pool: AVE kernel_size: 3 stride: 2 pad: 1 avg_include_pad: false"
    x = np.random.default_rng(6).standard_normal((1, 2, 6, 7)).astype(np.float32)
    layer, shapes = make_layer(f'name: "l" type: "Pooling" top: "t" pooling_param {{ {text} }}', [x.shape])
    (top,) = layer.forward([torch.from_numpy(x)], ())
    expected = np.zeros(shapes[0])
    for y, z in np.ndindex(*shapes[0][2:]):
        rows, columns = (slice(max(2 * i - 1, 0), 2 * i + 2) for i in (y, z))
        expected[:, :, y, z] = x[:, :, rows, columns].mean((2, 3))
    np.testing.assert_allclose(top, expected, rtol=1e-5, atol=1e-6)  # float32 sums of up to nine values
