"""Several processes share the passes of a test: figures, log, files and snapshots are those of one."""

import re
import shutil

import pytest
from toydetector import HEADS, write_detector

from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.runtime import build_net, save_weights
from pyscratchdet.solver.shared_test import obstacle

NORMALIZED = """
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" batch_norm_param { moving_average_fraction: 0.5 } }
layer { name: "relu1" type: "ReLU" """
SAVE = """save_output_param { output_directory: "FOLDER/results" output_name_prefix: "det_" output_format: "VOC"
  label_map_file: "FOLDER/labelmap.prototxt" name_size_file: "FOLDER/sizes.txt" num_test_image: 20 }"""
LABELS = """item { name: "none_of_the_above" label: 0 display_name: "background" }
item { name: "square" label: 1 display_name: "square" }"""
ALONE = 'import pyscratchdet.solver.solver as s; s.obstacle = lambda net: "for comparison"'


@pytest.fixture
def detector(tmp_path, monkeypatch):
    """Writes a detector as it is published, with sizes and result files; its BatchNorm differs between processes."""
    monkeypatch.setattr("toydetector.HEADS", HEADS.replace('layer { name: "relu1" type: "ReLU" ', NORMALIZED))
    (tmp_path / "labelmap.prototxt").write_text(LABELS)
    (tmp_path / "sizes.txt").write_text(
        "".join(f"{n} {24 + n} {32 + 2 * n}\n" for n in range(20))
    )  # as many as a test has
    pictures = [((1, 0.1 + 0.03 * n, 0.2, 0.6, 0.7),) * (n % 3) for n in range(11)]
    sizes = f'name_size_file: "{tmp_path}/sizes.txt"'
    solver = write_detector(tmp_path, test=pictures, passes=5, sizes=sizes, save=SAVE.replace("FOLDER", str(tmp_path)))
    more = "test_interval: 4 max_iter: 12 snapshot: 4 display: 4 base_lr: 0.05"
    text = (tmp_path / "solver.prototxt").read_text()
    for setting in re.findall(r"\w+: [\d.]+", more):
        text = re.sub(rf"{setting.split(':')[0]}: [\d.]+", "", text)
    (tmp_path / "solver.prototxt").write_text(text + more)
    return solver


def results(folder):
    """Takes away what a run wrote, and returns it."""
    found = {path.name: path.read_bytes() for path in sorted((folder / "results").iterdir())}
    for path in (folder / "out").glob("toy_iter_12.*"):
        found[path.name] = path.read_bytes() if path.suffix != ".resume" else b""
    (folder / "results").rename(folder / f"results_{len(list(folder.iterdir()))}")
    (folder / "out").rename(folder / f"out_{len(list(folder.iterdir()))}")
    return found


def lines_of_tests(log):
    """Returns the lines of a log from the first test on, without times and what differs on purpose."""
    lines = [line.split("] ", 1)[-1] for line in log.splitlines()]
    wanted = [line for line in lines if re.search(r"Iteration \d+, (Testing|loss|layer)|Test net|class\d", line)]
    assert sum("Test net output" in line for line in wanted) > 1
    return wanted


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_training_with_shared_tests(together, detector, tmp_path, count):
    alone = together(count, tmp_path / "alone", "train", f"--solver={detector}", patch=ALONE)
    assert "Process 0 tests alone: for comparison" in alone[0][1]
    expected = results(tmp_path)
    assert len(expected) == 4  # VOC's file of the class, and the last snapshot
    first = together(count, tmp_path / "first", "train", f"--solver={detector}", "--iterations=8")
    assert "tests alone" not in first[0][1]
    second = together(count, tmp_path / "second", "train", f"--solver={detector}", "--resume=auto")
    assert "Resuming from" in second[0][1]
    assert results(tmp_path) == expected
    begun, resumed = lines_of_tests(first[0][1]), lines_of_tests(second[0][1])
    again = next(i for i, line in enumerate(begun) if line.startswith("Iteration 8,"))
    assert begun[:again] + resumed == lines_of_tests(alone[0][1])
    assert all("Test" not in err for _, err in (*first[1:], *second[1:]))


DATA = """layer { name: "data" type: "AnnotatedData" top: "data" top: "label" transform_param { MORE
    resize_param { resize_mode: WARP height: 24 width: 32 interp_mode: LINEAR } }
  data_param { source: "no_lmdb" batch_size: 4 } annotated_data_param { batch_sampler { SAMPLER } } }"""
DUMMY = """layer { name: "x" type: "DummyData" top: "x" dummy_data_param {
  shape { dim: 2 dim: 3 dim: 5 dim: 4 } data_filler { type: "FILLER" } } }"""
CONSTANT = DUMMY.replace("FILLER", "constant")
NETS = {
    "as published": (DATA.replace("MORE", "").replace("SAMPLER", ""), ""),
    "mirrored": (DATA.replace("MORE", "mirror: true").replace("SAMPLER", ""), '"data" (AnnotatedData) draws'),
    "cut out": (DATA.replace("MORE", "").replace("SAMPLER", "sampler { min_scale: 0.3 }"), '"data" (AnnotatedData)'),
    "constant": (CONSTANT, ""),
    "noise": (DUMMY.replace("FILLER", "gaussian"), '"x" (DummyData)'),
    "given": ('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 } } }', "the program fills x"),
    "global statistics": (CONSTANT + 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" }', ""),
    "own statistics": (
        CONSTANT + 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" batch_norm_param {'
        " use_global_stats: false } }",
        '"bn" (BatchNorm)',
    ),
    "proposals": (
        CONSTANT
        + """layer { name: "drop" type: "Python" bottom: "x" top: "y" python_param {
          module: "spatial_dropout" layer: "SpatialDropoutLayer" param_str: "{'p': 0.5, 'phase': 'TEST'}" } }""",
        "",
    ),
    "written": (
        CONSTANT
        + """layer { name: "file" type: "HDF5Output" bottom: "x" bottom: "x"
          hdf5_output_param { file_name: "x.h5" } }""",
        '"file" (HDF5Output)',
    ),
    "judged twice": (
        DATA.replace("MORE", "").replace("SAMPLER", "")
        + """
        layer { name: "rows" type: "DummyData" top: "rows" dummy_data_param { shape { dim: 1 dim: 1 dim: 5 dim: 7 } } }
        layer { name: "judge" type: "DetectionEvaluate" bottom: "rows" bottom: "label" top: "judge"
          detection_evaluate_param { num_classes: 2 overlap_threshold: 0.5 } }
        layer { name: "power" type: "Power" bottom: "judge" top: "power" }""",
        'take what layer "judge"',
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_what_one_process_must_do(name):
    text, reason = NETS[name]
    found = obstacle(build_net(parse(text, caffe_pb2.NetParameter), "TEST"))
    assert reason in found
    assert bool(reason) == bool(found)


@pytest.mark.slow
def test_debug_info_keeps_tests_in_one_process(together, detector, tmp_path):
    text = (tmp_path / "solver.prototxt").read_text().replace("max_iter: 12", "max_iter: 1 debug_info: true")
    (tmp_path / "solver.prototxt").write_text(text)
    printed = together(2, tmp_path, "train", f"--solver={detector}")
    assert "Process 0 tests alone: debug_info prints every pass" in printed[0][1]
    assert "[Forward] Layer data" in printed[0][1]


@pytest.mark.slow
def test_evaluate_and_score_share_the_solvers_test(together, detector, tmp_path):
    snapshots = [tmp_path / f"x_iter_{n}.caffemodel" for n in (1, 2)]
    for n, path in enumerate(snapshots):
        save_weights(build_net(str(tmp_path / "train.prototxt"), "TRAIN", random=CaffeRandom(n)), path)
    for command in (
        ["evaluate", "caffe", f"--solver={detector}", "--weights", snapshots[0], "--json"],
        ["score", f"--solver={detector}", *snapshots],
    ):
        found = []
        for count in (1, 2, 3):
            (out, _), *others = together(count, tmp_path / f"{command[0]}{count}", *command)
            assert all(other == ["", ""] for other in others)
            found.append([out, {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}])
            shutil.rmtree(tmp_path / "results")
        assert found[0] == found[1] == found[2]
        assert "mAP" in found[0][0]
