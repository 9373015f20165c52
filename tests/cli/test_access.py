"""What each command touches on strangers' files is what docs/security.md says: no file, program or address more."""

import fcntl
import fnmatch
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from access_cases import (
    BUILDS,
    HOSTILE,
    PAGE,
    READS,
    ROWS,
    WRITES,
    make_files,
    make_hostile,
    page_with_table,
)

from pyscratchdet.cli import COMMANDS

ROOT = Path(__file__).parents[2]
INPUTS = ["kit", "elsewhere"]
NAMED = {f"elsewhere/{name}" for name in ("list.txt", "secret.png", "mean.binaryproto", "rows.txt", "secret.h5")}
STRANGERS = [(command, kind) for kind in HOSTILE for command in sorted(BUILDS | READS)]


def watch(root, lines):
    """Runs command lines in forks of one process and returns what each touched."""
    environment = os.environ | {
        "HOME": f"{root}/home", "TMPDIR": f"{root}/tmp", "MPLCONFIGDIR": f"{root}/home/matplotlib",
        "TORCHINDUCTOR_CACHE_DIR": f"{root}/home/inductor",  # by default in the system's temporary folder
        "PYTHONPATH": f"{ROOT}{os.pathsep}{root}/elsewhere", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("watch.py")],
        input=json.dumps([str(root), INPUTS, lines]), capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def touched(tmp_path_factory, worker_id):
    """{command or command, hostile layer: what it touched}; found out once, however many processes run these tests."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    with open(shared / "access.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "access.json").exists():
            (shared / "access").mkdir()
            (shared / "access.json").write_text(json.dumps(watch_all(shared / "access")))
    return json.loads((shared / "access.json").read_text())


def watch_all(root):
    """Runs every line on the kit, and those that read nets on hostile ones too."""
    make_files(root)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/video.mp4"
        lines = {row.command: row.line.replace("OUT", f"out/{number}") for number, row in enumerate(ROWS)}
        for number in range(len(ROWS)):
            (root / f"out/{number}").mkdir()
        for kind, layers in HOSTILE.items():
            make_hostile(root, f"hostile/{kind}", layers.replace("ADDRESS", address))
            for command in BUILDS | READS:
                folder = f"out/{kind}/{command.replace(' ', '-')}"
                (root / folder).mkdir(parents=True)
                line = next(row.line for row in ROWS if row.command == command).replace("OUT", folder)
                lines[f"{command}, {kind}"] = re.sub(r"kit/(\w+\.prototxt)", rf"hostile/{kind}/\1", line)
        found = dict(zip(lines, watch(root, [shlex.split(line) for line in lines.values()]), strict=True))
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    return found


def strangers(found, said, folder):
    """Returns what no pattern allows."""
    patterns = [pattern.replace("OUT", folder) for patterns in said.values() for pattern in patterns]
    return [path for path in found if not any(fnmatch.fnmatch(path, pattern) for pattern in patterns)]


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[row.command.replace(" ", "-") for row in ROWS])
def test_a_command_touches_what_the_page_says(touched, number):
    row = ROWS[number]
    result, folder = touched[row.command], f"out/{number}"
    assert result["status"] == 0, result["printed"]
    for kind in ("reads", "writes", "starts", "connects"):
        said = getattr(row, kind)
        if kind == "reads":  # what a command has written it may read again
            said = {**said, "its own": [f"{folder}/*", "out/.*", "out/snapshots/*", "tmp/*", "home/*"]}
        if kind == "writes":
            said = {**said, "temporary": ["out", folder, "out/snapshots", "tmp/*", "home/*"]}
        assert not strangers(result[kind], said, folder), kind
        for words, patterns in getattr(row, kind).items():
            if patterns == ["dot"] and not shutil.which("dot"):
                continue
            assert any(fnmatch.filter(result[kind], pattern.replace("OUT", folder)) for pattern in patterns), words


@pytest.mark.parametrize(("command", "kind"), STRANGERS)
def test_a_stranger_gets_nothing_more(touched, command, kind):
    """Layers that name modules, files and addresses: they are refused, passed over, or do what the page says."""
    result = touched[f"{command}, {kind}"]
    status, printed = result["status"], result["printed"]
    assert status in (0, 2), printed
    assert status == 0 or len(printed.strip().splitlines()) <= 20, printed
    assert not result["connects"]
    reads, writes = (
        {path for path in result[access] if path.startswith("elsewhere")} for access in ("reads", "writes")
    )
    may_write = {"elsewhere", "elsewhere/taken.h5"} if kind == "HDF5Output" and command in WRITES else set()
    temporary = set(fnmatch.filter(reads | writes, "elsewhere/.taken.h5.*.tmp")) if may_write else set()
    assert writes - temporary == may_write
    may_read = NAMED if kind == "data layers" and command in BUILDS else set()
    assert reads - temporary <= may_read
    if kind == "Python" and command in BUILDS - {"draw-net"}:  # that draws it without shapes
        assert status == 2
        assert 'layer "py" (Python)' in printed
        assert '"stranger"' in printed
        assert "--allow-python" in printed


def test_every_command_has_its_row():
    assert {row.command.split()[0] for row in ROWS} == set(COMMANDS)


def test_the_page_has_the_table():
    text = PAGE.read_text(encoding="utf-8")
    assert page_with_table(text) == text, "run python tests/cli/access_cases.py"
    assert ROWS[0].row() in text


def test_the_page_names_the_commands_that_write_what_a_net_asks_for():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    named = re.search(r"`file_name`, is written by ([^;]*?) alone", text)[1]
    assert set(re.findall(r"`([^`]+)`", named)) == WRITES
