import detection_cases as cases
import numpy as np
import pytest
import torch

from pyscratchdet.boxes.sorting import std_sort_descending
from pyscratchdet.errors import DataError, FileError, LayerError

BOX, NEAR, FAR = [0.1, 0.1, 0.5, 0.5], [0.12, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]
CODE = "num_classes: 3 background_label_id: 0"


@pytest.mark.parametrize("name", cases.recorded("DetectionEvaluate"))
def test_recorded_to_the_bit(name):
    layer, bottoms, record = cases.load(name)
    _, (top,) = cases.run(layer, bottoms)
    assert np.array_equal(top.numpy(), record["out:t0"])


def judge(detections, truth, text=CODE, root=".", layer=None):
    layer = layer or cases.make(f'type: "DetectionEvaluate" detection_evaluate_param {{ {text} }}', root)
    bottoms = [torch.tensor(detections).reshape(1, 1, -1, 7), torch.tensor(truth).reshape(1, 1, -1, 8)]
    shapes, (top,) = (
        cases.run(layer, bottoms) if not hasattr(layer, "background") else (None, layer.forward(bottoms, []))
    )
    if shapes:
        assert shapes == [(1, 1, 2 + len(detections), 5)]
    return top[0, 0].numpy().tolist()


def det(image, label, score, box):
    return [float(image), float(label), score, *box]


def gt(image, label, box, difficult=0.0):
    return [float(image), float(label), 0.0, *box, difficult]


def test_each_object_counts_once_for_the_best_score():
    rows = judge(
        [det(0, 1, 0.5, BOX), det(0, 1, 0.75, NEAR), det(0, 1, 0.25, FAR), det(0, 2, 0.5, BOX), det(1, 1, 0.5, BOX)],
        [gt(0, 1, BOX), gt(0, 1, [0, 0.9, 0.1, 1]), gt(2, 2, BOX)],
    )
    assert rows[:2] == [[-1, 1, 2, -1, -1], [-1, 2, 1, -1, -1]]
    assert rows[2:] == [
        [0, 1, 0.75, 1, 0],
        [0, 1, 0.5, 0, 1],
        [0, 1, 0.25, 0, 1],
        [0, 2, 0.5, 0, 1],
        [1, 1, 0.5, 0, 1],
    ]


def test_lists_without_objects_keep_their_order():
    rows = judge([det(0, 2, 0.25, BOX), det(0, 2, 0.5, BOX)], [gt(0, 1, BOX)])
    assert [row[2] for row in rows[2:]] == [0.25, 0.5]


def test_difficult_objects_are_neither_right_nor_wrong():
    detections, truth = [det(0, 1, 0.5, BOX), det(0, 1, 0.25, FAR)], [gt(0, 1, BOX, 1.0), gt(0, 1, FAR)]
    assert judge(detections, truth, f"{CODE} evaluate_difficult_gt: false") == [
        [-1, 1, 1, -1, -1],
        [-1, 2, 0, -1, -1],
        [0, 1, 0.5, 0, 0],
        [0, 1, 0.25, 1, 0],
    ]
    assert judge(detections, truth)[0] == [-1, 1, 2, -1, -1]
    assert judge(detections, truth)[2] == [0, 1, 0.5, 1, 0]


def test_no_detections_and_the_end_of_the_list():
    nothing = [0.0, -1, -1, -1, -1, -1, -1]
    rows = judge([nothing], [gt(0, 1, BOX), gt(-1, 1, BOX), gt(0, 1, FAR)])
    assert rows == [[-1, 1, 1, -1, -1], [-1, 2, 0, -1, -1]]


def test_a_row_without_an_image_leaves_zeros():
    assert judge([det(-1, 1, 0.5, BOX)], [gt(0, 1, BOX)])[2:] == [[0, 0, 0, 0, 0]]


def test_more_than_sixteen_equal_scores_stand_as_std_sort_leaves_them():
    scores = [0.5 if index % 3 else 0.25 for index in range(40)]
    boxes = [[0.02 * index, 0, 0.02 * index + 0.02, 1] for index in range(40)]
    # Only one detection finds the object: where it stands shows the order.
    for target in (5, 13, 30):
        rows = judge([det(0, 1, s, b) for s, b in zip(scores, boxes, strict=True)], [gt(0, 1, boxes[target])])
        assert [row[3] for row in rows[2:]].index(1) == std_sort_descending(scores).index(target)
    assert std_sort_descending(scores) != sorted(range(40), key=lambda index: -scores[index])


def test_two_classes_see_all_labels_as_one():
    rows = judge([det(0, 1, 0.5, BOX)], [gt(0, 7, BOX)], "num_classes: 2 background_label_id: 4294967295")
    assert rows == [[-1, 0, 0, -1, -1], [-1, 1, 1, -1, -1], [0, 1, 0.5, 1, 0]]


def test_pixels_count_their_borders_and_pictures_come_in_order(tmp_path):
    (tmp_path / "sizes.txt").write_text("a 10 20\nb 40 30\nc 2 2\n")
    text = f'{CODE} overlap_threshold: 0.56 name_size_file: "sizes.txt"'
    layer = cases.make(f'type: "DetectionEvaluate" detection_evaluate_param {{ {text} }}', tmp_path)
    first, second = [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.9]
    # 10 x 5 and 10 x 9 pixels: (11 * 6) / (11 * 10) = 0.6; normalised it is 0.5556.
    # On b: (16 * 21) / (16 * 37) = 0.5676; on c: (2 * 2) / (2 * 2.8) = 0.714.
    assert judge([det(0, 1, 0.5, second)], [gt(0, 1, first)])[2][3] == 1
    assert judge([det(0, 1, 0.5, second)], [gt(0, 1, first)], f"{CODE} overlap_threshold: 0.56")[2][3] == 0
    for expected in (1, 1, 1, 1):
        assert judge([det(0, 1, 0.5, second)], [gt(0, 1, first)], layer=layer)[2][3] == expected
    # On c, apart boxes of a pixel or so still share the original's pixel at (0, 0): 1 / (1 + 3.6 - 1) = 0.28.
    low = f'{CODE} overlap_threshold: 0.25 name_size_file: "sizes.txt"'
    apart = [det(image, 1, 0.5, [0.5, 0.5, 0.5, 0.5]) for image in range(3)]
    rows = judge(apart, [gt(image, 1, [0.6, 0.0, 1.1, 0.5]) for image in range(3)], low, tmp_path)
    assert [row[3] for row in rows[2:]] == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "num-classes"),
        ("num_classes: 3 background_label_id: 3", "background"),
        (f"{CODE} overlap_threshold: 0", "overlap-threshold"),
        (f"{CODE} resize_param {{ height: 30 }}", "resize"),
    ],
)
def test_rules(text, code):
    layer = cases.make(f'type: "DetectionEvaluate" detection_evaluate_param {{ {text} }}')
    with pytest.raises(LayerError) as caught:
        layer.setup([(1, 1, 4, 7), (1, 1, 3, 8)])
    assert caught.value.code == f"layer.{code}"


@pytest.mark.parametrize(
    "shapes", [[(1, 1, 4, 6), (1, 1, 3, 8)], [(1, 1, 4, 7), (1, 1, 3, 7)], [(2, 1, 4, 7), (1, 1, 3, 8)]]
)
def test_shapes(shapes):
    layer = cases.make(f'type: "DetectionEvaluate" detection_evaluate_param {{ {CODE} }}')
    layer.setup(shapes)
    with pytest.raises(LayerError, match="the wrong shape"):
        layer.reshape(shapes)


def test_the_background_is_refused_on_both_sides():
    for detections, truth in (([det(0, 0, 0.5, BOX)], [gt(0, 1, BOX)]), ([det(0, 1, 0.5, BOX)], [gt(0, 0, BOX)])):
        with pytest.raises(LayerError) as caught:
            judge(detections, truth)
        assert caught.value.code == "layer.label"


def test_sizes_that_are_missing_or_broken(tmp_path):
    text = f'{CODE} name_size_file: "sizes.txt"'
    with pytest.raises(FileError):
        judge([det(0, 1, 0.5, BOX)], [gt(0, 1, BOX)], text, tmp_path)
    for content in ("", "a 10\n", "a ten 20\n", "a 0 20\n"):
        (tmp_path / "sizes.txt").write_text(content)
        with pytest.raises(DataError):
            judge([det(0, 1, 0.5, BOX)], [gt(0, 1, BOX)], text, tmp_path)
