"""The weights of the best test, and the early end of a run that no longer gets better."""

import json
import re

import pytest
from toynet import SOLVER, TRAIN

from pyscratchdet.cli import main
from pyscratchdet.proto.weights import read_weights
from pyscratchdet.solver import Action, Solver, World
from pyscratchdet.solver.best import BestWeights
from pyscratchdet.solver.meter import SolverEvent

TESTS = "eval_type: 'detection' test_iter: 1 test_interval: 5"
ACCURACY = """
layer { name: "label" type: "DummyData" top: "label" include { phase: TEST } dummy_data_param { shape { dim: 6 } } }
layer { name: "size" type: "Reduction" bottom: "fc2" top: "size" include { phase: TEST } }
layer { name: "accuracy" type: "Accuracy" bottom: "fc2" bottom: "label" top: "accuracy" include { phase: TEST } }
"""


@pytest.fixture
def figures(monkeypatch):
    """Makes the tests give these figures of mAP, one after the other; None is a test without detections."""

    def give(*values):
        given = iter(values)
        monkeypatch.setattr(
            "pyscratchdet.solver.testing.test",
            lambda net, *_: {} if (value := next(given)) is None else {"test0/eval": value, "mAP": value},
        )

    return give


def train(path, *flags):
    assert main(["train", "--solver", path, *flags]) == 0


def record(tmp_path):
    return json.loads((tmp_path / "out/toy_best.json").read_text())


def blobs(path):
    return {name: [blob.tobytes() for blob in blobs] for name, blobs in read_weights(path).blobs.items()}


def states(tmp_path):
    return sorted(int(re.findall(r"\d+", path.name)[0]) for path in (tmp_path / "out").glob("*.solverstate"))


def test_the_best_weights_stay_whatever_snapshots_are_removed(toy, tmp_path, figures):
    path = toy(TESTS, solver=SOLVER.replace("snapshot: 7", "snapshot: 5"))
    figures(0.1, 0.4, None, 0.4, 0.3)
    train(path, "--keep-best")
    assert record(tmp_path) == {"iteration": 5, "mAP": 0.4}
    assert blobs(tmp_path / "out/toy_best.caffemodel") == blobs(tmp_path / "out/toy_iter_5.caffemodel")
    kept = (tmp_path / "out/toy_best.caffemodel").read_bytes()
    figures(0.1, 0.4, 0.2, 0.4, 0.3)
    train(path, "--keep-best", "--keep", "1")
    assert states(tmp_path) == [20]
    assert (tmp_path / "out/toy_best.caffemodel").read_bytes() == kept


def test_a_run_that_does_not_get_better_ends_early_with_a_snapshot(toy, tmp_path, figures, capsys):
    figures(0.1, 0.4, 0.3, None)
    train(toy(TESTS), "--patience", "2")
    assert states(tmp_path) == [7, 14, 15]
    error = capsys.readouterr().err
    assert "No better mAP in 2 tests, so the run ends early: best 0.4 at iteration 5, kept as" in error
    assert "Optimization stopped early." in error


def test_a_run_without_any_figure_ends_early_too(toy, tmp_path, figures, capsys):
    figures(None, None, None)
    train(toy(TESTS), "--patience", "2")
    assert states(tmp_path) == [7, 10]
    assert "there was none at all" in capsys.readouterr().err
    assert not (tmp_path / "out/toy_best.json").exists()


def test_a_resumed_run_counts_on_and_a_test_made_again_does_not_count(toy, tmp_path, figures):
    path = toy(TESTS)
    figures(0.1, 0.4, 0.3)
    train(path, "--patience", "3", "--iterations", "10")
    assert (record(tmp_path), states(tmp_path)) == ({"iteration": 5, "mAP": 0.4}, [7, 10])
    figures(0.3, 0.2, 0.1)  # of iterations 10, again, 15 and 20, where the run is over anyway
    train(path, "--patience", "3", "--resume", "auto")
    assert (record(tmp_path), states(tmp_path)) == ({"iteration": 5, "mAP": 0.4}, [7, 10, 14, 20])
    figures(0.3, 0.2)
    (tmp_path / "out/toy_iter_20.solverstate").unlink()
    (tmp_path / "out/toy_iter_14.solverstate").unlink()
    train(path, "--patience", "2", "--resume", "auto")
    assert states(tmp_path) == [7, 10, 14, 15]


def test_a_new_run_begins_with_a_best_of_its_own(toy, tmp_path, figures):
    path = toy(TESTS)
    figures(0.9, 0.1, 0.1, 0.1, 0.1)
    train(path, "--keep-best")
    figures(0.2, 0.3, 0.1, 0.1, 0.1)
    train(path, "--keep-best")
    assert record(tmp_path) == {"iteration": 5, "mAP": 0.3}


@pytest.mark.parametrize(
    ("more", "figure"), [("", "loss"), (ACCURACY, "accuracy"), (ACCURACY[: ACCURACY.rindex("layer")], "size")]
)
def test_other_nets_are_judged_by_accuracy_then_by_an_output_then_by_the_loss(toy, tmp_path, capsys, more, figure):
    train(toy("test_iter: 2 test_interval: 5", TRAIN + more), "--keep-best")
    order = "lowest" if figure == "loss" else "highest"
    error = capsys.readouterr().err
    assert f"The weights of the {order} test {figure} are kept as" in error
    found = [float(value) for value in re.findall(rf"Test net output #\d: {figure} = (\S+)", error)]
    assert len(found) == 5
    best = (min if figure == "loss" else max)(found)
    assert record(tmp_path)["iteration"] == 5 * found.index(best)
    assert record(tmp_path)[figure] == pytest.approx(best, rel=1e-5)  # printed with six digits


def test_weights_and_record_take_the_form_of_the_snapshots(toy, tmp_path, figures):
    figures(0.1, 0.2)
    train(toy(TESTS + " snapshot_format: HDF5"), "--keep-best", "--iterations=6")
    assert sorted(path.name for path in (tmp_path / "out").glob("toy_best*")) == [
        "toy_best.caffemodel.h5",
        "toy_best.json",
    ]


class Recorded(World):
    """The first of two processes, whose second is not there; notes what it asks of all."""

    size = 2

    def __init__(self):
        self.asked = []

    def agree(self, action):
        self.asked.append(action)
        return action


def test_process_0_decides_and_asks_all_to_stop(toy, figures):
    figures(0.4, 0.3, 0.2)
    world = Recorded()
    solver = Solver(toy(TESTS), world=world)
    solver.test_listeners.append(BestWeights(solver, patience=2))
    solver.step(20)
    assert (solver.iter, solver.stopped) == (10, True)
    assert [int(action) for action in world.asked[-2:]] == [Action.NONE, Action.STOP]


def test_all_test_nets_are_tested_before_a_run_ends_early(toy, tmp_path, figures, monkeypatch):
    solver = Solver(toy(TESTS + " test_iter: 1"))
    solver.test_listeners.append(BestWeights(solver, patience=1))
    tested = []
    solver.listeners.append(
        lambda event: tested.append((event.iteration, event.test_net)) if event.kind == "test" else None
    )
    figures(0.4, 0.9, 0.3, 0.9)
    solver.step(20)
    assert tested == [(0, 0), (0, 1), (5, 0), (5, 1)]
    assert record(tmp_path) == {"iteration": 0, "mAP": 0.4}  # the first test net's


@pytest.mark.parametrize(
    ("more", "solver", "flags", "code"),
    [
        ("", SOLVER, ["--keep-best"], "train.keep-best"),
        ("test_iter: 0 test_interval: 5", SOLVER, ["--patience=1"], "train.keep-best"),
        (TESTS, re.sub(r'snapshot: 7 snapshot_prefix: "\S+"', "", SOLVER), ["--keep-best"], "solver.snapshot-prefix"),
    ],
)
def test_what_cannot_be_compared_or_kept_is_refused(toy, capsys, more, solver, flags, code):
    assert main(["train", "--solver", toy(more, solver=solver), *flags]) == 2
    assert f"[{code}]" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"iteration": 5, "loss": 1}', '{"iteration": "x", "mAP": 1}'])
def test_a_damaged_record_is_refused_by_name(toy, tmp_path, figures, capsys, content):
    path = toy(TESTS)
    figures(0.1, 0.4, 0.3)
    train(path, "--keep-best", "--iterations", "7")
    (tmp_path / "out/toy_best.json").write_text(content)
    capsys.readouterr()
    assert main(["train", "--solver", path, "--keep-best", "--resume", "auto"]) == 2
    error = capsys.readouterr().err
    assert "toy_best.json" in error
    assert "[solver.best]" in error


def test_a_detector_that_does_not_look_at_the_pictures_is_the_best_only_until_another_comes(toy, tmp_path, figures):
    solver = Solver(toy(TESTS))
    blind = iter([True, True, True, False, False])
    seen = []
    solver.test_listeners.append(lambda event: seen.append(next(blind)))
    solver.test_listeners.append(BestWeights(solver, patience=1, is_blind=lambda: seen[-1]))
    figures(0.6, 0.5, 0.5, 0.1, 0.05)
    solver.step(14)
    assert not solver.stopped
    assert record(tmp_path) == {"iteration": 0, "mAP": 0.6, "same_box_everywhere": True}
    solver.step(6)
    assert record(tmp_path) == {"iteration": 15, "mAP": 0.1}
    again = BestWeights(solver, goes_on=True, is_blind=lambda: True)
    again(SolverEvent("test", 20, {"mAP": 0.9}, test_net=0))
    assert record(tmp_path) == {"iteration": 15, "mAP": 0.1}
