"""Reads LevelDB databases, which Caffe's tools made before LMDB; needs plyvel (the extra `leveldb`)."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pyscratchdet.errors import DataError, FileError, UsageError

_NOT_READ = ("LOCK", "LOG", "LOG.old")


class LevelStore:
    """One open LevelDB.

    LevelDB writes to what it opens (locks, logs, merged tables), and a damaged or hostile manifest can make it write
    wherever the names in its folder lead. So it gets a copy of all files in a temporary folder, which takes as much
    space again (TMPDIR sets where) and is removed with the last reader.

    Args:
        path: Its folder.

    Raises:
        UsageError: plyvel is not installed.
        FileError: It cannot be copied.
        DataError: It is not a LevelDB, is damaged, or has links to other files.
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
            _copy(Path(path), Path(folder))
            self._database = plyvel.DB(folder, create_if_missing=False)
        except plyvel.Error as error:
            self._clean()
            raise self._damage(error) from error
        except BaseException:
            self._clean()
            raise
        self._keys: list[bytes] | None = None

    @property
    def keys(self) -> list[bytes]:
        """All keys in order."""
        if self._keys is None:
            self._keys = self._do(lambda: list(self._database.iterator(include_value=False)))
        return self._keys

    def value(self, index: int) -> bytes:
        """Returns the record of a key, by its place in `keys`."""
        value: bytes | None = self._do(lambda: self._database.get(self.keys[index]))
        if value is None:
            raise DataError(f"damaged LevelDB {self._path}: a record is missing", code="data.database")
        return value

    def readers(self) -> Iterator[tuple[bytes, Callable[[], bytes]]]:
        """Yields each key in order with what reads its record."""
        for index, key in enumerate(self.keys):
            yield key, partial(self.value, index)

    def first(self) -> tuple[bytes, bytes] | None:
        """Returns the first key and its record; None if there are no records."""
        item: tuple[bytes, bytes] | None = self._do(lambda: next(self._database.iterator(), None))
        return item

    def _do(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except self._error as error:
            raise self._damage(error) from error

    def _damage(self, error: Exception) -> DataError:
        return DataError(f"damaged LevelDB {self._path}: {error}", code="data.database")


def _copy(source: Path, target: Path) -> None:
    """Copies the files of a LevelDB; a link to another file is refused."""
    try:
        for entry in source.iterdir():
            if entry.is_symlink():
                raise DataError(
                    f"{entry} is a link to another file, and only a LevelDB's own files are read",
                    code="data.leveldb-link", hint="replace the link with the file",
                )  # fmt: skip
            if entry.is_file() and entry.name not in _NOT_READ:
                shutil.copyfile(entry, target / entry.name)
    except OSError as error:
        raise FileError(f"cannot copy the LevelDB {source}: {error}", code="file.read") from error
