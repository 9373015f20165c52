"""Fillers: the original's numbers for a seed, its refusals, and its arithmetic."""

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from pyscratchdet.errors import LayerError
from pyscratchdet.layers.base import Context, layer_class
from pyscratchdet.layers.fillers import fill
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom

RECORDED = Path(__file__).parent / "recorded_fillers"
SEED = 3  # of the recordings


def filler(text):
    return text_format.Parse(text, caffe_pb2.FillerParameter())


def filled(prototxt):
    """Returns {layer:index: values} of a net's weights, drawn layer by layer as the original builds it."""
    net = text_format.Parse(prototxt, caffe_pb2.NetParameter())
    context = Context(phase=caffe_pb2.TRAIN, random=CaffeRandom(SEED))
    shapes, values = {}, {}
    for param in net.layer:
        layer = layer_class(param.type)(param, context)
        bottoms = [shapes[name] for name in param.bottom]
        layer.setup(bottoms)
        shapes.update(zip(param.top, layer.reshape(bottoms), strict=True))
        for i, spec in enumerate(layer.blobs):
            first = np.full(spec.shape, spec.value, np.float32)
            values[f"{param.name}:{i}"] = fill(spec.filler, spec.shape, context.random) if spec.filler else first
    return values


@pytest.mark.parametrize("case", sorted(path.stem for path in RECORDED.glob("*.npz")))
def test_recorded(case):
    values = filled((RECORDED / f"{case}.prototxt").read_text())
    with np.load(RECORDED / f"{case}.npz") as arrays:
        recorded = {key[6:]: arrays[key] for key in arrays.files if key.startswith("param:")}
    assert values.keys() == recorded.keys()
    for name, expected in recorded.items():
        # The same draws; a last bit for the square roots.
        np.testing.assert_allclose(values[name], expected, rtol=1e-6, atol=0, err_msg=name)


@pytest.mark.parametrize(
    ("text", "shape", "code"),
    [
        ('type: "orthogonal"', (3, 2), "filler.type"),
        ('type: "uniform" sparse: 2', (3, 2), "filler.sparse"),
        ("sparse: 0", (3, 2), "filler.sparse"),
        ('type: "gaussian" sparse: -2', (3, 2), "filler.sparse"),
        ('type: "gaussian" sparse: 4', (3, 2), "filler.sparse"),
        ('type: "gaussian" std: 0', (3, 2), "filler.std"),
        ('type: "uniform" min: 2 max: 1', (3, 2), "filler.range"),
        ('type: "bilinear"', (7, 6), "filler.shape"),
        ('type: "bilinear"', (4, 1, 1, 3), "filler.shape"),
        ('type: "xavier"', (2, 3, 1, 4, 5), "filler.shape"),
        ("value: 1", (3, 0), "filler.empty"),
    ],
)
def test_refused(text, shape, code):
    with pytest.raises(LayerError) as caught:
        fill(filler(text), shape, CaffeRandom(1))
    assert caught.value.code == code


def test_misspelt_type_gets_a_hint():
    with pytest.raises(LayerError, match='did you mean "xavier"'):
        fill(filler('type: "Xavir"'), (3, 2), CaffeRandom(1))


@pytest.mark.parametrize("text", ["value: 0.25", 'type: "bilinear"'])
def test_what_is_not_random_draws_nothing(text):
    random = CaffeRandom(5)
    fill(filler(text), (2, 3, 4, 4), random)
    assert random.raw(3).tolist() == CaffeRandom(5).raw(3).tolist()


@pytest.mark.parametrize(("norm", "fan"), [("FAN_IN", 3 * 4 * 5), ("FAN_OUT", 2 * 4 * 5), ("AVERAGE", 50)])
def test_variance_norm(norm, fan):
    values = fill(filler(f'type: "xavier" variance_norm: {norm}'), (2, 3, 4, 5), CaffeRandom(7))
    draws = CaffeRandom(7).uniform(-1, 1, 120).reshape(2, 3, 4, 5)
    # The scale multiplies a draw that is rounded once more.
    np.testing.assert_allclose(values, draws * np.sqrt(3 / fan), rtol=1e-5, atol=1e-7)


def test_rank_one_counts_as_one_channel():
    values = fill(filler('type: "xavier"'), (6,), CaffeRandom(7))
    np.testing.assert_array_equal(values, CaffeRandom(7).uniform(-np.sqrt(np.float32(3)), np.sqrt(np.float32(3)), 6))


def test_positive_unitball_rows_add_up_to_one():
    values = fill(filler('type: "positive_unitball"'), (3, 5, 2), CaffeRandom(2))
    assert (values >= 0).all()
    # Ten float32 additions.
    np.testing.assert_allclose(values.reshape(3, -1).sum(1), 1, rtol=1e-6)


def test_sparse_keeps_some_inputs():
    values = fill(filler('type: "gaussian" std: 2 sparse: 1'), (4, 500), CaffeRandom(2))
    # 2000 draws with p = 1/4: five standard deviations are 97.
    assert abs(np.count_nonzero(values) - 500) < 97


def test_bilinear_of_size_four():
    values = fill(filler('type: "bilinear"'), (3, 1, 4, 4), CaffeRandom(2))
    row = np.array([0.25, 0.75, 0.75, 0.25], np.float32)
    np.testing.assert_array_equal(values, np.broadcast_to(row[:, None] * row, (3, 1, 4, 4)))
