"""LMDBs of records: reading without ever writing into their folder, and writing so that none is ever half-written."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from pyscratchdet.errors import DataError, FileError

_BATCH = 1000
_FIRST_MAP_SIZE = 1 << 28
_READERS: weakref.WeakValueDictionary[tuple[int, int, int], _Environment] = weakref.WeakValueDictionary()


class _Environment:
    """One open environment per process and file: LMDB refuses a second. Closed with its last reader."""

    def __init__(self, path: str) -> None:
        # meminit and readahead off: records are read once, in key order, by possibly many processes.
        self.env = lmdb.open(path, readonly=True, lock=False, create=False, readahead=False, meminit=False, max_dbs=0)

    def __del__(self) -> None:
        if hasattr(self, "env"):
            self.env.close()


class Database:
    """A record database to read from, in the order of its keys.

    Args:
        path: Folder with a `data.mdb`.

    Raises:
        DataError: There is no such folder, it is no LMDB, or it has no records.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._pid = -1
        self._keys: list[bytes] | None = None
        self._environment()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def keys(self) -> list[bytes]:
        """All keys in order."""
        if self._keys is None:
            with self._reading() as cursor:
                self._keys = list(cursor.iternext(values=False))
        return self._keys

    def value(self, index: int) -> bytes:
        """Returns the bytes of record `index`, 0 <= index < len."""
        with self._reading() as cursor:
            return bytes(cursor.get(self.keys[index]))

    def first(self) -> tuple[bytes, bytes]:
        """Returns the first key and its record, without reading the others."""
        with self._reading() as cursor:
            cursor.first()
            return cursor.item()

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        for index, key in enumerate(self.keys):
            yield key, self.value(index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pid": -1, "_open": None}

    def _environment(self) -> lmdb.Environment:
        """Returns the environment, opened anew after a fork: LMDB's must not cross one."""
        if self._pid != os.getpid():
            self._open = _open(self.path)
            self._pid = os.getpid()
        return self._open.env

    @contextmanager
    def _reading(self) -> Iterator[lmdb.Cursor]:
        try:
            with self._environment().begin(buffers=False) as transaction:
                yield transaction.cursor()
        except lmdb.Error as error:
            raise DataError(f"damaged database {self.path}: {error}", code="data.database") from error


def _open(path: str) -> _Environment:
    data = os.path.join(path, "data.mdb")
    try:
        status = os.stat(data)
    except OSError:
        hint = "`pyscratchdet lmdb` makes one" if not os.path.exists(path) else "an LMDB is a folder with a data.mdb"
        raise DataError(f"no database at {path}", code="data.no-database", hint=hint) from None
    identity = (os.getpid(), status.st_dev, status.st_ino)
    environment = _READERS.get(identity)
    if environment is None:
        try:
            environment = _Environment(path)
        except lmdb.Error as error:
            raise DataError(f"not an LMDB: {path}: {error}", code="data.database") from error
        _READERS[identity] = environment
    if environment.env.stat()["entries"] == 0:
        raise DataError(f"the database {path} has no records", code="data.empty-database")
    return environment


class DatabaseWriter:
    """Puts records into a new database, 1000 to a transaction, letting it grow as needed."""

    def __init__(self, path: Path) -> None:
        self._env = lmdb.open(str(path), map_size=_FIRST_MAP_SIZE, lock=False, sync=False, metasync=False)
        self._pending: list[tuple[bytes, bytes]] = []
        self.count = 0

    def put(self, key: str, value: bytes) -> None:
        """Adds a record; one with the same key replaces it."""
        encoded = key.encode()
        if not 0 < len(encoded) <= self._env.max_key_size():
            raise DataError(
                f'the key "{key}" is too long', code="data.key", expected=f"at most {self._env.max_key_size()} bytes",
                found=len(encoded), hint="shorten the paths in the list file",
            )  # fmt: skip
        self._pending.append((encoded, value))
        self.count += 1
        if len(self._pending) >= _BATCH:
            self.commit()

    def commit(self) -> None:
        """Writes what is pending."""
        while self._pending:
            try:
                with self._env.begin(write=True) as transaction:
                    for key, value in self._pending:
                        transaction.put(key, value)
                self._pending = []
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])

    def close(self, sync: bool) -> None:
        """Closes the environment, on disk before that where asked."""
        if sync:
            self._env.sync(True)
        self._env.close()


@contextmanager
def new_database(path: str | os.PathLike[str], redo: bool = False) -> Iterator[DatabaseWriter]:
    """Yields a writer of a new database, built in a folder beside `path` that takes its name when the block ends well.

    Args:
        path: Folder to make.
        redo: Replace a database that is there already.

    Raises:
        FileError: `path` exists and `redo` is off, or it cannot be written (read-only, disk full).
    """
    target = Path(path)
    if target.exists() and not redo:
        raise FileError(f"{target} exists already", code="file.exists", hint="remove it, or pass --redo")
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        writer = DatabaseWriter(temporary)
        try:
            yield writer
            writer.commit()
        except BaseException:
            writer.close(sync=False)
            raise
        writer.close(sync=True)
        temporary.chmod(0o755)
        if target.exists():
            _remove(target)
        temporary.rename(target)
    except (OSError, lmdb.Error) as error:
        raise FileError(f"cannot write {target}: {error}", code="file.write") from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def _remove(target: Path) -> None:
    """Removes a database folder, and only such a one."""
    strangers = {entry.name for entry in target.iterdir()} - {"data.mdb", "lock.mdb"} if target.is_dir() else {"."}
    if strangers:
        raise FileError(
            f"{target} is not a database folder, so it is left alone", code="file.exists", found=sorted(strangers)[:5]
        )
    shutil.rmtree(target)
