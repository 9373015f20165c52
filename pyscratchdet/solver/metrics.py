"""Listeners of a solver: metrics as CSV or JSON lines, TensorBoard, and a progress bar on a terminal."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from pyscratchdet.errors import FileError, UsageError
from pyscratchdet.files import read_bytes, write_bytes
from pyscratchdet.progress import Progress
from pyscratchdet.solver.meter import SolverEvent
from pyscratchdet.solver.solver import Solver

# Figures of every run, in the order of a CSV's columns; a net's outputs follow.
FIGURES = (
    "loss",
    "lr",
    "grad_norm",
    "grad_norm_mean",
    "grad_norm_std",
    "images_per_second",
    "seconds_per_iteration",
    "data_wait",
    "mAP",
)


class MetricsFile:
    """Writes a row per display and per test: CSV or JSON lines, by the file's suffix. A resumed run appends.

    Args:
        path: .csv, or .json or .jsonl for JSON lines.
        solver: The solver whose outputs become columns.

    Raises:
        UsageError: The suffix is another one.
        FileError: The file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], solver: Solver) -> None:
        suffix = Path(path).suffix
        if suffix not in (".csv", ".json", ".jsonl"):
            raise UsageError(f"metrics file {path}", code="metrics.suffix", expected=".csv or .jsonl", found=suffix)
        outputs = [f"train/{name}" for name in solver.net.output_names]
        outputs += [f"test{i}/{name}" for i, net in enumerate(solver.test_nets) for name in net.output_names]
        self._columns = ["kind", "iteration", "seconds", *FIGURES, *outputs]
        self._is_csv = suffix == ".csv"
        self._start = time.time()
        self._file = _open(path)
        if self._is_csv and self._file.tell() == 0:
            csv.writer(self._file).writerow(self._columns)

    def __call__(self, event: SolverEvent) -> None:
        """Writes an event's row, but none for a plain step."""
        if event.kind == "step":
            return
        seconds = round(time.time() - self._start, 3)
        row = {"kind": event.kind, "iteration": event.iteration, "seconds": seconds, **event.values}
        if self._is_csv:
            csv.DictWriter(self._file, self._columns, extrasaction="ignore").writerow(row)
        else:
            # NaN and infinity are not JSON.
            plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
            self._file.write(json.dumps(plain) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard:
    """Writes the same figures for TensorBoard.

    Args:
        folder: Where its event files go.

    Raises:
        UsageError: tensorboard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                "tensorboard is not installed",
                code="metrics.tensorboard",
                hint='pip install "pyscratchdet[tensorboard]"',
            ) from error
        self._writer = SummaryWriter(os.fspath(folder))

    def __call__(self, event: SolverEvent) -> None:
        """Writes an event's figures."""
        for name, value in event.values.items():
            self._writer.add_scalar(name, value, event.iteration)

    def close(self) -> None:
        """Writes what is still buffered."""
        self._writer.close()


class TrainingProgress:
    """Shows a run's progress, loss, learning rate, images per second, time waiting for data and the time left.

    Args:
        progress: The bar, which counts iterations.
        seconds_left: Returns the time left, or None while nobody can tell.
    """

    def __init__(self, progress: Progress, seconds_left: Callable[[], float | None]) -> None:
        self._progress = progress
        self._seconds_left = seconds_left
        self._figures: tuple[str, ...] = ()

    def __call__(self, event: SolverEvent) -> None:
        """Updates the bar."""
        if event.kind == "test":
            return
        if event.kind == "train":
            v = event.values
            self._figures = (
                f"loss {v['loss']:.4g}",
                f"lr {v['lr']:.3g}",
                f"{v['images_per_second']:.1f} images/s",
                f"data wait {v['data_wait']:.0%}",
            )
        self._progress(event.iteration + 1, self._figures, self._seconds_left())


class LinesAboveProgress(logging.Handler):
    """Prints log lines above a progress bar."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one line."""
        self._progress.print(self.format(record))


def _open(path: str | os.PathLike[str]) -> TextIO:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if Path(path).exists() and (written := read_bytes(path)) and not written.endswith(b"\n"):
            write_bytes(path, written[: written.rfind(b"\n") + 1])  # of a run that was killed in the middle of a row
        return open(path, "a", newline="", encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot write {os.fspath(path)}: {error.strerror or error}", code="file.write") from error
