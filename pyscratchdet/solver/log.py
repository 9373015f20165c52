"""Log lines in glog's form, which the tools around Caffe parse (parse_log.py, plot_training_log.py)."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from pyscratchdet.errors import FileError, printable
from pyscratchdet.progress import is_quiet

ROOT = "pyscratchdet.solver"
_log = logging.getLogger(__name__)
_LETTERS = {logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}


def number(value: float) -> str:
    """Formats a float as C++ streams do, with six significant digits."""
    return f"{float(value):.6g}"


def say_device(device: torch.device) -> None:
    """Logs which device the net will run on."""
    _log.info("Use CPU." if device.type == "cpu" else f"Use GPU with device ID {device.index}")


class GlogFormatter(logging.Formatter):
    """`I1121 08:00:00.000000  1234 solver.py:243] message`, with the file and line that logged it."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line of one record."""
        seconds = time.localtime(record.created)
        stamp = time.strftime("%m%d %H:%M:%S", seconds) + f".{int(record.created % 1 * 1e6):06d}"
        place = f"{record.filename}:{record.lineno}"
        thread = threading.get_native_id()
        return f"{_LETTERS.get(record.levelno, 'I')}{stamp} {thread:5d} {place}] {printable(record.getMessage())}"


@contextmanager
def logging_to(
    paths: Sequence[str | os.PathLike[str]] = (), stderr: logging.Handler | None = None, level: int = logging.INFO
) -> Iterator[None]:
    """Sends the solver's lines to stderr and appends them to files, line by line, while the block runs.

    Of a quiet command, only warnings go to stderr.

    Args:
        paths: Log files.
        stderr: Handler used in place of a plain one on stderr.
        level: The lowest level that is logged.

    Raises:
        FileError: A log file cannot be opened.
    """
    handlers: list[logging.Handler] = [stderr or logging.StreamHandler(sys.stderr)]
    if is_quiet():
        handlers[0].setLevel(logging.WARNING)
    root = logging.getLogger(ROOT)
    before = root.level, root.propagate
    try:
        handlers += [_file_handler(Path(path)) for path in paths]
        for handler in handlers:
            handler.setFormatter(GlogFormatter())
            root.addHandler(handler)
        root.setLevel(level)
        root.propagate = False
        yield
    finally:
        root.level, root.propagate = before
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def _file_handler(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot write the log {path}: {error.strerror or error}", code="file.write") from error
