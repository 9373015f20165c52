"""Inputs of detect, and running over a set: order, names, bad files, going on after an interruption."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from pyscratchdet.data.shapes import make_shapes
from pyscratchdet.detect.media import Frame, MediaSource, count_frames, find_media
from pyscratchdet.detect.output import PictureWriter
from pyscratchdet.detect.reading import ReadOptions, cut_units, read_frames
from pyscratchdet.detect.runner import run_set
from pyscratchdet.detect.tables import ImageDetections
from pyscratchdet.errors import DataError, FileError
from pyscratchdet.evaluate.sets import read_voc_truth


def write_video(path, number, width=64, height=48):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (width, height))
    for k in range(number):
        writer.write(np.full((height, width, 3), 20 * k, np.uint8))
    writer.release()


def frames_of(sources, **options):
    with ThreadPoolExecutor(2) as pool:
        units = ((unit, 0) for unit in cut_units(sources, 3))
        return [frame for _, frame in read_frames(units, ReadOptions(**options), pool, 5) if frame is not None]


def test_sources_have_unique_names_and_kinds(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "sub/a.png", "note.txt", "clip.mp4"):
        (tmp_path / "in" / name).write_bytes(b"x")
    sources = find_media([str(tmp_path / "in"), str(tmp_path / "in" / "a.png"), "0"]).sources
    assert [(s.name, s.kind) for s in sources] == [
        ("a", "picture"),
        ("b", "picture"),
        ("clip", "video"),
        ("sub/a", "picture"),
        ("a_2", "picture"),
        ("camera0", "camera"),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"detect\.empty-folder"):
        find_media([str(tmp_path / "empty")])
    with pytest.raises(FileError, match="no file or folder"):
        find_media([str(tmp_path / "none")])
    with pytest.raises(FileError, match="no file or folder"):
        find_media(["9" * 30])  # a camera has a short number


def test_frames_come_in_order_and_bad_ones_carry_their_error(tmp_path):
    for k in range(11):
        cv2.imwrite(str(tmp_path / f"p{k:02d}.png"), np.full((5, 7, 3), 10 * k, np.uint8))
    (tmp_path / "p03.png").write_bytes(b"")
    (tmp_path / "p04.png").write_bytes(b"no picture")
    write_video(tmp_path / "p055.mp4", 4)
    (tmp_path / "p06.mp4").write_bytes(b"no video")
    frames = frames_of(find_media([str(tmp_path)]).sources, max_frames=3)
    assert [(f.source.name, f.index) for f in frames] == [
        *((f"p{k:02d}", -1) for k in range(6)),
        ("p055", 0),
        ("p055", 1),
        ("p055", 2),
        ("p06", -1),
        ("p06_2", -1),
        *((f"p{k:02d}", -1) for k in range(7, 11)),
    ]
    bad = {f.source.path.rsplit("/", 1)[1]: f.error.code for f in frames if f.image is None}
    assert bad == {"p03.png": "data.image", "p04.png": "data.image", "p06.mp4": "data.video"}
    assert frames[2].image[0, 0, 0] == 20
    assert frames[8].fps == 10
    assert abs(int(frames[8].image[9, 9, 0]) - 40) < 8  # the codec is lossy


def test_a_video_whose_path_is_not_utf8(tmp_path):
    """OpenCV would end the process with a SIGSEGV; pictures of such names are read as any others."""
    write_video(tmp_path / "clip.mp4", 3)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 5, 3), np.uint8))
    for name in ("clip.mp4", "a.png"):
        (tmp_path / name).rename(tmp_path / f"\udcff{name}")
    sources = find_media([str(tmp_path)]).sources
    assert count_frames(sources) == 1
    picture, video = frames_of(sources)
    assert picture.image.shape == (4, 5, 3)
    assert video.error.code == "data.video"
    assert r"\udcffclip.mp4: a video whose path is not UTF-8" in str(video.error)
    frame = Frame(MediaSource("x", "\udcff", "video"), 0, np.zeros((4, 6, 3), np.uint8), fps=5)
    found = ImageDetections(np.zeros(0, int), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))
    with PictureWriter(tmp_path, {}) as writer, pytest.raises(FileError, match="not UTF-8"):
        writer.add(frame, found)


def test_frames_are_counted_beforehand(tmp_path):
    write_video(tmp_path / "clip.mp4", 7)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 5, 3), np.uint8))
    sources = find_media([str(tmp_path)]).sources
    assert count_frames(sources) == 9
    assert count_frames(sources, 3) == 5
    camera = find_media(["0"]).sources
    assert count_frames([*sources, *camera]) is None
    assert count_frames([*sources, *camera], 3) == 8


class Counting:
    """Finds one box per picture, as wide as its width; can be told to fail."""

    def __init__(self, fail_at=None):
        self.seen, self.fail_at = 0, fail_at

    def __call__(self, images):
        found = []
        for image in images:
            if self.seen == self.fail_at:
                raise KeyboardInterrupt
            self.seen += 1
            box = np.array([[0, 0, image.shape[1], 5]], np.float32)
            found.append(ImageDetections(np.array([1]), np.array([0.5], np.float32), box))
        return found


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return read_voc_truth(make_shapes(tmp_path_factory.mktemp("run") / "kit", 71, 1, 48, seed=1), "trainval")


def test_interrupted_runs_go_on(truth, tmp_path):
    whole, sizes = run_set(truth.names, truth.paths, Counting())
    assert len(whole) == 71
    np.testing.assert_array_equal(whole.image, np.arange(71))
    np.testing.assert_array_equal(whole.boxes_px[:, 2], truth.sizes[:, 0])
    np.testing.assert_array_equal(sizes, truth.sizes)
    with pytest.raises(KeyboardInterrupt):
        run_set(truth.names, truth.paths, Counting(fail_at=40), tmp_path / "parts", {"model": "m"})
    second = Counting()
    done = []
    again, sizes_again = run_set(truth.names, truth.paths, second, tmp_path / "parts", {"model": "m"}, done.append)
    assert second.seen == 71 - 32
    assert done == [32, 64, 71]
    for name in ("image", "label", "score", "boxes_px"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    np.testing.assert_array_equal(sizes_again, sizes)
    third = Counting()
    run_set(truth.names, truth.paths, third, tmp_path / "parts", {"model": "m"})
    assert third.seen == 0


def test_parts_of_another_run_are_refused(truth, tmp_path):
    run_set(truth.names, truth.paths, Counting(), tmp_path / "parts", {"model": "m"})
    with pytest.raises(DataError, match=r"evaluate\.resume"):
        run_set(truth.names, truth.paths, Counting(), tmp_path / "parts", {"model": "other"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(FileError, match=r"file\.exists"):
        run_set(truth.names, truth.paths, Counting(), tmp_path / "mine", {"model": "m"})


def test_an_evaluation_needs_every_picture(truth, tmp_path):
    moved = read_voc_truth(truth.paths[0].parent.parent, "trainval")
    moved.paths[3] = tmp_path / "gone.jpg"
    with pytest.raises(FileError, match=r"gone\.jpg"):
        run_set(moved.names, moved.paths, Counting())


def test_a_run_killed_before_its_first_part_goes_on(truth, tmp_path):
    """What a kill leaves behind while `run.json` is written is not somebody else's file."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / ".run.json.abc.tmp").write_text("{")
    found, _ = run_set(truth.names, truth.paths, Counting(), tmp_path / "parts", {"model": "m"})
    assert len(found) == 71
    assert not list((tmp_path / "parts").glob(".*"))


def test_a_resumed_run_removes_what_a_kill_left_behind(truth, tmp_path):
    run_set(truth.names, truth.paths, Counting(), tmp_path / "parts", {"model": "m"})
    whole = sorted(path.name for path in (tmp_path / "parts").iterdir())
    (tmp_path / "parts" / ".part_0000032.npz.abc.tmp").write_text("PK")
    run_set(truth.names, truth.paths, Counting(), tmp_path / "parts", {"model": "m"})
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == whole


def _changed(**columns):
    def change(path):
        with np.load(path) as saved:
            np.savez(path, **{**saved, **columns})

    return change


def _cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def _flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def _bomb(path):
    np.savez_compressed(path, image=np.zeros(1 << 26))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK nothing"),
        _cut,
        _flipped,
        _bomb,
        _changed(score=np.zeros(3)),
        _changed(image=np.full(32, 40)),
        _changed(sizes=np.zeros((31, 2))),
        _changed(label=np.array([{}] * 32)),
    ],
    ids=["empty", "no zip", "cut", "a bit", "bomb", "short", "other pictures", "sizes", "objects"],
)
def test_damaged_parts_are_refused(truth, tmp_path, damage):
    """By one message that names the file, and removing it is all that is needed."""
    whole, _ = run_set(truth.names, truth.paths, Counting(), tmp_path / "parts", {"model": "m"})
    part = tmp_path / "parts" / "part_0000000.npz"
    damage(part)
    with pytest.raises((DataError, FileError), match=r"part_0000000\.npz: .*\[(evaluate\.resume|file\.unpacked)\]"):
        run_set(truth.names, truth.paths, Counting(), tmp_path / "parts", {"model": "m"})
    part.unlink()
    again, _ = run_set(truth.names, truth.paths, Counting(), tmp_path / "parts", {"model": "m"})
    np.testing.assert_array_equal(again.boxes_px, whole.boxes_px)


def test_other_files_of_a_folder_are_counted(tmp_path):
    for name in ("a.png", "b.gif", "c.GIF", "d.txt", "README", "sub/e.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    media = find_media([str(tmp_path)])
    assert [source.name for source in media.sources] == ["a"]
    assert media.left_out == {".gif": 3, ".txt": 1, "": 1}
    assert media.describe_left_out().startswith("3 .gif, ")
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"expected .*\.png.* and found 3 \.gif, .*detect\.empty-folder"):
        find_media([str(tmp_path)])


_RUN = """
import sys, time
import numpy as np
from pyscratchdet.detect.reading import ReadOptions, cut_units, read_frames
from pyscratchdet.detect.runner import run_set
from pyscratchdet.detect.tables import ImageDetections

def detect(images):
    time.sleep(0.05)
    box = np.array([[0, 0, 9, 5]], np.float32)
    return [ImageDetections(np.array([1]), np.array([i.mean() / 255], np.float32), box) for i in images]

names = sys.argv[2:]
print("ready", flush=True)
table, sizes = run_set(names, names, detect, sys.argv[1], {"model": "m"})
np.savez(sys.argv[1] + ".npz", score=table.score, image=table.image, sizes=sizes)
"""


@pytest.mark.slow
def test_killed_runs_go_on(truth, tmp_path):
    """SIGKILL at any moment, in the middle of writing too: the same command then ends with the same results."""
    paths = [str(path) for path in truth.paths] * 4
    random = np.random.default_rng(7)

    def run(folder, delay=None):
        command = [sys.executable, "-c", _RUN, str(folder), *paths]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            if delay is not None:
                time.sleep(delay)
                process.kill()
        return process.returncode

    assert run(tmp_path / "whole") == 0
    killed = [run(tmp_path / "parts", delay) for delay in random.uniform(0, 0.3, 8)]
    assert -signal.SIGKILL in killed
    assert run(tmp_path / "parts") == 0
    whole, parts = np.load(tmp_path / "whole.npz"), np.load(tmp_path / "parts.npz")
    assert len(whole["score"]) == len(paths)
    for name in whole:
        np.testing.assert_array_equal(parts[name], whole[name])
