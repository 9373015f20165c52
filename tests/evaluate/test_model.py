"""A detector judged in one call is judged as by `pyscratchdet evaluate`."""

import json

import pytest

from pyscratchdet import Detector, build_net, evaluate_detector, save_weights
from pyscratchdet.cli import main
from pyscratchdet.data.shapes import make_shapes
from pyscratchdet.errors import DataError
from pyscratchdet.proto import caffe_pb2, text
from pyscratchdet.rng import CaffeRandom

NET = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 24 dim: 32 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 8 stride: 8 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "loc" type: "InnerProduct" bottom: "conv" top: "loc"
  inner_product_param { num_output: 48 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "conf" type: "InnerProduct" bottom: "conv" top: "conf"
  inner_product_param { num_output: 84 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "prior" type: "PriorBox" bottom: "conv" bottom: "data" top: "prior" prior_box_param { min_size: 12 } }
layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "out"
  detection_output_param { num_classes: 7 nms_param { nms_threshold: 0.5 top_k: 50 } keep_top_k: 50 } }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    make_shapes(folder / "set", 3, 5, 64, seed=1)
    (folder / "net.prototxt").write_text(NET)
    net = build_net(text.parse(NET, caffe_pb2.NetParameter), "TEST", random=CaffeRandom(3))
    save_weights(net, folder / "net.caffemodel")
    devkit = folder / "set" / "VOCdevkit/VOC2007"
    assert main(["lmdb", "folder", str(devkit), str(devkit / "Annotations"), str(folder / "own"), "--split", "0.5",
                 "--label-map", str(folder / "set/labelmap.prototxt")]) == 0  # fmt: skip
    return folder


@pytest.mark.parametrize("kind", ["voc", "folder"])
def test_as_the_command(folder, kind, capsys):
    files = [str(folder / name) for name in ("net.prototxt", "net.caffemodel", "set/labelmap.prototxt")]
    data = folder / "own" if kind == "folder" else folder / "set/VOCdevkit"
    capsys.readouterr()
    options = [word for pair in zip(("--model", "--weights", "--labelmap"), files, strict=True) for word in pair]
    assert (
        main(["evaluate", kind, "--data", str(data), *options, "--metric", "area", "--overlap", "0.1", "--json"]) == 0
    )
    wanted = json.loads(capsys.readouterr().out)
    found = evaluate_detector(Detector(*files), data, metric="area", overlap=0.1)
    assert wanted["mAP"] > 0  # so that something is compared
    assert found.mean_ap == wanted["mAP"]
    assert {one.name: one.num_detections for one in found.classes} == {
        name: figures["detections"] for name, figures in wanted["classes"].items()
    }


def test_a_detector_without_the_classes_is_refused(folder):
    detector = Detector(str(folder / "net.prototxt"), str(folder / "net.caffemodel"))
    with pytest.raises(DataError, match="class"):
        evaluate_detector(detector, folder / "set/VOCdevkit")
