"""`detect` over collections: every kind of input, results as they come, interruptions, several processes."""

import csv
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from pyscratchdet.cli import main
from pyscratchdet.detect import run as run_module
from pyscratchdet.detect.detector import Detector
from pyscratchdet.detect.parts import PartStore
from pyscratchdet.files import locked_folder
from pyscratchdet.proto import caffe_pb2

NUMBER = 29


@pytest.fixture
def pictures(tmp_path, picture):
    """A folder of 29 pictures with 0, 1 or 2 objects, two of them damaged."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for k in range(NUMBER):
        blocks = [(2 * (block % 2), k % 4, (k + block) % 6) for block in range(k % 3)]
        name = f"more/{k:02d}.jpg" if k > 20 else f"{k:02d}.png"
        cv2.imwrite(str(folder / name), picture(*blocks))
    (folder / "07.png").write_bytes(b"")
    (folder / "11.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(autouse=True)
def _small_units(monkeypatch):
    monkeypatch.setattr(run_module, "_UNIT", 4)


def digest(folder):
    """Returns {file: hash} of all files below a folder, but for what a run remembers of itself."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".run" not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def entries(folder):
    return [json.loads(line) for line in (folder / "detections.jsonl").read_text().splitlines()]


def found(entry):
    return [(row["class"], row["box"]) for row in entry["detections"]]


def test_every_format_says_the_same(pictures, flags, tmp_path, capsys):
    out = tmp_path / "out"
    formats = "json,jsonl,voc,coco,csv,parquet"
    assert main(["detect", str(pictures), *flags, "-o", str(out), "--format", formats, "--no-draw"]) == 0
    printed = capsys.readouterr().out
    assert f"{NUMBER - 2} pictures" in printed
    assert "the net waited for pictures" in printed
    assert not (out / ".run").exists()

    rows = entries(out)
    assert [row["name"] for row in rows] == [
        *(f"{k:02d}" for k in range(21) if k not in (7, 11)),
        *(f"more/{k}" for k in range(21, NUMBER)),
    ]
    content = json.loads((out / "detections.json").read_text())
    assert content["images"] == rows
    assert (out / "detections.json").read_text() == json.dumps(content, indent=1) + "\n"
    failed = [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]
    assert [one["path"] for one in failed] == [str(pictures / name) for name in ("07.png", "11.png")]
    assert content["failed"] == failed

    flat = [(row["path"], one["class"], one["score"], *one["box"]) for row in rows for one in row["detections"]]
    table = list(csv.reader((out / "detections.csv").read_text().splitlines()))[1:]
    assert [(path, name, float(score), *map(float, box)) for path, _, _, name, score, *box in table] == flat
    coco = json.loads((out / "coco.json").read_text())
    assert [one["file_name"] for one in coco["images"]] == [Path(row["path"]).name for row in rows]
    assert [one["image_id"] for one in coco["annotations"]] == [
        number for number, row in enumerate(rows, 1) for _ in row["detections"]
    ]
    assert len(list((out / "Annotations").rglob("*.xml"))) == NUMBER - 2

    parquet = pytest.importorskip("pyarrow.parquet")
    assert [{**row, "frame": None} for row in rows] == parquet.read_table(out / "detections.parquet").to_pylist()


def test_a_list(pictures, flags, tmp_path):
    """Relative to a folder above it; blank lines are passed over, and a missing file is reported."""
    (pictures / "more" / "list.txt").write_text("02.png\n\n  more/23.jpg \r\nnone.png\n02.png\n")
    assert main(["detect", str(pictures / "more" / "list.txt"), *flags, "-o", str(tmp_path / "o")]) == 0
    assert [row["name"] for row in entries(tmp_path / "o")] == [
        "list/00000000_02", "list/00000001_23", "list/00000003_02",
    ]  # fmt: skip
    assert json.loads((tmp_path / "o/failed.jsonl").read_text())["path"].endswith("none.png")
    assert (tmp_path / "o/list/00000003_02.jpg").is_file()
    (tmp_path / "empty.txt").write_text("\n")
    assert main(["detect", str(tmp_path / "empty.txt"), *flags, "-o", str(tmp_path / "e")]) == 2
    assert not (tmp_path / "e").exists()


def records(pictures):
    """Returns records as `convert_annoset`, `convert_imageset` and others store them."""
    names = ["00000000_sub/02.png", "00000001_05.png", "raw", "broken"]
    encoded = caffe_pb2.Datum(encoded=True, data=(pictures / "02.png").read_bytes())
    annotated = caffe_pb2.AnnotatedDatum(datum=caffe_pb2.Datum(encoded=True, data=(pictures / "05.png").read_bytes()))
    image = cv2.imread(str(pictures / "01.png"))
    raw = caffe_pb2.Datum(channels=3, height=64, width=144, data=image.transpose(2, 0, 1).tobytes())
    values = [message.SerializeToString() for message in (encoded, annotated, raw)]
    return dict(zip(names, [*values, b"\xff"], strict=True))


def test_a_database(pictures, flags, tmp_path, capsys):
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        for key, value in records(pictures).items():
            transaction.put(key.encode(), value)
    assert main(["detect", str(tmp_path / "db"), *flags, "-o", str(tmp_path / "o")]) == 0
    rows = entries(tmp_path / "o")
    assert [(row["name"], row["path"]) for row in rows] == [
        ("db/00000000_sub/02", f"{tmp_path}/db/00000000_sub/02.png"),
        ("db/00000001_05", f"{tmp_path}/db/00000001_05.png"),
        ("db/raw", f"{tmp_path}/db/raw"),
    ]
    assert main(["detect", str(pictures), *flags, "-o", str(tmp_path / "p")]) == 0
    expected = {row["name"]: found(row) for row in entries(tmp_path / "p")}
    assert [found(row) for row in rows] == [expected[name] for name in ("02", "05", "01")]
    assert 'record "broken"' in capsys.readouterr().err


def shard(path, files):
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_shards(pictures, flags, tmp_path):
    pytest.importorskip("webdataset")
    data = [(pictures / f"{k:02d}.png").read_bytes() for k in range(7)]
    shard(tmp_path / "s-0.tar", {"a/0.png": data[0], "a/0.cls": b"1", "a/1.cls": b"2", "a/1.PNG": data[5]})
    shard(tmp_path / "s-1.tar", {"x.json": b"{}", **{f"{k}.png": data[k] for k in range(7)}, "z.jpg": b"none"})
    shards = [str(tmp_path / f"s-{k}.tar") for k in range(2)]
    assert main(["detect", *shards, *flags, "-o", str(tmp_path / "o")]) == 0
    rows = entries(tmp_path / "o")
    assert [row["name"] for row in rows] == ["s-0/a/0", "s-0/a/1", *(f"s-1/{k}" for k in range(7))]
    assert rows[1]["path"] == f"{tmp_path}/s-0.tar/a/1.png"
    assert found(rows[1]) == found(rows[7]) != []
    failed = [json.loads(line) for line in (tmp_path / "o/failed.jsonl").read_text().splitlines()]
    assert [one["path"] for one in failed] == [f"{tmp_path}/s-1.tar/x", f"{tmp_path}/s-1.tar/z.jpg"]
    assert "a sample without a picture" in failed[0]["error"]


def test_reduced(flags, picture, tmp_path, monkeypatch):
    """Large JPEGs in folders, databases and shards are decoded at an eighth of their size; boxes are in all of it."""
    pytest.importorskip("webdataset")
    (tmp_path / "in").mkdir()
    image = picture((0, 1, 2), (2, 3, 5), height=512, width=1152)
    for name in ("a.jpg", "b.png"):
        cv2.imwrite(str(tmp_path / "in" / name), image)
    data = (tmp_path / "in/a.jpg").read_bytes()
    shard(tmp_path / "c.tar", {"0.jpg": data})
    record = caffe_pb2.Datum(encoded=True, data=data).SerializeToString()
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        transaction.put(b"0", record)
    shapes, prepare = [], Detector.prepare
    monkeypatch.setattr(Detector, "prepare", lambda self, image: shapes.append(image.shape) or prepare(self, image))
    inputs = [str(tmp_path / name) for name in ("in", "c.tar", "db")]
    for more, name in ([], "whole"), (["--reduced"], "reduced"):
        assert main(["detect", *inputs, *flags, *more, "--no-draw", "-o", str(tmp_path / name)]) == 0
    assert sorted(shapes) == sorted([(512, 1152, 3)] * 5 + [(64, 144, 3)] * 3)
    whole, rows = entries(tmp_path / "whole"), entries(tmp_path / "reduced")
    assert [(row["height"], row["width"]) for row in rows] == [(512, 1152)] * 4
    assert found(rows[1]) == found(whole[1])  # a PNG is decoded as it is
    for row in rows:
        assert sorted(one["class"] for one in row["detections"]) == ["blue", "red"]
        for one, other in zip(row["detections"], whole[0]["detections"], strict=True):
            assert one["box"] == pytest.approx(other["box"], abs=8)
            assert one["score"] == pytest.approx(other["score"], abs=0.01)


@pytest.mark.parametrize("more", [[], ["--no-draw", "--crops"], ["--no-draw", "--benchmark"]])
def test_reduced_is_for_results_without_pictures(pictures, flags, tmp_path, capsys, more):
    assert main(["detect", str(pictures), *flags, "--reduced", *more, "-o", str(tmp_path / "o")]) == 2
    assert "without pictures" in capsys.readouterr().err


def test_reduced_is_not_for_videos(flags, tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"video")
    assert main(["detect", str(tmp_path / "a.mp4"), *flags, "--no-draw", "--reduced", "-o", str(tmp_path / "o")]) == 2
    assert "--reduced is for pictures" in capsys.readouterr().err


def _sparse(path):
    member = tarfile.TarInfo("0.png")
    member.type, member.size = tarfile.REGTYPE, 1 << 50
    path.write_bytes(member.tobuf() + bytes(1024))


@pytest.mark.parametrize(
    "damage",
    [
        _sparse,
        lambda path: path.write_bytes(path.read_bytes()[:700]),
        lambda path: path.write_bytes(b"no tar" * 200),
        lambda path: path.write_bytes(__import__("gzip").compress(path.read_bytes())),
    ],
    ids=["a huge member", "cut", "no tar", "compressed"],
)
def test_damaged_shards(pictures, flags, tmp_path, capsys, damage):
    """They are reported like a picture that cannot be read; nothing is reserved for what is not there."""
    pytest.importorskip("webdataset")
    shard(tmp_path / "bad.tar", {"0.png": (pictures / "01.png").read_bytes() + bytes(2000)})
    damage(tmp_path / "bad.tar")
    assert main(["detect", str(tmp_path / "bad.tar"), str(pictures / "01.png"), *flags, "-o", str(tmp_path / "o")]) == 0
    assert [row["name"] for row in entries(tmp_path / "o")] == ["01"]
    assert "[data.shard]" in json.loads((tmp_path / "o/failed.jsonl").read_text())["error"]
    assert "Traceback" not in capsys.readouterr().err


def interrupt(monkeypatch, after):
    """Makes the net stop the command at a batch, as Ctrl-C does; returns how many batches there were."""
    find, batches = Detector.find, []

    def stop(self, *arguments):
        batches.append(1)
        if len(batches) == after:
            raise KeyboardInterrupt
        return find(self, *arguments)

    monkeypatch.setattr(Detector, "find", stop)
    return batches


def detect(source, flags, out, *more):
    return ["detect", str(source), *flags, "--batch-size", "2", "--crops", "-o", str(out), *more]


@pytest.mark.parametrize("after", [2, 5, 9, 13])
def test_an_interrupted_run_goes_on(pictures, flags, tmp_path, monkeypatch, capsys, after):
    formats = ["--format", "json,jsonl,voc,coco,csv"]
    assert main(detect(pictures, flags, tmp_path / "whole", *formats)) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        assert main(detect(pictures, flags, tmp_path / "again", *formats, "--resume")) == 130
    capsys.readouterr()
    with monkeypatch.context() as patch:
        batches = interrupt(patch, 0)
        assert main(detect(pictures, flags, tmp_path / "again", *formats, "--resume")) == 0
    assert len(batches) == 15 - (after - 1) // 2 * 2  # units of two batches
    if after > 3:
        assert "going on" in capsys.readouterr().out
    assert digest(tmp_path / "again") == digest(tmp_path / "whole")


def test_a_unit_is_written_in_parts(pictures, flags, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "_PART_SECONDS", 0.0)
    monkeypatch.setattr(run_module, "_UNIT", 64)
    assert main(detect(pictures, flags, tmp_path / "whole")) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, 9)
        assert main(detect(pictures, flags, tmp_path / "again", "--resume")) == 130
    done = PartStore(tmp_path / "again").done(0)
    assert done.parts >= 4
    assert not done.is_whole
    batches = interrupt(monkeypatch, 0)
    assert main(detect(pictures, flags, tmp_path / "again", "--resume")) == 0
    assert len(batches) == 14 - done.parts
    assert digest(tmp_path / "again") == digest(tmp_path / "whole")


@pytest.mark.parametrize("more", [[], ["--no-draw"]])
def test_a_video_goes_on(flags, tmp_path, picture, monkeypatch, more):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12, (144, 64))
    for k in range(19):
        writer.write(picture((0, k % 4, k % 6)))
    writer.release()
    monkeypatch.setattr(run_module, "_PART_SECONDS", 0.0)
    assert main(detect(tmp_path / "clip.avi", flags, tmp_path / "whole", *more)) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, 8)
        assert main(detect(tmp_path / "clip.avi", flags, tmp_path / "again", *more, "--resume")) == 130
    done = PartStore(tmp_path / "again").done(0)
    batches = interrupt(monkeypatch, 0)
    assert main(detect(tmp_path / "clip.avi", flags, tmp_path / "again", *more, "--resume")) == 0
    assert done.parts >= 3
    assert len(batches) == (10 - done.parts if more else 10)
    assert digest(tmp_path / "again") == digest(tmp_path / "whole")
    assert ("clip.mp4" in digest(tmp_path / "again")) == (not more)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--threshold", "0.4", "another --threshold, expected 0.5 and found 0.4"),
        ("--classes", "red", "another --classes, expected none and found red"),
        ("--scale", "0.5", "another --scale"),
        ("--format", "csv", "another --format"),
        ("--size", "64x96", "another --size"),
    ],
)
def test_other_settings_are_refused_by_name(pictures, flags, tmp_path, monkeypatch, capsys, option, value, said):
    with monkeypatch.context() as patch:
        interrupt(patch, 7)
        assert main(detect(pictures, flags, tmp_path / "o", "--resume")) == 130
    assert main(detect(pictures, flags, tmp_path / "o", "--resume", option, value)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "[detect.resume]" in error
    assert main(detect(pictures, flags, tmp_path / "o", "--resume")) == 0


def test_other_weights_and_inputs_are_refused(pictures, flags, tmp_path, monkeypatch, capsys):
    weights = tmp_path / "net.caffemodel"
    shutil.copy(flags[3], weights)
    flags = [*flags[:3], str(weights), *flags[4:]]
    interrupt(monkeypatch, 7)
    assert main(detect(pictures, flags, tmp_path / "o", "--resume")) == 130
    assert main(["detect", str(pictures), *detect(pictures, flags, tmp_path / "o", "--resume")[1:]]) == 2
    assert "another list of inputs" in capsys.readouterr().err
    weights.write_bytes(weights.read_bytes() + b"\x0a\x01x")  # a second name, which wins
    assert main(detect(pictures, flags, tmp_path / "o", "--resume")) == 2
    assert f"another content of {weights}" in capsys.readouterr().err


def test_without_resume_a_run_begins_anew(pictures, flags, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, 7)
        assert main(detect(pictures, flags, tmp_path / "o", "--resume")) == 130
    batches = interrupt(monkeypatch, 0)
    assert main(detect(pictures, flags, tmp_path / "o", "--threshold", "0.4")) == 0
    assert "an unfinished run is given up" in capsys.readouterr().err
    assert len(batches) == 15
    assert not (tmp_path / "o/.run").exists()


def test_what_is_not_to_be_resumed_leaves_nothing(pictures, flags, tmp_path, monkeypatch):
    interrupt(monkeypatch, 1)
    assert main(["detect", str(pictures), *flags, "--no-draw", "-o", str(tmp_path / "o")]) == 130
    assert not (tmp_path / "o").exists()


def test_a_finished_run_is_remembered(pictures, flags, tmp_path, picture, monkeypatch, capsys):
    batches = interrupt(monkeypatch, 0)
    arguments = detect(pictures, flags, tmp_path / "o", "--resume")
    assert main(arguments) == 0
    number = len(batches)
    assert main(arguments) == 0
    assert "is complete: nothing to do" in capsys.readouterr().out
    assert len(batches) == number
    cv2.imwrite(str(pictures / "03b.png"), picture((0, 1, 1)))
    assert main(arguments) == 0  # there is another picture
    assert "03b" in [row["name"] for row in entries(tmp_path / "o")]
    (tmp_path / "o/detections.json").unlink()
    assert main(arguments) == 0  # a result is gone
    assert (tmp_path / "o/detections.json").is_file()


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("parts/000000/000000000-00000.jsonl", lambda path: path.write_bytes(b"")),
        ("parts/000000/000000000-00000.jsonl", lambda path: path.write_bytes(path.read_bytes()[:-9])),
        ("parts/000000/000000000-00000.jsonl", _flip),
        ("inputs.jsonl", lambda path: path.write_bytes(b"[1]\n")),
        ("run.json", lambda path: path.write_bytes(b"[]")),
        ("run.json", lambda path: path.write_bytes(b"{")),
    ],
)
def test_a_damaged_state_is_refused(pictures, flags, tmp_path, monkeypatch, capsys, name, damage):
    with monkeypatch.context() as patch:
        interrupt(patch, 7)
        assert main(detect(pictures, flags, tmp_path / "o", "--resume")) == 130
    damage(tmp_path / "o/.run" / name)
    assert main(detect(pictures, flags, tmp_path / "o", "--resume")) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/o/.run/{name}" in error
    assert "[detect.resume]" in error


def test_the_folder_is_ours_alone(pictures, flags, tmp_path, capsys):
    out = tmp_path / "o"
    with locked_folder(out / ".run"):
        assert main(detect(pictures, flags, out)) == 2
    assert "[file.busy]" in capsys.readouterr().err
    (out / ".run/thesis.txt").write_text("x")
    assert main(detect(pictures, flags, out)) == 2
    assert "[file.exists]" in capsys.readouterr().err
    assert (out / ".run/thesis.txt").read_text() == "x"
    (out / ".run/thesis.txt").unlink()
    (out / ".run/parts").symlink_to(pictures)
    assert main(detect(pictures, flags, out)) == 2
    assert "[file.link]" in capsys.readouterr().err


def test_the_output_folder_inside_the_inputs(pictures, flags):
    """What is drawn meanwhile is not looked at."""
    assert main(detect(pictures, flags, pictures / "out")) == 0
    assert len(entries(pictures / "out")) == NUMBER - 2


@pytest.mark.parametrize("more", [["--resume"]])
def test_a_camera_cannot_be_resumed(flags, tmp_path, capsys, more):
    assert main(["detect", "0", *flags, "-o", str(tmp_path / "o"), *more]) == 2
    assert "a camera's pictures are gone" in capsys.readouterr().err


def test_labels_go_on_too(tmp_path, pictures, monkeypatch, capsys):
    from pyscratchdet.detect.labels import Labeller
    from pyscratchdet.runtime import build_net, save_weights

    text = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 12 } } }
    layer { name: "pool" type: "Pooling" bottom: "data" top: "pool"
      pooling_param { pool: AVE kernel_size: 4 stride: 4 } }
    layer { name: "score" type: "Convolution" bottom: "pool" top: "score"
      convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }"""
    (tmp_path / "net.prototxt").write_text(text)
    save_weights(build_net(str(tmp_path / "net.prototxt")), tmp_path / "net.caffemodel")
    flags = ["--model", str(tmp_path / "net.prototxt"), "--weights", str(tmp_path / "net.caffemodel")]
    arguments = ["detect", str(pictures), *flags, "--batch-size", "2"]
    assert main([*arguments, "-o", str(tmp_path / "whole")]) == 0
    find, calls = Labeller.find_labels, []

    def stop(self, *more):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return find(self, *more)

    monkeypatch.setattr(Labeller, "find_labels", stop)
    assert main([*arguments, "-o", str(tmp_path / "again"), "--resume"]) == 130
    assert main([*arguments, "-o", str(tmp_path / "again"), "--resume"]) == 0
    assert len(calls) < 8 + 14
    assert digest(tmp_path / "again") == digest(tmp_path / "whole")

    assert main([*arguments, "-o", str(tmp_path / "again")]) == 0  # replaces its own files, and no others
    shutil.copy(pictures / "00.png", tmp_path / "again" / "00_labels.png")
    assert main([*arguments, "-o", str(tmp_path / "again")]) == 2
    assert (tmp_path / "again" / "00_labels.png").read_bytes() == (pictures / "00.png").read_bytes()
    assert "00_labels.png is no file that detect wrote" in capsys.readouterr().err


KILLED = """
import os, sys
from pyscratchdet.cli import main
from pyscratchdet.detect import run
run._UNIT = 4
import torch._dynamo
for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.stdout = open(os.devnull, "w")
        os._exit(main(sys.argv[1:]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_killed_runs_go_on(pictures, flags, tmp_path):
    """SIGKILL at any moment, in the middle of writing too."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert main(detect(pictures, flags, whole)) == 0
    command = [sys.executable, "-c", KILLED, *detect(pictures, flags, again, "--resume")]
    moments, statuses = random.Random(3), []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def start(delay):
            process.stdin.write("go\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            if delay is not None:
                subprocess.run(["sleep", f"{delay:.3f}"], check=True)
                with suppress(ProcessLookupError):  # it may have come to its end
                    os.kill(child, 9)
            return int(process.stdout.readline())

        longest = 0.4
        while statuses.count(-9) < 6:
            statuses.append(start(moments.uniform(0.02, longest)))
            longest *= 0.6 if statuses[-1] == 0 else 1.2
            if statuses[-1] == 0:
                assert digest(again) == digest(whole)
                shutil.rmtree(again)
        statuses.append(start(None))
        process.stdin.close()
    assert statuses[-1] == 0
    assert set(statuses) <= {0, -9}
    assert digest(again) == digest(whole)


LAUNCHED = """
import os, sys
from pyscratchdet.cli import main
from pyscratchdet.detect import run
from pyscratchdet.detect.detector import Detector
run._UNIT = 4
if os.environ["RANK"] == os.environ.get("KILLED_RANK") and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    find, calls = Detector.find, []
    def die(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), 9)
        return find(self, *arguments)
    Detector.find = die
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "killed"), [(2, None), (3, None), (2, "1")])
def test_several_processes_write_the_same_files(pictures, flags, tmp_path, processes, killed):
    """Drawn pictures and crops too; a process that is killed is restarted and goes on."""
    formats = ["--format", "json,jsonl,voc,coco,csv", "--resume"]
    assert main(detect(pictures, flags, tmp_path / "one", *formats)) == 0
    (tmp_path / "launched.py").write_text(LAUNCHED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
               f"--max-restarts={2 if killed else 0}", str(tmp_path / "launched.py"),
               *detect(pictures, flags, tmp_path / "all", *formats)]  # fmt: skip
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "KILLED_RANK": killed or ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("27 pictures, ") == 1
    assert ("going on with the run" in done.stdout) == bool(killed)
    assert digest(tmp_path / "all") == digest(tmp_path / "one")


def test_reading_ahead_is_bounded_and_ends():
    from concurrent.futures import ThreadPoolExecutor

    from pyscratchdet.detect.reading import read_ahead

    started = []

    def jobs():
        for k in range(1000):
            started.append(k)
            yield lambda k=k: k

    with ThreadPoolExecutor(3) as pool:
        results = read_ahead(jobs(), pool, 5)
        assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
        results.close()
        assert len(started) < 15

        def faulty():
            yield lambda: 1
            raise ValueError("the next one cannot be found")

        results = read_ahead(faulty(), pool, 5)
        assert next(results) == 1
        with pytest.raises(ValueError, match="cannot be found"):
            next(results)


def test_the_picture_is_not_kept_where_it_is_not_needed(pictures):
    from pyscratchdet.detect.media import MediaSource, read_still
    from pyscratchdet.detect.reading import ReadOptions, _read_job, cut_units

    unit = next(cut_units([MediaSource(str(pictures / "00.png"), "00", "picture")], 3))
    options = ReadOptions(prepare=lambda image: np.zeros((3, 4, 5), np.float32), keeps_pictures=False)
    _, frame = _read_job(unit, lambda: read_still(unit.sources[0]), options)
    assert frame.image is None
    assert (frame.size, frame.prepared.shape) == ((64, 144), (3, 4, 5))
