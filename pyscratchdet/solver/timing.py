"""`caffe time`: times every layer, forward and backward (tools/caffe.cpp)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from pyscratchdet.errors import UsageError
from pyscratchdet.runtime import Net
from pyscratchdet.solver.log import number

_log = logging.getLogger(__name__)

# Bottoms and tops of a layer that backpropagation visits.
Tape = tuple[list[Tensor], list[Tensor]]


@dataclass
class Timing:
    """Milliseconds per pass.

    Attributes:
        layers: (name, forward, backward) of each layer.
        forward, backward: Of the whole net.
    """

    layers: list[tuple[str, float, float]] = field(default_factory=list)
    forward: float = 0.0
    backward: float = 0.0


def time_net(
    net: Net,
    iterations: int,
    progress: Callable[[int], object] = lambda done: None,
    inputs: Mapping[str, Tensor] | None = None,
) -> Timing:
    """Times every layer forward and backward, and prints as `caffe time` does.

    Args:
        net: The net, on the device to be timed.
        iterations: Number of passes, after one that does not count.
        progress: Called with the number of passes done.
        inputs: Arrays for Input layers; None for random numbers between 0 and 1.

    Raises:
        UsageError: iterations is not above 0.
    """
    if iterations <= 0:
        raise UsageError("iterations must be above 0", code="time.iterations", found=iterations)
    timer = _LayerTimer(net, inputs)
    _log.info("Performing Forward")
    tapes, loss = timer.run_forward()
    _log.info(f"Initial loss: {number(loss)}")
    _log.info("Performing Backward")
    timer.run_backward(tapes)
    timer.clear()
    _log.info("*** Benchmark begins ***")
    _log.info(f"Testing for {iterations} iterations.")
    start = time.perf_counter()
    for i in range(iterations):
        begin = time.perf_counter()
        timer.run_backward(timer.run_forward()[0])
        milliseconds = (time.perf_counter() - begin) * 1e3
        _log.info(f"Iteration: {i + 1} forward-backward time: {number(milliseconds)} ms.")
        progress(i + 1)
    total = (time.perf_counter() - start) * 1e3
    timing = timer.timing(iterations)
    _print_timing(timing, total, iterations)
    return timing


def _print_timing(timing: Timing, total: float, iterations: int) -> None:
    _log.info("Average time per layer: ")
    for name, forward, backward in timing.layers:
        _log.info(f"{name:>10}\tforward: {number(forward)} ms.")
        _log.info(f"{name:>10}\tbackward: {number(backward)} ms.")
    _log.info(f"Average Forward pass: {number(timing.forward)} ms.")
    _log.info(f"Average Backward pass: {number(timing.backward)} ms.")
    _log.info(f"Average Forward-Backward: {number(total / iterations)} ms.")
    _log.info(f"Total Time: {number(total)} ms.")
    _log.info("*** Benchmark ends ***")


class _LayerTimer:
    """Runs a net layer by layer, forward and then backward, and times each layer."""

    def __init__(self, net: Net, inputs: Mapping[str, Tensor] | None) -> None:
        self._net = net
        self._device = next((p.device for p in net.parameters()), torch.device("cpu"))
        self._inputs = dict(inputs) if inputs is not None else _random_inputs(net, self._device)
        self.clear()

    def clear(self) -> None:
        self._forward = [0.0] * len(self._net.layers)
        self._backward = [0.0] * len(self._net.layers)

    def timing(self, iterations: int) -> Timing:
        forward = [1e3 * seconds / iterations for seconds in self._forward]
        backward = [1e3 * seconds / iterations for seconds in self._backward]
        names = self._net.layer_names
        return Timing(list(zip(names, forward, backward, strict=True)), sum(forward), sum(backward))

    def run_backward(self, tapes: list[Tape | None]) -> None:
        grads: dict[int, Tensor] = {}
        for index in reversed(range(len(tapes))):
            if tapes[index] is not None:
                self._backward[index] += self._clock(partial(self._run_layer_backward, index, tapes[index], grads))

    def run_forward(self) -> tuple[list[Tape | None], float]:
        """Returns what `run_backward` takes, and the loss."""
        graph = self._net.plan.graph
        plan = self._net.plan.backward
        values: dict[int, Tensor] = {}
        tapes: list[Tape | None] = []
        for index, module in enumerate(self._net.layers):
            node = module.node
            if node.is_input:
                values |= {blob: self._inputs[graph.blob_names[blob]] for blob in node.tops}
                tapes.append(None)
                continue
            wanted = plan.layers[index]
            needs = [wanted and needed for needed in plan.bottoms[index]]
            bottoms = [values[b].detach().requires_grad_(n) for b, n in zip(node.bottoms, needs, strict=True)]
            tops: list[Tensor] = []

            def forward(index=index, bottoms=bottoms, tops=tops, wanted=wanted) -> None:  # type: ignore[no-untyped-def]
                with torch.set_grad_enabled(wanted):
                    tops.extend(self._net.run_layer(index, bottoms))

            self._forward[index] += self._clock(forward)
            values |= {blob: top.detach() for blob, top in zip(node.tops, tops, strict=True)}
            tapes.append((bottoms, tops) if wanted else None)
        return tapes, self._total_loss(values)

    def _run_layer_backward(self, index: int, tape: Tape | None, grads: dict[int, Tensor]) -> None:
        assert tape is not None
        bottoms, tops = tape
        node = self._net.layers[index].node
        pairs = []
        for blob, weight, top in zip(node.tops, node.loss_weights, tops, strict=True):
            if top.requires_grad:
                grad = torch.full_like(top, weight) if weight else grads.pop(blob, None)
                pairs.append((top, torch.zeros_like(top) if grad is None else grad))
        wanted = [b for b in bottoms if b.requires_grad]
        weights: list[Tensor] = [p for p in self._net.layers[index].parameters() if p.requires_grad]
        if not pairs or not wanted + weights:
            return
        found = torch.autograd.grad(
            [top for top, _ in pairs], wanted + weights, [grad for _, grad in pairs], allow_unused=True
        )
        blobs = [blob for blob, bottom in zip(node.bottoms, bottoms, strict=True) if bottom.requires_grad]
        for blob, grad in zip(blobs, found, strict=False):
            if grad is not None:
                grads[blob] = grad

    def _total_loss(self, values: dict[int, Tensor]) -> float:
        nodes = self._net.plan.graph.nodes
        return sum(
            weight * float(values[blob].sum())
            for node in nodes
            for blob, weight in zip(node.tops, node.loss_weights, strict=True)
            if weight
        )

    def _clock(self, work: Callable[[], None]) -> float:
        start = time.perf_counter()
        work()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - start


def _random_inputs(net: Net, device: torch.device) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(net.blob_shapes[name], generator=generator).to(device) for name in net.input_names}
