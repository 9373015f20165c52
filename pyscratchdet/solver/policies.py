"""Learning-rate policies with Caffe's state (sgd_solver.cpp: GetLearningRate)."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np

from pyscratchdet.errors import SolverError, nearest
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.solver.log import number

POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid", "plateau", "multifixed")
# What is computed of the fields that other Caffes have.
FORK_FIELDS = frozenset(
    {"warmup_iter", "warmup_start_lr", "stagelr", "stageiter", "rampup_interval", "rampup_lr", "min_lr"}
)
NO_MINIMUM = float(np.finfo(np.float32).max)

_log = logging.getLogger(__name__)


@dataclass
class LearningRate:
    """The rate of each iteration.

    `multistep` and `plateau` advance at most one step per call, as in the original, so the step is state that a
    snapshot keeps.

    Other Caffes' fields: before iteration `warmup_iter` (Intel's) the rate goes in a straight line from
    `warmup_start_lr` to `base_lr`; before `rampup_interval` (NVIDIA's) it goes from `rampup_lr` to `base_lr` with the
    square of the iteration. No rate is below `min_lr` (NVIDIA's), to which `poly` then descends. `multifixed` (Intel's
    and MobileNet-YOLO's) is `stagelr[i]` up to and including iteration `stageiter[i]`, and the last one after that.

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
        if policy == "multifixed" and (not self.param.stagelr or len(self.param.stagelr) != len(self.param.stageiter)):
            found = f"{len(self.param.stagelr)} and {len(self.param.stageiter)}"
            raise SolverError(
                'lr_policy "multifixed" needs as many stagelr as stageiter, at least 1',
                code="solver.stages",
                found=found,
            )
        if policy == "poly" and self.param.min_lr > self.param.base_lr:
            raise SolverError(
                "min_lr exceeds base_lr", code="solver.min-lr", expected=self.param.base_lr, found=self.param.min_lr
            )

    def __call__(self, iteration: int, smoothed_loss: float = 0.0) -> float:
        """Returns the rate of `iteration` (a float32 value); call it once per iteration.

        Args:
            iteration: Number of updates made so far.
            smoothed_loss: The displayed loss, which `plateau` watches.

        Raises:
            SolverError: The rate is not a number (poly beyond max_iter).
        """
        rate = self._rising(iteration)
        if rate is None:
            factor = getattr(self, f"_{self.param.lr_policy}")(iteration, smoothed_loss)
            rate = self._scaled(factor)
        rate = float(np.float32(max(rate, self.param.min_lr)))
        if not math.isfinite(rate):
            raise SolverError(
                f"the learning rate of iteration {iteration} is not a number",
                code="solver.rate",
                found=rate,
                hint="poly ends at max_iter",
            )
        return rate

    def _rising(self, iteration: int) -> float | None:
        """Returns the rate while it rises to `base_lr`, else None."""
        param = self.param
        if iteration < param.warmup_iter:
            part = iteration / param.warmup_iter
            return float(part * param.base_lr + (1 - part) * param.warmup_start_lr)
        if iteration < param.rampup_interval:
            part = (iteration / param.rampup_interval) ** 2
            return float(param.rampup_lr + (param.base_lr - param.rampup_lr) * part)
        return None

    def _scaled(self, factor: float) -> float:
        param = self.param
        if param.lr_policy == "multifixed":
            return factor
        least = param.min_lr if param.lr_policy == "poly" else 0.0
        return float((param.base_lr - least) * factor + least)

    def _multifixed(self, iteration: int, loss: float) -> float:
        ends = self.param.stageiter
        stage = next((index for index, end in enumerate(ends) if iteration <= end), len(ends) - 1)
        return float(self.param.stagelr[stage])

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
