"""ScratchDet as in its mmdetection release: post-activation blocks, detection layers after the ReLU.

Layers are named as in the PyTorch module (`layer3.0.conv1`, `layer3.0.downsample.0`), a BatchNorm's Scale
`<name>_scale`. What Caffe cannot express: RGB input (conv1's channels are swapped), prior centres at (stride - 1) / 2
pixels and the linear warm-up. The schedule is the Caffe release's.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from pyscratchdet.caffe.model_libs.blocks import FROZEN
from pyscratchdet.caffe.net_spec import NetSpec, Top
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.caffe.net_spec import params as P
from pyscratchdet.prototxt.nets import Head, ratio_sizes, single_shot, usual_ratios
from pyscratchdet.prototxt.recipe import COCO, Entry, Options, Recipe
from pyscratchdet.prototxt.scratchdet import COCO512, COCO512_RATIOS, COCO_RATIOS, SCRIPT_COCO, STEPS

# PyTorch's BatchNorm: momentum 0.1 is a fraction of 0.9 here.
_BATCH_NORM = {"eps": 1e-5, "moving_average_fraction": 0.9}
_XAVIER = {"type": "xavier", "variance_norm": P.Filler.AVERAGE}
_KAIMING = {"type": "msra", "variance_norm": P.Filler.FAN_OUT}
_MEAN = (103.53, 116.28, 123.675)


class _Module:
    """Adds convolutions, BatchNorms and blocks under PyTorch's names."""

    def __init__(self, net: NetSpec, filler: dict[str, Any]) -> None:
        self._net = net
        self._filler = filler

    def conv_bn(
        self, bottom: Top, conv: str, bn: str, num_output: int, kernel: int = 3, stride: int = 1, pad: int | None = None
    ) -> Top:
        net = self._net
        pad = kernel // 2 if pad is None else pad
        window = {"num_output": num_output, "kernel_size": kernel, "stride": stride, "pad": pad}
        weights = {"param": [{"lr_mult": 1, "decay_mult": 1}], "weight_filler": self._filler, "bias_term": False}
        net[conv] = L.Convolution(bottom, **window, **weights)
        net[bn] = L.BatchNorm(net[conv], in_place=True, param=[FROZEN] * 3, **_BATCH_NORM)
        net[f"{bn}_scale"] = L.Scale(
            net[bn], in_place=True, bias_term=True, filler={"value": 1}, bias_filler={"value": 0}
        )
        top: Top = net[f"{bn}_scale"]
        return top

    def relu(self, bottom: Top, name: str) -> Top:
        self._net[name] = L.ReLU(bottom, in_place=True)
        top: Top = self._net[name]
        return top

    def block(self, bottom: Top, name: str, width: int, stride: int, project: bool) -> Top:
        """BasicBlock: conv-bn-relu-conv-bn, sum, ReLU."""
        net = self._net
        top = self.relu(self.conv_bn(bottom, f"{name}.conv1", f"{name}.bn1", width, stride=stride), f"{name}.relu1")
        top = self.conv_bn(top, f"{name}.conv2", f"{name}.bn2", width)
        shortcut = bottom
        if project:
            down = f"{name}.downsample"
            shortcut = self.conv_bn(bottom, f"{down}.0", f"{down}.1", width, kernel=1, stride=stride)
        net[name] = L.Eltwise(shortcut, top)
        return self.relu(net[name], f"{name}.relu")

    def root(self, top: Top) -> Top:
        for index in (1, 2, 3):
            top = self.relu(self.conv_bn(top, f"conv{index}", f"bn{index}", 64), f"relu{index}")
        self._net.maxpool = L.Pooling(top, pool=P.Pooling.MAX, kernel_size=2, stride=2)
        pooled: Top = self._net.maxpool
        return pooled

    def body(self, size: int) -> None:
        """layer1 to layer8, and at 512 conv4 and conv5."""
        top = self.root(self._net.data)
        strides = (1, 2, 2, 2, 2, 2, 2, 2 if size == 512 else 1)
        widths = (64, 128, 256, 512, 128, 128, 128, 128)
        before = 64
        for stage, (count, stride, width) in enumerate(zip((3, 4, 6, 3, 1, 1, 1, 1), strides, widths, strict=True), 1):
            for index in range(count):
                first = index == 0
                project = first and (stride > 1 or width != before)
                top = self.block(top, f"layer{stage}.{index}", width, stride if first else 1, project)
            before = width
        if size == 512:
            top = self.relu(self.conv_bn(top, "conv4", "bn4", 128), "relu4")
            self.relu(self.conv_bn(top, "conv5", "bn5", 128, kernel=4, pad=1), "relu5")


def scratchdet(name: str, size: int, options: Options) -> Recipe:
    """Returns ScratchDet on COCO with the mmdetection release's Root-ResNet-34, at 300 or 512."""
    data = options.data(replace(COCO512 if size == 512 else COCO, mean_value=_MEAN))
    training = options.training(replace(SCRIPT_COCO, base_lr=0.03 if size == 512 else 0.05))
    sources = [f"layer{stage}.{index}" for stage, index in ((3, 5), (4, 2), (5, 0), (6, 0), (7, 0), (8, 0))]
    sources += ["conv5"] if size == 512 else []
    ratios = COCO512_RATIOS if size == 512 else COCO_RATIOS
    low, high = (list(map(int, sizes)) for sizes in ratio_sizes(size, len(sources), *ratios))
    head = Head(sources, low, high, usual_ratios(len(sources)), steps=STEPS[size], batchnorm=True)

    def body(net: NetSpec) -> None:
        _Module(net, _XAVIER if size == 512 else _KAIMING).body(size)

    recipe = single_shot(name, size, body, head, data, training, options, batchnorm=_BATCH_NORM)
    for net in (recipe.train, recipe.test, recipe.deploy):
        for layer in net.layer:
            if layer.name.endswith(("_mbox_loc", "_mbox_conf")):
                layer.convolution_param.weight_filler.Clear()
                layer.convolution_param.weight_filler.type = _XAVIER["type"]
                layer.convolution_param.weight_filler.variance_norm = _XAVIER["variance_norm"]
    return recipe


_NOTE = "the mmdetection release's net as a prototxt"
ENTRIES = [
    Entry(name, size, "none published", partial(scratchdet, name, size), note=_NOTE)
    for name, size in (("scratchdet300_mmdet_coco", 300), ("scratchdet512_mmdet_coco", 512))
]
