"""Databases of records: reading never writes to their folder, and writing never leaves a half-written database."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from pyscratchdet.data.leveldb import LevelStore
from pyscratchdet.data.lmdb_file import LmdbFile
from pyscratchdet.errors import DataError, FileError
from pyscratchdet.files import locked_folder, write_text

_BATCH = 1000
_JOURNAL = "journal"
_FIRST_MAP_SIZE = 1 << 28


class Database:
    """A record database to read in the order of its keys: an LMDB, or a LevelDB if plyvel is installed.

    Args:
        path: Its folder.

    Raises:
        DataError: The folder does not exist, is neither kind of database, or has no records.
        UsageError: It is a LevelDB and plyvel is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._store = _open(self.path)
        self._keys: list[bytes] | None = None
        self.first()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def keys(self) -> list[bytes]:
        """All keys in order."""
        if self._keys is None:
            self._keys = self._store.keys
        return self._keys

    def value(self, index: int) -> bytes:
        """Returns the bytes of record `index`, 0 <= index < len."""
        return self._store.value(index)

    def first(self) -> tuple[bytes, bytes]:
        """Returns the first key and its record, without reading the others."""
        item = self._store.first()
        if item is None:
            raise DataError(f"the database {self.path} has no records", code="data.empty-database")
        return item

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        for key, read in self.readers():
            yield key, read()

    def readers(self) -> Iterator[tuple[bytes, Callable[[], bytes]]]:
        """Yields each key in order with a function that reads its record, in any thread, without listing them all."""
        return self._store.readers()

    def __reduce__(self) -> tuple[type[Database], tuple[str]]:
        return Database, (self.path,)


def _open(path: str) -> LmdbFile | LevelStore:
    if os.path.isfile(os.path.join(path, "data.mdb")):
        return LmdbFile(path)
    if os.path.isfile(os.path.join(path, "CURRENT")):
        return LevelStore(path)
    if not path:
        raise DataError(
            "no database is named", code="data.no-database", hint="a data layer names it in data_param.source"
        )
    hint = "`pyscratchdet lmdb` makes one" if not os.path.exists(path) else "an LMDB is a folder with a data.mdb"
    raise DataError(f"no database at {path}", code="data.no-database", hint=hint)


class DatabaseWriter:
    """Puts records into a new database, 1000 per transaction; the database grows as needed."""

    def __init__(self, path: Path) -> None:
        self._env = lmdb.open(str(path), map_size=_FIRST_MAP_SIZE, lock=False, sync=False, metasync=False)
        self._pending: list[tuple[bytes, bytes]] = []
        self.count = 0

    def put(self, key: str, value: bytes) -> None:
        """Adds a record, or replaces the one with the same key."""
        encoded = key.encode(errors="surrogateescape")
        if not 0 < len(encoded) <= self._env.max_key_size():
            raise DataError(
                f'the key "{key}" has the wrong length', code="data.key",
                expected=f"1 to {self._env.max_key_size()} bytes",
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

    def sync(self) -> None:
        """Flushes what is written to disk."""
        self._env.sync(True)

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()


@contextmanager
def new_database(path: str | os.PathLike[str], redo: bool = False) -> Iterator[DatabaseWriter]:
    """Yields a writer for a new database, built in a folder beside `path` that is renamed to it if the block succeeds.

    Args:
        path: Folder to create.
        redo: Replace an existing database.

    Raises:
        FileError: `path` exists and `redo` is off, or it cannot be written (read-only, disk full).
    """
    target = Path(path)
    with _writing(target, redo):
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        try:
            with _writer(temporary) as writer:
                yield writer
            _publish(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


class Journal:
    """The record of an unfinished database: one line of JSON for each part that is on disk.

    Args:
        folder: Folder of the unfinished database.
        job: Identifies what is being made; parts of another job are discarded.
    """

    def __init__(self, folder: Path, job: str) -> None:
        self.folder = folder
        self._path = folder / _JOURNAL
        self.parts = self._finished(job)
        if self.parts and not _is_whole(folder):
            self.parts = []
        if not self.parts:
            (folder / "data.mdb").unlink(missing_ok=True)
        lines = "".join(json.dumps(line) + "\n" for line in [job, *self.parts])
        write_text(self._path, lines)

    def _finished(self, job: str) -> list[dict[str, Any]]:
        """Returns the parts that an earlier run of the same job finished: none if its journal is damaged."""
        try:
            lines = self._path.read_text().split("\n")[:-1]  # a killed writer may leave half a line
            first, *parts = [json.loads(line) for line in lines]
        except (FileNotFoundError, ValueError, RecursionError):
            return []
        is_journal = first == job and all(isinstance(part, dict) for part in parts)
        return parts if is_journal else []

    def add(self, writer: DatabaseWriter, part: dict[str, Any]) -> None:
        """Flushes the records put so far to disk, and then notes the part in the journal."""
        writer.commit()
        writer.sync()
        with open(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW), "w") as file:
            file.write(json.dumps(part) + "\n")
        self.parts.append(part)


def _is_whole(folder: Path) -> bool:
    """Whether the pages of an unfinished database are sound: LMDB's own code, which continues it, trusts them."""
    try:
        LmdbFile(str(folder)).check()
    except DataError:
        return False
    return True


@contextmanager
def resumable_database(
    path: str | os.PathLike[str], job: str, redo: bool = False
) -> Iterator[tuple[DatabaseWriter, Journal]]:
    """Like `new_database`, but if the block fails, its folder is kept so that a later call can continue.

    It is kept only if its journal has parts.

    Args:
        path: Folder to create.
        job: Identifies what is being made: another job starts over.
        redo: Replace an existing database.

    Raises:
        FileError: As in `new_database`, or another process is writing the same database.
    """
    target = Path(path)
    folder = target.parent / f".{target.name}.unfinished"
    with _writing(target, redo), locked_folder(folder):
        journal = Journal(folder, job)
        try:
            with _writer(folder) as writer:
                yield writer, journal
        except BaseException:
            if not journal.parts:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / _JOURNAL).unlink()
        _publish(folder, target)


@contextmanager
def _writing(target: Path, redo: bool) -> Iterator[None]:
    if target.exists() and not redo:
        raise FileError(f"{target} already exists", code="file.exists", hint="remove it, or pass --redo")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, lmdb.Error) as error:
        raise FileError(f"cannot write {target}: {error}", code="file.write") from error


@contextmanager
def _writer(folder: Path) -> Iterator[DatabaseWriter]:
    writer = DatabaseWriter(folder)
    try:
        yield writer
        writer.commit()
        writer.sync()
    finally:
        writer.close()


def _publish(folder: Path, target: Path) -> None:
    """Gives a finished database its name, in place of an older one."""
    folder.chmod(0o755)
    if target.exists():
        _remove(target)
    folder.rename(target)


def _remove(target: Path) -> None:
    """Removes a folder, but only if it is a database."""
    strangers = {entry.name for entry in target.iterdir()} - {"data.mdb", "lock.mdb"} if target.is_dir() else {"."}
    if strangers:
        raise FileError(
            f"{target} is not a database folder, so it is left alone", code="file.exists", found=sorted(strangers)[:5]
        )
    shutil.rmtree(target)
