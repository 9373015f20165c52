"""`pyscratchdet detect` with nets that name classes: of whole pictures, and of every pixel."""

import json

import cv2
import numpy as np
import pytest

from pyscratchdet.cli import main
from pyscratchdet.detect.detector import Preparation
from pyscratchdet.detect.labels import Labeller, find_task, read_class_names
from pyscratchdet.errors import DataError, NetError
from pyscratchdet.runtime import build_net, save_weights

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 12 } } }\n'
POOL = """
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool"
  pooling_param { pool: AVE kernel_size: 4 stride: 4 } }
layer { name: "score" type: "Convolution" bottom: "pool" top: "score"
  convolution_param { num_output: 4 kernel_size: 1 } }
"""
ARGMAX = 'layer { name: "best" type: "ArgMax" bottom: "score" top: "best" argmax_param { axis: 1 } }\n'
MEAN = """
layer { name: "all" type: "Pooling" bottom: "score" top: "all"
  pooling_param { pool: AVE global_pooling: true } }
"""
SOFTMAX = 'layer { name: "prob" type: "Softmax" bottom: "all" top: "prob" }\n'
SEGMENT, LABELS, CLASSIFY = DATA + POOL, DATA + POOL + ARGMAX, DATA + POOL + MEAN + SOFTMAX
BLUE, GREEN, RED = range(3)


@pytest.fixture
def write_net(tmp_path):
    """Returns a function that writes a net whose label 1 is blue, 2 green and 3 red, and 0 anything darker."""

    def write(text):
        model, weights = tmp_path / "deploy.prototxt", tmp_path / "net.caffemodel"
        model.write_text(text)
        net = build_net(str(model))
        weight, bias = (blob.detach() for blob in net.params["score"])
        weight.zero_()
        bias[0] = 0.1
        for channel in (BLUE, GREEN, RED):
            weight[channel + 1, channel] = 1.0
        save_weights(net, weights)
        return model, weights

    return write


@pytest.fixture
def thirds():
    """A picture of 24 x 36 pixels: its left third blue, its middle green, its right red; the lower right is black."""
    image = np.zeros((24, 36, 3), np.uint8)
    for channel in (BLUE, GREEN, RED):
        image[:, 12 * channel : 12 * channel + 12, channel] = 200
    image[12:, 24:] = 0
    return image


EXPECTED = np.repeat(np.repeat(np.array([[1, 2, 3], [1, 2, 0]]), 12, 0), 12, 1)


@pytest.mark.parametrize(("text", "task"), [(CLASSIFY, "classify"), (SEGMENT, "segment")])
def test_what_is_no_list_of_pictures(write_net, thirds, text, task):
    call = getattr(Labeller(*write_net(text), task), task)
    for bad, said in ((None, "cv2.imread returns None"), ([None], "cv2.imread"), (thirds, "one picture, not several")):
        with pytest.raises(DataError, match=said):
            call(bad)


@pytest.mark.parametrize(("text", "task"), [(SEGMENT, "segment"), (LABELS, "segment"), (CLASSIFY, "classify")])
def test_the_outputs_say_the_task(write_net, block_model, text, task):
    assert find_task(write_net(text)[0]) == task
    assert find_task(block_model[0]) == "detect"


@pytest.mark.parametrize("text", [SEGMENT, LABELS])
def test_labels_of_pixels(write_net, thirds, text):
    labeller = Labeller(*write_net(text), "segment", preparation=Preparation((0.0,)))
    first, second = labeller.segment([thirds, thirds[:, ::-1]])
    np.testing.assert_array_equal(first, EXPECTED)
    np.testing.assert_array_equal(second, EXPECTED[:, ::-1])
    assert labeller.names == {0: "0", 1: "1", 2: "2", 3: "3"}


def test_classes_of_pictures(write_net, thirds):
    """The scores are the softmax of the channels' means: 200/3 for blue and green, half of that for red."""
    labeller = Labeller(*write_net(CLASSIFY), "classify", preparation=Preparation((0.0,), 1 / 100))
    (found,) = labeller.classify([thirds], most=3)
    powers = np.exp([0.1, 2 / 3, 2 / 3, 1 / 3])
    assert [label for label, _ in found] == [1, 2, 3]
    np.testing.assert_allclose([score for _, score in found], powers[1:] / powers.sum(), rtol=1e-6)  # float32 softmax


def test_a_net_bound_to_its_batch_size_takes_any_number_of_pictures(write_net, thirds):
    flat = 'layer { name: "flat" type: "Reshape" bottom: "prob" top: "flat" reshape_param { shape { BOUND } } }'
    pictures = [thirds, 255 - thirds, thirds[:, ::-1]]
    wanted = Labeller(*write_net(CLASSIFY), "classify").classify(pictures)
    for number in (1, 2):
        text = (CLASSIFY + flat).replace("dim: 1 dim: 3", f"dim: {number} dim: 3")
        labeller = Labeller(*write_net(text.replace("BOUND", f"dim: {number} dim: -1")), "classify")
        assert labeller.classify(pictures) == wanted


def test_the_command_segments(write_net, thirds, tmp_path, capsys):
    model, weights = write_net(SEGMENT)
    cv2.imwrite(str(tmp_path / "p.png"), thirds)
    (tmp_path / "names.txt").write_text("dark\nblue\ngreen\n[red]\n")
    flags = ["--model", str(model), "--weights", str(weights), "--mean", "0", "--labelmap", str(tmp_path / "names.txt")]
    assert main(["detect", str(tmp_path / "p.png"), *flags, "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "--task segment" in printed
    assert '1 picture, segment by output "score"' in printed
    assert "p: blue 0.333, green 0.333, dark 0.167, [red] 0.167" in printed
    labels = cv2.imread(str(tmp_path / "out/p_labels.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, EXPECTED)
    content = json.loads((tmp_path / "out/labels.json").read_text())
    assert content["images"][0]["labels"] == "p_labels.png"
    assert content["images"][0]["found"][2] == {"label": 0, "class": "dark", "share": 0.166667}
    drawn = cv2.imread(str(tmp_path / "out/p.jpg"))
    assert drawn.shape == (24 * 4, 36 * 4, 3)
    assert drawn[60, -5].max() < 180  # black under the colour of label 0, half of each


def test_the_command_classifies(write_net, thirds, tmp_path, capsys):
    model, weights = write_net(CLASSIFY)
    cv2.imwrite(str(tmp_path / "p.png"), thirds[:12])
    lines = ["n01440764 tench, Tinca tinca", "n01443537 goldfish", "n01484850 great white shark", "n01491361 tiger"]
    (tmp_path / "synset_words.txt").write_text("\n".join(lines))
    flags = ["--model", str(model), "--weights", str(weights), "--mean", "0,0,1", "--scale", "0.01"]
    flags += ["--labelmap", str(tmp_path / "synset_words.txt"), "-o", str(tmp_path / "out")]
    assert main(["detect", str(tmp_path / "p.png"), *flags]) == 0
    # exp of the channels' means less the mean, times 0.01, and 0.1 for label 0; over their sum
    expected = "p: goldfish 0.281, great white shark 0.281, tiger 0.278, tench, Tinca tinca 0.159"
    assert expected in capsys.readouterr().out
    assert (tmp_path / "out/p.jpg").is_file()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["labels.json", "p.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "0.5"], "--threshold is for --task detect"),
        (["--classes", "1"], "--classes is for --task detect"),
        (["--format", "csv"], "--format is for --task detect"),
        (["--engine", "onnxruntime"], "--task segment is computed by torch"),
        (["--task", "classify"], "no output fits --task classify"),
        (["--task", "detect"], "the detections cannot be told from other outputs"),
    ],
)
def test_refused(write_net, thirds, tmp_path, capsys, arguments, message):
    model, weights = write_net(SEGMENT)
    cv2.imwrite(str(tmp_path / "p.png"), thirds)
    flags = ["--model", str(model), "--weights", str(weights), "-o", str(tmp_path / "out")]
    assert main(["detect", str(tmp_path / "p.png"), *flags, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_several_outputs_need_the_task(write_net):
    model, _ = write_net(SEGMENT + ARGMAX + MEAN)
    with pytest.raises(NetError) as caught:
        find_task(model)
    assert caught.value.code == "detect.task"


@pytest.mark.parametrize("text", ["a\nb\n", 'item { name: "a" label: 1 }'])
def test_names_must_fit(tmp_path, text):
    (tmp_path / "names").write_text(text)
    with pytest.raises(DataError) as caught:
        read_class_names(tmp_path / "names", 3)
    assert caught.value.code == "detect.class-count"


def test_names_of_a_label_map():
    assert read_class_names("voc", 21)[20] == "tvmonitor"
