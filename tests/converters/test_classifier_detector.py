"""An SSD on a classifier: its features are the classifier's, its nets run and train."""

import numpy as np
import pytest
import torch
from small_nets import noise, seeded
from torch import nn

from pyscratchdet.cli import main
from pyscratchdet.converters.backbone import take_bgr
from pyscratchdet.converters.compare import difference
from pyscratchdet.converters.imports import import_module
from pyscratchdet.converters.torch_models import NamedModel
from pyscratchdet.errors import UsageError
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.prototxt import Options
from pyscratchdet.prototxt.classifier import feature_layers, ssd_on_classifier
from pyscratchdet.runtime import build_net, copy_weights

MEAN = NamedModel("small", nn.Identity()).mean_bgr
MEAN_BGR = np.array(MEAN, "f4")[:, None, None]
STD_RGB = np.array([0.229, 0.224, 0.225], "f4")[:, None, None]


def small_classifier():
    torch.manual_seed(2)
    fine = nn.Sequential(nn.Conv2d(3, 8, 3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(True))
    coarse = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    return seeded(nn.Sequential(fine, coarse, head))


def on_small_classifier(module, outputs):
    """The cut classifier and the detector on it."""
    net = import_module(module, (1, 3, 64, 64), "small", outputs=outputs).net
    take_bgr(net)
    maps = {layer: (blob, net.shapes[blob]) for layer, blob in net.outputs.items()}
    num_blobs = {layer: len(arrays) for layer, arrays in net.blobs.items()}
    return net, ssd_on_classifier(net.param, num_blobs, maps, 64, "ssd_small", MEAN, Options(folder="out"))


def test_the_detector_sees_what_the_classifier_saw():
    module, inputs = small_classifier(), noise((1, 3, 64, 64))
    net, recipe = on_small_classifier(module, ["0", "1"])
    deploy = build_net(recipe.deploy)
    copy_weights(deploy, net.blobs)
    with torch.no_grad():
        blobs = deploy.forward_blobs({"data": torch.from_numpy(inputs)})
        fine = module[0](torch.from_numpy(((inputs + MEAN_BGR)[:, ::-1] / 255 - MEAN_BGR[::-1] / 255) / STD_RGB))
        expected = {"0": fine, "1": module[1](fine)}
    for name, value in expected.items():  # a few float32 layers, the first one's weights rounded once more
        assert difference(blobs[net.outputs[name]].numpy(), value.numpy()).relative < 1e-5
    assert deploy.blob_shapes["extra1_2"][2:] == (2, 2)
    assert deploy.blob_shapes["extra2_2"][2:] == (1, 1)
    assert "extra3_2" not in deploy.blob_shapes
    assert deploy.output_names == ["detection_out"]


def test_rates_statistics_and_mean_are_caffes_habit():
    _, recipe = on_small_classifier(small_classifier(), ["0", "1"])
    rates = {layer.name: [(param.lr_mult, param.decay_mult) for param in layer.param] for layer in recipe.train.layer}
    assert rates["0.0"] == [(1, 1), (2, 0)]
    assert rates["1.0"] == [(1, 1)]
    assert rates["0.1"] == [(0, 0)] * 3
    assert rates["0.1_scale"] == [(1, 0), (1, 0)]
    assert [layer.type for layer in recipe.train.layer][-1] == "MultiBoxLoss"
    np.testing.assert_allclose(recipe.train.layer[0].transform_param.mean_value, MEAN_BGR.ravel(), rtol=1e-6)  # float32
    assert len({layer.name for layer in recipe.train.layer}) == len(recipe.train.layer)


def test_features_that_are_no_pyramid_are_refused():
    with pytest.raises(UsageError, match="each smaller than the one before"):
        on_small_classifier(small_classifier(), ["1", "0"])
    with pytest.raises(UsageError, match="feature layers of small are not known"):
        feature_layers(small_classifier(), "small")


@pytest.mark.slow
@pytest.mark.parametrize(
    "spelling",
    ["torchvision:resnet18", "torchvision:mobilenet_v2", "torchvision:mobilenet_v3_small",
     "torchvision:shufflenet_v2_x0_5", "torchvision:efficientnet_b0", "timm:mobilenetv1_100"],
)  # fmt: skip
def test_families_by_command(spelling, tmp_path, capsys):
    """Maps at 1/16 and 1/32 of the picture, and a deploy net whose shapes fit."""
    folder = tmp_path / "ssd"
    assert main(["convert", spelling, f"{folder}/", "--size", "160"]) == 0
    assert "10x10, " in capsys.readouterr().out
    plan = plan_net(folder / "deploy.prototxt", caffe_pb2.TEST)
    assert plan.layers[-1].type == "DetectionOutput"
    assert {"train.prototxt", "test.prototxt", "solver.prototxt", "start.caffemodel"} <= {
        p.name for p in folder.iterdir()
    }
