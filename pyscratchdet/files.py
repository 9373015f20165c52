"""Writing files so that nothing is ever half-written: to a temporary file beside the target, which is then renamed."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pyscratchdet.errors import DataError, FileError, Position, UsageError, counted

# The MiB that a small file may unpack to; a larger one may unpack to this many times its own size.
UNPACKED_VARIABLE, _UNPACKED_MIB, _UNPACKED_TIMES = "PYSCRATCHDET_MAX_UNPACKED_MIB", 256, 100


_kept: list[str] = []  # files that a command reads


@contextmanager
def files_kept(paths: Iterable[str]) -> Iterator[None]:
    """Refuses to replace these files while the block runs, in all threads; see `check_not_kept`."""
    before = len(_kept)
    _kept.extend(paths)
    try:
        yield
    finally:
        del _kept[before:]


def check_not_kept(path: str | os.PathLike[str]) -> None:
    """Refuses to write to one of the files of `files_kept`, by whatever name or link.

    Raises:
        FileError: It is one.
    """
    if _kept and os.path.isfile(path):
        for kept in _kept:
            if os.path.exists(kept) and os.path.samefile(path, kept):
                raise FileError(
                    f"{os.fspath(path)} is read by this command, and is not replaced",
                    code="file.input",
                    hint="give another name to write to",
                )


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path` that is renamed to it if the block ends without an error, or else removed.

    Missing parent folders are made.

    Raises:
        FileError: The folder cannot be made or the file cannot be written (read-only, disk full); or see
            `check_not_kept`.
    """
    check_not_kept(path)
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:80]}.", suffix=".tmp", dir=target.parent)
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise FileError(f"cannot write {target}: {error.strerror or error}", code="file.write") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def is_unfinished(path: Path) -> bool:
    """Whether a file is what `atomic_path` leaves behind when the process is killed."""
    return path.name.startswith(".") and path.suffix == ".tmp"


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Creates a folder and keeps other processes out of it while the block runs.

    Raises:
        FileError: It cannot be made, another process is writing there, or it has links to other places.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise FileError(f"cannot write {folder}: {error.strerror or error}", code="file.write") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = "wait until it has finished"
            raise FileError(f"another process is writing {folder}", code="file.busy", hint=hint) from error
        links = [entry.name for entry in (folder, *folder.iterdir()) if entry.is_symlink()]
        if links:
            raise FileError(
                f"{folder} contains links to other places, and nothing is written through a link", code="file.link",
                found=links[0], hint="remove it",
            )  # fmt: skip
        yield
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    write_pieces(path, [data])


def write_pieces(path: str | os.PathLike[str], pieces: Iterable[Any]) -> None:
    """Writes bytes or contiguous arrays to `path`, one after the other and atomically, without joining them."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for piece in pieces:
            file.write(piece)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` atomically, as `as_utf8` has it."""
    write_bytes(path, as_utf8(text))


def as_utf8(text: str) -> bytes:
    """Returns text as UTF-8; characters without a UTF-8 form (lone surrogates) as escapes."""
    return text.encode(errors="backslashreplace")


def safe_file_name(text: str) -> str:
    """Turns a name read from a file, such as a class or a record's key, into a file name that stays in its folder.

    Characters that could lead elsewhere (separators, leading dots) or cannot be in a name (control characters, lone
    surrogates) become "_".
    """
    return re.sub(r"^\.+|[/\\\x00-\x1f\x7f\ud800-\udfff]", "_", text) or "_"


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns the content of `path`.

    Raises:
        FileError: There is no such file, or it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {os.fspath(path)}: {error.strerror or error}", code="file.read") from error


def read_json(path: str | os.PathLike[str], what: str, code: str) -> Any:
    """Returns the content of a JSON file.

    Args:
        path: The file.
        what: What it should be, for the error: "not <what>".
        code: The code of the error.

    Raises:
        FileError: There is no such file, or it cannot be read.
        DataError: It is not JSON, or nested deeper than Python can follow.
    """
    data, position = read_bytes(path), Position(os.fspath(path))
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        position = Position(os.fspath(path), error.lineno, error.colno)
        raise DataError(f"not {what}: {error.msg}", code=code, position=position) from error
    except RecursionError as error:
        raise DataError(f"not {what}: nested too deeply", code=code, position=position) from error
    except ValueError as error:
        raise DataError(f"not {what}: {error}", code=code, position=position) from error


@contextmanager
def open_bytes(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yields the opened file, for readers whose own errors all mean that its content is damaged.

    Raises:
        FileError: There is no such file, or it cannot be opened.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise FileError(f"cannot read {os.fspath(path)}: {error.strerror or error}", code="file.read") from error
    with file:
        yield file


def map_bytes(path: str | os.PathLike[str]) -> memoryview:
    """Returns the content of `path`, read-only and mapped: pages are read from the file as they are used.

    A file that this program replaces meanwhile stays unchanged for anyone who has it mapped, since files are replaced
    by renaming.

    Raises:
        FileError: There is no such file, or it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            # An empty file or a pipe cannot be mapped.
            size = os.fstat(file.fileno()).st_size
            content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else file.read()
    except OSError as error:
        raise FileError(f"cannot read {os.fspath(path)}: {error.strerror or error}", code="file.read") from error
    return memoryview(content)


def check_unpacked(num_bytes: int, stored: int, path: str | os.PathLike[str]) -> None:
    """Refuses a file that claims to hold far more than its own size suggests, before any of that is read.

    All readers whose files can be compressed, or can name sizes that are not there, call this. The limit is 256 MiB or
    100 times the file's size, whichever is larger; the variable PYSCRATCHDET_MAX_UNPACKED_MIB raises the 256.

    Args:
        num_bytes: The memory that all its content takes, as the file says.
        stored: The file's own size in bytes.
        path: The file, for the error.

    Raises:
        FileError: It is more than the limit.
        UsageError: The environment variable is not a number.
    """
    given = os.environ.get(UNPACKED_VARIABLE, str(_UNPACKED_MIB))
    if not given.isdecimal():
        raise UsageError(f"{UNPACKED_VARIABLE} is not a number", code="usage.limit", found=given)
    limit = max(int(given) << 20, _UNPACKED_TIMES * stored)
    if num_bytes > limit:
        raise FileError(
            f"{os.fspath(path)}: {counted(stored, 'byte')} that would become {num_bytes >> 20} MiB",
            code="file.unpacked",
            expected=f"at most {limit >> 20} MiB",
            hint=f"if the file can be trusted, set {UNPACKED_VARIABLE} to the number of MiB to allow",
        )


def check_zip(file: BinaryIO, path: str | os.PathLike[str]) -> None:
    """Refuses an archive whose entries would unpack to far more than its own size; other files are let through.

    Args:
        file: The open file, read from its start again afterwards.
        path: Its name, for the message.

    Raises:
        FileError: See `check_unpacked`.
    """
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        entries = []  # not an archive (torch's older form, a plain npy), or damaged
    check_unpacked(sum(entry.file_size for entry in entries), os.fstat(file.fileno()).st_size, path)
    file.seek(0)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
