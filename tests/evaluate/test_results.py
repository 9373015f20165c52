"""Result files and sets: written and read back, and refused where damaged."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from pyscratchdet.data.coco import read_coco
from pyscratchdet.data.shapes import make_shapes
from pyscratchdet.detect.tables import DetectionTable
from pyscratchdet.errors import DataError, FileError, UsageError
from pyscratchdet.evaluate.coco import FIGURES, evaluate_coco
from pyscratchdet.evaluate.results import read_coco_results, read_voc_results, write_coco_results, write_voc_results
from pyscratchdet.evaluate.sets import coco_from_truth, coco_truth, find_voc, read_voc_truth
from pyscratchdet.evaluate.voc import evaluate_voc


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return read_voc_truth(make_shapes(tmp_path_factory.mktemp("set") / "kit", 1, 7, 80, seed=2))


@pytest.fixture(scope="module")
def detections(truth):
    """The truth, moved a little, with scores that float32 holds exactly, and some noise."""
    random = np.random.default_rng(5)
    number = len(truth.image)
    boxes = np.vstack([truth.boxes_px + random.normal(0, 2, (number, 4)), random.uniform(1, 30, (9, 4))])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    image = np.concatenate([truth.image, random.integers(0, len(truth.names), 9)])
    label = np.concatenate([truth.label, random.integers(1, len(truth.classes) + 1, 9)])
    boxes = boxes.astype(np.float32).astype(float)
    score = np.round(random.random(number + 9), 3).astype(np.float32).astype(float)
    order = np.lexsort((-score, image))
    return DetectionTable(image, label, score, boxes)[order]


def _same(first, second):
    for one in (first, second):
        assert one.image.dtype == np.int64
    first, second = (one[np.lexsort((one.boxes_px[:, 0], -one.score, one.label, one.image))] for one in (first, second))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.label, second.label)
    # %.9g holds float32 exactly; reading gives the nearest double of nine digits
    np.testing.assert_array_equal(first.score.astype(np.float32), second.score.astype(np.float32))
    np.testing.assert_allclose(first.boxes_px, second.boxes_px, rtol=1e-8)


def test_voc_files_round_trip(truth, detections, tmp_path):
    paths = write_voc_results(tmp_path, detections, truth)
    assert [path.name for path in paths] == [f"comp4_det_test_{name}.txt" for name in truth.classes]
    again = read_voc_results(tmp_path, truth)
    _same(detections, again)
    assert evaluate_voc(truth, again).mean_ap == pytest.approx(
        evaluate_voc(truth, detections).mean_ap, abs=1e-12
    )  # float64 sums


@pytest.mark.parametrize(
    "name", ["z/../../../x", "..", "/etc/x", "a\\..\\b", ".hidden", "\udc80\x1b\n", "two words", "c++"]
)
def test_result_files_stay_in_their_folder(truth, detections, tmp_path, name):
    """Whatever a class is called; its file is read back all the same."""
    other = replace(truth, classes=(name, *truth.classes[1:]))
    folder = tmp_path / "a" / "b" / "results"
    paths = write_voc_results(folder, detections, other)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    assert {path.parent for path in paths} == {folder}
    _same(detections, read_voc_results(folder, other))


def test_classes_that_would_share_a_file_are_refused(truth, detections, tmp_path):
    other = replace(truth, classes=("a/b", "a_b", *truth.classes[2:]))
    for call in (lambda: write_voc_results(tmp_path, detections, other), lambda: read_voc_results(tmp_path, other)):
        with pytest.raises(DataError, match=r'"a/b" and "a_b" would have the same result file.*evaluate\.class-names'):
            call()
    assert not list(tmp_path.iterdir())


def test_coco_file_round_trips(truth, detections, tmp_path):
    write_coco_results(tmp_path / "found.json", detections, truth)
    row = json.loads((tmp_path / "found.json").read_text())[0]
    assert set(row) == {"image_id", "category_id", "bbox", "score"}
    _same(detections, read_coco_results(tmp_path / "found.json", truth))


def test_voc_lines_that_are_wrong(truth, detections, tmp_path):
    write_voc_results(tmp_path, detections, truth)
    path = tmp_path / f"comp4_det_test_{truth.classes[1]}.txt"
    name = truth.names[0]
    path.write_text(f"{name} 0.5 1 2 3 4\n{name} 0.5 1 2 3\n")
    with pytest.raises(DataError, match=r"txt:2: not a line.*evaluate\.results-line"):
        read_voc_results(tmp_path, truth)
    path.write_text(f"{name} high 1 2 3 4\n")
    with pytest.raises(DataError, match=r"txt:1: not a line"):
        read_voc_results(tmp_path, truth)
    path.write_text("\nelsewhere 0.5 1 2 3 4\n")
    with pytest.raises(DataError, match=r"txt:2: image \"elsewhere\" is not in the image set"):
        read_voc_results(tmp_path, truth)
    path.unlink()
    with pytest.raises(FileError, match=rf"no result file of {truth.classes[1]}"):
        read_voc_results(tmp_path, truth)
    with pytest.raises(FileError, match="no folder"):
        read_voc_results(tmp_path / "none", truth)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "not COCO results"),
        ('{"images": []}', "not COCO results"),
        ("[" * 200_000, "not COCO results: nested too deeply"),
        ("7", "not COCO results"),
        ('[{"image_id": [1], "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "not COCO results"),
        (f'[{{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1{"0" * 400}}}]', "not COCO results"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3], "score": 1}]', "not COCO results"),
        ('[{"image_id": 99, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "image_id 99 is not in the set"),
        ('[{"image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4], "score": 1}]', "category_id 9 is not in the set"),
    ],
)
def test_coco_files_that_are_wrong(truth, tmp_path, text, what):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match=what):
        read_coco_results(tmp_path / "r.json", truth)


def test_coco_instances_round_trip(truth, tmp_path):
    (tmp_path / "instances.json").write_text(json.dumps(coco_from_truth(truth)))
    coco = read_coco(tmp_path / "instances.json")
    again = coco_truth(coco, truth.paths[0].parent)
    assert (again.names, again.classes, again.paths) == (truth.names, truth.classes, truth.paths)
    np.testing.assert_array_equal(again.boxes_px, truth.boxes_px)
    np.testing.assert_array_equal(again.difficult, truth.difficult)
    np.testing.assert_array_equal(again.label, truth.label)
    with pytest.raises(DataError, match=r"label map and categories differ in blob.*evaluate\.label-map"):
        coco_truth(coco, classes=["blob", *truth.classes])


def test_twelve_figures(truth, detections):
    perfect = DetectionTable(truth.image, truth.label, np.ones(len(truth.image)), truth.boxes_px)
    figures = evaluate_coco(truth, perfect).figures
    assert tuple(figures) == FIGURES
    assert all(
        figures[name] == pytest.approx(1, abs=1e-12) for name in ("AP", "AP50", "AP75", "AR100")
    )  # means of ones
    result = evaluate_coco(truth, detections)
    assert 0 < result.figures["AP"] < result.figures["AP50"] < 1
    assert result.figures["AP"] == pytest.approx(
        np.mean([v for v in result.class_ap.values() if v >= 0]),
        abs=1e-12,  # the same numbers, added up in another order
    )
    nothing = evaluate_coco(truth, DetectionTable()).figures
    assert nothing["AP"] == 0
    assert nothing["AR100"] == 0


# A mean of faster-coco-eval may add up in another order, which moves float64's last bit.
@pytest.mark.parametrize(("engine", "tolerance"), [("hotcoco", 0), ("faster-coco-eval", 1e-12)])
@pytest.mark.parametrize("rows", [slice(None), slice(0, 0)], ids=["detections", "none"])
def test_judges_are_equal(truth, detections, rows, engine, tolerance):
    pytest.importorskip(engine.replace("-", "_"))
    annotations = coco_from_truth(truth)
    for index, annotation in enumerate(annotations["annotations"]):
        annotation["iscrowd"] = int(index % 3 == 0)
        annotation |= {"score": None, "segmentation": "of no use here", "id": annotation["id"] + 10**9}
    first, second = (evaluate_coco(truth, detections[rows], annotations, name) for name in ("pycocotools", engine))
    for name in ("figures", "class_ap", "class_ap50"):
        assert getattr(second, name) == pytest.approx(getattr(first, name), abs=tolerance, rel=0)
    assert second.engine == engine


def test_the_judge_is_the_fastest_that_is_installed(truth, detections, monkeypatch):
    pytest.importorskip("hotcoco")
    assert evaluate_coco(truth, detections).engine == "hotcoco"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert evaluate_coco(truth, detections).engine == "pycocotools"


def test_engines_that_are_not_there(truth, detections, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UsageError, match="pip install faster-coco-eval"):
        evaluate_coco(truth, detections, engine="faster-coco-eval")
    with pytest.raises(UsageError, match='unknown engine "fast"'):
        evaluate_coco(truth, detections, engine="fast")


def test_wrong_class_is_refused_by_coco(truth, detections):
    wrong = DetectionTable(detections.image, detections.label + 1, detections.score, detections.boxes_px)
    with pytest.raises(DataError, match=r"evaluate\.class-count"):
        evaluate_coco(truth, wrong)


def test_sets_that_are_wrong(truth, tmp_path):
    base = truth.paths[0].parent.parent
    assert (
        find_voc(base.parent.parent) == find_voc(base.parent) == find_voc(base) == find_voc(base.parent, "2007") == base
    )
    with pytest.raises(FileError, match="no VOC data set"):
        find_voc(tmp_path)
    with pytest.raises(FileError, match="there are: test, train, trainval"):
        read_voc_truth(base, "val")
    with pytest.raises(DataError, match=r"is not in the label map.*evaluate\.label-map"):
        read_voc_truth(base, "test", ["cat", "dog"])
    make = tmp_path / "VOC2012"
    for folder in ("Annotations", "ImageSets/Main"):
        (make / folder).mkdir(parents=True)
    (make / "ImageSets/Main/test.txt").write_text("\n")
    with pytest.raises(DataError, match=r"evaluate\.empty-set"):
        read_voc_truth(make)
    (make / "ImageSets/Main/test.txt").write_text("a\nb\na\n")
    with pytest.raises(DataError, match=r'"a" is listed twice'):
        read_voc_truth(make)
    (make / "ImageSets/Main/test.txt").write_text("a\n")
    with pytest.raises(FileError, match="cannot read"):
        read_voc_truth(make)
    for text in ("<annotation><object></annotation>", "<annotation><object><name>x</name></object></annotation>"):
        (make / "Annotations/a.xml").write_text(text)
        with pytest.raises(DataError, match=r"a\.xml:1(:\d+)?: .*data\.annotation"):
            read_voc_truth(make)
