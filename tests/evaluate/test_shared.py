"""Several processes evaluate together: what they write and print is what one does, byte for byte."""

import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from pyscratchdet.data.voc_xml import VocObject, voc_xml

NUMBER = 75  # pictures: three chunks, the last one smaller
KILLED = """
import os, signal, sys
from pyscratchdet.cli import main
from pyscratchdet.detect import runner

detect, first = runner._detect_part, os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"

def counted(found, images, rows):
    if first and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    print("detected", rows, file=sys.stderr)
    return detect(found, images, rows)

runner._detect_part = counted
sys.exit(main(sys.argv[1:]))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kit(tmp_path_factory, block_model):
    """A VOC tree of blue and red blocks, some of which the net cannot see, and the same as COCO's json."""
    folder = tmp_path_factory.mktemp("together")
    base, random, coco = folder / "kit" / "VOC2007", np.random.default_rng(5), {"images": [], "annotations": []}
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (base / name).mkdir(parents=True)
    for number in range(NUMBER):
        image, objects = np.zeros((64, 144, 3), np.uint8), []
        for cell in random.choice(24, number % 4, replace=False).tolist():
            row, column, channel = 16 * (cell // 6), 24 * (cell % 6), int(random.choice([0, 2]))
            image[row : row + 16, column : column + 24, channel] = random.choice([255, 255, 140])
            objects.append(VocObject("red" if channel else "blue", (column + 1, row + 1, column + 24, row + 16)))
            box = {"bbox": [column, row, 24, 16], "area": 384, "iscrowd": 0, "category_id": 1 + channel // 2}
            coco["annotations"].append({**box, "image_id": number, "id": len(coco["annotations"]) + 1})
        cv2.imwrite(str(base / f"JPEGImages/{number:03d}.png"), image)
        (base / f"Annotations/{number:03d}.xml").write_text(voc_xml(f"{number:03d}.png", 144, 64, objects))
        coco["images"].append({"id": number, "file_name": f"{number:03d}.png", "width": 144, "height": 64})
    (base / "ImageSets/Main/test.txt").write_text("".join(f"{number:03d}\n" for number in range(NUMBER)))
    coco["categories"] = [{"id": 1, "name": "blue"}, {"id": 2, "name": "red"}]
    (base / "JPEGImages/instances.json").write_text(json.dumps(coco))
    for place in (folder / "kit", base / "JPEGImages"):
        shutil.copy(block_model[2], place / "labelmap.prototxt")
    return folder / "kit"


@pytest.fixture(scope="module")
def flags(block_model):
    deploy, weights, _ = block_model
    return ["--model", deploy, "--weights", weights, "--mean", "0", "--scale", 1 / 255]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def commands(kit, flags, output):
    pictures = kit / "VOC2007" / "JPEGImages"
    return {
        "voc": ["evaluate", "voc", "--data", kit, *flags, "-o", output],
        "coco": ["evaluate", "coco", "--data", pictures / "instances.json", *flags, "-o", output],
        "folder": ["evaluate", "folder", "--pictures", kit, "--annotations", kit, *flags, "--json", "--labelmap",
                   kit / "labelmap.prototxt"],
        "multi-scale": ["evaluate", "voc", "--data", kit, *flags, "--multi-scale", "--json"],
        "score": ["score", "--data", kit, *flags],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["voc", "coco", "folder", "multi-scale", "score"])
def test_files_and_figures_are_those_of_one_process(together, kit, flags, tmp_path, name):
    found = {}
    for count in (1, 2, 3):
        output = tmp_path / f"out{count}"
        (out, _), *others = together(count, tmp_path / f"log{count}", *commands(kit, flags, output)[name])
        found[count] = out.replace(str(output), "OUT"), contents(output) if output.exists() else {}
        assert all(other == ["", ""] for other in others)
    assert found[1] == found[2] == found[3]
    assert "mAP" in found[1][0] or "AP50" in found[1][0]
    assert bool(found[1][1]) == (name in ("voc", "coco"))


def test_damaged_pictures_are_left_out_by_the_process_that_has_them(together, kit, flags, tmp_path):
    copy = tmp_path / "kit"
    shutil.copytree(kit, copy)
    (copy / "VOC2007/JPEGImages/040.png").write_bytes(b"")
    command = ["evaluate", "voc", "--data", copy, *flags, "--json"]
    one = together(1, tmp_path / "one", *command, "--skip-bad")
    two = together(2, tmp_path / "two", *command, "--skip-bad")
    assert two[0][0] == one[0][0]
    assert "1 picture left out: 040" in two[0][1]
    assert "040.png" in two[1][1]
    failed = together(2, tmp_path / "fail", *command, statuses=[2, 2])
    assert "another process of this run has ended" in failed[0][1]
    assert "040.png" in failed[1][1]


def test_a_killed_process_is_started_again_and_goes_on_from_what_is_stored(together, kit, flags, tmp_path):
    script, output = tmp_path / "run.py", tmp_path / "out"
    script.write_text(KILLED)
    command = [*commands(kit, flags, output)["voc"], "--resume", tmp_path / "parts"]
    (printed, _), *_ = together(1, tmp_path / "one", *commands(kit, flags, tmp_path / "whole")["voc"])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    # Torchrun of PyTorch 2.15 keeps the addresses of the killed processes otherwise.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(
        [*launcher, script, *map(str, command)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(str(output), "OUT") == printed.replace(str(tmp_path / "whole"), "OUT")
    assert contents(output) == contents(tmp_path / "whole")
    assert done.stderr.count("detected range(32, 64)") == 1
