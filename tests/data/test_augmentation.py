"""AnnotatedData against batches recorded from the original with the same random seed."""

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from pyscratchdet.layers.base import Context, layer_class
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom

RECORDED = Path(__file__).parent / "recorded"
CASES = sorted(path.name for path in (RECORDED / "augment").iterdir())


def read_layer(text: str) -> caffe_pb2.LayerParameter:
    return text_format.Parse(text, caffe_pb2.NetParameter()).layer[0]


@pytest.mark.parametrize("case", CASES)
def test_recorded_batches(case, monkeypatch):
    monkeypatch.chdir(RECORDED)
    recorded = np.load(f"augment/{case}/batches.npz")
    param = read_layer(Path(f"augment/{case}/train.prototxt").read_text())
    context = Context(phase=param.include[0].phase, random=CaffeRandom(int(recorded["seed"])))
    layer = layer_class("AnnotatedData")(param, context)
    layer.setup([])
    assert layer.reshape([])[0][1] == 3
    for batch in range(sum(name.startswith("label") for name in recorded.files)):
        data, label = (top.numpy() for top in layer.forward([], []))
        # float32 corners that the original computed with another compiler: the last bits.
        np.testing.assert_allclose(label, recorded[f"label:{batch}"], atol=2e-6)
        if f"data:{batch}" in recorded:
            expected = recorded[f"data:{batch}"]
            # Codecs and resizing differ by a rounding step between OpenCV versions; a wrong crop differs by tens.
            assert np.abs(data[: len(expected)] - expected).mean() < 0.5


def make(text: str, seed: int = 1, **options):
    layer = layer_class("AnnotatedData")(
        read_layer(text), Context(phase=caffe_pb2.TRAIN, random=CaffeRandom(seed), options=options)
    )
    layer.setup([])
    return layer


TEMPLATE = """layer {{ name: "data" type: "AnnotatedData" top: "data" top: "label"
  transform_param {{ mean_value: 104 resize_param {{ height: 30 width: 41 }} {transform} }}
  data_param {{ source: "{source}" batch_size: 3 backend: LMDB {data} }} }}"""


def text(transform: str = "", data: str = "", source: str = str(RECORDED / "lmdb")) -> str:
    return TEMPLATE.format(transform=transform, data=data, source=source)


def test_shapes_without_a_database():
    assert make(text(source="nowhere")).reshape([]) == [(3, 3, 30, 41), (1, 1, 1, 8)]
    assert make(text("crop_size: 23", source="nowhere")).reshape([])[0] == (3, 3, 23, 23)


@pytest.mark.parametrize(("transform", "draws"), [("", 2), ("mirror: true", 4), ("crop_size: 23", 4)])
def test_setup_draws_what_the_original_draws(transform, draws):
    layer = make(text(transform), seed=29)
    reference = CaffeRandom(29)
    reference.raw(draws)
    assert layer.context.random.integer() == reference.integer()


def test_skipping_is_forwarding():
    first, second = (make(text("mirror: true expand_param { prob: 0.5 max_expand_ratio: 3 }")) for _ in range(2))
    for _ in range(3):
        first.forward([], [])
    second.skip(3)
    for a, b in zip(first.forward([], []), second.forward([], []), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_scale_follows_the_mean():
    plain, scaled = make(text()), make(text("scale: 0.25"))
    np.testing.assert_array_equal(plain.forward([], [])[0].numpy() * 0.25, scaled.forward([], [])[0].numpy())


def test_rand_skip_starts_inside():
    skipped = CaffeRandom(31).integer() % 11
    layer = make(text(data="rand_skip: 11"), seed=31)
    reference = make(text())
    rows = np.concatenate([reference.forward([], [])[1].numpy()[0, 0] for _ in range(5)])
    assert skipped < 12
    records = np.split(rows[:, 1:], np.flatnonzero(np.diff(rows[:, 0])) + 1)
    np.testing.assert_array_equal(
        layer.forward([], [])[1].numpy()[0, 0][:, 1:], np.concatenate(records[skipped : skipped + 3])
    )
