"""Our reader of LMDB files against LMDB's own, and on damaged files: a typed error each time, never a signal."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest

from pyscratchdet.cli import main
from pyscratchdet.data.database import Database
from pyscratchdet.data.lmdb_file import LmdbFile
from pyscratchdet.errors import DataError

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).parent / "recorded" / "lmdb"


def write(folder, items, **settings):
    folder.mkdir()
    with lmdb.open(str(folder), lock=False, map_size=1 << 26, **settings) as environment:
        for part in items:
            with environment.begin(write=True) as transaction:
                for key, value in part:
                    if value is None:
                        transaction.delete(key)
                    else:
                        transaction.put(key, value)
    return folder


def by_lmdb(folder):
    with lmdb.open(str(folder), lock=False, readonly=True) as environment, environment.begin() as transaction:
        return list(transaction.cursor())


def items(count, size, seed=0):
    random = np.random.default_rng(seed)
    return [(b"%08d_picture" % k, random.bytes(int(random.integers(1, size)))) for k in range(count)]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [items(1, 9)],
        [items(700, 40)],
        [items(40, 30_000)],
        [items(3000, 3000)],
        [items(500, 6000), items(400, 90, seed=1), [(b"%08d_picture" % k, None) for k in range(3, 480, 7)]],
        [items(300, 5000), [(key, None) for key, _ in items(300, 5000)]],
    ],
    ids=["empty", "one", "small values", "values of many pages", "three levels", "changed and deleted", "all deleted"],
)
def test_reads_what_lmdb_reads(tmp_path, parts):
    folder = write(tmp_path / "db", parts)
    expected, store = by_lmdb(folder), LmdbFile(str(folder))
    store.check()
    assert store.first() == (expected[0] if expected else None)
    assert store.keys == [key for key, _ in expected]
    for index in np.random.default_rng(3).permutation(len(expected))[:500]:
        assert store.value(int(index)) == expected[index][1]


def test_recorded_database_is_lmdbs():
    assert list(Database(RECORDED)) == by_lmdb(RECORDED)


def test_databases_of_other_kinds_are_refused(tmp_path):
    with lmdb.open(str(tmp_path / "named"), lock=False, max_dbs=1) as environment:
        environment.open_db(b"inner")
    with pytest.raises(DataError, match="a node of the wrong kind"):
        Database(tmp_path / "named")
    data = bytearray((RECORDED / "data.mdb").read_bytes())
    for page in (0, 4096):
        data[page + 16 + 24 + 48 + 4] = 4  # DUPSORT, in the flags of the second tree
    (tmp_path / "data.mdb").write_bytes(data)
    with pytest.raises(DataError, match="several values per key"):
        Database(tmp_path)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.2, 0.5, 0.9, 0.98])
def test_an_interrupted_copy(tmp_path, share, capsys):
    data = (RECORDED / "data.mdb").read_bytes()
    (tmp_path / "data.mdb").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError) as caught:
        Database(tmp_path)
    assert caught.value.code == "data.database"
    assert "copied completely" in str(caught.value)
    assert main(["lmdb", "show", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    shutil.copy(RECORDED / "data.mdb", tmp_path)
    database = Database(tmp_path)
    assert len(database) == 24
    with open(tmp_path / "data.mdb", "r+b") as file:
        file.truncate(9000)
    with pytest.raises(DataError, match="is missing"):
        list(database)


DAMAGE = """
import sys, shutil
from pathlib import Path
import numpy as np
from pyscratchdet.data.database import Database
from pyscratchdet.errors import PyScratchDetError

folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
data = (folder / "data.mdb").read_bytes()
target = folder / "damaged"
target.mkdir()
random, read = np.random.default_rng(seed), 0
# The pages of the tree, where a byte matters most, and the meta pages.
tree = [start for start in range(0, len(data), 4096) if data[start + 10] in (1, 2, 8) and start < len(data)]
for trial in range(count):
    values = bytearray(data)
    kind = random.integers(4)
    if kind == 0:
        del values[int(random.integers(len(values))):]
    else:
        for _ in range(int(random.integers(1, 4))):
            place = int(random.choice(tree)) + int(random.integers(4096 if kind == 1 else 160))
            values[place] = int(random.integers(256)) if kind < 3 else values[place] ^ (1 << int(random.integers(8)))
    (target / "data.mdb").write_bytes(values)
    try:
        read += bool(list(Database(target)))
    except PyScratchDetError:
        pass
print(read)
"""


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_end_in_a_typed_error(tmp_path, seed):
    """400 truncated and changed files each, in a process of its own that may take 2 GiB."""
    write(tmp_path / "db", [items(180, 60), items(9, 9000, seed=2)])
    done = subprocess.run(
        [sys.executable, "-c", DAMAGE, str(tmp_path / "db"), str(seed), "400"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # Bytes of values and of unused places may change: such files are read.
    assert 20 < int(done.stdout) < 380


def test_pages_that_lead_in_a_circle(tmp_path):
    folder = write(tmp_path / "db", [items(700, 40)])
    data = bytearray((folder / "data.mdb").read_bytes())
    root = next(start for start in range(8192, len(data), 4096) if data[start + 10] == 1)
    node = int.from_bytes(data[root + 16 : root + 18], "little")
    data[root + node : root + node + 6] = (root // 4096).to_bytes(6, "little")
    (folder / "data.mdb").write_bytes(data)
    with pytest.raises(DataError, match="twice or too deep"):
        len(Database(folder))
