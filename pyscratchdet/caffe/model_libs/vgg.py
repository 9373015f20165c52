"""VGG-16 and ZF as detectors use them: fc6 and fc7 as convolutions, reduced and dilated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyscratchdet.caffe.model_libs.blocks import (
    BIASLESS,
    CONVOLUTION,
    batch_norm_relu,
    conv_relu,
    freeze,
    require_top,
)
from pyscratchdet.caffe.model_libs.fork import published
from pyscratchdet.caffe.net_spec import NetSpec
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.caffe.net_spec import params as P

# Convolutions and channels of the first four stages; the fifth is like the fourth, dilated on demand.
_VGG_STAGES = ((1, 2, 64), (2, 2, 128), (3, 3, 256), (4, 3, 512))
_DROPOUT = {"dropout_ratio": 0.5, "in_place": True}


def _max_pool(net: NetSpec, name: str, bottom: str, **window: Any) -> str:
    net[name] = L.Pooling(net[bottom], pool=P.Pooling.MAX, **window)
    return name


def _fully_connected(net: NetSpec, bottom: str, dropout: bool, fc6: dict[str, Any] | None, num_fc7: int) -> None:
    """fc6, fc7 with ReLU and Dropout: convolutions where `fc6` gives the first one's window, else InnerProducts."""
    for index, name in enumerate(("fc6", "fc7")):
        if fc6 is None:
            net[name] = L.InnerProduct(net[bottom], num_output=4096)
        else:
            window = fc6 if index == 0 else {"num_output": num_fc7, "kernel_size": 1}
            net[name] = L.Convolution(net[bottom], **window, **CONVOLUTION)
        bottom = f"relu{name[2:]}"
        net[bottom] = L.ReLU(net[name], in_place=True)
        if dropout:
            net[f"drop{name[2:]}"] = L.Dropout(net[bottom], **_DROPOUT)


@published
def VGGNetBody(
    net: NetSpec,
    from_layer: str,
    need_fc: bool = True,
    fully_conv: bool = False,
    reduced: bool = False,
    dilated: bool = False,
    nopool: bool = False,
    dropout: bool = True,
    freeze_layers: Sequence[str] = (),
    dilate_pool4: bool = False,
) -> NetSpec:
    """VGG-16 from conv1_1 to fc7.

    Args:
        net: Where the layers go.
        from_layer: Name of the images.
        need_fc: Whether to add pool5, fc6 and fc7.
        fully_conv: fc6 and fc7 as convolutions.
        reduced: 1024 channels in them and a 3x3 kernel in fc6, in place of 4096 and 7x7.
        dilated: pool5 with stride 1; fc6's dilation makes up for it.
        nopool: Convolutions with stride 2 in place of the poolings.
        dropout: Whether fc6 and fc7 have Dropout.
        freeze_layers: Convolutions that are not trained.
        dilate_pool4: pool4 with stride 1, conv5 dilated.
    """
    require_top(net, from_layer)
    top = from_layer
    for stage, count, width in _VGG_STAGES:
        for index in range(1, count + 1):
            name = f"{stage}_{index}"
            top = conv_relu(net, f"conv{name}", f"relu{name}", top, num_output=width, pad=1, kernel_size=3)
        if nopool:
            name = f"conv{stage}_{count + 1}"
            net[name] = L.Convolution(net[top], num_output=width, pad=1, kernel_size=3, stride=2, **CONVOLUTION)
            top = name
        elif stage == 4 and dilate_pool4:
            top = _max_pool(net, "pool4", top, kernel_size=3, stride=1, pad=1)
        else:
            top = _max_pool(net, f"pool{stage}", top, kernel_size=2, stride=2)

    dilation = 2 if dilate_pool4 and not nopool else 1
    window = {"num_output": 512, "pad": dilation, "kernel_size": 3, "dilation": dilation}
    for index in range(1, 4):
        top = conv_relu(net, f"conv5_{index}", f"relu5_{index}", top, **window)
    if need_fc:
        stride = 1 if dilated else 2
        if nopool:
            net.conv5_4 = L.Convolution(net[top], num_output=512, pad=1, kernel_size=3, stride=stride, **CONVOLUTION)
            top = "conv5_4"
        else:
            shape = {"pad": 1, "kernel_size": 3} if dilated else {"kernel_size": 2}
            top = _max_pool(net, "pool5", top, stride=stride, **shape)
        fc6 = _vgg_fc6(dilation, reduced, dilated) if fully_conv else None
        _fully_connected(net, top, dropout, fc6, num_fc7=1024 if reduced else 4096)
    freeze(net, freeze_layers, CONVOLUTION)
    return net


def _vgg_fc6(dilation: int, reduced: bool, dilated: bool) -> dict[str, int]:
    """Window of fc6 that covers what the original 7x7 one covers."""
    if reduced:
        dilation *= 6 if dilated else 3
    elif dilated:
        dilation *= 2
    kernel = 3 if reduced else 7
    return {
        "num_output": 1024 if reduced else 4096,
        "pad": dilation * (kernel - 1) // 2,
        "kernel_size": kernel,
        "dilation": dilation,
    }


@published
def VGGNetBNBody(
    net: NetSpec,
    from_layer: str,
    need_fc: bool = True,
    fully_conv: bool = False,
    reduced: bool = False,
    dilated: bool = False,
    nopool: bool = False,
    dropout: bool = True,
    freeze_layers: Sequence[str] = (),
    dilate_pool4: bool = False,
) -> NetSpec:
    """VGG-16 reduced and dilated, with SSD's extra layers, BatchNorm after every convolution and pooling.

    The net of ScratchDet's Table 1. Like the published function it looks at `freeze_layers` alone; the other arguments
    are there so that it can stand in for VGGNetBody.
    """
    top = require_top(net, from_layer)

    def add(name: str, layer: Any) -> None:
        nonlocal top
        net[name] = layer
        top = batch_norm_relu(net[name])

    def convolve(name: str, num_output: int, **window: Any) -> None:
        add(name, L.Convolution(top, num_output=num_output, **window, **BIASLESS))

    def pool(name: str, **window: Any) -> None:
        add(name, L.Pooling(top, pool=P.Pooling.MAX, **window))

    for stage, count, width in _VGG_STAGES:
        for index in range(1, count + 1):
            convolve(f"conv{stage}_{index}", width, pad=1, kernel_size=3)
        pool(f"pool{stage}", kernel_size=2, stride=2)
    for index in range(1, 4):
        convolve(f"conv5_{index}", 512, pad=1, kernel_size=3, dilation=1)
    pool("pool5", pad=1, kernel_size=3, stride=1)
    convolve("fc6", 1024, pad=6, kernel_size=3, dilation=6)
    convolve("fc7", 1024, kernel_size=1)
    for stage, (squeeze, width, pad, stride) in enumerate(EXTRA_STAGES, 6):
        convolve(f"conv{stage}_1", squeeze, pad=0, kernel_size=1)
        convolve(f"conv{stage}_2", width, pad=pad, kernel_size=3, stride=stride)
    freeze(net, freeze_layers, BIASLESS)
    return net


# SSD300's conv6 to conv9: channels of the 1x1 and the 3x3 convolution, pad and stride of the latter.
EXTRA_STAGES = ((256, 512, 1, 2), (128, 256, 1, 2), (128, 256, 0, 1), (128, 256, 0, 1))


@published
def ZFNetBody(
    net: NetSpec,
    from_layer: str,
    need_fc: bool = True,
    fully_conv: bool = False,
    reduced: bool = False,
    dilated: bool = False,
    dropout: bool = True,
    need_fc8: bool = False,
    freeze_layers: Sequence[str] = (),
) -> NetSpec:
    """ZF net from conv1 to fc7 (fc8 and prob on demand); arguments as VGGNetBody's."""
    require_top(net, from_layer)
    top = from_layer
    for stage, width, pad, kernel in ((1, 96, 3, 7), (2, 256, 2, 5)):
        top = conv_relu(
            net, f"conv{stage}", f"relu{stage}", top, num_output=width, pad=pad, kernel_size=kernel, stride=2
        )
        norm = {"norm_region": P.LRN.WITHIN_CHANNEL, "engine": P.LRN.CAFFE}
        net[f"norm{stage}"] = L.LRN(net[top], local_size=3, alpha=0.00005, beta=0.75, **norm)
        top = _max_pool(net, f"pool{stage}", f"norm{stage}", pad=1, kernel_size=3, stride=2)
    for stage, width in ((3, 384), (4, 384), (5, 256)):
        top = conv_relu(net, f"conv{stage}", f"relu{stage}", top, num_output=width, pad=1, kernel_size=3)
    if need_fc:
        top = _max_pool(net, "pool5", top, pad=1, kernel_size=3, stride=1 if dilated else 2)
        fc6 = _zf_fc6(reduced, dilated) if fully_conv else None
        _fully_connected(net, top, dropout, fc6, num_fc7=1024 if reduced else 4096)
    if need_fc8:
        last = net[net.keys()[-1]]
        if fully_conv:
            net.fc8 = L.Convolution(last, num_output=1000, kernel_size=1, **CONVOLUTION)
        else:
            net.fc8 = L.InnerProduct(last, num_output=1000)
        net.prob = L.Softmax(net.fc8)
    freeze(net, freeze_layers, CONVOLUTION)
    return net


def _zf_fc6(reduced: bool, dilated: bool) -> dict[str, int]:
    window = {"num_output": 1024, "kernel_size": 3} if reduced else {"num_output": 4096, "kernel_size": 6}
    window["pad"] = 5 if dilated else 2
    dilation = {(True, True): 5, (True, False): 2, (False, True): 2}.get((reduced, dilated))
    return {**window, "dilation": dilation} if dilation else window
