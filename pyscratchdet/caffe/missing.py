"""The error for a missing file, of the types that scripts for pycaffe catch."""

from __future__ import annotations

import os

from pyscratchdet.errors import FileError, UsageError


class MissingFileError(FileError, RuntimeError, FileNotFoundError):
    """A file that cannot be opened: RuntimeError as from pycaffe's Net, IOError as from its `load_image`.

    Args:
        path: The file.
        reason: Why it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], reason: object) -> None:
        super().__init__(f"Could not open file {os.fspath(path)}: {reason}", code="file.read")
        self.filename = os.fspath(path)


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuses a path that cannot be opened (_caffe.cpp, CheckFile).

    Raises:
        MissingFileError: There is no such file, or it cannot be read.
        UsageError: It is not a path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError("not a path", code="caffe.arguments", expected="the path of a file", found=repr(path))
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise MissingFileError(path, error.strerror or error) from error
