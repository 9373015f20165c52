"""ImageSegData and DenseImageData: pictures with a label for each pixel."""

import cv2
import numpy as np
import pytest
from google.protobuf import text_format

from pyscratchdet.errors import DataError, FileError, LayerError
from pyscratchdet.layers.base import Context, layer_class
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom

SIZES = [(12, 16), (12, 16), (12, 16)]


@pytest.fixture
def folder(tmp_path):
    """Three pictures whose labels follow from their blue: label = blue // 16."""
    random = np.random.default_rng(3)
    lines = []
    for index, size in enumerate(SIZES):
        image = random.integers(0, 256, (*size, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"p{index}.png"), image)
        cv2.imwrite(str(tmp_path / f"l{index}.png"), image[..., 0] // 16)
        lines.append(f"p{index}.png l{index}.png\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    (tmp_path / "numbers.txt").write_text("p0.png 7\np1.png 3\np2.png 5\n")
    return tmp_path


def made(text, phase=caffe_pb2.TRAIN, seed=1):
    param = text_format.Parse(f'name: "d" {text}', caffe_pb2.LayerParameter())
    layer = layer_class(param.type)(param, Context(phase=phase, random=CaffeRandom(seed)))
    layer.setup([])
    return layer, layer.reshape([])


def seg(folder, settings="", transform="", tops=2, source="list.txt"):
    names = " ".join(f'top: "t{index}"' for index in range(tops))
    return (
        f'type: "ImageSegData" {names} transform_param {{ {transform} }} image_data_param {{ '
        f'source: "{folder}/{source}" root_folder: "{folder}/" {settings} }}'
    )


def dense(folder, settings="", transform=""):
    settings = settings if "batch_size" in settings else f"batch_size: 1 {settings}"
    return (
        f'type: "DenseImageData" top: "a" top: "b" transform_param {{ {transform} }} dense_image_data_param {{ '
        f'source: "{folder}/list.txt" root_folder: "{folder}/" {settings} }}'
    )


def tops_of(layer):
    return [top.numpy() for top in layer.forward([], ())]


def test_seg_data_gives_pictures_labels_and_sizes(folder):
    layer, shapes = made(seg(folder, "batch_size: 2 label_type: PIXEL", "mean_value: 100 scale: 0.5", tops=3))
    assert shapes == [(2, 3, 12, 16), (2, 1, 12, 16), (2, 1, 1, 2)]
    for first in (0, 2):  # the list begins again
        pictures, labels, sizes = tops_of(layer)
        for k in range(2):
            image = cv2.imread(str(folder / f"p{(first + k) % 3}.png"))
            np.testing.assert_array_equal(pictures[k], (image.transpose(2, 0, 1).astype(np.float32) - 100) * 0.5)
            np.testing.assert_array_equal(labels[k, 0], image[..., 0] // 16)
        assert sizes.tolist() == [[[[12, 16]]], [[[12, 16]]]]


@pytest.mark.parametrize(
    ("label_type", "source", "expected"),
    [("IMAGE", "numbers.txt", [7, 3]), ("NONE", "list.txt", [255, 255]), ("NONE", "numbers.txt", [255, 255])],
)
def test_one_label_for_all_pixels(folder, label_type, source, expected):
    layer, _ = made(seg(folder, f"batch_size: 2 label_type: {label_type}", source=source))
    labels = tops_of(layer)[1]
    assert [np.unique(each).tolist() for each in labels] == [[label] for label in expected]


@pytest.mark.parametrize("phase", [caffe_pb2.TRAIN, caffe_pb2.TEST])
def test_labels_move_with_their_pixels(folder, phase):
    """Blue // 16 is the label everywhere, however a picture was mirrored and cropped; the rest is filled up."""
    text = seg(folder, "batch_size: 3 label_type: PIXEL", "mirror: true crop_height: 9 crop_width: 20 mean_value: 40")
    layer, shapes = made(text, phase)
    assert shapes == [(3, 3, 9, 20), (3, 1, 9, 20)]
    places = set()
    for _ in range(4):
        pictures, labels = tops_of(layer)
        inside = labels[:, 0] != 255
        np.testing.assert_array_equal(labels[:, 0][inside], (pictures[:, 0][inside] + 40) // 16)
        assert (pictures.transpose(0, 2, 3, 1)[~inside] == 0).all()
        assert inside.sum() == 3 * 9 * 16
        places.update(bool(each[0, 0]) for each in inside)
    assert places == {False, True}  # mirrored ones begin with what was filled up


def test_the_middle_is_taken_in_test(folder):
    layer, _ = made(seg(folder, "label_type: PIXEL", "crop_size: 5"), caffe_pb2.TEST)
    image = cv2.imread(str(folder / "p0.png"))
    np.testing.assert_array_equal(tops_of(layer)[0][0], image[3:8, 5:10].transpose(2, 0, 1))


def test_scale_factors(folder):
    layer, _ = made(seg(folder, "label_type: PIXEL", "crop_size: 40 mirror: false scale_factors: 1.3"))
    pictures, labels = tops_of(layer)
    image, classes = (cv2.imread(str(folder / name), flag) for name, flag in (("p0.png", 1), ("l0.png", 0)))
    size = (20, 15)  # 16 * 1.3 and 12 * 1.3, cut
    np.testing.assert_array_equal(pictures[0, :, :15, :20], cv2.resize(image, size).transpose(2, 0, 1))
    np.testing.assert_array_equal(labels[0, 0, :15, :20], cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST))
    assert (labels[0, 0, 15:] == 255).all()
    assert (labels[0, 0, :, 20:] == 255).all()


def test_dense_data_resizes_labels_to_the_nearest(folder):
    layer, shapes = made(dense(folder, "batch_size: 2 new_height: 8 new_width: 10 label_divide_factor: 2"))
    assert shapes == [(2, 3, 8, 10), (2, 1, 4, 5)]
    pictures, labels = tops_of(layer)
    for k in range(2):
        image, classes = (cv2.imread(str(folder / f"{name}{k}.png"), flag) for name, flag in (("p", 1), ("l", 0)))
        np.testing.assert_array_equal(pictures[k], cv2.resize(image, (10, 8)).transpose(2, 0, 1))
        np.testing.assert_array_equal(labels[k, 0], cv2.resize(classes, (5, 4), interpolation=cv2.INTER_NEAREST))


def test_dense_labels_move_with_their_pixels(folder):
    layer, shapes = made(dense(folder, "batch_size: 3 mirror: true crop_height: 7 crop_width: 9"), caffe_pb2.TEST)
    assert shapes == [(3, 3, 7, 9), (3, 1, 7, 9)]
    for _ in range(3):
        pictures, labels = tops_of(layer)
        np.testing.assert_array_equal(labels[:, 0], pictures[:, 0] // 16)


@pytest.mark.parametrize("make", [seg, dense])
def test_a_resumed_layer_continues(folder, make):
    text = make(folder, "batch_size: 2 shuffle: true" + (" label_type: PIXEL" if make is seg else " mirror: true"))
    layer, _ = made(text)
    tops_of(layer)
    state = layer.state
    expected = [tops_of(layer) for _ in range(2)]
    resumed, _ = made(text)
    resumed.state = state
    for one, other in zip(expected, [tops_of(resumed) for _ in range(2)], strict=True):
        assert all(map(np.array_equal, one, other))


def test_a_shape_without_the_list(tmp_path, caplog):
    shapes = made(seg(tmp_path, "batch_size: 4 label_type: PIXEL", "crop_size: 33", tops=3))[1]
    assert shapes == [(4, 3, 33, 33), (4, 1, 33, 33), (4, 1, 1, 2)]
    assert made(dense(tmp_path, "batch_size: 4 new_height: 6 new_width: 8"))[1] == [(4, 3, 6, 8), (4, 1, 6, 8)]
    assert "pictures are assumed to be 3x33x33" in caplog.text


@pytest.mark.parametrize(
    ("make", "settings", "transform", "code"),
    [
        (seg, "", 'mean_file: "m"', "layer.mean-file"),
        (seg, "", "crop_size: 3 crop_height: 3 crop_width: 3", "layer.crop"),
        (seg, "", "crop_height: 3", "layer.crop"),
        (dense, "", "mirror: true", "layer.transform"),
        (dense, "", "crop_size: 3", "layer.transform"),
        (dense, "crop_height: 3", "", "layer.crop"),
        (dense, "label_divide_factor: 2", "", "layer.divisor"),
        (dense, "new_height: 3", "", "layer.size"),
    ],
)
def test_settings_that_contradict_each_other(folder, make, settings, transform, code):
    with pytest.raises(LayerError) as caught:
        made(make(folder, settings, transform))
    assert caught.value.code == code


def test_damaged_inputs_name_the_line(folder):
    (folder / "list.txt").write_text("p0.png l0.png\np1.png missing.png\n")
    layer, _ = made(dense(folder))
    tops_of(layer)
    with pytest.raises(FileError, match=r"list.txt:2: .*missing.png"):
        tops_of(layer)
    (folder / "list.txt").write_text("p0.png\n")
    with pytest.raises(DataError, match=r"list.txt:1: a line must be: picture label \[data.list\]"):
        made(seg(folder, "label_type: PIXEL"))
    with pytest.raises(DataError, match=r"a line must be: picture label"):
        made(seg(folder, source="list.txt"))


def test_labels_of_another_size(folder):
    cv2.imwrite(str(folder / "l0.png"), np.zeros((5, 6), np.uint8))
    for text in (seg(folder, "label_type: PIXEL"), dense(folder)):
        with pytest.raises(DataError) as caught:
            tops_of(made(text)[0])
        assert caught.value.code == "data.shape"
