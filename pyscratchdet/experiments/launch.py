"""Who trains the cells: this process, one per GPU, all GPUs together on each cell, or jobs of a Slurm cluster.

Each of them goes through the same list, leaves what is done or what another is at, and takes the next. So several, on
several machines with a common folder, share the work without knowing of each other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from pyscratchdet.errors import PyScratchDetError, UsageError
from pyscratchdet.experiments import paper
from pyscratchdet.experiments.paper import Cell
from pyscratchdet.experiments.run import Job, Result, finished, run

Tell = Callable[[Job, Result | PyScratchDetError], object]
"""Called with each result that was measured, or with the error instead of one; a function of a module."""
STOPPED = 130  # the exit status of a process that was asked to stop


def plan(
    cells: Sequence[Cell], seeds: Sequence[int], root: Path, data: str, scale: str, iterations: int | None = None
) -> list[Job]:
    """Returns the jobs, seed after seed; a cell that only repeats another's number stands for that one."""
    trained = [paper.cell(cell.weights_of) if cell.weights_of and not cell.multiscale else cell for cell in cells]
    once = {cell.name: cell for cell in trained}.values()
    return [Job(cell, seed, root, data, scale, iterations) for seed in seeds for cell in once]


def work(jobs: Sequence[Job], tell: Tell, gpu: str = "") -> int:
    """Does what nobody has done or is doing; an error ends only the job that it belongs to.

    Args:
        jobs: What to do, in this order.
        tell: Told of each that was done here, or failed.
        gpu: As `train --gpu`; on several GPUs each job is trained by all of them.

    Returns:
        How many failed.

    Raises:
        KeyboardInterrupt: A training was asked to stop, and has written a snapshot.
    """
    failed, said = 0, set[str]()
    for job in jobs:
        try:
            if finished(job):
                continue
            result = run(job, gpu)
        except PyScratchDetError as error:
            if error.code != "file.busy":
                failed += 1
                if str(error) not in said:  # what is wrong with all of them is told of the first
                    tell(job, error)
                said.add(str(error))
            continue
        if result is None:
            raise KeyboardInterrupt
        tell(job, result)
    return failed


def local(jobs: Sequence[Job], tell: Tell, gpus: Sequence[str]) -> int:
    """Does the jobs on this machine, in a process for each device; see `work`.

    Args:
        jobs: What to do.
        tell: See `work`.
        gpus: Device numbers, each as `train --gpu`; "" for the CPU.
    """
    if len(gpus) == 1:
        return work(jobs, tell, gpus[0])
    context = get_context("spawn")
    processes = [context.Process(target=_process, args=(jobs, tell, gpu)) for gpu in gpus]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        try:
            for process in processes:
                process.join()
        except KeyboardInterrupt:
            continue  # the processes have had it, too, and stop after a snapshot
    if any(process.exitcode == STOPPED for process in processes):
        raise KeyboardInterrupt
    return sum(process.exitcode != 0 for process in processes)


def _process(jobs: Sequence[Job], tell: Tell, gpu: str) -> None:
    try:
        sys.exit(min(work(jobs, tell, gpu), 1))
    except KeyboardInterrupt:
        sys.exit(STOPPED)


def slurm(
    jobs: Sequence[Job],
    tell: Tell,
    number: int,
    parameters: Mapping[str, Any],
    cluster: str = "slurm",
) -> list[Any]:
    """Submits jobs of a Slurm cluster that share the work, each on all GPUs that it is given, and does not wait.

    Args:
        jobs: What to do; paths must be the same on the cluster's machines.
        tell: See `work`; what it prints is in the logs in the folder `slurm`.
        number: How many Slurm jobs.
        parameters: As submitit takes them: timeout_min, gpus_per_node, slurm_partition...
        cluster: submitit's name for what runs them.

    Returns:
        submitit's jobs.

    Raises:
        UsageError: submitit is missing, or does not know a parameter.
    """
    try:
        import submitit
    except ImportError as error:
        raise UsageError(
            "submitit is not installed", code="experiment.submitit", hint='pip install "pyscratchdet[submitit]"'
        ) from error
    root = jobs[0].root
    try:
        executor = submitit.AutoExecutor(folder=root / "slurm", cluster=cluster)
        executor.update_parameters(**parameters)
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise UsageError(f"submitit: {error}", code="experiment.submitit") from error
    here = [replace(job, root=job.root.absolute(), data=str(Path(job.data).absolute())) for job in jobs]
    return [executor.submit(_submitted, here, tell) for _ in range(number)]


def _submitted(jobs: Sequence[Job], tell: Tell) -> int:
    devices = "all" if jobs[0].scale == "full" else "0"
    return work(jobs, tell, devices if torch.cuda.is_available() else "")
