"""ONNX files that end in locations and scores become deploy nets with the priors that the user gives."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save

from pyscratchdet.boxes.detection import DetectionRule, Predictions, detect
from pyscratchdet.cli import main
from pyscratchdet.converters.compare import match_detections
from pyscratchdet.converters.given_priors import read_priors
from pyscratchdet.errors import DataError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.runtime import load_net

CLASSES = 3


def priors():
    """Two boxes for each cell of a 4 x 5 map, then one for each of a 2 x 3 map."""
    boxes = []
    for height, width, sizes in ((4, 5, (0.15, 0.3)), (2, 3, (0.6,))):
        for y in range(height):
            for x in range(width):
                center = np.array([(x + 0.5) / width, (y + 0.4) / height])
                boxes += [[*(center - size / 2), *(center + size / 3)] for size in sizes]
    return np.float32(boxes)


def detector(folder, softmax=True, landmarks=True):
    """An ONNX file with heads on two maps, as face detectors are exported."""
    rng = np.random.default_rng(6)
    arrays, nodes = {}, []

    def convolve(bottom, top, channels, inputs, stride=1):
        arrays[f"{top}_w"] = rng.normal(0, 0.6 / inputs**0.5, (channels, inputs, 3, 3)).astype("f4")
        attributes = {"pads": [1, 1, 1, 1], "strides": [stride, stride]}
        nodes.append(helper.make_node("Conv", [bottom, f"{top}_w"], [top], **attributes))

    convolve("x", "a", 6, 3, 4)
    nodes.append(helper.make_node("Relu", ["a"], ["fine"]))
    convolve("fine", "coarse", 6, 6, 2)
    outputs = {"boxes": 4, "logits": CLASSES, **({"points": 10} if landmarks else {})}
    for name, each in outputs.items():
        arrays[f"{name}_rows"] = np.array([0, -1, each])
        parts = []
        for bottom, number in (("fine", 2), ("coarse", 1)):
            part = f"{name}_{bottom}"
            convolve(bottom, part, each * number, 6)
            nodes.append(helper.make_node("Transpose", [part], [f"{part}_t"], perm=[0, 2, 3, 1]))
            nodes.append(helper.make_node("Reshape", [f"{part}_t", f"{name}_rows"], [f"{part}_r"]))
            parts.append(f"{part}_r")
        nodes.append(helper.make_node("Concat", parts, [name], axis=1))
    names = list(outputs)
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["scores"], axis=2))
        names[1] = "scores"
    graph = helper.make_graph(
        nodes,
        "faces",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 16, 20))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, folder / "faces.onnx")
    return str(folder / "faces.onnx"), names


@pytest.mark.parametrize("softmax", [True, False])
def test_rows_are_those_of_the_outputs_and_the_priors(softmax, tmp_path, capsys):
    path, names = detector(tmp_path, softmax)
    np.savez(tmp_path / "priors.npz", priors=priors(), variances=[0.2, 0.2, 0.1, 0.1])
    files = [str(tmp_path / name) for name in ("net.caffemodel", "net.prototxt", "priors.npz")]
    assert main(["convert", path, files[0], "--prototxt", files[1], "--priors", files[2]]) == 0
    said = capsys.readouterr().out
    assert "locations are boxes, scores of 3 classes" in said
    assert ("a Softmax was added" in said) != softmax
    assert "outputs that are no part of detections: points" in said
    assert "pyscratchdet and onnxruntime agree on all" in said
    assert "pyscratchdet and opencv agree on all" in said
    inputs = np.random.default_rng(2).normal(0, 1, (1, 3, 16, 20)).astype("f4")
    boxes, scores = onnxruntime.InferenceSession(path).run(names[:2], {"x": inputs})
    scores = torch.from_numpy(scores)
    predictions = Predictions(
        torch.from_numpy(boxes)[:, :, None],
        scores if softmax else scores.softmax(2),
        torch.from_numpy(priors()),
        torch.tensor([[0.2, 0.2, 0.1, 0.1]]).expand(46, 4),
    )
    code = caffe_pb2.PriorBoxParameter.CENTER_SIZE
    rule = DetectionRule(CLASSES, 0, code, False, 0.01, 0.45, top_k=400, keep_top_k=200)
    expected = detect(predictions, rule).table().numpy()
    net = load_net(files[1], files[0])
    rows = net({"x": torch.from_numpy(inputs)})["detection_out"].detach().numpy()
    found, wanted = match_detections(rows, expected)
    assert len(found) == len(expected) == rows.shape[2] > 30
    np.testing.assert_allclose(found, wanted, atol=2e-6)  # convolutions of 54 float32 products in another order


def test_priors_as_text(tmp_path):
    (tmp_path / "priors.csv").write_text("0.1, 0.2, 0.5, 0.7\n\n0,0,1,1\n")
    boxes, variances = read_priors(tmp_path / "priors.csv")
    np.testing.assert_array_equal(boxes, np.float32([[0.1, 0.2, 0.5, 0.7], [0, 0, 1, 1]]))
    np.testing.assert_array_equal(variances, np.float32([0.1, 0.1, 0.2, 0.2]))


@pytest.mark.parametrize("text", ["", "1,2,3\n", "0.5,0.5,0.1,0.9\n", "a,b,c,d\n", "0,0,1,1\n0,0,1\n", "0,0,nan,1\n"])
def test_what_are_no_priors(text, tmp_path):
    (tmp_path / "priors.txt").write_text(text)
    with pytest.raises(DataError) as caught:
        read_priors(tmp_path / "priors.txt")
    assert caught.value.code == "data.priors"


def test_another_number_of_priors_is_refused(tmp_path, capsys):
    path, _ = detector(tmp_path, landmarks=False)
    np.savez(tmp_path / "priors.npz", priors=priors()[:-1])
    line = ["convert", path, str(tmp_path / "n.caffemodel"), "--prototxt", str(tmp_path / "n.prototxt")]
    assert main([*line, "--priors", str(tmp_path / "priors.npz")]) == 2
    message = capsys.readouterr().err
    assert "[import.priors]" in message
    assert "boxes (1, 46, 4)" in message
