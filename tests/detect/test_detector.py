"""The Detector call: preparation, batches, pixels, errors."""

import sys

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

import pyscratchdet
from pyscratchdet.detect.detector import Detector, Preparation
from pyscratchdet.detect.media import find_media
from pyscratchdet.errors import DataError, FileError, LayerError, NetError, UsageError
from pyscratchdet.runtime import save_weights

SURE = 1 / (1 + np.exp(-10))  # softmax of (0, 10, -10), whose last term is 2e-9


def test_boxes_are_in_pixels_of_each_picture(detector, picture):
    first, second, third = detector.detect(
        [picture((0, 1, 2)), picture((2, 3, 5), height=32, width=60), picture(height=8, width=12)]
    )
    np.testing.assert_array_equal(first.labels, [1])
    np.testing.assert_allclose(first.scores, [SURE], rtol=1e-6)  # exp of a float32 logit of 10: a few roundings
    np.testing.assert_allclose(first.boxes_px, [[48, 16, 72, 32]], atol=1e-4)  # float32 of 144 pixels
    np.testing.assert_array_equal(second.labels, [2])
    np.testing.assert_allclose(second.boxes_px, [[50, 24, 60, 32]], atol=1e-4)  # likewise
    assert len(third) == 0
    assert third.boxes_px.shape == (0, 4)
    assert first.boxes_px.dtype == first.scores.dtype == np.float32


def test_batching_changes_nothing(detector, picture):
    images = [picture((0, k % 4, k), (2, 3 - k % 4, 5 - k)) for k in range(5)]
    together = detector.detect(images)
    for image, found in zip(images, together, strict=True):
        alone = detector.detect([image])[0]
        np.testing.assert_array_equal(found.labels, alone.labels)
        np.testing.assert_array_equal(found.boxes_px, alone.boxes_px)
    assert detector.seconds.images == 10
    assert detector.seconds.forward > 0


def test_threshold_and_order(detector, picture):
    image = picture((0, 0, 0), (2, 2, 4))
    image[..., 2] = image[..., 2] // 255 * 140  # a less sure red: logit 20 * 140 / 255 - 10
    found = detector.detect([image])[0]
    logit = 20 * 140 / 255 - 10
    less_sure = np.exp(logit) / (np.exp(logit) + 1 + np.exp(-10))  # against background and blue
    np.testing.assert_array_equal(found.labels, [1, 2])
    np.testing.assert_allclose(
        found.scores, [SURE, less_sure], rtol=5e-6
    )  # float32 roundings of sums near 11, each 1e-6
    np.testing.assert_array_equal(detector.detect([image], threshold=0.9)[0].labels, [1])
    # A score equal to the threshold is kept; the next float32 above it is not reached.
    border = found.scores[1]
    assert len(detector.detect([image], threshold=float(border))[0]) == 2
    assert len(detector.detect([image], threshold=float(np.nextafter(border, np.float32(1))))[0]) == 1


def test_grey_alpha_and_channel_order(block_model, picture):
    deploy, weights, labels = block_model
    image = picture((0, 1, 1))
    swapped = Detector(deploy, weights, labels, preparation=Preparation((0.0,), 1 / 255, rgb=True))
    np.testing.assert_array_equal(swapped.detect([image])[0].labels, [2])
    plain = Detector(deploy, weights, labels, preparation=Preparation((0.0,), 1 / 255))
    with_alpha = np.dstack([image, np.full(image.shape[:2], 7, np.uint8)])
    np.testing.assert_array_equal(plain.detect([with_alpha])[0].labels, [1])
    # Grey is both blue and red, so the two share the probability.
    both = plain.detect([image[..., 0]])[0]
    assert sorted(both.labels) == [1, 2]
    np.testing.assert_allclose(both.scores, 0.5, rtol=1e-4)  # the background's exp(-10)


def test_preparation_subtracts_the_mean_then_scales():
    image = np.full((3, 5, 3), (10, 20, 30), np.uint8)
    prepared = Preparation((1.0, 2.0, 3.0), 0.5)(image, 3, 4, 6)
    assert prepared.shape == (3, 4, 6)
    np.testing.assert_array_equal(prepared[:, 0, 0], [4.5, 9, 13.5])
    np.testing.assert_array_equal(Preparation((1.0,))(image, 3, 4, 6)[:, 0, 0], [9, 19, 29])
    for mean in ((1.0, 2.0), (1.0, 2.0, float("nan"))):
        with pytest.raises(UsageError, match=r"expected 1 number or 3, .*detect\.mean"):
            Preparation(mean)(image, 3, 4, 6)


def test_resizing_first_rounds_to_bytes_and_resizing_last_does_not():
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1] = 3
    early, late = (Preparation((0.0,))(image, 3, 1, 8, resize_first=first) for first in (True, False))
    assert set(np.unique(early)) <= {0.0, 1.0, 2.0, 3.0}
    assert len(np.unique(late)) > 4


def test_label_map_must_fit(block_model, tmp_path):
    deploy, weights, _ = block_model
    (tmp_path / "short.prototxt").write_text('item { name: "background" label: 0 } item { name: "blue" label: 1 }')
    found = r"expected labels 0 to 2, .*num_classes 3 and found 2 labels from 0 to 1;.*evaluate\.class-count"
    with pytest.raises(DataError, match=found):
        Detector(deploy, weights, tmp_path / "short.prototxt")
    for first in (0, 1):
        names = (f'item {{ name: "{name}" label: {label} }}' for label, name in enumerate(("blue", "red"), first))
        (tmp_path / "names.prototxt").write_text("\n".join(names))
        with pytest.raises(DataError, match="label 0, the background, has no item; `create-label-map --include_backg"):
            Detector(deploy, weights, tmp_path / "names.prototxt")
    assert Detector(deploy, weights).classes == ("1", "2")


def test_not_a_deploy_net(tmp_path):
    net = tmp_path / "net.prototxt"
    net.write_text('layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 2 dim: 3 } } }')
    with pytest.raises(NetError, match=r"detect\.input"):
        Detector(net, None)
    net.write_text('layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 5 } } }')
    with pytest.raises(NetError, match=r"one layer that makes detections, such as DetectionOutput"):
        Detector(net, None)


def test_the_nets_own_result_files_are_left_alone(block_model, picture, tmp_path):
    deploy, weights, _ = block_model
    saving = f"""save_output_param {{ output_directory: "{tmp_path}/results" output_name_prefix: "p"
      output_format: "VOC"
      label_map_file: "{tmp_path}/none" name_size_file: "{tmp_path}/none" num_test_image: 1 }} nms_param"""
    (tmp_path / "deploy.prototxt").write_text(deploy.read_text().replace("nms_param", saving))
    detector = Detector(tmp_path / "deploy.prototxt", weights, preparation=Preparation((0.0,), 1 / 255))
    assert len(detector.detect([picture((0, 1, 2))])[0]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["deploy.prototxt"]


def test_a_net_writes_and_runs_nothing_of_its_own(block_model, picture, tmp_path, monkeypatch, caplog):
    """What its file names stays unwritten and unimported; the caller is told of both."""
    deploy, weights, _ = block_model
    writing = f"""layer {{ name: "out" type: "HDF5Output" bottom: "loc" bottom: "conf"
      hdf5_output_param {{ file_name: "{tmp_path}/found.h5" }} }}"""
    model = tmp_path / "deploy.prototxt"
    model.write_text(deploy.read_text() + writing)
    detector = Detector(model, weights, preparation=Preparation((0.0,), 1 / 255))
    assert len(detector.detect([picture((0, 1, 2))])[0]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["deploy.prototxt"]
    assert f'layer "out" (HDF5Output): {tmp_path}/found.h5 is not written here' in caplog.text
    (tmp_path / "strangers_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    running = """layer { name: "code" type: "Python" bottom: "loc" top: "code"
      python_param { module: "strangers_module" layer: "L" } }"""
    model.write_text(deploy.read_text() + running)
    with pytest.raises(LayerError, match=r'"strangers_module".*--allow-python.*layer\.python-refused'):
        Detector(model, weights)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("bad", [np.zeros((4, 5, 3), np.float32), np.zeros((0, 5, 3), np.uint8), 3, None])
def test_not_a_picture(detector, bad, picture):
    with pytest.raises(DataError, match=r"detect\.picture"):
        detector.detect([bad])


@pytest.mark.parametrize(
    ("bad", "found", "hint"),
    [
        (None, "NoneType", "cv2.imread returns None"),
        (PIL.Image.new("RGB", (5, 4)), "Image", "[:, :, ::-1] is in BGR"),
        (np.zeros((3, 8, 9), np.uint8), "uint8 (3, 8, 9)", "the channels go last: transpose(1, 2, 0)"),
        (np.zeros((8, 9, 3)), "float64 (8, 9, 3)", "values from 0 to 1 become bytes"),
        (torch.zeros(3, 8, 9), "torch.float32 (3, 8, 9)", "the channels go last"),
        (np.zeros((8, 9, 2), np.uint8), "uint8 (8, 9, 2)", None),
        (np.uint8(3), "uint8 ()", None),
        (7, "int", None),
    ],
    ids=["nothing", "PIL", "channels first", "floats", "tensor", "two channels", "scalar", "number"],
)
def test_usual_mistakes_are_named(detector, bad, found, hint):
    for call in (detector.detect, lambda one: detector.detect([one]), detector.prepare):
        with pytest.raises(DataError) as caught:
            call(bad)
        assert caught.value.code == "detect.picture"
        assert caught.value.found == found
        assert hint is None or hint in caught.value.hint


def test_one_grey_picture_and_one_with_alpha(detector, picture):
    image = picture((0, 1, 1))
    same(detector.detect(cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)), detector.detect(image))
    same(detector.detect(image[..., 0]), detector.detect([image[..., 0]])[0])


def same(found, expected):
    assert type(found) is type(expected)
    for one, other in zip(found, expected, strict=True) if isinstance(found, list) else [(found, expected)]:
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.boxes_px, other.boxes_px)
        assert len(one)


def test_one_picture_gives_its_detections_and_a_list_a_list(detector, picture, tmp_path):
    """Arrays and files, of different sizes, more than a batch, in one list."""
    images = [picture((0, 1, 2)), picture((2, 3, 5), height=32, width=60), picture((2, 0, 0), (0, 3, 1))]
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for image, path in zip(images, paths, strict=True):
        cv2.imwrite(str(path), image)
    expected = detector.detect(images)
    same(detector.detect([paths[0], str(paths[1]), images[2]]), expected)
    same(detector.detect(tuple(paths)), expected)
    same(detector.detect(images[1]), expected[1])
    same(detector.detect(str(paths[1])), expected[1])
    same(detector.detect(paths[1]), expected[1])
    same(detector.detect(np.stack(images[::2])), expected[::2])
    assert detector.detect([]) == []
    with pytest.raises(FileError, match=r"none\.jpg"):
        detector.detect([images[0], tmp_path / "none.jpg"])


def test_class_names_may_be_given_as_they_are(block_model):
    names = {0: "background", 1: "sky", 2: "brick"}
    detector = pyscratchdet.Detector(*block_model[:2], names, preparation=pyscratchdet.Preparation((0.0,), 1 / 255))
    assert detector.names == names
    assert type(detector) is Detector


def test_a_net_bound_to_its_batch_size_takes_any_number_of_pictures(detector, block_model, picture, tmp_path):
    bound = block_model[0].read_text().replace("dim: 0 dim: -1 dim: 3", "dim: 2 dim: -1 dim: 3")
    bound = bound.replace("dim: 1 dim: 3 dim: 32", "dim: 2 dim: 3 dim: 32")
    (tmp_path / "bound.prototxt").write_text(bound)
    other = Detector(tmp_path / "bound.prototxt", *block_model[1:], preparation=Preparation((0.0,), 1 / 255))
    images = [picture((0, k, k)) for k in range(3)]
    same(other.detect(images), detector.detect(images))


YOLO = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE kernel_size: 8 stride: 8 } }
layer { name: "map" type: "Convolution" bottom: "pool" top: "map"
  convolution_param { num_output: 7 kernel_size: 1 } }
layer { name: "out" type: "YoloDetectionOutput" bottom: "map" top: "out"
  yolo_detection_output_param { num_classes: 2 num_box: 1 confidence_threshold: 0.4 nms_threshold: 0.5
    biases: 1 biases: 1 } }
"""


def test_a_yolo_net_detects_too(picture, tmp_path):
    """One box to a cell of 4 x 4; blue is channel 0, red channel 2, and objectness is their sum."""
    (tmp_path / "yolo.prototxt").write_text(YOLO)
    net = pyscratchdet.build_net(str(tmp_path / "yolo.prototxt"))
    weight, bias = (blob.detach() for blob in net.params["map"])
    weight.zero_(), bias.zero_()
    weight[4, 0] = weight[4, 2] = weight[5, 0] = weight[6, 2] = 20.0
    bias[4] = -10.0
    save_weights(net, tmp_path / "yolo.caffemodel")
    files = tmp_path / "yolo.prototxt", tmp_path / "yolo.caffemodel"
    detector = Detector(*files, preparation=Preparation((0.0,), 1 / 255))
    assert (detector.classes, detector.confidence_threshold) == (("1", "2"), pytest.approx(0.4, rel=1e-6))  # float32
    blue, nothing, red = detector.detect([picture((0, 1, 0), width=96), picture(), picture((2, 2, 3), width=96)])
    assert (blue.labels.tolist(), len(nothing), red.labels.tolist()) == ([1], 0, [2])


@pytest.mark.parametrize("layer", ["loc", "conf"])
def test_a_net_that_gives_no_numbers_is_refused(block_model, picture, layer):
    """As a diverged training leaves it; without a word it would find nothing, or boxes that cannot be drawn."""
    deploy, weights, labels = block_model
    detector = Detector(deploy, weights, labels, preparation=Preparation((0.0,), 1 / 255))
    detector.engine.net.params[layer][0].detach()[0, 0] = float("nan")
    with pytest.raises(DataError, match=r"not numbers; did the training diverge.*detect\.nan"):
        detector.detect([picture((0, 1, 1))])


def test_supervision_is_optional(detector, picture, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UsageError, match="pip install supervision"):
        detector.detect([picture((0, 1, 1))])[0].to_supervision()


def test_as_supervision_has_them(detector, picture):
    pytest.importorskip("supervision")
    blue, nothing = detector.detect([picture((0, 1, 1), (2, 3, 5)), picture()])
    given = blue.to_supervision(detector.names)
    np.testing.assert_array_equal(given.xyxy, blue.boxes_px)
    np.testing.assert_array_equal(given.confidence, blue.scores)
    assert given.class_id.tolist() == blue.labels.tolist()
    assert given["class_name"].tolist() == [detector.names[label] for label in blue.labels]
    assert sorted(given["class_name"]) == ["blue", "red"]
    assert given[given.class_id == 2]["class_name"].tolist() == ["red"]
    assert len(blue.to_supervision().data) == len(nothing.to_supervision(detector.names)) == 0


def test_benchmark_counts_every_stage(detector, tmp_path, picture):
    import cv2

    from pyscratchdet.detect.benchmark import STAGES, benchmark

    cv2.imwrite(str(tmp_path / "one.png"), picture((0, 1, 1)))
    seconds = benchmark(detector, find_media([str(tmp_path)]).sources, 3, num_images=4)
    assert tuple(seconds) == STAGES
    assert all(value > 0 for value in seconds.values())
    assert detector.batch_size == 2
