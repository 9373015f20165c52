"""Keeps the weights of a run's best test, and ends a run that no longer gets better."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

from pyscratchdet.errors import SolverError, UsageError, counted
from pyscratchdet.files import read_json, write_text
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.solver import snapshot
from pyscratchdet.solver.log import number
from pyscratchdet.solver.meter import SolverEvent
from pyscratchdet.solver.solver import Action, Solver

_log = logging.getLogger(__name__)
_BLIND = "same_box_everywhere"
_ACCURACIES = ("Accuracy", "SegAccuracy")


class BestWeights:
    """Listens to a solver: after its first test net's test, the weights stay as `<prefix>_best.caffemodel` if best.

    `<prefix>_best.json` beside it holds {"iteration": n, "mAP": x}. Detectors are judged by the highest mAP; other nets
    by the highest output of an Accuracy layer, by their first output without a loss weight, or else by the lowest loss.
    A detector that puts the same box into every picture is kept only until one comes that does not: its mAP tells
    nothing.

    Args:
        solver: The solver of process 0, which tests and writes.
        patience: How many tests without a better one end the run; 0 for none.
        goes_on: Whether the run resumes, so that the best so far counts; otherwise the first test replaces it.
        is_blind: Says whether the test just made showed the same box everywhere.

    Raises:
        UsageError: The test net has no output of one value.
        FileError, DataError, SolverError: The best so far cannot be read.
    """

    def __init__(
        self,
        solver: Solver,
        patience: int = 0,
        goes_on: bool = False,
        is_blind: Callable[[], bool] = lambda: False,
    ) -> None:
        self._solver = solver
        self._patience, self._is_blind = patience, is_blind
        self._figure, self._sign = _judged_by(solver)
        hdf5 = solver.param.snapshot_format == caffe_pb2.SolverParameter.HDF5
        prefix = solver.param.snapshot_prefix
        self._model, self._record = f"{prefix}_best.caffemodel" + (".h5" if hdf5 else ""), f"{prefix}_best.json"
        self._iteration, self._value, self._best_is_blind = self._read() if goes_on else self._none()
        order = "highest" if self._sign > 0 else "lowest"
        _log.info(f"The weights of the {order} test {self._figure} are kept as {self._model}")

    def __call__(self, event: SolverEvent) -> None:
        """Takes the figures of a test."""
        key = self._figure if self._figure == "mAP" else f"test0/{self._figure}"
        value = event.values.get(key, math.nan)
        if event.test_net == 0 and self._is_better(value):
            self._keep(event.iteration, value)
        if event.test_net == len(self._solver.test_nets) - 1 and event.iteration < self._solver.param.max_iter:
            self._check_patience(event.iteration)

    def _none(self) -> tuple[int, float, bool]:
        return 0, -math.inf * self._sign, True

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        rank, best = (not self._is_blind(), value * self._sign), (not self._best_is_blind, self._value * self._sign)
        return rank > best

    def _keep(self, iteration: int, value: float) -> None:
        snapshot.write_model(self._solver.net, self._model)
        self._iteration, self._value, self._best_is_blind = iteration, value, self._is_blind()
        blind = {_BLIND: True} if self._best_is_blind else {}
        write_text(self._record, json.dumps({"iteration": iteration, self._figure: value, **blind}) + "\n")
        _log.info(f"Best {self._figure} so far: {number(value)}, kept as {self._model}")

    def _check_patience(self, iteration: int) -> None:
        # Counted by iterations, so that a resumed run goes on counting and a test made again does not count twice.
        interval = self._solver.param.test_interval
        tests = iteration // interval - self._iteration // interval
        waits = self._best_is_blind and math.isfinite(self._value)  # it has not begun to learn
        if self._patience and tests >= self._patience and not waits:
            self._solver.asked = Action.STOP
            best = f"best {number(self._value)} at iteration {self._iteration}, kept as {self._model}"
            _log.info(
                f"No better {self._figure} in {counted(tests, 'test')}, so the run ends early: "
                f"{best if math.isfinite(self._value) else 'there was none at all'}"
            )

    def _read(self) -> tuple[int, float, bool]:
        """Returns iteration and value of the best so far and whether it is blind, if it is whole."""
        if not (Path(self._record).exists() and Path(self._model).exists()):
            return self._none()
        content = read_json(self._record, "the record of a best test", "solver.best")
        try:
            return int(content["iteration"]), float(content[self._figure]), bool(content.get(_BLIND, False))
        except (KeyError, TypeError, ValueError) as error:
            raise SolverError(
                f"{self._record} is not the record of this run's best test",
                code="solver.best",
                expected=f'{{"iteration": n, "{self._figure}": x}}',
                hint="remove it to start counting afresh",
            ) from error


def check_best(param: caffe_pb2.SolverParameter) -> None:
    """Checks that a solver has what the best weights are chosen by, and a name for them.

    Raises:
        UsageError: It has no test.
        SolverError: It has no snapshot_prefix.
    """
    if not param.test_iter or param.test_iter[0] <= 0:
        raise UsageError(
            "--keep-best and --patience compare the figures of tests, and the solver has none",
            code="train.keep-best",
            expected="test_net (or net), test_iter and test_interval",
        )
    if not param.HasField("snapshot_prefix"):
        raise SolverError("--keep-best needs a snapshot_prefix in the solver", code="solver.snapshot-prefix")


def _judged_by(solver: Solver) -> tuple[str, int]:
    """Returns the name of the figure that tells which test is best, and 1 if more is better, else -1."""
    if solver.param.eval_type == "detection":
        return "mAP", 1
    net = solver.test_nets[0]
    names = net.plan.graph.blob_names
    accuracies = {names[top] for module in net.layers if module.layer_type in _ACCURACIES for top in module.node.tops}
    outputs = [name for name in net.output_names if math.prod(net.blob_shapes[name]) == 1]
    if not outputs:
        raise UsageError("--keep-best needs a test net with an output of one value", code="train.keep-best")
    for wanted in (accuracies, set(outputs) - set(net.loss_weights)):
        for name in outputs:
            if name in wanted:
                return name, 1
    return outputs[0], -1
