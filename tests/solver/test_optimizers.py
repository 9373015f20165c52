import numpy as np
import pytest
import torch

from pyscratchdet.errors import SolverError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.solver import OPTIMIZERS, make_optimizer

SHAPES = [(4, 3, 2), (5,), (2, 7), (3,)]
MULTIPLIERS = [(1.0, 1.0), (2.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
SETTINGS = {
    "SGD": {"momentum": 0.9},
    "Nesterov": {"momentum": 0.8},
    "AdaGrad": {"delta": 1e-3},
    "RMSProp": {"rms_decay": 0.95, "delta": 1e-3},
    "AdaDelta": {"momentum": 0.95, "delta": 1e-6},
    "Adam": {"momentum": 0.9, "momentum2": 0.99, "delta": 1e-4},
}


def start(seed=1):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape).astype(np.float32) for shape in SHAPES]


def build(kind, values, **settings):
    param = caffe_pb2.SolverParameter(type=kind, base_lr=0.1, **{**SETTINGS[kind], **settings})
    tensors = [torch.tensor(value) for value in values]
    groups = [
        {"params": t, "lr_mult": lr, "decay_mult": decay} for t, (lr, decay) in zip(tensors, MULTIPLIERS, strict=True)
    ]
    return make_optimizer(param, groups), tensors


def run(optimizer, tensors, rates, seed=2):
    generator = np.random.default_rng(seed)
    for rate in rates:
        for tensor in tensors:
            tensor.grad = torch.tensor(generator.standard_normal(tensor.shape).astype(np.float32))
        optimizer.set_rate(rate)
        optimizer.step()


def reference(kind, values, rates, *, decay=0.0, l1=False, clip=-1.0, iter_size=1, seed=2):
    """The rules blob by blob in double precision, written from the formulas in Caffe's documentation."""
    s = {"momentum": 0.0, "momentum2": 0.999, "delta": 1e-8, "rms_decay": 0.99, **SETTINGS[kind]}
    mu, delta = s["momentum"], s["delta"]
    weights = [value.astype(float) for value in values]
    first, second = ([np.zeros(w.shape) for w in weights] for _ in range(2))
    generator = np.random.default_rng(seed)
    for t, rate in enumerate(rates, 1):
        grads = [generator.standard_normal(w.shape).astype(np.float32).astype(float) for w in weights]
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        factor = clip / norm if 0 <= clip < norm else 1.0
        for i, (w, (lr, dm)) in enumerate(zip(weights, MULTIPLIERS, strict=True)):
            g = grads[i] * factor / iter_size + decay * dm * (np.sign(w) if l1 else w)
            local = rate * lr
            if kind == "SGD":
                first[i] = mu * first[i] + local * g
                step = first[i]
            elif kind == "Nesterov":
                before = first[i]
                first[i] = mu * before + local * g
                step = (1 + mu) * first[i] - mu * before
            elif kind == "AdaGrad":
                first[i] = first[i] + g**2
                step = local * g / (np.sqrt(first[i]) + delta)
            elif kind == "RMSProp":
                first[i] = s["rms_decay"] * first[i] + (1 - s["rms_decay"]) * g**2
                step = local * g / (np.sqrt(first[i]) + delta)
            elif kind == "AdaDelta":
                first[i] = mu * first[i] + (1 - mu) * g**2
                raw = g * np.sqrt((second[i] + delta) / (first[i] + delta))
                second[i] = mu * second[i] + (1 - mu) * raw**2
                step = local * raw
            else:
                first[i] = mu * first[i] + (1 - mu) * g
                second[i] = s["momentum2"] * second[i] + (1 - s["momentum2"]) * g**2
                correction = np.sqrt(1 - s["momentum2"] ** t) / (1 - mu**t)
                step = local * correction * first[i] / (np.sqrt(second[i]) + delta)
            weights[i] = w - step
    return weights, first + (second if kind in ("AdaDelta", "Adam") else [])


RATES = [0.1, 0.1, 0.01, 0.01, 0.02]


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"weight_decay": 0.05}, {"decay": 0.05}),
        ({"weight_decay": 0.05, "regularization_type": "L1"}, {"decay": 0.05, "l1": True}),
        ({"clip_gradients": 1.5, "iter_size": 3, "weight_decay": 0.05}, {"clip": 1.5, "iter_size": 3, "decay": 0.05}),
    ],
    ids=["plain", "L2", "L1", "clip-accumulate"],
)
def test_rule(kind, settings, expected):
    optimizer, tensors = build(kind, start(), **settings)
    run(optimizer, tensors, RATES)
    weights, histories = reference(kind, start(), RATES, **expected)
    # float32 against double over five steps; AdaDelta's ratio of small numbers loses the most.
    for found, wanted in zip(tensors, weights, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=2e-5, atol=2e-6)
    if kind in ("SGD", "Nesterov"):
        assert not optimizer.histories()[3].any()  # frozen: nothing to remember
        histories[3] = np.zeros(3)
    for found, wanted in zip(optimizer.histories(), histories, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kind", SETTINGS)
def test_histories_continue_a_run(kind):
    whole, whole_tensors = build(kind, start(), weight_decay=0.01)
    run(whole, whole_tensors, RATES)
    run(whole, whole_tensors, RATES, seed=3)
    half, half_tensors = build(kind, start(), weight_decay=0.01)
    run(half, half_tensors, RATES)
    rest, rest_tensors = build(kind, [t.numpy() for t in half_tensors], weight_decay=0.01)
    rest.set_histories([h.numpy() for h in half.histories()])
    rest.iteration = half.iteration
    run(rest, rest_tensors, RATES, seed=3)
    for found, wanted in zip(rest_tensors, whole_tensors, strict=True):
        assert torch.equal(found, wanted)


def test_rate_is_inside_the_momentum():
    tensor = torch.zeros(1)
    ours = make_optimizer(caffe_pb2.SolverParameter(type="SGD", momentum=0.5, base_lr=1), [tensor])
    for rate in (1.0, 0.25):
        tensor.grad = torch.ones(1)
        ours.set_rate(rate)
        ours.step()
    # h: 1, then 0.5 * 1 + 0.25; torch.optim.SGD would subtract 1 and 0.25 * (0.5 + 1).
    assert tensor.item() == -1.75


def test_missing_gradient_counts_as_zero():
    optimizer, tensors = build("SGD", start(), weight_decay=0.1)
    optimizer.step()
    np.testing.assert_allclose(tensors[0].numpy(), start()[0] * (1 - 0.1 * 0.1), rtol=1e-6)  # float32 rounding
    np.testing.assert_array_equal(tensors[1].numpy(), start()[1])


def test_updates_stay_in_the_gradients_when_wanted():
    optimizer, tensors = build("Nesterov", start())
    optimizer.keep_updates = True
    run(optimizer, tensors, [0.1])
    for tensor, before in zip(tensors, start(), strict=True):
        # One float32 subtraction.
        np.testing.assert_allclose(before - tensor.grad.numpy(), tensor.numpy(), rtol=1e-6, atol=1e-7)


def test_clipping_is_reported():
    optimizer, tensors = build("SGD", start(), clip_gradients=0.5)
    run(optimizer, tensors, [0.1])
    norm, factor = optimizer.clipped
    assert factor == pytest.approx(0.5 / norm, rel=1e-6)  # float32 sums of 40
    assert norm > 0.5
    optimizer.clip_gradients = 1e3
    run(optimizer, tensors, [0.1])
    assert optimizer.clipped is None


@pytest.mark.parametrize("change", ["number", "shape"])
def test_foreign_histories_are_refused_and_change_nothing(change):
    optimizer, tensors = build("Adam", start())
    run(optimizer, tensors, [0.1])
    before = [h.clone() for h in optimizer.histories()]
    arrays = [np.zeros(s, np.float32) for s in SHAPES * 2]
    arrays = arrays[:-1] if change == "number" else [*arrays[:-1], np.zeros(4, np.float32)]
    with pytest.raises(SolverError) as caught:
        optimizer.set_histories(arrays)
    assert caught.value.code == "solver.history"
    assert all(torch.equal(a, b) for a, b in zip(before, optimizer.histories(), strict=True))


def test_old_four_dimensional_histories_fit():
    optimizer, _ = build("SGD", start())
    arrays = [np.full((1,) * (4 - len(s)) + s, 0.5, np.float32) for s in SHAPES]
    optimizer.set_histories(arrays)
    assert [tuple(h.shape) for h in optimizer.histories()] == SHAPES
    assert all((h == 0.5).all() for h in optimizer.histories())


def test_unknown_names_are_refused():
    with pytest.raises(SolverError, match='did you mean "Nesterov"'):
        make_optimizer(caffe_pb2.SolverParameter(type="Nestrov"), [torch.zeros(2)])
    with pytest.raises(SolverError, match="regularization_type"):
        make_optimizer(caffe_pb2.SolverParameter(weight_decay=1, regularization_type="L3"), [torch.zeros(2)])
    assert set(SETTINGS) == set(OPTIMIZERS)
