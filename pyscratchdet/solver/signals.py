"""What Ctrl-C and SIGHUP do to a run (signal_handler.cpp)."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from pyscratchdet.errors import UsageError
from pyscratchdet.solver.solver import Action

EFFECTS = ("stop", "snapshot", "none")


class SignalHandler:
    """Turns signals into actions that the solver takes between two iterations, while the block runs.

    SIGTERM, which clusters and torchrun send, does what SIGINT does. A second Ctrl-C ends a run of one process
    at once.

    Args:
        sigint: Effect of SIGINT: "stop", "snapshot" or "none".
        sighup: Effect of SIGHUP.
        is_patient: True where signals may arrive several times (torchrun forwards them).

    Raises:
        UsageError: Unknown effect.
    """

    def __init__(self, sigint: str = "stop", sighup: str = "snapshot", is_patient: bool = False) -> None:
        self._effects = {signal.SIGINT: _effect(sigint), signal.SIGTERM: _effect(sigint)}
        if hasattr(signal, "SIGHUP"):
            self._effects[signal.SIGHUP] = _effect(sighup)
        self._is_patient = is_patient
        self._asked: set[Action] = set()
        self._before: dict[signal.Signals, Any] = {}

    def action(self) -> Action:
        """Returns the action asked for and clears it; a stop includes a snapshot, since it ends with one."""
        if Action.STOP in self._asked:
            self._asked.clear()
            return Action.STOP
        return self._asked.pop() if self._asked else Action.NONE

    def __enter__(self) -> SignalHandler:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in self._effects}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        action = self._effects[signal.Signals(number)]
        if action == Action.STOP and Action.STOP in self._asked and not self._is_patient:
            raise KeyboardInterrupt
        if action != Action.NONE:
            self._asked.add(action)


def _effect(name: str) -> Action:
    if name not in EFFECTS:
        raise UsageError(f'invalid signal effect "{name}"', code="solver.signal-effect", expected=", ".join(EFFECTS))
    return Action[name.upper()]
