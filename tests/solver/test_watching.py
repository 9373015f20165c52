"""What watches a run: signals, the meter and the progress bar."""

import logging
import os
import signal

import pytest

from pyscratchdet.solver import Action, Solver, SolverEvent, World
from pyscratchdet.solver.log import GlogFormatter
from pyscratchdet.solver.metrics import LinesAboveProgress, TrainingProgress
from pyscratchdet.solver.signals import SignalHandler


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_asks_to_stop_and_a_second_ends_the_run_at_once(number):
    with SignalHandler() as signals:
        send(number)
        with pytest.raises(KeyboardInterrupt):
            send(number)
        assert signals.action() == Action.STOP
        assert signals.action() == Action.NONE
        send(number)  # the first again, since the one before was taken
        assert signals.action() == Action.STOP


def test_where_signals_come_several_times_a_second_one_changes_nothing():
    with SignalHandler(is_patient=True) as signals:
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert (signals.action(), signals.action()) == (Action.STOP, Action.NONE)


def test_the_effects_of_signals_are_a_choice():
    before = signal.getsignal(signal.SIGHUP)
    with SignalHandler("snapshot", "none") as signals:
        send(signal.SIGHUP)
        assert signals.action() == Action.NONE
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert (signals.action(), signals.action()) == (Action.SNAPSHOT, Action.NONE)
    assert signal.getsignal(signal.SIGHUP) == before


class Three(World):
    """One of three processes, whose others are not there."""

    size = 3


def test_images_per_second_are_those_of_all_processes(toy, monkeypatch):
    events = []
    solver = Solver(toy("display: 2 iter_size: 5"), world=Three())
    solver.listeners.append(events.append)
    clock = iter(range(1000))
    monkeypatch.setattr("pyscratchdet.solver.meter.time.perf_counter", lambda: float(next(clock)))
    solver.step(3)
    values = events[-1].values
    # Each process makes two iterations of five batches of six. The clock goes on by one where the stretch begins, at
    # both ends of the ten batches, and where it is read: 21 s, of which 10 are spent waiting for batches.
    assert values["seconds_per_iteration"] == 21 / 2
    assert values["images_per_second"] == 3 * 2 * 5 * 6 / 21
    assert values["data_wait"] == 10 / 21


class Bar:
    """Records what a progress bar is called with."""

    def __init__(self):
        self.calls, self.lines = [], []

    def __call__(self, done, figures, seconds_left):
        self.calls.append((done, figures, seconds_left))

    def print(self, line):
        self.lines.append(line)


def test_the_bar_counts_iterations_and_keeps_the_last_figures():
    bar = Bar()
    left = iter((None, 7.5, 5.0))
    listener = TrainingProgress(bar, lambda: next(left))
    figures = {"loss": 1.23456, "lr": 0.01, "images_per_second": 12.34, "data_wait": 0.256}
    for event in (
        SolverEvent("test", 0, {"mAP": 0.5}),
        SolverEvent("step", 0),
        SolverEvent("train", 1, figures),
        SolverEvent("step", 2),
    ):
        listener(event)
    shown = ("loss 1.235", "lr 0.01", "12.3 images/s", "data wait 26%")
    assert bar.calls == [(1, (), None), (2, shown, 7.5), (3, shown, 5.0)]


def test_log_lines_stand_above_the_bar():
    bar = Bar()
    handler = LinesAboveProgress(bar)
    handler.setFormatter(GlogFormatter())
    handler.handle(logging.makeLogRecord({"msg": "[b]100 %", "filename": "a.py", "lineno": 7, "levelno": logging.INFO}))
    assert [line.split(" ", 2)[2].split()[1:] for line in bar.lines] == [["a.py:7]", "[b]100", "%"]]
