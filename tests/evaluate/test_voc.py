"""VOC's AP: hand-worked cases, and a slow second implementation on random sets."""

from pathlib import Path

import numpy as np
import pytest

from pyscratchdet.detect.tables import DetectionTable
from pyscratchdet.errors import DataError, UsageError
from pyscratchdet.evaluate.matching import best_overlaps, overlap_px
from pyscratchdet.evaluate.tables import GroundTruthTable
from pyscratchdet.evaluate.voc import ap_by_size, evaluate_voc, voc_ap


def make_truth(rows, num_images=3, classes=("a", "b")):
    """rows: (image, label, xmin, ymin, xmax, ymax, difficult)."""
    table = np.array(rows, float).reshape(-1, 7)
    return GroundTruthTable(
        [f"i{k}" for k in range(num_images)],
        classes,
        np.full((num_images, 2), 300),
        [Path(f"i{k}.jpg") for k in range(num_images)],
        table[:, 0].astype(int),
        table[:, 1].astype(int),
        table[:, 2:6],
        table[:, 6] > 0,
    )


def make_detections(rows):
    """rows: (image, label, score, xmin, ymin, xmax, ymax)."""
    table = np.array(rows, float).reshape(-1, 7)
    return DetectionTable(table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2], table[:, 3:])


def test_overlap_counts_borders():
    one, other = np.array([1.0, 1, 10, 10]), np.array([6.0, 1, 15, 10])
    assert overlap_px(one, other) == 50 / 150
    assert overlap_px(one, other, border=0) == 36 / 126
    assert overlap_px(one, np.array([11.0, 1, 20, 10])) == 0


def test_metrics_by_hand():
    recall, precision = np.array([0.2, 0.2, 0.4]), np.array([1, 0.5, 2 / 3])
    assert voc_ap(recall, precision, "area") == pytest.approx(0.2 + 0.2 * 2 / 3, abs=1e-12)  # float64 sums
    assert voc_ap(recall, precision, "11point") == pytest.approx((3 * 1 + 2 * 2 / 3) / 11, abs=1e-12)  # float64 sums
    with pytest.raises(UsageError, match=r"evaluate\.metric"):
        voc_ap(recall, precision, "12point")


def test_difficult_duplicates_and_strict_threshold():
    truth = make_truth(
        [(0, 1, 1, 1, 10, 10, 0), (0, 1, 50, 50, 59, 59, 1), (1, 1, 1, 1, 10, 10, 0), (2, 2, 1, 1, 10, 10, 0)]
    )
    detections = make_detections(
        [
            (0, 1, 0.9, 1, 1, 10, 10),  # right
            (0, 1, 0.8, 1, 1, 10, 9),  # again: wrong
            (0, 1, 0.7, 50, 50, 59, 59),  # difficult: neither
            (0, 1, 0.6, 51, 50, 59, 59),  # difficult, again: neither
            (1, 1, 0.5, 1, 1, 10, 20),  # overlap exactly 0.5: wrong
            (1, 1, 0.4, 1, 1, 10, 19),  # right
            (2, 1, 0.3, 1, 1, 10, 10),  # another class's object
        ]
    )
    result = evaluate_voc(truth, detections, "area")
    first, second = result.classes
    assert (first.num_pos, second.num_pos) == (2, 1)
    # tp after each: 1 1 1 1 1 2 2; fp: 0 1 1 1 2 2 3
    np.testing.assert_allclose(first.precision, [1, 1 / 2, 1 / 2, 1 / 2, 1 / 3, 2 / 4, 2 / 5])
    assert first.ap == 0.5 * 1 + 0.5 * 0.5
    assert second.ap == 0
    assert result.mean_ap == first.ap / 2
    np.testing.assert_array_equal(result.judgement.found, [True, False, True, False])


def test_a_class_without_truth_stays_out_of_the_mean():
    truth = make_truth([(0, 1, 1, 1, 10, 10, 0)])
    result = evaluate_voc(truth, make_detections([(0, 1, 0.9, 1, 1, 10, 10), (0, 2, 0.9, 1, 1, 10, 10)]))
    assert np.isnan(result.classes[1].ap)
    assert result.mean_ap == 1
    assert np.isnan(evaluate_voc(make_truth([]), DetectionTable()).mean_ap)


def slow_ap(truth, detections, label, threshold):
    """The devkit's loop, one detection at a time."""
    rows = [k for k in np.argsort(-detections.score, kind="stable") if detections.label[k] == label]
    taken, tp, fp = set(), [], []
    for k in rows:
        best, best_row = -1.0, None
        for m in range(len(truth.image)):
            if truth.image[m] == detections.image[k] and truth.label[m] == label:
                overlap = overlap_px(detections.boxes_px[k], truth.boxes_px[m])
                if overlap > best:
                    best, best_row = overlap, m
        hit = best > threshold
        tp.append(hit and not truth.difficult[best_row] and best_row not in taken)
        fp.append(not hit or (not truth.difficult[best_row] and best_row in taken))
        if tp[-1]:
            taken.add(best_row)
    number = max(int(((truth.label == label) & ~truth.difficult).sum()), 1)
    tp, fp = np.cumsum(tp), np.cumsum(fp)
    return tp / number, tp / np.maximum(tp + fp, np.finfo(float).eps)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_slow_loop(seed):
    random = np.random.default_rng(seed)
    corner = random.integers(0, 60, (45, 2))
    boxes = np.hstack([corner, corner + random.integers(5, 40, (45, 2))])
    image, label = random.integers(0, 6, 45), random.integers(1, 4, 45)
    truth = make_truth(np.column_stack([image, label, boxes, random.random(45) < 0.2]), 6, ("a", "b", "c"))
    near = random.integers(0, 45, 160)
    guess = boxes[near] + random.integers(-6, 7, (160, 4))
    guess[:, 2:] = np.maximum(guess[:, 2:], guess[:, :2])
    named = np.where(random.random(160) < 0.8, label[near], random.integers(1, 4, 160))
    score = np.round(random.random(160), 1)  # many ties
    detections = make_detections(np.column_stack([image[near], named, score, guess]))
    result = evaluate_voc(truth, detections, "area", 0.4)
    for number, one in enumerate(result.classes, start=1):
        recall, precision = slow_ap(truth, detections, number, 0.4)
        np.testing.assert_array_equal(one.recall, recall)
        np.testing.assert_array_equal(one.precision, precision)


def test_best_overlap_with_other_classes():
    truth = make_truth([(0, 1, 1, 1, 10, 10, 0), (0, 2, 1, 1, 10, 20, 0), (1, 1, 1, 1, 10, 10, 0)])
    detections = make_detections([(0, 1, 0.5, 1, 1, 10, 10), (1, 1, 0.5, 1, 1, 10, 10), (2, 2, 0.5, 1, 1, 10, 10)])
    best, overlap = best_overlaps(detections, truth, same_class=False)
    np.testing.assert_array_equal(best, [1, -1, -1])
    np.testing.assert_array_equal(overlap, [0.5, 0, 0])


def test_sizes_ignore_what_is_of_another_size():
    truth = make_truth([(0, 1, 1, 1, 20, 20, 0), (0, 1, 101, 101, 200, 200, 0)])
    detections = make_detections([(0, 1, 0.9, 101, 101, 200, 200), (0, 1, 0.8, 1, 1, 20, 20), (1, 1, 0.95, 1, 1, 9, 9)])
    by_size = {name: results[0] for name, results in ap_by_size(truth, detections, "area").items()}
    assert (by_size["small"].num_pos, by_size["medium"].num_pos, by_size["large"].num_pos) == (1, 0, 1)
    assert by_size["small"].ap == pytest.approx(0.5, abs=1e-12)  # the 9-pixel mistake comes first
    assert by_size["large"].ap == 1


def test_bad_tables():
    truth = make_truth([(0, 1, 1, 1, 20, 20, 0)])
    with pytest.raises(DataError, match=r"expected 1 to 2 and found 1 to 3.*evaluate\.class-count"):
        evaluate_voc(truth, make_detections([(0, 1, 0.5, 1, 1, 2, 2), (0, 3, 0.5, 1, 1, 2, 2)]))
    with pytest.raises(DataError, match=r"evaluate\.nan"):
        evaluate_voc(truth, make_detections([(0, 1, np.nan, 1, 1, 2, 2)]))
