"""The command line in several processes, as torchrun starts it, but forked from one that has imported everything."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FORKS = """
import json, os, socket, sys
import cv2, matplotlib.pyplot, rich.table, torch, torch._dynamo, torch.distributed
import pyscratchdet.cli.evaluate, pyscratchdet.solver.launch
from pyscratchdet.cli import main
from pyscratchdet.ranks import end_launched

def run(job, rank, port):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["count"], "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({name: str(value) for name, value in {**place, "MASTER_PORT": port}.items()})
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{job['folder']}/{rank}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    exec(job["patch"], {})
    status = main(job["words"])
    sys.stdout.flush()
    if not status:
        end_launched()
    os._exit(status)

for line in sys.stdin:
    job, children = json.loads(line), []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rank in range(job["count"]):
        if child := os.fork():
            children.append(child)
        else:
            run(job, rank, port)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


class Together:
    """Starts commands in several processes."""

    def __init__(self) -> None:
        command, environment = [sys.executable, "-c", FORKS], {**os.environ, "OMP_NUM_THREADS": "1"}
        self._parent = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(
        self, count: int, folder: Path, *words: object, patch: str = "", statuses: Sequence[int] = ()
    ) -> list[list[str]]:
        """Runs a command and returns what each process printed: [stdout, stderr].

        Args:
            count: How many processes.
            folder: For their output.
            words: The command.
            patch: Python that each process runs first.
            statuses: The exit statuses that are right; by default all are 0.
        """
        folder.mkdir(parents=True, exist_ok=True)
        job = {"count": count, "folder": str(folder), "patch": patch, "words": [str(word) for word in words]}
        self._parent.stdin.write(json.dumps(job) + "\n")
        self._parent.stdin.flush()
        found = json.loads(self._parent.stdout.readline())
        printed = [[(folder / f"{rank}.{name}").read_text() for name in ("out", "err")] for rank in range(count)]
        assert found == list(statuses or [0] * count), printed
        return printed

    def close(self) -> None:
        """Ends the process that starts them."""
        self._parent.stdin.close()
        self._parent.stdout.close()
        self._parent.wait()
