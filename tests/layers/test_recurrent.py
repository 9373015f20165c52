"""RNN, LSTM, LSTMUnit: recordings, PyTorch's own LSTM and RNN, state between passes, order of random draws, rules."""

import harness
import numpy as np
import pytest
import torch

from pyscratchdet.errors import LayerError
from pyscratchdet.layers.fillers import fill
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom

TOLERANCE = 1e-5  # relative L2 of one layer
ROUNDING = 1e-6  # relative: a few float32 operations
OUTPUTS = {"rtol": 1e-5, "atol": 1e-6}  # float32: the matrix products add up in another order, step after step
GRADIENTS = {"rtol": 1e-4, "atol": 1e-6}  # likewise, but summed over all steps, where terms cancel
T, N, D = 3, 2, 4


def layer(type_, shapes, params="", tops=1, seed=1):
    bottoms = "".join(f' bottom: "b{i}"' for i in range(len(shapes)))
    made = "".join(f' top: "t{i}"' for i in range(tops))
    uniform = '{ type: "uniform" min: -0.8 max: 0.8 }'
    if "num_output" not in params:
        params += f" num_output: {D}"
    params = f"recurrent_param {{ weight_filler {uniform} bias_filler {uniform} {params} }}"
    text = f'name: "l" type: "{type_}"{bottoms}{made} {params if type_ != "LSTMUnit" else ""}'
    return harness.make_layer(text, shapes, seed=seed)


def values(made):
    return [torch.tensor(spec.value, requires_grad=True) for spec in made.blobs]


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("case", harness.recorded_cases("RNN", "LSTM"))
def test_recorded(case):
    errors = harness.errors(case)
    assert "out:t0" in errors
    assert errors == {key: pytest.approx(0, abs=TOLERANCE) for key in errors}


def test_blobs_in_the_original_order():
    shapes = [(T, N, 5, 2), (T, N), (N, 3)]
    lstm = {spec.role: spec.shape for spec in layer("LSTM", shapes)[0].blobs}
    assert list(lstm.items()) == [("W_xc", (16, 10)), ("b_c", (16,)), ("W_xc_static", (16, 3)), ("W_hc", (16, 4))]
    rnn = {spec.role: spec.shape for spec in layer("RNN", shapes)[0].blobs}
    assert list(rnn.items()) == [
        ("W_xh", (4, 10)),
        ("b_h", (4,)),
        ("W_xh_static", (4, 3)),
        ("W_hh", (4, 4)),
        ("W_ho", (4, 4)),
        ("b_o", (4,)),
    ]


def test_each_step_of_the_unrolled_net_draws():
    made, _ = layer("RNN", [(T, N, 5), (T, N)], seed=9)
    filler = caffe_pb2.FillerParameter(type="uniform", min=-0.8, max=0.8)
    stream = CaffeRandom(9)
    for spec in made.blobs:
        np.testing.assert_array_equal(spec.value, fill(filler, spec.shape, stream))
    for _ in range(T - 1):
        for shape in ((D, D), (D, D), (D,)):
            fill(filler, shape, stream)
    assert made.context.random.raw(2).tolist() == stream.raw(2).tolist()


def test_lstm_is_pytorchs():
    made, shapes = layer("LSTM", [(T, N, 5), (T, N)])
    w_xc, b_c, w_hc = blobs = values(made)
    reference = torch.nn.LSTM(5, D)
    order = [0, 1, 3, 2]  # i, f, o, g -> i, f, g, o
    with torch.no_grad():
        for theirs, ours in (
            (reference.weight_ih_l0, w_xc),
            (reference.weight_hh_l0, w_hc),
            (reference.bias_ih_l0, b_c),
        ):
            theirs.copy_(ours.reshape(4, D, -1)[order].reshape(theirs.shape))
        reference.bias_hh_l0.zero_()
    x, top_diff = random(T, N, 5), random(T, N, D, seed=1)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    cont = torch.ones(T, N)
    (top,) = made.forward([ours, cont], blobs)
    expected, _ = reference(theirs)
    assert shapes == [tuple(top.shape)]
    torch.testing.assert_close(top, expected, **OUTPUTS)
    top.backward(top_diff)
    expected.backward(top_diff)
    torch.testing.assert_close(ours.grad, theirs.grad, **GRADIENTS)
    gradient = reference.weight_hh_l0.grad.reshape(4, D, D)[order].reshape(4 * D, D)
    torch.testing.assert_close(w_hc.grad, gradient, **GRADIENTS)


def test_rnn_by_hand_with_static_input_and_new_sequence():
    made, _ = layer("RNN", [(T, N, 5), (T, N), (N, 3)])
    w_xh, b_h, w_s, w_hh, w_ho, b_o = blobs = values(made)
    x, static = random(T, N, 5), random(N, 3, seed=2)
    cont = torch.tensor([[0.0, 0], [1, 0], [1, 1]])
    (top,) = made.forward([x, cont, static], blobs)
    h, outputs = torch.zeros(N, D), []
    for t in range(T):
        h = torch.tanh((cont[t][:, None] * h) @ w_hh.T + x[t] @ w_xh.T + b_h + static @ w_s.T)
        outputs.append(torch.tanh(h @ w_ho.T + b_o))
    torch.testing.assert_close(top, torch.stack(outputs), **OUTPUTS)


@pytest.mark.parametrize("type_", ["RNN", "LSTM"])
def test_two_passes_are_one_long_sequence(type_):
    x = random(2 * T, N, 5)
    whole, _ = layer(type_, [(2 * T, N, 5), (2 * T, N)])
    halves, _ = layer(type_, [(T, N, 5), (T, N)])
    blobs = values(halves)
    (expected,) = whole.forward([x, torch.ones(2 * T, N)], blobs)
    cont = torch.ones(T, N)
    found = torch.cat([halves.forward([part, cont], blobs)[0] for part in x.split(T)])
    torch.testing.assert_close(found, expected, **OUTPUTS)
    # A new sequence forgets the state.
    again = halves.forward([x[:T], torch.tensor([[0.0] * N, [1.0] * N, [1.0] * N])], blobs)[0]
    torch.testing.assert_close(again, expected[:T], **OUTPUTS)


@pytest.mark.parametrize(("type_", "num_states"), [("RNN", 1), ("LSTM", 2)])
def test_exposed_state(type_, num_states):
    state_shape = (1, N, D)
    shapes = [(T, N, 5), (T, N), *[state_shape] * num_states]
    made, tops = layer(type_, shapes, "expose_hidden: true", tops=1 + num_states)
    assert tops == [(T, N, D), *[state_shape] * num_states]
    assert made.no_gradient == {1, *range(2, 2 + num_states)}
    blobs = values(made)
    x, cont = random(2 * T, N, 5), torch.ones(T, N)
    states = [torch.zeros(state_shape)] * num_states
    outputs = []
    for part in x.split(T):
        top, *states = made.forward([part, cont, *states], blobs)
        outputs.append(top)
        assert not any(state.requires_grad for state in states)
    whole, _ = layer(type_, [(2 * T, N, 5), (2 * T, N)])
    (expected,) = whole.forward([x, torch.ones(2 * T, N)], blobs)
    torch.testing.assert_close(torch.cat(outputs), expected, **OUTPUTS)


def test_unit_keeps_the_original_gradient_where_cont_is_a_fraction():
    made, _ = layer("LSTMUnit", [(1, 1, 1), (1, 1, 4), (1, 1)], tops=2)
    cell, gates = torch.tensor([[[0.7]]], requires_grad=True), torch.zeros(1, 1, 4, requires_grad=True)
    c, h = made.forward([cell, gates, torch.tensor([[0.5]])], [])
    assert c.item() == pytest.approx(0.25 * 0.7, rel=ROUNDING)
    assert h.item() == pytest.approx(0.5 * np.tanh(0.175), rel=ROUNDING)
    c.sum().backward()
    assert cell.grad.item() == pytest.approx(0.25, rel=ROUNDING)
    # Gates i, f, o, g: f * (1 - f) with f = cont * sigmoid = 0.25, where the true derivative has 0.5 * 0.25.
    np.testing.assert_allclose(gates.grad[0, 0], [0, 0.7 * 0.25 * 0.75, 0, 0.5], rtol=ROUNDING)


def test_unit_forgets_an_overflown_cell():
    made, _ = layer("LSTMUnit", [(1, 2, 1), (1, 2, 4), (1, 2)], tops=2)
    c, _ = made.forward([torch.tensor([[[1.0], [1.0]]]), torch.zeros(1, 2, 4), torch.tensor([[0.0, 1.0]])], [])
    assert c.tolist() == [[[0.0], [0.5]]]


@pytest.mark.parametrize(
    ("type_", "shapes", "params", "tops", "code"),
    [
        ("LSTM", [(T, N), (T, N)], "", 1, "rank"),
        ("LSTM", [(T, N, 5), (N, T)], "", 1, "shape"),
        ("RNN", [(T, N, 5), (T, N), (N + 1, 3)], "", 1, "shape"),
        ("RNN", [(T, N, 5), (T, N), (N,)], "", 1, "shape"),
        ("LSTM", [(T, N, 5), (T, N), (1, N, D)], "expose_hidden: true", 3, "bottoms"),
        ("LSTM", [(T, N, 5), (T, N), (1, N, D), (1, N, D)], "expose_hidden: true", 1, "tops"),
        ("RNN", [(T, N, 5), (T, N), (1, N, D + 1)], "expose_hidden: true", 2, "shape"),
        ("RNN", [(T, N, 5), (T, N)], "num_output: 0", 1, "num-output"),
        ("LSTMUnit", [(1, 2, 3), (1, 2, 11), (1, 2)], "", 2, "shape"),
        ("LSTMUnit", [(2, 2, 3), (2, 2, 12), (2, 2)], "", 2, "shape"),
    ],
)
def test_refused(type_, shapes, params, tops, code):
    with pytest.raises(LayerError) as caught:
        layer(type_, shapes, params, tops)
    assert caught.value.code == f"layer.{code}"


@pytest.mark.parametrize(("shapes", "code"), [([(T + 1, N, 5), (T + 1, N)], "steps"), ([(T, N, 6), (T, N)], "shape")])
def test_reshape_refused(shapes, code):
    made, _ = layer("LSTM", [(T, N, 5), (T, N)])
    with pytest.raises(LayerError) as caught:
        made.reshape(shapes)
    assert caught.value.code == f"layer.{code}"


def test_macs():
    made, tops = layer("LSTM", [(T, N, 5), (T, N), (N, 7)])
    assert made.macs([(T, N, 5), (T, N), (N, 7)], tops) == N * (T * 16 * (5 + 4) + 16 * 7)
