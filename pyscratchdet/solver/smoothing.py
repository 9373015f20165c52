"""The displayed loss: a moving mean, in float32 as in the original (solver.cpp: UpdateSmoothedLoss)."""

from __future__ import annotations

import numpy as np
from torch import Tensor


class SmoothedLoss:
    """Mean of the last `window` losses. Losses may stay tensors for a while, so that nothing waits for the GPU.

    Attributes:
        recent: The losses within the window, oldest first.
        first: The first loss ever seen; None before there is one.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.first: float | None = None
        self.clear()

    def clear(self) -> None:
        """Forgets all losses but the first."""
        self.recent: list[np.float32] = []
        self._smoothed = np.float32(0)
        self._pending: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Adds a scalar loss."""
        self._pending.append(loss)

    @property
    def pending(self) -> int:
        """The number of losses not yet added to the mean."""
        return len(self._pending)

    def settle(self) -> list[float]:
        """Adds the waiting losses to the mean and returns them."""
        values = [np.float32(loss.item()) for loss in self._pending]
        self._pending = []
        for value in values:
            self._smooth(value)
        if values and self.first is None:
            self.first = float(values[0])
        return [float(value) for value in values]

    @property
    def value(self) -> float:
        """The mean."""
        self.settle()
        return float(self._smoothed)

    def _smooth(self, loss: np.float32) -> None:
        with np.errstate(all="ignore"):
            if len(self.recent) < self.window:
                size = np.float32(len(self.recent) + 1)
                self._smoothed = (self._smoothed * (size - np.float32(1)) + loss) / size
            else:
                self._smoothed += (loss - self.recent.pop(0)) / np.float32(self.window)
        self.recent.append(loss)

    # --- for snapshots ---

    def state(self) -> dict[str, object]:
        """Returns the losses as JSON values (float32 survives as a double)."""
        self.settle()
        return {"recent": [float(loss) for loss in self.recent], "smoothed": float(self._smoothed)}

    def restore(self, state: dict[str, object]) -> None:
        """Restores what `state` returned."""
        self.clear()
        self.recent = [np.float32(loss) for loss in state["recent"]]  # type: ignore[attr-defined]
        self._smoothed = np.float32(state["smoothed"])  # type: ignore[arg-type]
