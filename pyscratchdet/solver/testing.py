"""The solver's test phase (solver.cpp: TestClassification, TestDetection)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pyscratchdet.evaluate.average_precision import summarize_detections
from pyscratchdet.runtime import Net
from pyscratchdet.solver.debug import debug_info
from pyscratchdet.solver.log import info, number

if TYPE_CHECKING:
    from pyscratchdet.solver.solver import Solver

EVAL_TYPES = ("classification", "detection")

_log = logging.getLogger(__name__)


def test(solver: Solver, index: int, ignored: Sequence[str] = ()) -> dict[str, float]:
    """Runs test net `index` for its test_iter passes, prints as the original does and returns the figures.

    Args:
        solver: The solver.
        index: Which of its test nets.
        ignored: Layers of the train net that the test net lacks.

    Returns:
        {"test<index>/<output>": value}, with "mAP" under detection; nothing when the test was
        interrupted or has no passes.

    Raises:
        DataError: Under eval_type "detection", an output is not one of DetectionEvaluate.
        UsageError: Unknown ap_version.
    """
    info(_log, f"Iteration {solver.iter}, Testing net (#{index})", "solver.cpp:433")
    for layer in ignored:
        info(_log, f"Ignoring source layer {layer}", "net.cpp:693")
    if solver.param.test_iter[index] <= 0:
        return {}  # a way to switch a test off
    outputs: list[list[np.ndarray]] = []
    total = np.float32(0)
    for _ in range(solver.param.test_iter[index]):
        if _is_stopped(solver):
            info(_log, "Test interrupted.", "solver.cpp:407")
            return {}
        with debug_info(solver.test_nets[index], solver.param.debug_info, backward=False):
            loss, blobs = solver.forward_test(index)
        if solver.param.test_compute_loss:
            total += np.float32(loss.item())
        outputs.append(flat_outputs(solver.test_nets[index], blobs))
    if solver.param.test_compute_loss:
        mean = total / np.float32(solver.param.test_iter[index])
        info(_log, f"Test loss: {number(float(mean))}", "solver.cpp:412")
    if solver.param.eval_type == "detection":
        return _detection(solver, index, outputs)
    return _classification(solver, index, outputs)


def flat_outputs(net: Net, blobs: Mapping[str, Tensor]) -> list[np.ndarray]:
    """Returns the net's outputs as float32 arrays, in Caffe's order."""
    return [blobs[name].detach().float().cpu().numpy() for name in net.output_names]


def output_text(net: Net, name: str, value: float) -> str:
    """Returns `loss = 1.2 (* 1 = 1.2 loss)`; the bracket is there for outputs with a loss weight."""
    weight = np.float32(net.loss_weights.get(name, 0))
    weighted = float(weight * np.float32(value))
    return f"{name} = {number(value)}" + (f" (* {number(float(weight))} = {number(weighted)} loss)" if weight else "")


def output_lines(net: Net, outputs: list[np.ndarray], what: str) -> list[str]:
    """Returns the lines `    Train net output #0: loss = 1.2 (* 1 = 1.2 loss)`, one per value."""
    values = [(n, value) for n, output in zip(net.output_names, outputs, strict=True) for value in output.ravel()]
    return [f"    {what} net output #{i}: {output_text(net, name, value)}" for i, (name, value) in enumerate(values)]


def named_outputs(net: Net, blobs: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Yields (name, value) of the net's outputs of one value each."""
    for name, output in zip(net.output_names, flat_outputs(net, blobs), strict=True):
        if output.size == 1:
            yield name, float(output.ravel()[0])


def _is_stopped(solver: Solver) -> bool:
    while action := solver.action():
        solver.asked = max(solver.asked, action)
    return solver.asked == solver.asked.STOP


def _classification(solver: Solver, index: int, outputs: list[list[np.ndarray]]) -> dict[str, float]:
    net = solver.test_nets[index]
    passes = np.float32(len(outputs))
    means = [np.stack([each[j] for each in outputs]).sum(0, np.float32) / passes for j in range(len(outputs[0]))]
    for line in output_lines(net, means, "Test"):
        info(_log, line, "solver.cpp:425")
    return {
        f"test{index}/{name}": float(mean.ravel()[0])
        for name, mean in zip(net.output_names, means, strict=True)
        if mean.size == 1
    }


def _detection(solver: Solver, index: int, outputs: list[list[np.ndarray]]) -> dict[str, float]:
    values = {}
    for j, name in enumerate(solver.test_nets[index].output_names):
        summary = summarize_detections([each[j] for each in outputs], solver.param.ap_version)
        for line in summary.lines(name, j, solver.param.show_per_class_result):
            missing = line.startswith("Missing")
            level, place = (logging.WARNING, 524) if missing else (logging.INFO, 540)
            info(_log, line, f"solver.cpp:{place if line[0] != ' ' else 546}", level)
        if summary.mean_ap is not None:
            values[f"test{index}/{name}"] = summary.mean_ap
            values.setdefault("mAP", summary.mean_ap)
    return values
