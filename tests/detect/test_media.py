"""Inputs of detect, and running over a set: order, names, bad files, going on after an interruption."""

import cv2
import numpy as np
import pytest

from pyscratchdet.data.shapes import make_shapes
from pyscratchdet.detect.media import count_frames, find_sources, read_frames
from pyscratchdet.detect.runner import run_set
from pyscratchdet.detect.tables import ImageDetections
from pyscratchdet.errors import DataError, FileError
from pyscratchdet.evaluate.sets import read_voc_truth


def write_video(path, number, width=64, height=48):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (width, height))
    for k in range(number):
        writer.write(np.full((height, width, 3), 20 * k, np.uint8))
    writer.release()


def test_sources_have_unique_names_and_kinds(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "sub/a.png", "note.txt", "clip.mp4"):
        (tmp_path / "in" / name).write_bytes(b"x")
    sources = find_sources([str(tmp_path / "in"), str(tmp_path / "in" / "a.png"), "0"])
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
        find_sources([str(tmp_path / "empty")])
    with pytest.raises(FileError, match="no file or folder"):
        find_sources([str(tmp_path / "none")])


def test_frames_come_in_order_and_bad_ones_carry_their_error(tmp_path):
    for k in range(11):
        cv2.imwrite(str(tmp_path / f"p{k:02d}.png"), np.full((5, 7, 3), 10 * k, np.uint8))
    (tmp_path / "p03.png").write_bytes(b"")
    (tmp_path / "p04.png").write_bytes(b"no picture")
    write_video(tmp_path / "p055.mp4", 4)
    (tmp_path / "p06.mp4").write_bytes(b"no video")
    frames = list(read_frames(find_sources([str(tmp_path)]), max_frames=3))
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


def test_frames_are_counted_beforehand(tmp_path):
    write_video(tmp_path / "clip.mp4", 7)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 5, 3), np.uint8))
    sources = find_sources([str(tmp_path)])
    assert count_frames(sources) == 9
    assert count_frames(sources, 3) == 5
    camera = find_sources(["0"])
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
    again, _ = run_set(truth.names, truth.paths, second, tmp_path / "parts", {"model": "m"}, done.append)
    assert second.seen == 71 - 32
    assert done == [32, 64, 71]
    for name in ("image", "label", "score", "boxes_px"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    third = Counting()
    run_set(truth.names, truth.paths, third, tmp_path / "parts", {"model": "m"})
    assert third.seen == 0


def test_parts_of_another_run_are_refused(truth, tmp_path):
    run_set(truth.names, truth.paths, Counting(), tmp_path / "parts", {"model": "m"})
    with pytest.raises(DataError, match=r"evaluate\.resume"):
        run_set(truth.names, truth.paths, Counting(), tmp_path / "parts", {"model": "other"})
    next((tmp_path / "parts").glob("*.npz")).write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="damaged part"):
        run_set(truth.names, truth.paths, Counting(), tmp_path / "parts", {"model": "m"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(FileError, match=r"file\.exists"):
        run_set(truth.names, truth.paths, Counting(), tmp_path / "mine", {"model": "m"})


def test_an_evaluation_needs_every_picture(truth, tmp_path):
    moved = read_voc_truth(truth.paths[0].parent.parent, "trainval")
    moved.paths[3] = tmp_path / "gone.jpg"
    with pytest.raises(FileError, match=r"gone\.jpg"):
        run_set(moved.names, moved.paths, Counting())
