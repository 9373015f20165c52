"""How long a run will take: its iterations and its tests, judged by those that it has made."""

from __future__ import annotations

import logging
import time
from collections import deque
from datetime import datetime, timedelta

from pyscratchdet.progress import duration_text
from pyscratchdet.solver.meter import pictures_per_pass
from pyscratchdet.solver.solver import Solver

# Fewer iterations tell nothing, unless they are slow ones.
_FEWEST, _LEAST_SECONDS, _ENOUGH_SECONDS = 10, 5.0, 60.0
_RECENT = 100
# A forward pass takes about a third of a whole iteration; decoding boxes and judging them come on top.
_TEST_SHARE = 0.4
_CHANGE = 0.2

_log = logging.getLogger(__name__)


class TimeEstimate:
    """Estimates the time left, logs it after the first iterations, and again where the first test changes it.

    Args:
        solver: The solver of process 0, whose iterations it follows by a callback.
    """

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._measured = 0.0
        self._before: tuple[float, float] | None = None  # the time, and the time spent testing, as an iteration began
        self._logged: float | None = None
        self._is_final = False
        self._first = solver.iter
        self._began = time.monotonic()
        solver.callbacks.append((self._start_iteration, lambda: None))

    def seconds_left(self) -> float | None:
        """Returns the time that iterations and tests still take; None while nobody can tell."""
        number = len(self._recent)
        if not (number >= _FEWEST and self._measured >= _LEAST_SECONDS) and self._measured < _ENOUGH_SECONDS:
            return None
        param, each = self._solver.param, sum(self._recent) / number
        interval = param.test_interval or param.max_iter + 1
        tests = param.max_iter // interval - self._solver.iter // interval
        return max(param.max_iter - self._solver.iter, 0) * each + tests * self._test_seconds(each)

    def _start_iteration(self) -> None:
        now, tested = time.monotonic(), self._solver.meter.seconds_testing
        if self._before is None:
            self._first = self._solver.iter
        elif self._solver.iter > self._first + 1:  # the first takes longer
            seconds = now - self._before[0] - (tested - self._before[1])
            self._recent.append(seconds)
            self._measured += seconds
        self._before = now, tested
        if not self._is_final:
            self._say(now)

    def _say(self, now: float) -> None:
        """Logs the estimate when there is one; when the first test is measured, again if that changes it much."""
        left = self.seconds_left()
        if left is None:
            return
        total = now - self._began + left
        self._is_final = not self._solver.test_nets or self._solver.meter.test_seconds is not None
        if self._logged is not None and abs(total - self._logged) <= _CHANGE * self._logged:
            return
        if self._logged is not None and not self._is_final:
            return
        self._logged = total
        number = self._solver.param.max_iter - self._first
        what = f"the {number:,} iterations left" if self._first else f"{number:,} iterations"
        tests = ", tests included" if self._solver.test_nets else ""
        _log.info(f"About {duration_text(total)} for {what}{tests}, until {_clock(left)}")

    def _test_seconds(self, each: float) -> float:
        """Returns the time of a test phase: that of the last, or else by its number of pictures."""
        solver = self._solver
        if solver.meter.test_seconds is not None:
            return solver.meter.test_seconds
        trained = pictures_per_pass(solver.net) * solver.param.iter_size
        tested = sum(
            passes * pictures_per_pass(net)
            for net, passes in zip(solver.test_nets, solver.param.test_iter, strict=True)
        )
        return _TEST_SHARE * each * tested / trained if trained else 0.0


def _clock(seconds: float) -> str:
    """Returns the time of day in so many seconds, with the date if that is another day."""
    now = datetime.now()
    then = now + timedelta(seconds=seconds)
    return then.strftime("%H:%M" if then.date() == now.date() else "%d %b %H:%M")
