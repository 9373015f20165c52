"""Making a database goes on where it was interrupted, or starts anew when something else is asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyscratchdet.data import annoset
from pyscratchdet.data.annoset import AnnosetOptions, write_annoset
from pyscratchdet.data.database import Database, Journal, resumable_database
from pyscratchdet.data.lists import read_list
from pyscratchdet.errors import DataError, FileError

RECORDED = Path(__file__).parent / "recorded" / "lmdb"
OPTIONS = AnnosetOptions(anno_type="detection", label_map_file="voc", encoded=True, encode_type="jpg", skip_bad=True)
KILLED = """
import os, sys
from pyscratchdet.data import annoset, lists
annoset._PART = 5
root, database = sys.argv[1:]
options = annoset.AnnosetOptions(anno_type="detection", label_map_file="voc", encoded=True, encode_type="jpg",
                                 skip_bad=True)
end = lambda done: os._exit(9) if done == 13 else None
annoset.write_annoset(f"{root}/", lists.read_list(f"{root}/list.txt"), database, options, end)
"""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(annoset, "_PART", 5)


@pytest.fixture
def entries(voc):
    """The recorded list with a missing picture as its third."""
    listed = read_list(voc / "list.txt")
    return [*listed[:2], ("missing.jpg", listed[2][1]), *listed[2:]]


def write(voc, entries, database, options=OPTIONS, stop=None):
    done = []

    def progress(number):
        done.append(number)
        if number == stop:
            raise KeyboardInterrupt

    return done, write_annoset(f"{voc}/", entries, database, options, progress)


def interrupt(voc, entries, database, stop, options=OPTIONS):
    with pytest.raises(KeyboardInterrupt):
        write(voc, entries, database, options, stop)
    assert not database.exists()


def test_goes_on_after_an_interruption(voc, entries, tmp_path):
    _, at_once = write(voc, entries, tmp_path / "at_once")
    interrupt(voc, entries, tmp_path / "db", stop=13)
    interrupt(voc, entries, tmp_path / "db", stop=18)
    done, resumed = write(voc, entries, tmp_path / "db")
    assert done == list(range(16, len(entries) + 1))
    assert (resumed.written, resumed.skipped, resumed.remarks) == (at_once.written, at_once.skipped, at_once.remarks)
    assert len(resumed.skipped) == 1
    assert resumed.num_kept == 15
    assert "15 entries" in resumed.lines()[0]
    assert list(Database(tmp_path / "db")) == list(Database(tmp_path / "at_once"))
    assert os.listdir(tmp_path / "db") == ["data.mdb"]
    assert sorted(os.listdir(tmp_path)) == ["at_once", "db"]


def test_goes_on_after_a_kill(voc, tmp_path):
    command = [sys.executable, "-c", KILLED, str(voc), f"{tmp_path}/db"]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == 9
    assert not (tmp_path / "db").exists()
    done, _ = write(voc, read_list(voc / "list.txt"), tmp_path / "db")
    assert done[0] == 11
    write(voc, read_list(voc / "list.txt"), tmp_path / "at_once")
    assert list(Database(tmp_path / "db")) == list(Database(tmp_path / "at_once"))


def test_another_job_starts_anew(voc, entries, tmp_path):
    interrupt(voc, entries, tmp_path / "db", stop=13)
    gray = AnnosetOptions(**{**vars(OPTIONS), "gray": True})
    done, summary = write(voc, entries, tmp_path / "db", gray)
    assert done[0] == 1
    assert len(summary.written) == len(Database(tmp_path / "db")) == len(entries) - 1


def test_nothing_stays_of_an_early_end(voc, entries, tmp_path):
    interrupt(voc, entries, tmp_path / "db", stop=4)
    with pytest.raises(DataError):
        write(voc, [("missing.jpg", "none.xml")] * 7, tmp_path / "db")
    assert os.listdir(tmp_path) == []


def test_sizes_are_compared_over_an_interruption(voc, tmp_path):
    options = AnnosetOptions(**{**vars(OPTIONS), "check_size": True, "encoded": False, "encode_type": ""})
    listed = read_list(voc / "list.txt")
    entries = [listed[0]] * 7 + [listed[1]]
    interrupt(voc, entries, tmp_path / "db", stop=7, options=options)
    _, summary = write(voc, entries, tmp_path / "db", options)
    assert len(summary.written) == 7
    assert "differs in size" in summary.skipped[0][1]


def test_two_writers_of_one_database(tmp_path):
    with resumable_database(tmp_path / "db", "job") as (writer, journal):
        writer.put("a", b"1")
        journal.add(writer, {})
        with pytest.raises(FileError) as caught, resumable_database(tmp_path / "db", "job"):
            pass
        assert caught.value.code == "file.busy"
    assert list(Database(tmp_path / "db")) == [(b"a", b"1")]


def test_a_cut_journal(tmp_path):
    shutil.copy(RECORDED / "data.mdb", tmp_path)
    (tmp_path / "journal").write_text('"job"\n{"done": 5}\n{"do')
    assert Journal(tmp_path, "job").parts == [{"done": 5}]
    assert Journal(tmp_path, "other").parts == []


@pytest.mark.parametrize("text", ["", '"job"\n[5]\n', '"job"\n{"done": 5\n{}\n', "[" * 100_000 + "\n", "\xff\n"])
def test_a_damaged_journal_starts_anew(tmp_path, text):
    shutil.copy(RECORDED / "data.mdb", tmp_path)
    (tmp_path / "journal").write_text(text, "latin-1")
    assert Journal(tmp_path, "job").parts == []
    assert os.listdir(tmp_path) == ["journal"]


def test_a_damaged_unfinished_database_starts_anew(voc, entries, tmp_path):
    """LMDB's own code would be killed by a signal on it."""
    interrupt(voc, entries, tmp_path / "db", stop=13)
    os.truncate(tmp_path / ".db.unfinished" / "data.mdb", 20_000)
    done, _ = write(voc, entries, tmp_path / "db")
    assert done[0] == 1
    assert len(Database(tmp_path / "db")) == len(entries) - 1


def test_a_journal_of_something_else(voc, entries, tmp_path):
    interrupt(voc, entries, tmp_path / "db", stop=13)
    journal = tmp_path / ".db.unfinished" / "journal"
    job = journal.read_text().split("\n")[0]
    journal.write_text(f'{job}\n{{"done": 5}}\n')
    with pytest.raises(DataError, match=r"journal of an interrupted run is damaged; remove .*unfinished") as caught:
        write(voc, entries, tmp_path / "db")
    assert caught.value.code == "data.journal"


@pytest.mark.parametrize("name", ["journal", "data.mdb", ""])
def test_nothing_is_written_through_a_link(voc, entries, tmp_path, name):
    target = tmp_path / "elsewhere"
    folder = tmp_path / ".db.unfinished"
    if name:
        target.write_text("precious")
        folder.mkdir()
    else:
        target.mkdir()
    (folder / name).symlink_to(target)
    with pytest.raises(FileError, match="links to other places") as caught:
        write(voc, entries, tmp_path / "db")
    assert caught.value.code == "file.link"
    assert target.read_text() == "precious" if name else not list(target.iterdir())
