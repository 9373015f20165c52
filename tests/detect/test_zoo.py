"""The zoo: its detectors are complete, alike in both forms of their weights, and found by name."""

import json

import cv2
import numpy as np
import pytest
import safetensors.numpy

from pyscratchdet.cli import main
from pyscratchdet.converters.weights import convert_weights
from pyscratchdet.detect import zoo
from pyscratchdet.detect.detector import Detector
from pyscratchdet.errors import UsageError


@pytest.fixture
def smear(tmp_path):
    """Returns the path of a drawn blood smear: seven red cells, and a white one with a violet nucleus."""
    picture = np.full((480, 640, 3), (206, 216, 224), np.uint8)
    for x, y in ((90, 90), (230, 80), (90, 240), (110, 400), (270, 400), (560, 90), (560, 400)):
        cv2.circle(picture, (x, y), 48, (150, 150, 205), -1, cv2.LINE_AA)
        cv2.circle(picture, (x, y), 18, (175, 180, 215), -1, cv2.LINE_AA)
    cv2.circle(picture, (390, 240), 90, (190, 160, 180), -1, cv2.LINE_AA)
    cv2.circle(picture, (390, 240), 66, (150, 60, 110), -1, cv2.LINE_AA)
    path = tmp_path / "smear.png"
    cv2.imwrite(str(path), cv2.GaussianBlur(picture, (0, 0), 2))
    return path


@pytest.mark.parametrize("name", zoo.names())
def test_a_detector_is_complete_and_both_files_hold_the_same_weights(name, tmp_path):
    files = zoo.files(name)
    assert {path.name for path in files.model.parent.iterdir()} >= {
        "deploy.prototxt", "labelmap.prototxt", f"{name}.caffemodel", f"{name}.safetensors", "LICENSE", "README.md",
    }  # fmt: skip
    convert_weights(files.weights, tmp_path / "weights.safetensors", files.model)
    ours, kept = (
        safetensors.numpy.load_file(path)
        for path in (tmp_path / "weights.safetensors", files.weights.with_suffix(".safetensors"))
    )
    assert ours.keys() == kept.keys()
    for key, values in ours.items():
        np.testing.assert_array_equal(values, kept[key], key)


def test_cells_are_found(smear):
    detector = Detector.from_zoo("bccd")
    found = detector.detect(smear, threshold=0.5)
    named = [detector.names[label] for label in found.labels]
    assert named.count("WBC") == 1
    assert 6 <= named.count("RBC") <= 9
    (nucleus,) = found.boxes_px[[name == "WBC" for name in named]]
    assert np.abs(nucleus - (300, 150, 480, 330)).max() < 40


def test_the_command_takes_a_name(smear, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bccd").mkdir()  # a folder is no net
    assert main(["detect", "--model", "bccd", str(smear), "-o", "out"]) == 0
    assert "WBC: 1" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    detector = Detector.from_zoo("bccd")
    found = detector.detect(smear, threshold=0.5)
    rows = content["images"][0]["detections"]
    assert [row["class"] for row in rows] == [detector.names[label] for label in found.labels]


def test_given_weights_and_labels_win(smear, tmp_path, capsys):
    labels = tmp_path / "labels.prototxt"
    labels.write_text(zoo.files("bccd").labelmap.read_text().replace("WBC", "leukocyte"))
    line = ["detect", "--labelmap", str(labels), "--model", "bccd", str(smear), "-o", str(tmp_path / "out")]
    assert main(line) == 0
    assert "leukocyte: 1" in capsys.readouterr().out
    assert main([*line, "--weights", str(tmp_path / "none.caffemodel")]) == 2
    assert "none.caffemodel" in capsys.readouterr().err


def test_what_is_not_there_is_said(smear, tmp_path, capsys):
    with pytest.raises(UsageError, match=r'no detector bcd in the zoo.*did you mean "bccd"'):
        Detector.from_zoo("bcd")
    assert main(["detect", str(smear), "-o", str(tmp_path / "out")]) == 2
    assert "--model with a name of the zoo: bccd" in capsys.readouterr().err
