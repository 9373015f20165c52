"""Records that several threads and processes make together: the bytes are those that one makes."""

import shutil
import threading

import pytest

from pyscratchdet.data.database import Database
from pyscratchdet.data.team import Team
from pyscratchdet.errors import DataError, Position

# Small shares, and the journal's parts smaller than the list, so that there are many rounds.
SMALL = """
import pyscratchdet.data.annoset as annoset, pyscratchdet.data.team as team
team._SHARE, annoset._PART = 3, 10
"""
KILLED = (
    SMALL
    + """
import os, signal
from pyscratchdet.data.database import Journal
add, parts = Journal.add, []

def counted(self, writer, part):
    add(self, writer, part)
    parts.append(part)
    if len(parts) == 1:
        os.kill(os.getpid(), signal.SIGKILL)

Journal.add = counted
"""
)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order_and_only_some_ahead(workers):
    seen = []
    results = Team(workers).map(lambda item: (seen.append(item), item * item)[1], range(100))
    assert [next(results) for _ in range(7)] == [0, 1, 4, 9, 16, 25, 36]
    assert max(seen) <= 6 + 2 * workers
    results.close()
    assert len(seen) <= 7 + 2 * workers


def test_threads_work_at_the_same_time():
    meeting = threading.Barrier(3, timeout=60)
    assert list(Team(3).map(lambda item: meeting.wait() >= 0, range(9))) == [True] * 9


def test_errors_travel_between_processes():
    import pickle

    error = DataError("wrong", code="data.test", position=Position("a.xml", 3), expected=1, found=[2], hint="mend it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is DataError
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def contents(folder):
    """Returns the files of a folder; of a database, the records."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "data.mdb":
            found[str(path.relative_to(folder))] = list(Database(path.parent))
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def command(kind, voc, output):
    plain = ["--anno_type=detection", f"--label_map_file={voc}/labelmap.prototxt", "--encoded", "--encode_type=jpg"]
    return {
        "list": ["lmdb", *plain, f"{voc}/", voc / "list.txt", output / "db"],
        "shuffled": [
            "lmdb",
            *plain,
            "--shuffle",
            "--seed=3",
            "--workers=3",
            f"{voc}/",
            voc / "list.txt",
            output / "db",
        ],
        "voc": ["lmdb", "voc", voc, output / "db", "--label-map", voc / "labelmap.prototxt"],
        "folder": ["lmdb", "folder", voc / "VOC2007/JPEGImages", voc / "VOC2007/Annotations", output / "data"],
    }[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["list", "shuffled", "voc", "folder"])
def test_the_bytes_are_those_of_one_process(together, voc, tmp_path, kind):
    found = {}
    for count in (1, 2, 3):
        output = tmp_path / f"out{count}"
        output.mkdir()
        (out, _), *others = together(count, tmp_path / f"log{count}", *command(kind, voc, output), patch=SMALL)
        found[count] = out.replace(str(output), "OUT"), contents(output)
        assert all(other == ["", ""] for other in others)
    assert found[1] == found[2] == found[3]
    assert sum(len(value) for value in found[1][1].values() if isinstance(value, list)) > 15


@pytest.mark.slow
def test_a_killed_writer_goes_on_from_its_journal(together, voc, tmp_path):
    whole, output = tmp_path / "whole", tmp_path / "out"
    together(1, tmp_path / "one", *command("list", voc, whole))
    _, (_, err) = together(2, tmp_path / "two", *command("list", voc, output), patch=KILLED, statuses=[-9, 2])
    assert "another process of this run has ended" in err
    assert not (output / "db").exists()
    (out, _), _ = together(2, tmp_path / "three", *command("list", voc, output), patch=SMALL)
    assert "an earlier run had done 10 entries" in out
    assert contents(output) == contents(whole)


@pytest.mark.slow
def test_what_is_broken_is_the_first_process_s_to_say(together, voc, tmp_path):
    copy = tmp_path / "voc"
    shutil.copytree(voc, copy)
    (copy / "VOC2007/Annotations/000009.xml").write_text("<annotation>")
    one = together(1, tmp_path / "one", *command("list", copy, tmp_path / "a"), patch=SMALL, statuses=[2])
    two = together(2, tmp_path / "two", *command("list", copy, tmp_path / "a"), patch=SMALL, statuses=[2, 2])
    assert two[0] == one[0]
    assert "000009.xml" in one[0][1]
    assert "another process of this run has ended" in two[1][1]
