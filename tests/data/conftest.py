"""Recorded data sets, rebuilt in a temporary folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pyscratchdet.data.database import Database
from pyscratchdet.data.records import annotated_of

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture(scope="session")
def voc(tmp_path_factory) -> Path:
    """A VOC-style tree with list.txt and labelmap.prototxt: the pictures come out of the recorded database."""
    root = tmp_path_factory.mktemp("voc")
    shutil.copytree(RECORDED / "voc", root, dirs_exist_ok=True)
    pictures = root / "VOC2007" / "JPEGImages"
    pictures.mkdir()
    for key, value in Database(RECORDED / "lmdb"):
        name = key.decode().partition("_")[2]
        (root / name).write_bytes(annotated_of(value, name).datum.data)
    names = sorted(path.stem for path in pictures.iterdir())
    lists = root / "VOC2007" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("\n".join(names[:17]) + "\n")
    (lists / "test.txt").write_text("\n".join(names[17:]) + "\n")
    return root
