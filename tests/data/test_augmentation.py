"""AnnotatedData against batches recorded from the original with the same random seed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format

from pyscratchdet.data.database import new_database
from pyscratchdet.data.images import encode
from pyscratchdet.errors import DataError, FileError, UsageError
from pyscratchdet.layers.base import Context, layer_class
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.weights import write_blob
from pyscratchdet.rng import CaffeRandom

RECORDED = Path(__file__).parent / "recorded"
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
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


RANDOM = "mirror: true expand_param { prob: 0.5 max_expand_ratio: 3 } distort_param { random_order_prob: 0.7 }"


@pytest.mark.parametrize("options", [{}, {"rank": 1, "world_size": 2}, {"fast": True, "workers": 0}])
def test_state_resumes_inside_a_round(options):
    """Ten pictures into the first round of 24, in plain JSON."""
    first, second = (make(text(RANDOM), **options) for _ in range(2))
    assert first.state is None
    for _ in range(3):
        first.forward([], [])
    second.state = json.loads(json.dumps(first.state))
    for _ in range(7):
        for a, b in zip(first.forward([], []), second.forward([], []), strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_state_of_the_other_mode():
    fast = make(text(RANDOM), fast=True, workers=0)
    fast.forward([], [])
    with pytest.raises(UsageError) as caught:
        make(text(RANDOM)).state = fast.state
    assert caught.value.code == "data.resume"


@pytest.mark.parametrize("fast", [False, True])
def test_processes_share_the_records(fast):
    """As in data_reader.cpp: solver r of n takes records r, r + n, ...; a test net reads them all."""
    options = {"fast": fast, "workers": 0}
    whole = make(text(), **options)
    rows = [whole.forward([], [])[1].numpy()[0, 0] for _ in range(4)]
    records = [part[part[:, 0] == item, 1:] for part in rows for item in range(3)]
    for rank in range(3):
        layer = make(text(), rank=rank, world_size=3, **options)
        found = layer.forward([], [])[1].numpy()[0, 0, :, 1:]
        np.testing.assert_array_equal(found, np.concatenate(records[rank:9:3]))
    context = Context(phase=caffe_pb2.TEST, random=CaffeRandom(1), options={**options, "rank": 1, "world_size": 3})
    layer = layer_class("AnnotatedData")(read_layer(text()), context)
    layer.setup([])
    np.testing.assert_array_equal(layer.forward([], [])[1].numpy()[0, 0], rows[0])


@pytest.mark.parametrize("transform", ["scale: 0.25", "crop_size: 23", "mean_file", "mean_file scale"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_fast_mode_subtracts_the_mean_on_its_device(device, transform, tmp_path):
    """Without anything random both modes give the same numbers; the fast one's lie channels last."""
    net = text(transform)
    if "mean_file" in transform:
        mean = np.random.default_rng(3).uniform(90, 120, (3, 30, 41)).astype(np.float32)
        write_blob(tmp_path / "mean", mean[None])
        net = text(f'mean_file: "{tmp_path}/mean" crop_size: 23 {"scale: 0.017" if "scale" in transform else ""}')
        net = net.replace("mean_value: 104 ", "")
    context = {"fast": True, "workers": 0, "device": device}
    param = read_layer(net)
    layers = []
    for options in ({}, context):
        layers.append(layer_class("AnnotatedData")(param, Context(caffe_pb2.TEST, CaffeRandom(1), options=options)))
        layers[-1].setup([])
    exact, fast = (layer.forward([], [])[0] for layer in layers)
    assert fast.device.type == device
    assert fast.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(fast.cpu().numpy(), exact.numpy())


def test_scale_follows_the_mean():
    plain, scaled = make(text()), make(text("scale: 0.25"))
    np.testing.assert_array_equal(plain.forward([], [])[0].numpy() * 0.25, scaled.forward([], [])[0].numpy())


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("shape", "more", "is_right"),
    [
        ((3, 30, 41), "", True),
        ((3, 30, 41), "crop_size: 23", True),
        ((3, 23, 23), "crop_size: 23", True),  # as the fork asks of encoded records
        ((3, 31, 41), "", False),
        ((3, 60, 82), "", False),  # larger: its corner was taken
        ((3, 60, 82), "crop_size: 23", False),
        ((3, 25, 25), "crop_size: 23", False),
        ((1, 30, 41), "", False),
    ],
)
def test_a_mean_file_fits_the_resized_picture(tmp_path, fast, shape, more, is_right):
    write_blob(tmp_path / "mean", np.ones((1, *shape), np.float32))
    net = text(f'mean_file: "{tmp_path}/mean" {more}').replace("mean_value: 104 ", "")
    layer = make(net, fast=fast, workers=0)
    if is_right:
        layer.forward([], [])
        return
    with pytest.raises(DataError, match=f"expected 3x30x41 and found {'x'.join(map(str, shape))}") as caught:
        layer.forward([], [])
    assert caught.value.code == "data.mean"


def test_shapes_need_no_mean_file():
    layer = make(text('mean_file: "nowhere.binaryproto"').replace("mean_value: 104 ", ""))
    assert layer.reshape([])[0] == (3, 3, 30, 41)
    with pytest.raises(FileError, match=r"nowhere\.binaryproto"):
        layer.forward([], [])


@pytest.mark.parametrize("fast", [False, True])
def test_distortions_of_gray_pictures(tmp_path, fast):
    """Brightness and contrast are applied, as in the original; what needs colours ends there in OpenCV's exception."""
    with new_database(tmp_path / "gray") as writer:
        for index in range(3):
            image = np.random.default_rng(index).integers(60, 90, (30, 41, 1), np.uint8)
            datum = caffe_pb2.Datum(channels=1, height=30, width=41, encoded=True, data=encode(image, "png"))
            record = caffe_pb2.AnnotatedDatum(datum=datum, type=caffe_pb2.AnnotatedDatum.BBOX)
            writer.put(f"{index:08d}", record.SerializeToString())
    source = str(tmp_path / "gray")
    contrast = "contrast_prob: 1 contrast_lower: 1.1 contrast_upper: 1.5"
    simple = f"distort_param {{ brightness_prob: 1 brightness_delta: 32 {contrast} }}"
    plain = make(text("force_gray: true", source=source), fast=fast, workers=0)
    layer = make(text(f"{simple} force_gray: true", source=source), fast=fast, workers=0)
    before, after = (each.forward([], [])[0].numpy() for each in (plain, layer))
    assert before.shape == after.shape == (3, 1, 30, 41)
    assert (before != after).any()
    for field in ("saturation_prob: 1 saturation_lower: 0.5 saturation_upper: 1.5", "hue_prob: 1 hue_delta: 9",
                  "random_order_prob: 1"):  # fmt: skip
        net = text(f"distort_param {{ {field} }}", source=source)
        with pytest.raises(DataError, match="is gray, but distort_param") as caught:
            make(net, fast=fast, workers=0).forward([], [])
        assert caught.value.code == "data.gray"
        colour = make(net.replace("distort_param", "force_color: true distort_param"), fast=fast, workers=0)
        assert colour.forward([], [])[0].shape == (3, 3, 30, 41)


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
