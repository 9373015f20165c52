"""Who trains the cells: this process, one per GPU, torchrun's together, or jobs of a Slurm cluster.

Whoever it is goes through the same list, leaves what is done or what another process is at, and takes the next. So
several of them, on several machines with a common folder, share the work without knowing of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyscratchdet.errors import FileError
from pyscratchdet.experiments.run import RESULT, Job, Result, run

Report = Callable[[Job, Result], object]


def work(jobs: Sequence[Job], gpu: str = "", on_result: Report = lambda job, result: None) -> bool:
    """Does what nobody has done or is doing.

    Args:
        jobs: What to do, in this order.
        gpu: See `run`.
        on_result: Called with each result that was measured here.

    Returns:
        Whether all were gone through; False where a training was asked to stop.
    """
    for job in jobs:
        if (job.folder / RESULT).exists():
            continue
        try:
            result = run(job, gpu)
        except FileError as error:
            if error.code != "file.busy":
                raise
            continue
        if result is None:
            return False
        on_result(job, result)
    return True
