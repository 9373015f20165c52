"""What is measured during a run: images per second, time waiting for data, gradient norm and its fluctuation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyscratchdet.runtime import LayerModule, Net


@dataclass(frozen=True)
class SolverEvent:
    """What a solver reports to its listeners.

    Attributes:
        kind: "step" after an iteration, "train" instead if it is displayed, "test" after a net's test.
        iteration: The iteration that it belongs to.
        values: Figures by name; none for "step".
        test_net: Number of the test net that was tested.
    """

    kind: str
    iteration: int
    values: dict[str, float] = field(default_factory=dict)
    test_net: int = 0


class Meter:
    """Measures a training net between two displays.

    Args:
        net: The net; its data layers are timed.
        device: Where it runs.
        num_processes: How many processes train together.

    Attributes:
        test_seconds: What the last whole test of all test nets took; None before the first.
        seconds_testing: The time of all tests so far.
    """

    def __init__(self, net: Net, device: torch.device, num_processes: int = 1) -> None:
        self.device = device
        self.num_processes = num_processes
        self.test_seconds: float | None = None
        self.seconds_testing = 0.0
        self._entered = 0.0
        self._batch = 0
        self._is_first = True
        for module in net.layers:
            if module.layer.is_source:
                module.register_forward_pre_hook(self._enter)
                module.register_forward_hook(self._leave)
        self._first = _first_source(net)
        self._net = net
        self.start()

    def start(self) -> None:
        """Starts a new interval; the counts since the last display are discarded."""
        self._start = time.perf_counter()
        self._waited = 0.0
        self._iterations = 0
        self._images = 0
        self._norms: list[Tensor] = []

    def count(self, norm: Tensor | None = None) -> None:
        """Counts one iteration with its gradient norm."""
        self._iterations += 1
        if norm is not None:
            self._norms.append(norm.detach())
        if not self._batch:  # no data layers: the nets' inputs are the batch
            self._images += pictures_per_pass(self._net)
        self._images += self._batch
        self._batch = 0

    def read(self) -> dict[str, float]:
        """Returns the figures since `start` or the last reading.

        Returns:
            images_per_second (all processes), seconds_per_iteration, data_wait (share of the time, 0 to 1), grad_norm
            (L2, of the last iteration), grad_norm_mean and, from two iterations on, grad_norm_std over the interval.
        """
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = max(time.perf_counter() - self._start, 1e-9)
        values = {
            "images_per_second": self._images * self.num_processes / seconds,
            "seconds_per_iteration": seconds / max(self._iterations, 1),
            "data_wait": min(self._waited / seconds, 1.0),
        }
        if self._norms:
            norms = torch.stack(self._norms).float().cpu()
            values["grad_norm"] = float(norms[-1])
            values["grad_norm_mean"] = float(norms.mean())
            if len(norms) > 1:
                values["grad_norm_std"] = float(norms.std(correction=0))
        self.start()
        return values

    def _enter(self, module: LayerModule, bottoms: tuple[Tensor, ...]) -> None:
        self._entered = time.perf_counter()

    def _leave(self, module: LayerModule, bottoms: tuple[Tensor, ...], tops: Any) -> None:
        self._waited += time.perf_counter() - self._entered
        if module is self._first and tops and tops[0].dim():
            self._batch += tops[0].shape[0]

    def count_test(self, seconds: float) -> None:
        """Counts a whole test of all test nets."""
        self.test_seconds = seconds
        self.seconds_testing += seconds


def pictures_per_pass(net: Net) -> int:
    """Returns the pictures of one pass of one process, by the shape of the net's first input; 0 without one."""
    first = _first_source(net)
    shape = net.plan.shapes[first.node.tops[0]] if first is not None else ()
    return shape[0] if shape else 0


def _first_source(net: Net) -> LayerModule | None:
    return next((module for module in net.layers if module.node.tops and not module.node.bottoms), None)
