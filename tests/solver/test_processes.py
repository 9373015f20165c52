"""Whole runs in processes of their own: killed, interrupted, several together."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from toynet import SOLVER

from pyscratchdet.proto.weights import read_weights
from pyscratchdet.solver import Solver, latest_snapshot, read_state

SLOW = """
import os, signal, sys, threading, time
import pyscratchdet.solver.launch
from pyscratchdet.cli import main
from pyscratchdet.layers.input import DummyData
forward = DummyData.forward
steps, delay = float("inf"), 0.0

def slower(*arguments):
    global steps
    steps -= 1
    if steps == 0:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    time.sleep(0.004)
    return forward(*arguments)

DummyData.forward = slower
"""
# A run that is left alone.
ONCE = SLOW + "sys.exit(main(sys.argv[1:]))"
# One of several processes; the second is killed at its fifth step, the first time.
ONE_OF_TWO = (
    SLOW
    + """
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    steps = float(os.environ["KILLED_AT"])
sys.exit(main(sys.argv[1:]))
"""
)
# A run after the other, each a fork that is killed at the step and after the delay that a line tells.
AGAIN_AND_AGAIN = (
    SLOW
    + """
import torch._dynamo  # which the first optimizer of a process imports, for seconds
for line in sys.stdin:
    steps, delay = map(float, line.split())
    child = os.fork()
    if not child:
        os._exit(main(sys.argv[1:]))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
)
TWO = """
import os, sys
import numpy as np, torch
from pyscratchdet.solver import ProcessGroup, Solver
path, data, out, sync = sys.argv[1:]
world = ProcessGroup(torch.device("cpu"))
values = np.load(data)
feed = lambda net: {name: torch.from_numpy(values[name][solver.iter, world.rank]) for name in net.input_names}
solver = Solver(path, world=world, feed=feed, options={"sync_batchnorm": sync == "sync"})
solver.step(4)
blobs = {f"{name}/{i}": p.detach().numpy() for name, all in solver.net.params.items() for i, p in enumerate(all)}
np.savez(f"{out}.{world.rank}.npz", **blobs)
world.agree(0)
os._exit(0)  # as the command line does
"""
NET = """
name: "two"
layer { name: "in" type: "Input" top: "x" top: "y"
  input_param { shape { dim: 5 dim: 3 dim: 4 dim: 2 } shape { dim: 5 dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 6 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "scale" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "scale" top: "scale" }
layer { name: "fc" type: "InnerProduct" bottom: "scale" top: "fc"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "y" top: "loss" }
"""
NET_SOLVER = """
net: "{folder}/train.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" weight_decay: 0.01 random_seed: 5
solver_mode: CPU snapshot_after_train: false
"""

pytestmark = pytest.mark.slow


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def start(path, *flags):
    command = [sys.executable, "-c", ONCE, "train", f"--solver={path}", *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())


def torchrun(*arguments, restarts=0, **more):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, f"--max-restarts={restarts}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**more), timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def wait_for(folder, name):
    for _ in range(20000):  # minutes, on a machine that is busy with other things
        if (folder / name).exists():
            return
        time.sleep(0.01)
    pytest.fail(f"{name} was never written")


def blobs(model):
    return [array for arrays in read_weights(model).blobs.values() for array in arrays]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(blobs(a), blobs(b), strict=True))


def test_killed_at_any_moment_a_run_loses_nothing(toy, tmp_path):
    path = toy(solver=SOLVER.replace("snapshot: 7", "snapshot: 3").replace("max_iter: 20", "max_iter: 250"))
    Solver(path).solve()
    (tmp_path / "out").rename(tmp_path / "whole")
    moments = random.Random(1)
    # Counted in steps of the killed process itself, so that a busy machine kills as often as an idle one;
    # the delay then lands anywhere in the next two steps, in the writing of a snapshot too.
    kills = [f"{moments.randint(1, 12)} {moments.uniform(0, 0.012)}" for _ in range(20)]
    command = [sys.executable, "-c", AGAIN_AND_AGAIN, "train", f"--solver={path}", "--resume", "auto"]
    lines = "\n".join([*kills, "inf 0"])
    runs = subprocess.run(command, input=lines, capture_output=True, text=True, env=environment(), timeout=300)
    assert runs.stdout.split() == ["-9"] * 20 + ["0"], runs.stderr
    assert same(tmp_path / "out/toy_iter_250.caffemodel", tmp_path / "whole/toy_iter_250.caffemodel")


def test_interrupt_stops_with_a_snapshot(toy, tmp_path):
    path = toy(solver=SOLVER.replace("max_iter: 20", "max_iter: 100000"))
    run = start(path)
    wait_for(tmp_path / "out", "toy_iter_7.solverstate")
    run.send_signal(signal.SIGINT)
    _, log = run.communicate(timeout=300)
    assert run.returncode == 0, log
    assert "Optimization stopped early." in log
    newest = latest_snapshot(str(tmp_path / "out/toy"))
    assert f"toy_iter_{read_state(newest).iteration}.caffemodel" in log


def test_hangup_writes_a_snapshot_and_goes_on(toy, tmp_path):
    path = toy(solver=SOLVER.replace("snapshot: 7", "snapshot: 100000").replace("max_iter: 20", "max_iter: 400"))
    run = start(path)
    for line in run.stderr:
        if "Starting Optimization" in line:
            time.sleep(0.1)
            run.send_signal(signal.SIGHUP)
            break
    _, log = run.communicate(timeout=300)
    assert run.returncode == 0, log
    assert len(list((tmp_path / "out").glob("*.solverstate"))) == 2  # the one asked for and the last
    assert "Optimization Done." in log


def batches():
    """Four steps' batches of two processes: {blob: (step, process, ...)}."""
    generator = np.random.default_rng(3)
    shapes = {"x": (4, 2, 5, 3, 4, 2), "y": (4, 2, 5, 2)}
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def after_four_steps(solver):
    return {f"{name}/{i}": p.detach().numpy() for name, all in solver.net.params.items() for i, p in enumerate(all)}


def of_two_processes(path, folder, sync):
    script = folder / "two.py"
    script.write_text(TWO)
    np.savez(folder / "data.npz", **batches())
    torchrun(script, path, folder / "data.npz", folder / "out", sync)
    return [dict(np.load(folder / f"out.{rank}.npz")) for rank in range(2)]


def test_two_processes_are_one_that_averages_two_half_steps(toy, tmp_path):
    first, second = of_two_processes(toy("clip_gradients: 0.8", NET, NET_SOLVER), tmp_path, "own")
    values = batches()
    passes = iter(range(2))

    def feed(net):
        half = next(passes)
        return {name: torch.from_numpy(values[name][alone.iter, half]) for name in net.input_names}

    # iter_size 2 sums the two halves' gradients and divides by two; clipping comes before, so twice the bound.
    alone = Solver(toy("iter_size: 2 clip_gradients: 1.6", NET, NET_SOLVER), feed=feed)
    for _ in range(4):
        passes = iter(range(2))
        alone.step(1)
    # The learned blobs agree; BatchNorm's statistics are each process's own.
    for name, mine in after_four_steps(alone).items():
        if name.startswith("bn"):
            continue
        assert np.array_equal(first[name], second[name])
        np.testing.assert_allclose(mine, first[name], rtol=1e-6, atol=1e-7)  # a + b / 2 in another order
    assert not np.array_equal(first["bn/0"], second["bn/0"])


def test_synchronized_batchnorm_is_that_of_the_joined_batch(toy, tmp_path):
    first, second = of_two_processes(toy("", NET, NET_SOLVER), tmp_path, "sync")
    values = batches()
    joined = {name: array.reshape(4, 10, *array.shape[3:]) for name, array in values.items()}

    def feed(net):
        return {name: torch.from_numpy(joined[name][alone.iter]) for name in net.input_names}

    alone = Solver(toy("", NET.replace("dim: 5", "dim: 10"), NET_SOLVER), feed=feed)
    alone.step(4)
    for name, mine in after_four_steps(alone).items():
        # Each process sums in an order of its own.
        np.testing.assert_allclose(first[name], second[name], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(mine, first[name], rtol=1e-5, atol=1e-6)  # sums in another order, over four steps


def test_two_processes_of_which_one_is_killed_start_again_and_lose_nothing(toy, tmp_path):
    settings = SOLVER.replace("snapshot: 7", "snapshot: 3").replace("random_seed: 3 ", "")
    settings = settings.replace("max_iter: 20", "max_iter: 12")
    path = toy("random_seed: 3", solver=settings)
    script = tmp_path / "train.py"
    script.write_text(ONE_OF_TWO)
    flags = ("train", f"--solver={path}", "--resume", "auto")
    torchrun(script, *flags, KILLED_AT="inf")
    (tmp_path / "out").rename(tmp_path / "whole")
    # Torchrun of PyTorch 2.15 keeps the addresses of the killed processes otherwise.
    log = torchrun(script, *flags, restarts=1, KILLED_AT="8", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    assert "Resuming from" in log
    assert same(tmp_path / "out/toy_iter_12.caffemodel", tmp_path / "whole/toy_iter_12.caffemodel")
