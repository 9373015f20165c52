"""Kills a training run, the making of an LMDB and an evaluation again and again: `make soak N=200`.

Each is killed by SIGKILL at random moments and in the middle of writing, and meets full disks and read-only folders in
between; then the same command goes on. Every run that ends is compared with one that was left alone: the weights and
the figures byte for byte, the databases record for record. Prints the result; status 1 where anything differs.

Folders are small tmpfs mounts, which root may make. Without them a limit on the size of files stands in for the full
disk, and folders without the right to write, which bind everyone but root, for the read-only ones.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

os.environ["OMP_NUM_THREADS"] = "1"

import lmdb
import torch._dynamo  # noqa: F401  # which a process's first optimizer imports, for seconds

import pyscratchdet.evaluate.voc
import pyscratchdet.solver.launch  # noqa: F401
from pyscratchdet.cli import main
from pyscratchdet.data.database import DatabaseWriter
from pyscratchdet.progress import Progress
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.runtime import build_net, save_weights

TRAIN = """
layer { name: "data" type: "AnnotatedData" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mirror: true mean_value: 104 mean_value: 117 mean_value: 123
    resize_param { prob: 1 resize_mode: WARP height: 24 width: 20 interp_mode: LINEAR } }
  data_param { source: "FOLDER/lmdb/whole/db" batch_size: 5 backend: LMDB }
  annotated_data_param { batch_sampler { max_sample: 1 max_trials: 3 sampler { min_scale: 0.5 } } } }
layer { name: "silence" type: "Silence" bottom: "label" }
layer { name: "target" type: "Pooling" bottom: "data" top: "target" pooling_param { pool: AVE global_pooling: true } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 5 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" dropout_param { dropout_ratio: 0.3 } }
layer { name: "fc1" type: "InnerProduct" bottom: "conv" top: "fc1"
  inner_product_param { num_output: 40 weight_filler { type: "xavier" } } }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc2" bottom: "target" top: "loss" }
"""
SOLVER = """
net: "FOLDER/train.prototxt" base_lr: 0.00001 momentum: 0.9 weight_decay: 0.001 lr_policy: "multistep" gamma: 0.5
stepvalue: 30 max_iter: 60 snapshot: 2 snapshot_prefix: "PLACE/net" average_loss: 3 random_seed: 5 solver_mode: CPU
"""
DEPLOY = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 40 dim: 48 } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE kernel_size: 8 stride: 8 } }
layer { name: "loc" type: "Convolution" bottom: "pool" top: "loc"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "loc_perm" type: "Permute" bottom: "loc" top: "loc_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "loc_flat" type: "Flatten" bottom: "loc_perm" top: "loc_flat" }
layer { name: "conf" type: "Convolution" bottom: "pool" top: "conf"
  convolution_param { num_output: 7 kernel_size: 1 weight_filler { type: "gaussian" std: 0.03 } } }
layer { name: "conf_perm" type: "Permute" bottom: "conf" top: "conf_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "conf_rows" type: "Reshape" bottom: "conf_perm" top: "conf_rows"
  reshape_param { shape { dim: 0 dim: -1 dim: 7 } } }
layer { name: "prob" type: "Softmax" bottom: "conf_rows" top: "prob" softmax_param { axis: 2 } }
layer { name: "prob_flat" type: "Flatten" bottom: "prob" top: "prob_flat" }
layer { name: "priors" type: "PriorBox" bottom: "pool" bottom: "data" top: "priors"
  prior_box_param { min_size: 12 step: 8 variance: 0.1 } }
layer { name: "detection_out" type: "DetectionOutput" bottom: "loc_flat" bottom: "prob_flat" bottom: "priors"
  top: "detection_out" detection_output_param { num_classes: 7 code_type: CENTER_SIZE keep_top_k: 20
    confidence_threshold: 0.05 nms_param { nms_threshold: 0.45 top_k: 50 } } }
"""

DISK = 64 << 20  # bytes of a folder's tmpfs while it is not full
SETTLE = 0.004  # seconds: how long after the beginning of a write a kill comes at most


class Child:
    """A command in a fork of this process, which has imported all that is slow to import.

    Args:
        arguments: The command line.
        file_limit: How many bytes a file of it may have.

    Attributes:
        status: Its exit status, or minus the signal that ended it.
        printed, log: What it wrote to stdout and stderr.
        num_writes: How many writes it began and nobody waited for.
    """

    def __init__(self, arguments: list[str], file_limit: int | None = None) -> None:
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        self._told, tell = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            for descriptor, file in enumerate(self._files, 1):
                os.dup2(file.fileno(), descriptor)
            run_in_fork(arguments, tell, file_limit)
        os.close(tell)
        self._handle = os.pidfd_open(self._pid)

    def wait(self) -> None:
        """Waits for its end."""
        select.select([self._handle], [], [])
        self._take()

    def kill(self, delay: float) -> None:
        """Kills it after `delay` seconds, unless it has ended by then."""
        select.select([self._handle], [], [], delay)
        self._take(kill=True)

    def kill_in_write(self, number: int, delay: float) -> None:
        """Kills it `delay` seconds after the beginning of its write of that number, unless it ends before."""
        for _ in range(number):
            select.select([self._told], [], [])  # also when it ends
            os.read(self._told, 1)
        select.select([self._handle], [], [], delay)
        self._take(kill=True)

    def _take(self, kill: bool = False) -> None:
        if kill:
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        self.status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self.num_writes = len(os.read(self._told, 1 << 16))
        os.close(self._handle)
        os.close(self._told)
        for file in self._files:
            file.seek(0)
        self.printed, self.log = (file.read().decode(errors="replace") for file in self._files)


def run_in_fork(arguments: list[str], tell: int, file_limit: int | None) -> NoReturn:
    """Runs a command and ends the process."""
    status = 70
    try:
        if file_limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        tell_of_writes(tell)
        status = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def tell_of_writes(tell: int) -> None:
    """Sends a byte to `tell` whenever this process begins a write."""

    def telling(function: Callable[..., Any]) -> Callable[..., Any]:
        def begin(*arguments: Any, **options: Any) -> Any:
            os.write(tell, b".")
            return function(*arguments, **options)

        return begin

    for place, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (DatabaseWriter, "commit")):
        setattr(place, name, telling(getattr(place, name)))


class Job:
    """A command that is interrupted and goes on.

    Args:
        name: What it does.
        folder: Its own, made here.
        command: Makes its arguments; PLACE in them is where it writes.
        digest: Reads what it made, out of that place and of what it printed.

    Attributes:
        counts: Interruptions by kind, and runs that ended.
        failures: What went wrong.
    """

    def __init__(self, name: str, folder: Path, command: str, digest: Callable[[Path, str], str]) -> None:
        self.name, self._command, self._digest = name, command, digest
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        whole, self._place = folder / "whole", folder / "again"
        for each in (whole, self._place):
            each.mkdir(parents=True)
        start = time.monotonic()
        child = Child(self._arguments(whole))
        child.wait()
        self._seconds = time.monotonic() - start
        self._num_writes = child.num_writes
        if child.status:
            raise SystemExit(f"{name} does not even work undisturbed:\n{child.log}")
        self._whole = digest(whole, child.printed)
        # The place is a folder within the mount: what is mounted cannot be removed.
        self.is_mounted = mount("-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self._place))

    def _arguments(self, place: Path) -> list[str]:
        return self._command.replace("PLACE", str(place)).split()

    def kill(self, moments: random.Random) -> None:
        """Starts or goes on, and kills: at a random moment, or in the middle of a write."""
        kills = self.counts["random"] + self.counts["writing"]
        while kills == self.counts["random"] + self.counts["writing"]:
            kind = moments.choice(["random", "writing"])
            child = Child(self._arguments(self._place))
            # Within half of a whole run, so that most are killed; together they come to the end all the same.
            if kind == "random":
                child.kill(moments.uniform(0, self._seconds / 2))
            else:
                child.kill_in_write(moments.randint(1, max(self._num_writes // 2, 1)), moments.uniform(0, SETTLE))
            if child.status == -signal.SIGKILL:
                self.counts[kind] += 1
            else:
                self._check(child, f"faster than its kill ({kind})")

    def fill_disk(self, moments: random.Random) -> None:
        """Goes on with hardly any room left; the command says so or has enough."""
        room = moments.randint(0, 40) << 10
        if self.is_mounted:
            self._remount(f"size={max(used(self._place) + room, 4096)}")
            child = Child(self._arguments(self._place))
            child.wait()
            self._remount(f"size={DISK}")
        else:
            child = Child(self._arguments(self._place), file_limit=room)
            child.wait()
        self.counts["full"] += 1
        self._check(child, "full disk", may_refuse=True)

    def forbid_writing(self) -> None:
        """Goes on in a folder that is read-only; the command says so."""
        if self.is_mounted:
            self._remount("ro")
        else:
            self._place.chmod(0o555)
        child = Child(self._arguments(self._place))
        child.wait()
        if self.is_mounted:
            self._remount("rw")
        else:
            self._place.chmod(0o755)
        self.counts["read-only"] += 1
        self._check(child, "read-only folder", may_refuse=True)

    def finish(self) -> None:
        """Goes on until the end."""
        child = Child(self._arguments(self._place))
        child.wait()
        self._check(child, "at last")

    def close(self) -> None:
        """Takes the tmpfs away."""
        if self.is_mounted:
            subprocess.run(["umount", str(self._place)], check=False)

    def _check(self, child: Child, what: str, may_refuse: bool = False) -> None:
        """Looks at a run that ended by itself; one that is through is compared, and the next begins anew."""
        is_refusal = child.status == 2 and "pyscratchdet: " in child.log and "Traceback" not in child.log
        if child.status == 0:
            self.counts["ended"] += 1
            if self._digest(self._place, child.printed) != self._whole:
                self.failures.append(f"{what}: the result is not that of the run that was left alone")
            for entry in self._place.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        elif not (may_refuse and is_refusal):
            self.failures.append(f"{what}: status {child.status}\n{child.log[-2000:]}")

    def _remount(self, options: str) -> None:
        if not mount("-o", f"remount,{options}", str(self._place)):
            raise SystemExit(f"cannot remount {self._place} with {options}")

    def summary(self) -> str:
        """Returns the line about this job."""
        n = self.counts
        verdict = f"{len(self.failures)} FAILURES" if self.failures else "all results equal"
        return (
            f"{self.name}: {n['random'] + n['writing']} kills ({n['random']} at random moments, {n['writing']} while "
            f"writing), {n['full']} full disks, {n['read-only']} read-only folders; {n['ended']} runs ended, {verdict}"
        )


def mount(*arguments: str) -> bool:
    """Returns whether it could be mounted."""
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


def used(folder: Path) -> int:
    """Returns the bytes that a file system has taken."""
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def weights_digest(place: Path, printed: str) -> str:
    return hashlib.sha256((place / "net_iter_60.caffemodel").read_bytes()).hexdigest()


def database_digest(place: Path, printed: str) -> str:
    digest = hashlib.sha256()
    with lmdb.open(str(place / "db"), readonly=True, lock=False) as database, database.begin() as transaction:
        for record in transaction.cursor():
            for part in record:
                digest.update(len(part).to_bytes(8, "little") + part)
    digest.update((place / "db/data.mdb").read_bytes())
    return digest.hexdigest()


def figures_digest(place: Path, printed: str) -> str:
    return hashlib.sha256(printed.encode()).hexdigest()


def prepare(folder: Path) -> list[Job]:
    """Makes data and nets, and runs each job once without interruption."""
    made = Child(f"demo-data {folder}/data --images 300 --test 200 --size 64 --seed 3".split())
    made.wait()
    data = f"{folder}/data/VOCdevkit"
    labels = f"{folder}/data/labelmap.prototxt"
    (folder / "train.prototxt").write_text(TRAIN.replace("FOLDER", str(folder)))
    (folder / "deploy.prototxt").write_text(DEPLOY)
    save_weights(build_net(str(folder / "deploy.prototxt"), random=CaffeRandom(2)), folder / "net.caffemodel")
    for name in ("whole", "again"):
        path = folder / f"training/{name}.prototxt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(SOLVER.replace("FOLDER", str(folder)).replace("PLACE", str(folder / "training" / name)))
    database = f"lmdb voc {data} PLACE/db --split trainval --label-map {labels} --redo"
    training = "train --solver PLACE.prototxt --resume auto --keep 2"
    evaluation = (
        f"evaluate voc --data {data} --model {folder}/deploy.prototxt --weights {folder}/net.caffemodel "
        f"--labelmap {labels} --resume PLACE/parts --json"
    )
    return [
        Job("database", folder / "lmdb", database, database_digest),
        Job("training", folder / "training", training, weights_digest),
        Job("evaluation", folder / "evaluation", evaluation, figures_digest),
    ]


def soak(num_kills: int, seed: int, folder: Path) -> int:
    """Interrupts the jobs in turn; prints the result and returns the exit status."""
    start = time.monotonic()
    moments = random.Random(seed)
    jobs = prepare(folder)
    try:
        with Progress(num_kills, "kills") as progress:
            for number in range(num_kills):
                job = jobs[number % len(jobs)]
                job.kill(moments)
                if number % 10 == 0:  # of each job in turn
                    job.fill_disk(moments)
                if number % 20 == 5:
                    job.forbid_writing()
                progress(number + 1)
        for job in jobs:
            job.finish()
    finally:
        for job in jobs:
            job.close()
    for job in jobs:
        print(job.summary())
        print(*job.failures, sep="\n", end="\n" if job.failures else "")
    failed = any(job.failures for job in jobs)
    kind = "tmpfs mounts" if all(job.is_mounted for job in jobs) else "limits and rights, for want of tmpfs mounts"
    minutes = (time.monotonic() - start) / 60
    print(f"soak: {num_kills} kills, {'NOT ' * failed}every one went on; {minutes:.1f} minutes, seed {seed}, {kind}")
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=200, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak") as temporary:
        sys.exit(soak(args.kills, args.seed, Path(temporary)))
