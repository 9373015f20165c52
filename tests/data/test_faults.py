"""Damaged input ends in a typed error that names the record; never in a crash, a hang or a silent skip."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyscratchdet.data.database import Database, new_database
from pyscratchdet.data.images import decode_image, encode
from pyscratchdet.data.label_map import read_label_map
from pyscratchdet.data.objects import objects_of
from pyscratchdet.data.records import Records, annotated_of
from pyscratchdet.data.transform import DataTransformer
from pyscratchdet.errors import DataError, FileError, PyScratchDetError, UsageError
from pyscratchdet.proto import caffe_pb2

LMDB = Path(__file__).parent / "recorded" / "lmdb"


def first_record() -> caffe_pb2.AnnotatedDatum:
    return annotated_of(Database(LMDB).value(0), "record")


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ((0.1, 0.2, float("nan"), 0.4), "not a number"),
        ((0.5, 0.2, 0.4, 0.6), "reversed"),
        ((0.1, 0.7, 0.4, 0.6), "reversed"),
    ],
)
def test_bad_boxes(corners, message):
    record = first_record()
    box = record.annotation_group[0].annotation[0].bbox
    box.xmin, box.ymin, box.xmax, box.ymax = corners
    with pytest.raises(DataError, match=message) as caught:
        objects_of([record], ['record "00000000_a.jpg"'])
    assert caught.value.code == "data.box"
    assert "00000000_a.jpg" in str(caught.value)


def test_negative_label():
    record = first_record()
    record.annotation_group[0].group_label = -3
    with pytest.raises(DataError, match="negative label"):
        objects_of([record], ["record"])


def test_truncated_jpeg_names_the_record(tmp_path):
    record = first_record()
    record.datum.data = record.datum.data[: len(record.datum.data) // 2]
    with new_database(tmp_path / "db") as writer:
        writer.put("00000000_cut.jpg", record.SerializeToString())
    sample = Records(str(tmp_path / "db")).next()
    with pytest.raises(DataError, match=r"00000000_cut\.jpg") as caught:
        DataTransformer(caffe_pb2.TransformationParameter()).decode_datum(sample.annotated().datum, sample.name)
    assert caught.value.code == "data.image"


def test_no_database(tmp_path):
    with pytest.raises(DataError) as caught:
        Database(tmp_path / "none")
    assert caught.value.code == "data.no-database"


def test_not_an_lmdb(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(DataError) as caught:
        Database(tmp_path)
    assert caught.value.code == "data.database"


def test_empty_database(tmp_path):
    with new_database(tmp_path / "db"):
        pass
    with pytest.raises(DataError) as caught:
        Database(tmp_path / "db")
    assert caught.value.code == "data.empty-database"


@pytest.fixture
def level_database(tmp_path) -> Path:
    """The recorded records, in a LevelDB."""
    plyvel = pytest.importorskip("plyvel")
    database = plyvel.DB(f"{tmp_path}/level", create_if_missing=True, write_buffer_size=1 << 16)
    for key, value in Database(LMDB):
        database.put(key, value)
    database.close()
    return tmp_path / "level"


def test_leveldb(level_database):
    before = {path.name: path.stat().st_mtime_ns for path in level_database.iterdir()}
    readers = [Database(level_database), Database(level_database)]
    assert len(before) > 5  # tables among them
    for reader in readers:
        assert list(reader) == list(Database(LMDB))
    assert readers[0].first() == Database(LMDB).first()
    assert {path.name: path.stat().st_mtime_ns for path in level_database.iterdir()} == before


def test_leveldb_with_a_link_is_refused(level_database, tmp_path):
    """What LevelDB writes under such a name would end up in the file that the link names."""
    target, table = tmp_path / "precious", max(level_database.iterdir(), key=lambda path: path.stat().st_size)
    shutil.move(table, target)
    before = target.read_bytes()
    table.symlink_to(target)
    with pytest.raises(DataError, match="is a link to another file") as caught:
        Database(level_database)
    assert caught.value.code == "data.leveldb-link"
    assert target.read_bytes() == before


def test_a_leveldb_is_never_written(level_database, monkeypatch):
    """LevelDB gets copies alone, whatever its manifest makes it write."""
    import plyvel

    opened = []
    real = plyvel.DB
    monkeypatch.setattr(plyvel, "DB", lambda folder, **settings: opened.append(folder) or real(folder, **settings))
    database = Database(level_database)
    files = list(Path(opened[0]).iterdir())
    assert not any(path.is_symlink() or path.stat().st_nlink > 1 for path in files)
    del database
    assert not Path(opened[0]).exists()


def test_damaged_leveldb(level_database):
    for path in level_database.glob("MANIFEST*"):
        path.write_bytes(b"nothing")
    with pytest.raises(DataError) as caught:
        Database(level_database)
    assert caught.value.code == "data.database"


def test_leveldb_without_plyvel(tmp_path, monkeypatch):
    (tmp_path / "CURRENT").write_text("MANIFEST-000001\n")
    monkeypatch.setitem(sys.modules, "plyvel", None)
    with pytest.raises(UsageError, match="pip install") as caught:
        Database(tmp_path)
    assert caught.value.code == "data.leveldb"


def test_a_killed_writer_leaves_no_database(tmp_path):
    def write() -> None:
        with new_database(tmp_path / "db") as writer:
            writer.put("a", b"1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder():
    with pytest.raises(FileError) as caught, new_database("/proc/nowhere/db"):
        pass
    assert caught.value.code == "file.write"


def test_a_full_disk(tmp_path):
    """Files may not grow beyond 64 KB: writing fails as on a full disk, with one line and nothing left behind."""
    program = """if True:
        import resource, sys
        from pyscratchdet.cli import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        sys.exit(main(sys.argv[1:]))"""
    picture = np.random.default_rng(5).integers(0, 256, (300, 400, 3), np.uint8)
    (tmp_path / "a.png").write_bytes(encode(picture, "png"))
    (tmp_path / "list.txt").write_text("a.png 3\n")
    command = [sys.executable, "-c", program, "lmdb", f"{tmp_path}/", f"{tmp_path}/list.txt", f"{tmp_path}/db"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"pyscratchdet: cannot write {tmp_path}/db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "list.txt"]


def test_a_growing_database(tmp_path, monkeypatch):
    monkeypatch.setattr("pyscratchdet.data.database._FIRST_MAP_SIZE", 1 << 16)
    values = [bytes([index]) * (5000 + index) for index in range(97)]
    with new_database(tmp_path / "db") as writer:
        for index, value in enumerate(values):
            writer.put(f"{index:08d}", value)
    assert [value for _, value in Database(tmp_path / "db")] == values


def test_long_key(tmp_path):
    with pytest.raises(DataError) as caught, new_database(tmp_path / "db") as writer:
        writer.put("k" * 600, b"1")
    assert caught.value.code == "data.key"


def test_keys_reach_the_terminal_and_the_disk_as_text(tmp_path, capsys):
    from pyscratchdet.cli import main

    with new_database(tmp_path / "db") as writer:
        for index, name in enumerate(("\x1b[31mred", "a\0b", "../../../x", "d/e.jpg", "\udcff")):
            writer.put(f"{index:08d}_{name}", first_record().SerializeToString())
    assert main(["lmdb", "show", f"{tmp_path}/db", "-o", f"{tmp_path}/out/pages"]) == 0
    shown = capsys.readouterr().out
    assert r"00000000_\x1b[31mred" in shown
    assert "\x1b" not in shown
    assert "\0" not in shown
    assert len(list((tmp_path / "out/pages").iterdir())) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db", "out"]
    assert main(["lmdb", "to-coco", f"{tmp_path}/db", f"{tmp_path}/all.json", "--label-map", "voc"]) == 0
    with new_database(tmp_path / "bad") as writer:
        writer.put("00000000_\x1b[31mred", b"nothing")
    capsys.readouterr()
    assert main(["lmdb", "show", f"{tmp_path}/bad"]) == 2
    assert main(["compute-image-mean", f"{tmp_path}/bad"]) == 2
    told = capsys.readouterr().err
    assert told.count(r"\x1b[31mred") == 2
    assert "\x1b" not in told


def test_gray_jpeg_is_decoded_as_colour():
    import cv2

    gray = np.tile(np.arange(0, 240, 8, dtype=np.uint8), (20, 1))
    data = bytes(cv2.imencode(".jpg", gray)[1])
    image = decode_image(data)
    assert image.shape == (20, 30, 3)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_label_map_faults(tmp_path):
    (tmp_path / "map").write_text("item { nome: 'x' }")
    with pytest.raises(DataError) as caught:
        read_label_map(tmp_path / "map")
    assert caught.value.code == "data.label-map"


def test_a_jpeg_larger_than_its_bytes_can_tell():
    """Mutated sizes: the decoder would fill gigabytes with gray."""
    data = bytearray(first_record().datum.data)
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = b"\x7f\xff\x7f\xff"
    with pytest.raises(DataError, match="32767 x 32767") as caught:
        decode_image(bytes(data), name="huge.jpg")
    assert caught.value.code == "data.image"


@pytest.mark.parametrize("shape", [(1200, 1600), (1200, 1600, 3)])
def test_the_smallest_jpegs_are_read(shape):
    """Of one colour, progressive, with tables made for it."""
    import cv2

    flags = [cv2.IMWRITE_JPEG_QUALITY, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    data = bytes(cv2.imencode(".jpg", np.full(shape, 77, np.uint8), flags)[1])
    assert decode_image(data).shape == (1200, 1600, 3)


def survives(action, data: bytes) -> bool:
    """Whether an action succeeds; anything but a typed error is a failure of the test."""
    try:
        action(data)
    except PyScratchDetError:
        return False
    return True


@pytest.mark.slow
def test_mutated_records():
    """5,000 records with bytes changed, cut or repeated."""
    random = np.random.default_rng(1)
    transformer = DataTransformer(caffe_pb2.TransformationParameter())
    originals = [value for _, value in Database(LMDB)]

    def read(value: bytes) -> None:
        record = annotated_of(value, "record")
        objects_of([record], ["record"])
        transformer.decode_datum(record.datum, "record")

    results = [survives(read, mutate(originals[k % 24], random)) for k in range(5000)]
    assert 100 < sum(results) < 4900


@pytest.mark.slow
def test_mutated_jpegs():
    random = np.random.default_rng(2)
    data = first_record().datum.data
    results = [survives(decode_image, mutate(data, random)) for _ in range(1000)]
    assert 20 < sum(results) < 980


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Changes a few bytes, most of them near the start, where the structure is; or cuts; or repeats a part."""
    kind = random.integers(4)
    values = bytearray(data)
    reach = len(values) if random.integers(2) else min(len(values), 64)
    if kind == 0:
        return bytes(values[: random.integers(len(values))])
    if kind == 1:
        start = int(random.integers(reach))
        values[start:start] = values[start : start + int(random.integers(1, 50))]
        return bytes(values)
    for _ in range(int(random.integers(1, 6))):
        values[int(random.integers(reach))] = int(random.integers(256))
    return bytes(values)
