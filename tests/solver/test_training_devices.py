"""Training, its test phase and a resumed run on another device, as on the CPU."""

import numpy as np
import pytest
import toynet
from toydetector import write_detector

from pyscratchdet.solver import Precision, Solver, read_solver

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
