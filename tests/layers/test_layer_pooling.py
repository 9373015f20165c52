"""Pooling against the original's loops, written out: values, masks and gradients, ties and wide padding included."""

import numpy as np
import pytest
import torch
from harness import make_layer
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pyscratchdet.errors import LayerError

pairs = st.tuples(st.integers(1, 5), st.integers(1, 5))
FLOAT_TOLERANCE = 1e-6  # sums of at most 25 values below 10


def windows(size, kernel, stride, pad, number):
    """For each window along one axis: its real pixels, and its length up to the image plus padding."""
    for index in range(number):
        start = index * stride - pad
        end = min(start + kernel, size + pad)
        yield range(max(start, 0), max(0, min(end, size))), end - start


def pool(bottom, gradient, shape, kernel, stride, pad, method):
    """Top, mask and bottom gradient of one (H, W) picture, by the original's loops; empty windows give 0 and -1."""
    top, mask, diff = np.zeros(shape), np.full(shape, -1.0), np.zeros(bottom.shape)
    axes = [list(windows(*values)) for values in zip(bottom.shape, kernel, stride, pad, shape, strict=True)]
    for i, (rows, height) in enumerate(axes[0]):
        for j, (columns, width) in enumerate(axes[1]):
            places = [(h, w) for h in rows for w in columns]
            if not places:
                continue
            if method == "AVE":
                top[i, j] = sum(bottom[place] for place in places) / (height * width)
                for place in places:
                    diff[place] += gradient[i, j] / (height * width)
            else:
                best = max(places, key=lambda place: bottom[place])  # the first of equals
                top[i, j], mask[i, j] = bottom[best], best[0] * bottom.shape[1] + best[1]
                diff[best] += gradient[i, j]
    return top, mask, diff


ROUNDING = {"CEIL": "", "FLOOR": "round_mode: FLOOR", "floor": "ceil_mode: false"}


@pytest.mark.parametrize("rounding", ROUNDING)
@pytest.mark.parametrize("method", ["MAX", "AVE"])
@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), pairs, pairs, st.tuples(st.integers(0, 4), st.integers(0, 4)))
@example((8, 6), (1, 1), (2, 2), (0, 0))  # last windows beyond the image, without padding
@example((7, 5), (3, 5), (2, 1), (2, 4))  # padding of more than half the kernel
@example((7, 5), (3, 2), (4, 3), (2, 0))  # padding on one axis drops last windows on both
@example((3, 4), (5, 5), (5, 3), (0, 0))  # a kernel larger than the image
def test_against_loops(method, rounding, size, kernel, stride, pad):
    assume(all(p < k for p, k in zip(pad, kernel, strict=True)))
    rounded = np.ceil if rounding == "CEIL" else np.floor
    rooms = [n + 2 * p - k for n, k, p in zip(size, kernel, pad, strict=True)]
    number = [int(rounded(room / s)) + 1 for room, s in zip(rooms, stride, strict=True)]
    assume(min(number) > 1 or (min(number) == 1 and not any(pad)))
    fields = zip(("kernel", "stride", "pad"), (kernel, stride, pad), strict=True)
    text = " ".join(f"{name}_h: {values[0]} {name}_w: {values[1]}" for name, values in fields)
    tops = 'top: "t" top: "mask"' if method == "MAX" else 'top: "t"'
    layer, shapes = make_layer(
        f'name: "p" type: "Pooling" {tops} pooling_param {{ pool: {method} {text} {ROUNDING[rounding]} }}',
        [(2, 3, *size)],
    )
    assert rounding == "CEIL" or shapes[0][2:] == tuple(number)
    random = np.random.default_rng(5)
    values = random.integers(-3, 4, (2, 3, *size)).astype(np.float32)  # many equal ones
    gradient = random.standard_normal(shapes[0]).astype(np.float32)
    bottom = torch.tensor(values, requires_grad=True)
    found = layer.forward([bottom], ())
    found[0].backward(torch.tensor(gradient))
    for n, c in np.ndindex(2, 3):
        top, mask, diff = pool(values[n, c], gradient[n, c], shapes[0][2:], kernel, stride, pad, method)
        np.testing.assert_allclose(found[0].detach()[n, c], top, rtol=0, atol=FLOAT_TOLERANCE)
        # The gradients of overlapping windows add up in another order.
        np.testing.assert_allclose(bottom.grad[n, c], diff, rtol=0, atol=10 * FLOAT_TOLERANCE)
        if method == "MAX":
            np.testing.assert_array_equal(found[1][n, c], mask)


def test_one_top_and_two_tops_agree():
    text = 'name: "p" type: "Pooling" top: "t" {} pooling_param {{ kernel_size: 4 stride: 3 pad: 3 }}'
    bottom = torch.randn(2, 3, 8, 7)
    (top,) = make_layer(text.format(""), [(2, 3, 8, 7)])[0].forward([bottom], ())
    other, mask = make_layer(text.format('top: "m"'), [(2, 3, 8, 7)])[0].forward([bottom], ())
    assert torch.equal(top, other)
    assert torch.equal(bottom.flatten(2).gather(2, mask.flatten(2).long()), top.flatten(2))


def test_stochastic_in_training_draws_values_of_the_window_by_their_size():
    layer, _ = make_layer(
        'name: "p" type: "Pooling" top: "t" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }',
        [(1, 1, 2, 40000)],
    )
    column = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    bottom = column.repeat(1, 20000).view(1, 1, 2, 40000).requires_grad_()
    (top,) = layer.forward([bottom], ())
    assert set(top.flatten().tolist()) == {1.0, 3.0}
    # 20000 draws with probability 3/4: a standard deviation is 0.003.
    assert float((top == 3).float().mean()) == pytest.approx(0.75, abs=0.015)
    top.sum().backward()
    assert bottom.grad.sum() == 20000


def test_stochastic_in_testing_weighs_values_by_themselves():
    text = 'name: "p" type: "Pooling" top: "t" pooling_param { pool: STOCHASTIC kernel_size: 2 }'
    layer, _ = make_layer(text, [(1, 1, 2, 3)], phase=1)
    (top,) = layer.forward([torch.tensor([[[[1.0, 3.0, 0.0], [0.0, 4.0, 0.0]]]])], ())
    torch.testing.assert_close(top, torch.tensor([[[[26 / 8, 25 / 7]]]]))


def test_both_fields_for_rounding():
    text = (
        'name: "p" type: "Pooling" top: "t" pooling_param {{ kernel_size: 3 stride: 2 round_mode: {} ceil_mode: {} }}'
    )
    assert make_layer(text.format("FLOOR", "false"), [(2, 3, 8, 6)])[1] == [(2, 3, 3, 2)]
    assert make_layer(text.format("CEIL", "true"), [(2, 3, 8, 6)])[1] == [(2, 3, 4, 3)]
    with pytest.raises(LayerError) as caught:
        make_layer(text.format("FLOOR", "true"), [(2, 3, 8, 6)])
    assert caught.value.code == "layer.round"


def test_only_the_mean_of_a_large_window_sums_many():
    text = 'name: "p" type: "Pooling" top: "t" pooling_param { pool: %s global_pooling: true }'
    mean, _ = make_layer(text % "AVE", [(1, 2, 32, 32)])
    assert mean.sums_many
    mean.reshape([(1, 2, 31, 33)])
    assert not mean.sums_many
    assert not make_layer(text % "MAX", [(1, 2, 32, 32)])[0].sums_many


def test_global_pooling_follows_the_image():
    layer, shapes = make_layer(
        'name: "p" type: "Pooling" top: "t" pooling_param { global_pooling: true }', [(2, 3, 4, 5)]
    )
    assert shapes == layer.reshape([(2, 3, 7, 6)]) == [(2, 3, 1, 1)]
    bottom = torch.randn(2, 3, 7, 6)
    assert torch.equal(layer.forward([bottom], ())[0].flatten(1), bottom.amax((2, 3)))
