"""Annotation files: VOC's XML read with positions and written, and what is refused in each kind."""

import json

import numpy as np
import pytest

from pyscratchdet.data.annotations import AnnotationReader
from pyscratchdet.data.label_map import read_label_map
from pyscratchdet.data.lists import list_position, read_lines, read_list
from pyscratchdet.data.voc_xml import VocObject, read_voc_xml, voc_xml
from pyscratchdet.errors import DataError
from pyscratchdet.proto.forks import UnknownFieldWarning
from pyscratchdet.proto.text import unknown_fields_allowed

OBJECTS = [
    VocObject("dog & <cat>", (3, 5.5, 40, 61), difficult=True, is_difficult_to_caffe=True),
    VocObject("bird", (1, 2, 30, 17), truncated=True, occluded=True),
]


def test_voc_xml_round_trip(tmp_path):
    (tmp_path / "a.xml").write_text(voc_xml("a \x1b.jpg", 71, 83, OBJECTS, database="shapes"))
    annotation = read_voc_xml(tmp_path / "a.xml")
    assert annotation.size == (71, 83)
    assert annotation.objects == OBJECTS


BOX = "<xmin>1</xmin>\n<ymin>2</ymin>\n<xmax>30</xmax>\n<ymax>40</ymax>"
XML = "<annotation>\n<object>\n<name>cat</name>\n<bndbox>\nBOX\n</bndbox>\n</object>\n</annotation>"


@pytest.mark.parametrize(
    ("corner", "value", "line", "message"),
    [
        ("xmin", "5,5", 5, "xmin of object \"cat\" is not a number, found '5,5'"),
        ("ymin", "", 6, 'ymin of object "cat" is not a number'),
        ("xmax", "nan", 7, 'xmax of object "cat" is not a number'),
        ("ymax", "1_0", 8, 'ymax of object "cat" is not a number'),
        ("ymax", None, 4, 'object "cat" has no ymax'),
    ],
)
def test_coordinates_that_are_missing_or_malformed(tmp_path, corner, value, line, message):
    old = next(part for part in BOX.split("\n") if corner in part)
    text = BOX.replace(old, "" if value is None else f"<{corner}>{value}</{corner}>")
    (tmp_path / "a.xml").write_text(XML.replace("BOX", text))
    with pytest.raises(DataError) as caught:
        AnnotationReader({"cat": 3}).read(str(tmp_path / "a.xml"), "xml", 83, 71)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/a.xml:{line}: ")


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (XML.replace("BOX", BOX).replace("</object>", "</thing>"), ":10:3", "mismatched tag"),
        (XML.replace("<name>cat</name>", "").replace("BOX", BOX), ":2", "needs one name, found 0"),
        ("<annotation><object><name>cat</name></object></annotation>", ":1", 'object "cat" needs one bndbox, found 0'),
        ("<svg/>", ":1", "expected <annotation> and found svg"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "", "not a VOC annotation"),
        ("<annotation>&nothing;</annotation>", ":1", "undefined entity"),
        ("", ":1", "no element found"),
    ],
)
def test_damaged_xml(tmp_path, text, place, message):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError) as caught:
        read_voc_xml(tmp_path / "a.xml")
    assert str(caught.value).startswith(f"{tmp_path}/a.xml{place}")
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", ["xml", "json", "txt"])
def test_reversed_corners_are_refused_or_left_out(tmp_path, kind):
    """Written by the original, and refused when training begins."""
    good, bad = [(3, 5, 40, 61), (9, 7, 9, 20)], (30, 7, 20, 20)
    boxes = [*good, bad]
    texts = {
        "xml": voc_xml("a.jpg", 71, 83, [VocObject("cat", box) for box in boxes]),
        "json": json.dumps(
            {"annotation": [{"category_id": "cat", "bbox": [x, y, z - x, w - y]} for x, y, z, w in boxes]}
        ),
        "txt": "\n".join(f"8 {' '.join(map(str, box))}" for box in boxes),
    }
    path = tmp_path / f"a.{kind}"
    path.write_text(texts[kind])
    with pytest.raises(DataError, match="are reversed") as caught:
        AnnotationReader({"cat": 8}).read(str(path), kind, 83, 71)
    assert str(path) in str(caught.value)
    assert "skip_bad" in str(caught.value)
    reader = AnnotationReader({"cat": 8}, skip_bad=True)
    (group,) = reader.read(str(path), kind, 83, 71)
    (entry,) = group.annotation  # that without width is left out too
    # Float32's own rounding of 3 / 71.
    np.testing.assert_allclose(entry.bbox.xmin, 3 / 71, rtol=1e-7)
    assert "box without area, object skipped" in {what for _, what in reader.remarks}


def test_text_rows_name_their_line(tmp_path):
    (tmp_path / "a.txt").write_text("8 1 2 3 4\n\n8 1 2 three 4\n")
    with pytest.raises(DataError, match=r"a\.txt:3: rows must be"):
        AnnotationReader({}).read(str(tmp_path / "a.txt"), "txt", 83, 71)


def test_label_maps_have_positions(tmp_path):
    path = tmp_path / "map.prototxt"
    path.write_text('item {\n  name: "cat"\n  label: 1\n  colour: "red"\n}\n')
    with pytest.raises(DataError, match=r"map\.prototxt:4:3: not a label map: .*colour") as caught:
        read_label_map(path)
    assert caught.value.code == "data.label-map"
    with unknown_fields_allowed(), pytest.warns(UnknownFieldWarning, match="colour"):
        assert read_label_map(path).item[0].name == "cat"


def test_lists(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa.jpg 1\r\n\r\nb.jpg\r\n2 \r\n")
    assert read_list(path) == [("a.jpg", "1"), ("b.jpg", "2")]
    assert str(list_position(path, "b.jpg")) == f"{path}:4"
    path.write_text("a.jpg 1\nmy picture.jpg 2\n")
    with pytest.raises(DataError, match=r"list\.txt:2: 3 words.*blanks") as caught:
        read_list(path)
    assert caught.value.position.text == "my picture.jpg 2"
    path.write_text("a.jpg 1\nb.jpg\n")
    with pytest.raises(DataError, match=r"list\.txt:2: a picture has no annotation"):
        read_list(path)
    path.write_bytes("a.jpg 1\n".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        read_lines(path)
