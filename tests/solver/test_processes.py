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
from pyscratchdet.cli import main
from pyscratchdet.layers.input import DummyData
forward = DummyData.forward
steps, delay = [float(x) for x in os.environ.get("KILLED_AT", "inf 0").split()]

def slower(*arguments):
    global steps
    steps -= 1
    if steps == 0:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    time.sleep(0.004)
    return forward(*arguments)

DummyData.forward = slower
sys.exit(main(sys.argv[1:]))
"""
TWO = """
import sys
import numpy as np, torch
from pyscratchdet.solver import ProcessGroup, Solver
solver_path, data, out = sys.argv[1:]
world = ProcessGroup(torch.device("cpu"))
values = np.load(data)
feed = lambda net: {name: torch.from_numpy(values[name][solver.iter, world.rank]) for name in net.input_names}
solver = Solver(solver_path, world=world, feed=feed)
solver.step(4)
print("weights", world.rank, solver.net.params["fc"][0].sum().item())
np.savez(f"{out}.{world.rank}.npz", *[p.detach().numpy() for blobs in solver.net.params.values() for p in blobs])
world.close()
"""
NET = """
name: "two"
layer { name: "in" type: "Input" top: "x" top: "y" input_param { shape { dim: 5 dim: 3 } shape { dim: 5 dim: 2 } } }
layer { name: "bn" type: "BatchNorm" bottom: "x" top: "bn" }
layer { name: "fc" type: "InnerProduct" bottom: "bn" top: "fc"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "y" top: "loss" }
"""

pytestmark = pytest.mark.slow


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def start(path, *flags, killed_at="inf 0"):
    command = [sys.executable, "-c", SLOW, "train", f"--solver={path}", *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(KILLED_AT=killed_at))


def wait_for(folder, name):
    for _ in range(3000):
        if (folder / name).exists():
            return
        time.sleep(0.01)
    pytest.fail(f"{name} was never written")


def blobs(model):
    return [array for arrays in read_weights(model).blobs.values() for array in arrays]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(blobs(a), blobs(b), strict=True))


def test_killed_at_any_moment_a_run_loses_nothing(toy, tmp_path):
    path = toy(solver=SOLVER.replace("snapshot: 7", "snapshot: 3").replace("max_iter: 20", "max_iter: 600"))
    Solver(path).solve()
    (tmp_path / "out").rename(tmp_path / "whole")
    moments = random.Random(1)
    for _ in range(20):
        # Counted in steps of the killed process itself, so that a busy machine kills as often as an idle one;
        # the delay then lands anywhere in the next two steps, in the writing of a snapshot too.
        run = start(path, "--resume", "auto", killed_at=f"{moments.randint(1, 20)} {moments.uniform(0, 0.012)}")
        _, log = run.communicate(timeout=60)
        assert run.returncode == -signal.SIGKILL, log
    run = start(path, "--resume", "auto")
    _, log = run.communicate(timeout=60)
    assert run.returncode == 0, log
    assert same(tmp_path / "out/toy_iter_600.caffemodel", tmp_path / "whole/toy_iter_600.caffemodel")


def test_interrupt_stops_with_a_snapshot(toy, tmp_path):
    path = toy(solver=SOLVER.replace("max_iter: 20", "max_iter: 100000"))
    run = start(path)
    wait_for(tmp_path / "out", "toy_iter_7.solverstate")
    run.send_signal(signal.SIGINT)
    _, log = run.communicate(timeout=60)
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
    _, log = run.communicate(timeout=60)
    assert run.returncode == 0, log
    assert len(list((tmp_path / "out").glob("*.solverstate"))) == 2  # the one asked for and the last
    assert "Optimization Done." in log


def test_two_processes_are_one_that_averages_two_half_steps(toy, tmp_path):
    generator = np.random.default_rng(3)
    values = {
        "x": generator.standard_normal((4, 2, 5, 3)).astype(np.float32),
        "y": generator.standard_normal((4, 2, 5, 2)).astype(np.float32),
    }
    np.savez(tmp_path / "data.npz", **values)
    settings = 'net: "{folder}/train.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" weight_decay: 0.01 '
    settings += "clip_gradients: 0.8 random_seed: 5 solver_mode: CPU snapshot_after_train: false "
    path = toy("", NET, settings)
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [*command, path, str(tmp_path / "data.npz"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.0.npz") as a, np.load(tmp_path / "out.1.npz") as b:
        first, second = ([file[name] for name in file.files] for file in (a, b))

    passes = iter(range(2))

    def feed(net):
        half = next(passes)
        return {name: torch.from_numpy(values[name][alone.iter, half]) for name in net.input_names}

    # iter_size 2 sums the two halves' gradients and divides by two; clipping comes before, so twice the bound.
    alone = Solver(toy("iter_size: 2", NET, settings.replace("0.8", "1.6")), feed=feed)
    for _ in range(4):
        passes = iter(range(2))
        alone.step(1)
    ours = [p.detach().numpy() for blobs in alone.net.params.values() for p in blobs]
    # The learned blobs agree; BatchNorm's statistics are each process's own.
    for mine, one, other in zip(ours[3:], first[3:], second[3:], strict=True):
        assert np.array_equal(one, other)
        np.testing.assert_allclose(mine, one, rtol=1e-6, atol=1e-7)  # a + b / 2 in another order
    assert not np.array_equal(first[0], second[0])
