"""The demo's data set: VOC's layout, VOC's pixel convention, the same pictures from the same seed."""

import xml.etree.ElementTree as ElementTree

import cv2
import numpy as np
import pytest

from pyscratchdet.cli import main
from pyscratchdet.data.shapes import CLASSES, _describe, draw_scene, make_shapes
from pyscratchdet.errors import FileError, UsageError


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes") / "devkit"
    counts = []
    folder = make_shapes(root, 13, 5, 96, seed=3, on_image=counts.append)
    assert counts == list(range(1, 19))
    return folder


def _objects(path):
    for thing in ElementTree.parse(path).iter("object"):
        box = tuple(int(thing.find(f"bndbox/{tag}").text) for tag in ("xmin", "ymin", "xmax", "ymax"))
        yield thing.find("name").text, box, thing.find("difficult").text == "1"


def test_tree_is_a_voc_devkit(tree):
    sets = tree / "ImageSets" / "Main"
    train, test = ((sets / f"{name}.txt").read_text().split() for name in ("trainval", "test"))
    assert (len(train), len(test)) == (13, 5)
    assert not set(train) & set(test)
    assert sorted(path.stem for path in (tree / "JPEGImages").iterdir()) == sorted(train + test)
    for name in train + test:
        height, width, _ = cv2.imread(str(tree / "JPEGImages" / f"{name}.jpg")).shape
        root = ElementTree.parse(tree / "Annotations" / f"{name}.xml").getroot()
        assert root.find("filename").text == f"{name}.jpg"
        assert (int(root.find("size/width").text), int(root.find("size/height").text)) == (width, height)
        things = list(_objects(tree / "Annotations" / f"{name}.xml"))
        assert any(not difficult for _, _, difficult in things)
        for label, (xmin, ymin, xmax, ymax), _ in things:
            assert label in CLASSES
            assert 1 <= xmin <= xmax <= width
            assert 1 <= ymin <= ymax <= height


def test_per_class_sets_say_present_difficult_or_absent(tree):
    for label in CLASSES:
        for line in (tree / "ImageSets" / "Main" / f"{label}_trainval.txt").read_text().splitlines():
            name, flag = line.split()
            mine = [hard for what, _, hard in _objects(tree / "Annotations" / f"{name}.xml") if what == label]
            assert int(flag) == (-1 if not mine else 0 if all(mine) else 1)


def test_label_map_starts_with_background(tree):
    text = (tree.parent.parent / "labelmap.prototxt").read_text()
    assert text.startswith('item {\n  name: "none_of_the_above"\n  label: 0\n  display_name: "background"\n}\n')
    assert text.count("item {") == 1 + len(CLASSES)
    assert f'name: "{CLASSES[-1]}"\n  label: {len(CLASSES)}' in text


def test_same_seed_same_pictures_and_test_pictures_do_not_depend_on_the_number_to_train_on(tree, tmp_path):
    again = make_shapes(tmp_path / "again", 2, 2, 96, seed=3)
    other = make_shapes(tmp_path / "other", 2, 2, 96, seed=4)
    for mine, theirs in (("000001", "000001"), ("000002", "000002"), ("000003", "000014")):
        same = (again / "JPEGImages" / f"{mine}.jpg").read_bytes()
        assert same == (tree / "JPEGImages" / f"{theirs}.jpg").read_bytes()
        assert same != (other / "JPEGImages" / f"{mine}.jpg").read_bytes()


def test_boxes_are_the_visible_pixels_counted_from_one():
    owner = np.full((30, 40), -1)
    owner[4:14, 6:26] = 0
    owner[4:14, 20:30] = 1  # hides the right of 0
    assert _describe(owner, 0, "ring", 200, 100).box_px == (7, 5, 20, 14)
    assert _describe(owner, 0, "ring", 200, 100).occluded
    assert _describe(owner, 0, "ring", 281, 100).difficult  # 140 of 281 pixels are seen
    assert not _describe(owner, 0, "ring", 279, 100).difficult
    assert _describe(owner, 0, "ring", 200, 170).difficult  # 14 pixels is small where pictures have 170
    owner[0:7, 38:40] = 2
    corner = _describe(owner, 2, "star", 30, 50)
    assert (corner.box_px, corner.truncated, corner.occluded) == ((39, 1, 40, 7), True, False)
    assert _describe(owner, 3, "star", 30, 50) is None


def test_scenes_vary():
    scenes = [draw_scene(np.random.default_rng(seed), 150, 110, 128) for seed in range(60)]
    things = [thing for scene in scenes for thing in scene.objects]
    sides = np.array([max(t.box_px[2] - t.box_px[0], t.box_px[3] - t.box_px[1]) + 1 for t in things])
    assert sides.min() < 12
    assert sides.max() > 64
    assert {t.name for t in things} == set(CLASSES)
    difficult = np.mean([t.difficult for t in things])
    assert 0.03 < difficult < 0.2
    assert 0.03 < np.mean([t.truncated for t in things]) < 0.3
    assert 0.05 < np.mean([t.occluded for t in things]) < 0.5


def test_bad_input(tree, tmp_path, capsys):
    with pytest.raises(FileError, match=r"file\.exists"):
        make_shapes(tree.parent.parent, 2, 1)
    with pytest.raises(UsageError, match=r"demo-data\.range"):
        make_shapes(tmp_path / "none", 0, 1)
    assert main(["demo-data", str(tmp_path / "none"), "--images", "3", "--size", "4"]) == 2
    assert "demo-data.range" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_command(tmp_path, capsys):
    assert (
        main(["demo-data", str(tmp_path / "kit"), "--images", "2", "--test", "1", "--size", "64", "--seed", "5"]) == 0
    )
    assert "2 training pictures and 1 test picture, 6 classes: circle" in capsys.readouterr().out
    assert len(list((tmp_path / "kit" / "VOCdevkit" / "VOC2007" / "JPEGImages").iterdir())) == 3


def test_small_means_many_objects_most_of_them_small():
    usual, small = (
        [draw_scene(np.random.default_rng(seed), 150, 110, 128, each).objects for seed in range(60)]
        for each in (False, True)
    )
    numbers = [np.mean([len(objects) for objects in scenes]) for scenes in (usual, small)]
    areas = [
        np.array([(t.box_px[2] - t.box_px[0]) * (t.box_px[3] - t.box_px[1]) for objects in scenes for t in objects])
        for scenes in (usual, small)
    ]
    assert numbers[1] > 2 * numbers[0]
    assert np.median(areas[1]) < np.median(areas[0]) / 2
