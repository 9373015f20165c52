"""A whole training run as `caffe train` does it: devices, processes, signals, log, metrics (tools/caffe.cpp)."""

from __future__ import annotations

import getpass
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TextIO

import torch

from pyscratchdet.devices import choose_device
from pyscratchdet.errors import SolverError, UsageError
from pyscratchdet.progress import Progress
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.ranks import World, is_launched, joined, local_rank
from pyscratchdet.solver.best import BestWeights, check_best
from pyscratchdet.solver.data_checks import check_records, check_test_size
from pyscratchdet.solver.estimate import TimeEstimate
from pyscratchdet.solver.fast import Precision
from pyscratchdet.solver.log import logging_to
from pyscratchdet.solver.metrics import LinesAboveProgress, MetricsFile, TensorBoard, TrainingProgress
from pyscratchdet.solver.signals import SignalHandler
from pyscratchdet.solver.snapshot import kept_seed, latest_snapshot
from pyscratchdet.solver.solver import Solver, read_solver
from pyscratchdet.solver.symptoms import watch

_log = logging.getLogger(__name__)


@dataclass
class TrainSettings:
    """The settings of `pyscratchdet train`: the flags of `caffe train` and our own.

    Attributes:
        solver: Solver prototxt.
        weights: Comma-separated weights to start from.
        snapshot: Solver state to resume from.
        resume: True to resume from the newest complete snapshot, if there is one.
        gpu: Device numbers "0,1", "all", or "" to do what the solver file says.
        level, stages: Added to the solver's train_state.
        iterations: Replaces max_iter; 0 keeps it.
        fast: Fast mode or reference arithmetic; None for fast on a GPU.
        bfloat16: True for the fast mode with bfloat16, on a CPU too.
        workers: Processes that decode pictures; None for the layers' own choice.
        sync_batchnorm: Whether BatchNorm takes its statistics over the batches of all processes.
        reset_heads: Whether layers whose shapes differ from those of the weights keep their initial values.
        keep: Snapshots to keep; 0 keeps all.
        keep_best: Whether the weights of the best test stay, whatever `keep` says.
        patience: How many tests without a better one end the run, which implies `keep_best`; 0 for none.
        sigint_effect, sighup_effect: "stop", "snapshot" or "none".
        log, log_dir: File or folder for the log.
        metrics: CSV or JSON-lines file.
        tensorboard: Folder for TensorBoard.
    """

    solver: str
    weights: str = ""
    snapshot: str = ""
    resume: bool = False
    gpu: str = ""
    level: int = 0
    stages: Sequence[str] = ()
    iterations: int = 0
    fast: bool | None = None
    bfloat16: bool = False
    workers: int | None = None
    sync_batchnorm: bool = False
    reset_heads: bool = False
    keep: int = 0
    keep_best: bool = False
    patience: int = 0
    sigint_effect: str = "stop"
    sighup_effect: str = "snapshot"
    log: str = ""
    log_dir: str = ""
    metrics: str = ""
    tensorboard: str = ""


def train(settings: TrainSettings, shows_progress: bool = False) -> None:
    """Trains as the settings say.

    Args:
        settings: What to do.
        shows_progress: Whether to show a progress bar below the log on stderr.

    Raises:
        UsageError: Settings that do not go together.
        PyScratchDetError: A file, net or solver is invalid, or the run diverged.
    """
    if settings.snapshot and (settings.weights or settings.resume):
        other = "--weights" if settings.weights else "--resume"
        raise UsageError(f"give either --snapshot or {other}, not both", code="train.snapshot")
    param = _solver_param(settings)
    if settings.reset_heads and not param.weights:
        raise UsageError("--reset-heads needs weights to start from", code="train.reset-heads", expected="--weights")
    if settings.keep_best or settings.patience:
        check_best(param)
    with ExitStack() as stack:
        device = _device(settings.gpu, param)
        world = stack.enter_context(joined(device))
        bar = None
        if shows_progress and world.is_root:
            bar = stack.enter_context(Progress(param.max_iter, "iterations"))
        level = logging.INFO if world.is_root else logging.ERROR
        stack.enter_context(logging_to(_log_paths(settings, world), LinesAboveProgress(bar) if bar else None, level))
        signals = stack.enter_context(
            SignalHandler(settings.sigint_effect, settings.sighup_effect, is_patient=world.size > 1)
        )
        _log.info("Use CPU." if device.type == "cpu" else f"Using GPUs {device.index}")
        state = _state(settings, param)
        if state:
            param.ClearField("weights")  # the snapshot has its own
        solver = _make(settings, param, device, world, kept_seed(state) if state else None)
        solver.action = signals.action
        _attach(solver, settings, bar, stack, goes_on=bool(state))
        if state:
            _log.info(f"Resuming from {state}")
            solver.restore(state)
        if world.is_root:
            _check_data(solver, is_new=not state)
        _log.info("Starting Optimization")
        solver.solve()
        _log.info("Optimization Done.")


def spawn(gpus: Sequence[int], arguments: Sequence[str], stderr: TextIO | None = None) -> int:
    """Starts `pyscratchdet train` once per GPU under torchrun and returns its exit status.

    Args:
        gpus: Device numbers.
        arguments: The command's own arguments.
        stderr: Where its messages go; None for this process's own.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={len(gpus)}"]
    command += ["-m", "--", "pyscratchdet", "train", *arguments]  # or else it takes --log for one of its own
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    chosen = [visible[gpu] for gpu in gpus] if visible else map(str, gpus)  # the numbers count those visible here
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(chosen)}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the processes receive the signal too and stop on their own
    try:
        return subprocess.run(command, env=environment, stderr=stderr).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def _solver_param(settings: TrainSettings) -> caffe_pb2.SolverParameter:
    param = read_solver(settings.solver)
    if settings.level:
        param.train_state.level = settings.level
    param.train_state.stage.extend(stage for stage in settings.stages if stage)
    if settings.weights:
        param.weights[:] = [settings.weights]
    if settings.iterations:
        param.max_iter = settings.iterations
    return param


def _device(gpu: str, param: caffe_pb2.SolverParameter) -> torch.device:
    if is_launched() and torch.cuda.is_available() and (gpu or param.solver_mode == caffe_pb2.SolverParameter.GPU):
        torch.cuda.set_device(local_rank())
        return torch.device("cuda", local_rank())
    if not gpu and param.solver_mode == caffe_pb2.SolverParameter.GPU and torch.cuda.is_available():
        gpu = str(param.device_id)
    return choose_device(gpu)


def _make(
    settings: TrainSettings, param: caffe_pb2.SolverParameter, device: torch.device, world: World, seed: int | None
) -> Solver:
    fast = settings.bfloat16 or (device.type == "cuda" if settings.fast is None else settings.fast)
    options: dict[str, object] = {"sync_batchnorm": settings.sync_batchnorm and world.size > 1}
    if settings.workers is not None:
        options["workers"] = settings.workers
    if settings.workers and not fast:
        _log.warning("--workers has no effect on reference arithmetic, which reads one picture after the other: --fast")
    precision = Precision(is_fast=fast, autocast=settings.bfloat16 or None)
    return Solver(
        param,
        seed=seed,
        device=device,
        options=options,
        precision=precision,
        world=world,
        keep=settings.keep,
        reset_heads=settings.reset_heads,
        path=settings.solver,
    )


def _check_data(solver: Solver, is_new: bool) -> None:
    for net, num_passes in zip(solver.test_nets, solver.param.test_iter, strict=True):
        if num_passes > 0:
            check_test_size(net, num_passes)
    if is_new:
        check_records(solver.net, solver.test_nets)


def _attach(solver: Solver, settings: TrainSettings, bar: Progress | None, stack: ExitStack, *, goes_on: bool) -> None:
    if not solver.world.is_root:
        return
    listeners: list[Any] = []
    if settings.metrics:
        listeners.append(MetricsFile(settings.metrics, solver))
    if settings.tensorboard:
        listeners.append(TensorBoard(settings.tensorboard))
    for listener in listeners:
        stack.callback(listener.close)
    spreads = watch(solver)  # first, since the best weights ask what was seen
    if settings.keep_best or settings.patience:
        best = BestWeights(solver, settings.patience, goes_on, lambda: any(spread.is_blind for spread in spreads))
        solver.test_listeners.append(best)
    estimate = TimeEstimate(solver)
    solver.listeners += listeners + ([TrainingProgress(bar, estimate.seconds_left)] if bar else [])


def _state(settings: TrainSettings, param: caffe_pb2.SolverParameter) -> str:
    """Returns the solver state to resume from; empty to start afresh."""
    if not settings.resume:
        return settings.snapshot
    if not param.HasField("snapshot_prefix"):
        raise SolverError("--resume needs a snapshot_prefix in the solver", code="solver.snapshot-prefix")
    return str(latest_snapshot(param.snapshot_prefix) or "")


def _log_paths(settings: TrainSettings, world: World) -> list[str]:
    if not world.is_root:
        return []
    paths = [settings.log] if settings.log else []
    if settings.log_dir:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name = f"pyscratchdet.{socket.gethostname()}.{_user()}.log.INFO.{stamp}.{os.getpid()}"
        paths.append(os.path.join(settings.log_dir, name))
    return paths


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
