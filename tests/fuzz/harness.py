"""Runs readers on damaged files, each reader in a process of its own that a crash, a hang or hunger for memory ends.

The process writes what it is at into shared memory, so that the one that watches knows which input did it. An input is
made from its number alone and can be made again.
"""

from __future__ import annotations

import gc
import mmap
import os
import resource
import shutil
import signal
import struct
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from mutations import Mutation

from pyscratchdet.errors import PyScratchDetError

SLOW = 5.0  # seconds of computing: no input of a few kilobytes needs that
STUCK = 60.0  # seconds of any kind, on a machine that does other things as well
MEMORY = 1 << 30  # bytes more than before: the limit of what a file may unpack to is 256 MiB, held up to three times
_ADDRESS_SPACE = 6 << 30  # beyond it an allocation fails, before it hurts the machine
_HEAD = struct.Struct("<QdQQdQQQ")  # number, begun at, accepted, refused, slowest, its number, peak, findings


@dataclass
class Target:
    """A reader and what it is tried on.

    Attributes:
        name: What is read.
        read: Reads the file at a path.
        seeds: Whole files.
        mutations: Ways to damage one by its structure; bytes are damaged in all.
        file_name: What the file is called; in a folder where it has a slash.
        share: How many inputs it gets compared to others: fewer where one takes long.
    """

    name: str
    read: Callable[[Path], object]
    seeds: Sequence[bytes]
    mutations: Sequence[Mutation]
    file_name: str
    share: int = 1


@dataclass
class Result:
    """What came of a reader's inputs.

    Attributes:
        accepted, refused: How many were read, and refused by a typed error.
        signals: The inputs that ended the process, with the signal's number.
        slowest: Seconds that the slowest took.
        peak: Bytes of memory beyond what the process had before.
        findings: What went wrong: (input number, what).
        seconds: Of all inputs.
    """

    accepted: int = 0
    refused: int = 0
    signals: list[tuple[int, int]] = field(default_factory=list)
    slowest: float = 0.0
    peak: int = 0
    findings: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0


def make_input(target: Target, seed: int, number: int) -> bytes:
    """Returns an input by its number."""
    random = Random(f"{seed} {target.name} {number}")
    data = random.choice(target.seeds)
    for _ in range(random.choice((1, 1, 1, 2))):
        structural = target.mutations and random.random() < 0.6
        data = (random.choice(target.mutations) if structural else _by_bytes)(data, random)
    return data


def _by_bytes(data: bytes, random: Random) -> bytes:
    from mutations import by_bytes

    return by_bytes(data, random)


# The timer of a process ends it, and the one that watches.
_TOO_LONG = {signal.SIGPROF: "took too much computing", signal.SIGKILL: "never ended"}


def run(target: Target, numbers: range, seed: int, folder: Path, saved: Path) -> Result:
    """Tries a reader on the inputs of these numbers; what goes wrong is saved, and the rest is tried all the same.

    Args:
        target: The reader.
        numbers: Of the inputs.
        seed: Of all inputs.
        folder: Where the damaged files are made; best in memory.
        saved: Where inputs that did harm are kept.
    """
    result = Result()
    begun = time.monotonic()
    first = numbers.start
    while first < numbers.stop:
        state = mmap.mmap(-1, mmap.PAGESIZE)
        child = os.fork()
        if not child:
            _child(target, range(first, numbers.stop), seed, folder, saved, state)
        status = _watch(child, state)
        number, _, accepted, refused, slowest, _, peak, _ = _HEAD.unpack_from(state)
        result.accepted += accepted
        result.refused += refused
        result.slowest = max(result.slowest, slowest)
        result.peak = max(result.peak, peak)
        first = number + 1
        if os.WIFSIGNALED(status):
            kind = os.WTERMSIG(status)
            if kind in _TOO_LONG:
                result.slowest = max(result.slowest, SLOW)
                _save(target, seed, number, saved, _TOO_LONG[kind])
            else:
                result.signals.append((number, kind))
                _save(target, seed, number, saved, signal.Signals(kind).name)
    result.findings = _findings(target, saved)
    result.seconds = time.monotonic() - begun
    return result


def _watch(child: int, state: mmap.mmap) -> int:
    """Waits for a process, and ends it where an input takes too long."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        number, begun, *_ = _HEAD.unpack_from(state)
        if begun and time.monotonic() - begun > STUCK:
            time.sleep(0.01)
            if _HEAD.unpack_from(state)[0] == number and not os.waitpid(child, os.WNOHANG)[0]:
                os.kill(child, signal.SIGKILL)
                return os.waitpid(child, 0)[1]
        time.sleep(0.02)


def _child(target: Target, numbers: range, seed: int, folder: Path, saved: Path, state: mmap.mmap) -> None:
    """Tries the inputs and leaves; never returns."""
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
        warnings.simplefilter("ignore")
        gc.freeze()
        _try_all(target, numbers, seed, folder, saved, state)
    except BaseException:
        (saved / f"{target.name}.harness.txt").write_text(traceback.format_exc())
    finally:
        os._exit(0)


def _try_all(target: Target, numbers: range, seed: int, folder: Path, saved: Path, state: mmap.mmap) -> None:
    accepted = refused = slowest_number = peak = findings = 0
    slowest = 0.0
    before = _resident()
    path = folder / target.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        _HEAD.pack_into(state, 0, number, time.monotonic(), accepted, refused, slowest, slowest_number, peak, findings)
        data = make_input(target, seed, number)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        begun = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SLOW)
        _HEAD.pack_into(state, 0, number, time.monotonic(), accepted, refused, slowest, slowest_number, peak, findings)
        wrong = None
        try:
            target.read(path)
            accepted += 1
        except PyScratchDetError as error:
            refused += 1
            if "\n" in error.message:
                wrong = f"a message of several lines: {error.message!r}"
        except BaseException:
            wrong = traceback.format_exc()
        seconds = time.process_time() - begun
        signal.setitimer(signal.ITIMER_PROF, 0)
        if seconds > slowest:
            slowest, slowest_number = seconds, number
        peak = max(peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
        if peak > MEMORY and wrong is None:
            wrong = f"took {peak >> 20} MiB"
        if wrong is not None:
            findings += 1
            _save(target, seed, number, saved, wrong)
        if peak > MEMORY:  # the highest mark never falls: go on in a new process
            break
    _HEAD.pack_into(state, 0, number, 0.0, accepted, refused, slowest, slowest_number, peak, findings)
    shutil.rmtree(folder, ignore_errors=True)


def _resident() -> int:
    """Returns the bytes of memory in use, after the highest mark was set to them."""
    Path("/proc/self/clear_refs").write_text("5")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _save(target: Target, seed: int, number: int, saved: Path, what: str) -> None:
    """Keeps an input and what it did; of each kind of trouble the first few."""
    kind = what.strip().splitlines()[-1][:80]
    texts = (path.read_text().strip() for path in saved.glob(f"{target.name}.*.txt"))
    if sum(text.splitlines()[-1][:80] == kind for text in texts) < 3:
        (saved / f"{target.name}.{number}.txt").write_text(what)
        (saved / f"{target.name}.{number}.bin").write_bytes(make_input(target, seed, number))


def _findings(target: Target, saved: Path) -> list[tuple[int, str]]:
    return [
        (int(path.name.split(".")[-2]) if path.name.split(".")[-2].isdecimal() else -1, path.read_text())
        for path in sorted(saved.glob(f"{target.name}.*.txt"))
    ]


def kinds(findings: Sequence[tuple[int, str]]) -> Counter[str]:
    """Returns how often each kind of trouble was found, by the last line of what was said."""
    return Counter(what.strip().splitlines()[-1] for _, what in findings)
