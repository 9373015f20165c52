"""What a run has found so far, on disk: its memory does not grow, and after a kill it goes on from there."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, zip_longest
from pathlib import Path
from typing import Any

from pyscratchdet.detect.media import RUN_FOLDER, MediaSource
from pyscratchdet.errors import DataError, FileError
from pyscratchdet.files import (
    atomic_path,
    is_unfinished,
    locked_folder,
    read_bytes,
    read_json,
    write_bytes,
    write_pieces,
)

_FAILED = b'{"error"'
_PER_FOLDER = 1000
_WRITTEN = re.compile(r"\..+\.\w{8}\.tmp")  # what `atomic_path` calls a file that it writes; others' are left alone
_STATE, _INPUTS, _PARTS = "run.json", "inputs.jsonl", "parts"


@dataclass
class Totals:
    """How much there is.

    Attributes:
        frames: Pictures and frames that were read.
        failed: Inputs that could not be read.
        classes: {class: objects}.
    """

    frames: int = 0
    failed: int = 0
    classes: Counter[str] = field(default_factory=Counter)

    def add(self, frames: int, failed: int, classes: Mapping[str, int]) -> None:
        """Adds others."""
        self.frames += frames
        self.failed += failed
        self.classes.update(classes)


@dataclass(frozen=True)
class Done:
    """How far a unit is.

    Attributes:
        lines: Pictures and frames done, those that could not be read among them.
        parts: Parts that hold them.
        is_whole: Whether that is all.
    """

    lines: int = 0
    parts: int = 0
    is_whole: bool = False


class PartStore:
    """The parts of a run, in the folder `.run` of its output folder.

    `inputs.jsonl` lists the sources, so that all processes and a resumed run have the same. A part has a line of JSON
    for each picture of a unit, or for as many as there was time for, and at its end a line that says what it has. All
    files are written whole, by renaming.

    Args:
        output: The output folder.
    """

    def __init__(self, output: Path) -> None:
        self.output, self.folder = output, output / RUN_FOLDER

    @contextmanager
    def opened(
        self, sources: Callable[[], Iterable[MediaSource]], settings: Mapping[str, object] | None
    ) -> Iterator[str]:
        """Begins or resumes a run, and keeps others out of the folder meanwhile.

        Where the block fails, what it has found stays if it can be resumed.

        Args:
            sources: Returns the inputs.
            settings: What the results depend on, by option; None for a run that cannot be resumed.

        Yields:
            "new", "resumed"; "finished" where there is nothing left to do; or "discarded" where an unfinished run has
            been removed for a new one.

        Raises:
            FileError: Another process is writing there, or something cannot be written.
            DataError: The folder holds an unfinished run with other settings.
        """
        is_new = not self.output.exists()
        with locked_folder(self.folder):
            state = self._state(sources, settings)
            try:
                if state in ("new", "discarded"):
                    self._begin(sources(), settings)
                elif state == "resumed":
                    self._sweep()
                yield state
            except BaseException:
                if not self._can_resume():
                    self.discard(is_new)
                raise

    def _state(self, sources: Callable[[], Iterable[MediaSource]], settings: Mapping[str, object] | None) -> str:
        self._check_own()
        path = self.folder / _STATE
        earlier = read_json(path, "the state of a run", "detect.resume") if path.is_file() else {"settings": None}
        if not isinstance(earlier, dict) or not isinstance(earlier.get("settings"), dict | None):
            raise DataError(f"{path}: not the state of a run", code="detect.resume", hint="remove the folder")
        if earlier["settings"] is None:
            return "new"
        if "files" in earlier:
            is_same = earlier["settings"] == _as_json(settings) and self._is_there(earlier["files"], sources())
            return "finished" if is_same else "new"
        if settings is None:
            return "discarded"
        _compare(self.output, earlier["settings"], _as_json(settings))
        return "resumed"

    def _check_own(self) -> None:
        """Refuses a folder of somebody else's, and removes what a kill left of a file."""
        for entry in self.folder.iterdir():
            if is_unfinished(entry):
                entry.unlink()
            elif entry.name not in (_STATE, _INPUTS, _PARTS):
                raise FileError(f"{self.folder} is not the folder of a run", code="file.exists", found=entry.name)

    def _sweep(self) -> None:
        """Removes what a kill left of result files that were being written."""
        for folder, _, names in os.walk(self.output):
            for path in (Path(folder, name) for name in names):
                if _WRITTEN.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def _is_there(self, files: Sequence[str], sources: Iterable[MediaSource]) -> bool:
        """Whether a finished run's results exist, and its inputs are these."""
        return all((self.output / name).exists() for name in files) and all(
            one == other for one, other in zip_longest(self.sources(), sources)
        )

    def _begin(self, sources: Iterable[MediaSource], settings: Mapping[str, object] | None) -> None:
        with atomic_path(self.folder / _INPUTS) as temporary:
            with open(temporary, "wb") as file:  # an earlier run stays if an input is refused
                for source in sources:
                    file.write(json.dumps([source.path, source.name, source.kind]).encode() + b"\n")
            (self.folder / _STATE).unlink(missing_ok=True)
            _remove(self.folder / _PARTS)
        self._write_state({"settings": settings})

    def _write_state(self, state: Mapping[str, object]) -> None:
        write_bytes(self.folder / _STATE, json.dumps(state, indent=1).encode() + b"\n")

    def _can_resume(self) -> bool:
        try:
            state = json.loads((self.folder / _STATE).read_bytes())
        except (OSError, ValueError):
            return False
        return state.get("settings") is not None and ("files" in state or (self.folder / _PARTS).exists())

    def sources(self) -> Iterator[MediaSource]:
        """Yields the inputs of the run.

        Raises:
            FileError: They are not there.
            DataError: The list is damaged.
        """
        path = self.folder / _INPUTS
        try:
            with open(path, "rb") as file:
                for line in file:
                    yield MediaSource(*json.loads(line))
        except OSError as error:
            hint = "do all processes see the same output folder?"
            raise FileError(f"cannot read {path}: {error.strerror}", code="file.read", hint=hint) from error
        except (ValueError, TypeError) as error:
            hint = "remove the folder"
            raise DataError(f"{path}: damaged list of inputs", code="detect.resume", hint=hint) from error

    def done(self, number: int) -> Done:
        """Returns how far a unit is."""
        lines, parts, is_whole = 0, 0, False
        for _, end in self._parts(number):
            lines, parts, is_whole = lines + end["lines"], parts + 1, end["is_last"]
        return Done(lines, parts, is_whole)

    def add(self, number: int, part: int, lines: Sequence[bytes], is_last: bool, totals: Totals) -> None:
        """Writes a part of a unit.

        Args:
            number: The unit.
            part: How many parts it has already.
            lines: One for each frame, as `entry_line` or `failure_line` makes them.
            is_last: Whether the unit ends with it.
            totals: What it has.
        """
        body = b"".join(line + b"\n" for line in lines)
        end = {"lines": len(lines), "is_last": is_last, "crc32": zlib.crc32(body), "frames": totals.frames,
               "failed": totals.failed, "classes": totals.classes}  # fmt: skip
        write_pieces(self._path(number, part), [body, json.dumps(end).encode() + b"\n"])

    def forget(self, number: int) -> None:
        """Removes the parts of a unit."""
        for part in range(self.done(number).parts - 1, -1, -1):  # so that the rest are the first ones, at any moment
            self._path(number, part).unlink()

    def totals(self, num_units: int) -> Totals:
        """Returns what all parts have.

        Raises:
            DataError: A part is missing or damaged.
        """
        totals = Totals()
        for number in range(num_units):
            is_whole = False
            for _, end in self._parts(number):
                totals.add(end["frames"], end["failed"], end["classes"])
                is_whole = end["is_last"]
            if not is_whole:
                hint = "do all processes see the same output folder?"
                raise DataError(f"{self._path(number, 0)}: missing", code="detect.resume", hint=hint)
        return totals

    def entries(self) -> Iterator[bytes]:
        """Yields the line of every frame that was read, in order."""
        return (line for line in self._lines() if not line.startswith(_FAILED))

    def failures(self) -> Iterator[dict[str, str]]:
        """Yields {"path", "error"} of every input that could not be read, in order."""
        return (
            {"path": one["path"], "error": one["error"]}
            for one in (json.loads(line) for line in self._lines() if line.startswith(_FAILED))
        )

    def _lines(self) -> Iterator[bytes]:
        for number in count():
            is_there = False
            for body, _ in self._parts(number):
                is_there = True
                yield from body.splitlines()
            if not is_there:
                return

    def _parts(self, number: int) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Yields lines and end of each part of a unit."""
        for part in count():
            path = self._path(number, part)
            if not path.is_file():
                return
            data = read_bytes(path)
            start = data[:-1].rfind(b"\n") + 1
            try:
                end = json.loads(data[start:])
                is_right = (zlib.crc32(data[:start]), data.count(b"\n") - 1) == (end["crc32"], end["lines"])
            except (ValueError, TypeError, KeyError):
                is_right = False
            if not is_right:
                raise DataError(f"{path}: damaged part of a run", code="detect.resume", hint="remove the file")
            yield data[:start], end

    def _path(self, number: int, part: int) -> Path:
        return self.folder / _PARTS / f"{number // _PER_FOLDER:06d}" / f"{number:09d}-{part:05d}.jsonl"

    def finish(self, files: Sequence[str]) -> None:
        """Removes the parts of a run whose results are written; one that can be resumed is remembered as finished.

        Args:
            files: Where its results are, in the output folder.
        """
        state = read_json(self.folder / _STATE, "the state of a run", "detect.resume")
        if state["settings"] is None:
            self.discard()
            return
        self._write_state({**state, "files": files})
        _remove(self.folder / _PARTS)

    def discard(self, with_output: bool = False) -> None:
        """Removes the folder, and the output folder too if that is empty then."""
        _remove(self.folder)
        if with_output:
            with suppress(OSError):
                self.output.rmdir()


def _remove(folder: Path) -> None:
    """Removes a folder and all that is in it, as far as that is possible."""
    for parent, folders, names in os.walk(folder, topdown=False):
        with suppress(OSError):
            for name in names:
                Path(parent, name).unlink()
            for name in folders:
                Path(parent, name).rmdir()
    with suppress(OSError):
        folder.rmdir()


def entry_line(entry: Mapping[str, object]) -> bytes:
    """Returns the line of a frame in a part, and in a jsonl file."""
    return json.dumps(entry).encode()


def failure_line(path: str, error: Exception) -> bytes:
    """Returns the line of an input that could not be read."""
    return json.dumps({"error": str(error), "path": path}).encode()


def _as_json(settings: Mapping[str, object] | None) -> Any:
    """Returns settings as they are when they have been written and read again."""
    return json.loads(json.dumps(settings))


def _compare(output: Path, earlier: Mapping[str, object], settings: Mapping[str, object]) -> None:
    for name in {**earlier, **settings}:
        if earlier.get(name) != settings.get(name):
            raise DataError(
                f"{output} holds an unfinished run with another {name}",
                code="detect.resume",
                expected="none" if earlier.get(name) is None else earlier[name],
                found="none" if settings.get(name) is None else settings[name],
                hint="leave out --resume to start anew, or give another folder",
            )
