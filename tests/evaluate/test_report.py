"""Kinds of error by hand, charts, the page of results, and drawing."""

import json
import re

import cv2
import numpy as np
import pytest

from pyscratchdet.data.shapes import make_shapes
from pyscratchdet.detect.draw import class_colour, draw_detections
from pyscratchdet.detect.tables import DetectionTable, ImageDetections
from pyscratchdet.errors import printable
from pyscratchdet.evaluate.breakdown import KINDS, break_down
from pyscratchdet.evaluate.report import EvaluationReport, write_report
from pyscratchdet.evaluate.sets import read_voc_truth
from pyscratchdet.evaluate.tables import GroundTruthTable
from pyscratchdet.evaluate.voc import evaluate_voc


def test_kinds_of_error_by_hand():
    truth = GroundTruthTable(
        ["x", "y"],
        ("a", "b"),
        np.full((2, 2), 100),
        [],
        np.array([0, 0, 0, 1]),
        np.array([1, 2, 1, 2]),
        np.array([[1, 1, 10, 10], [41, 41, 50, 50], [71, 71, 80, 80], [1, 1, 10, 10.0]]),
        np.array([False, False, True, False]),
    )
    cases = [
        (0, 1, 0.9, (1, 1, 10, 10), "correct"),
        (0, 1, 0.8, (1, 1, 10, 9), "duplicate"),
        (0, 1, 0.7, (1, 1, 10, 30), "localisation"),  # 1/3
        (0, 1, 0.6, (41, 41, 50, 50), "class"),
        (0, 1, 0.5, (41, 41, 50, 70), "both"),
        (0, 1, 0.4, (71, 71, 80, 80), "ignored"),
        (0, 2, 0.3, (20, 80, 30, 90), "background"),
        (1, 1, 0.2, (1, 1, 10, 10), "class"),
    ]
    table = DetectionTable(
        np.array([case[0] for case in cases]),
        np.array([case[1] for case in cases]),
        np.array([case[2] for case in cases]),
        np.array([case[3] for case in cases], float),
    )
    outcome = break_down(truth, table)
    assert [KINDS[kind] for kind in outcome.kind] == [case[4] for case in cases]
    np.testing.assert_array_equal(outcome.missed, [False, True, False, True])
    assert outcome.counts()["missed"] == 2
    # rows: background, a, b; columns likewise
    np.testing.assert_array_equal(outcome.confusion, [[0, 3, 1], [0, 1, 0], [2, 2, 0]])


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    truth = read_voc_truth(make_shapes(folder / "kit", 1, 4, 80, seed=9))
    table = DetectionTable(truth.image, truth.label, np.linspace(0.2, 0.9, len(truth.image)), truth.boxes_px + 1.0)
    page = EvaluationReport('<shapes> & "more" </script>', truth, table, evaluate_voc(truth, table), max_pictures=3)
    return page, write_report(page, folder / "out")


def test_page_is_self_contained(report):
    path = report[1]
    text = path.read_text()
    assert not re.search(r"""(src|href)=["']?(https?:|//|[\w./-]+\.(png|jpg|js|css))""", text)
    assert "<shapes>" not in text
    assert text.count("</script>") == 2
    assert "@@" not in text
    assert sorted(p.name for p in path.parent.glob("*.png")) == [
        "ap_by_size.png", "ap_per_class.png", "confusion.png", "errors.png", "precision_recall.png",
    ]  # fmt: skip
    for chart in path.parent.glob("*.png"):
        assert cv2.imread(str(chart)).std() > 5


def test_page_data(report):
    page, path = report
    text = path.read_text()
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL).group(1))
    assert data["classes"] == list(page.truth.classes)
    assert len(data["pictures"]) == 3
    assert data["total"] == 4
    for one in data["pictures"]:
        index = page.truth.names.index(one["name"])
        assert len(one["truth"]) == (page.truth.image == index).sum()
        shown = (page.detections.image == index) & (page.detections.score >= page.lowest_score)
        assert len(one["found"]) == shown.sum()
        assert one["src"].startswith("data:image/jpeg;base64,")
    assert f"{page.result.mean_ap:.4f}" in text


@pytest.mark.parametrize(("height", "width"), [(30, 50), (240, 333), (1500, 1100), (7, 900)])
def test_drawing_keeps_the_picture_and_marks_the_box(height, width):
    image = np.full((height, width, 3), 120, np.uint8)
    box = np.array([[width * 0.25, height * 0.3, width * 0.75, height * 0.9]], np.float32)
    found = ImageDetections(np.array([1]), np.array([0.875], np.float32), box)
    drawn = draw_detections(image, found, {1: "a rather long class name"})
    factor = drawn.shape[0] // height
    assert drawn.shape == (height * factor, width * factor, 3)
    assert min(drawn.shape[:2]) >= 320 or factor == 4
    assert (image == 120).all()
    x, y = round(width * 0.25 * factor), round(height * 0.6 * factor)
    near = drawn[y, max(x - 2, 0) : x + 3].reshape(-1, 3)
    assert (np.abs(near.astype(int) - class_colour(1)).max(axis=1) < 40).any()


def test_plates_stay_inside_and_apart():
    found = ImageDetections(
        np.array([1, 2, 3]),
        np.array([0.9, 0.8, 0.7], np.float32),
        np.array([[0, 0, 200, 150], [5, 3, 210, 160], [300, 200, 399, 299]], np.float32),
    )
    drawn = draw_detections(np.zeros((300, 400, 3), np.uint8), found, {1: "one", 2: "two", 3: "three"})
    # every plate shows a good deal of its colour, so none is hidden or cut off
    for label in (1, 2, 3):
        assert (np.abs(drawn.astype(int) - class_colour(label)).max(axis=2) < 8).sum() > 500


def test_colours_differ():
    colours = np.array([class_colour(label) for label in range(1, 21)])
    distance = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 999 * np.eye(20)
    assert distance.min() > 20


def test_pictures_with_most_errors_are_chosen(tmp_path):
    """Of five pictures with 0, 3, 1, 2 and 0 errors, in their own order; wrong ones and missed ones count alike."""
    cv2.imwrite(str(tmp_path / "picture.png"), np.full((40, 60, 3), 90, np.uint8))
    box, far = [5.0, 6.0, 30.0, 25.0], [40.0, 30.0, 50.0, 38.0]
    truth = GroundTruthTable(
        list("abcde"), ("x",), np.tile([60, 40], (5, 1)), [tmp_path / "picture.png"] * 5,
        np.arange(5), np.ones(5, int), np.array([box] * 5), np.zeros(5, bool),
    )  # fmt: skip
    images = [0, 1, 1, 2, 3, 4]  # b: two wrong and one missed; c: missed; d: wrong and missed; a and e: found
    places = [box, far, far, box, far, box]
    scores = [0.9, 0.8, 0.7, 0.2, 0.8, 0.9]  # c's is below the threshold
    table = DetectionTable(np.array(images), np.ones(6, int), np.array(scores), np.array(places))
    for number, chosen in ((1, ["b"]), (2, ["b", "d"]), (3, ["b", "c", "d"])):
        page = EvaluationReport("x", truth, table, evaluate_voc(truth, table), max_pictures=number)
        text = write_report(page, tmp_path / "out").read_text()
        data = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL).group(1)
        assert [picture["name"] for picture in json.loads(data)["pictures"]] == chosen


HOSTILE = (
    "</script><script>document.title='ran'</script>",
    "<!--<script>",
    "$\\x$ [/b] {{7*7}}",
    "\x1b[2J\udc80",
    "a\\$b$",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A page of a set whose classes and pictures are called what no file should be called."""
    folder = tmp_path_factory.mktemp("hostile")
    cv2.imwrite(str(folder / "picture.png"), np.full((40, 60, 3), 90, np.uint8))
    number = len(HOSTILE)
    truth = GroundTruthTable(
        list(HOSTILE),
        HOSTILE,
        np.tile([60, 40], (number, 1)),
        [folder / "picture.png"] * number,
        np.arange(number),
        np.arange(1, number + 1),
        np.tile([5.0, 6.0, 30.0, 25.0], (number, 1)),
        np.zeros(number, bool),
    )
    table = DetectionTable(truth.image, truth.label[::-1].copy(), np.full(number, 0.8), truth.boxes_px)
    figures = {HOSTILE[0]: 0.5}
    return (
        truth,
        table,
        write_report(EvaluationReport(HOSTILE[0], truth, table, evaluate_voc(truth, table), figures), folder / "out"),
    )


def test_hostile_names_are_text_on_the_page(hostile):
    text = hostile[2].read_text(errors="strict")
    assert text.count("<script") == text.count("</script>") == 2
    assert "<!--" not in text
    assert "49" not in re.sub(r"base64,[^\"]*", "", text)  # no name was a template
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL).group(1))
    assert data["classes"] == [printable(name) for name in HOSTILE]
    assert sorted(picture["name"] for picture in data["pictures"]) == sorted(data["classes"])
    assert "\x1b" not in text
