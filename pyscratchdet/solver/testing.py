"""Test nets: the solver's test phase (solver.cpp: TestClassification, TestDetection) and `caffe test` (caffe.cpp)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pyscratchdet.errors import NetError, UsageError
from pyscratchdet.evaluate.average_precision import DetectionSummary, summarize_detections
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.runtime import Net
from pyscratchdet.solver.debug import debug_info
from pyscratchdet.solver.log import number

EVAL_TYPES = ("classification", "detection")

# The loss of a pass and its blobs by name.
Pass = tuple[Tensor, Mapping[str, Tensor]]
# The outputs of a pass in Caffe's order, float32.
Outputs = list[np.ndarray]

_log = logging.getLogger(__name__)


def test(
    net: Net, index: int, param: caffe_pb2.SolverParameter, run: Sequence[tuple[np.float32, Outputs]]
) -> dict[str, float]:
    """Prints what a solver's test has found as the original does, and returns the figures.

    Args:
        net: The test net.
        index: Which of the solver's test nets it is.
        param: The solver's settings.
        run: Loss and outputs of each pass; fewer than test_iter if the test was interrupted.

    Returns:
        {"test<index>/<output>": value}, with "mAP" under detection; nothing when the test was
        interrupted or has no passes.

    Raises:
        DataError: Under eval_type "detection", an output is not one of DetectionEvaluate.
        NetError: Under eval_type "classification", an output changes its shape between passes.
        UsageError: Unknown ap_version.
    """
    num_passes = param.test_iter[index]
    if num_passes <= 0:
        return {}  # a way to switch a test off
    if len(run) < num_passes:
        _log.info("Test interrupted.")
        return {}
    if param.test_compute_loss:
        mean = sum((loss for loss, _ in run), np.float32(0)) / np.float32(num_passes)
        _log.info(f"Test loss: {number(float(mean))}")
    outputs = [outputs for _, outputs in run]
    return (_detection if param.eval_type == "detection" else _classification)(net, index, param, outputs)


def score(net: Net, iterations: int, progress: Callable[[int], object] = lambda done: None) -> dict[str, np.ndarray]:
    """Runs a test net on its own data, prints every output and finally their means, as `caffe test` does.

    Args:
        net: A net with data layers.
        iterations: Number of batches.
        progress: Called with the number of batches done.

    Returns:
        {output: mean over the batches}.

    Raises:
        UsageError: iterations is not above 0.
        NetError: The net has inputs that nothing fills, or its outputs change their shapes between batches.
    """
    _check(net, iterations)
    _log.info(f"Running for {iterations} iterations.")
    run: list[Outputs] = []
    total = np.float32(0)
    for i, (loss, outputs) in enumerate(passes(net, iterations, wants_debug_info=net.plan.graph.param.debug_info)):
        for name, output in zip(net.output_names, outputs, strict=True):
            for value in output.ravel():
                _log.info(f"Batch {i}, {name} = {number(value)}")
        run.append(outputs)
        total += loss
        _check_shapes(run[0], outputs)
        progress(i + 1)
    _log.info(f"Loss: {number(float(total / np.float32(iterations)))}")
    means = dict(zip(net.output_names, _means(run), strict=True))
    for name, mean in means.items():
        for value in mean.ravel():
            _log.info(output_text(net, name, float(value)))
    return means


def passes(
    net: Net,
    num_passes: int,
    forward: Callable[[], Pass] | None = None,
    wants_debug_info: bool = False,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[np.float32, Outputs]]:
    """Yields the loss and the outputs of each pass of a test net; fewer than `num_passes` when stopped.

    Args:
        net: The net.
        num_passes: How many.
        forward: Does one pass; None for the net on its own data.
        wants_debug_info: Whether to print blobs as `debug_info: true` does.
        is_stopped: Asked before each pass.
    """
    for _ in range(num_passes):
        if is_stopped():
            return
        with debug_info(net, wants_debug_info, backward=False):
            loss, blobs = forward() if forward else _forward(net)
        yield np.float32(loss.item()), flat_outputs(net, blobs)


def summaries(net: Net, run: Sequence[Outputs], ap_version: str) -> dict[str, DetectionSummary]:
    """Returns the average precision of each output over all passes, by the output's name.

    Raises:
        DataError: An output is not one of DetectionEvaluate.
        UsageError: Unknown ap_version.
    """
    return {
        name: summarize_detections([outputs[j] for outputs in run], ap_version)
        for j, name in enumerate(net.output_names)
    }


def flat_outputs(net: Net, blobs: Mapping[str, Tensor]) -> Outputs:
    """Returns the net's outputs as float32 arrays, in Caffe's order."""
    return [blobs[name].detach().float().cpu().numpy() for name in net.output_names]


def output_text(net: Net, name: str, value: float) -> str:
    """Returns `loss = 1.2 (* 1 = 1.2 loss)`; the brackets are for outputs with a loss weight."""
    weight = np.float32(net.loss_weights.get(name, 0))
    weighted = float(weight * np.float32(value))
    return f"{name} = {number(value)}" + (f" (* {number(float(weight))} = {number(weighted)} loss)" if weight else "")


def output_lines(net: Net, outputs: Outputs, what: str) -> list[str]:
    """Returns the lines `    Train net output #0: loss = 1.2 (* 1 = 1.2 loss)`, one per value."""
    values = [(n, value) for n, output in zip(net.output_names, outputs, strict=True) for value in output.ravel()]
    return [f"    {what} net output #{i}: {output_text(net, name, value)}" for i, (name, value) in enumerate(values)]


def named_outputs(net: Net, blobs: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Yields (name, value) of each output that has a single value."""
    for name, output in zip(net.output_names, flat_outputs(net, blobs), strict=True):
        if output.size == 1:
            yield name, float(output.ravel()[0])


def _forward(net: Net) -> Pass:
    with torch.no_grad():
        blobs = net()
        return net.total_loss(blobs), blobs


def _means(run: Sequence[Outputs]) -> Outputs:
    """Returns the mean of each output over all passes, summed in float32 and in order, as the original does."""
    for outputs in run:
        _check_shapes(run[0], outputs)
    return [np.asarray(sum(values[1:], values[0]) / np.float32(len(run))) for values in zip(*run, strict=True)]


def _check_shapes(first: Outputs, other: Outputs) -> None:
    if any(a.shape != b.shape for a, b in zip(first, other, strict=True)):
        raise NetError(
            "outputs change shape between batches, so they have no mean",
            code="score.shapes",
            hint='for a net that ends in DetectionEvaluate, use `evaluate caffe` or eval_type: "detection"',
        )


def _classification(net: Net, index: int, param: caffe_pb2.SolverParameter, run: Sequence[Outputs]) -> dict[str, float]:
    means = _means(run)
    for line in output_lines(net, means, "Test"):
        _log.info(line)
    return {
        f"test{index}/{name}": float(mean.ravel()[0])
        for name, mean in zip(net.output_names, means, strict=True)
        if mean.size == 1
    }


def _detection(net: Net, index: int, param: caffe_pb2.SolverParameter, run: Sequence[Outputs]) -> dict[str, float]:
    values = {}
    for j, (name, summary) in enumerate(summaries(net, run, param.ap_version).items()):
        for line in summary.lines(name, j, param.show_per_class_result):
            _log.log(logging.WARNING if line.startswith("Missing") else logging.INFO, line)
        if summary.mean_ap is not None:
            values[f"test{index}/{name}"] = summary.mean_ap
            values.setdefault("mAP", summary.mean_ap)
    return values


def _check(net: Net, iterations: int) -> None:
    if iterations <= 0:
        raise UsageError("iterations must be above 0", code="score.iterations", found=iterations)
    if net.input_names:
        raise NetError(
            f"nothing fills the inputs {', '.join(net.input_names)}",
            code="score.inputs",
            hint="give a net with data layers, or use `pyscratchdet evaluate`",
        )
