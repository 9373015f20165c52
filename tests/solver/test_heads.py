"""Starting from weights whose heads have other shapes."""

import numpy as np
import pytest
from toydetector import write_detector
from toynet import TRAIN

from pyscratchdet.cli import main
from pyscratchdet.errors import SolverError, WeightsError
from pyscratchdet.proto.weights import read_weights
from pyscratchdet.runtime import net_blobs
from pyscratchdet.solver import Solver


def detector(folder, **settings):
    folder.mkdir()
    return write_detector(folder, **settings)


@pytest.fixture
def of_three(tmp_path):
    """The weights of a detector of three classes."""
    solver = Solver(
        detector(tmp_path / "three", classes=3, train=(((1, 0.1, 0.1, 0.6, 0.7), (2, 0.3, 0.2, 0.9, 0.8)),))
    )
    return str(solver.snapshot()).replace("solverstate", "caffemodel")


def test_other_shapes_are_refused_with_both_ways_out(of_three, tmp_path):
    with pytest.raises(WeightsError, match="rename the layer, or train with --reset-heads") as caught:
        Solver(detector(tmp_path / "two")).copy_weights(of_three)
    assert (caught.value.code, caught.value.layer) == ("weights.shape", "conf")


def test_heads_are_filled_afresh_and_all_else_is_copied(of_three, tmp_path, capsys):
    path = detector(tmp_path / "two")
    fresh, weights = net_blobs(Solver(path).net), read_weights(of_three).blobs
    started = Solver(path, reset_heads=True)
    started.copy_weights(of_three)
    found = net_blobs(started.net)
    for layer, wanted in (("conv1", weights), ("loc", weights), ("conf", fresh)):
        for blob, other in zip(found[layer], wanted[layer], strict=True):
            np.testing.assert_array_equal(blob, other)
    assert main(["train", f"--solver={path}", "--iterations=1", "--weights", of_three, "--reset-heads"]) == 0
    error = capsys.readouterr().err
    assert "Layer conf is filled afresh: 6x6x3x3, 6 in the weights, 4x6x3x3, 4 here" in error
    assert "3 classes in the weights, 2 here, background included" in error
    assert error.count("filled afresh") == 1
    assert "2 layers copied; 1 layer of other shapes, freshly filled: conf" in error


def test_weights_of_which_nothing_fits_are_refused(of_three, tmp_path, capsys):
    path = detector(tmp_path / "wide")
    for name in ("train.prototxt", "test.prototxt"):
        net = tmp_path / "wide" / name
        net.write_text(net.read_text().replace("num_output: 6 kernel_size: 8", "num_output: 5 kernel_size: 8"))
    assert main(["train", f"--solver={path}", "--iterations=1", "--weights", of_three, "--reset-heads"]) == 2
    error = capsys.readouterr().err
    assert "nothing fits this net" in error
    assert "[weights.nothing-fits]" in error
    assert "found 3 layers of other shapes, 0 of other names" in error
    for name in ("train.prototxt", "test.prototxt"):
        net = tmp_path / "wide" / name
        net.write_text(net.read_text().replace('name: "', 'name: "other_'))
    assert main(["train", f"--solver={path}", "--iterations=1", "--weights", of_three]) == 2
    assert "found 0 layers of other shapes, 3 of other names; weights of another net?" in capsys.readouterr().err


def test_a_layer_with_another_number_of_blobs_is_filled_afresh(toy, tmp_path, capsys):
    Solver(toy()).step(7)
    weights = f"{tmp_path}/out/toy_iter_7.caffemodel"
    path = toy(train=TRAIN.replace("num_output: 2 weight_filler", "num_output: 2 bias_term: false weight_filler"))
    assert main(["train", "--solver", path, "--iterations=1", "--weights", weights, "--reset-heads"]) == 0
    error = capsys.readouterr().err
    assert "Layer fc2 is filled afresh: 2x5, 2 in the weights, 2x5 here" in error
    assert "classes in the weights" not in error


def test_without_weights_the_flag_is_refused(toy, capsys):
    assert main(["train", "--solver", toy(), "--reset-heads"]) == 2
    assert "[train.reset-heads]" in capsys.readouterr().err


def test_a_solver_state_is_still_told_from_weights(toy, tmp_path):
    Solver(toy()).step(7)
    with pytest.raises(SolverError, match="holds a solver state, not weights"):
        Solver(toy(), reset_heads=True).copy_weights(f"{tmp_path}/out/toy_iter_7.solverstate")
