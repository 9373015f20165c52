"""Fast loading: the exact path's pixels under the same plan, and the same batches for any number of workers."""

import os
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from pyscratchdet.data import fast
from pyscratchdet.data.loader import BatchLoader
from pyscratchdet.data.maker import BatchMaker, Job, picture_seed
from pyscratchdet.data.objects import Objects, objects_of
from pyscratchdet.data.plan import Planner, Streams
from pyscratchdet.data.records import Records
from pyscratchdet.data.sampling import sample_windows
from pyscratchdet.data.transform import Transformer
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
    transformer = Transformer(param.transform_param)
    planner = Planner(param.transform_param, param.annotated_data_param.batch_sampler, is_train=True)
    records, differences = Records(str(LMDB)), []
    for index in range(144):
        record = records.at(index).annotated()
        image = transformer.decode(record.datum, "record")
        random = CaffeRandom(picture_seed(1, index))
        plan = planner.draw(Streams(random, random, random), objects_of(record, "record"), *image.shape[:2])
        output = np.empty((57, 64, 3), np.uint8)
        fast.render(transformer, image, plan, output)
        exact = transformer.render(image, plan, is_encoded=False)
        differences.append(np.abs(transformer.normalize(output, plan.place) - exact).mean())
    # Levels of 255, where the exact path's JPEGs alone change 1 to 2; in the worst picture a small pasted one is shrunk
    # out of step by 0.1 pixels.
    assert np.mean(differences) < 0.5
    assert np.median(differences) < 0.4
    assert np.max(differences) < 4


def test_workers_do_not_change_the_batches():
    loaders = [BatchLoader(layer_param(), seed=5, workers=workers) for workers in (0, 1, 3)]
    try:
        for _ in range(5):
            results = [loader.next() for loader in loaders]
            for data, label in results[1:]:
                np.testing.assert_array_equal(data, results[0][0])
                np.testing.assert_array_equal(label, results[0][1])
        for loader in loaders:
            loader.skip(11)
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
    both = np.concatenate([whole.next()[0], whole.next()[0]])
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
        np.zeros(2, bool), np.full(2, np.nan, np.float32),
    )  # fmt: skip
    samplers = layer_param().annotated_data_param.batch_sampler
    sampler = fast.FastSampler(samplers)
    random = CaffeRandom(6)
    means = []
    for draw in (sampler, sample_windows):
        found = [window for _ in range(150) for window in draw(random, samplers, objects)]
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
