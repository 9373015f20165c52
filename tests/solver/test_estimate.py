"""The estimate of a run's time: iterations and tests."""

import logging
import re
from types import SimpleNamespace

import pytest
from toynet import SOLVER

from pyscratchdet.solver import Solver
from pyscratchdet.solver.estimate import TimeEstimate

HOURS = SOLVER.replace("max_iter: 20", "max_iter: 3000").replace("snapshot: 7", "")


@pytest.fixture
def clock(monkeypatch):
    """A clock on which an iteration takes 0.5 s, the first 30 s, and a pass of a test 2 s."""
    now = SimpleNamespace(value=1000.0)
    for module in ("estimate", "solver"):
        monkeypatch.setattr(f"pyscratchdet.solver.{module}.time.monotonic", lambda: now.value)
        monkeypatch.setattr(f"pyscratchdet.solver.{module}.time.perf_counter", lambda: now.value)
    return now


def slow(solver, clock, first=30.0, each=0.5, test=2.0):
    began = solver.iter
    forward_test = solver.forward_test

    def pass_of_test(index):
        clock.value += test
        return forward_test(index)

    def iteration():
        clock.value += first if solver.iter == began else each

    solver.forward_test = pass_of_test
    solver.callbacks.append((lambda: None, iteration))
    return solver


def said(caplog):
    found = [record.getMessage() for record in caplog.records if record.getMessage().startswith("About")]
    caplog.clear()
    return [re.sub(r"until .*", "until", message) for message in found]


def test_the_time_is_said_after_ten_iterations_and_five_seconds(toy, clock, caplog):
    caplog.set_level(logging.INFO, "pyscratchdet.solver")
    solver = slow(Solver(toy(solver=HOURS)), clock)
    estimate = TimeEstimate(solver)
    solver.step(11)
    assert estimate.seconds_left() is None
    assert said(caplog) == []
    solver.step(1)
    # 30 s for the first, 0.5 s for each of the others: 1529.5 s.
    assert said(caplog) == ["About 25 min for 3,000 iterations, until"]
    assert estimate.seconds_left() == pytest.approx((3000 - 12) * 0.5, rel=1e-3)  # the 12th is not counted yet
    solver.step(200)
    assert said(caplog) == []


def test_tests_that_were_measured_are_included(toy, clock, caplog):
    caplog.set_level(logging.INFO, "pyscratchdet.solver")
    solver = slow(Solver(toy("test_iter: 3 test_interval: 100", solver=HOURS)), clock)
    estimate = TimeEstimate(solver)
    solver.step(20)
    # 6 s for the first test, 30 tests to come: 180 s.
    assert said(caplog) == ["About 29 min for 3,000 iterations, tests included, until"]
    assert estimate.seconds_left() == pytest.approx((3000 - 20) * 0.5 + 30 * 6, rel=1e-6)
    solver.step(85)
    assert estimate.seconds_left() == pytest.approx((3000 - 105) * 0.5 + 29 * 6, rel=1e-6)
    assert said(caplog) == []


def test_before_the_first_test_it_is_judged_by_its_pictures_and_said_again_if_wrong(toy, clock, caplog):
    caplog.set_level(logging.INFO, "pyscratchdet.solver")
    more = "test_iter: 5 test_interval: 100 test_initialization: false iter_size: 2"
    solver = slow(Solver(toy(more, solver=HOURS)), clock, test=10.0)
    estimate = TimeEstimate(solver)
    solver.step(20)
    # A test takes 30 pictures, an iteration 12: 0.4 * 0.5 * 30 / 12 = 0.5 s.
    assert estimate.seconds_left() == pytest.approx((3000 - 20) * 0.5 + 30 * 0.5, rel=1e-6)
    assert said(caplog) == ["About 26 min for 3,000 iterations, tests included, until"]
    solver.step(82)
    assert said(caplog) == ["About 50 min for 3,000 iterations, tests included, until"]  # 30 of 50 s
    solver.step(200)
    assert said(caplog) == []


def test_a_resumed_run_says_how_much_is_left(toy, tmp_path, clock, caplog):
    caplog.set_level(logging.INFO, "pyscratchdet.solver")
    Solver(toy(solver=HOURS.replace("max_iter", "snapshot: 5 max_iter"))).step(5)
    solver = Solver(toy(solver=HOURS))
    slow(solver, clock)
    TimeEstimate(solver)
    solver.restore(tmp_path / "out/toy_iter_5.solverstate")
    solver.step(20)
    assert said(caplog) == ["About 25 min for the 2,995 iterations left, until"]


def test_slow_iterations_are_judged_by_the_second(toy, clock, caplog):
    caplog.set_level(logging.INFO, "pyscratchdet.solver")
    solver = slow(Solver(toy(solver=HOURS)), clock, each=61.0)
    TimeEstimate(solver)
    solver.step(3)
    assert said(caplog) == ["About 2 d 2 h for 3,000 iterations, until"]


def test_an_end_on_another_day_has_its_date(toy, clock, caplog):
    caplog.set_level(logging.INFO, "pyscratchdet.solver")
    solver = slow(Solver(toy(solver=HOURS)), clock, each=61.0)
    TimeEstimate(solver)
    solver.step(3)
    assert re.search(r"until \d\d [A-Z]\w\w \d\d:\d\d$", caplog.records[-1].getMessage())
