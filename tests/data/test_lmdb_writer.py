"""Databases against the recorded one, byte for byte, and convert_annoset's other flags."""

import json
import os
import re
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from pyscratchdet.cli import main
from pyscratchdet.data.annoset import AnnosetOptions, size_line, write_annoset
from pyscratchdet.data.database import Database
from pyscratchdet.data.label_map import (
    coco_label_map,
    coco_voc_map,
    label_to_name,
    read_label_map,
    voc_label_map,
    write_label_map,
)
from pyscratchdet.data.lists import read_list
from pyscratchdet.data.records import annotated_of, datum_of
from pyscratchdet.errors import DataError, FileError, UsageError
from pyscratchdet.proto import caffe_pb2

RECORDED = Path(__file__).parent / "recorded"


def records(path) -> list[tuple[bytes, bytes]]:
    return list(Database(path))


def test_recorded_database(voc, tmp_path):
    arguments = ["--anno_type=detection", "--label_type", "xml", f"-label_map_file={voc}/labelmap.prototxt"]
    arguments += ["--check_label", "--encode_type=jpg", "--encoded", f"{voc}/", f"{voc}/list.txt", f"{tmp_path}/db"]
    assert main(["lmdb", *arguments]) == 0
    assert records(tmp_path / "db") == records(RECORDED / "lmdb")
    assert os.listdir(tmp_path) == ["db"]


def test_an_existing_database_is_left_alone(voc, tmp_path, capsys):
    target = tmp_path / "db"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    arguments = ["lmdb", f"{voc}/", f"{voc}/list.txt", str(target), "--anno_type=detection", "--label_map_file=voc"]
    assert main(arguments) == 2
    assert "file.exists" in capsys.readouterr().err
    assert main([*arguments, "--redo"]) == 2
    assert "notes.txt" in capsys.readouterr().err
    assert (target / "notes.txt").read_text() == "mine"


def test_redo_replaces(voc, tmp_path):
    entries = read_list(voc / "list.txt")
    options = AnnosetOptions(anno_type="detection", label_map_file=f"{voc}/labelmap.prototxt", redo=True)
    for count in (7, 5):
        write_annoset(f"{voc}/", entries[:count], tmp_path / "db", options)
        assert len(Database(tmp_path / "db")) == count


def test_a_writer_that_fails_leaves_nothing(voc, tmp_path):
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    (tmp_path / "bad.xml").write_text(f"<annotation><object><name>griffin</name>{box}</object></annotation>")
    entries = [
        *read_list(voc / "list.txt")[:3],
        ("VOC2007/JPEGImages/000001.jpg", os.path.relpath(tmp_path / "bad.xml", voc)),
    ]
    options = AnnosetOptions(anno_type="detection", label_map_file="voc")
    with pytest.raises(DataError, match="griffin") as caught:
        write_annoset(f"{voc}/", entries, tmp_path / "db", options)
    assert caught.value.code == "data.unknown-class"
    assert os.listdir(tmp_path) == ["bad.xml"]


def test_skip_bad_counts(voc, tmp_path):
    picture = "VOC2007/JPEGImages/000001.jpg"
    (tmp_path / "cut.jpg").write_bytes((voc / picture).read_bytes()[:-900])
    (tmp_path / "odd.xml").write_text(
        """<annotation><size><width>100</width><height>200</height></size>
        <object><name>griffin</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>
        <object><name>cat</name><bndbox><xmin>50</xmin><ymin>20</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object>
        <object><name>cat</name><difficult>1</difficult>
        <bndbox><xmin>-5</xmin><ymin>20</ymin><xmax>75</xmax><ymax>50</ymax></bndbox></object></annotation>"""
    )
    odd = os.path.relpath(tmp_path / "odd.xml", voc)
    entries = [(picture, odd), (os.path.relpath(tmp_path / "cut.jpg", voc), odd), ("missing.jpg", odd)]
    options = AnnosetOptions(anno_type="detection", label_map_file="voc", skip_bad=True)
    summary = write_annoset(f"{voc}/", entries, tmp_path / "db", options)
    assert len(summary.written) == 1
    assert len(summary.skipped) == 2
    reasons = {what for _, what in summary.remarks}
    assert "unknown class, object skipped" in reasons
    assert "box without area, object skipped" in reasons
    assert "box extends beyond the picture" in reasons
    assert any("truncated" in line for line in summary.lines())
    record = annotated_of(records(tmp_path / "db")[0][1], "record")
    (group,) = record.annotation_group
    (entry,) = group.annotation
    assert (group.group_label, entry.instance_id, entry.bbox.difficult) == (8, 1, True)
    # Float32's own rounding of the quotients, 6e-8.
    np.testing.assert_allclose([entry.bbox.xmin, entry.bbox.ymax], [-0.05, 0.25], rtol=1e-6)


def corners(group) -> list[tuple[int, float, float]]:
    return [(entry.instance_id, entry.bbox.xmin, entry.bbox.ymax) for entry in group.annotation]


def test_messages_name_the_line_of_the_list(voc, tmp_path, capsys):
    picture = "VOC2007/JPEGImages/000001.jpg"
    (tmp_path / "list.txt").write_text(f"\ufeff{picture} 3\n\nmissing.jpg 2\n")
    arguments = ["lmdb", f"{voc}/", f"{tmp_path}/list.txt", f"{tmp_path}/db"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}/list.txt:3: missing.jpg" in out
    assert "cannot read the picture: No such file" in out
    (tmp_path / "list.txt").write_text(f"{picture} 3\n{picture} three\n{picture} 4\n")
    assert main([*arguments, "--redo"]) == 2
    told = capsys.readouterr().err
    assert f"listed at {tmp_path}/list.txt:2" in told
    assert "a list of annotation files needs --anno_type=detection" in told
    (tmp_path / "list.txt").write_text(f"{picture} 3\nmy picture.jpg 2\n")
    assert main([*arguments, "--redo"]) == 2
    assert f"{tmp_path}/list.txt:2: 3 words" in capsys.readouterr().err
    (tmp_path / "list.txt").write_text(f"{picture} 3\nmissing.jpg 2\n")
    assert main(["get-image-size", f"{voc}/", f"{tmp_path}/list.txt", f"{tmp_path}/sizes.txt"]) == 2
    assert f"{tmp_path}/list.txt:2: cannot read" in capsys.readouterr().err


def test_a_folder_without_its_slash(voc, tmp_path, capsys):
    """Joined to a list's paths as it is, by convert_annoset too."""
    root = voc / "VOC2007"
    (tmp_path / "list.txt").write_text("JPEGImages/000001.jpg 3\nJPEGImages/000002.jpg 4\n")
    assert main(["lmdb", str(root), f"{tmp_path}/list.txt", f"{tmp_path}/db"]) == 2
    told = capsys.readouterr().err
    assert f"no record could be written; the first picture tried was {root}JPEGImages/000001.jpg" in told
    assert f"end the folder with a slash: {root}/; skipped 2 times" in told
    (tmp_path / "list.txt").write_text("JPEGImages/gone.jpg 3\n")
    assert main(["lmdb", f"{root}/", f"{tmp_path}/list.txt", f"{tmp_path}/db"]) == 2
    assert "slash" not in capsys.readouterr().err


def test_duplicates_in_a_label_map_have_their_line(voc, tmp_path, capsys):
    names = tmp_path / "names.prototxt"
    names.write_text('item { name: "a" label: 0 }\nitem { name: "cat" label: 1 }\nitem {\n  name: "cat" label: 2 }\n')
    (tmp_path / "list.txt").write_text("VOC2007/JPEGImages/000001.jpg VOC2007/Annotations/000001.xml\n")
    options = ["--anno_type=detection", f"--label_map_file={names}", "--check_label"]
    assert main(["lmdb", *options, f"{voc}/", f"{tmp_path}/list.txt", f"{tmp_path}/db"]) == 2
    assert f'{names}:4:3: duplicate name "cat"' in capsys.readouterr().err
    label_map = read_label_map(names)
    label_map.item[2].label = 1
    names.write_text(str(label_map))
    with pytest.raises(DataError, match="duplicate label 1") as caught:
        label_to_name(label_map, strict=True, path=names)
    assert caught.value.position.line == 11


def test_names_with_blanks_are_not_written_to_a_list_that_cannot_hold_them(tmp_path, capsys):
    (tmp_path / "my one.png").write_bytes(cv2.imencode(".png", np.zeros((5, 7, 3), np.uint8))[1].tobytes())
    rows = {
        "images": [{"id": 1, "file_name": "my one.png", "width": 7, "height": 5}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 3], "iscrowd": 0, "area": 6}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "some.json").write_text(json.dumps(rows))
    (tmp_path / "db_list.txt").write_text("of an earlier database")
    assert main(["lmdb", "coco", str(tmp_path), f"{tmp_path}/some.json", f"{tmp_path}/db"]) == 0
    assert "db_list.txt is not written" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "db_list.txt").exists()
    assert (tmp_path / "db_name_size.txt").read_text() == "my one 5 7\n"


def test_what_create_annoset_prints_is_taken(voc, tmp_path):
    arguments = ["--anno_type=detection", "--label_type=xml", "--label_map_file=voc", "--check_label=True"]
    arguments += ["--encode_type=jpg", "--encoded=True", "--gray=False", f"{voc}/", f"{voc}/list.txt"]
    assert main(["lmdb", *arguments, f"{tmp_path}/db"]) == 0
    assert records(tmp_path / "db") == records(RECORDED / "lmdb")


def test_formats_agree(voc, tmp_path):
    """The same objects as xml, json and txt give the same groups."""
    picture = "VOC2007/JPEGImages/000002.jpg"
    height, width = cv2.imread(str(voc / picture)).shape[:2]
    boxes = [(3, 5, 40, 61), (10, 20, 30, 90), (7, 8, 50, 44)]
    labels, names = [12, 8, 12], ["dog", "cat", "dog"]
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in zip(names, boxes, strict=True)
    )
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    (tmp_path / "a.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    rows = [f"{label} {' '.join(map(str, box))}" for label, box in zip(labels, boxes, strict=True)]
    (tmp_path / "a.txt").write_text("\n".join(rows))
    annotation = [
        {"category_id": name, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for name, (x1, y1, x2, y2) in zip(names, boxes, strict=True)
    ]
    image = {"height": height, "width": width}
    (tmp_path / "a.json").write_text(json.dumps({"image": image, "annotation": annotation}))
    found = []
    for kind in ("xml", "json", "txt"):
        options = AnnosetOptions(anno_type="detection", label_type=kind, label_map_file="voc")
        partner = os.path.relpath(tmp_path / f"a.{kind}", voc)
        write_annoset(f"{voc}/", [(picture, partner)], tmp_path / kind, options)
        record = annotated_of(records(tmp_path / kind)[0][1], kind)
        found.append([(group.group_label, corners(group)) for group in record.annotation_group])
    assert found[0] == found[1] == found[2]
    assert [(label, len(entries)) for label, entries in found[0]] == [(12, 2), (8, 1)]
    assert found[0][0][1][1] == (1, np.float32(7) / np.float32(width), np.float32(44) / np.float32(height))


def test_classification_and_raw_pixels(voc, tmp_path):
    options = AnnosetOptions(resize_width=31, resize_height=17, check_size=True)
    write_annoset(f"{voc}/", [("VOC2007/JPEGImages/000003.jpg", "4")], tmp_path / "db", options)
    ((key, value),) = records(tmp_path / "db")
    assert key == b"00000000_VOC2007/JPEGImages/000003.jpg"
    datum = datum_of(value, "record")
    assert (datum.channels, datum.height, datum.width, datum.label, datum.encoded) == (3, 17, 31, 4, False)
    image = cv2.resize(cv2.imread(str(voc / "VOC2007/JPEGImages/000003.jpg")), (31, 17))
    assert datum.data == image.transpose(2, 0, 1).tobytes()


@pytest.mark.parametrize(
    ("flags", "size"),
    [({"min_dim": 200}, 200), ({"min_dim": 200, "max_dim": 150}, None), ({"gray": True}, None)],
)
def test_dimensions(voc, tmp_path, flags, size):
    picture = "VOC2007/JPEGImages/000001.jpg"
    write_annoset(f"{voc}/", [(picture, "1")], tmp_path / "db", AnnosetOptions(**flags))
    datum = datum_of(records(tmp_path / "db")[0][1], "record")
    if flags.get("gray"):
        assert (datum.channels, datum.height, datum.width) == (1, 138, 131)
    elif size:
        assert (datum.width, datum.height) == (200, round(138 * 200 / 131))
    else:
        assert (datum.width, datum.height) == (round(131 * 150 / 138), 150)


def test_shuffle_keeps_the_seeds_order(voc, tmp_path):
    entries = read_list(voc / "list.txt")
    options = AnnosetOptions(anno_type="detection", label_map_file="voc", shuffle=True, seed=3, encode_type="jpg")
    orders = []
    for name in ("a", "b"):
        write_annoset(f"{voc}/", entries, tmp_path / name, options)
        orders.append([key.decode().partition("_")[2] for key, _ in records(tmp_path / name)])
    assert orders[0] == orders[1] != [picture for picture, _ in entries]
    assert sorted(orders[0]) == sorted(picture for picture, _ in entries)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"anno_type": "boxes"}, "usage.anno-type"),
        ({"anno_type": "detection", "label_type": "yaml"}, "usage.label-type"),
        ({"anno_type": "detection"}, "usage.label-map"),
    ],
)
def test_flags_are_checked(voc, tmp_path, options, code):
    with pytest.raises(UsageError) as caught:
        write_annoset(f"{voc}/", read_list(voc / "list.txt"), tmp_path / "db", AnnosetOptions(**options))
    assert caught.value.code == code


def test_whole_voc_set(voc, tmp_path):
    map_file = f"{voc}/labelmap.prototxt"
    assert main(["lmdb", "voc", str(voc), f"{tmp_path}/t", "--split", "trainval", "--label-map", map_file]) == 0
    assert main(["lmdb", "voc", str(voc), f"{tmp_path}/v", "--split", "2007_test", "--label-map", map_file]) == 0
    assert (len(Database(tmp_path / "t")), len(Database(tmp_path / "v"))) == (17, 7)
    lines = (tmp_path / "v_list.txt").read_text().splitlines()
    assert lines[0] == "VOC2007/JPEGImages/000018.jpg VOC2007/Annotations/000018.xml"
    shuffled = [line.split()[0] for line in (tmp_path / "t_list.txt").read_text().splitlines()]
    assert shuffled != sorted(shuffled)
    assert [key.decode().partition("_")[2] for key, _ in records(tmp_path / "t")] == shuffled
    assert main(["get-image-size", f"{voc}/", f"{tmp_path}/v_list.txt", f"{tmp_path}/sizes.txt"]) == 0
    assert (tmp_path / "sizes.txt").read_text() == (tmp_path / "v_name_size.txt").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--years 2007,banana", "no KIT/VOCbanana/ImageSets; there are: VOC2007, VOC2012"),
        ("--years VOC2011", "no KIT/VOC2011/ImageSets; there are"),
        ("--years 2007,2012 --split test", "no list test.txt in KIT/VOC2012/ImageSets/Main; lists there: trainval"),
        ("--years 2007 --split 2012_trainval", "no list 2012_trainval.txt in KIT/VOC2007/ImageSets/Main; lists"),
        ("--split minival", "no list minival.txt in KIT/*/ImageSets/Main; lists there: test, trainval"),
    ],
)
def test_a_year_or_a_list_that_is_missing(voc, tmp_path, capsys, options, message):
    kit = tmp_path / "VOCdevkit"
    kit.mkdir()
    (kit / "VOC2007").symlink_to(voc / "VOC2007")
    (kit / "VOC2012/ImageSets/Main").mkdir(parents=True)
    (kit / "VOC2012/ImageSets/Main/trainval.txt").write_text("000001\n")
    words = ["lmdb", "voc", str(kit), f"{tmp_path}/db", "--label-map", f"{voc}/labelmap.prototxt"]
    assert main([*words, *options.split()]) == 2
    assert message.replace("KIT", str(kit)) in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["VOCdevkit"]


def test_coco_and_back(voc, tmp_path):
    json_file = f"{tmp_path}/instances_train2014.json"
    assert main(["lmdb", "to-coco", f"{RECORDED}/lmdb", json_file, "--label-map", f"{voc}/labelmap.prototxt"]) == 0
    names = [image["file_name"] for image in json.loads(Path(json_file).read_text())["images"]]
    assert names == [key.decode()[len("00000000_") :] for key, _ in records(RECORDED / "lmdb")]
    assert names[0] == "VOC2007/JPEGImages/000001.jpg"
    assert main(["lmdb", "coco", str(voc), json_file, f"{tmp_path}/db", "--noshuffle"]) == 0
    for (_, value), (_, after) in zip(records(RECORDED / "lmdb"), records(tmp_path / "db"), strict=True):
        before, again = annotated_of(value, "record"), annotated_of(after, "record")
        assert again.datum == before.datum
        assert [g.group_label for g in again.annotation_group] == [g.group_label for g in before.annotation_group]
        for old, new in zip(before.annotation_group, again.annotation_group, strict=True):
            for a, b in zip(old.annotation, new.annotation, strict=True):
                # Through pixels and back in float32 and text.
                np.testing.assert_allclose([b.bbox.xmin, b.bbox.ymax], [a.bbox.xmin, a.bbox.ymax], atol=2e-6)
                assert a.bbox.difficult == b.bbox.difficult


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read"),
        ("{", "Expecting"),
        ("{}", "'images' is missing"),
        ('{"images": [{"id": 1}]}', "images[0] has no file_name"),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}],'
            '"annotations": [{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}]}',
            "not listed, such as 7",
        ),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}]}', "no picture a.jpg"),
        ('{"images": [{"id": [1], "file_name": "a.jpg"}]}', "images[0] has a wrong id: [1]"),
        ('{"images": [{"id": 1, "file_name": "../a.jpg"}]}', "within the pictures' folder"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]}', "the id 1 twice"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_coco_faults(text, message, tmp_path, capsys):
    if text is not None:
        (tmp_path / "some.json").write_text(text)
    assert main(["lmdb", "coco", str(tmp_path), f"{tmp_path}/some.json", f"{tmp_path}/db"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Error" not in error
    assert not (tmp_path / "db").exists()


def test_a_list_without_objects(voc, tmp_path, capsys):
    """As that of VOC2012's test set, whose annotations are not published; else it is a mistake."""
    (tmp_path / "list.txt").write_text("VOC2007/JPEGImages/000001.jpg none.xml")
    arguments = [f"{voc}/", f"{tmp_path}/list.txt", f"{tmp_path}/db", "--anno_type=detection", "--label_map_file=voc"]
    assert main(["lmdb", *arguments]) == 2
    assert "no picture has an object" in capsys.readouterr().err
    assert not (tmp_path / "db").exists()
    assert main(["lmdb", *arguments, "--without_objects"]) == 0
    assert len(Database(tmp_path / "db")) == 1


def test_show_augmented_samples(tmp_path, capsys):
    net = """layer { name: "data" type: "AnnotatedData" top: "data" top: "label" include { phase: TRAIN }
        transform_param { resize_param { height: 37 width: 46 } expand_param { prob: 1 max_expand_ratio: 3 } }
        data_param { source: "elsewhere" batch_size: 2 } }"""
    (tmp_path / "train.prototxt").write_text(net)
    arguments = ["lmdb", "show", f"{RECORDED}/lmdb", "-o", str(tmp_path), "--count", "5"]
    assert main([*arguments, "--model", f"{tmp_path}/train.prototxt"]) == 0
    page = cv2.imread(f"{tmp_path}/samples.png")
    assert page.shape == (2 * 320, 3 * 320, 3)
    assert (page[320:, 640:] == 255).all()
    assert all((page[40:280, start + 40 : start + 280] != 255).any() for start in (0, 320, 640))
    (tmp_path / "train.prototxt").write_text(net.replace("TRAIN", "TEST"))
    assert main([*arguments, "--model", f"{tmp_path}/train.prototxt"]) == 2
    assert "no AnnotatedData layer for training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("VOC/ VOC/list.txt OUT/db --years 2007", "`lmdb ROOTFOLDER/ LISTFILE DB` does not take this, found --years"),
        ("VOC/ VOC/list.txt OUT/db --split trainval", "found --split"),
        (
            "voc VOC OUT/db --without x.json",
            "`lmdb voc` does not take this, found --without; flags of its own: --split",
        ),
        ("voc VOC OUT/db --label_type=json", "expected --label_type=xml and found --label_type=json"),
        ("coco VOC VOC/x.json OUT/db --years 2007", "found --years"),
        ("to-coco OUT/db OUT/x.json --gray", "`lmdb to-coco` does not take this, found --gray"),
        ("show OUT/db --seed 3", "`lmdb show` does not take this, found --seed"),
        ("VOC/ VOC/list.txt OUT/db --resize_width=30", "--resize_width and --resize_height go together"),
        ("VOC/ VOC/list.txt OUT/db --min_dim=-30", "--min_dim must not be negative"),
    ],
)
def test_what_would_be_ignored_is_refused(voc, tmp_path, capsys, line, found):
    assert main(["lmdb", *line.replace("VOC", str(voc)).replace("OUT", str(tmp_path)).split()]) == 2
    assert found in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("flag", ["--count", "--workers"])
def test_numbers_below_zero_are_refused(capsys, flag):
    assert main(["lmdb", "show", f"{RECORDED}/lmdb", flag, "-1"]) == 2
    assert f"{flag}: too small, expected at least 0 and found -1 [usage.option]" in capsys.readouterr().err


def test_show_records_whose_keys_are_not_names(tmp_path, capsys):
    """A key may hold anything: it is shown as text, and what is drawn stays in its folder."""
    datum = caffe_pb2.AnnotatedDatum(type=caffe_pb2.AnnotatedDatum.BBOX)
    datum.datum.width, datum.datum.height, datum.datum.channels, datum.datum.data = 5, 4, 3, bytes(60)
    with lmdb.open(str(tmp_path / "db")) as database, database.begin(write=True) as transaction:
        transaction.put(b"../../\x1b[2J\x00[/b]\xff", datum.SerializeToString())
    out = tmp_path / "a" / "b" / "out"
    assert main(["lmdb", "show", str(tmp_path / "db"), "-o", str(out)]) == 0
    assert r"../../\x1b[2J\x00[/b]" in capsys.readouterr().out
    assert [path.parent for path in tmp_path.rglob("*.png")] == [out]


def test_sizes_of_names_with_blanks(tmp_path):
    from pyscratchdet.boxes.result_files import read_name_sizes

    line = size_line("VOC2007/JPEGImages/a (copy) 2.jpg", 138, 131)
    (tmp_path / "sizes.txt").write_text("\ufeff" + line + "000002 7 9\n")
    assert read_name_sizes(tmp_path / "sizes.txt") == [("a (copy) 2", 138, 131), ("000002", 7, 9)]
    (tmp_path / "sizes.txt").write_text(line + "a 138 wide\n")
    with pytest.raises(DataError, match=r"sizes\.txt:2: not a picture's size, expected name height width"):
        read_name_sizes(tmp_path / "sizes.txt")


def test_known_label_maps(tmp_path):
    assert label_to_name(voc_label_map())[15] == "person"
    coco = coco_label_map()
    assert len(coco.item) == 81
    assert (coco.item[80].name, coco.item[80].display_name) == ("90", "toothbrush")
    assert coco_voc_map()[63] == 20
    assert len(coco_voc_map()) == 21
    assert main(["create-label-map", "coco", f"{tmp_path}/coco.prototxt"]) == 0
    write_label_map(tmp_path / "again.prototxt", coco)
    assert (tmp_path / "coco.prototxt").read_text() == (tmp_path / "again.prototxt").read_text()


def test_names_in_place_of_a_label_map(tmp_path, capsys):
    """What the message advises makes a map that detection takes: its classes begin at 1."""
    names, made = tmp_path / "names.txt", tmp_path / "map.prototxt"
    names.write_text("cat\ndog\n")
    with pytest.raises(DataError, match="not a label map") as caught:
        read_label_map(names)
    advice = re.search("`pyscratchdet (.*)`", caught.value.hint)[1]
    assert main(advice.replace("NAMES", str(names)).replace("MAP", str(made)).split()) == 0
    assert label_to_name(read_label_map(made)) == {0: "none_of_the_above", 1: "cat", 2: "dog"}
    assert capsys.readouterr().err == ""


def test_label_map_from_names(tmp_path):
    (tmp_path / "names.txt").write_text("red:5:Red cell\nwhite:9:White cell\n")
    arguments = [f"{tmp_path}/names.txt", f"{tmp_path}/map.prototxt", "--include_background=true", "--delimiter=:"]
    assert main(["create-label-map", *arguments]) == 0
    text = (tmp_path / "map.prototxt").read_text()
    assert 'name: "white"\n  label: 9\n  display_name: "White cell"' in text
    assert text.startswith('item {\n  name: "none_of_the_above"\n  label: 0')


def test_label_zero_is_named(voc, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert main(["create-label-map", f"{tmp_path}/names.txt", f"{tmp_path}/map.prototxt"]) == 0
    assert '"cat" has label 0, which detection nets take for the background' in capsys.readouterr().err
    assert main(["create-label-map", f"{tmp_path}/names.txt", f"{tmp_path}/two", "--include_background"]) == 0
    assert not capsys.readouterr().err
    (tmp_path / "a.txt").write_text("0 1 1 5 5\n1 1 1 5 5\n")
    cv2.imwrite(f"{tmp_path}/a.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "list.txt").write_text("a.png a.txt\n")
    flags = ["--anno_type=detection", "--label_type=txt"]
    assert main(["lmdb", *flags, f"{tmp_path}/", f"{tmp_path}/list.txt", f"{tmp_path}/db"]) == 0
    assert "noted once: object of label 0, which detection nets take for the background" in capsys.readouterr().out


def test_mean_file(voc, tmp_path):
    from pyscratchdet.data.transform import read_mean

    entries = read_list(voc / "list.txt")[:3]
    options = AnnosetOptions(resize_width=13, resize_height=9, anno_type="detection", label_map_file="voc")
    write_annoset(f"{voc}/", entries, tmp_path / "db", options)
    assert main(["compute-image-mean", f"{tmp_path}/db", f"{tmp_path}/mean"]) == 0
    images = [cv2.resize(cv2.imread(str(voc / picture)), (13, 9)) for picture, _ in entries]
    # The mean is kept in float32, whose rounding is 6e-8.
    np.testing.assert_allclose(read_mean(tmp_path / "mean"), np.mean(images, 0).transpose(2, 0, 1), rtol=1e-6)


def test_missing_list(tmp_path):
    with pytest.raises(FileError):
        read_list(tmp_path / "none.txt")
    (tmp_path / "odd.txt").write_text("a.jpg a.xml b.jpg")
    with pytest.raises(DataError) as caught:
        read_list(tmp_path / "odd.txt")
    assert caught.value.code == "data.list"
