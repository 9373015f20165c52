"""What a run says when it goes wrong: nothing matched, the same box everywhere, no detections, an exploding loss."""

import logging

import numpy as np
import pytest
import torch
from toydetector import SQUARE, write_detector
from toynet import SOLVER

from pyscratchdet.cli import main
from pyscratchdet.errors import SolverError
from pyscratchdet.runtime import net_blobs
from pyscratchdet.solver import Precision, Solver, SolverEvent
from pyscratchdet.solver.best import BestWeights
from pyscratchdet.solver.data_checks import check_records
from pyscratchdet.solver.divergence import LossGrowth, advice
from pyscratchdet.solver.estimate import TimeEstimate
from pyscratchdet.solver.symptoms import DetectionSpread, watch

RANDOM = np.random.default_rng(4)


@pytest.fixture
def said(caplog):
    """Returns the warnings so far, and forgets them."""
    caplog.set_level(logging.INFO, "pyscratchdet.solver")

    def messages(level=logging.WARNING):
        found = [record.getMessage() for record in caplog.records if record.levelno == level]
        caplog.clear()
        return [message for message in found if not message.startswith("Missing true_pos")]

    return messages


def watched(folder, **settings):
    solver = Solver(write_detector(folder, **settings))
    watch(solver)
    return solver


# --- matching ---


def test_boxes_that_the_priors_fit_are_no_news(tmp_path, said):
    solver = watched(tmp_path, train=(((1, 0.2, 0.3, 0.55, 0.75),),) * 4)
    solver.step(60)
    assert said() == []
    assert solver.net.layers[-1].layer.matches[0] == 4


def test_a_database_without_boxes_is_named_once(tmp_path, said):
    solver = watched(tmp_path, train=((), ()))
    solver.step(49)
    assert said() == []
    solver.step(1)
    (found,) = said()
    assert found.startswith('layer "mbox_loss" (MultiBoxLoss): no picture of 50 batches has a box')
    solver.step(100)
    assert said() == []


def test_boxes_that_no_prior_matches_are_named_with_the_sizes(tmp_path, said):
    path = write_detector(tmp_path)
    net = tmp_path / "train.prototxt"
    net.write_text(net.read_text().replace("min_size: 8", "offset: 9 min_size: 8"))  # all far below the picture
    solver = Solver(path)
    watch(solver)
    solver.step(50)
    (found,) = said()
    assert found == (
        'layer "mbox_loss" (MultiBoxLoss): none of 200 boxes in 50 batches is matched by any prior, so nothing is '
        "learned but background; set min_size and max_size by the sizes of the boxes: boxes of a batch 13x12 (median), "
        "priors 8x8 to 11x11, in pixels of an input of 32x24"
    )


def test_boxes_of_other_sizes_than_the_priors_are_named(tmp_path, said):
    solver = watched(tmp_path, train=(((1, 0.26, 0.26, 0.3, 0.3), (1, 0.7, 0.6, 0.73, 0.66)),) * 4)
    solver.step(50)
    (found,) = said()
    assert "400 boxes in 50 batches are matched by 400 priors, hardly one each" in found
    assert "boxes of a batch 1x1 (median), priors 8x8 to 11x11" in found


def test_hard_example_mining_may_drop_matched_priors(tmp_path, said):
    path = write_detector(tmp_path, train=(((1, 0.26, 0.26, 0.3, 0.3), (1, 0.7, 0.6, 0.73, 0.66)),) * 4)
    net = tmp_path / "train.prototxt"
    net.write_text(net.read_text().replace("MAX_NEGATIVE", "HARD_EXAMPLE sample_size: 3"))
    solver = Solver(path)
    watch(solver)
    solver.step(50)
    assert said() == []


# --- where detections are ---


def boxes(number, spread):
    """Boxes around (0.5, 0.5), about 0.5 wide and high."""
    corners = np.array([0.25, 0.25, 0.75, 0.75]) + RANDOM.uniform(-spread, spread, (number, 4))
    return corners.astype(np.float32)


FAR = boxes(12, 0.2)
# Ten objects overlap the central box by 0.64 and two by 0.475; the detections drawn to these two find them, by 0.53.
LARGE = np.array([[0.1, 0.1, 0.9, 0.612]] * 10 + [[0.1, 0.1, 0.9, 0.48]] * 2, np.float32)
DRAWN = np.array([[0.1, 0.1, 0.9, 0.9]] * 10 + [[0.1, 0.1, 0.9, 0.82]] * 2, np.float32)


class Phase:
    """A test net that only judges: each test gives it pictures with a detection and an object each."""

    def __init__(self, tmp_path):
        self.solver = Solver(write_detector(tmp_path))
        (self.module,) = [m for m in self.solver.test_nets[0].layers if m.layer_type == "DetectionEvaluate"]
        self.spread = DetectionSpread(self.module, 0)

    def __call__(self, iteration, found, objects):
        for begin in range(0, len(objects), 4):
            part = objects[begin : begin + 4]
            labels = [[i, 1, 0, *box, 0] for i, box in enumerate(part)]
            rows = [[i, 1, 0.9 - 0.1 * i, *box] for i, box in enumerate(found[begin : begin + 4])]
            rows += [[i, 1, 0.05, 0, 0, 0.1, 0.1] for i in range(len(rows))]
            rows = rows or [[i, -1, -1, -1, -1, -1, -1] for i in range(len(part))]
            self.module(*(torch.tensor(table, dtype=torch.float32)[None, None] for table in (rows, labels)))
        self.spread(SolverEvent("test", iteration, {}, 0))


def test_the_same_box_for_all_pictures_is_named_once_until_it_is_gone(tmp_path, said):
    phase = Phase(tmp_path)
    same, objects = boxes(12, 0.01), boxes(12, 0.2)
    phase(0, same, objects)
    assert said() == []  # before the first iteration it is to be expected
    phase(10, same, objects)
    (found,) = said()
    assert found.startswith('Iteration 10, layer "detection_eval": nearly the same box in all 12 pictures, about (0.2')
    assert "does not look at the pictures" in found
    phase(20, same, objects)
    assert said() == []
    phase(30, objects, objects)
    assert said(logging.INFO) == ['Iteration 30, layer "detection_eval": the same box everywhere no longer']
    phase(40, same, objects)
    assert len(said()) == 1


@pytest.mark.parametrize(
    ("found", "objects"),
    [
        (boxes(12, 0.2), boxes(12, 0.2)),
        (boxes(12, 0.01), boxes(12, 0.02)),  # the objects are alike, too, and found
        (boxes(9, 0.01), boxes(9, 0.2)),  # too few pictures to tell
        (0.5 * FAR + 0.5 * boxes(12, 0.01), FAR),  # alike, but drawn to the objects
        (DRAWN, LARGE),  # hardly better placed than one box for all, but two more of twelve are found
    ],
)
def test_boxes_that_differ_as_the_objects_do_are_no_news(tmp_path, said, found, objects):
    Phase(tmp_path)(10, found, objects)
    assert said() == []


def test_a_test_without_detections_is_named(tmp_path, said):
    phase = Phase(tmp_path)
    phase(10, [], boxes(12, 0.2))
    (found,) = said()
    assert found.startswith(
        'Iteration 10, layer "detection_eval": no detections in 12 pictures: everything is background'
    )
    phase(20, boxes(12, 0.01), boxes(12, 0.2))
    assert "nearly the same box in all 12 pictures" in said()[0]


def test_a_run_looks_at_its_tests(tmp_path, capsys):
    path = write_detector(tmp_path, train=((SQUARE,),) * 8, test=((SQUARE,), ((1, 0.6, 0.6, 0.9, 0.9),)) * 6, passes=3)
    net = tmp_path / "test.prototxt"
    net.write_text(net.read_text().replace("code_type", "confidence_threshold: 0.999 code_type"))
    assert main(["train", "--solver", path]) == 0
    error = capsys.readouterr().err
    assert error.count("no detections in 12 pictures") == 1
    assert 'Iteration 10, layer "detection_eval"' in error


# --- a loss that explodes ---


def test_growth_is_noticed_at_the_second_in_a_row_and_once():
    def noticed(*losses, first=3.0):
        growth = LossGrowth()
        return [index for index, loss in enumerate(losses) if growth.is_exploding(loss, first)]

    assert noticed(3, 31, 29, 31, 29) == []
    assert noticed(3, 31, 31, 40, 3, 31, 31) == [2]
    assert noticed(0.01, 9, 9, 11, 11, first=0.01) == [4]
    assert noticed(-50, 501, 501, first=-50.0) == [2]


def test_advice_names_rate_and_pictures():
    assert advice(0.05, 4, has_batchnorm=True).startswith(
        "the rate is 0.05 at 4 pictures per update (from scratch with BatchNorm, 0.0016 at 4): lower base_lr"
    )
    assert advice(0.001, 4, has_batchnorm=True).startswith("the rate is 0.001 at 4 pictures per update: lower base_lr")
    assert "from scratch" not in advice(0.05, 4, has_batchnorm=False)


def test_a_loss_that_explodes_is_named_before_it_ends_the_run(toy, said):
    solver = Solver(toy("iter_size: 2", solver=SOLVER.replace("base_lr: 0.05", "base_lr: 1.2")))
    with pytest.raises(SolverError) as caught:
        solver.step(20)
    (found,) = said()
    assert "the loss explodes: it is" in found
    assert "the rate is 1.2 at 12 pictures per update: lower base_lr" in found
    assert caught.value.code == "solver.diverged"
    assert "the rate is 1.2 at 12 pictures per update" in caught.value.hint


@pytest.mark.parametrize("is_fast", [False, True])
def test_a_watched_run_is_the_same_to_the_last_bit(tmp_path, is_fast):
    def run(folder, prepare):
        folder.mkdir()
        solver = Solver(write_detector(folder), precision=Precision(is_fast=is_fast))
        prepare(solver)
        solver.step(15)
        return [blob.tobytes() for blobs in net_blobs(solver.net).values() for blob in blobs]

    def watched_by_all(solver):
        check_records(solver.net, solver.test_nets)
        watch(solver)
        solver.test_listeners.append(BestWeights(solver))
        TimeEstimate(solver)

    assert run(tmp_path / "a", lambda solver: None) == run(tmp_path / "b", watched_by_all)
