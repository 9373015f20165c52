"""Training, its test phase and a resumed run on another device, as on the CPU."""

import subprocess

import numpy as np
import pytest
import torch
import toynet
from toydetector import write_detector

from pyscratchdet.data.database import Database
from pyscratchdet.devices import check_precision, use_tf32
from pyscratchdet.errors import UsageError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.runtime.features import extract_features
from pyscratchdet.solver import Precision, Solver, read_solver
from pyscratchdet.solver.detection_test import DetectionTest, run_detection_test
from pyscratchdet.solver.launch import spawn
from pyscratchdet.solver.resume import RunState
from pyscratchdet.solver.smoothing import SmoothedLoss

FAST = Precision(is_fast=True, autocast=False)
# Sums in another order on a GPU; the emulated device computes as the CPU does.
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def trained(solver, steps):
    """Makes steps and returns the weights and histories."""
    solver.step(steps)
    blobs = [entry.parameter for entry in solver.net.learnable] + solver.optimizer.histories()
    return [blob.detach().cpu().numpy() for blob in blobs]


@pytest.mark.parametrize("precision", [Precision(), FAST], ids=["reference", "fast"])
def test_steps_and_test_phase(tmp_path, device, precision):
    param = read_solver(write_detector(tmp_path))
    param.test_initialization, param.display = True, 1
    results, tests = [], []
    for place in ("cpu", device):
        solver = Solver(param, device=place, precision=precision, options={"workers": 0}, writes=False)
        seen = []
        solver.listeners.append(lambda event, seen=seen: seen.append((event.kind, sorted(event.values))))
        solver.test_listeners.append(lambda event: tests.append(event.values))
        results.append(trained(solver, 3))
        assert all(entry.parameter.device == solver.device for entry in solver.net.learnable)
        assert seen
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, **CLOSE)
    assert tests[0] == pytest.approx(tests[1])


def test_a_resumed_run_goes_on_with_the_same_masks(tmp_path, device):
    """Dropout draws on the device."""
    (tmp_path / "train.prototxt").write_text(toynet.TRAIN)
    (tmp_path / "solver.prototxt").write_text(toynet.SOLVER.format(folder=tmp_path))
    whole = Solver(tmp_path / "solver.prototxt", device=device)
    whole.step(3)
    state = whole.snapshot()
    expected = trained(whole, 2)
    resumed = Solver(tmp_path / "solver.prototxt", device=device)
    resumed.restore(state)
    for found, wanted in zip(trained(resumed, 2), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_test_net_outside_training(tmp_path, device):
    """`evaluate caffe` and `score`: its data layers deliver on the CPU unless they are told."""
    path = write_detector(tmp_path)
    weights = Solver(path, options={"workers": 0}, writes=False).snapshot().with_suffix(".caffemodel")
    test = DetectionTest.of_solver(path)
    found, expected = (run_detection_test(test, weights, place) for place in (device, "cpu"))
    assert [summary.mean_ap for summary in found.values()] == [summary.mean_ap for summary in expected.values()]


def test_features(tmp_path, device):
    path = write_detector(tmp_path)
    weights = Solver(path, options={"workers": 0}, writes=False).snapshot().with_suffix(".caffemodel")
    rows = []
    for place in (device, "cpu"):
        target = tmp_path / f"{place}_features"
        assert extract_features(tmp_path / "test.prototxt", weights, [("conv1", target)], 1, place) == [4]
        rows.append([list(caffe_pb2.Datum.FromString(value).float_data) for _, value in Database(target)])
    np.testing.assert_allclose(*rows, **CLOSE)


def test_the_generator_of_a_gpu_is_kept(monkeypatch):
    state = {"value": torch.arange(16, dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state["value"])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda value, device: state.update(value=value))
    gpu = torch.device("cuda", 0)
    runs = [RunState([], CaffeRandom(1), SmoothedLoss(1), device) for device in (gpu, torch.device("cpu"))]
    kept, of_cpu = (run.collect() for run in runs)
    assert "cuda" not in of_cpu
    state["value"] = torch.zeros(16, dtype=torch.uint8)
    runs[0].restore(of_cpu)  # of a run that was on the CPU
    assert state["value"].tolist() == [0] * 16
    runs[0].restore(kept)
    assert state["value"].tolist() == list(range(16))


@pytest.mark.parametrize(("visible", "expected"), [("", "1,2"), ("4,GPU-ab,7", "GPU-ab,7")])
def test_numbers_count_the_visible_gpus(monkeypatch, visible, expected):
    started = {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(
        subprocess, "run", lambda command, env, stderr: started.update(env) or subprocess.CompletedProcess(command, 0)
    )
    assert spawn([1, 2], ["--gpu", "1,2"]) == 0
    assert started["CUDA_VISIBLE_DEVICES"] == expected


@pytest.fixture
def tf32():
    """Returns a function that reads PyTorch's two settings, which are put back afterwards."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    yield lambda: [place.allow_tf32 for place in places]
    for place, value in zip(places, before, strict=True):
        place.allow_tf32 = value


def test_float32_is_not_tf32(tf32):
    for is_wanted in (True, False):
        use_tf32(torch.device("cuda"), is_wanted)
        assert tf32() == [is_wanted, is_wanted]
    use_tf32(torch.device("cpu"), True)
    assert tf32() == [False, False]


def test_bfloat16_is_asked_of_the_gpu(monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    check_precision("bf16", gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(UsageError, match="this GPU does not multiply bf16 numbers"):
        check_precision("bf16", gpu)
