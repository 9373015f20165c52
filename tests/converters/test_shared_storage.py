"""ONNX and engines on nets whose layers in place write to an input, or to memory that other blobs share."""

import numpy as np
import onnx
import pytest

import pyscratchdet
from pyscratchdet.converters.compare import compare
from pyscratchdet.converters.engines import OnnxEngine, OpenCVEngine, PyTorchEngine
from pyscratchdet.converters.onnx_export import export_onnx
from pyscratchdet.proto import caffe_pb2, text

onnxruntime = pytest.importorskip("onnxruntime")

INPUT = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 3 dim: 2 } } }'
ALIAS = """
layer { name: "abs" type: "Power" bottom: "data" top: "a" power_param { shift: 1 } }
layer { name: "rs" type: "Reshape" bottom: "a" top: "r" reshape_param { shape { dim: 0 dim: -1 dim: 2 } } }
layer { name: "sig" type: "Sigmoid" bottom: "r" top: "r" }
layer { name: "fl" type: "Flatten" bottom: "r" top: "f" }
layer { name: "twice" type: "Power" bottom: "f" top: "f" power_param { scale: 2 } }
"""
ON_INPUT = """
layer { name: "bn" type: "BatchNorm" bottom: "data" top: "data" }
layer { name: "relu" type: "ReLU" bottom: "data" top: "data" }
layer { name: "relu" type: "Sigmoid" bottom: "data" top: "data" }
layer { name: "c" type: "InnerProduct" bottom: "data" top: "c"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""


def build(layers):
    net = pyscratchdet.build_net(text.parse(INPUT + layers, caffe_pb2.NetParameter))
    for blob in net.params.get("bn", []):
        blob += 0.5
    return net


def picture(batch=2):
    return np.random.default_rng(4).normal(size=(batch, 4, 3, 2)).astype(np.float32)


@pytest.mark.parametrize("layers", [ALIAS, ON_INPUT], ids=["alias", "on input"])
@pytest.mark.parametrize("all_blobs", [False, True])
def test_onnx(layers, all_blobs):
    net = build(layers)
    model = export_onnx(net, all_blobs=all_blobs)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["data"]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for batch in (1, 3):
        names = [output.name for output in session.get_outputs()]
        values = dict(zip(names, session.run(names, {"data": picture(batch)}), strict=True))
        blobs = net.forward_blobs(picture(batch))
        final = {"data": "data@relu%2"} if layers == ON_INPUT else {}
        shown = [name for name in blobs if final.get(name, name) in values]
        assert set(shown) == (set(blobs) if all_blobs else set(net.output_names))
        for name in shown:
            # A sum of 24 products, and an exponential, in float32.
            np.testing.assert_allclose(
                values[final.get(name, name)], blobs[name].detach().numpy(), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("name", "ar")
def test_onnx_of_a_blob_that_another_layer_wrote_last(name):
    net = build(ALIAS)
    session = onnxruntime.InferenceSession(export_onnx(net, outputs=[name]).SerializeToString())
    (value,) = session.run([name], {"data": picture(1)})
    # One exponential in float32.
    np.testing.assert_allclose(value, net.forward_blobs(picture(1))[name], rtol=1e-6)


@pytest.mark.parametrize("layers", [ALIAS, ON_INPUT], ids=["alias", "on input"])
@pytest.mark.parametrize("engine", ["onnxruntime", "opencv"])
def test_verify(layers, engine, tmp_path):
    net = build(layers)
    (tmp_path / "net.prototxt").write_text(INPUT + layers)
    other = OnnxEngine(net) if engine == "onnxruntime" else OpenCVEngine(tmp_path / "net.prototxt", None, net)
    result = compare(net, PyTorchEngine(net), other, {"data": picture()})
    assert result.agrees
    shown = {blob.blob for blob in result.blobs}
    if engine == "onnxruntime":
        assert shown >= set(net.blob_names) - {"data"}


def test_verify_against_a_recording_of_final_values():
    """What the original shows for a blob is what was written to its memory last."""
    net, x = build(ALIAS), picture()
    ours = PyTorchEngine(net).run({"data": x})
    final = net.forward_blobs(x)
    for name in ("a", "r", "f"):
        np.testing.assert_array_equal(ours[name], final[name].numpy())
    np.testing.assert_array_equal(ours["a@abs"], x + 1)
