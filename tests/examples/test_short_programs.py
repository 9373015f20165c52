"""The short programs of examples/, each run as its reader runs it."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pyscratchdet import Detector, Preparation, build_net
from pyscratchdet.proto.weights import read_weights
from pyscratchdet.runtime import copy_weights, net_blobs, save_weights

EXAMPLES = Path(__file__).parents[2] / "examples"
ELSEWHERE = {"detect.py", "detect_opencv.py", "train_in_pytorch.py"}  # tested in the other files of this folder
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run(program, *arguments, folder):
    command = [sys.executable, str(EXAMPLES / program), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, env=os.environ | ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_detect_folder(block_model, picture, tmp_path):
    deploy, weights, labels = block_model
    photos = tmp_path / "photos"
    photos.mkdir()
    image = picture((0, 1, 1), (2, 3, 5))
    for name in ("one.png", "two.png"):
        cv2.imwrite(str(photos / name), image)
    (photos / "notes.txt").write_text("no picture")
    assert (
        run("detect_folder.py", deploy, weights, labels, photos, "out.csv", folder=tmp_path) == "out.csv: 2 pictures\n"
    )
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    found = Detector(deploy, weights, labels).detect([image], threshold=0.3)[0]
    assert len(rows) == 2 * len(found.labels) > 0
    assert {row["class"] for row in rows} <= {"blue", "red"}


def test_custom_layer(tmp_path):
    assert run("custom_layer.py", folder=tmp_path) == "gates: 0.90, 0.50, 0.10\n"


def test_python_layer(tmp_path):
    assert run("python_layer.py", folder=tmp_path) == "[[[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]]]\n"


def test_compare_checkpoints(block_model, tmp_path):
    deploy, weights, _ = block_model
    net = build_net(str(deploy))
    copy_weights(net, weights)
    net.params["conf"][0].detach().mul_(1.5)
    save_weights(net, tmp_path / "other.caffemodel")
    lines = run("compare_checkpoints.py", weights, tmp_path / "other.caffemodel", folder=tmp_path).splitlines()
    assert lines[0] == "5.000e-01  conf[0]  3x3x1x1"
    assert all(line.startswith("0.000e+00") for line in lines[1:])
    assert len(lines) == 4


def test_extract_features(block_model, picture, tmp_path):
    deploy, weights, _ = block_model
    image = picture((1, 2, 0))
    cv2.imwrite(str(tmp_path / "one.png"), image)
    cv2.imwrite(str(tmp_path / "two.png"), picture())
    run("extract_features.py", deploy, weights, "pool", "out.npz", "one.png", "two.png", folder=tmp_path)
    found = np.load(tmp_path / "out.npz")
    assert found["features"].shape == (2, 3)
    # The mean over a pooled map is that over the prepared picture; both are sums in float32.
    wanted = Preparation()(image, 3, 32, 48).mean(axis=(1, 2))
    np.testing.assert_allclose(found["features"][0], wanted, rtol=1e-5)
    assert found["pictures"].tolist() == ["one.png", "two.png"]


def test_plot_priors(tmp_path):
    deploy = ROOT / "prototxt/models/ssd300_vgg16_voc0712/deploy.prototxt"
    assert run("plot_priors.py", deploy, "out.png", folder=tmp_path) == "out.png: 6 heads\n"
    height, width = cv2.imread(str(tmp_path / "out.png")).shape[:2]
    assert width > 3 * height > 300


def test_change_classes(block_model, tmp_path):
    """The detector of two classes with its second alone finds what it found of it."""
    deploy, weights, _ = block_model
    out = run("change_classes.py", weights, "red.caffemodel", "conf", 3, 2, folder=tmp_path)
    assert out == "conf: 3 channels, now 2\n"
    old, new = read_weights(weights).blobs, read_weights(tmp_path / "red.caffemodel").blobs
    for ours, theirs in zip(old["conf"], new["conf"], strict=True):
        assert (theirs == ours[[0, 2]]).all()
    assert all((ours == theirs).all() for ours, theirs in zip(old["loc"], new["loc"], strict=True))
    text = deploy.read_text().replace("num_output: 3", "num_output: 2").replace("dim: 3 } }", "dim: 2 } }")
    (tmp_path / "red.prototxt").write_text(text.replace("num_classes: 3", "num_classes: 2"))
    net = build_net(str(tmp_path / "red.prototxt"))
    copy_weights(net, tmp_path / "red.caffemodel")
    assert net_blobs(net)["conf"][0].shape == (2, 3, 1, 1)


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("change_classes.py", 5),
        ("compare_checkpoints.py", 2),
        ("detect.py", 1),
        ("detect_folder.py", 5),
        ("detect_opencv.py", 1),
        ("extract_features.py", 5),
        ("plot_priors.py", 2),
    ],
)
def test_without_its_arguments_a_program_says_what_they_are(program, arguments, tmp_path):
    for number in {0, arguments - 1}:
        command = [sys.executable, str(EXAMPLES / program), *["x"] * number]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | ENVIRONMENT)
        assert done.returncode == 1
        assert f"python {program} " in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", ["detect.py", "detect_opencv.py"])
def test_a_program_of_a_deploy_folder_says_that_it_is_not_in_one(program, tmp_path):
    command = [sys.executable, str(EXAMPLES / program), "photo.jpg"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | ENVIRONMENT)
    assert done.returncode == 1
    assert done.stderr.startswith("no labels.txt beside this program: run the copy")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("program", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_program_is_run_by_a_test(program):
    assert program.name in ELSEWHERE or f'run("{program.name}"' in Path(__file__).read_text(encoding="utf-8")
