"""Root-ResNet (ScratchDet, section 3.2): pre-activation residual blocks behind a root block without downsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyscratchdet.caffe.model_libs.blocks import BIASLESS, batch_norm_relu, require_top
from pyscratchdet.caffe.model_libs.fork import published
from pyscratchdet.caffe.net_spec import NetSpec, Top
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.caffe.net_spec import params as P


def _conv(bottom: Top, num_output: int, kernel_size: int = 3, **window: Any) -> Top:
    top: Top = L.Convolution(
        bottom, num_output=num_output, pad=kernel_size // 2, kernel_size=kernel_size, **window, **BIASLESS
    )
    return top


def root_block(
    net: NetSpec,
    from_layer: str,
    width: int,
    kernels: Sequence[int] = (3, 3, 3),
    stride: int = 1,
    in_place: bool = True,
) -> Top:
    """stem_1, stem_2... with BatchNorm and ReLU; `stride` is the first one's."""
    top = require_top(net, from_layer)
    for index, kernel in enumerate(kernels, 1):
        window = {"stride": stride} if index == 1 else {}
        net[f"stem_{index}"] = _conv(top, width, kernel, **window)
        top = batch_norm_relu(net[f"stem_{index}"], in_place)
    return top


def residual_block(
    net: NetSpec,
    stage: int,
    index: int,
    shortcut: Top,
    width: int,
    *,
    stride: int | None = None,
    project: bool = False,
    in_place: bool = True,
    preactivate: bool = True,
) -> Top:
    """Two 3x3 convolutions, conv<stage>_<index> and the next, added to the shortcut; returns the unnamed sum.

    `project` takes the shortcut from a 1x1 convolution of the activated input.
    """
    top = batch_norm_relu(shortcut, in_place=False) if preactivate else shortcut
    window = {} if stride is None else {"stride": stride}
    if project:
        shortcut = _conv(top, width, 1, **window)
    first, second = f"conv{stage}_{index}", f"conv{stage}_{index + 1}"
    net[first] = _conv(top, width, **window)
    net[second] = _conv(batch_norm_relu(net[first], in_place), width)
    total: Top = L.Eltwise(shortcut, net[second])
    return total


def residual_stages(
    net: NetSpec,
    top: Top,
    blocks: Sequence[int],
    width: int,
    *,
    in_place: bool,
    preactivate_first: bool,
) -> Top:
    """conv2 to conv5: `blocks` blocks each, channels doubling, every stage but the first with stride 2."""
    for stage, count in enumerate(blocks, 2):
        for block in range(count):
            stride = 2 if stage > 2 and block == 0 else 1
            top = residual_block(
                net,
                stage,
                2 * block + 1,
                top,
                width * 2 ** (stage - 2),
                stride=stride if stride > 1 else None,
                project=stride > 1,
                in_place=in_place,
                preactivate=preactivate_first or stage > 2 or block > 0,
            )
    return top


def residual_extras(net: NetSpec, top: Top, strides: Sequence[int] = (2, 2, 1, 1), width: int = 128) -> Top:
    """conv6, conv7...: one block each, with a projection where the stride is 2."""
    for stage, stride in enumerate(strides, 6):
        top = residual_block(net, stage, 1, top, width, stride=stride, project=stride > 1)
    return top


def closing_extra(net: NetSpec, top: Top, stage: int, width: int = 128) -> None:
    """A last stage that makes 2x2 to 1x1: 3x3 and 4x4 convolution, without a shortcut."""
    net[f"conv{stage}_1"] = _conv(batch_norm_relu(top, in_place=False), width)
    top = batch_norm_relu(net[f"conv{stage}_1"])
    net[f"conv{stage}_2"] = L.Convolution(top, num_output=width, pad=1, kernel_size=4, **BIASLESS)


def squeeze_extras(net: NetSpec, top: Top, stages: Sequence[tuple[int, int, int, int]], in_place: bool) -> Top:
    """SSD's extra layers with BatchNorm: conv6_1 (1x1), conv6_2 (3x3)...; stages as `vgg.EXTRA_STAGES`."""
    top = batch_norm_relu(top, in_place=False)
    for stage, (squeeze, width, pad, stride) in enumerate(stages, 6):
        for index, num_output, window in (
            (1, squeeze, {"kernel_size": 1, "pad": 0}),
            (2, width, {"kernel_size": 3, "pad": pad, "stride": stride}),
        ):
            name = f"conv{stage}_{index}"
            net[name] = L.Convolution(top, num_output=num_output, **window, **BIASLESS)
            top = batch_norm_relu(net[name], in_place)
    return top


def _max_pool(net: NetSpec, top: Top) -> Top:
    net.pool1 = L.Pooling(top, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    pooled: Top = net.pool1
    return pooled


@published
def Resnet34rootV2_res(net: NetSpec, from_layer: str, freeze_layers: Sequence[str] = ()) -> NetSpec:
    """Root-ResNet-34 with residual extra layers; the first block has no activation in front."""
    top = _max_pool(net, root_block(net, from_layer, 64))
    top = residual_stages(net, top, (3, 4, 6, 3), 64, in_place=True, preactivate_first=False)
    residual_extras(net, top)
    return net


@published
def Resnet18rootV2(net: NetSpec, from_layer: str, freeze_layers: Sequence[str] = ()) -> NetSpec:
    """Root-ResNet-18 with SSD's extra layers; no BatchNorm is in place."""
    from pyscratchdet.caffe.model_libs.vgg import EXTRA_STAGES

    top = _max_pool(net, root_block(net, from_layer, 64, in_place=False))
    top = residual_stages(net, top, (2, 2, 2, 2), 64, in_place=False, preactivate_first=True)
    squeeze_extras(net, top, EXTRA_STAGES, in_place=False)
    return net
