"""The folder that `convert ... FOLDER/` writes, and its two programs, run as their readers run them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import cv2
import onnx
import pytest

from pyscratchdet.cli import main
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import read

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def deployed(block_model, tmp_path, capsys):
    """Returns (folder, what was printed) of the detector of known answers."""
    deploy, weights, labels = block_model
    saving = 'save_output_param { output_directory: "/home/me/results" output_format: "VOC" } nms_param'
    (tmp_path / "net.prototxt").write_text(deploy.read_text().replace("nms_param", saving))
    options = ["--model", str(tmp_path / "net.prototxt"), "--labelmap", str(labels), "--mean", "0"]
    folder = f"{tmp_path}/out/deploy/"
    assert main(["convert", str(weights), folder, *options, "--scale", repr(1 / 255)]) == 0
    return Path(folder), capsys.readouterr().out


@pytest.fixture
def photos(tmp_path, picture):
    paths = [tmp_path / "one.png", tmp_path / "two.png", tmp_path / "none.png"]
    cv2.imwrite(str(paths[0]), picture((0, 1, 2)))
    cv2.imwrite(str(paths[1]), picture((2, 3, 5), height=32, width=60))
    cv2.imwrite(str(paths[2]), picture())
    return [str(path) for path in paths]


def run(program, photos, python=sys.executable, **environment):
    done = subprocess.run(
        [python, program, *photos], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def check(done, photos):
    """Both programs say the same of the same detections; pixels are whole numbers, cells' borders."""
    code, out, err = done
    assert code == 0, err
    assert out == f"{photos[0]}: blue 1.00 at 48, 16, 72, 32\n{photos[1]}: red 1.00 at 50, 24, 60, 32\n"


def test_what_is_in_the_folder(deployed, tmp_path):
    folder, said = deployed
    assert {path.name for path in folder.iterdir()} == {
        "deploy.prototxt", "model.caffemodel", "model.onnx", "labels.txt", "detect.py", "detect_opencv.py",
    }  # fmt: skip
    assert (folder / "labels.txt").read_text() == "background\nblue\nred\n"
    net = read(folder / "deploy.prototxt", caffe_pb2.NetParameter)
    assert not net.layer[-1].detection_output_param.HasField("save_output_param")
    assert net.layer[-1].detection_output_param.nms_param.top_k == 100
    facts = {entry.key: entry.value for entry in onnx.load(folder / "model.onnx").metadata_props}
    assert (facts["preparation"], facts["mean"]) == ("given", "0")
    for path in folder.iterdir():
        assert b"/home/me" not in path.read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()
    assert f"python {folder}/detect.py PICTURE...\n" in said
    assert "    boxes are relative to the picture (0 to 1), not clipped to it\n" in said


def test_a_folder_is_not_made_of_itself(deployed, block_model, capsys):
    folder, _ = deployed
    before = {path: path.read_bytes() for path in folder.iterdir()}
    options = ["--model", f"{folder}/deploy.prototxt", "--labelmap", str(block_model[2])]
    assert main(["convert", f"{folder}/model.caffemodel", f"{folder}/", *options]) == 2
    assert "model.caffemodel is read by this command, and is not replaced" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_with_pyscratchdet(deployed, photos):
    check(run(deployed[0] / "detect.py", photos), photos)


def test_with_opencv_5(deployed, photos):
    python = os.environ.get("OPENCV5_PY") or (sys.executable if cv2.__version__ >= "5" else None)
    if python is None:
        pytest.skip("OpenCV 5 is not installed; OPENCV5_PY may name a Python that has it")
    check(run(deployed[0] / "detect_opencv.py", photos, python, PYTHONPATH=""), photos)


@pytest.mark.skipif(cv2.__version__ >= "5", reason="OpenCV 5 runs the file itself")
def test_with_onnxruntime(deployed, photos):
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    check(run(deployed[0] / "detect_opencv.py", photos), photos)


@pytest.mark.skipif(cv2.__version__ >= "5", reason="OpenCV 5 runs the file itself")
def test_opencv_4_alone_says_what_is_missing(deployed, photos, tmp_path):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "onnxruntime.py").write_text("raise ImportError")
    code, out, err = run(deployed[0] / "detect_opencv.py", photos, PYTHONPATH=str(tmp_path / "without"))
    assert (code, out) == (1, "")
    assert err.startswith(f"this is OpenCV {cv2.__version__}; model.onnx needs OpenCV 5, or onnxruntime")


def test_the_programs_are_short_and_what_examples_has(deployed):
    for path in (EXAMPLES / "detect.py", EXAMPLES / "detect_opencv.py"):
        theirs, mine = (deployed[0] / path.name).read_text().splitlines(), path.read_text().splitlines()
        assert len(theirs) == len(mine)
        changed = [line for line, other in zip(theirs, mine, strict=True) if line != other]
        assert changed == [
            *["WIDTH, HEIGHT = 48, 32  # of the net's input"] * (path.name == "detect_opencv.py"),
            "MEAN, SCALE, RGB = (0.0, 0.0, 0.0), 0.00392156862745098, False  # how the net's pictures are prepared",
        ]


def test_what_is_no_detector_and_labels_that_do_not_fit(block_model, tmp_path, capsys):
    deploy, weights, _ = block_model
    (tmp_path / "short.prototxt").write_text('item { name: "background" label: 0 } item { name: "blue" label: 1 }')
    (tmp_path / "plain.prototxt").write_text(deploy.read_text().partition('layer { name: "priors"')[0])
    for model, expected in (
        (deploy, "label map and net differ, expected labels 0 to 2, as the net has num_classes 3 and found 2 labels"),
        (tmp_path / "plain.prototxt", "not the deploy net of a detector"),
    ):
        options = ["--model", str(model), "--labelmap", str(tmp_path / "short.prototxt")]
        assert main(["convert", str(weights), f"{tmp_path}/out/", *options]) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
