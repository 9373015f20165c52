"""The error for a file that is not there, as scripts for pycaffe expect to catch it."""

from __future__ import annotations

import os

from pyscratchdet.errors import FileError


class MissingFileError(FileError, RuntimeError, FileNotFoundError):
    """A file that cannot be opened: RuntimeError as from pycaffe's Net, IOError as from its `load_image`."""


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuses a path that cannot be opened (_caffe.cpp, CheckFile).

    Raises:
        MissingFileError: There is no such file, or it cannot be read.
    """
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise MissingFileError(f"Could not open file {os.fspath(path)}: {reason}", code="file.read") from error
