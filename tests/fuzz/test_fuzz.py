"""A few thousand damaged files of every kind end in a typed error or are read; `make fuzz N=1000000` tries more."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")


def fuzz(*arguments):
    """Runs it in a process of its own, as each reader is forked off: what pytest has running would not survive that."""
    return subprocess.run([sys.executable, str(FUZZ), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def names():
    listed = fuzz("--list").stdout.splitlines()
    assert len(listed) > 25
    return listed


def test_damaged_files_end_in_typed_errors(names, tmp_path):
    done = fuzz("--number", "3000", "--save", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    table = [line.rsplit(maxsplit=8) for line in done.stdout.splitlines()[1:-1]]
    assert {row[0].strip() for row in table} == set(names)
    assert not list(tmp_path.iterdir())
    # Mutations are neither all fatal nor all without effect.
    assert all(int(refused) for name, _, refused, *_ in table if name.strip() != "image set")
    assert sum(int(accepted) for _, _, _, accepted, *_ in table) > 300


READERS = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from harness import Target, run
from pyscratchdet.errors import DataError


def read(path):
    kind = path.read_bytes()[:1]
    if kind == b"k":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == b"h":
        time.sleep(60)
    while kind == b"b":
        pass
    if kind == b"m":
        b"x" * (200 << 20)
    if kind == b"o":
        raise KeyError("x")
    if kind == b"t":
        raise DataError("bad", code="data.x")


made = [b"fine", b"kill", b"hang", b"busy", b"memory", b"other", b"typed", b"fine"]
target = Target("made", read, [b""], [], "file")
import harness
harness.SLOW, harness.STUCK, harness.MEMORY = 0.5, 8, 100 << 20
harness.make_input = lambda target, seed, number: made[number]
result = run(target, range(len(made)), 0, Path(sys.argv[2]) / "files", Path(sys.argv[2]))
print(result.accepted, result.refused, result.signals, [what for _, what in result.findings])
"""


def test_the_harness_survives_and_tells_crash_hang_hunger_and_foreign_errors(tmp_path):
    command = [sys.executable, "-c", READERS, str(FUZZ.parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    accepted, refused, rest = done.stdout.split(" ", 2)
    assert (accepted, refused) == ("3", "1"), done.stdout + done.stderr
    assert rest.startswith("[(1, 11)] ")
    assert all(word in rest for word in ("SIGSEGV", "never ended", "too much computing", "MiB", "KeyError"))
    kept = sorted(path.read_bytes() for path in tmp_path.glob("*.bin"))
    assert kept == [b"busy", b"hang", b"kill", b"memory", b"other"]
