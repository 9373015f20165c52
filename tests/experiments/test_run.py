"""Runs of cells, tiny: killed and resumed, diverged, pretrained; and the rule that makes the small forms."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyscratchdet import prototxt
from pyscratchdet.cli import main
from pyscratchdet.data.shapes import make_shapes
from pyscratchdet.errors import DataError
from pyscratchdet.experiments import launch, mini, paper, pretraining
from pyscratchdet.experiments.run import METRICS, RESULT, Job, read_result, run
from pyscratchdet.experiments.sources import Sources
from pyscratchdet.files import locked_folder
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.solver.curves import read_curves

CELLS = {cell.name: cell for cell in paper.cells()}
BEST, PRETRAINED = CELLS["table1/bn_all_lr0.05_scratch"], CELLS["table1/bn_all_lr0.01_pretrained"]
TINY = {"SIZE": 32, "BATCH": 2, "ITERATIONS": 20}
COMMAND = f"""
import sys
from pyscratchdet.cli import main
from pyscratchdet.experiments import mini
mini.SIZE, mini.BATCH, mini.ITERATIONS = {tuple(TINY.values())}
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(make_shapes(tmp_path_factory.mktemp("data") / "shapes", 6, 4, size=64))


@pytest.fixture
def tiny(monkeypatch):
    for name, value in TINY.items():
        monkeypatch.setattr(mini, name, value)


def job(root, data, cell=BEST, seed=1):
    return Job(cell, seed, root, data, "mini")


def files(folder):
    """The files that a result depends on, without the folder's own path."""
    kept = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".prototxt", ".caffemodel")}
    return {name: content.replace(os.fsencode(folder.parents[2]), b"ROOT") for name, content in kept.items()}


def test_a_killed_run_goes_on_and_ends_like_one_that_was_never_interrupted(tmp_path, data, tiny):
    root, whole = tmp_path / "kill", tmp_path / "whol"  # of one length: paths are in the weights' file
    words = ["experiment", "run", "table1", "--data", data, "-o", str(root), "--only", BEST.name.partition("/")[2]]
    folder = job(root, data).folder
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *words])
    try:
        while not list(folder.glob("*_iter_4.solverstate")):
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert read_result(folder) is None
    resumed = run(job(root, data))
    assert "Resuming from" in (folder / "training.log").read_text()

    run(job(whole, data, CELLS["table1/bn_none_lr0.001_scratch"]))  # what this process did before does not matter
    unbroken = run(job(whole, data))
    assert resumed.metrics == unbroken.metrics
    assert resumed.iterations == unbroken.iterations == TINY["ITERATIONS"]
    assert files(folder) == files(job(whole, data).folder)
    one, other = (read_curves(job(each, data).folder / METRICS).series for each in (root, whole))
    for name in ("loss", "lr", "grad_norm"):
        assert one[name] == other[name]
        assert list(one[name]) == list(range(0, TINY["ITERATIONS"], 5))


def test_running_again_measures_nothing_again(tmp_path, data, tiny, capsys):
    words = ["experiment", "run", "table1", "--data", data, "-o", str(tmp_path), "--only", "bn_all_lr0.05_scratch"]
    assert main(words) == 0
    assert "table1/bn_all_lr0.05_scratch, seed 1: mAP" in capsys.readouterr().out
    path = job(tmp_path, data).folder / RESULT
    path.write_text(path.read_text().replace('"mAP": ', '"mAP": 1'))
    marked = path.read_bytes()
    assert main([*words, "--seeds", "2"]) == 0
    assert "seed 1" not in (shown := capsys.readouterr().out)
    assert "seed 2: mAP" in shown
    assert path.read_bytes() == marked


def test_a_run_that_diverges_is_recorded_with_the_iteration(tmp_path, data, tiny, monkeypatch):
    build = mini.build

    def wild(*args):
        recipe = build(*args)
        recipe.solver.base_lr = 1e12
        return recipe

    monkeypatch.setattr(mini, "build", wild)
    cell = CELLS["table1/bn_none_lr0.05_scratch"]
    assert launch.work([job(tmp_path, data, cell)])
    result = read_result(job(tmp_path, data, cell).folder)
    assert result.status == "diverged"
    assert result.metrics == {}
    assert f"iteration {result.iterations} " in result.message
    assert 0 < result.iterations < 5


def test_a_pretrained_cell_starts_from_a_classifier_that_is_trained_once(tmp_path, data, tiny, monkeypatch):
    for name, value in {"ITERATIONS": 3, "BATCH": 4, "_TRAIN": 6, "_TEST": 6}.items():
        monkeypatch.setattr(pretraining, name, value)
    monkeypatch.setattr(mini, "ITERATIONS", 5)
    for seed in (1, 2):
        run(job(tmp_path, data, PRETRAINED, seed))
        log = (job(tmp_path, data, PRETRAINED, seed).folder / "training.log").read_text()
        assert "vgg16_bn/classifier_iter_3.caffemodel" in log
        assert "only in the file: scores;" in log  # every other layer of the classifier is the detector's
    metrics = (tmp_path / "pretraining" / "vgg16_bn" / "metrics.csv").read_text()
    assert metrics.count("\ntrain,0,") == 1


def test_what_another_process_is_at_is_left_to_it(tmp_path, data, tiny):
    with locked_folder(job(tmp_path, data).folder):
        assert launch.work([job(tmp_path, data)])
    assert read_result(job(tmp_path, data).folder) is None


def test_a_run_that_was_begun_with_other_settings_is_refused(tmp_path, data, tiny):
    folder = job(tmp_path, data).folder
    folder.mkdir(parents=True)
    (folder / "solver.prototxt").write_text("max_iter: 7\n")
    with pytest.raises(DataError, match="begun with other settings"):
        run(job(tmp_path, data))


def test_a_damaged_result_is_named(tmp_path, data):
    folder = job(tmp_path, data).folder
    folder.mkdir(parents=True)
    (folder / RESULT).write_text(json.dumps({"cell": "table1/bn"}))
    with pytest.raises(DataError, match="not a result"):
        read_result(folder)


@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if cell.experiment in mini.SETS])
def test_the_rule_changes_channels_and_sizes_and_nothing_else(name):
    cell = CELLS[name]
    sources = Sources(Path("lmdb"), Path("labels"), ("a", "b", "c"), Path("voc"))
    small, published = mini.build(cell, sources, Path("runs"), 3), prototxt.build(cell.recipe)
    for kind in ("train", "deploy"):
        ours, theirs = getattr(small, kind), getattr(published, kind)
        assert [(one.name, one.type, *one.bottom) for one in ours.layer] == [
            (one.name, one.type, *one.bottom) for one in theirs.layer
        ]
        for one, other in zip(ours.layer, theirs.layer, strict=True):
            if one.type == "Convolution" and "mbox" not in one.name:
                assert one.convolution_param.num_output * mini.CHANNELS == other.convolution_param.num_output
            elif one.name.endswith("mbox_conf") and one.type == "Convolution":
                assert one.convolution_param.num_output * 21 == other.convolution_param.num_output * 4
            one.convolution_param.num_output = other.convolution_param.num_output
            for part in ("pad", "kernel_size", "stride"):
                before, after = (list(getattr(each.convolution_param, part)) for each in (other, one))
                assert before == after or (part == "pad" and after == [1] and one.convolution_param.kernel_size == [3])
    assert (small.solver.base_lr, small.solver.gamma, small.solver.weight_decay, small.solver.momentum) == (
        published.solver.base_lr,
        published.solver.gamma,
        published.solver.weight_decay,
        published.solver.momentum,
    )
    share = mini.ITERATIONS / published.solver.max_iter
    assert list(small.solver.stepvalue) == [round(step * share) for step in published.solver.stepvalue]
    plan = plan_net(mini.build(cell, sources, Path("runs"), 3).deploy)  # no map is empty
    assert plan.shapes[plan.graph.inputs[0]] == (1, 3, mini.SIZE, mini.SIZE)


def test_seeds_differ_in_the_seed_alone():
    sources = Sources(Path("lmdb"), Path("labels"), ("a",), Path("voc"))
    one, two = (mini.build(BEST, sources, Path("runs"), seed) for seed in (1, 2))
    assert (one.train, one.deploy) == (two.train, two.deploy)
    assert one.solver != two.solver
    two.solver.random_seed = 1
    assert one.solver == two.solver
