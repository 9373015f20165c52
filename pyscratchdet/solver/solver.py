"""The training loop of Caffe (solver.cpp): forward, backward, update, test, display, snapshot."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyscratchdet.errors import FileError, Position, SolverError, WeightsError, counted
from pyscratchdet.files import read_bytes
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.forks import refuse_fork_fields, say_harmless
from pyscratchdet.proto.text import Locator, decode_text, parse, to_text
from pyscratchdet.proto.upgrade import upgrade_solver
from pyscratchdet.ranks import World
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.runtime import CopyReport, Net, build_net, copy_weights, share_weights
from pyscratchdet.solver import snapshot, testing
from pyscratchdet.solver.debug import debug_info
from pyscratchdet.solver.divergence import LossGrowth, advice, divergence, has_diverged
from pyscratchdet.solver.fast import Precision
from pyscratchdet.solver.heads import reset_lines
from pyscratchdet.solver.log import number
from pyscratchdet.solver.meter import Meter, SolverEvent, pictures_per_pass
from pyscratchdet.solver.nets import NetChoice, test_nets, train_net
from pyscratchdet.solver.optimizers import make_optimizer
from pyscratchdet.solver.policies import FORK_FIELDS, LearningRate
from pyscratchdet.solver.resume import RunState
from pyscratchdet.solver.shared_test import SharedTest, obstacle, share_statistics
from pyscratchdet.solver.smoothing import SmoothedLoss
from pyscratchdet.solver.testing import Pass

_log = logging.getLogger(__name__)

# Iterations: each read of a loss waits for the GPU, but a diverged run should stop soon.
_LOSS_PERIOD = 20

Feed = Callable[[Net], Mapping[str, Tensor] | None]


class Action(IntEnum):
    """What a signal or a program asks of a running solver; if processes disagree, the greatest wins."""

    NONE = 0
    SNAPSHOT = 1
    STOP = 2


class Solver:
    """Trains the net of a solver file as Caffe does.

    Args:
        param: Path of a solver prototxt, or its message.
        random: Stream that fillers, dropout and data layers draw from; None for a new one.
        seed: Seeds that stream unless the settings have a `random_seed`; None draws one, but keeps a given stream.
        device: Where the nets run.
        options: Runtime choices for layers, such as {"workers": 2}.
        precision: Reference arithmetic or the fast mode.
        world: The processes that train together.
        feed: Gives the arrays of Input layers before each pass.
        stop_when_diverged: Whether a loss that is NaN or infinite, or explodes, ends the run before its update is made.
        keep: How many snapshots to keep; 0 keeps all.
        reset_heads: Whether layers whose shapes differ from those of a file of weights keep their initial values.
        writes: Whether the nets may write the files that they name (HDF5Output, `save_output_param`).
        path: The file that a message comes from, for messages.

    Attributes:
        param: The settings, in the latest format.
        net: The train net.
        test_nets: The test nets; they share the train net's weights from their first test on. Empty in all processes
            but the first if that one tests alone.
        iter: Number of updates made.
        seed: What the random stream was seeded with, if by this solver.
        run_state: Where data layers, random streams and losses stand, for a snapshot.
        optimizer: The update rule with its histories.
        forward_backward: Does one pass forward and backward and returns (loss, blobs); replace it to keep blobs.
        forward_test: Does one pass of test net i and returns (loss, blobs).
        callbacks: (on_start, on_gradients_ready) pairs, called in each iteration.
        listeners: Called with a `SolverEvent` of each iteration, display and test.
        test_listeners: Called with those of tests alone, which cost the iterations nothing.
        action: Called once per iteration and per pass of a test; returns what has been asked for since.
        asked: What was asked for and is still to be done, by all processes together, after a test at the latest.
        stopped: Whether the run was asked to stop.

    Raises:
        SolverError: Settings are missing or contradict each other.
        FileError, PrototxtError, NetError, LayerError: The solver or a net is missing or invalid.
    """

    def __init__(
        self,
        param: caffe_pb2.SolverParameter | str | os.PathLike[str],
        *,
        random: CaffeRandom | None = None,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        options: Mapping[str, object] | None = None,
        precision: Precision | None = None,
        world: World | None = None,
        feed: Feed | None = None,
        stop_when_diverged: bool = True,
        keep: int = 0,
        reset_heads: bool = False,
        writes: bool = True,
        path: str | os.PathLike[str] = "",
    ) -> None:
        self._path = path if isinstance(param, caffe_pb2.SolverParameter) else param
        self.param = upgrade_solver(param if isinstance(param, caffe_pb2.SolverParameter) else read_solver(param))
        check_settings(self.param)
        self.world = world or World()
        self.device = torch.device(device)
        self.precision = precision or Precision()
        self.feed = feed or (lambda net: None)
        self.stop_when_diverged = stop_when_diverged
        self.keep = keep
        self._reset_heads = reset_heads
        self._writes = writes
        _log.info(f"Initializing solver from parameters: \n{to_text(self.param).strip()}")
        if self.world.is_root and self.param.snapshot:
            _probe(self.param.snapshot_prefix)
        self.seed = self.param.random_seed if self.param.random_seed >= 0 else seed
        if self.seed is None and random is None:
            self.seed = self.world.share(secrets.randbits(32))
        self.random = random or CaffeRandom(self.seed)
        if self.seed is not None:
            # As in the original, every device draws from a stream of its own.
            self.random.seed(self.seed + self.world.rank)
        self._options = {
            "fast": self.precision.is_fast,
            "device": self.device,
            "rank": self.world.rank,
            "world_size": self.world.size,
            **(options or {}),
        }
        choice = train_net(self.param, self._path)
        self.net = self._build(choice, "Creating training net from ", self.random, self._writes)
        self.test_nets, self._testers = self._build_test_nets()
        self._ignored: dict[int, list[str]] = {}  # by test net: layers of the train net that it lacks
        self.world.broadcast([entry.parameter for entry in self.net.learnable])
        self.rate = LearningRate(self.param)
        self.optimizer = make_optimizer(self.param, _learnable(self.net))
        self.optimizer.keep_updates = self.param.snapshot_diff
        self.losses = SmoothedLoss(self.param.average_loss)
        self.run_state = RunState((self.net, *self.test_nets), self.random, self.losses, self.device)
        self._shared_tests = [
            SharedTest(net, carried, self._testers)
            for net, carried in zip(self.test_nets, self.run_state.carried[1:], strict=True)
        ]
        self._growth = LossGrowth()
        self._latest_rate = self.param.base_lr
        self._continued = False
        self.iter = 0
        self.stopped = False
        self.forward_backward: Callable[[], Pass] = self._forward_backward
        self.forward_test: Callable[[int], Pass] = self._forward_test
        self.callbacks: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self.listeners: list[Callable[[SolverEvent], None]] = []
        self.test_listeners: list[Callable[[SolverEvent], None]] = []
        self.action: Callable[[], Action] = lambda: Action.NONE
        self.asked = Action.NONE
        self.meter = Meter(self.net, self.device, self.world.size)
        _log.info("Solver scaffolding done.")
        for paths in self.param.weights:
            self.copy_weights(paths)

    @property
    def smoothed_loss(self) -> float:
        """The displayed loss: the mean of the last `average_loss` iterations."""
        return self.losses.value

    # --- the loop ---

    def solve(self, resume_file: str | os.PathLike[str] | None = None) -> None:
        """Trains up to max_iter, with tests, displays and snapshots (Solver::Solve)."""
        _log.info(f"Solving {self.net.name}")
        _log.info(f"Learning Rate Policy: {self.param.lr_policy}")
        self.stopped = False
        if resume_file is not None:
            _log.info(f"Restoring previous solver status from {os.fspath(resume_file)}")
            self.restore(resume_file)
        self.step(self.param.max_iter - self.iter)
        if self.param.snapshot_after_train and not (self.param.snapshot and self.iter % self.param.snapshot == 0):
            self.snapshot()
        if self.stopped:
            _log.info("Optimization stopped early.")
            return
        if self.param.display and self.iter % self.param.display == 0:
            # As in Caffe, debug_info stays as the last iteration set it: on if that was displayed, so if all are.
            debug = self.param.debug_info and self.param.display == 1 and self.world.is_root
            with debug_info(self.net, debug, backward=False), torch.no_grad():
                loss, _ = self._forward()
            self._take_loss(loss, {})
            _log.info(f"Iteration {self.iter}, loss = {number(self.smoothed_loss)}")
        if self.param.test_interval and self.iter % self.param.test_interval == 0:
            self.test_all()
            self._obey()
        _log.info("Optimization Done.")

    def step(self, iterations: int) -> None:
        """Makes `iterations` updates, fewer when asked to stop (Solver::Step).

        Raises:
            SolverError: The loss diverged; the weights are those before the update.
            FileError: A snapshot cannot be written.
        """
        end = self.iter + iterations
        if not self._continued:
            self.losses.clear()
        self._continued = False
        self.meter.start()
        while self.iter < end:
            self.optimizer.zero_grad(set_to_none=not self.optimizer.keep_updates)
            if self._is_test_due():
                self.test_all()
                if self._obey():
                    break
            self._iterate()
            self.asked = self.action()
            if self._obey(bool(self.param.snapshot) and self.iter % self.param.snapshot == 0):
                break
        self._settle_losses({})

    def _obey(self, is_snapshot_due: bool = False) -> bool:
        """Carries out in all processes what any of them was asked for, and returns whether to stop."""
        action = Action(self.world.agree(self.asked))
        self.asked = Action.NONE
        if is_snapshot_due or action == Action.SNAPSHOT:
            self.snapshot()
        self.stopped = action == Action.STOP
        return self.stopped

    def _iterate(self) -> None:
        for on_start, _ in self.callbacks:
            on_start()
        display = bool(self.param.display) and self.iter % self.param.display == 0
        debug = display and self.param.debug_info and self.world.is_root
        loss, blobs = self._accumulate(debug)
        self._take_loss(loss, blobs)
        if display:
            self._display(blobs)
        self.world.average_gradients(self.optimizer.parameters)
        for _, on_gradients_ready in self.callbacks:
            on_gradients_ready()
        norm = self.optimizer.gradient_norm() if self.listeners else None
        self._update(display)
        self.meter.count(norm)
        self._tell(blobs if display else None)
        self.iter += 1

    def _accumulate(self, debug: bool) -> Pass:
        """Sums losses and gradients over iter_size passes; returns their mean loss and the last pass's blobs."""
        passes = []
        blobs: Mapping[str, Tensor] = {}
        for _ in range(self.param.iter_size):
            with debug_info(self.net, debug, backward=True):
                loss, blobs = self.forward_backward()
            passes.append(loss.detach())
        return torch.stack(passes).sum() / self.param.iter_size, blobs

    def _forward_backward(self) -> Pass:
        loss, blobs = self._forward()
        if loss.requires_grad:
            loss.backward()
        return loss.detach(), {name: blob.detach() for name, blob in blobs.items()}

    def _forward(self) -> Pass:
        return self._run(self.net)

    def _forward_test(self, index: int) -> Pass:
        with torch.no_grad():
            return self._run(self.test_nets[index])

    def _run(self, net: Net) -> Pass:
        with self.precision.context(self.device):
            # Inner blobs take memory, so they are kept only where they may be needed.
            blobs = net.forward_blobs(self.feed(net)) if self.precision.is_exact else net(self.feed(net))
            return net.total_loss(blobs), blobs

    def _update(self, display: bool) -> None:
        rate = self.rate(self.iter, self.smoothed_loss if self.param.lr_policy == "plateau" else 0.0)
        if display:
            _log.info(f"Iteration {self.iter}, lr = {number(rate)}")
        self._latest_rate = rate
        self.optimizer.set_rate(rate)
        self.optimizer.iteration = self.iter
        self.optimizer.step()
        if self.optimizer.clipped:
            norm, factor = self.optimizer.clipped
            _log.info(
                f"Gradient clipping: scaling down gradients (L2 norm {number(norm)} > "
                f"{number(self.param.clip_gradients)}) by scale factor {number(factor)}"
            )

    # --- losses ---

    def _take_loss(self, loss: Tensor, blobs: Mapping[str, Tensor]) -> None:
        self.losses.add(loss)
        plateau = self.param.lr_policy == "plateau"
        if self.device.type == "cpu" or plateau or self.losses.pending >= _LOSS_PERIOD:
            self._settle_losses(blobs)

    def _settle_losses(self, blobs: Mapping[str, Tensor]) -> None:
        for loss in self.losses.settle():
            if not self.stop_when_diverged:
                continue
            if has_diverged(loss, self.losses.first):
                raise divergence(self.net, {**self._inner_blobs(), **blobs}, self.iter, loss, self._advice())
            if self._growth.is_exploding(loss, self.losses.first):
                _log.warning(f"Iteration {self.iter}, {self._growth.text(loss, self.losses.first)}; {self._advice()}")

    def _advice(self) -> str:
        pictures = pictures_per_pass(self.net) * self.param.iter_size * self.world.size
        has_batchnorm = any(module.layer_type == "BatchNorm" for module in self.net.layers)
        return advice(self._latest_rate, pictures, has_batchnorm)

    def _inner_blobs(self) -> Mapping[str, Tensor]:
        """Returns the inner blobs, which the fast mode does not keep, from one more pass: its batch will do as well."""
        if self.precision.is_exact or self._options.get("sync_batchnorm"):  # other processes may not join this pass
            return {}
        with torch.no_grad(), self.precision.context(self.device):
            return self.net.forward_blobs(self.feed(self.net))

    # --- output ---

    def _display(self, blobs: Mapping[str, Tensor]) -> None:
        self._settle_losses(blobs)
        _log.info(f"Iteration {self.iter}, loss = {number(self.smoothed_loss)}")
        for line in testing.output_lines(self.net, testing.flat_outputs(self.net, blobs), "Train"):
            _log.info(line)

    def _tell(self, displayed: Mapping[str, Tensor] | None) -> None:
        """Tells the listeners about this iteration, with all figures if it was displayed."""
        if not (self.listeners and self.world.is_root):
            return
        values: dict[str, float] = {}
        if displayed is not None:
            values = {"loss": self.smoothed_loss, "lr": self.optimizer.param_groups[0]["lr"]}
            values |= {f"train/{name}": value for name, value in testing.named_outputs(self.net, displayed)}
            values |= self.meter.read()
        self._report(SolverEvent("train" if displayed is not None else "step", self.iter, values))

    def _report(self, event: SolverEvent) -> None:
        for listener in (*self.listeners, *(self.test_listeners if event.kind == "test" else ())):
            listener(event)

    # --- tests ---

    def _is_test_due(self) -> bool:
        interval = self.param.test_interval
        return bool(interval) and self.iter % interval == 0 and (self.iter > 0 or self.param.test_initialization)

    def test_all(self) -> None:
        """Tests every test net with the present weights (Solver::TestAll)."""
        began = time.perf_counter()
        for index, net in enumerate(self.test_nets):
            self.asked = Action(self._testers.agree(self.asked))
            if self.asked == Action.STOP:
                return
            if index not in self._ignored:
                self._ignored[index] = share_weights(net, self.net)
            _log.info(f"Iteration {self.iter}, Testing net (#{index})")
            for layer in self._ignored[index]:
                _log.info(f"Ignoring source layer {layer}")
            run = self._test_passes(index, net)
            if self.world.is_root:
                values = testing.test(net, index, self.param, run)
                self._report(SolverEvent("test", self.iter, values, index))
        if self.test_nets:
            self.meter.count_test(time.perf_counter() - began)
        self.meter.start()

    def _test_passes(self, index: int, net: Net) -> list[tuple[np.float32, testing.Outputs]]:
        """Makes the passes of a test; only process 0 gets them all."""
        number, forward = self.param.test_iter[index], partial(self.forward_test, index)
        if self._testers.size == 1:
            return list(testing.passes(net, number, forward, self.param.debug_info, self._is_stopped))
        share_statistics(net, self._testers)
        return list(self._shared_tests[index].passes(number, forward, self._is_stopped))

    def _is_stopped(self) -> bool:
        """Notes what is asked for during a test; returns whether that is a stop."""
        while action := self.action():
            self.asked = max(self.asked, action)
        return self.asked == Action.STOP

    # --- snapshots ---

    def snapshot(self) -> Path | None:
        """Writes the weights and the solver's state; returns the state's path, or None if another process writes.

        Raises:
            FileError: They cannot be written; earlier snapshots stay intact.
        """
        self._settle_losses({})
        run = {"seed": self.seed, "processes": self.world.gather(self.run_state.collect())}
        if not self.world.is_root:
            return None
        hdf5 = self.param.snapshot_format == caffe_pb2.SolverParameter.HDF5
        kind, end = ("HDF5", ".h5") if hdf5 else ("binary proto", "")
        model_path = snapshot.snapshot_path(self.param.snapshot_prefix, self.iter, ".caffemodel" + end)
        state_path = snapshot.snapshot_path(self.param.snapshot_prefix, self.iter, ".solverstate" + end)
        _log.info(f"Snapshotting to {kind} file {model_path}")
        snapshot.write_model(self.net, model_path, self.param.snapshot_diff)
        _log.info(f"Snapshotting solver state to {kind} file {state_path}")
        state = snapshot.SolverState(
            self.iter,
            model_path,
            [history.cpu().numpy() for history in self.optimizer.histories()],
            self.rate.current_step,
            self.rate.minimum_loss,
            self.rate.iter_last_event,
        )
        snapshot.write_snapshot(state_path, model_path, state, run)
        for old in snapshot.prune(self.param.snapshot_prefix, self.keep, self.iter):
            _log.info(f"Removed the older snapshot {old}")
        return Path(state_path)

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Restores a `.solverstate` or `.solverstate.h5` (Solver::Restore).

        A snapshot of this program also restores the data layers and random streams of each process, so that the run
        goes on as if it had never stopped. If the snapshot is Caffe's or the number of processes differs, the data
        start over, as in Caffe.

        Raises:
            FileError: A file is missing.
            SolverError, WeightsError: A file is damaged or does not fit the net.
        """
        state = snapshot.read_state(path)
        kept = None
        if state.learned_net:
            model_path = snapshot.find_model(path, state)
            kept = snapshot.read_resume(path, model_path)
            report = copy_weights(self.net, model_path)
            if report.untouched:
                raise SolverError(
                    f"{model_path} lacks layers of the net: {', '.join(report.untouched)}", code="solver.learned-net"
                )
        self.optimizer.set_histories(state.histories)
        _log.info("SGDSolver: restoring history")
        self.iter = state.iteration
        self.rate.current_step = state.current_step
        self.rate.minimum_loss = state.minimum_loss
        # The original leaves this field uninitialised under other policies.
        self.rate.iter_last_event = min(state.iter_last_event, state.iteration)
        if kept is not None:
            self._go_on(kept["processes"])

    def _go_on(self, processes: list[dict[str, Any]]) -> None:
        """Restores this process's data layers and random streams, if there are as many processes as before."""
        if len(processes) == self.world.size:
            (own, *_), (_, *tests) = processes[self.world.rank]["data"], processes[0]["data"]
            self.run_state.restore({**processes[self.world.rank], "data": [own, *tests]})
            self._continued = True
        else:
            _log.info(
                f"The snapshot was made by {counted(len(processes), 'process', 'processes')}; "
                f"with {self.world.size} the data start over"
            )

    def copy_weights(self, paths: str) -> None:
        """Starts from weights of one or more comma-separated files, in all nets (caffe.cpp: CopyLayers).

        Raises:
            FileError, WeightsError: A file is missing, damaged or does not fit the net.
            SolverError: A file is a solver state.
        """
        for path in paths.split(","):
            _log.info(f"Finetuning from {path}")
            for net in (self.net, *self.test_nets):
                report = _copy(net, path, self._reset_heads)
                for layer in report.ignored:
                    _log.info(f"Ignoring source layer {layer}")
                if net is self.net:
                    _log.info(report.summary())
                    for line in reset_lines(net, report):
                        _log.info(line)
        self.world.broadcast([entry.parameter for entry in self.net.learnable])

    # --- building ---

    def _build_test_nets(self) -> tuple[list[Net], World]:
        """Returns the test nets and the processes that share their passes: all, or only process 0 if that cannot be."""
        if self.world.size == 1:
            return self._of_tests(self.random), self.world
        start = self.world.share(self.random.state)
        nets = self._of_tests(self.random) if self.world.is_root else []
        obstacles = ["debug_info prints every pass"] if self.param.debug_info else [obstacle(net) for net in nets]
        if reason := self.world.share(next(filter(None, obstacles), "")):
            _log.info(f"Process 0 tests alone: {reason}")
            return nets, World()
        if not self.world.is_root:
            # What the layers draw must be what they draw in process 0; its own stream stays where it is.
            random = CaffeRandom()
            random.state = start
            nets = self._of_tests(random)
        return nets, self.world

    def _of_tests(self, random: CaffeRandom) -> list[Net]:
        writes = self._writes and self.world.is_root
        return [
            self._build(choice, f"Creating test net (#{i}) specified by ", random, writes)
            for i, choice in enumerate(test_nets(self.param, self._path))
        ]

    def _build(self, choice: NetChoice, what: str, random: CaffeRandom, writes: bool) -> Net:
        _log.info(f"{what}{choice.source}")
        net = build_net(choice.net, choice.phase, choice.level, choice.stages, random, self._options, writes=writes)
        return self.precision.prepare(net.to(self.device), self.device)


def read_solver(path: str | os.PathLike[str]) -> caffe_pb2.SolverParameter:
    """Reads a solver prototxt.

    Raises:
        FileError: The file cannot be read.
        PrototxtError: It is not a solver, or a field of another Caffe changes results and is not computed.
    """
    name = os.fspath(path)
    text = decode_text(read_bytes(path), name)
    param = parse(text, caffe_pb2.SolverParameter, path=name)
    say_harmless(name, _refuse_fork_fields(param, Locator(text, name).position))
    return param


def check_settings(param: caffe_pb2.SolverParameter) -> None:
    """Checks what the original checks when a solver is built, and what it would stumble over later.

    Raises:
        SolverError: Settings are missing or contradict each other.
        PrototxtError: A field of another Caffe changes results and is not computed.
    """
    _refuse_fork_fields(param)
    if param.average_loss < 1:
        raise SolverError("average_loss must be at least 1", code="solver.average-loss", found=param.average_loss)
    if param.type in ("AdaGrad", "RMSProp") and param.momentum != 0:
        raise SolverError(
            f"momentum cannot be used with {param.type}", code="solver.momentum", found=number(param.momentum)
        )
    if param.type == "RMSProp" and not 0 <= param.rms_decay < 1:
        raise SolverError("rms_decay must be in [0, 1)", code="solver.rms-decay", found=number(param.rms_decay))
    if param.snapshot and not param.HasField("snapshot_prefix"):
        raise SolverError("snapshot is given, but snapshot_prefix is not", code="solver.snapshot-prefix")
    if (param.test_net or param.test_net_param or param.test_iter) and param.eval_type not in testing.EVAL_TYPES:
        raise SolverError(
            f'unknown eval_type "{param.eval_type}"', code="solver.eval-type", expected=", ".join(testing.EVAL_TYPES)
        )


def _refuse_fork_fields(
    param: caffe_pb2.SolverParameter, locate: Callable[..., Position | None] = lambda *keys: None
) -> list[str]:
    return refuse_fork_fields(param, FORK_FIELDS, locate, skipped=("net_param", "train_net_param", "test_net_param"))


def _copy(net: Net, path: str, reset_heads: bool) -> CopyReport:
    try:
        return copy_weights(net, path, reset_heads=reset_heads)
    except WeightsError as error:
        if not snapshot.holds_state(path):
            raise
        raise SolverError(
            f"{path} holds a solver state, not weights",
            code="solver.weights",
            hint="--snapshot resumes from it; --weights takes the .caffemodel beside it",
        ) from error


def _learnable(net: Net) -> list[dict[str, Any]]:
    return [
        {"params": entry.parameter, "lr_mult": entry.lr_mult, "decay_mult": entry.decay_mult} for entry in net.learnable
    ]


def _probe(prefix: str) -> None:
    """Checks that snapshots can be written, before training starts rather than at the first snapshot."""
    folder, stem = os.path.split(prefix)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f"{stem}_iter_0.", suffix=".tempfile", dir=folder or "."):
            pass  # under a new name: existing files stay as they are
    except OSError as error:
        raise FileError(
            f'cannot write to snapshot prefix "{prefix}": {error.strerror or error}',
            code="solver.snapshot-prefix",
            hint="the folder must be writable",
        ) from error
