"""The solver's detection test on its own: a test net with DetectionEvaluate, run on a snapshot and summed up."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from pyscratchdet.errors import NetError, UsageError
from pyscratchdet.evaluate.average_precision import DetectionSummary
from pyscratchdet.layers.plan import read_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import read
from pyscratchdet.ranks import World
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.runtime import Net, load_net
from pyscratchdet.solver.data_checks import check_test_size
from pyscratchdet.solver.fast import Precision
from pyscratchdet.solver.nets import NetChoice, first_test_net
from pyscratchdet.solver.resume import CarriedState
from pyscratchdet.solver.shared_test import SharedTest, obstacle
from pyscratchdet.solver.testing import Outputs, passes, summaries

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetectionTest:
    """What to test with.

    Attributes:
        net: The test net.
        iterations: Number of batches.
        ap_version: "11point", "MaxIntegral" or "Integral".
    """

    net: NetChoice
    iterations: int
    ap_version: str = "11point"

    @classmethod
    def of_net(cls, path: str | os.PathLike[str]) -> DetectionTest:
        """Returns the test of a net file, one batch long.

        Raises:
            FileError, PrototxtError: It cannot be read.
        """
        return cls(NetChoice(read_net(path), caffe_pb2.TEST, 0, [], os.fspath(path)), 1)

    @classmethod
    def of_solver(cls, path: str | os.PathLike[str]) -> DetectionTest:
        """Returns the first test of a solver file.

        Raises:
            FileError, PrototxtError: The solver or its test net cannot be read.
            UsageError: The solver has no test.
        """
        param = read(path, caffe_pb2.SolverParameter)
        net = first_test_net(param, path) if param.test_iter else None
        if net is None:
            raise UsageError(
                f"{os.fspath(path)}: no test net", code="evaluate.no-test", expected="test_net (or net) and test_iter"
            )
        return cls(net, param.test_iter[0], param.ap_version)


def run_detection_test(
    test: DetectionTest,
    weights: str | os.PathLike[str] | None,
    device: torch.device | str = "cpu",
    on_pass: Callable[[int], None] = lambda number: None,
    is_checked: bool = True,
    world: World | None = None,
) -> dict[str, DetectionSummary]:
    """Runs a test net and sums up each of its outputs.

    Args:
        test: What to test with.
        weights: A snapshot; None where the net has nothing to learn.
        device: The torch device.
        on_pass: Called with the number of batches done.
        is_checked: Whether numbers that do not fit the database are warned of.
        world: The processes that share the passes, if the net permits it; by default only this one.

    Returns:
        {output blob: summary}; of nothing on processes other than the first.

    Raises:
        FileError, WeightsError, DataError, LayerError: Something is missing or invalid.
        NetError: The net is invalid or has no DetectionEvaluate layer.
    """
    world, choice = world or World(), test.net
    net = load_net(
        choice.net,
        weights,
        choice.phase,
        level=choice.level,
        stages=choice.stages,
        random=CaffeRandom(world.share(secrets.randbits(32))) if world.size > 1 else None,
        writes=world.is_root,
    )
    net = Precision().prepare(net.to(device), torch.device(device))
    if not any(module.layer_type == "DetectionEvaluate" for module in net.layers):
        raise NetError(
            f"{choice.source}: not a detection test net",
            code="evaluate.no-evaluate-layer",
            expected="a DetectionEvaluate layer in the TEST phase",
            hint="a deploy net is judged by `evaluate voc` or `evaluate coco`",
        )
    if is_checked and world.is_root:
        check_test_size(net, test.iterations)
    run = []
    for _, outputs in _passes(net, test.iterations, world):
        run.append(outputs)
        on_pass(len(run))
    return summaries(net, run, test.ap_version)


def _passes(net: Net, number: int, world: World) -> Iterable[tuple[np.float32, Outputs]]:
    """Returns the passes of a test, on process 0."""
    if world.size == 1:
        return passes(net, number)
    if reason := obstacle(net):
        if world.is_root:
            _log.warning(f"process 0 tests alone: {reason}")
        return passes(net, number) if world.is_root else ()
    return SharedTest(net, CarriedState(net), world).passes(number)
