"""Reading LevelDB databases, as Caffe's tools made them before LMDB; needs plyvel (the extra `leveldb`)."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyscratchdet.errors import DataError, UsageError

_TABLES = (".ldb", ".sst")
_NOT_READ = ("LOCK", "LOG", "LOG.old")


class LevelStore:
    """One open LevelDB.

    LevelDB writes into what it opens: locks, logs, tables put together anew. So it gets a folder of its own, with links
    to the tables that cannot change any more, and copies of the rest.

    Args:
        path: Its folder.

    Raises:
        UsageError: plyvel is not installed.
        DataError: It is no LevelDB, or a damaged one.
    """

    def __init__(self, path: str) -> None:
        try:
            import plyvel
        except ImportError as error:
            raise UsageError(
                f"{path} is a LevelDB",
                code="data.leveldb",
                hint='reading it needs: pip install "pyscratchdet[leveldb]"',
            ) from error
        self._path, self._error = path, plyvel.Error
        folder = tempfile.mkdtemp(prefix="leveldb-")
        self._clean = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        try:
            _link(Path(path), Path(folder))
            self._database = plyvel.DB(folder, create_if_missing=False)
        except (OSError, plyvel.Error) as error:
            self._clean()
            raise self._damage(error) from error

    def keys(self) -> list[bytes]:
        """Returns all keys in order."""
        keys: list[bytes] = self._do(lambda: list(self._database.iterator(include_value=False)))
        return keys

    def value(self, key: bytes) -> bytes:
        """Returns the record of a key."""
        value: bytes = self._do(lambda: self._database.get(key))
        return value

    def first(self) -> tuple[bytes, bytes] | None:
        """Returns the first key and its record; None where there is none."""
        item: tuple[bytes, bytes] | None = self._do(lambda: next(self._database.iterator(), None))
        return item

    def _do(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except self._error as error:
            raise self._damage(error) from error

    def _damage(self, error: Exception) -> DataError:
        return DataError(f"damaged LevelDB {self._path}: {error}", code="data.database")


def _link(source: Path, target: Path) -> None:
    """Links to the tables from before the oldest log, and copies the rest.

    A table made since may be one that a killed or closing writer left unlisted; LevelDB then gives its number, and so
    its file, to the next table (db_impl.cc, Recover), and would write through a link.
    """
    entries = [entry for entry in source.iterdir() if entry.is_file() and entry.name not in _NOT_READ]
    oldest_log = min((_number(entry) for entry in entries if entry.suffix == ".log"), default=0)
    for entry in entries:
        if entry.suffix in _TABLES and _number(entry) < oldest_log:
            os.symlink(entry.resolve(), target / entry.name)
        else:
            shutil.copyfile(entry, target / entry.name)


def _number(entry: Path) -> int:
    return int(entry.stem) if entry.stem.isdecimal() else 0
