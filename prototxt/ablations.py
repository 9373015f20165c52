"""The comparisons of ScratchDet's paper: table 1 (BatchNorm, learning rate), table 2 and figure 3 (the root block)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pyscratchdet.caffe import model_libs
from pyscratchdet.caffe.net_spec import NetSpec
from pyscratchdet.prototxt import printed
from pyscratchdet.prototxt.nets import single_shot
from pyscratchdet.prototxt.recipe import VOC0712, Entry, Options, Recipe
from pyscratchdet.prototxt.scratchdet import PAPER_VOC, VOC_RATIOS, rootresnet
from pyscratchdet.prototxt.ssd import VGG_WEIGHTS, VOC_TRAINING, add_extra_layers, ssd_head

_LIBS = model_libs.of("scratchdet")

# VGG-16 with BatchNorm, from PyTorch's own model zoo.
VGG_BN_WEIGHTS = "models/VGGNet/VGG_16_bn.caffemodel"

# Table 1: where BatchNorm is, and the rates.
BATCHNORM = ("none", "head", "backbone", "all")
RATES = (0.001, 0.01, 0.05)


def table1(name: str, batchnorm: str, base_lr: float, pretrained: bool, options: Options) -> Recipe:
    """Returns SSD300 on VGG-16 without L2 normalisation, with BatchNorm in "none", "backbone", "head" or "all".

    From scratch: 128 pictures per update and the paper's schedule; pretrained: SSD's own 32 and schedule (section 4.1).
    """
    in_backbone, in_head = batchnorm in ("backbone", "all"), batchnorm in ("head", "all")
    weights = VGG_BN_WEIGHTS if in_backbone else VGG_WEIGHTS
    pretraining = replace(VOC_TRAINING, base_lr=base_lr, weights=weights)
    training = pretraining if pretrained else replace(PAPER_VOC, base_lr=base_lr)
    data, training = options.data(VOC0712), options.training(training)

    def body(net: NetSpec) -> None:
        if in_backbone:
            _LIBS.VGGNetBNBody(net, from_layer="data")
        else:
            _LIBS.VGGNetBody(net, "data", fully_conv=True, reduced=True, dilated=True, dropout=False)
            add_extra_layers(net, 300, fork="scratchdet")

    sources = ["conv4_3", "fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2"]
    head = ssd_head(300, sources, VOC_RATIOS, normalization=-1, batchnorm=in_head, fork="scratchdet")
    return single_shot(name, 300, body, head, data, training, options)


# Table 2: downsampling, number of convolutions, their kernel.
TABLE2 = [
    (True, 1, 7),
    *((True, count, 3) for count in (1, 2, 3)),
    (False, 1, 7),
    *((False, n, 3) for n in range(1, 6)),
]
# Figure 3: whether the first convolution halves, whether pooling follows, kernels, and the same net in table 2.
FIGURE3: dict[str, tuple[bool, bool, tuple[int, ...], str | None]] = {
    "resnet18": (True, True, (7,), "table2_downsampled_root1x7"),
    "resnet18a": (True, False, (7,), None),
    "resnet18b": (False, True, (7,), "table2_root1x7"),
    "rootresnet18": (False, True, (3, 3, 3), "table2_root3x3"),
}


def resnet18(name: str, downsample: bool, pool: bool, root: tuple[int, ...], options: Options) -> Recipe:
    """Returns ScratchDet on ResNet-18 with BatchNorm in the heads and the paper's schedule.

    Detection layers are those at 38, 19, 10, 5, 3 and 1 cells, as the paper keeps them: with both halvings they begin
    one stage earlier (conv3_4).
    """
    return rootresnet(
        name,
        18,
        root=root,
        downsample=downsample,
        pool=pool,
        head_batchnorm=True,
        training=PAPER_VOC,
        options=options,
    )


def _entry(name: str, build: Callable[[Options], Recipe], **more: Any) -> Entry:
    return Entry(name, 300, printed.result(name), build, **more)


def _table1_name(batchnorm: str, rate: float, pretrained: bool) -> str:
    return f"table1_vgg16_bn_{batchnorm}_lr{rate}_{'pretrained' if pretrained else 'scratch'}"


def _table1_entries() -> list[Entry]:
    made = []
    for pretrained, batchnorm, rate in itertools.product((False, True), BATCHNORM, RATES):
        name, first = (_table1_name(batchnorm, each, pretrained) for each in (rate, RATES[0]))
        build = partial(table1, name, batchnorm, rate, pretrained)
        made.append(_entry(name, build, nets_of=None if name == first else first))
    return made


def _resnet_entries() -> list[Entry]:
    made = []
    for downsample, count, kernel in TABLE2:
        name = f"table2_{'downsampled_' if downsample else ''}root{count}x{kernel}"
        build = partial(resnet18, name, downsample, True, (kernel,) * count)
        made.append(_entry(name, build, can_resize=True, can_widen=True))
    for body, (downsample, pool, root, row) in FIGURE3.items():
        name = f"figure3_{body}"
        build = partial(resnet18, name, downsample, pool, root)
        made.append(_entry(name, build, can_resize=True, can_widen=True, nets_of=row))
    return made


ENTRIES = [*_table1_entries(), *_resnet_entries()]
