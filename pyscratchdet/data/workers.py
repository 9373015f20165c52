"""Worker processes that fill shared memory with batches.

They are plain subprocesses, not forks, so they inherit no GPU, threads or LMDB handles, and the caller's script needs
no `if __name__ == "__main__"`. They exchange lines of JSON over pipes, and end when their pipe is closed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import mmap
import os
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from dataclasses import asdict
from typing import IO, Any

import numpy as np

from pyscratchdet.data.maker import BatchMaker, Job
from pyscratchdet.data.plan import Rect
from pyscratchdet.errors import DataError, PyScratchDetError
from pyscratchdet.proto import caffe_pb2

Batch = tuple[np.ndarray, np.ndarray, list[Rect | None]]


class WorkerPool:
    """Workers that take turns making batches: each makes batch k, k + workers, ..., ahead of time.

    Args:
        job: What to make.
        shape: Shape of a batch, uint8.
        workers: How many, at least 1.
        ahead: Batches that each makes in advance.
    """

    def __init__(self, job: Job, shape: tuple[int, ...], workers: int, ahead: int) -> None:
        self._workers = [_Worker(job, shape, ahead + 1) for _ in range(workers)]
        self._ahead = ahead
        self._expected = -1

    def get(self, position: int) -> Batch:
        """Returns batch number `position`; its pictures are valid until the next call.

        Raises:
            DataError: The worker raised it, or the worker died.
        """
        if position != self._expected:
            for worker in self._workers:
                worker.drop()
        count = len(self._workers)
        last = position + count * self._ahead
        for wanted in range(position, last):
            self._workers[wanted % count].ask(wanted)
        self._expected = position + 1
        return self._workers[position % count].answer(position)

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """One process, and the memory shared with it: a ring of slots, each a batch."""

    def __init__(self, job: Job, shape: tuple[int, ...], slots: int) -> None:
        size = int(np.prod(shape))
        with tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
            file.truncate(size * slots)
            self._slots = np.frombuffer(mmap.mmap(file.fileno(), size * slots), np.uint8).reshape(slots, *shape)
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from pyscratchdet.data.workers import main; main()", str(file.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[file.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._pending: deque[int] = deque()
        self._asked = 0
        self.close = weakref.finalize(self, _end, self._process)
        self._send({**asdict(job), "param": base64.b64encode(job.param.SerializeToString()).decode(), "slots": slots})

    def ask(self, batch: int) -> None:
        """Asks for a batch, unless that was done already."""
        if self._pending and batch <= self._pending[-1]:
            return
        self._pending.append(batch)
        self._send({"batch": batch, "slot": self._asked % len(self._slots)})
        self._asked += 1

    def drop(self) -> None:
        """Discards the batches asked for."""
        while self._pending:
            self._pending.popleft()
            self._receive()

    def answer(self, batch: int) -> Batch:
        """Returns the oldest batch asked for."""
        asked = self._pending.popleft()
        assert asked == batch
        reply = self._receive()
        if "error" in reply:
            raise DataError(**reply["error"])
        label = np.frombuffer(base64.b64decode(reply["label"]), np.float32).reshape(1, 1, -1, 8).copy()
        return self._slots[reply["slot"]], label, [place and Rect(*place) for place in reply["places"]]

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._death() from error

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        return json.loads(line)

    def _death(self) -> DataError:
        code = self._process.wait()
        return DataError(
            "a loading process has died", code="data.worker", found=f"exit status {code}",
            hint="it may have run out of memory; what it printed last is above",
        )  # fmt: skip


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a worker by closing its pipes: it stops after the batch that it is making."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    """The worker: reads a job, then makes the batches that it is asked for."""
    import cv2

    cv2.setNumThreads(1)
    memory, requests, replies = int(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer
    try:
        _serve(memory, requests, replies)
    except (BrokenPipeError, KeyboardInterrupt):
        # The reader has ended, or the user pressed Ctrl-C: nobody is left to report to.
        os._exit(0)


def _serve(memory: int, requests: IO[bytes], replies: IO[bytes]) -> None:
    settings = json.loads(requests.readline())
    slots = settings.pop("slots")
    param = caffe_pb2.LayerParameter.FromString(base64.b64decode(settings.pop("param")))
    maker = BatchMaker(Job(param, **settings))
    ring = np.frombuffer(mmap.mmap(memory, 0), np.uint8).reshape(slots, *maker.shape)
    for line in requests:
        request = json.loads(line)
        reply: dict[str, Any]
        try:
            label, places = maker.make(request["batch"], ring[request["slot"]])
            reply = {
                "slot": request["slot"],
                "label": base64.b64encode(label.tobytes()).decode(),
                "places": [place and (place.top, place.left, place.height, place.width) for place in places],
            }
        except PyScratchDetError as error:
            fields = {name: getattr(error, name) for name in ("message", "code", "hint")}
            found = None if error.found is None else str(error.found)
            expected = None if error.expected is None else str(error.expected)
            reply = {"error": {**fields, "expected": expected, "found": found}}
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()
