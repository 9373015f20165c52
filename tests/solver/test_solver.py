import logging
import re

import numpy as np
import pytest
import torch
from toynet import SOLVER, TRAIN

from pyscratchdet.errors import FileError, PyScratchDetError, SolverError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.solver import Action, Precision, Solver, World

# One input, one weight: loss = (w x - y)^2 / 2, so that every figure can be worked out by hand.
LINE = """
name: "line"
layer {{ name: "x" type: "Input" top: "x" top: "y"
  input_param {{ shape {{ dim: 1 dim: 1 }} shape {{ dim: 1 dim: 1 }} }} }}
layer {{ name: "fc" type: "InnerProduct" bottom: "x" top: "fc"
  inner_product_param {{ num_output: 1 bias_term: false weight_filler {{ type: "constant" value: {weight} }} }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "y" top: "loss" }}
"""
PLAIN = 'net: "{folder}/train.prototxt" base_lr: 0.1 lr_policy: "fixed" snapshot_after_train: false solver_mode: CPU '


def inputs(x=2.0, y=1.0):
    return lambda net: {"x": torch.full((1, 1), x), "y": torch.full((1, 1), y)}


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="pyscratchdet.solver")
    return lambda: [record.getMessage() for record in caplog.records]


def line(toy, more, weight=3.0, **settings):
    return Solver(toy(more, LINE.format(weight=weight), PLAIN), feed=inputs(), **settings)


def test_display_lines(toy, log):
    solver = line(toy, "display: 2 max_iter: 3 average_loss: 2")
    solver.solve()
    # w: 3 -> 3 - 0.1 * (6 - 1) * 2 = 2 -> 1.4 -> 1.04; losses 12.5, 4.5, 1.62.
    expected = [
        "Solving line",
        "Learning Rate Policy: fixed",
        "Iteration 0, loss = 12.5",
        "    Train net output #0: loss = 12.5 (* 1 = 12.5 loss)",
        "Iteration 0, lr = 0.1",
        "Iteration 2, loss = 3.06",
        "    Train net output #0: loss = 1.62 (* 1 = 1.62 loss)",
        "Iteration 2, lr = 0.1",
        "Optimization Done.",
    ]
    assert log()[-len(expected) :] == expected
    assert solver.net.params["fc"][0].item() == pytest.approx(1.04, rel=1e-6)  # float32 rounding


def test_last_display_and_test_after_training(toy, log):
    line(toy, "display: 2 max_iter: 2 test_iter: 2 test_interval: 2 test_compute_loss: true").solve()
    tests = [i for i, text in enumerate(log()) if "Testing net" in text]
    assert [log()[i] for i in tests] == ["Iteration 0, Testing net (#0)", "Iteration 2, Testing net (#0)"]
    # Twice the same input, so the mean is the value: 4 (w - 0.5)^2 / 2 for w = 3 and 1.4.
    assert log()[tests[0] + 1 : tests[0] + 3] == [
        "Test loss: 12.5",
        "    Test net output #0: loss = 12.5 (* 1 = 12.5 loss)",
    ]
    assert log()[tests[1] - 1] == "Iteration 2, loss = 1.62"
    assert log()[tests[1] + 2] == "    Test net output #0: loss = 1.62 (* 1 = 1.62 loss)"


def test_test_initialization_can_be_left_out(toy, log):
    line(toy, "max_iter: 1 test_iter: 1 test_interval: 2 test_initialization: false").solve()
    assert not [text for text in log() if "Testing net" in text]


def test_clipping_is_logged(toy, log):
    line(toy, "clip_gradients: 5").step(1)
    message = "Gradient clipping: scaling down gradients (L2 norm 10 > 5) by scale factor 0.5"
    assert message in log()


def test_debug_info(toy, log):
    train = """
      layer { name: "x" type: "Input" top: "x" top: "y"
        input_param { shape { dim: 1 dim: 2 } shape { dim: 1 dim: 1 } } }
      layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "shared" }
        inner_product_param { num_output: 1 bias_term: false weight_filler { type: "constant" value: -3 } } }
      layer { name: "twice" type: "Eltwise" bottom: "a" bottom: "a" top: "sum" eltwise_param { coeff: 1 coeff: 2 } }
      layer { name: "loss" type: "EuclideanLoss" bottom: "sum" bottom: "y" top: "loss" }"""
    feed = lambda net: {"x": torch.tensor([[1.0, 3.0]]), "y": torch.tensor([[4.0]])}  # noqa: E731
    Solver(toy("debug_info: true display: 1", train, PLAIN), feed=feed).step(1)
    # a = -12, sum = -36, loss = 40^2 / 2; d sum = -40, d a = -40 and -80, d w = -120 * (1, 3).
    lines = [text.strip() for text in log() if text.startswith("    [")]
    assert lines == [
        "[Forward] Layer x, top blob x data: 2",
        "[Forward] Layer x, top blob y data: 4",
        "[Forward] Layer a, top blob a data: 12",
        "[Forward] Layer a, param blob shared data: 3",
        "[Forward] Layer a_a_0_split, top blob a_a_0_split_0 data: 12",
        "[Forward] Layer a_a_0_split, top blob a_a_0_split_1 data: 12",
        "[Forward] Layer twice, top blob sum data: 36",
        "[Forward] Layer loss, top blob loss data: 800",
        "[Backward] Layer loss, bottom blob sum diff: 40",
        "[Backward] Layer twice, bottom blob a_a_0_split_0 diff: 40",
        "[Backward] Layer twice, bottom blob a_a_0_split_1 diff: 80",
        "[Backward] Layer a_a_0_split, bottom blob a diff: 120",
        "[Backward] Layer a, param blob 0 diff: 240",
        "[Backward] All net params (data, diff): L1 norm = (6, 480); L2 norm = (4.24264, 379.473)",
    ]


def test_debug_info_of_tests_and_of_the_last_pass(toy, log):
    """A test net prints each pass, the train net its last one forward, where every iteration is displayed."""
    more = "debug_info: true display: 1 max_iter: 1 test_iter: 2 test_interval: 1 test_initialization: false"
    line(toy, more).solve()
    passes = [text.split()[0][1:-1] for text in log() if text.startswith("    [")]
    names = [text for text in log() if "top blob loss data" in text]
    assert len(names) == 4  # the iteration, the last pass, two of the test
    assert passes.count("Forward") == 4 * passes.index("Backward")


def test_a_test_says_which_layers_it_leaves_out(toy, log):
    extra = 'layer { name: "only" type: "Power" bottom: "x" top: "p" include { phase: TRAIN } }'
    train = LINE.format(weight=3.0) + extra
    Solver(toy("max_iter: 2 test_iter: 1 test_interval: 1", train, PLAIN), feed=inputs()).solve()
    texts = log()
    tests = [i for i, text in enumerate(texts) if "Testing net" in text]
    assert len(tests) == 3
    assert all("Ignoring source layer only" in texts[i + 1 : i + 4] for i in tests)


def test_iter_size_averages_passes(toy):
    values = iter([(1.0, 0.0), (2.0, 1.0)])

    def feed(net):
        x, y = next(values)
        return {"x": torch.full((1, 1), x), "y": torch.full((1, 1), y)}

    solver = Solver(toy("iter_size: 2", LINE.format(weight=3.0), PLAIN), feed=feed)
    solver.step(1)
    # Gradients 3 and 10, losses 4.5 and 12.5.
    assert solver.net.params["fc"][0].item() == pytest.approx(3 - 0.1 * 6.5, rel=1e-6)  # float32 rounding
    assert solver.smoothed_loss == pytest.approx(8.5, rel=1e-6)  # float32 rounding


def test_seed_gives_the_same_run(toy):
    runs = [Solver(toy()) for _ in range(2)]
    for run in runs:
        run.step(3)
    assert torch.equal(runs[0].net.params["fc1"][0], runs[1].net.params["fc1"][0])
    other = Solver(toy(solver=SOLVER.replace("random_seed: 3", "")), seed=4)
    other.step(3)
    assert not torch.equal(runs[0].net.params["fc1"][0], other.net.params["fc1"][0])


def test_stages_and_levels_choose_the_layers(toy):
    train = (
        TRAIN
        + """
      layer { name: "only" type: "Power" bottom: "x" top: "p" include { phase: TEST stage: "b" min_level: 2 } }"""
    )
    more = "test_iter: 1 test_iter: 1 test_interval: 5 test_state { stage: 'a' } test_state { stage: 'b' level: 3 }"
    solver = Solver(toy(more, train))
    assert ["only" in net.layer_names for net in [solver.net, *solver.test_nets]] == [False, False, True]


def test_actions_and_callbacks(toy, tmp_path):
    solver = Solver(toy())
    asked = iter([Action.NONE, Action.SNAPSHOT, Action.STOP])
    heard = []
    solver.action = lambda: next(asked)
    solver.callbacks.append((lambda: heard.append("start"), lambda: heard.append("gradients")))
    solver.solve()
    assert (solver.iter, solver.stopped) == (3, True)
    assert heard == ["start", "gradients"] * 3
    assert {p.name for p in (tmp_path / "out").glob("*.solverstate")} == {
        "toy_iter_2.solverstate",
        "toy_iter_3.solverstate",
    }


def test_listeners_hear_figures(toy):
    solver = Solver(toy("display: 2 test_iter: 1 test_interval: 4"))
    reports = []
    solver.listeners.append(reports.append)
    solver.step(4)
    assert [(r.kind, r.iteration) for r in reports] == [
        ("test", 0), ("train", 0), ("step", 1), ("train", 2), ("step", 3),
    ]  # fmt: skip
    values = reports[3].values
    assert values["lr"] == pytest.approx(0.05, rel=1e-6)  # float32 in the settings
    assert values["loss"] == np.mean(solver.losses.recent[:3], dtype=np.float32)
    assert values["grad_norm"] > 0
    assert values["images_per_second"] > 0
    assert 0 <= values["data_wait"] <= 1
    assert set(reports[0].values) == {"test0/loss"}


def test_diverged_loss_names_the_layer_and_changes_nothing(toy):
    solver = line(toy, "", weight=float("inf"))
    with pytest.raises(SolverError) as caught:
        solver.step(1)
    assert (caught.value.code, caught.value.layer) == ("solver.diverged", "fc")
    assert "base_lr" in caught.value.hint


@pytest.mark.parametrize("is_fast", [False, True])
def test_bad_data_is_blamed_on_the_data(toy, is_fast):
    solver = line(toy, "", precision=Precision(is_fast=is_fast))
    before = solver.net.params["fc"][0].clone()
    solver.feed = inputs(x=float("nan"))
    with pytest.raises(SolverError) as caught:
        solver.step(1)
    assert caught.value.layer == "x"
    assert torch.equal(before, solver.net.params["fc"][0])


def test_exploding_run_stops(toy):
    solver = Solver(toy("", LINE.format(weight=3.0), PLAIN.replace("0.1", "50")), feed=inputs())
    with pytest.raises(SolverError) as caught:
        solver.step(50)
    assert caught.value.layer == "fc"
    assert solver.iter < 10


def test_divergence_may_be_left_alone_as_in_the_original(toy):
    solver = line(toy, "", weight=float("inf"), stop_when_diverged=False)
    solver.step(2)
    assert solver.iter == 2


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ("iter_size: 0", "solver.iter-size"),
        ("type: 'AdaGrad'", "solver.momentum"),
        ("type: 'Sgd'", "solver.type"),
        ("train_net: 'b'", "solver.train-net"),
        ("test_iter: 1", "solver.test-interval"),
        ("test_net: 'a' test_net: 'b' test_iter: 1 test_interval: 1", "solver.test-iter"),
        ("test_iter: 1 test_interval: 1 test_state { } test_state { }", "solver.test-state"),
        ("test_iter: 1 test_interval: 1 eval_type: 'segmentation'", "solver.eval-type"),
        ("regularization_type: 'L3'", "solver.regularization"),
    ],
)
def test_settings_that_contradict_are_refused(toy, more, code):
    with pytest.raises(SolverError) as caught:
        Solver(toy(more))
    assert caught.value.code == code


def test_average_loss_must_be_positive(toy):
    with pytest.raises(SolverError) as caught:
        Solver(toy(solver=SOLVER.replace("average_loss: 4", "average_loss: 0")))
    assert caught.value.code == "solver.average-loss"


def test_snapshots_need_a_prefix(toy):
    solver = re.sub(r'snapshot_prefix: "\S+"', "", SOLVER)
    with pytest.raises(SolverError) as caught:
        Solver(toy(solver=solver))
    assert caught.value.code == "solver.snapshot-prefix"


def test_missing_files(toy, tmp_path):
    with pytest.raises(FileError):
        Solver(tmp_path / "none.prototxt")
    path = toy()
    (tmp_path / "train.prototxt").unlink()
    with pytest.raises(FileError):
        Solver(path)


def test_detection_needs_an_evaluating_layer(toy):
    solver = Solver(toy("test_iter: 1 test_interval: 1 eval_type: 'detection'"))
    with pytest.raises(PyScratchDetError) as caught:
        solver.test_all()
    assert caught.value.code == "evaluate.rows"


def test_detection_lines(toy, log):
    solver = Solver(
        toy("test_iter: 2 test_interval: 1 eval_type: 'detection' ap_version: 'Integral' show_per_class_result: true")
    )
    # Class 1: two objects, found once at 0.9 and missed by 0.5; class 2: one object, never found.
    rows = [
        [[-1, 1, 2, -1, -1], [-1, 2, 1, -1, -1], [0, 1, 0.9, 1, 0]],
        [[0, 1, 0.5, 0, 1]],
    ]
    passes = iter(rows)
    solver.forward_test = lambda index: (torch.zeros(()), {"loss": torch.tensor([[next(passes)]])})
    values = []
    solver.listeners.append(values.append)
    solver.test_all()
    assert log()[-4:] == [
        "Iteration 0, Testing net (#0)",
        "class1: 0.5",
        "Missing true_pos for label: 2",
        "    Test net output #0: loss = 0.25",
    ]
    assert values[0].values == {"test0/loss": 0.25, "mAP": 0.25}


def test_weights_of_files_come_before_training(toy, tmp_path, log):
    first = Solver(toy())
    first.step(7)
    second = Solver(toy(solver=SOLVER.replace("random_seed: 3", "random_seed: 8")))
    second.copy_weights(str(tmp_path / "out/toy_iter_7.caffemodel"))
    assert torch.equal(first.net.params["fc2"][0], second.net.params["fc2"][0])
    assert second.iter == 0
    assert f"Finetuning from {tmp_path}/out/toy_iter_7.caffemodel" in log()
    assert any(line.endswith(" layers copied") for line in log())


def test_gradients_are_averaged_over_the_world_before_clipping(toy):
    class Doubled(World):
        size = 2

        def average_gradients(self, parameters):
            for p in parameters:
                p.grad /= 2

    solver = line(toy, "clip_gradients: 6", world=Doubled())
    solver.step(1)
    # The gradient of 10 averages to 5, below the norm it would be clipped to.
    assert solver.optimizer.clipped is None
    assert solver.net.params["fc"][0].item() == pytest.approx(2.5, rel=1e-6)  # float32 rounding


def test_message_is_taken_like_a_file(toy, tmp_path):
    toy()
    param = caffe_pb2.SolverParameter(base_lr=0.1, lr_policy="fixed", net=str(tmp_path / "train.prototxt"))
    solver = Solver(param, seed=5)
    assert param.type == "SGD"
    solver.step(1)
    assert np.isfinite(solver.smoothed_loss)


def test_batches_are_counted_for_layers_that_can_only_skip(toy, monkeypatch, tmp_path):
    from pyscratchdet.layers.input import DummyData

    skipped = []
    monkeypatch.setattr(DummyData, "skip", lambda self, n: skipped.append((self.name, n)), raising=False)
    path = toy("iter_size: 2 test_iter: 3 test_interval: 5")
    Solver(path).step(7)
    solver = Solver(path)
    solver.restore(tmp_path / "out/toy_iter_7.solverstate")
    assert skipped == [("x", 14), ("x", 6)]
    solver.step(1)
    with pytest.raises(SolverError, match="past the snapshot"):
        solver.restore(tmp_path / "out/toy_iter_7.solverstate")


class Second(World):
    """The second of two processes, whose first is not there, and would test alone."""

    rank, size = 1, 2

    def share(self, value):
        return "a reason" if value == "" else value

    def gather(self, value):
        return []


def test_other_ranks_neither_test_nor_write_nor_tell(toy, tmp_path):
    world = Second()
    solver = Solver(toy("display: 1 test_iter: 1 test_interval: 1"), world=world)
    solver.listeners.append(lambda report: pytest.fail("rank 0 tells"))
    solver.solve()
    assert not solver.test_nets
    assert not (tmp_path / "out").exists()


def test_snapshot_of_another_number_of_processes_starts_the_data_anew(toy, tmp_path, log):
    Solver(toy()).step(7)
    solver = Solver(toy(), world=Second())
    solver.restore(tmp_path / "out/toy_iter_7.solverstate")
    assert solver.iter == 7
    assert "The snapshot was made by 1 process; with 2 the data start over" in log()


def test_weights_of_the_solver_file(toy, tmp_path):
    first = Solver(toy())
    first.step(7)
    second = Solver(toy(f"weights: '{tmp_path}/out/toy_iter_7.caffemodel' layer_wise_reduce: false"))
    assert torch.equal(first.net.params["fc2"][0], second.net.params["fc2"][0])


def test_what_is_asked_for_during_a_test_is_done_after_it(toy, tmp_path):
    solver = Solver(toy("test_iter: 3 test_interval: 5 test_initialization: false"))
    tested = []
    forward_test = solver.forward_test
    solver.forward_test = lambda index: (tested.append(solver.iter), forward_test(index))[1]
    asked = [Action.SNAPSHOT]
    solver.action = lambda: asked.pop() if tested and asked else Action.NONE
    solver.step(6)
    assert tested == [5, 5, 5]
    assert [path.name for path in (tmp_path / "out").glob("*.solverstate")] == ["toy_iter_5.solverstate"]
