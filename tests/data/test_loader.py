"""Fast loading: the exact path's pixels under the same plan, and the same batches for any number of workers."""

import os
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from pyscratchdet.data import fast, pixels
from pyscratchdet.data.counter import CounterRandom, hashes, picture_keys
from pyscratchdet.data.database import Database, new_database
from pyscratchdet.data.fast_sampling import FastSampler
from pyscratchdet.data.loader import BatchLoader
from pyscratchdet.data.maker import BatchMaker, Job
from pyscratchdet.data.objects import Objects, objects_of
from pyscratchdet.data.plan import Planner, Streams, original_windows
from pyscratchdet.data.records import Records, annotated_of
from pyscratchdet.data.transform import DataTransformer
from pyscratchdet.errors import DataError, UsageError
from pyscratchdet.layers.base import Context, layer_class
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom

LMDB = Path(__file__).parent / "recorded" / "lmdb"
SAMPLER = """batch_sampler { sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
  sample_constraint { %s } max_sample: 1 max_trials: 50 } """
SSD = """name: "data" type: "AnnotatedData" top: "data" top: "label"
transform_param { mirror: true mean_value: 104 mean_value: 117 mean_value: 123
  resize_param { height: 57 width: 64 interp_mode: LINEAR interp_mode: AREA interp_mode: NEAREST interp_mode: CUBIC
    interp_mode: LANCZOS4 }
  distort_param { brightness_prob: 0.5 brightness_delta: 32 contrast_prob: 0.5 contrast_lower: 0.5 contrast_upper: 1.5
    hue_prob: 0.5 hue_delta: 18 saturation_prob: 0.5 saturation_lower: 0.5 saturation_upper: 1.5
    random_order_prob: 0.3 }
  expand_param { prob: 0.5 max_expand_ratio: 4 } emit_constraint { emit_type: CENTER } }
data_param { source: "LMDB" batch_size: 3 backend: LMDB }
annotated_data_param { batch_sampler { max_sample: 1 max_trials: 1 } SAMPLERS }"""
SSD = SSD.replace('"LMDB"', f'"{LMDB}"').replace(
    "SAMPLERS", "".join(SAMPLER % f"min_jaccard_overlap: {value}" for value in (0.1, 0.5, 0.9))
)


def layer_param(text: str = SSD) -> caffe_pb2.LayerParameter:
    return text_format.Parse(text, caffe_pb2.LayerParameter())


def test_pixels_are_the_exact_paths():
    """Without the JPEGs in between, the two differ by rounding, by part of a source pixel at a pasted picture, and by
    distorting after the resizing where that leaves fewer pixels.
    """
    param = layer_param()
    transformer = DataTransformer(param.transform_param)
    planner = Planner(param.transform_param, param.annotated_data_param.batch_sampler, is_train=True)
    records, differences = Records(str(LMDB)), []
    for index in range(144):
        record = records.at(index).annotated()
        image = transformer.decode_datum(record.datum, "record")
        random = CaffeRandom(1000 + index)
        objects = objects_of([record], ["record"])
        (plan,), _ = planner.draw([Streams(random, random, random)], objects, [image.shape[:2]])
        output = np.empty((57, 64, 3), np.uint8)
        exact = transformer.render(image, plan, is_encoded=False)
        fast.render(transformer, image, plan, output)
        differences.append(np.abs(transformer.normalize(output, plan.place) - exact).mean())
    # Levels of 255, where the exact path's JPEGs alone change 1 to 2; in the worst picture a small pasted one is shrunk
    # out of step by 0.1 pixels.
    assert np.mean(differences) < 0.5
    assert np.median(differences) < 0.4
    assert np.max(differences) < 4


def test_each_fast_step_is_the_exact_one():
    """Distortion alone and each resizing alone."""
    random = np.random.default_rng(7)
    image = random.integers(0, 256, (41, 53, 3), np.uint8)
    image[:20] = pixels.resize(image, caffe_pb2.ResizeParameter(height=20, width=53), None)  # not only noise
    for delta, factor in ((-21.3, 0.61), (17.8, 1.49), (0.4, 1.0)):
        names = {"brightness": delta, "contrast": factor, "order": (2, 0, 1), "saturation": factor, "hue": delta}
        for distortions in ([each] for each in names.items()):
            difference = np.abs(
                fast.distort(image.copy(), distortions).astype(int) - pixels.distort(image, distortions)
            )
            # OpenCV's way back from HSV rounds differently at the end of a row and before.
            assert difference.max() <= (distortions[0][0] in ("saturation", "hue")), distortions
    for interpolation in range(1, 6):
        for height, width in ((29, 37), (60, 71), (30, 70)):
            output = np.empty((height, width, 3), np.uint8)
            fast.resize(image, interpolation, output)
            param = caffe_pb2.ResizeParameter(height=height, width=width)
            exact = pixels.resize(image, param, interpolation)
            # OpenCV's LANCZOS4 of uint8 has coefficients of 11 bits; areas may round the other way.
            assert np.abs(output.astype(int) - exact).max() <= 1


def test_records_that_lie_about_their_size(tmp_path):
    """The plan is drawn from the sizes that the records tell; where the picture has another, its own counts."""
    with new_database(tmp_path / "db") as writer:
        for index, (key, value) in enumerate(Database(LMDB)):
            record = annotated_of(value, "record")
            if index % 3:
                record.datum.height, record.datum.width = (0, 0) if index % 3 == 1 else (50, 60)
            writer.put(key.decode(), record.SerializeToString())
    param = layer_param(SSD.replace(str(LMDB), str(tmp_path / "db")).replace("batch_size: 3", "batch_size: 24"))
    honest = layer_param(SSD.replace("batch_size: 3", "batch_size: 24"))
    (data, label, _), (expected, expected_label, _) = (
        BatchLoader(each, seed=2, workers=0).next() for each in (param, honest)
    )
    np.testing.assert_array_equal(label, expected_label)
    np.testing.assert_array_equal(data, expected)


def test_counted_numbers():
    keys = picture_keys(3, range(5))
    numbers = hashes(keys, 40)
    assert len(np.unique(numbers)) == 200
    np.testing.assert_array_equal(hashes(keys, 7, start=33), numbers[:, 33:])
    for key, random in zip(keys, CounterRandom.of(keys), strict=True):
        alone = CounterRandom(key)
        assert [random.integer() for _ in range(40)] == [alone.integer() for _ in range(40)]
    # 64 bits each are near one half set, over 200 numbers by 4 standard errors.
    assert abs(np.mean([bin(number).count("1") for number in numbers.ravel().tolist()]) - 32) < 4 * 4 / 200**0.5


def test_workers_do_not_change_the_batches():
    loaders = [BatchLoader(layer_param(), seed=5, workers=workers) for workers in (0, 1, 3)]
    try:
        for _ in range(5):
            results = [loader.next() for loader in loaders]
            for data, label, _ in results[1:]:
                np.testing.assert_array_equal(data, results[0][0])
                np.testing.assert_array_equal(label, results[0][1])
        for loader in loaders:
            loader.state = {"position": 16}
        results = [loader.next()[0] for loader in loaders]
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])
    finally:
        for loader in loaders:
            loader.close()


def test_state_resumes():
    first, second = (BatchLoader(layer_param(), seed=8, workers=0) for _ in range(2))
    for _ in range(4):
        first.next()
    second.state = first.state
    np.testing.assert_array_equal(first.next()[0], second.next()[0])


def test_seeds_and_rounds_differ():
    a, b = (BatchMaker(Job(layer_param(), seed=seed)) for seed in (1, 2))
    outputs = [np.empty(a.shape, np.uint8) for _ in range(3)]
    a.make(0, outputs[0])
    b.make(0, outputs[1])
    a.make(8, outputs[2])  # 24 records, batches of 3: the same records in the next round
    assert (outputs[0] != outputs[1]).any()
    assert (outputs[0] != outputs[2]).any()


def test_ranks_share_the_records():
    text = SSD.replace("mirror: true", "").replace("batch_size: 3", "batch_size: 4")
    whole = BatchLoader(layer_param(text), seed=3, workers=0)
    parts = [BatchLoader(layer_param(text), seed=3, workers=0, rank=rank, world_size=2) for rank in range(2)]
    both = np.concatenate([whole.next()[0].copy(), whole.next()[0]])
    for rank, part in enumerate(parts):
        np.testing.assert_array_equal(part.next()[0], both[rank::2])


def test_layer_uses_the_loader():
    context = Context(phase=caffe_pb2.TRAIN, random=CaffeRandom(4), options={"fast": True, "workers": 1})
    layer = layer_class("AnnotatedData")(layer_param(), context)
    layer.setup([])
    data, label = layer.forward([], [])
    assert tuple(data.shape) == (3, 3, 57, 64)
    assert label.shape[3] == 8
    layer.source.close()


def test_dead_worker_is_an_error():
    loader = BatchLoader(layer_param(), workers=1, ahead=1)
    loader.next()
    process = loader._pool._workers[0]._process
    process.kill()
    process.wait()
    with pytest.raises(DataError) as caught:
        [loader.next() for _ in range(3)]
    assert caught.value.code == "data.worker"
    loader.close()


def test_settings_without_a_fast_form():
    with pytest.raises(UsageError) as caught:
        BatchLoader(layer_param(SSD.replace("height: 57", "resize_mode: FIT_SMALL_SIZE height: 57")), workers=0)
    assert caught.value.code == "data.fast"


def test_fast_sampler_has_the_originals_distribution():
    objects = Objects(
        np.int32([1, 2]), np.int32([0, 0]), np.float32([[0.1, 0.2, 0.5, 0.6], [0.4, 0.4, 0.9, 0.8]]),
        np.zeros(2, bool), np.full(2, np.nan, np.float32), np.zeros(2, np.intp),
    )  # fmt: skip
    samplers = layer_param().annotated_data_param.batch_sampler
    means = []
    for draw, stream in ((FastSampler(samplers), CounterRandom), (original_windows, CaffeRandom)):
        found = []
        for key in picture_keys(6, range(150)):
            random = stream(key)
            found += list(draw([Streams(random, random, random)], samplers, objects)[0])
        means.append([len(found) / 150, *np.mean(found, axis=0)])
    # About 450 windows each, corners spread by 0.25: 4 standard errors are 0.07; counts vary by 0.06.
    assert (np.abs(np.subtract(*means)) < [0.25, 0.07, 0.07, 0.07, 0.07]).all()


def test_reading_writes_nothing(tmp_path):
    for name in ("data.mdb",):
        (tmp_path / name).write_bytes((LMDB / name).read_bytes())
    os.chmod(tmp_path, 0o555)
    loader = BatchLoader(layer_param(SSD.replace(str(LMDB), str(tmp_path))), workers=1)
    loader.next()
    loader.close()
    assert os.listdir(tmp_path) == ["data.mdb"]
    os.chmod(tmp_path, 0o755)
