"""mmdetection checkpoints by key map: the prototxt answers as the release's PyTorch modules do."""

import numpy as np
import pytest
import torch
from small_nets import noise, seeded
from torch import nn

from pyscratchdet import prototxt
from pyscratchdet.cli import main
from pyscratchdet.converters.compare import difference
from pyscratchdet.converters.mmdetection import convert_mmdetection
from pyscratchdet.errors import ConversionError
from pyscratchdet.proto.text import to_text
from pyscratchdet.runtime import load_net

NUM_CLASSES = 3
NUM_PRIORS = {300: (4, 6, 6, 6, 4, 4), 512: (4, 6, 6, 6, 6, 4, 4)}
# Relative L2, what DESIGN promises of one layer: forty convolutions in float32, normalised in another order.
TOLERANCE = 1e-5


def conv_bn(width, num_output, kernel=3, stride=1, padding=1):
    return nn.Conv2d(width, num_output, kernel, stride, padding, bias=False), nn.BatchNorm2d(num_output)


class Block(nn.Module):
    """mmdetection's BasicBlock: the sum before the last ReLU."""

    def __init__(self, width, num_output, stride):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(width, num_output, stride=stride)
        self.conv2, self.bn2 = conv_bn(num_output, num_output)
        self.downsample = None
        if stride != 1 or width != num_output:
            self.downsample = nn.Sequential(*conv_bn(width, num_output, 1, stride, 0))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Backbone(nn.Module):
    """Its Root-ResNet-34: SSDRES300 and SSDRES512 (backbones/ssd_root34_300.py, _512.py)."""

    def __init__(self, size):
        super().__init__()
        for index, width in enumerate((3, 64, 64), 1):
            conv, bn = conv_bn(width, 64)
            self.add_module(f"conv{index}", conv)
            self.add_module(f"bn{index}", bn)
        strides = (1, 2, 2, 2, 2, 2, 2, 2 if size == 512 else 1)
        width = 64
        for index, (count, stride) in enumerate(zip((3, 4, 6, 3, 1, 1, 1, 1), strides, strict=True)):
            wide = 64 * 2**index if index <= 3 else 128
            blocks = [Block(width if k == 0 else wide, wide, stride if k == 0 else 1) for k in range(count)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            width = wide
        if size == 512:
            self.conv4, self.bn4 = conv_bn(128, 128)
            self.conv5, self.bn5 = conv_bn(128, 128, kernel=4)

    def forward(self, x):
        for index in (1, 2, 3):
            x = torch.relu(getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x)))
        x = nn.functional.max_pool2d(x, 2, 2)
        outputs = []
        for index in range(1, 9):
            x = getattr(self, f"layer{index}")(x)
            outputs.append(x)
        if hasattr(self, "conv4"):
            x = torch.relu(self.bn4(self.conv4(x)))
            outputs.append(torch.relu(self.bn5(self.conv5(x))))
        return outputs[2:]


class Head(nn.Module):
    """Its SSDBNHead (ssdbn_head.py): one convolution with BatchNorm per source and kind."""

    def __init__(self, size):
        super().__init__()
        priors = NUM_PRIORS[size]
        widths = (256, 512, 128, 128, 128, 128, 128)[: len(priors)]
        for name, each in (("reg_convs", 4), ("cls_convs", NUM_CLASSES)):
            pairs = [nn.Sequential(*conv_bn(w, p * each)) for w, p in zip(widths, priors, strict=True)]
            self.add_module(name, nn.ModuleList(pairs))

    def forward(self, features):
        def rows(convs, each):
            found = [conv(x).permute(0, 2, 3, 1).reshape(len(x), -1) for conv, x in zip(convs, features, strict=True)]
            assert all(row.shape[1] % each == 0 for row in found)
            return torch.cat(found, 1)

        return rows(self.reg_convs, 4), rows(self.cls_convs, NUM_CLASSES)


class Detector(nn.Module):
    """What mmdetection saves: backbone and bbox_head."""

    def __init__(self, size):
        super().__init__()
        self.backbone, self.bbox_head = Backbone(size), Head(size)

    def forward(self, x):
        return self.bbox_head(self.backbone(x))


def write_checkpoint(folder, size):
    """Writes a checkpoint as its runner did, in the file format of PyTorch's old days, and the prototxt."""
    torch.manual_seed(size)
    module = seeded(Detector(size))
    content = {
        "meta": {"mmdet_version": "0.6.0", "epoch": 52, "iter": 9, "CLASSES": ("a", "b"), "config": "input_size = 300"},
        "state_dict": module.state_dict(),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.05, "params": [0]}]},
    }
    torch.save(content, folder / "epoch.pth", _use_new_zipfile_serialization=False)
    recipe = prototxt.build(f"scratchdet{size}_mmdet_coco", prototxt.Options(num_classes=NUM_CLASSES))
    (folder / "deploy.prototxt").write_text(to_text(recipe.deploy))
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mmdetection")
    return folder, write_checkpoint(folder, 300)


@pytest.mark.parametrize("size", [300, pytest.param(512, marks=pytest.mark.slow)])
def test_heads_answer_as_the_modules_did(size, tmp_path):
    """A BGR picture here, the same as RGB there; the mean is taken away on both sides."""
    module = write_checkpoint(tmp_path, size)
    blobs = convert_mmdetection(tmp_path / "epoch.pth", tmp_path / "deploy.prototxt", tmp_path / "w.caffemodel")
    net = load_net(tmp_path / "deploy.prototxt", tmp_path / "w.caffemodel")
    assert set(blobs) == set(net.params)
    inputs = noise((1, 3, size, size)) / 40
    with torch.no_grad():
        expected = module(torch.from_numpy(inputs[:, ::-1].copy()))
        found = net.forward_blobs({"data": torch.from_numpy(inputs)})
    for blob, rows in zip(("mbox_loc", "mbox_conf"), expected, strict=True):
        assert found[blob].shape == rows.shape
        assert difference(found[blob].numpy(), rows.numpy()).relative < TOLERANCE


def test_every_weight_finds_its_place(checkpoint):
    folder, module = checkpoint
    blobs = convert_mmdetection(folder / "epoch.pth", folder / "deploy.prototxt", folder / "w.caffemodel")
    state = {key: value.numpy() for key, value in module.state_dict().items()}
    np.testing.assert_array_equal(blobs["conv1"][0], state["backbone.conv1.weight"][:, [2, 1, 0]])
    np.testing.assert_array_equal(blobs["layer4.2_mbox_conf"][0], state["bbox_head.cls_convs.1.0.weight"])
    np.testing.assert_array_equal(blobs["layer4.2_mbox_loc_scale"][1], state["bbox_head.reg_convs.1.1.bias"])
    mean, _, factor = blobs["layer3.0.downsample.1"]
    np.testing.assert_array_equal(mean / factor, state["backbone.layer3.0.downsample.1.running_mean"])


def test_what_does_not_fit_is_named(checkpoint, tmp_path):
    folder, module = checkpoint
    state = module.state_dict()
    less = {key: value for key, value in state.items() if key != "backbone.layer2.1.bn2.running_var"}
    more = {**state, "neck.extra.weight": torch.zeros(2)}
    wide = {**state, "backbone.conv2.weight": torch.zeros(64, 64, 5, 5)}
    for content, code in ((less, "missing"), (more, "rest"), (wide, "shape")):
        torch.save({"state_dict": content}, tmp_path / "bad.pth")
        with pytest.raises(ConversionError) as caught:
            convert_mmdetection(tmp_path / "bad.pth", folder / "deploy.prototxt", tmp_path / "w.caffemodel")
        assert caught.value.code == f"mmdetection.{code}"
        assert not (tmp_path / "w.caffemodel").exists()


def test_by_command(checkpoint, tmp_path):
    folder, _ = checkpoint
    source, target = str(folder / "epoch.pth"), str(tmp_path / "w.caffemodel")
    assert main(["convert", source, target, "--mmdetection", "--model", str(folder / "deploy.prototxt")]) == 0
    assert main(["convert", source, target, "--mmdetection"]) == 2


def test_priors_have_the_releases_sizes():
    """Base sizes 7 % and from 15 % on in steps of 18 %, as its head works them out, in whole pixels."""
    param = prototxt.build("scratchdet300_mmdet_coco").deploy
    priors = [layer.prior_box_param for layer in param.layer if layer.type == "PriorBox"]
    assert [list(prior.min_size) for prior in priors] == [[21], [45], [99], [153], [207], [261]]
    assert [list(prior.max_size) for prior in priors] == [[45], [99], [153], [207], [261], [315]]
    assert [prior.step for prior in priors] == [8, 16, 32, 64, 100, 300]
