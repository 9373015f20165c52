"""Top shapes are known without a tensor, and forward keeps to them."""

import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest
import torch
from harness import make_layer
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layer_cases import CASES, case_id
from layer_values import build, values

from pyscratchdet.errors import LayerError

sizes = st.integers(1, 13)
small = st.integers(1, 5)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_forward_gives_the_shapes_of_reshape(case):
    layer, shapes = build(case)
    bottoms, blobs = values(case, layer, case.bottoms)
    tops = layer.forward(bottoms, blobs)
    assert [tuple(top.shape) for top in tops] == [tuple(shape) for shape in shapes]
    assert all(top.dtype == torch.float32 for top in tops)


@pytest.mark.parametrize("case", [case for case in CASES if case.dynamic and len(case.bottoms) == 1], ids=case_id)
def test_another_batch_size_after_reshape(case):
    bottoms = tuple((3, *shape[1:]) for shape in case.bottoms)
    layer, shapes = build(case, bottoms)
    inputs, blobs = values(case, layer, bottoms)
    assert [tuple(top.shape) for top in layer.forward(inputs, blobs)] == [tuple(shape) for shape in shapes]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_bottoms_are_left_alone(case):
    layer, _ = build(case)
    bottoms, blobs = values(case, layer, case.bottoms)
    before = [bottom.clone() for bottom in bottoms]
    layer.forward(bottoms, blobs)
    assert all(torch.equal(bottom, copy) for bottom, copy in zip(bottoms, before, strict=True))


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_any_bottoms_are_refused_or_give_the_shapes_of_reshape(case):
    random = Random(3)
    for _ in range(20):
        shape = tuple(random.randint(0, 6) for _ in range(random.randint(0, 5)))
        bottoms = (shape,) * len(case.bottoms)
        try:
            layer, shapes = build(replace(case, bottoms=bottoms))
        except LayerError:
            continue
        inputs, blobs = values(case, layer, bottoms)
        assert [tuple(top.shape) for top in layer.forward(inputs, blobs)] == [tuple(shape) for shape in shapes]


def closed_form(size, kernel, stride, pad, any_pad):
    """The original's number of windows, as its source computes it."""
    number = -(-(size + 2 * pad - kernel) // stride) + 1
    if any_pad and (number - 1) * stride >= size + pad:
        number -= 1
    return number


@settings(max_examples=100, deadline=None)
@given(st.tuples(sizes, sizes), st.tuples(small, small), st.tuples(small, small), st.tuples(*[st.integers(0, 4)] * 2))
def test_pooling(size, kernel, stride, pad):
    assume(all(p < k for p, k in zip(pad, kernel, strict=True)))
    expected = tuple(closed_form(*v, any(pad)) for v in zip(size, kernel, stride, pad, strict=True))
    assume(min(expected) > 0)
    for method in ("MAX", "AVE"):
        text = (
            f'name: "p" type: "Pooling" top: "t" pooling_param {{ pool: {method} kernel_h: {kernel[0]} '
            f"kernel_w: {kernel[1]} stride_h: {stride[0]} stride_w: {stride[1]} pad_h: {pad[0]} pad_w: {pad[1]} }}"
        )
        layer, shapes = make_layer(text, [(2, 3, *size)])
        top = layer.forward([torch.randn(2, 3, *size)], ())[0]
        assert shapes == [(2, 3, *expected)]
        assert top.shape == shapes[0]
        assert top.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(sizes, small, small, st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=3))
def test_convolution_and_back(axes):
    fields = ("kernel_size", "stride", "pad", "dilation")
    text = " ".join(f"{name}: {axis[i + 1]}" for i, name in enumerate(fields) for axis in axes)
    spatial = tuple(axis[0] for axis in axes)
    bottom = torch.randn(2, 3, *spatial)
    extents = [d * (k - 1) + 1 for _, k, _, _, d in axes]
    expected = tuple((s + 2 * p - e) // st + 1 for (s, _, st, p, _), e in zip(axes, extents, strict=True))
    back = tuple(st * (s - 1) + e - 2 * p for (s, _, st, p, _), e in zip(axes, extents, strict=True))
    fits = {
        "Convolution": all(s + 2 * p >= e for (s, _, _, p, _), e in zip(axes, extents, strict=True)),
        "Deconvolution": min(back) > 0,
    }
    for type_, shape in (("Convolution", expected), ("Deconvolution", back)):
        param = f'name: "c" type: "{type_}" top: "t" convolution_param {{ num_output: 4 {text} }}'
        if not fits[type_]:
            with pytest.raises(LayerError):
                make_layer(param, [bottom.shape])
            continue
        layer, shapes = make_layer(param, [tuple(bottom.shape)])
        top = layer.forward([bottom], [torch.randn(spec.shape) for spec in layer.blobs])[0]
        assert shapes == [(2, 4, *shape)]
        assert top.shape == shapes[0]


def test_setting_up_layers_needs_no_torch():
    code = (
        "import sys, pyscratchdet.layers as l; from pyscratchdet.layers.base import Context;"
        "from pyscratchdet.proto import caffe_pb2 as pb; from google.protobuf import text_format as tf\n"
        "for text, shape in CASES:\n"
        "    p = tf.Parse(text, pb.LayerParameter(name='n', top=['t'], bottom=['b']))\n"
        "    layer = l.layer_class(p.type)(p, Context()); layer.setup([shape]); layer.reshape([shape])\n"
        "assert 'torch' not in sys.modules"
    )
    cases = [(case.text, case.bottoms[0]) for case in CASES if len(case.bottoms) == 1 and case.tops == 1]
    subprocess.run([sys.executable, "-c", f"CASES = {cases!r}\n{code}"], check=True)
