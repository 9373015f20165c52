"""Classifiers under detectors' names: the detector's backbone computes what the classifier did, or says what not."""

import cv2
import numpy as np
import pytest
import torch
from small_nets import noise, seeded
from torch import nn
from torchvision.models import resnet
from torchvision.models.vgg import VGG, make_layers

from pyscratchdet import prototxt
from pyscratchdet.cli import main
from pyscratchdet.converters.backbone import convert_backbone, write_backbone
from pyscratchdet.converters.compare import difference
from pyscratchdet.converters.torch_import import import_module
from pyscratchdet.converters.torch_models import torchvision_model
from pyscratchdet.errors import ConversionError
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import to_text, write
from pyscratchdet.proto.weights import read_weights, write_caffemodel
from pyscratchdet.runtime import build_net, copy_weights

# Relative L2, what DESIGN promises of one layer: a hundred layers in float32, the first one's
# weights rounded once more.
TOLERANCE = 1e-5
MEAN_BGR = np.array([103.53, 116.28, 123.675], "f4")[:, None, None]
STD_RGB = np.array([0.229, 0.224, 0.225], "f4")[:, None, None]


def narrow_vgg(batch_norm):
    """VGG-16 with an eighth of the channels and a classifier of 64."""
    width = [8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M"]
    torch.manual_seed(1)
    module = VGG(make_layers(width, batch_norm))
    module.classifier = nn.Sequential(
        nn.Linear(64 * 49, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(True), nn.Linear(64, 10)
    )
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                part.bias.normal_(0, 0.2)
    return seeded(module)


def backbone(recipe, end, size, eighth=False, change=lambda layer: None):
    """The published net before the layer `end`, for another input size, if wished with an eighth of the channels."""
    deploy = prototxt.build(recipe).deploy
    del deploy.layer[[layer.name for layer in deploy.layer].index(end) :]
    for layer in deploy.layer:
        if layer.type == "Input":
            layer.input_param.shape[0].dim[2:] = size
        if eighth and layer.type == "Convolution":
            layer.convolution_param.num_output = layer.convolution_param.num_output // (64 if "fc" in layer.name else 8)
        change(layer)
    return deploy


def answers(deploy, blobs, inputs, blob):
    net = build_net(deploy)
    copy_weights(net, blobs)
    with torch.no_grad():
        return net.forward_blobs({"data": torch.from_numpy(inputs)})[blob].numpy()


def opencv_answers(folder, deploy, blobs, inputs):
    """What OpenCV's importer makes of the last layer."""
    write(folder / "net.prototxt", deploy)
    write_caffemodel(folder / "net.caffemodel", deploy, blobs)
    net = cv2.dnn.readNetFromCaffe(str(folder / "net.prototxt"), str(folder / "net.caffemodel"))
    net.setInput(inputs)
    return net.forward()


def as_classifier_sees(inputs):
    """What torchvision's models take, from BGR less the mean."""
    return torch.from_numpy(((inputs + MEAN_BGR)[:, ::-1] / 255 - MEAN_BGR[::-1] / 255) / STD_RGB)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("recipe", ["ssd300_vgg16_voc0712", "table1_vgg16_bn_all_lr0.001_pretrained"])
def test_vgg_answers_as_before(recipe, batch_norm, tmp_path):
    """BatchNorm is folded where the detector has none, and begins as the identity where the classifier has none."""
    module, inputs = narrow_vgg(batch_norm), noise((2, 3, 32, 48))
    source = import_module(module, (1, 3, 224, 224))
    deploy = backbone(recipe, "pool5", (32, 48), eighth=True)
    result, _ = convert_backbone(source, plan_net(deploy, caffe_pb2.TEST))
    assert not result.left
    assert len(result.sources) == 13
    assert not result.other
    assert result.unused[:1] == ["classifier.0"]
    cut = {"features.40": True, "features.28": False}
    assert result.sources["conv5_3"] in cut
    assert cut[result.sources["conv5_3"]] == batch_norm
    with torch.no_grad():
        expected = module.features[:-1](as_classifier_sees(inputs)).numpy()
    assert difference(answers(deploy, result.blobs, inputs, "conv5_3"), expected).relative < TOLERANCE
    assert difference(opencv_answers(tmp_path, deploy, result.blobs, inputs), expected).relative < TOLERANCE


def test_fc6_and_fc7_are_reduced():
    module = narrow_vgg(batch_norm=True)
    source = import_module(module, (1, 3, 224, 224))
    deploy = backbone("ssd300_vgg16_voc0712", "conv6_1", (96, 96), eighth=True)
    result, _ = convert_backbone(source, plan_net(deploy, caffe_pb2.TEST))
    fc6, fc7 = module.classifier[0], module.classifier[3]
    weight = fc6.weight.detach().numpy().reshape(64, 64, 7, 7)
    np.testing.assert_array_equal(result.blobs["fc6"][0], weight[::4, :, ::3, ::3])
    np.testing.assert_array_equal(result.blobs["fc6"][1], fc6.bias.detach().numpy()[::4])
    np.testing.assert_array_equal(result.blobs["fc7"][0], fc7.weight.detach().numpy()[::4, ::4, None, None])
    assert "pool5 has kernel (3, 3), the classifier (2, 2)" in result.other


def test_first_layer_takes_a_bgr_picture():
    module = narrow_vgg(batch_norm=False)
    source = import_module(module, (1, 3, 224, 224))
    deploy = backbone("ssd300_vgg16_voc0712", "pool5", (32, 32), eighth=True)
    result, _ = convert_backbone(source, plan_net(deploy, caffe_pb2.TEST))
    scaled = module.features[0].weight.detach().numpy() / (255 * STD_RGB)
    np.testing.assert_allclose(result.blobs["conv1_1"][0], scaled[:, ::-1], rtol=1e-6)  # rounded once


def as_torchvision(layer):
    """torchvision moved a bottleneck's stride from its first to its second convolution and pads the first pooling."""
    if layer.name in ("res3a_branch2a", "res4a_branch2a"):
        layer.convolution_param.stride[:] = [1]
    elif layer.name in ("res3a_branch2b", "res4a_branch2b"):
        layer.convolution_param.stride[:] = [2]
    elif layer.name == "pool1":
        layer.pooling_param.pad = 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ssd300_resnet101_voc0712", "refinedet320_resnet101_coco"])
def test_resnet101_answers_as_before(recipe, tmp_path):
    """Up to res4b22, SSD's eps of 1e-3 included."""
    module, inputs = seeded(torchvision_model("resnet101")), noise((1, 3, 65, 65))
    source = import_module(module, inputs.shape)
    deploy = backbone(recipe, "res5a_branch1", (65, 65), change=as_torchvision)
    result, _ = convert_backbone(source, plan_net(deploy, caffe_pb2.TEST))
    assert len(result.sources) == 1 + 3 * (3 + 4 + 23) + 3
    assert not result.left
    assert not result.other
    with torch.no_grad():
        x = as_classifier_sees(inputs)
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"):
            x = getattr(module, name)(x)
    assert difference(answers(deploy, result.blobs, inputs, "res4b22"), x.numpy()).relative < TOLERANCE
    assert difference(opencv_answers(tmp_path, deploy, result.blobs, inputs), x.numpy()).relative < TOLERANCE


@pytest.mark.slow
def test_what_the_published_resnet_does_otherwise_is_told():
    source = import_module(torchvision_model("resnet101"), (1, 3, 65, 65))
    deploy = prototxt.build("ssd300_resnet101_voc0712").deploy
    result, _ = convert_backbone(source, plan_net(deploy, caffe_pb2.TEST))
    assert len(result.sources) == 104
    assert result.unused == ["fc"]
    assert "res3a_branch2a has stride (2, 2), layer2.0.conv1 (1, 1)" in result.other
    assert "res5a_branch2b has dilation (2, 2), layer4.0.conv2 (1, 1)" in result.other
    assert "pool1 has pad (0, 0), the classifier (1, 1)" in result.other
    assert len(result.other) == 13


def test_residual_nets_of_scratchdet_take_what_they_can_express():
    """Their BatchNorms come before a block, torchvision's behind its convolutions: every second one has no place."""
    torch.manual_seed(2)
    module = seeded(resnet.ResNet(resnet.BasicBlock, [2, 2, 2, 2]))
    source = import_module(module, (1, 3, 64, 64))
    deploy = prototxt.build("figure3_resnet18").deploy
    result, _ = convert_backbone(source, plan_net(deploy, caffe_pb2.TEST))
    assert result.sources["stem_1"] == "conv1"
    assert result.sources["conv4_3"] == "layer3.1.conv1"
    assert result.left["conv4_4"] == "it has no bias, which the classifier's BatchNorm or bias needs (layer3.1.conv2)"
    assert result.left["Convolution2"].endswith("(layer3.0.downsample.0)")
    assert (len(result.sources), len(result.left)) == (9, 11)
    assert "BatchNorm4" in result.identities


def test_roots_own_stem_keeps_its_filler():
    torch.manual_seed(2)
    source = import_module(seeded(resnet.ResNet(resnet.BasicBlock, [3, 4, 6, 3])), (1, 3, 64, 64))
    deploy = prototxt.build("scratchdet300_mmdet_coco").deploy
    result, _ = convert_backbone(source, plan_net(deploy, caffe_pb2.TEST))
    assert result.left == {"conv1": "weights of shape (64, 3, 7, 7) where (64, 3, 3, 3) is needed (conv1)"}
    assert len(result.sources) == 35


def test_no_layer_in_common_is_an_error():
    source = import_module(seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), (1, 3, 12, 14))
    plan = plan_net(prototxt.build("ssd300_vgg16_voc0712").deploy, caffe_pb2.TEST)
    with pytest.raises(ConversionError) as caught:
        convert_backbone(source, plan)
    assert caught.value.code == "backbone.layers"
    torch.manual_seed(2)
    residual = seeded(resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1]))
    with pytest.raises(ConversionError):  # conv2_1 and so on are VGG's here
        convert_backbone(import_module(residual, (1, 3, 64, 64)), plan)


def test_the_file_holds_the_converted_layers_in_order(tmp_path):
    source = import_module(narrow_vgg(batch_norm=True), (1, 3, 224, 224))
    write(tmp_path / "net.prototxt", backbone("ssd300_vgg16_voc0712", "conv6_1", (96, 96), eighth=True))
    result = write_backbone(source, tmp_path / "net.prototxt", tmp_path / "w.caffemodel")
    found = read_weights(tmp_path / "w.caffemodel").blobs
    assert list(found) == list(result.sources)
    assert next(iter(found)) == "conv1_1"
    for layer, arrays in found.items():
        for mine, theirs in zip(arrays, result.blobs[layer], strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_pretrained_vgg16_bn_is_one_command(tmp_path, capsys):
    """Table 1 of the paper: VGG-16-BN of PyTorch's model zoo, here with seeded weights in the zoo's file form."""
    name = "table1_vgg16_bn_all_lr0.001_pretrained"
    torch.manual_seed(4)
    torch.save(torchvision_model("vgg16_bn").state_dict(), tmp_path / "vgg16_bn.pth")
    (tmp_path / "deploy.prototxt").write_text(to_text(prototxt.build(name).deploy))
    target = str(tmp_path / "VGG_16_bn.caffemodel")
    options = ["--weights", str(tmp_path / "vgg16_bn.pth"), "--model", str(tmp_path / "deploy.prototxt")]
    assert main(["convert", "torchvision:vgg16_bn", target, *options]) == 0
    printed = capsys.readouterr().out
    assert "15 convolutions converted, 0 left with filler values" in printed
    found = read_weights(target).blobs
    assert {"conv1_1", "conv5_3", "fc6", "fc7", "BatchNorm1", "Scale1"} <= set(found)
    assert found["fc6"][0].shape == (1024, 512, 3, 3)
