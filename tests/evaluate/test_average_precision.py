"""Caffe's average precision: values worked out by hand, and the odd cases that the original decides."""

import numpy as np
import pytest

from pyscratchdet.errors import DataError, UsageError
from pyscratchdet.evaluate.average_precision import average_precision, summarize_detections

TP = np.array([1, 0, 1, 1, 0])


# precision 1, 1/2, 2/3, 3/4, 3/5; recall 1/4, 1/4, 2/4, 3/4, 3/4
@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("11point", (3 * 1 + 5 * 0.75) / 11),  # recall 0, .1, .2 at 1; .3 to .7 at 3/4
        ("MaxIntegral", 0.25 * 1 + 0.5 * 0.75),
        ("Integral", 0.25 * (1 + 2 / 3 + 3 / 4)),
    ],
)
def test_versions_by_hand(version, expected):
    precision, recall, ap = average_precision(TP, 1 - TP, 4, version)
    assert precision.dtype == recall.dtype == np.float32
    np.testing.assert_array_equal(recall, np.array([1, 1, 2, 3, 3], np.float32) / 4)
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3, 3 / 4, 3 / 5], rtol=1e-7)  # one float32 rounding
    assert ap == pytest.approx(expected, abs=3e-7)  # a few float32 roundings


def test_recall_of_a_tenth_is_compared_in_double():
    # float32(0.3) is above 0.3, so the point 0.3 is reached; float32(0.7) is below 0.7, so 0.7 is not.
    assert average_precision(np.ones(3), np.zeros(3), 10)[2] == pytest.approx(4 / 11, abs=3e-7)  # likewise
    assert average_precision(np.ones(7), np.zeros(7), 10)[2] == pytest.approx(7 / 11, abs=3e-7)  # likewise


def test_errors():
    with pytest.raises(DataError, match=r"evaluate\.complement"):
        average_precision(TP, TP, 4)
    with pytest.raises(DataError, match=r"evaluate\.num-pos"):
        average_precision(TP, 1 - TP, 2)
    with pytest.raises(UsageError, match="did you mean"):
        average_precision(TP, 1 - TP, 4, "maxintegral")
    assert average_precision(TP, 1 - TP, 0, "maxintegral")[2] == 0  # nothing to compute, so not noticed


def test_summary_counts_over_iterations_and_keeps_the_odd_cases():
    first = np.array([[-1, 1, 1, -1, -1], [-1, 2, 0, -1, -1], [-1, 3, 2, -1, -1], [0, 1, 0.5, 0, 1], [0, 2, 0.9, 0, 1]])
    second = np.array(
        [[-1, 1, 1, -1, -1], [-1, 2, 0, -1, -1], [-1, 3, 0, -1, -1], [0, 1, 0.8, 1, 0], [1, 1, 0.9, 0, 0]]
    )
    summary = summarize_detections([first[None, None], second[None, None]], "Integral")
    assert summary.num_pos == {1: 2, 2: 0, 3: 2}
    assert summary.aps == {1: 0.5, 2: 0.0}  # the row of a difficult match (0, 0) does not count
    assert summary.missing == [3]
    assert summary.mean_ap == np.float32(0.5) / np.float32(3)
    assert summary.lines("eval", 1) == [
        "class1: 0.5",
        "class2: 0",
        "Missing true_pos for label: 3",
        "    Test net output #1: eval = 0.166667",
    ]


def test_ties_keep_the_order_of_arrival():
    rows = np.array([[-1, 1, 1, -1, -1], [0, 1, 0.5, 0, 1], [1, 1, 0.5, 1, 0]], np.float32)
    assert summarize_detections(rows, "Integral").aps == {1: 0.5}
    assert summarize_detections(rows[[0, 2, 1]], "Integral").aps == {1: 1.0}


def test_no_detection_prints_nothing_even_with_an_unknown_version():
    summary = summarize_detections(np.array([[-1, 1, 5, -1, -1]]), "bogus")
    assert summary.mean_ap is None
    assert summary.lines() == []


def test_bad_rows():
    with pytest.raises(DataError, match=r"evaluate\.rows"):
        summarize_detections(np.zeros((1, 1, 4, 7)))
    with pytest.raises(DataError, match=r"evaluate\.nan"):
        summarize_detections(np.array([[0, 1, np.nan, 0, 1]]))
