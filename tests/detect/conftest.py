"""What commands are tried on: pictures, and a devkit whose objects the detector of known answers finds."""

import shutil

import cv2
import pytest

from pyscratchdet.data.voc_xml import VocObject, voc_xml


@pytest.fixture
def flags(block_model):
    deploy, weights, labels = block_model
    return ["--model", str(deploy), "--weights", str(weights), "--labelmap", str(labels), "--mean", "0", "--scale",
            str(1 / 255)]  # fmt: skip


@pytest.fixture
def folder(tmp_path, picture):
    """Three pictures and two broken ones."""
    inputs = tmp_path / "in"
    inputs.mkdir()
    cv2.imwrite(str(inputs / "a.png"), picture((0, 1, 2)))
    cv2.imwrite(str(inputs / "c.png"), picture((2, 3, 5), (0, 0, 0)))
    cv2.imwrite(str(inputs / "e.png"), picture())
    (inputs / "b.png").write_bytes(b"")
    (inputs / "d.jpg").write_bytes(b"\xff\xd8\xff and no more")
    return inputs


@pytest.fixture
def devkit(tmp_path, picture, block_model):
    """A VOC tree of four pictures; the third has an object that the net cannot see."""
    base = tmp_path / "kit" / "VOC2007"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (base / name).mkdir(parents=True)
    scenes = [[(0, 1, 2)], [(2, 3, 5), (0, 0, 0)], [(1, 2, 2)], [(2, 1, 1)]]
    for number, blocks in enumerate(scenes):
        cv2.imwrite(str(base / f"JPEGImages/{number}.png"), picture(*blocks))
        objects = [
            VocObject("red" if channel else "blue", (24 * c + 1, 16 * r + 1, 24 * c + 24, 16 * r + 16))
            for channel, r, c in blocks
        ]
        (base / f"Annotations/{number}.xml").write_text(voc_xml(f"{number}.jpg", 144, 64, objects))
    (base / "ImageSets/Main/test.txt").write_text("0\n1\n2\n3\n")
    shutil.copy(block_model[2], tmp_path / "kit" / "labelmap.prototxt")
    return tmp_path / "kit"
