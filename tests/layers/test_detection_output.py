import json
from dataclasses import dataclass, field

import cv2
import detection_cases as cases
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pyscratchdet.converters.compare import match_detections
from pyscratchdet.errors import ConversionError, DataError, FileError, LayerError

CODE = "num_classes: 3 code_type: CENTER_SIZE"
SHAPES = [(2, 12), (2, 9), (1, 2, 12)]
BOXES = [[0.1, 0.1, 0.5, 0.5], [0.12, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]]


@pytest.mark.parametrize("name", cases.recorded("DetectionOutput"))
def test_recorded_rows(name):
    layer, bottoms, record = cases.load(name)
    shapes, (top,) = cases.run(layer, bottoms)
    assert shapes == [(1, 1, 1, 7)]
    want = record["out:t0"]
    assert top.shape == want.shape
    assert np.array_equal(top[..., :3].numpy(), want[..., :3])
    np.testing.assert_array_max_ulp(top.numpy(), want, 2)


def layer(text, root="."):
    return cases.make(f'type: "DetectionOutput" detection_output_param {{ {text} }}', root)


def bottoms(scores):
    conf = torch.tensor(scores)
    return [torch.zeros(len(conf), 12), conf.flatten(1), cases.prior_blob(BOXES)]


SCORES = [[[0.1, 0.8, 0.1], [0.1, 0.7, 0.2], [0.3, 0.2, 0.5]], [[0.9, 0.1, 0.0], [0.9, 0.0, 0.1], [1.0, 0.0, 0.0]]]


def test_rows_by_image_label_and_score():
    _, (top,) = cases.run(layer(f"{CODE} confidence_threshold: 0.15"), bottoms(SCORES))
    rows = top[0, 0].numpy()
    # Prior 1 overlaps prior 0 by 0.95; 0.1 and 0.15 are not above the threshold.
    np.testing.assert_allclose(rows[:, :3], [[0, 1, 0.8], [0, 1, 0.2], [0, 2, 0.5], [0, 2, 0.2]], rtol=1e-6)  # float32
    # Codes of 0: the corners come back through centre and size, each rounded once, below 1.
    np.testing.assert_allclose(rows[:, 3:], np.float32(BOXES)[[0, 2, 2, 1]], atol=1e-7)


def test_a_score_that_is_the_threshold_is_not_above_it():
    """0.25 is exact in float32; the second prior has a class above it and one at it."""
    scores = [[[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]]
    _, (top,) = cases.run(layer(f"{CODE} confidence_threshold: 0.25"), bottoms(scores))
    assert top[0, 0, :, :3].tolist() == [[0, 1, 0.5]]
    _, (top,) = cases.run(layer(f"{CODE} confidence_threshold: 0.2499"), bottoms(scores))
    assert len(top[0, 0]) == 4  # one of each label hidden by NMS


def test_nothing_found_gives_a_row_per_image():
    _, (top,) = cases.run(layer(f"{CODE} confidence_threshold: 1"), bottoms(SCORES))
    assert top.numpy().tolist() == [[[[0, *[-1] * 6], [1, *[-1] * 6]]]]


@pytest.mark.parametrize(("clip", "number"), [("", 5), ("clip: true", 4)])
def test_clipped_boxes_overlap_more_as_in_opencv(clip, number):
    """Two boxes that differ outside the picture only are one, if they end at its border."""
    options = f"share_location: true background_label_id: 0 confidence_threshold: 0.15 keep_top_k: 9 {clip}"
    made = layer(f"{CODE} {options} nms_param {{ nms_threshold: 0.7 top_k: 9 }}")
    given = bottoms(SCORES[:1])
    given[2] = cases.prior_blob([[-0.5, 0.2, 0.5, 0.6], [-0.1, 0.2, 0.5, 0.6], [0.6, 0.6, 0.9, 1.2]])
    _, (top,) = cases.run(made, given)
    rows = top[0, 0].numpy()
    assert len(rows) == number
    assert (rows[:, 3:].min() >= 0 and rows[:, 3:].max() <= 1) == bool(clip)
    inputs = ""
    for name, bottom in zip("abc", given, strict=True):
        dims = " ".join(f"dim: {size}" for size in bottom.shape)
        inputs += f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'
    made.param.bottom[:], made.param.top[:] = "abc", "d"
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(f"{inputs} layer {{ {made.param} }}".encode(), np.uint8))
    for name, bottom in zip("abc", given, strict=True):
        net.setInput(bottom.numpy(), name)
    found, expected = match_detections(net.forward(), rows)  # OpenCV orders them by score alone
    assert len(found) == number
    np.testing.assert_allclose(found, expected, atol=2e-7)  # exp in float32 instead of double


def test_visualize_leaves_the_picture_alone():
    given = bottoms(SCORES)
    plain = cases.run(layer(f"{CODE} confidence_threshold: 0.15"), given)[1][0]
    drawn = layer(f"{CODE} confidence_threshold: 0.15 visualize: true")
    assert torch.equal(cases.run(drawn, [*given, torch.zeros(2, 3, 30, 40)])[1][0], plain)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "num-classes"),
        (f"{CODE} nms_param {{ nms_threshold: -0.1 }}", "nms-threshold"),
        (f"{CODE} nms_param {{ eta: 0 }}", "eta"),
        (f"{CODE} nms_param {{ eta: 1.5 }}", "eta"),
        (
            f'{CODE} save_output_param {{ output_directory: "o" label_map_file: "l" name_size_file: "n"'
            ' output_format: "XML" }',
            "output-format",
        ),
    ],
)
def test_rules_at_setup(text, code):
    with pytest.raises(LayerError) as caught:
        layer(text).setup(SHAPES)
    assert caught.value.code == f"layer.{code}"


def test_own_locations_and_refined_priors_exclude_each_other():
    with pytest.raises(LayerError) as caught:
        layer(f"{CODE} share_location: false").setup([*SHAPES, (2, 6), (2, 12)])
    assert caught.value.code == "layer.share-location"


@pytest.mark.parametrize(
    ("index", "shape"),
    [(0, (2, 16)), (1, (2, 10)), (1, (3, 9)), (2, (1, 2, 16)), (2, (1, 1, 12)), (3, (2, 9)), (4, (2, 8))],
)
def test_rules_about_shapes(index, shape):
    made, shapes = layer(CODE), [*SHAPES, (2, 6), (2, 12)]
    made.setup(shapes)
    assert made.reshape(shapes) == [(1, 1, 1, 7)]
    shapes[index] = shape
    with pytest.raises(LayerError) as caught:
        made.reshape(shapes)
    assert caught.value.code in ("layer.num-priors", "layer.priors")


# --- result files ---


def saving(folder, output_format, more=""):
    folder.joinpath("labels.prototxt").write_text(
        'item { name: "none" label: 0 } item { name: "17" label: 1 } item { name: "dog" label: 2 }'
    )
    folder.joinpath("sizes.txt").write_text("000001 100 200\n42 50 80\nspare 10 10\n")
    return layer(
        f'{CODE} confidence_threshold: 0.15 save_output_param {{ output_directory: "out/deep" output_name_prefix: "p_"'
        f' output_format: "{output_format}" label_map_file: "labels.prototxt" name_size_file: "sizes.txt"'
        f" num_test_image: 2 {more} }}",
        folder,
    )


def test_voc_files_when_all_pictures_are_through(tmp_path):
    made, given = saving(tmp_path, "VOC"), bottoms([SCORES[0]])
    cases.run(made, given)
    assert not (tmp_path / "out").exists()
    made.forward(given, [])
    folder = tmp_path / "out" / "deep"
    assert sorted(path.name for path in folder.iterdir()) == ["p_17.txt", "p_dog.txt"]
    assert (folder / "p_17.txt").read_text().splitlines() == [
        "000001 0.8 20 10 100 50",
        "000001 0.2 120 60 180 90",
        "42 0.8 8 5 40 25",
        "42 0.2 48 30 72 45",
    ]
    first = (folder / "p_dog.txt").read_text()
    made.forward(given, [])
    made.forward(given, [])
    assert (folder / "p_dog.txt").read_text() == first


def test_coco_file(tmp_path):
    cases.run(saving(tmp_path, "COCO"), bottoms(SCORES))
    text = (tmp_path / "out" / "deep" / "p_.json").read_text()
    # Laid out as the original's; its number 000001 without quotes would be no JSON.
    first = """[
        {
            "image_id": "000001",
            "category_id": 17,
            "bbox": [
                20,
                10,
                80,
                40
            ],
            "score": 0.800000012
        },
"""
    assert text.startswith(first)
    assert text.endswith("        }\n    \n]\n")
    rows = json.loads(text)
    assert len(rows) == 4
    assert rows[0]["image_id"] == "000001"
    assert rows[0]["category_id"] == 17
    assert rows[2]["category_id"] == "dog"
    # float32 scores have nine digits in the file; pixels are below 100.
    np.testing.assert_allclose(rows[0]["bbox"], [20, 10, 80, 40], atol=1e-5)
    assert rows[0]["score"] == pytest.approx(0.8, abs=1e-7)


def test_ilsvrc_file_and_padding_taken_off(tmp_path):
    resize = "resize_param { height: 300 width: 300 resize_mode: FIT_LARGE_SIZE_AND_PAD }"
    cases.run(saving(tmp_path, "ILSVRC", resize), bottoms(SCORES))
    lines = (tmp_path / "out" / "deep" / "p_.txt").read_text().splitlines()
    # 200 x 100 in 300 x 300: 75 rows of padding above and below, so y = (y - 0.25) / 0.5, cut off at 0.
    assert lines[0] == "000001 1 0.8 20 0 100 50"
    assert lines[1] == "000001 1 0.2 120 70 180 100"


def test_what_saving_needs(tmp_path):
    made = saving(tmp_path, "VOC")
    (tmp_path / "sizes.txt").write_text("a 10 10\n")
    with pytest.raises(FileError, match="num_test_image"):
        cases.run(made, bottoms(SCORES))
    (tmp_path / "sizes.txt").unlink()
    with pytest.raises(FileError):
        cases.run(made, bottoms(SCORES))
    made = saving(tmp_path, "VOC")
    (tmp_path / "labels.prototxt").write_text('item { name: "a" label: 1 }')
    with pytest.raises(DataError, match="not in the label map"):
        cases.run(made, bottoms(SCORES))


def test_nothing_is_saved_unasked(tmp_path, caplog):
    made = saving(tmp_path, "VOC")
    made.context.writes = False
    cases.run(made, bottoms(SCORES))
    made.forward(bottoms(SCORES), [])
    assert len(caplog.records) == 1
    assert "out/deep is not written here" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.prototxt", "sizes.txt"]


def test_a_class_named_as_a_path_stays_in_the_folder(tmp_path):
    made = saving(tmp_path, "VOC")
    labels = tmp_path / "labels.prototxt"
    labels.write_text(labels.read_text().replace('"dog"', '"z/../../../../dog"'))
    cases.run(made, bottoms(SCORES))
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt")}
    assert names == {"sizes.txt", "out/deep/p_17.txt", "out/deep/p_z_.._.._.._.._dog.txt"}


def test_a_label_given_twice_is_refused_where_it_stands(tmp_path):
    made = saving(tmp_path, "VOC")
    labels = tmp_path / "labels.prototxt"
    labels.write_text(labels.read_text().replace("label: 2", "\nlabel: 1"))
    with pytest.raises(DataError, match=r"labels\.prototxt:2:1: duplicate label 1"):
        cases.run(made, bottoms(SCORES))


def test_without_a_label_map_nothing_is_saved(tmp_path):
    made = layer(f'{CODE} save_output_param {{ output_directory: "out" output_format: "VOC" }}', tmp_path)
    cases.run(made, bottoms(SCORES))
    assert not list(tmp_path.iterdir())


# --- ONNX ---


@dataclass
class Stub:
    """The least that an exporter must be."""

    shapes: dict
    open_batch: bool = False
    nodes: list = field(default_factory=list)
    constants: dict = field(default_factory=dict)

    def node(self, op_type, inputs, num_outputs=1, **attributes):
        outputs = [f"v{len(self.nodes)}_{k}" for k in range(num_outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, **attributes))
        return outputs

    def constant(self, array, name="constant"):
        key = f"{name}{len(self.constants)}"
        self.constants[key] = numpy_helper.from_array(np.ascontiguousarray(array), key)
        return key

    def shape(self, value):
        return self.shapes[value]


def run_onnx(made, arrays, form="decoded"):
    """Returns the outputs of the layer's ONNX form, which takes any number of images."""
    names = [f"b{index}" for index in range(len(arrays))]
    graph = Stub({name: array.shape for name, array in zip(names, arrays, strict=True)})
    if form == "decoded":
        tops = made.onnx(graph, names, [])
    else:
        tops = made.onnx_fixed(graph, names) if form == "fixed" else made.onnx_boxes(graph, names)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *array.shape[1:]])
        for name, array in zip(names, arrays, strict=True)
    ]
    ranks = [3 + (not made.output_param.share_location), 3] if form == "boxes" else [4]
    outputs = [
        helper.make_tensor_value_info(top, TensorProto.FLOAT, [None] * rank)
        for top, rank in zip(tops, ranks, strict=True)
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "g", inputs, outputs, list(graph.constants.values())),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, arrays, strict=True)))


ONNX = {
    "plain": "confidence_threshold: 0.05",
    "cut": "confidence_threshold: 0.05 keep_top_k: 11 nms_param { nms_threshold: 0.45 top_k: 9 }",
    "all": "nms_param { nms_threshold: 0.6 }",
    "corner": "code_type: CORNER confidence_threshold: 0.1 keep_top_k: 20",
    "corner_size": "code_type: CORNER_SIZE variance_encoded_in_target: true keep_top_k: 20",
    "background_2": "background_label_id: 2 confidence_threshold: 0.1 keep_top_k: 7",
    "no_background": "background_label_id: -1 confidence_threshold: 0.1",
    "own": "share_location: false confidence_threshold: 0.05 keep_top_k: 13 nms_param { top_k: 12 }",
    "arm_conf": "objectness_score: 0.5 confidence_threshold: 0.05 keep_top_k: 15",
    "arm": "objectness_score: 0.4 confidence_threshold: 0.05 keep_top_k: 15 nms_param { top_k: 10 }",
    "nothing": "confidence_threshold: 0.9999",
    "clipped": "clip: true confidence_threshold: 0.05 keep_top_k: 30 nms_param { nms_threshold: 0.45 }",
}


def onnx_case(name):
    """Returns a layer and its bottoms for three images."""
    rng = np.random.default_rng([3, *name.encode()])
    num, number, classes = 3, 37, 5
    corner = rng.uniform(0, 0.6, (number, 2))
    priors = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (number, 2))], 1)
    loc = rng.normal(0, 0.5, (num, number * 4 * (classes if name == "own" else 1)))
    conf = torch.from_numpy(rng.normal(0, 1.5, (num, number, classes))).softmax(-1).flatten(1).numpy()
    arrays = [array.astype(np.float32) for array in (loc, conf)] + [cases.prior_blob(priors).numpy()]
    arm = [rng.uniform(0, 1, (num, number * 2)), rng.normal(0, 0.3, (num, number * 4))]
    arrays += [array.astype(np.float32) for array in arm[: {"arm_conf": 1, "arm": 2}.get(name, 0)]]
    text = ONNX[name] if "code_type" in ONNX[name] else f"code_type: CENTER_SIZE {ONNX[name]}"
    return layer(f"num_classes: {classes} {text}"), arrays


@pytest.mark.parametrize("name", ONNX)
def test_onnx_gives_the_same_rows(name):
    made, arrays = onnx_case(name)
    want = cases.run(made, [torch.from_numpy(array) for array in arrays])[1][0].numpy()
    (got,) = run_onnx(made, arrays)
    assert got.shape == want.shape
    assert want.shape[2] > 20 or name == "nothing"
    assert np.array_equal(got[..., :3], want[..., :3])
    # exp in float32 instead of double; coordinates below 2.
    np.testing.assert_allclose(got[..., 3:], want[..., 3:], atol=3e-7)
    (fixed,) = run_onnx(made, arrays, "fixed")
    assert fixed.shape[2] % 3 == 0
    np.testing.assert_array_equal(fixed[fixed[..., 1] >= 0], got[got[..., 1] >= 0])
    assert (fixed[fixed[..., 1] < 0] == -1).all()


@pytest.mark.parametrize("name", ONNX)
def test_onnx_boxes_and_scores_are_those_that_are_suppressed(name):
    made, arrays = onnx_case(name)
    bottoms = [torch.from_numpy(array) for array in arrays]
    cases.run(made, bottoms)
    boxes, scores = run_onnx(made, arrays, "boxes")
    want = made._predictions(bottoms)
    np.testing.assert_array_equal(scores, want.conf)
    places = torch.meshgrid(torch.arange(3), torch.arange(37), torch.arange(5), indexing="ij")
    expected = want.boxes(*(place.flatten() for place in places), made.rule()).reshape(3, 37, 5, 4)
    # exp in float32 instead of double; coordinates below 2.
    np.testing.assert_allclose(boxes, expected if name == "own" else expected[:, :, 0], atol=3e-7)


@pytest.mark.parametrize(
    "text", ["nms_param { nms_threshold: 0.7 eta: 0.9 }", "keep_top_k: 0", "nms_param { top_k: 0 }"]
)
def test_what_onnx_cannot_say(text):
    made = layer(f"{CODE} {text}")
    cases.run(made, bottoms(SCORES))
    with pytest.raises(ConversionError):
        run_onnx(made, [bottom.numpy() for bottom in bottoms(SCORES)])


def test_prior_boxes_are_a_constant():
    made = cases.make('type: "PriorBox" prior_box_param { min_size: 10 }')
    _, (top,) = cases.run(made, [torch.zeros(1, 3, 2, 5), torch.zeros(1, 3, 20, 50)])
    graph = Stub({"a": (1, 3, 2, 5), "b": (1, 3, 20, 50)})
    (name,) = made.onnx(graph, ["a", "b"], [])
    assert not graph.nodes
    assert np.array_equal(numpy_helper.to_array(graph.constants[name]), top.numpy())
