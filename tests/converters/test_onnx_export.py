"""Exported nets: sound ONNX, the same blobs in onnxruntime as in our runtime, any batch size."""

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import torch
from onnx import helper, numpy_helper
from small_nets import NET, detector, noise, small_net, write_net

from pyscratchdet import prototxt
from pyscratchdet.boxes.codes import decode_boxes
from pyscratchdet.cli import main
from pyscratchdet.converters.compare import difference, match_detections
from pyscratchdet.converters.engines import OnnxEngine, PyTorchEngine
from pyscratchdet.converters.onnx_export import (
    OPSETS,
    GraphCollector,
    PictureInput,
    export_onnx,
    raw_heads,
    save_onnx,
)
from pyscratchdet.detect.detector import Preparation
from pyscratchdet.errors import ConversionError
from pyscratchdet.proto import caffe_pb2

# Other orders of summation in float32, over a whole net.
TOLERANCE = 1e-5


def run(model, feed):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


@pytest.mark.parametrize("batch", [1, 3])
def test_blob_by_blob_at_any_batch_size(batch):
    net = small_net()
    model = export_onnx(net, all_blobs=True)
    onnx.checker.check_model(model, full_check=True)
    inputs = {"data": noise((batch, 3, 11, 14))}
    found = run(model, inputs)
    ours = PyTorchEngine(net).run(inputs)
    assert set(found) == set(ours) - {"data_in_0_split"}
    assert {"conv1@conv1", "conv1@bn1", "conv1@scale1", "conv1", "prob"} <= set(found)
    for name, array in found.items():
        assert array.shape == ours[name].shape
        assert difference(array, ours[name]).relative < TOLERANCE, name


def test_outputs_of_a_model_are_the_nets_own():
    model = export_onnx(small_net())
    assert [value.name for value in model.graph.output] == ["prob"]
    assert [value.name for value in model.graph.input] == ["data"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]  # standard operators only


def test_fixed_batch():
    model = export_onnx(small_net(), batch=2)
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 11, 14]
    assert [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [2, 7]


@pytest.mark.parametrize("opset", [OPSETS[0], 17, 20, OPSETS[-1]])
def test_the_same_graph_at_every_opset(opset):
    net = small_net(detector())
    inputs = {"data": noise((2, 3, 22, 26)) / 100}
    model = export_onnx(net, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in export_onnx(net).graph.node]
    if opset < OPSETS[-1]:  # onnx is ahead of onnxruntime
        np.testing.assert_array_equal(
            run(model, inputs)["detection_out"], run(export_onnx(net), inputs)["detection_out"]
        )


def test_an_opset_that_cannot_be_written():
    with pytest.raises(ConversionError) as caught:
        export_onnx(small_net(), opset=12)
    assert caught.value.code == "onnx.opset"


def test_constants_are_folded_and_nothing_needs_an_engines_own_habits():
    model = export_onnx(small_net(detector()))
    constants = {tensor.name for tensor in model.graph.initializer}
    assert not [node.name for node in model.graph.node if constants.issuperset(node.input)]
    assert not {"Compress", "Identity"} & {node.op_type for node in model.graph.node}


DETECTORS = {
    "few": detector(),  # keep_top_k 21 of each image's
    "all": detector().replace(" top_k: 60", "").replace("keep_top_k: 21 ", ""),
    "nothing": detector().replace("confidence_threshold: 0.3", "confidence_threshold: 0.999"),
}


def detections(text, heads="decoded", **options):
    """Returns rows (S, 7) of the ONNX file and of our runtime, for three images."""
    net = small_net(text)
    inputs = {"data": noise((3, 3, 22, 26)) / 100}  # softmax must not saturate into equal scores
    found = run(export_onnx(net, heads=heads, **options), inputs)["detection_out"]
    return found, PyTorchEngine(net).run(inputs)["detection_out"]


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("kind", DETECTORS)
def test_detections_are_the_same(kind, batch):
    found, ours = detections(DETECTORS[kind], batch=batch)
    assert found.shape == ours.shape
    assert ours.shape[2] > 40 or kind == "nothing"
    np.testing.assert_array_equal(found[..., :2], ours[..., :2])
    np.testing.assert_allclose(found[..., 2:], ours[..., 2:], atol=1e-5)  # TOLERANCE, values below 2


@pytest.mark.parametrize("kind", DETECTORS)
def test_fixed_rows_are_the_same_with_padding(kind):
    found, ours = detections(DETECTORS[kind], "fixed")
    rows = found.reshape(3, -1, 7)
    assert rows.shape[1] == 21 or kind == "all"
    real = rows[..., 1] >= 0
    assert (rows[~real] == -1).all()
    assert (np.sort(real, axis=1)[:, ::-1] == real).all()  # padding is last in each image
    np.testing.assert_allclose(rows[real], ours[0, 0][ours[0, 0, :, 1] >= 0], atol=1e-5)  # TOLERANCE, values below 2
    assert not real.any() or kind != "nothing"


def test_boxes_and_scores_before_suppression():
    net = small_net(detector())
    inputs = {"data": noise((2, 3, 22, 26)) / 100}
    found = run(export_onnx(net, heads="boxes"), inputs)
    ours = PyTorchEngine(net).run(inputs)
    assert list(found) == ["detection_out_boxes", "detection_out_scores"]
    priors, variances = torch.from_numpy(ours["mbox_priorbox"]).reshape(2, -1, 4)
    codes = torch.from_numpy(ours["mbox_loc"]).reshape(2, -1, 4)
    boxes = [decode_boxes(each, priors, variances, caffe_pb2.PriorBoxParameter.CENTER_SIZE) for each in codes]
    # TOLERANCE, values below 2.
    np.testing.assert_allclose(found["detection_out_boxes"], torch.stack(boxes), atol=1e-5)
    np.testing.assert_allclose(found["detection_out_scores"].reshape(2, -1), ours["mbox_conf_flatten"], atol=1e-5)


def test_raw_heads_are_what_detection_output_reads():
    net = small_net(detector())
    assert raw_heads(net) == ["mbox_loc", "mbox_conf_flatten", "mbox_priorbox"]
    found = run(export_onnx(net, outputs=raw_heads(net)), {"data": noise((1, 3, 22, 26))})
    ours = PyTorchEngine(net).run({"data": noise((1, 3, 22, 26))})
    assert list(found) == raw_heads(net)
    for name, array in found.items():
        assert difference(array, ours[name]).relative < TOLERANCE


def test_raw_heads_by_command(tmp_path):
    deploy, caffemodel = write_net(tmp_path, detector())
    target = str(tmp_path / "raw.onnx")
    assert main(["convert", caffemodel, target, "--model", deploy, "--heads", "raw"]) == 0
    model = onnx.load(target)
    assert [value.name for value in model.graph.output] == ["mbox_loc", "mbox_conf_flatten"]
    assert "NonMaxSuppression" not in {node.op_type for node in model.graph.node}
    priors = safetensors.numpy.load_file(tmp_path / "raw.priors.safetensors")
    ours = PyTorchEngine(small_net(detector())).run({"data": noise((1, 3, 22, 26))})
    np.testing.assert_array_equal(priors["mbox_priorbox"], ours["mbox_priorbox"])


@pytest.mark.parametrize("rgb", [False, True])
def test_a_picture_as_input(rgb):
    net = small_net(detector())
    preparation = Preparation((104.0, 117.0, 123.0), 0.017, rgb=True)
    model = export_onnx(net, heads="fixed", picture=PictureInput(preparation, rgb))
    onnx.checker.check_model(model, full_check=True)
    pictures = np.random.default_rng(8).integers(0, 256, (2, 40, 31, 3), np.uint8)
    bgr = pictures[..., ::-1] if rgb else pictures
    blob = np.stack([preparation(np.ascontiguousarray(each), 3, 22, 26) for each in bgr])
    model.graph.output.append(helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, [None] * 4))
    found = run(model, {"data_picture": pictures})
    # OpenCV resizes bytes in fixed point, so a byte may differ by one; noise, as here, differs most.
    np.testing.assert_allclose(found["data"], blob, atol=0.017 * 1.001)
    # A byte that differs shows as 0.017, float32 rounding as 1e-6: most bytes are the same.
    assert np.mean(np.abs(found["data"] - blob) > 1e-4) < 0.2


def test_raw_heads_need_a_detector():
    with pytest.raises(ConversionError) as caught:
        raw_heads(small_net())
    assert caught.value.code == "onnx.heads"


def test_unknown_output_is_refused():
    with pytest.raises(ConversionError, match="nothing"):
        export_onnx(small_net(), outputs=["nothing"])


def test_half_weights_compute_in_float32(tmp_path):
    net = small_net()
    save_onnx(net, tmp_path / "half.onnx", half=True)
    model = onnx.load(tmp_path / "half.onnx")
    types = {t.name: t.data_type for t in model.graph.initializer}
    assert types["conv1.weight"] == types["fc.bias"] == onnx.TensorProto.FLOAT16
    inputs = {"data": noise((1, 3, 11, 14))}
    with torch.no_grad():
        for module in net.layers:
            for blob in module.blobs:
                blob.copy_(blob.half().float())
    expected = PyTorchEngine(net).run(inputs)["prob"]
    assert difference(run(model, inputs)["prob"], expected).relative < TOLERANCE


def test_constants_of_one_name_stay_apart():
    graph = GraphCollector()
    first = graph.constant(np.array([1.5], "f4"))
    second = graph.constant(np.array([2], "i8"))
    third = graph.constant(np.array([2.5], "f4"))
    assert len({first, second, third}) == 3
    assert graph.constant(np.array([2], "i8")) == second
    values = {name: numpy_helper.to_array(tensor).tolist() for name, tensor in graph.initializers.items()}
    assert values == {first: [1.5], second: [2], third: [2.5]}


def test_scalar_constants_stay_scalars():
    graph = GraphCollector()
    name = graph.constant(np.array(3, "i8"))
    assert list(graph.initializers[name].dims) == []


def test_the_graph_shows_the_nets_layers():
    model = export_onnx(small_net())
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 3
    assert "MaxPool" in kinds
    pool = next(node for node in model.graph.node if node.op_type == "MaxPool")
    attributes = {a.name: helper.get_attribute_value(a) for a in pool.attribute}
    assert list(attributes["pads"]) == [0, 0, 1, 0]  # 11 rows of windows of 2: Caffe rounds up
    assert NET.count("Pooling") == 1


# Recipe, its options and the batch size; benchmarks/onnx_recipes.py does all of them.
RECIPES = [
    ("scratchdet300_rootres18_voc0712", {"width": 0.25}, 2),
    ("ssd300_vgg16_voc0712", {}, 1),
    ("refinedet320_vgg16_voc0712", {}, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "choices", "batch"), RECIPES, ids=[name for name, _, _ in RECIPES])
def test_recipes_detect_the_same(name, choices, batch):
    """Whole detectors, RefineDet's ARM included, at the threshold lowered so that seeded weights find something."""
    deploy = prototxt.build(name, prototxt.Options(num_classes=4, **choices)).deploy
    for layer in deploy.layer:
        if layer.type == "DetectionOutput":
            layer.detection_output_param.confidence_threshold = 0.26
            layer.detection_output_param.keep_top_k = 37
            layer.detection_output_param.ClearField("save_output_param")
            layer.detection_output_param.objectness_score = 0.3
    net = small_net_of(deploy)
    inputs = {"data": noise((batch, *net.blob_shapes["data"][1:]))}
    tame_heads(net, {"data": inputs["data"][:1]})
    found = OnnxEngine(net).run(inputs)  # the file is made for one picture and takes several
    ours = PyTorchEngine(net).run(inputs)
    assert set(ours["detection_out"][0, 0, :, 0]) == set(range(batch))
    rows, expected = match_detections(ours["detection_out"], found["detection_out"])
    assert len(expected) == ours["detection_out"].shape[2] == found["detection_out"].shape[2] > 5
    # What README promises of a whole net: rounding builds up through its layers.
    np.testing.assert_allclose(rows[:, 2:], expected[:, 2:], atol=1e-4)
    for blob in ("mbox_loc", "odm_loc", "arm_loc"):
        if blob in ours:
            assert difference(ours[blob], found[blob]).relative < 1e-4


def tame_heads(net, inputs):
    """Scales the heads to answers around 1, so that softmax does not saturate into equal scores."""
    with torch.no_grad():
        blobs = net.forward_blobs(inputs)
        for module in net.layers:
            if module.layer_type == "Convolution" and ("mbox_loc" in module.name or "mbox_conf" in module.name):
                module.blobs[0].div_(blobs[module.name].std())


def small_net_of(param):
    """A net of a recipe whose activations neither vanish nor explode."""
    from pyscratchdet.rng import CaffeRandom
    from pyscratchdet.runtime import build_net

    net = build_net(param, random=CaffeRandom(2))
    with torch.no_grad():
        for module in net.layers:
            if module.layer_type == "BatchNorm":
                module.blobs[1].fill_(1.0)
                module.blobs[2].fill_(1.0)
            elif module.layer_type in ("Convolution", "Deconvolution"):
                fan_in = module.blobs[0][0].numel()
                module.blobs[0].normal_(0, (2 / fan_in) ** 0.5, generator=torch.Generator().manual_seed(fan_in))
    return net


def test_only_files_with_an_open_batch_size_have_shapes_that_depend_on_values():
    net = small_net(detector())
    kinds = {
        batch: [node.op_type for node in export_onnx(net, heads="fixed", batch=batch).graph.node] for batch in (None, 2)
    }
    assert kinds[None].count("NonZero") == 1  # what MNN's converter cannot see through
    assert "NonZero" not in kinds[2]  # which TensorRT and compilers take


def test_a_net_with_a_batch_size_of_its_own_declares_it():
    text = detector().replace("shape { dim: 0 dim: -1 dim: 3 }", "shape { dim: 1 dim: -1 dim: 3 }")
    assert text != detector()
    net = small_net(text)
    assert net.plan.fixed_batch() == 1
    assert small_net().plan.fixed_batch() is None
    model = export_onnx(net)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    inputs = {"data": noise((1, 3, 22, 26)) / 100}
    # TOLERANCE, values below 2.
    np.testing.assert_allclose(
        run(model, inputs)["detection_out"], PyTorchEngine(net).run(inputs)["detection_out"], atol=1e-5
    )


def test_options_by_command(tmp_path, capsys):
    deploy, caffemodel = write_net(tmp_path, detector())
    labels = tmp_path / "labels.prototxt"
    labels.write_text('item { name: "none" label: 0 } item { name: "a" label: 1 } item { name: "b" label: 2 }')
    target = str(tmp_path / "net.onnx")
    options = ["--heads", "fixed", "--opset", "13", "--batch", "2", "--input-picture", "rgb", "--scale", "0.5"]
    command = ["convert", caffemodel, target, "--model", deploy, "--labelmap", str(labels), "--mean", "1,2,3"]
    assert main([*command, *options]) == 0
    said = capsys.readouterr().out
    assert "known to run in onnxruntime, OpenVINO, OpenCV 5" in said
    assert "each picture: image, label, score, xmin, ymin, xmax, ymax" in " ".join(said.split())
    assert "boxes are relative to the picture (0 to 1), not clipped to it" in said
    assert "inside: stretched to 22 x 26; (value - mean) * scale, mean 1,2,3, scale 0.5" in " ".join(said.split())
    assert "labels: 0 none, 1 a, 2 b" in said
    assert max(map(len, said.splitlines()[1:])) < 80  # the first names the file
    model = onnx.load(target)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["labels"] == '{"0": "none", "1": "a", "2": "b"}'
    assert [facts[key] for key in ("mean", "scale", "channels", "picture")] == ["1,2,3", "0.5", "bgr", "rgb"]
    assert str(tmp_path) not in "".join(facts.values())
    assert model.opset_import[0].version == 13
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [2, 0, 0, 3]
    pictures = np.zeros((2, 9, 8, 3), np.uint8)
    assert run(model, {"data_picture": pictures})["detection_out"].shape == (1, 1, 42, 7)


@pytest.mark.parametrize(("option", "value"), [("--batch", "0"), ("--batch", "many"), ("--opset", "5")])
def test_values_that_are_refused(option, value, tmp_path, capsys):
    deploy, caffemodel = write_net(tmp_path, detector())
    assert main(["convert", caffemodel, str(tmp_path / "net.onnx"), "--model", deploy, option, value]) == 2
    assert option.strip("-") in capsys.readouterr().err
