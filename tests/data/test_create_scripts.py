"""scripts/create_voc_lmdb.sh and create_coco_lmdb.sh on small sets laid out as the published ones."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyscratchdet.cli import main
from pyscratchdet.data.database import Database
from pyscratchdet.data.records import annotated_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    """Runs a script with `pyscratchdet` on the path."""
    command = tmp_path / "bin" / "pyscratchdet"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pyscratchdet "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def call(script: str, *arguments: object) -> None:
        words = ["bash", f"{ROOT}/scripts/{script}", *map(str, arguments)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return call


def names(database: Path) -> list[str]:
    return [key.decode().rpartition("/")[2] for key, _ in Database(database)]


def test_voc(run, voc, tmp_path):
    devkit, out = tmp_path / "VOCdevkit", tmp_path / "out"
    for year in ("2007", "2012"):
        shutil.copytree(voc / "VOC2007", devkit / f"VOC{year}")
    run("create_voc_lmdb.sh", devkit, out, "VOC0712")
    assert len(Database(out / "VOC0712_trainval_lmdb")) == 2 * 17
    assert names(out / "VOC0712_test_lmdb") == [f"0000{number}.jpg" for number in range(18, 25)]
    assert len((out / "VOC0712_test_lmdb_name_size.txt").read_text().splitlines()) == 7
    assert (out / "labelmap_voc.prototxt").is_file()
    run("create_voc_lmdb.sh", devkit, out, "VOC0712Plus")
    assert len(Database(out / "VOC0712Plus_trainval_lmdb")) == 2 * 17 + 7


def test_coco(run, voc, tmp_path):
    """trainval35k is train and val less minival; test-dev has pictures alone."""
    coco, out = tmp_path / "coco", tmp_path / "out"
    source = Path(__file__).parent / "recorded" / "lmdb"
    label_map = str(voc / "labelmap.prototxt")
    assert main(["lmdb", "to-coco", str(source), f"{tmp_path}/all.json", "--label-map", label_map]) == 0
    everything = json.loads((tmp_path / "all.json").read_text())
    # Category ids of COCO's own label map.
    del everything["categories"]
    for image in everything["images"]:
        subset = "train2014" if image["id"] < 12 else "val2014"
        picture = voc / image["file_name"]
        image["file_name"] = f"COCO_{subset}_{picture.name}"
        (coco / "images" / subset).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, coco / "images" / subset / image["file_name"])
    parts = {"train": range(1, 12), "val": range(12, 25), "minival": range(20, 25)}
    (coco / "annotations").mkdir()
    for part, ids in parts.items():
        images = [image for image in everything["images"] if image["id"] in ids]
        annotations = [entry for entry in everything["annotations"] if entry["image_id"] in ids]
        content = json.dumps({"images": images, "annotations": annotations})
        (coco / "annotations" / f"instances_{part}2014.json").write_text(content)
    content = json.dumps({"images": everything["images"][:3]})
    (coco / "annotations" / "image_info_test-dev2015.json").write_text(content)
    run("create_coco_lmdb.sh", coco, out)
    listed = [image["file_name"] for image in everything["images"]]
    assert sorted(names(out / "coco_trainval35k_lmdb")) == listed[:19]
    assert names(out / "coco_minival_lmdb") == listed[19:]
    assert names(out / "coco_testdev_lmdb") == listed[:3]
    records = [annotated_of(value, "record") for _, value in Database(out / "coco_testdev_lmdb")]
    assert not any(record.annotation_group for record in records)
