"""Learning-rate policies with Caffe's state (sgd_solver.cpp: GetLearningRate)."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np

from pyscratchdet.errors import SolverError, nearest
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.solver.log import number

POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid", "plateau")
NO_MINIMUM = float(np.finfo(np.float32).max)

_log = logging.getLogger(__name__)


@dataclass
class LearningRate:
    """The rate of each iteration.

    `multistep` and `plateau` advance at most one step per call, as in the original, so the step is state that a
    snapshot keeps.

    Attributes:
        param: The solver's settings.
        current_step: Steps taken so far (step, multistep, plateau).
        minimum_loss: The lowest smoothed loss seen (plateau).
        iter_last_event: Iteration of the last new minimum or step (plateau).
    """

    param: caffe_pb2.SolverParameter
    current_step: int = 0
    minimum_loss: float = NO_MINIMUM
    iter_last_event: int = 0

    def __post_init__(self) -> None:
        policy = self.param.lr_policy
        if policy not in POLICIES:
            raise SolverError(
                f'unknown lr_policy "{policy}"' if policy else "lr_policy is missing",
                code="solver.lr-policy",
                expected=", ".join(POLICIES),
                hint=nearest(policy, POLICIES),
            )
        if policy == "step" and self.param.stepsize <= 0:
            raise SolverError('lr_policy "step" needs a stepsize above 0', code="solver.stepsize")
        if policy == "poly" and self.param.max_iter <= 0:
            raise SolverError('lr_policy "poly" needs a max_iter above 0', code="solver.max-iter")

    def __call__(self, iteration: int, smoothed_loss: float = 0.0) -> float:
        """Returns the rate of `iteration` (a float32 value); call it once per iteration.

        Args:
            iteration: Number of updates made so far.
            smoothed_loss: The displayed loss, which `plateau` watches.

        Raises:
            SolverError: The rate is not a number (poly beyond max_iter).
        """
        rate = float(
            np.float32(self.param.base_lr * getattr(self, f"_{self.param.lr_policy}")(iteration, smoothed_loss))
        )
        if not math.isfinite(rate):
            raise SolverError(
                f"the learning rate of iteration {iteration} is not a number",
                code="solver.rate",
                found=rate,
                hint="poly ends at max_iter",
            )
        return rate

    def _fixed(self, iteration: int, loss: float) -> float:
        return 1.0

    def _step(self, iteration: int, loss: float) -> float:
        self.current_step = iteration // self.param.stepsize
        return self._stepped()

    def _exp(self, iteration: int, loss: float) -> float:
        return float(self.param.gamma**iteration)

    def _inv(self, iteration: int, loss: float) -> float:
        return float((1.0 + self.param.gamma * iteration) ** -self.param.power)

    def _multistep(self, iteration: int, loss: float) -> float:
        values = self.param.stepvalue
        if self.current_step < len(values) and iteration >= values[self.current_step]:
            self.current_step += 1
            _log.info(f"MultiStep Status: Iteration {iteration}, step = {self.current_step}")
        return self._stepped()

    def _poly(self, iteration: int, loss: float) -> float:
        left = 1.0 - iteration / self.param.max_iter
        return float(left**self.param.power) if left >= 0 or self.param.power == int(self.param.power) else math.nan

    def _sigmoid(self, iteration: int, loss: float) -> float:
        exponent = -self.param.gamma * (iteration - self.param.stepsize)
        return 1.0 / (1.0 + math.exp(min(exponent, 700.0)))

    def _plateau(self, iteration: int, loss: float) -> float:
        if loss < self.minimum_loss:
            self.minimum_loss = loss
            self.iter_last_event = iteration
        windows = self.param.plateau_winsize
        if self.current_step < len(windows) and iteration >= self.iter_last_event + windows[self.current_step]:
            self.current_step += 1
            self.iter_last_event = iteration
            _log.info(f"Plateau Status: Iteration {iteration}, step = {self.current_step}")
        display = self.param.display
        if display and iteration % display == 0 and self.iter_last_event > iteration - display:
            _log.info(f"Plateau Status: Iteration {iteration}, current minimum_loss = {number(self.minimum_loss)}")
        return self._stepped()

    def _stepped(self) -> float:
        return float(self.param.gamma**self.current_step)
