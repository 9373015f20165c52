"""Runs of cells, tiny: killed and resumed, diverged, pretrained; and the rule that makes the small forms."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import nothing

from pyscratchdet import prototxt
from pyscratchdet.cli import main
from pyscratchdet.cli.experiment import _chosen
from pyscratchdet.data.database import Database
from pyscratchdet.data.shapes import make_shapes
from pyscratchdet.data.voc_xml import VocObject, voc_xml
from pyscratchdet.errors import DataError, FileError, UsageError
from pyscratchdet.experiments import full, landscape, launch, mini, paper
from pyscratchdet.experiments.run import METRICS, RESULT, Job, read_result, run
from pyscratchdet.experiments.settings import FILE
from pyscratchdet.experiments.sources import Sources
from pyscratchdet.files import locked_folder
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.solver.curves import read_curves

CELLS = {cell.name: cell for cell in paper.cells()}
BEST, PRETRAINED = CELLS["table1/bn_all_lr0.05_scratch"], CELLS["table1/bn_all_lr0.01_pretrained"]
PLAIN = CELLS["table1/bn_none_lr0.001_scratch"]
ONLY = BEST.name.partition("/")[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(make_shapes(tmp_path_factory.mktemp("data") / "shapes", 6, 4, size=64))


def job(root, data, cell=BEST, seed=1):
    return Job(cell, seed, root, data, "mini")


def files(folder):
    """The files that a result depends on, without the folder's own path."""
    kept = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".prototxt", ".caffemodel")}
    return {name: content.replace(os.fsencode(folder.parents[2]), b"ROOT") for name, content in kept.items()}


def wild_rates(monkeypatch):
    """Makes every run diverge."""
    build = mini.build

    def wild(*args):
        recipe = build(*args)
        recipe.solver.base_lr = 1e12
        return recipe

    monkeypatch.setattr(mini, "build", wild)


def test_a_killed_run_goes_on_and_ends_like_one_that_was_never_interrupted(tmp_path, data, monkeypatch):
    root, whole = tmp_path / "kill", tmp_path / "whol"  # of one length: paths are in the weights' file
    words = [
        "experiment",
        "run",
        "table1",
        "--data",
        data,
        "-o",
        str(root),
        "--scale",
        "mini",
        "--only",
        BEST.name.partition("/")[2],
    ]
    folder = job(root, data).folder
    command = "import sys, tiny; from pyscratchdet.cli import main; sys.exit(main(sys.argv[1:]))"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    process = subprocess.Popen([sys.executable, "-c", command, *words])
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

    run(job(whole, data, PLAIN))  # what this process did before does not matter
    unbroken = run(job(whole, data))
    assert resumed.metrics == unbroken.metrics
    assert resumed.iterations == unbroken.iterations == mini.ITERATIONS
    assert files(folder) == files(job(whole, data).folder)
    one, other = (read_curves(job(each, data).folder / METRICS).series for each in (root, whole))
    for name in ("loss", "lr", "grad_norm"):
        assert one[name] == other[name]
        assert list(one[name]) == list(range(0, mini.ITERATIONS, 5))


def test_running_again_measures_nothing_again(tmp_path, data, capsys):
    words = ["experiment", "run", "table1", "--data", data, "-o", str(tmp_path), "--scale", "mini"]
    words += ["--only", ONLY]
    assert main(words) == 0
    assert "table1/bn_all_lr0.05_scratch, seed 1: mAP" in capsys.readouterr().out
    path = job(tmp_path, data).folder / RESULT
    path.write_text(path.read_text().replace('"mAP": ', '"mAP": 1'))
    marked = path.read_bytes()
    assert main([*words, "--seeds", "2"]) == 0
    assert "seed 1" not in (shown := capsys.readouterr().out)
    assert "seed 2: mAP" in shown
    assert path.read_bytes() == marked
    assert main([*words, "--iterations", "7"]) == 1
    out, err = (" ".join(text.split()) for text in capsys.readouterr())
    assert "measured with other settings, expected --iterations 7 and found no --iterations" in err
    assert "without a result" not in out
    assert path.read_bytes() == marked


def test_one_folder_holds_the_results_of_one_rule_and_of_one_data_set(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(mini, "ITERATIONS", 5)
    monkeypatch.setattr(landscape, "ITERATIONS", 5)
    runs = tmp_path / "runs"
    to = ["--data", data, "-o", str(runs)]
    lines = ["experiment", "run", "table1", "--scale", "mini", "--only", ONLY, *to], ["experiment", "landscape", *to]
    for line in lines:
        assert main(line) == 0
    assert main(["experiment", "report", str(runs)]) == 0
    assert "VOC2007 trainval (6 pictures, SHA-256 " in (runs / "report.md").read_text()
    kept = (runs / FILE).read_text()
    again = str(make_shapes(tmp_path / "again", 6, 4, size=64))
    other = str(make_shapes(tmp_path / "other", 6, 4, size=64, seed=1))
    capsys.readouterr()

    def refused(line):
        assert main(line) != 0
        return " ".join(capsys.readouterr().err.split())

    for line in lines:  # whether results are there or not
        line = [*line, *(["--only", "bn_none_lr0.001_scratch"] if "run" in line else ["--iterations", "6"])]
        moved = [again if word == data else word for word in line]
        assert "other settings" in refused([other if word == data else word for word in line])
        (runs / FILE).write_text(kept.replace('"rule": 2', '"rule": 1'))
        assert re.search("--scale mini by rule 2 on .* and found --scale mini by rule 1 on ", refused(line))
        (runs / FILE).unlink()
        assert "does not say how its results were measured" in refused(line)
        (runs / FILE).write_text(kept)
        assert main(moved) == 0  # the same pictures in another place
    (runs / FILE).unlink()
    assert "does not say how its results were measured" in refused(["experiment", "report", str(runs)])
    (runs / FILE).write_text('{"scale": "mini"}')
    assert "not settings" in refused(lines[0])


def test_what_others_are_at_is_said(tmp_path, data, capsys):
    words = ["experiment", "run", "table1", "--data", data, "-o", str(tmp_path), "--scale", "mini", "--only", ONLY]
    with locked_folder(job(tmp_path, data).folder):
        assert main(words) == 0
    assert "1 of 1 run without a result" in capsys.readouterr().out


def test_a_run_that_diverges_is_recorded_with_the_iteration(tmp_path, data, monkeypatch):
    wild_rates(monkeypatch)
    assert launch.work([job(tmp_path, data, PLAIN)], nothing) == 0
    result = read_result(job(tmp_path, data, PLAIN).folder)
    assert result.status == "diverged"
    assert result.metrics == {}
    assert f"iteration {result.iterations} " in result.message
    assert 0 < result.iterations < 5


def test_a_pretrained_cell_starts_from_a_classifier_that_is_trained_once(tmp_path, data, monkeypatch):
    monkeypatch.setattr(mini, "ITERATIONS", 5)
    for seed in (1, 2):
        run(job(tmp_path, data, PRETRAINED, seed))
        log = (job(tmp_path, data, PRETRAINED, seed).folder / "training.log").read_text()
        assert "vgg16_bn/classifier_iter_3.caffemodel" in log
        assert "only in the file: scores;" in log  # every other layer of the classifier is the detector's
    metrics = (tmp_path / "pretraining" / "vgg16_bn" / "metrics.csv").read_text()
    assert metrics.count("\ntrain,0,") == 1


def test_what_another_process_is_at_is_left_to_it(tmp_path, data):
    with locked_folder(job(tmp_path, data).folder):
        assert launch.work([job(tmp_path, data)], nothing) == 0
    assert read_result(job(tmp_path, data).folder) is None


def test_an_error_ends_only_the_job_that_it_belongs_to(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(mini, "ITERATIONS", 5)
    (job(tmp_path, data).folder).mkdir(parents=True)
    (job(tmp_path, data).folder / "train.prototxt").write_text("another")
    words = ["experiment", "run", "table1", "--data", data, "-o", str(tmp_path), "--scale", "mini"]
    assert main([*words, "--only", f"{ONLY},bn_none_lr0.001_scratch"]) == 1
    shown = capsys.readouterr()
    assert "begun with other settings" in shown.err
    assert "bn_none_lr0.001_scratch, seed 1: mAP" in shown.out


def test_what_is_wrong_with_all_is_said_once(tmp_path, capsys):
    words = [
        "experiment",
        "run",
        "table1",
        "--data",
        str(tmp_path / "none"),
        "-o",
        str(tmp_path / "runs"),
        "--scale",
        "mini",
    ]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert shown.err.count("no VOC data set") == 1
    assert "24 of 24 runs without a result" in shown.out


def test_a_training_that_is_asked_to_stop_stops_the_command(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(launch, "run", lambda job, gpu: None)
    words = ["experiment", "run", "table1", "--data", data, "-o", str(tmp_path), "--scale", "mini", "--only", ONLY]
    assert main(words) == launch.STOPPED
    assert "the same line goes on from there" in capsys.readouterr().err


def test_two_processes_share_the_work(tmp_path, data):
    jobs = [job(tmp_path, data, seed=seed) for seed in (1, 2, 3)]
    assert launch.local(jobs, nothing, ["", ""]) == 0
    for one in jobs:
        assert read_result(one.folder).status == "done"
        assert (one.folder / "training.log").read_text().count("Starting Optimization") == 1


def test_several_devices_train_one_cell_together(tmp_path, data, monkeypatch):
    """Two processes of torchrun, on the CPU, since devices are all that is not there."""
    module = sys.modules[run.__module__]
    monkeypatch.setattr(module, "parse_gpus", lambda gpu: [0, 1])
    monkeypatch.setattr(module, "_device", lambda gpus: f"{len(gpus)} devices")
    result = run(job(tmp_path, data))
    assert (result.status, result.device) == ("done", "2 devices")
    kept = json.loads((job(tmp_path, data).folder / f"{BEST.recipe}_iter_20.resume").read_text())
    assert len(kept["run"]["processes"]) == 2

    wild_rates(monkeypatch)
    result = run(job(tmp_path, data, PLAIN))
    assert result.status == "diverged"
    assert 0 < result.iterations < 5


def test_jobs_of_slurm_share_the_work(tmp_path, data, monkeypatch):
    """By submitit's own local executor, which runs what it would submit."""
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    jobs = [job(tmp_path, data, seed=seed) for seed in (1, 2)]
    submitted = launch.slurm(jobs, nothing, 2, {"timeout_min": 5}, cluster="local")
    assert [one.result() for one in submitted] == [0, 0]
    assert all(read_result(one.folder).status == "done" for one in jobs)
    with pytest.raises(UsageError, match="submitit: "):
        launch.slurm(jobs, nothing, 1, {"timeout": "long"}, cluster="local")


def test_weights_of_one_cell_are_tested_at_several_scales_by_another(tmp_path, data, monkeypatch):
    monkeypatch.setattr(mini, "ITERATIONS", 5)
    again = replace(BEST, name="table1/again", multiscale=True, weights_of=BEST.name)
    result = run(job(tmp_path, data, again))
    trained = read_result(job(tmp_path, data).folder)
    assert result.cell == again.name
    assert result.sha256 == trained.sha256
    assert [path.name for path in job(tmp_path, data, again).folder.iterdir()] == [RESULT]


def test_a_cell_that_repeats_a_number_stands_for_the_one_that_is_trained(tmp_path):
    jobs = launch.plan([*paper.cells("table2"), *paper.cells("figure3")], [1, 2], tmp_path, "data", "mini")
    names = [one.cell.name for one in jobs if one.seed == 2]
    assert names == [*(cell.name for cell in paper.cells("table2")), "figure3/resnet18a"]


def test_cells_of_one_name_in_two_tables_are_two_cells():
    cells = _chosen(["table3", "table5"], None)
    assert [cell.name for cell in cells] == [cell.name for name in ("table3", "table5") for cell in paper.cells(name)]
    assert [cell.name for cell in _chosen(["table3", "table5"], "voc12,voc07")] == [
        "table3/voc12", "table5/voc12", "table3/voc07", "table5/voc07",
    ]  # fmt: skip


def test_a_run_that_was_begun_with_other_settings_is_refused(tmp_path, data):
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


@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if cell.experiment in mini.EXPERIMENTS])
def test_the_rule_changes_channels_sizes_and_rates_and_nothing_else(name):
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
    assert (small.solver.gamma, small.solver.weight_decay, small.solver.momentum) == (
        published.solver.gamma,
        published.solver.weight_decay,
        published.solver.momentum,
    )
    pictures = 32 if cell.start == "classifier" else 128
    assert small.solver.base_lr == pytest.approx(published.solver.base_lr * (mini.BATCH / pictures) ** 0.5, rel=1e-5)
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


def write_devkit(folder):
    for year in ("VOC2007", "VOC2012"):
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / year / part).mkdir(parents=True)
        for number, listed in enumerate(("trainval", "test"), 1):
            name = f"{year[3:]}_{number:06d}"
            picture = np.random.default_rng(number).integers(0, 255, (60, 90, 3), np.uint8)
            assert cv2.imwrite(str(folder / year / "JPEGImages" / f"{name}.jpg"), picture)
            dog = VocObject("dog", (13, 14, 55, 47))
            (folder / year / "Annotations" / f"{name}.xml").write_text(voc_xml(f"{name}.jpg", 90, 60, [dog]))
            (folder / year / "ImageSets/Main" / f"{listed}.txt").write_text(f"{name}\n")
    return folder


def test_at_full_size_a_cell_is_the_published_recipe_on_the_users_own_voc(tmp_path):
    data, root = str(write_devkit(tmp_path / "VOCdevkit")), tmp_path / "runs"
    sources = full.sources(PLAIN, root, data)
    assert (len(sources.classes), sources.classes[11], sources.test.name) == (20, "dog", "VOC2007")
    assert len(Database(sources.train_source)) == 2
    folder = job(root, data, PLAIN).folder
    recipe, published = full.build(PLAIN, sources, folder, 2, 4), prototxt.build(PLAIN.recipe)
    assert recipe.train.layer[0].data_param.source == str(sources.train_source)
    assert recipe.train.layer[1:] == published.train.layer[1:]
    assert (recipe.solver.random_seed, recipe.solver.max_iter) == (2, published.solver.max_iter)
    assert recipe.solver.stepvalue == published.solver.stepvalue
    assert full.start(PLAIN, recipe, root) is None

    two = full.build(PLAIN, sources, folder, 2, 2)  # half as many devices, each with twice as many pictures
    sizes = [one.train.layer[0].data_param.batch_size for one in (recipe, two)]
    assert sizes == [32, 64]

    pretrained = CELLS["baselines/bn_all_batch128"]
    recipe = full.build(pretrained, sources, folder, 1, 4)
    assert recipe.train.layer[0].data_param.batch_size == 32  # 128 in all, where the recipe has 32
    with pytest.raises(FileError, match=r"VGG_16_bn\.caffemodel"):
        full.start(pretrained, recipe, root)
    (root / "pretraining").mkdir()
    (root / "pretraining" / "VGG_16_bn.caffemodel").write_bytes(b"")
    assert full.start(pretrained, recipe, root) == root / "pretraining" / "VGG_16_bn.caffemodel"


@pytest.mark.parametrize("name", ["table4/scratchdet300", "table3/voc12", "table5/voc07", "faster_rcnn/bn_all"])
def test_at_full_size_what_needs_other_data_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot be run by this command"):
        full.sources(CELLS[name], tmp_path, "VOCdevkit")


def test_what_has_no_small_form_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no small form"):
        mini.sources(CELLS["table4/scratchdet300"], tmp_path, "data")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--launcher", "slurm", "--gpu", "0"], "gpus_per_node"),
        (["--jobs", "2"], "--launcher slurm"),
        (["--launcher", "torchrun", "--scale", "mini"], "one device"),
        (["--launcher", "slurm", "--slurm", "timeout_min"], "NAME=VALUE"),
        (["--only", "bn_all_lr0.05"], "bn_all_lr0.05_scratch"),
        (["--seeds", "0"], "at least 1"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path, capsys, words, message):
    assert main(["experiment", "run", "table1", "--data", "x", "-o", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
