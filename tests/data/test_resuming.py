"""Every layer type that carries something from pass to pass, or draws random numbers, resumes bit for bit."""

import inspect
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import pyscratchdet
from pyscratchdet.layers.base import Layer, layer_types
from pyscratchdet.proto import caffe_pb2, text
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.solver.resume import RunState
from pyscratchdet.solver.smoothing import SmoothedLoss

RECORDED = Path(__file__).parent / "recorded"


def own_classes(cls):
    return [base for base in cls.__mro__ if base.__module__.startswith("pyscratchdet.layers") and base is not Layer]


def may_differ_from_pass_to_pass(cls):
    """By its source: it has a state, can pass over batches, or mentions random numbers."""
    source = "".join(inspect.getsource(base) for base in own_classes(cls))
    return any(word in source for word in ("def state(", "def skip(", "random"))


TYPES = sorted(name for name, cls in layer_types().items() if may_differ_from_pass_to_pass(cls))

RECURRENT = """
layer {{ name: "x" type: "DummyData" top: "x" top: "cont" dummy_data_param {{
  shape {{ dim: 3 dim: 2 dim: 5 }} shape {{ dim: 3 dim: 2 }} data_filler {{ type: "gaussian" }}
  data_filler {{ type: "constant" value: 1 }} }} }}
layer {{ name: "l" type: "{}" bottom: "x" bottom: "cont" top: "t" recurrent_param {{ num_output: 4
  weight_filler {{ type: "uniform" min: -0.5 max: 0.5 }} bias_filler {{ value: 0.1 }} }} }}"""
NOISE = """layer { name: "x" type: "DummyData" top: "x" dummy_data_param {
  shape { dim: 2 dim: 3 dim: 5 dim: 4 } data_filler { type: "uniform" min: 0.1 max: 1 } } }"""
TRANSFORM = "transform_param { mirror: true crop_size: 11 }"
SOURCE = 'layer { name: "l" type: "%s" top: "data" top: "label" '


def cases(folder, voc):
    """Text of a net for each type."""
    windows = f"# 0\n{voc}/VOC2007/JPEGImages/000001.jpg\n3\n138\n131\n2\n5 0.9 10 20 49 79\n3 0.2 0 0 39 29"
    (folder / "windows").write_text(windows)
    pictures = sorted((voc / "VOC2007" / "JPEGImages").iterdir())[:5]
    (folder / "list").write_text("".join(f"{path} {number}\n" for number, path in enumerate(pictures)))
    labelled = [f"{path} {pixel_labels(folder, path)}\n" for path in pictures]
    (folder / "pairs").write_text("".join(labelled))
    pairs = f'source: "{folder}/pairs" batch_size: 2 new_height: 19 new_width: 23 shuffle: true'
    for part in range(2):
        with h5py.File(folder / f"{part}.h5", "w") as file:
            file["data"] = np.arange(15, dtype=np.float32).reshape(5, 3) + 100 * part
            file["label"] = np.arange(5, dtype=np.float32)
    (folder / "files").write_text(f"{folder}/0.h5\n{folder}/1.h5\n")
    data_param = f'data_param {{ source: "{RECORDED}/lmdb" batch_size: 3 backend: LMDB }}'
    sources = {
        "Data": f"{TRANSFORM} {data_param}",
        "AnnotatedData": f"""transform_param {{ mirror: true resize_param {{ height: 30 width: 41 }} emit_constraint {{
            emit_type: CENTER }} }} {data_param} annotated_data_param {{ batch_sampler {{ max_sample: 1 max_trials: 9
            sampler {{ min_scale: 0.4 max_scale: 1 }} }} }}""",
        "ImageData": f"""{TRANSFORM} image_data_param {{ source: "{folder}/list" batch_size: 2 new_height: 19
            new_width: 23 shuffle: true }}""",
        "ImageSegData": f"{TRANSFORM} image_data_param {{ {pairs} label_type: PIXEL }}",
        "DenseImageData": f"dense_image_data_param {{ {pairs} mirror: true }}",
        "VideoData": f"""{TRANSFORM} video_data_param {{ video_type: VIDEO video_file: "{video(folder)}" }}
            data_param {{ batch_size: 1 }}""",
        "WindowData": f'{TRANSFORM} window_data_param {{ source: "{folder}/windows" batch_size: 4 }}',
        "HDF5Data": f'hdf5_data_param {{ source: "{folder}/files" batch_size: 3 shuffle: true }}',
        "MemoryData": "memory_data_param { batch_size: 2 channels: 1 height: 2 width: 3 }",
    }
    nets = {name: SOURCE % name + param + "}" for name, param in sources.items()}
    nets |= {name: RECURRENT.format(name) for name in ("LSTM", "RNN")}
    nets["DummyData"] = NOISE
    nets["Dropout"] = NOISE + 'layer { name: "l" type: "Dropout" bottom: "x" top: "t" }'
    nets["SpatialDropout"] = NOISE + 'layer { name: "l" type: "SpatialDropout" bottom: "x" top: "t" }'
    nets["Python"] = (
        NOISE
        + """layer { name: "l" type: "Python" bottom: "x" top: "t" python_param { module: "spatial_dropout"
        layer: "SpatialDropoutLayer" param_str: "{'phase': 'TRAIN', 'p': '0.4'}" } }"""
    )
    nets["BatchNorm"] = (
        NOISE
        + """layer { name: "l" type: "BatchNorm" bottom: "x" top: "t"
        batch_norm_param { scale_bias: true moving_average_fraction: 0.75 } }"""
    )
    nets["SegAccuracy"] = (
        NOISE
        + """layer { name: "y" type: "DummyData" top: "y" dummy_data_param {
        shape { dim: 2 dim: 1 dim: 5 dim: 4 } data_filler { value: 1 } } }
        layer { name: "l" type: "SegAccuracy" bottom: "x" bottom: "y" top: "t" seg_accuracy_param { reset: false } }"""
    )
    pooling = (
        'layer { name: "l" type: "Pooling" bottom: "x" top: "t" pooling_param { kernel_size: 2 pool: STOCHASTIC } }'
    )
    nets["Pooling"] = NOISE + pooling
    return nets


def pixel_labels(folder, picture):
    """Writes a label for each pixel of a picture; returns the file."""
    import cv2

    path = folder / f"{picture.stem}.png"
    cv2.imwrite(str(path), cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE) // 16)
    return path


def video(folder):
    import cv2

    path = folder / "levels.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 24))
    for index in range(9):
        writer.write(np.full((24, 32, 3), 10 + 15 * index, np.uint8))
    writer.release()
    return path


class Run:
    """A net with what a solver keeps of it beside the weights."""

    def __init__(self, source, phase="TRAIN", options=None):
        self.random = CaffeRandom(5)
        param = text.parse(source, caffe_pb2.NetParameter)
        self.net = pyscratchdet.build_net(param, phase, random=self.random, options=options)
        for module in self.net.layers:
            if module.layer_type == "MemoryData":
                module.layer.set_arrays(np.arange(60).reshape(10, 1, 2, 3), np.arange(10))
        self.state = RunState([self.net], self.random, SmoothedLoss(1))

    def passes(self, number):
        """Returns outputs and weights after each pass."""
        return [
            {name: top.detach().numpy().copy() for name, top in (self.net() | self.net.state_dict()).items()}
            for _ in range(number)
        ]


@pytest.mark.parametrize("name", TYPES)
def test_resumes_bit_for_bit(name, voc, tmp_path):
    nets = cases(tmp_path, voc)
    assert name in nets, f'"{name}" carries something or draws random numbers: it needs a case here'
    first = Run(nets[name])
    seen = first.passes(3)
    kept = json.loads(json.dumps(first.state.collect()))
    second = Run(nets[name])
    second.net.load_state_dict(first.net.state_dict())
    second.state.restore(kept)
    expected = first.passes(4)
    for mine, theirs in zip(second.passes(4), expected, strict=True):
        assert mine.keys() == theirs.keys()
        for blob in mine:
            np.testing.assert_array_equal(mine[blob], theirs[blob])
    fresh = Run(nets[name])
    fresh.net.load_state_dict(first.net.state_dict())
    assert any((a[blob] != b[blob]).any() for a, b in zip(fresh.passes(4), expected, strict=True) for blob in a)
    assert seen


CHANCE = re.compile(r"mirror: true|max_sample.*\n.*max_scale: 1 \}")
SKIPPED = ["AnnotatedData", "Data", "DenseImageData", "HDF5Data", "ImageData", "ImageSegData"]


@pytest.mark.parametrize("name", TYPES)
def test_batches_that_are_passed_over_are_missing_and_no_more(name, voc, tmp_path):
    source = CHANCE.sub("", cases(tmp_path, voc)[name])
    whole = Run(source, "TEST")
    carries_over = any(module.layer.carries_over for module in whole.net.layers)
    assert carries_over == (name not in SKIPPED)
    if not carries_over:
        expected, part = whole.passes(7), Run(source, "TEST")
        seen = part.passes(1)
        part.state.carried[0].skip(3)
        seen += part.passes(2)
        part.state.carried[0].skip(0)
        seen += part.passes(1)
        for mine, theirs in zip(seen, [expected[0], *expected[4:]], strict=True):
            for blob in mine:
                np.testing.assert_array_equal(mine[blob], theirs[blob])


@pytest.mark.parametrize("workers", [0, 2])
def test_fast_batches_are_passed_over_with_all_that_is_random(workers, voc, tmp_path):
    source, options = cases(tmp_path, voc)["AnnotatedData"], {"fast": True, "workers": workers}
    whole, part = Run(source, "TEST", options), Run(source, "TEST", options)
    expected = whole.passes(6)
    part.state.carried[0].skip(2)
    for mine, theirs in zip(part.passes(4), expected[2:], strict=True):
        for blob in mine:
            np.testing.assert_array_equal(mine[blob], theirs[blob])


def test_the_types_that_are_looked_for():
    """The way of finding them finds at least these."""
    assert {"LSTM", "RNN", "Data", "AnnotatedData", "HDF5Data", "WindowData", "Dropout", "DummyData"} <= set(TYPES)
