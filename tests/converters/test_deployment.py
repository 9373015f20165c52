"""Exported detectors in the engines that are installed, each in a process of its own, as a user would run them."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from small_nets import detector, noise, small_net

from pyscratchdet.converters.compare import match_detections
from pyscratchdet.converters.engines import PyTorchEngine
from pyscratchdet.converters.onnx_export import save_onnx
from pyscratchdet.runtime import load_net

RUNNER = Path(__file__).parents[2] / "benchmarks" / "engine_runner.py"
MODULES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "opencv": "cv2", "mnn": "MNN"}
# Largest difference of a score or coordinate, values below 2: 1e-4 for another order of summation through a whole net;
# MNN multiplies in Winograd's way, with lower precision.
SCORE = {"onnxruntime": 1e-4, "openvino": 1e-4, "opencv": 1e-4, "mnn": 5e-3}
KINDS = {
    "some": detector(),
    "nothing": detector().replace("confidence_threshold: 0.3", "confidence_threshold: 0.999"),
    "own boxes": detector()
    .replace("share_location: true", "share_location: false")
    .replace("output: 12", "output: 36"),
}


def run(engine, folder, net, cases, **options):
    """Returns {case: outputs} of the net's file."""
    if importlib.util.find_spec(MODULES[engine]) is None:
        pytest.skip(f"{MODULES[engine]} is not installed")
    model = save_onnx(net, folder / "net.onnx", **options)
    names = [value.name for value in model.graph.output]
    arrays = {f"{case}:data": array for case, array in cases.items()}
    np.savez(folder / "in.npz", outputs=np.array(names), **arrays)
    command = [sys.executable, RUNNER, engine, folder / "net.onnx", folder / "in.npz", folder / "out.npz"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with np.load(folder / "out.npz") as found:
        return {case: [found[f"{case}:{name}"] for name in names] for case in cases}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", ["decoded", "fixed"])
@pytest.mark.parametrize("engine", MODULES)
def test_rows_are_the_same(engine, heads, kind, tmp_path):
    if engine == "opencv" and cv2.__version__ < "5":
        pytest.skip("OpenCV 4 has no NonMaxSuppression")
    net = small_net(KINDS[kind])
    # The numbers of rows and pictures differ from case to case: some engines keep what the first run allocated.
    cases = {str(number): noise((number, 3, 22, 26), 5 + number) / 100 for number in (1, 3, 2)}
    found = run(engine, tmp_path, net, cases, heads=heads)
    for case, array in cases.items():
        ours = PyTorchEngine(net).run({"data": array})["detection_out"].reshape(-1, 7)
        theirs = found[case][0].reshape(-1, 7)
        mine, others = match_detections(ours, theirs)
        assert len(mine) == (ours[:, 1] >= 0).sum() == (theirs[:, 1] >= 0).sum()
        assert (len(mine) > 0) == (kind != "nothing")
        np.testing.assert_allclose(mine[:, 2:], others[:, 2:], atol=SCORE[engine])


@pytest.mark.parametrize("heads", ["decoded", "fixed"])
@pytest.mark.parametrize("engine", MODULES)
def test_a_single_detection(engine, heads, block_model, picture, tmp_path):
    """What suppression leaves is then one row, or none: shapes that OpenCV 5 does not join to others."""
    if engine == "opencv" and cv2.__version__ < "5":
        pytest.skip("OpenCV 4 has no NonMaxSuppression")
    net = load_net(*block_model[:2])
    scenes = {"one": [(0, 1, 2)], "none": [], "two": [(0, 1, 2), (2, 3, 4)]}
    cases = {name: cv2.dnn.blobFromImage(picture(*blocks), 1 / 255, (48, 32)) for name, blocks in scenes.items()}
    found = run(engine, tmp_path, net, cases, heads=heads)
    for name, array in cases.items():
        ours = PyTorchEngine(net).run({"data": array})["detection_out"].reshape(-1, 7)
        mine, others = match_detections(ours, found[name][0].reshape(-1, 7))
        assert len(mine) == len(scenes[name]) == (found[name][0].reshape(-1, 7)[:, 1] >= 0).sum()
        np.testing.assert_allclose(mine[:, 2:], others[:, 2:], atol=SCORE[engine])


@pytest.mark.parametrize("engine", MODULES)
def test_a_fixed_batch(engine, tmp_path):
    if engine == "opencv" and cv2.__version__ < "5":
        pytest.skip("OpenCV 4 has no NonMaxSuppression")
    net = small_net(detector())
    inputs = noise((3, 3, 22, 26)) / 100
    (rows,) = run(engine, tmp_path, net, {"three": inputs}, heads="fixed", batch=3)["three"]
    ours = PyTorchEngine(net).run({"data": inputs})["detection_out"]
    mine, others = match_detections(ours, rows)
    assert len(mine) == ours.shape[2]
    np.testing.assert_allclose(mine[:, 2:], others[:, 2:], atol=SCORE[engine])


@pytest.mark.parametrize("engine", MODULES)
def test_boxes_and_scores_with_a_fixed_batch(engine, tmp_path):
    net = small_net(detector())
    inputs = {"data": noise((1, 3, 22, 26)) / 100}
    boxes, scores = run(engine, tmp_path, net, {"one": inputs["data"]}, heads="boxes", batch=1)["one"]
    ours = PyTorchEngine(net).run(inputs)
    np.testing.assert_allclose(scores.ravel(), ours["mbox_conf_flatten"].ravel(), atol=SCORE[engine])
    rows = ours["detection_out"].reshape(-1, 7)
    gaps = np.abs(boxes.reshape(1, -1, 4) - rows[:, None, 3:]).max(axis=2).min(axis=1)
    # Each detection is one of the boxes; MNN's rounding stays below this, other boxes are further away.
    assert gaps.max() < 1e-3


def test_the_files_say_what_they_are(tmp_path):
    facts = {"labels": '{"1": "cat"}'}
    save_onnx(small_net(detector()), tmp_path / "net.onnx", metadata=facts)
    props = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert props["heads"] == "decoded"
    assert props["size"] == "22x26"
    assert props["columns"].split(", ")[:3] == ["image", "label", "score"]
    assert props["labels"] == facts["labels"]
