"""Gradients of RNN and LSTM in float64 against torch.nn's, which know no continuation markers: each item's sequences
are cut at its markers there, and run one by one.
"""

from itertools import pairwise

import harness
import numpy as np
import pytest
import torch

T, N, INPUT, STATIC, D = 7, 3, 5, 2, 4
# A marker of 0 starts a new sequence: in the middle, twice in a row, at the end; the third item is one sequence.
CONT = torch.tensor(
    [[0, 1, 1, 0, 1, 1, 1], [0, 1, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1]], dtype=torch.float64
).T.contiguous()
GATES = [0, 1, 3, 2]  # i, f, o, g -> i, f, g, o
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}  # float64: another order of summation


def make(type_, static):
    shapes = [(T, N, INPUT), (T, N)] + [(N, STATIC)] * static
    bottoms = "".join(f' bottom: "b{i}"' for i in range(len(shapes)))
    filler = '{ type: "uniform" min: -0.8 max: 0.8 }'
    param = f"recurrent_param {{ num_output: {D} weight_filler {filler} bias_filler {filler} }}"
    return harness.make_layer(f'name: "l" type: "{type_}"{bottoms} top: "t" {param}', shapes)[0]


def leaf(array):
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def sequences(module, x):
    """Runs torch's module over every item's sequences, each from a state of zeros; returns (T, N, D)."""
    items = []
    for n in range(N):
        starts = [0, *(t for t in range(1, T) if CONT[t, n] == 0), T]
        parts = [module(x[start:end, n])[0] for start, end in pairwise(starts)]
        items.append(torch.cat(parts))
    return torch.stack(items, 1)


def reference(type_, x, static, blobs):
    """The output with torch's own recurrence, from the layer's blobs by name."""
    if static is not None:
        x = torch.cat([x, static.expand(T, N, STATIC)], 2)
    names = list(blobs)
    of_x = [blobs[name] for name in names if name.startswith("W_x")]
    of_h = blobs["W_hc" if type_ == "LSTM" else "W_hh"]
    weights = {"weight_ih_l0": torch.cat(of_x, 1), "bias_ih_l0": blobs[names[1]], "weight_hh_l0": of_h}
    weights["bias_hh_l0"] = torch.zeros_like(blobs[names[1]])
    if type_ == "LSTM":
        weights = {name: w.unflatten(0, (4, D))[GATES].flatten(0, 1) for name, w in weights.items()}
    module = getattr(torch.nn, type_)(x.shape[2], D, dtype=torch.float64)
    hidden = sequences(lambda part: torch.func.functional_call(module, weights, (part,)), x)
    if type_ == "LSTM":
        return hidden
    return torch.tanh(hidden @ blobs["W_ho"].T + blobs["b_o"])


@pytest.mark.parametrize("has_static", [False, True])
@pytest.mark.parametrize("type_", ["RNN", "LSTM"])
def test_gradients_are_those_of_torch(type_, has_static):
    layer, random = make(type_, has_static), np.random.default_rng(5)
    x, static = leaf(random.normal(size=(T, N, INPUT))), leaf(random.normal(size=(N, STATIC)))
    blobs = {spec.role: leaf(spec.value) for spec in layer.blobs}
    wanted = [x, *[static] * has_static, *blobs.values()]
    (found,) = layer.forward([x, CONT, *[static] * has_static], list(blobs.values()))
    expected = reference(type_, x, static if has_static else None, blobs)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    top_diff = torch.tensor(random.normal(size=found.shape))
    theirs = torch.autograd.grad(expected, wanted, top_diff)
    for mine, gradient in zip(torch.autograd.grad(found, wanted, top_diff), theirs, strict=True):
        assert gradient.norm() > 0.1
        torch.testing.assert_close(mine, gradient, **TOLERANCE)


@pytest.mark.parametrize("has_static", [False, True])
@pytest.mark.parametrize("type_", ["RNN", "LSTM"])
def test_finite_differences(type_, has_static):
    layer, random = make(type_, has_static), np.random.default_rng(6)
    bottoms = [leaf(random.normal(size=(T, N, INPUT))), *[leaf(random.normal(size=(N, STATIC)))] * has_static]
    blobs = [leaf(spec.value) for spec in layer.blobs]

    def forward(x, *rest):
        layer.state = []  # otherwise a pass goes on where the last one ended
        return layer.forward([x, CONT, *rest[:has_static]], rest[has_static:])[0]

    assert torch.autograd.gradcheck(forward, (*bottoms, *blobs), fast_mode=True)
