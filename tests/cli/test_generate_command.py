"""`pyscratchdet generate` from its arguments to its files and messages."""

import json
import os

import pytest

from pyscratchdet.cli import main
from pyscratchdet.layers.costs import net_cost
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import read

NAME = "scratchdet300_rootres18_voc0712"


def test_files_of_one_recipe(tmp_path, capsys):
    arguments = ["--num-classes", "5", "--size", "128", "--width", "0.25", "--gpus", "", "--batch-size", "6"]
    assert main(["generate", NAME, "-o", f"{tmp_path}/nets/", *arguments]) == 0
    assert NAME in capsys.readouterr().out
    folder = tmp_path / "nets" / NAME
    assert sorted(os.listdir(folder)) == [
        ".written.json",
        "deploy.prototxt",
        f"{NAME}.sh",
        "solver.prototxt",
        "test.prototxt",
        "train.prototxt",
    ]
    solver = read(folder / "solver.prototxt", caffe_pb2.SolverParameter)
    assert solver.train_net == str(folder / "train.prototxt")
    assert solver.solver_mode == caffe_pb2.SolverParameter.CPU
    deploy = read(folder / "deploy.prototxt", caffe_pb2.NetParameter)
    assert list(deploy.input_shape[0].dim) == [1, 3, 128, 128]
    assert read(folder / "train.prototxt", caffe_pb2.NetParameter).layer[0].data_param.batch_size == 6


def test_relative_paths_stay_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", NAME]) == 0
    solver = read(f"models/{NAME}/solver.prototxt", caffe_pb2.SolverParameter)
    assert solver.snapshot_prefix == f"models/{NAME}/{NAME}"


def test_list_as_json(capsys):
    assert main(["generate", "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    found = {row["name"]: row for row in rows}["ssd300_vgg16_voc0712"]
    plan = plan_net("prototxt/models/ssd300_vgg16_voc0712/deploy.prototxt")
    cost = net_cost(plan)
    assert (found["size"], found["parameters"], found["macs"]) == (300, cost.num_parameters, cost.macs)
    assert main(["generate", "ssd300_vgg16_voc0712", "--json"]) == 2
    assert "--json is for the list of recipes, expected --list" in capsys.readouterr().err


def test_list_shows_size_cost_and_result(capsys):
    assert main(["generate", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("ssd300_vgg16_voc0712 "))
    assert row.split()[1:4] == ["300", "26.3", "62.8"]
    assert "77.2 mAP" in row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no recipe was chosen"),
        (["ssd300_vgg_voc0712"], 'no recipe called "ssd300_vgg_voc0712"; did you mean'),
        ([NAME, "--gpus", "a"], "--gpus takes numbers separated by commas, expected 0,1 and found a"),
        ([NAME, "--num-classes", "1"], "num_classes is too small"),
        (["dsod300_voc0712", "--size", "512"], "has a fixed size; these do not:"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, capsys):
    assert main(["generate", *arguments, "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["generate", NAME, "-o", str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_own_steps_and_snapshots_are_kept_when_the_length_changes(tmp_path):
    flags = ["--max-iter", "700", "--stepvalue", "560,650", "--snapshot", "350", "-o", str(tmp_path)]
    assert main(["generate", NAME, *flags]) == 0
    solver = read(tmp_path / NAME / "solver.prototxt", caffe_pb2.SolverParameter)
    assert list(solver.stepvalue) == [560, 650]
    assert (solver.max_iter, solver.snapshot, solver.test_interval) == (700, 350, 35)
