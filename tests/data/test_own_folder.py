"""`lmdb folder`: one data folder from pictures and annotations of any form."""

from __future__ import annotations

import os
import struct
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from own_sets import FORMS, NAMES, draw, make_pictures, write_coco, write_csv, write_xml

from pyscratchdet.cli import main
from pyscratchdet.data.database import Database
from pyscratchdet.data.figures import DataFigures
from pyscratchdet.data.label_map import label_to_name, read_label_map
from pyscratchdet.data.objects import objects_of
from pyscratchdet.data.own.alike import find_twins, look_of, mirrored
from pyscratchdet.data.own.findings import OVERLAP, best_overlaps, findings
from pyscratchdet.data.own.folder import FolderMaker, FolderOptions
from pyscratchdet.data.own.page import write_page
from pyscratchdet.data.own.split import split_pictures
from pyscratchdet.data.records import annotated_of
from pyscratchdet.data.voc_xml import VocObject, voc_xml
from pyscratchdet.errors import DataError, FileError, PyScratchDetError, UsageError


def make(pictures, annotations, output, **options) -> DataFigures:
    maker = FolderMaker(pictures, annotations, output, FolderOptions(**options))
    return maker.write(maker.prepare())


def records(folder) -> dict[str, bytes]:
    """Returns the records of both databases, by their keys."""
    parts = ("train", "test")
    return {f"{part} {key.decode()}": value for part in parts for key, value in Database(f"{folder}/{part}_lmdb")}


def skipped(folder) -> str:
    return (Path(folder) / "skipped.txt").read_text()


@pytest.fixture
def own(tmp_path):
    """(folder, boxes) of a small set without annotation files."""
    return tmp_path, make_pictures(tmp_path)


def test_all_forms_give_the_same_records(own):
    root, boxes = own
    (root / "pictures" / "p14.jpg").unlink()  # without boxes: not every CSV can name it
    del boxes["p14.jpg"]
    for name, write in FORMS.items():
        figures = make(root / "pictures", write(root, boxes), root / "out" / name)
        assert figures.classes == sorted(NAMES)
        assert records(root / "out" / name) == records(root / "out" / "xml")
        assert DataFigures.read(root / "out" / name) == figures == DataFigures.read(root / "out" / "xml")
    assert label_to_name(read_label_map(root / "out" / "csv" / "labelmap.prototxt"), display=True) == {
        0: "background", 1: "dark blue", 2: "red"
    }  # fmt: skip


def test_records_are_those_of_convert_annosets_form(own):
    root, boxes = own
    annotations = write_xml(root, boxes)
    make(root / "pictures", annotations, root / "out")
    names = [Path(line).name for line in (root / "out" / "train.txt").read_text().splitlines()]
    (root / "list.txt").write_text("".join(f"pictures/{name} xml/{Path(name).stem}.xml\n" for name in names))
    options = f"--anno_type=detection --label_map_file={root}/out/labelmap.prototxt --encoded --encode_type=jpg"
    assert main(["lmdb", *options.split(), f"{root}/", f"{root}/list.txt", f"{root}/plain"]) == 0
    plain = [(key.replace(b"pictures/", b""), value) for key, value in Database(root / "plain")]
    assert plain == list(Database(root / "out" / "train_lmdb"))


def test_what_is_written(own, capsys):
    root, boxes = own
    command = ["lmdb", "folder", f"{root}/pictures", str(write_xml(root, boxes)), f"{root}/out", "--seed", "3"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "2 classes: dark blue, red" in said
    assert "out/train_lmdb: 12 pictures" in said
    assert "1 picture has no boxes" in said
    figures = DataFigures.read(root / "out")
    assert (figures.train.pictures, figures.test.pictures, figures.picture_size) == (12, 3, (64, 64))
    assert figures.train.boxes + figures.test.boxes == sum(map(len, boxes.values()))
    assert all(0 < side <= 1 for size in figures.sizes for side in size)
    for part, number in (("train", 12), ("test", 3)):
        paths = (root / "out" / f"{part}.txt").read_text().splitlines()
        sizes = [line.split() for line in (root / "out" / f"{part}_name_size.txt").read_text().splitlines()]
        assert len(paths) == len(sizes) == number
        for path, (name, height, width) in zip(paths, sizes, strict=True):
            assert Path(path).stem == name
            assert cv2.imread(path).shape[:2] == (int(height), int(width))
    assert skipped(root / "out") == ""


def test_running_it_again_changes_nothing_and_other_input_is_refused(own, capsys):
    root, boxes = own
    command = ["lmdb", "folder", f"{root}/pictures", str(write_xml(root, boxes)), f"{root}/out"]
    assert main(command) == 0
    before = {path: path.stat().st_mtime_ns for path in (root / "out").rglob("*")}
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out == f"{root}/out is complete: nothing to do (--redo makes it anew)\n"
    assert main([*command, "--split", "0.8"]) == 0  # the default
    assert before == {path: path.stat().st_mtime_ns for path in (root / "out").rglob("*")}
    cv2.imwrite(f"{root}/pictures/more.jpg", draw(64, 32, 99))
    for more in ([], ["--seed", "4"], ["--split", "0.5"]):
        assert main([*command, *more]) == 2
        assert "was made from other pictures, annotations or settings" in capsys.readouterr().err
    assert main([*command, "--split", "0.5", "--redo"]) == 0
    assert DataFigures.read(root / "out").train.pictures == 7


def test_an_interrupted_run_keeps_the_part_that_is_whole(own):
    root, boxes = own
    annotations = write_xml(root, boxes)
    figures = make(root / "pictures", annotations, root / "out")
    before = records(root / "out")
    for name in ("data.json", "test_name_size.txt"):
        (root / "out" / name).unlink()
    time = (root / "out" / "train_lmdb" / "data.mdb").stat().st_mtime_ns
    assert make(root / "pictures", annotations, root / "out") == figures
    assert (root / "out" / "train_lmdb" / "data.mdb").stat().st_mtime_ns == time
    assert records(root / "out") == before


def test_everything_left_out_has_its_reason(own):
    root, boxes = own
    annotations, pictures = write_xml(root, boxes), root / "pictures"
    data = (pictures / "p00.jpg").read_bytes()
    (pictures / "p00.jpg").write_bytes(data[: len(data) // 2])
    (annotations / "p01.xml").unlink()
    (annotations / "p02.xml").write_text("<annotation><object>")
    (annotations / "stranger.xml").write_text(voc_xml("stranger.jpg", 10, 10, []))
    things = {"first": (1, 2, 9, 9), "second": (1, 2, 9, 9), "turned": (9, 2, 1, 9), "flat": (1, 2, 9, 2),
              "out": (70, 2, 90, 9)}  # fmt: skip
    objects = [VocObject("red", box) for box in things.values()]
    (annotations / "p03.xml").write_text(voc_xml("p03.jpg", 64, 32, objects))
    maker = FolderMaker(pictures, annotations, root / "out")
    data = maker.prepare()
    figures = maker.write(data)
    assert findings(data)[-1].startswith("8 pictures, files or boxes are left out, mostly ")
    place = f"({annotations}/p03.xml)"
    assert sorted(skipped(root / "out").splitlines()) == sorted([
        "p00.jpg: the picture is a truncated JPEG",
        "p01.jpg: no annotation of this name",
        f"p02.jpg: its annotation is damaged: {annotations}/p02.xml:1:21: not a VOC annotation: no element found: "
        "line 1, column 20 [data.annotation]",
        f"{annotations}/stranger.xml (stranger): no picture of this name",
        f"p03.jpg: red 1, 2, 9, 9 {place}: the same box twice",
        f"p03.jpg: red 9, 2, 1, 9 {place}: a box whose corners are reversed",
        f"p03.jpg: red 1, 2, 9, 2 {place}: a box without area",
        f"p03.jpg: red 70, 2, 90, 9 {place}: a box outside the picture",
    ])  # fmt: skip
    assert figures.train.pictures + figures.test.pictures == 12


def test_an_xml_files_own_name_counts(own):
    root, boxes = own
    annotations = write_xml(root, boxes)
    for path in annotations.iterdir():
        path.write_text(path.read_text().replace(f"<filename>{path.stem}.jpg", "<filename>IMG 1.JPG"))
    data = FolderMaker(root / "pictures", annotations, root / "out").prepare()
    assert len(data.content.names) == 15
    assert any("15 XML files of 15 state another <filename> than their own" in note for note in data.notes)


def test_pairs_of_equal_names_are_told_apart_by_their_folders(own):
    root, boxes = own
    annotations = write_xml(root, boxes)
    for folder in ("a", "b"):
        (root / "set" / folder / "images").mkdir(parents=True)
        (root / "set" / folder / "labels").mkdir()
        for name in boxes:
            os.link(root / "pictures" / name, root / "set" / folder / "images" / name)
            os.link(annotations / f"{Path(name).stem}.xml", root / "set" / folder / "labels" / f"{Path(name).stem}.xml")
    (root / "set" / "a" / "images" / "odd one.jpg").write_bytes((root / "pictures" / "p00.jpg").read_bytes())
    (root / "set" / "a" / "labels" / "odd one.xml").write_bytes((annotations / "p00.xml").read_bytes())
    make(root / "set", root / "set", root / "out")
    assert len(records(root / "out")) == 31
    names = [line.split()[0] for part in ("train", "test")
             for line in (root / "out" / f"{part}_name_size.txt").read_text().splitlines()]  # fmt: skip
    assert len(set(names)) == 31
    assert {"a_images_p03.jpg", "b_images_p03.jpg", "odd_one"} <= set(names)


def test_a_name_that_fits_two_pictures_fits_none(own):
    root, boxes = own
    annotations = write_xml(root, boxes)
    for folder in ("more", "other"):
        (root / "pictures" / folder).mkdir()
        os.link(root / "pictures" / "p04.jpg", root / "pictures" / folder / "p04.jpg")
    (root / "pictures" / "p04.jpg").unlink()
    make(root / "pictures", annotations, root / "out")
    assert "several pictures of this name: more/p04.jpg, other/p04.jpg" in skipped(root / "out")
    assert "more/p04.jpg: no annotation of this name" in skipped(root / "out")


def test_the_sets_own_lists_count_unless_a_share_is_given(own):
    root, boxes = own
    year = root / "kit" / "VOC2007"
    (year / "ImageSets" / "Main").mkdir(parents=True)
    os.rename(write_xml(root, boxes), year / "Annotations")
    os.rename(root / "pictures", year / "JPEGImages")
    stems = sorted(Path(name).stem for name in boxes)
    lists = {"trainval": stems[:9], "train": stems[:6], "val": stems[6:9], "test": stems[9:13]}
    for name, listed in lists.items():
        (year / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(listed) + "\n")
    kit = root / "kit"
    maker = FolderMaker(kit, kit, root / "out")
    data = maker.prepare()
    assert "split: the set's own, by VOC2007/ImageSets/Main/trainval.txt and test.txt" in data.notes
    maker.write(data)
    assert [Path(line).stem for line in sorted((root / "out" / "train.txt").read_text().splitlines())] == stems[:9]
    assert "VOC2007/JPEGImages/p13.jpg: in neither of VOC2007/ImageSets/Main" in skipped(root / "out")
    assert make(kit, kit, root / "share", split=0.6).train.pictures == 9
    (year / "ImageSets" / "Main" / "test.txt").unlink()  # VOC2012 has none, and its trainval contains val
    assert make(kit, kit, root / "2012").train.pictures == 6
    assert make(year, year, root / "year").train.pictures == 6


def test_folders_called_train_and_valid_are_a_split(own):
    root, boxes = own
    annotations = write_xml(root, boxes)
    for index, name in enumerate(boxes):
        folder = root / "pictures" / ("train" if index < 10 else "valid")
        folder.mkdir(exist_ok=True)
        os.rename(root / "pictures" / name, folder / name)
    assert make(root / "pictures", annotations, root / "out").train.pictures == 10


def test_a_list_of_pictures(own):
    root, boxes = own
    annotations = write_xml(root, boxes)
    (root / "list.txt").write_text(f"pictures/p02.jpg\n\n{root}/pictures/p05.jpg\npictures/p08.jpg xml/p08.xml\n")
    assert make(root / "list.txt", annotations, root / "out", split=0.5).picture_size == (128, 64)
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text("pictures/p02.jpg\npictures/p05.jpg\n")  # as Darknet's
    assert FolderMaker(root / "lists" / "train.txt", annotations, root / "darknet").num_pictures == 2
    (root / "list.txt").write_text("pictures/none.jpg\n")
    with pytest.raises(DataError, match=r"list\.txt:1: no picture pictures/none\.jpg"):
        FolderMaker(root / "list.txt", annotations, root / "other")


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_split_has_its_share_of_each_class(share):
    random = np.random.default_rng(5)
    counts = random.integers(0, 3, (211, 4)) * (random.random((211, 4)) < [0.9, 0.3, 0.1, 0.02])
    groups = np.arange(211)
    is_train = split_pictures(counts, groups, share, seed=1)
    assert (is_train == split_pictures(counts, groups, share, seed=1)).all()
    assert (is_train != split_pictures(counts, groups, share, seed=2)).any()
    pictures = counts > 0
    # A class can be off by one picture where it is shared out, and by what came along with rarer classes before.
    assert np.abs(pictures[is_train].sum(0) - share * pictures.sum(0)).max() <= 4
    assert abs(is_train.sum() - share * 211) <= 4
    groups[100:115] = 100
    is_train = split_pictures(counts, groups, share, seed=1)
    assert is_train[100:115].all() or not is_train[100:115].any()
    groups[60:150] = 60  # a video's frames
    is_train = split_pictures(counts, groups, share, seed=1)
    assert abs(is_train.sum() - share * 211) <= 4
    assert 0 < is_train[60:150].mean() < 1


def test_every_side_of_a_split_has_a_picture():
    assert split_pictures(np.ones((3, 1), int), np.arange(3), 0.99, 0).sum() == 2
    assert split_pictures(np.ones((4, 1), int), np.zeros(4, int), 0.5, 0).sum() == 2
    with pytest.raises(DataError, match="a split needs two pictures"):
        split_pictures(np.ones((1, 1), int), np.zeros(1, int), 0.5, 0)


def test_twins_are_found_and_strangers_are_not():
    pictures = [draw(128, 64, seed) for seed in range(40)]
    darker = np.clip(pictures[3] * 0.8, 0, 255).astype(np.uint8)
    _, jpeg = cv2.imencode(".jpg", pictures[4], [cv2.IMWRITE_JPEG_QUALITY, 40])
    twins = {3: darker, 4: cv2.imdecode(jpeg, 1), 5: cv2.resize(pictures[5], (90, 50)), 6: pictures[6][:, ::-1]}
    looks = np.array([look_of(np.ascontiguousarray(image)) for image in [*pictures, *twins.values()]])
    np.testing.assert_array_equal(mirrored(mirrored(looks)), looks)
    flat = np.zeros((2, looks.shape[1]), np.float32)
    digests = [str(index) for index in range(44)] + ["flat", "flat"]
    groups, pairs = find_twins(np.concatenate([looks, flat]), digests)
    assert [pair[:2] for pair in pairs] == [(3, 40), (4, 41), (5, 42), (6, 43), (44, 45)]
    assert all(0.7 < pair[2] <= 1 for pair in pairs)
    assert groups.tolist() == [*range(40), 3, 4, 5, 6, 44, 44]
    bridge = np.array([[1, 0], [0, 1], [0.8, 0.75]], np.float32)  # like both, which are not alike
    bridge = np.pad(bridge, ((0, 0), (0, looks.shape[1] - 2)))
    groups, pairs = find_twins(bridge, ["a", "b", "c"])
    assert groups.tolist() == [0, 0, 0]
    assert [pair[:2] for pair in pairs] == [(0, 2)]
    assert not look_of(np.full((30, 40, 3), 200, np.uint8)).any()


def test_twins_stay_on_one_side_or_are_named(own):
    root, boxes = own
    pictures = root / "pictures"
    for index in range(6):
        image = cv2.imread(str(pictures / f"p{index:02d}.jpg"))
        cv2.imwrite(str(pictures / f"p{index:02d} copy.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 50])
        boxes[f"p{index:02d} copy.jpg"] = boxes[f"p{index:02d}.jpg"]
    data = FolderMaker(pictures, write_xml(root, boxes), root / "out", FolderOptions(split=0.5)).prepare()
    assert len(data.pairs) == 6
    assert not data.num_leaked()
    assert "6 pictures are like others; those that are alike are on one side of the split" in findings(data)
    is_train = np.array(["copy" not in name for name in data.content.names])
    crossing = replace(data, is_train=is_train)
    assert findings(crossing)[0].startswith("6 test pictures have a twin among the training pictures")


def test_boxes_in_another_frame_than_the_pictures(own):
    root, _ = own
    (root / "xml").mkdir()
    frames = {"p00": (128, 64, (20, 10, 60, 32)), "p01": (0, 0, (4, 8, 12, 24)), "p02": (40, 40, (64, 16, 96, 48))}
    for name, (width, height, box) in frames.items():
        (root / "xml" / f"{name}.xml").write_text(voc_xml(f"{name}.jpg", width, height, [VocObject("red", box)]))
    data = FolderMaker(root / "pictures", root / "xml", root / "out").prepare()
    np.testing.assert_array_equal(data.content.boxes_px, [[10, 5, 30, 16], [4, 8, 12, 24], [64, 16, 96, 48]])
    assert data.notes[2:] == [
        "annotations state another size than the picture's: boxes are scaled (1: p00.jpg)",
        "annotations state no size: the picture's is taken (1: p01.jpg)",
        "annotations state a size that is too small for their boxes: the picture's is taken (1: p02.jpg)",
    ]


@pytest.mark.parametrize("orientation", [6, 8])
def test_boxes_turn_with_a_picture_that_exif_turns(own, orientation):
    root, _ = own
    (root / "xml").mkdir()
    image = np.full((64, 128, 3), 40, np.uint8)
    image[10:30, 80:120] = (0, 0, 250)
    tag = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x112, 3, 1, orientation, 0, 0)
    data = bytes(cv2.imencode(".jpg", image)[1])
    app1 = b"\xff\xe1" + struct.pack(">H", 8 + len(tag)) + b"Exif\0\0" + tag
    (root / "pictures" / "p00.jpg").write_bytes(data[:2] + app1 + data[2:])
    (root / "xml" / "p00.xml").write_text(voc_xml("p00.jpg", 128, 64, [VocObject("red", (80, 10, 120, 30))]))
    (root / "xml" / "p01.xml").write_text(voc_xml("p01.jpg", 32, 64, [VocObject("red", (4, 8, 12, 24))]))
    data = FolderMaker(root / "pictures", root / "xml", root / "out").prepare()
    assert data.content.sizes[0].tolist() == [64, 128]
    left, top, right, bottom = data.content.boxes_px[0].astype(int)
    turned = cv2.imread(str(root / "pictures" / "p00.jpg"))
    inside = np.zeros((128, 64), bool)
    inside[top:bottom, left:right] = True
    is_red = turned[..., 2] > 150
    assert (inside == is_red).mean() > 0.99  # JPEG blurs the border
    assert "boxes were drawn before EXIF turned the picture" in data.notes[-1]


@pytest.mark.parametrize(
    ("header", "row", "box"),
    [
        ("image_id;label;x_min;y_min;x_max;y_max", "p03;red;8;4;40;20", (8, 4, 40, 20)),
        ("file_name,bbox_x,bbox_y,bbox_width,bbox_height,category", "a\\p03.jpg,8,4,32,16,red", (8, 4, 40, 20)),
        ("\ufeffFile Path\tClass\tLeft\tTop\tRight\tBottom", "x/p03.jpg\tred\t8\t4\t40\t20", (8, 4, 40, 20)),
        ("p04.jpg,32,64,red,1,2,3,4", "p03.jpg,64,32,red,8,4,40,20", (8, 4, 40, 20)),
    ],
)
def test_csv_columns_are_known_by_their_names(own, header, row, box):
    root, _ = own
    (root / "boxes.csv").write_text(f"{header}\n{row}\n", encoding="utf-8")
    data = FolderMaker(root / "pictures", root / "boxes.csv", root / "out")._annotations
    (mark,) = next(sheet for sheet in data.sheets if sheet.picture.stem == "p03").marks
    assert (mark.name, mark.box) == ("red", box)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("filename,x,y,width,height,class\np03.jpg,1,2,3,4,red\n", "unknown CSV layout"),
        ("filename,xmin,ymin,xmax,ymax\np03.jpg,1,2,3,4\n", "found filename, xmin, ymin, xmax, ymax"),
        ("filename,file_size,region_shape_attributes\np03.jpg,1,{}\n", "export the annotations as COCO json"),
        ("p03.jpg 1,2,3,4,0\n", "unknown CSV layout"),
        ("\n", "the CSV file is empty"),
    ],
)
def test_an_unknown_csv_layout_is_refused_by_name(own, text, says):
    root, _ = own
    (root / "boxes.csv").write_text(text)
    with pytest.raises(DataError, match=r"boxes\.csv:?1?: .*" + says) as caught:
        FolderMaker(root / "pictures", root / "boxes.csv", root / "out")
    assert caught.value.code == "data.csv"


def test_a_csv_row_that_is_no_box_is_named(own):
    root, boxes = own
    path = write_csv(root, boxes)
    path.write_text(path.read_text() + "p03.jpg,64,32,red,1,2,x,4\np03.jpg,64,32,,1,2,3,4\n")
    lines = path.read_text().count("\n")
    make(root / "pictures", path, root / "out")
    assert f"{path}:{lines - 1}: a box that is not four numbers: 1, 2, x, 4" in skipped(root / "out")
    assert f"{path}:{lines}: a box without a class" in skipped(root / "out")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("yolo/classes.txt", "small cat\ndog\n"),
        ("obj.names", "small cat\ndog\n"),
        ("data.yaml", "train: x\nnames: ['small cat', \"dog\"]  # two\nnc: 2\n"),
        ("data.yaml", "nc: 2\nnames:\n- small cat\n- dog\npath: y\n"),
        ("data.yaml", "names:\n  0: small cat\n  1: 'dog'\n"),
        ("pictures/dataset.yaml", "names: {0: small cat,\n  1: dog}\n"),
        ("", ""),
    ],
)
def test_yolos_class_names(own, file, text):
    root, _ = own
    (root / "yolo").mkdir()
    (root / "yolo" / "p03.txt").write_text("1 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.3 0.2 0.25 0.6\n")
    (root / "yolo" / "p04.txt").write_text("")
    (root / "yolo" / "README.txt").write_text("not a set of boxes")
    if file:
        (root / file).write_text(text)
    maker = FolderMaker(root / "pictures", root / "yolo", root / "out")
    data = maker.prepare()
    assert data.content.classes == (["small cat", "dog"] if file else ["0", "1"])
    np.testing.assert_array_equal(data.content.boxes_px.round(6), [[24, 8, 40, 24], [6.4, 3.2, 19.2, 19.2]])
    assert data.content.names == ["p03.jpg", "p04.jpg"]
    said = f"class names are from {root / file}" if file else "classes are called by their numbers"
    assert any(said in note for note in data.notes)


def test_a_names_file_costs_no_more_than_its_size(own):
    root, _ = own
    (root / "yolo").mkdir()
    (root / "yolo" / "p03.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (root / "data.yaml").write_text("names: [cat, " + "a'," * 50_001)
    start = time.process_time()
    assert FolderMaker(root / "pictures", root / "yolo", root / "out").num_pictures == 15
    assert time.process_time() - start < 10  # a second; quadratic would be hours


def test_rows_in_pixels_are_not_yolos(own):
    root, _ = own
    (root / "txt").mkdir()
    (root / "txt" / "p03.txt").write_text("1 3 4 40 20\n")
    with pytest.raises(DataError, match=r"p03\.txt:1: 1 of 1 row are in pixels") as caught:
        FolderMaker(root / "pictures", root / "txt", root / "out")
    assert caught.value.code == "data.yolo"


def test_the_folders_that_a_coco_json_names_do_not_count(own):
    root, boxes = own
    path = write_coco(root, boxes)
    path.write_text(path.read_text().replace('"p03.jpg', '"C:\\\\media\\\\p03.jpg').replace('"p04', '"../x/p04'))
    data = FolderMaker(root / "pictures", path, root / "out").prepare()
    assert {"p03.jpg", "p04.jpg"} <= set(data.content.names)


def test_a_folder_of_coco_files_may_hold_others(own):
    root, boxes = own
    (root / "jsons").mkdir()
    os.rename(write_coco(root, boxes), root / "jsons" / "train.json")
    (root / "jsons" / "project.json").write_text("[1]")
    make(root / "pictures", root / "jsons", root / "out")
    assert skipped(root / "out") == f"{root}/jsons/project.json: not a COCO json: 'images' is missing\n"
    (root / "jsons" / "train.json").unlink()
    with pytest.raises(DataError, match=r"project\.json: not a COCO json"):
        FolderMaker(root / "pictures", root / "jsons", root / "other")


def test_a_json_for_each_picture_is_not_a_known_form(own):
    root, _ = own
    (root / "labelme").mkdir()
    (root / "labelme" / "p03.json").write_text('{"shapes": []}')
    with pytest.raises(DataError, match="a json file for each picture is not a known form"):
        FolderMaker(root / "pictures", root / "labelme", root / "out")


def test_label_zero_is_the_backgrounds(own):
    root, boxes = own
    boxes["p00.jpg"].append(("background", (1, 1, 9, 9)))
    annotations = write_xml(root, boxes)
    with pytest.raises(DataError, match="stands for label 0"):
        make(root / "pictures", annotations, root / "out")
    for text, says in {
        'item { name: "red" label: 0 }\nitem { name: "dark blue" label: 1 }': 'gives class "red" label 0',
        'item { name: "red" label: 1 }\nitem { name: "dark blue" label: 3 }': "leaves out labels",
    }.items():
        (root / "map.prototxt").write_text(text)
        with pytest.raises(DataError, match=says):
            make(root / "pictures", annotations, root / "out", label_map_file=str(root / "map.prototxt"))
    assert not (root / "out").exists()
    (root / "map.prototxt").write_text('item { name: "red" label: 1 }')
    figures = make(root / "pictures", annotations, root / "out", label_map_file=str(root / "map.prototxt"))
    assert figures.classes == ["red"]
    assert "a class that the label map does not have" in skipped(root / "out")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("pictures", "none", "out"), "file.read"),
        (("none", "xml", "out"), "file.read"),
        (("xml", "xml", "out"), "data.no-pictures"),
        (("pictures", "pictures", "out"), "data.form"),
        (("pictures", "xml", "pictures/out"), "usage.output"),
        (("pictures", "xml", "xml"), "usage.output"),
        (("pictures", "strange", "out"), "data.form"),
        (("pictures", "notes.doc", "out"), "data.form"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(own, arguments, code):
    root, boxes = own
    write_xml(root, boxes)
    (root / "strange").mkdir()
    (root / "strange" / "other.xml").write_text("<annotation/>")
    (root / "notes.doc").write_text("?")
    with pytest.raises(PyScratchDetError) as caught:
        make(*(root / name for name in arguments))
    assert caught.value.code == code
    assert not (root / "out").exists()


@pytest.mark.parametrize("flag", ["--gray", "--resize_width=3", "--years=2007", "--model=x.prototxt", "--split=most"])
def test_flags_of_other_forms_are_refused(own, flag, capsys):
    root, boxes = own
    assert main(["lmdb", "folder", f"{root}/pictures", str(write_xml(root, boxes)), f"{root}/out", flag]) == 2
    assert "usage." in capsys.readouterr().err
    with pytest.raises(UsageError, match="between 0 and 1"):
        make(root / "pictures", root / "xml", root / "out", split=1.0)


def test_a_folder_that_holds_other_databases_is_left_alone(own):
    root, boxes = own
    (root / "out" / "train_lmdb").mkdir(parents=True)
    with pytest.raises(FileError, match="was made from other pictures"):
        make(root / "pictures", write_xml(root, boxes), root / "out")


def test_the_page_shows_priors_and_escapes_names(own):
    root, boxes = own
    boxes["p00.jpg"].append(("<script>", (0, 0, 64, 32)))
    boxes["p03.jpg"].append(("Red", (-5, 0, 20, 20)))
    data = FolderMaker(root / "pictures", write_xml(root, boxes), root / "out").prepare()
    said = findings(data, [(0.01, 0.01)])
    assert "classes that differ only in case: Red and red" in said
    assert "100% of the training boxes have no prior of their shape: fit the priors to the data (--fit-priors)" in said
    assert any(line.startswith("fewer than 30 training boxes") and "<script>" in line for line in said)
    write_page(root / "page.html", data, [(0.25, 0.25), (0.5, 1.2)])
    page = (root / "page.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "http" not in page
    assert "a prior of side 25.0 %" in page
    assert "of the training boxes have a prior that overlaps them by " + f"{OVERLAP:g}" in page
    assert "Red reaches beyond the picture" in page
    assert "huge: both sides above 95% of the picture" in page


def test_overlap_with_priors_of_the_same_centre():
    shares = np.array([[0.2, 0.4], [0.5, 0.5]])
    # 0.2 x 0.2 of 0.2 x 0.4, and 0.2 x 0.2 of 0.5 x 0.5; 0.4 x 0.5 of 0.5 x 0.5.
    np.testing.assert_allclose(best_overlaps(shares, [(0.2, 0.2)]), [0.5, 0.16], rtol=1e-12)  # float64
    np.testing.assert_allclose(best_overlaps(shares, [(0.2, 0.2), (0.4, 0.5)]), [0.5, 0.8], rtol=1e-12)
    assert best_overlaps(shares, []).shape == (0,)


def test_records_hold_what_the_page_shows(own):
    root, boxes = own
    make(root / "pictures", write_xml(root, boxes), root / "out")
    for key, value in records(root / "out").items():
        name = key.partition("_")[2]
        found = objects_of([annotated_of(value, name)], [name])
        width, height = cv2.imread(str(root / "pictures" / name)).shape[1::-1]
        wanted = {(sorted(NAMES).index(label) + 1, box) for label, box in boxes[name]}
        pixels = (found.boxes * [width, height, width, height]).tolist()
        assert {(int(label), tuple(box)) for label, box in zip(found.labels, pixels, strict=True)} == wanted
