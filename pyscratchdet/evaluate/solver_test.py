"""The solver's detection test without a solver: a test net with DetectionEvaluate, run and summed up."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pyscratchdet.errors import FileError, NetError, UsageError
from pyscratchdet.evaluate.average_precision import DetectionSummary, summarize_detections
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import read
from pyscratchdet.runtime import Net, load_net


@dataclass(frozen=True)
class EvaluationPlan:
    """What to test with.

    Attributes:
        model: Prototxt of the test net.
        iterations: Batches.
        ap_version: "11point", "MaxIntegral" or "Integral".
        stages: Of the test net's state.
        level: Of the test net's state.
    """

    model: str
    iterations: int
    ap_version: str = "11point"
    stages: tuple[str, ...] = ()
    level: int = 0


def plan_from_solver(path: str | os.PathLike[str]) -> EvaluationPlan:
    """Returns the first test net of a solver file; its path counts from the working folder, as in Caffe.

    Raises:
        FileError, PrototxtError: The solver cannot be read.
        UsageError: It names no test net, or the nets are written into the solver.
    """
    solver = read(path, caffe_pb2.SolverParameter)
    models = [*solver.test_net, *([solver.net] if solver.net else [])]
    if not models or not solver.test_iter:
        raise UsageError(
            f"{os.fspath(path)}: no test net", code="evaluate.no-test", expected="test_net (or net) and test_iter"
        )
    if not Path(models[0]).exists() and (beside := Path(path).parent / models[0]).exists():
        raise FileError(
            f"no file {models[0]}",
            code="file.read",
            hint=f"paths count from the working folder; did you mean {beside}?",
        )
    state = solver.test_state[0] if solver.test_state else caffe_pb2.NetState()
    return EvaluationPlan(models[0], solver.test_iter[0], solver.ap_version, tuple(state.stage), state.level)


def run_test(
    plan: EvaluationPlan,
    weights: str | os.PathLike[str] | None,
    device: torch.device | str = "cpu",
    on_done: Callable[[int], None] | None = None,
) -> dict[str, DetectionSummary]:
    """Runs a test net and sums up each of its outputs.

    Args:
        plan: What to test with.
        weights: A snapshot; None where the net has nothing to learn.
        device: torch device.
        on_done: Called with the number of batches done.

    Returns:
        {output blob: summary}.

    Raises:
        FileError, PrototxtError, NetError, LayerError, WeightsError, DataError: Something is missing or not sound.
        NetError: The net has no DetectionEvaluate output.
    """
    net: Net = load_net(plan.model, weights, phase="TEST", level=plan.level, stages=plan.stages).to(device)
    if not any(module.layer_type == "DetectionEvaluate" for module in net.layers):
        raise NetError(
            f"{plan.model}: not a detection test net",
            code="evaluate.no-evaluate-layer",
            expected="a DetectionEvaluate layer in the TEST phase",
            hint="a deploy net is judged by `evaluate voc` or `evaluate coco`",
        )
    rows: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode():
        for iteration in range(plan.iterations):
            for name, blob in net().items():
                rows.setdefault(name, []).append(blob.cpu().numpy())
            if on_done:
                on_done(iteration + 1)
    return {name: summarize_detections(parts, plan.ap_version) for name, parts in rows.items()}
