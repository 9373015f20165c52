"""SSD: the nets of weiliu89/caffe's examples/ssd, and SSD512 as in its paper and released models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pyscratchdet.caffe import model_libs
from pyscratchdet.caffe.net_spec import NetSpec
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.caffe.net_spec import params as P
from pyscratchdet.errors import UsageError
from pyscratchdet.prototxt.nets import Head, ratio_sizes, single_shot, usual_ratios
from pyscratchdet.prototxt.recipe import COCO, ILSVRC, VOC0712, VOC0712PLUS, DataSet, Entry, Options, Recipe, Training
from pyscratchdet.prototxt.scratchdet import (
    COCO512,
    COCO512_RATIOS,
    COCO_RATIOS,
    STEPS,
    VOC512_RATIOS,
    VOC_RATIOS,
    squeeze_stages,
)

VGG_WEIGHTS = "models/VGGNet/VGG_ILSVRC_16_layers_fc_reduced.caffemodel"
RESNET101_WEIGHTS = "models/ResNet/ResNet-101-model.caffemodel"
ZF_WEIGHTS = "models/ZFNet/ZF_conv_reduced.caffemodel"

VOC_TRAINING = Training(
    base_lr=0.001,
    stepvalue=(80000, 100000, 120000),
    max_iter=120000,
    snapshot=80000,
    test_batch_size=8,
    test_interval=10000,
    weights=VGG_WEIGHTS,
)
COCO_TRAINING = replace(VOC_TRAINING, stepvalue=(280000, 360000, 400000), max_iter=400000, snapshot=40000)
ILSVRC_TRAINING = replace(
    VOC_TRAINING, stepvalue=(320000, 400000, 440000), max_iter=440000, snapshot=30000, test_batch_size=1
)

# Kernel, channels, pad and stride of SSD512's extra layers; at other sizes squeeze_stages decides.
_EXTRAS512 = [(256, 512, 3, 1, 2), *[(128, 256, 3, 1, 2)] * 3, (128, 256, 4, 1, 1)]


def extra_stages(size: int) -> list[tuple[int, int, int, int, int]]:
    """Returns the layers that follow fc7 at 1/16 of the input: (squeeze, channels, kernel, pad, stride) each."""
    if size == 512:
        return _EXTRAS512
    return [(squeeze, width, 3, pad, stride) for squeeze, width, pad, stride in squeeze_stages(-(-size // 16))]


def add_extra_layers(
    net: NetSpec, size: int, use_batchnorm: bool = False, fork: str = "ssd", lr_mult: float = 1
) -> None:
    """Adds conv6_1, conv6_2... after the net's last layer, each with ReLU."""
    convolve = partial(model_libs.of(fork).ConvBNLayer, net, use_bn=use_batchnorm, use_relu=True, lr_mult=lr_mult)
    top = net.keys()[-1]
    for stage, (squeeze, width, kernel, pad, stride) in enumerate(extra_stages(size), 6):
        convolve(top, f"conv{stage}_1", num_output=squeeze, kernel_size=1, pad=0, stride=1)
        top = f"conv{stage}_2"
        convolve(f"conv{stage}_1", top, num_output=width, kernel_size=kernel, pad=pad, stride=stride)


def ssd_head(
    size: int, sources: list[str], ratios: tuple[int, int, tuple[int, int]], normalization: float = 20, **params: Any
) -> Head:
    """Returns SSD's head on these source layers, the first L2-normalised (-1 for no normalisation)."""
    low, high = ratio_sizes(size, len(sources), *ratios)
    return Head(
        sources,
        low,
        high,
        usual_ratios(len(sources)),
        steps=STEPS.get(size, ()),
        normalizations=[normalization] + [-1] * (len(sources) - 1),
        **params,
    )


def ssd(
    name: str,
    size: int = 300,
    *,
    body: Callable[..., Any] | None = None,
    first_source: str = "conv4_3",
    ratios: tuple[int, int, tuple[int, int]] = VOC_RATIOS,
    data: DataSet = VOC0712,
    training: Training = VOC_TRAINING,
    options: Options | None = None,
    **assembly: Any,
) -> Recipe:
    """Returns an SSD on a reduced, dilated VGG-16 (or another `body` that ends in fc7 at 1/16 of the input)."""
    options = options or Options()
    data, training = options.data(data), options.training(training)
    size = options.size or size
    build = body or model_libs.of("ssd").VGGNetBody

    def layers(net: NetSpec) -> None:
        build(net, from_layer="data", fully_conv=True, reduced=True, dilated=True, dropout=False)
        add_extra_layers(net, size)

    sources = [first_source, "fc7", *(f"conv{stage}_2" for stage in range(6, 6 + len(extra_stages(size))))]
    head = ssd_head(size, sources, ratios)
    return single_shot(name, size, layers, head, data, training, options, **assembly)


def ssd_resnet101(name: str, options: Options) -> Recipe:
    """Returns SSD on ResNet-101 with dilated conv5 and BatchNorm in the extra layers (ssd_pascal_resnet.py)."""
    training = replace(
        VOC_TRAINING,
        stepvalue=(),
        stepsize=40000,
        max_iter=60000,
        snapshot=40000,
        test_batch_size=1,
        weights=RESNET101_WEIGHTS,
    )
    libs = model_libs.of("ssd")
    size = options.size or 300

    def body(net: NetSpec) -> None:
        libs.ResNet101Body(net, from_layer="data", use_pool5=False, use_dilation_conv5=True)
        top = last = net.keys()[-1]
        for stage, squeeze in ((1, 256), (2, 256), (3, 256)):
            libs.ConvBNLayer(net, top, f"{last}/conv{stage}_1", True, True, squeeze, 1, 0, 1)
            top = f"{last}/conv{stage}_2"
            libs.ConvBNLayer(net, f"{last}/conv{stage}_1", top, True, True, 512, 3, 1, 2)
        net.pool6 = L.Pooling(net[net.keys()[-1]], pool=P.Pooling.AVE, global_pooling=True)

    sources = ["res3b3_relu", "res5c_relu", *(f"res5c_relu/conv{stage}_2" for stage in (1, 2, 3)), "pool6"]
    low, high = ratio_sizes(size, len(sources), 20, 95, (10, 20))
    head = Head(sources, low, [[], *high[1:]], [[2.0], *[[2.0, 3.0]] * 5], clip=True)
    data, training = options.data(VOC0712), options.training(training)
    loss = {"ignore_cross_boundary_bbox": None}
    return single_shot(name, size, body, head, data, training, options, photometric=False, loss=loss)


def _orig(name: str, options: Options) -> Recipe:
    if options.batch_size is not None or options.accum_batch_size is not None:
        raise UsageError(
            f"{name} has one picture per GPU, each of its own shape", code="recipe.option", hint="change --gpus"
        )
    gpus = VOC_TRAINING.gpus if options.gpus is None else options.gpus
    training = replace(VOC_TRAINING, batch_size=max(1, len(gpus)), accum_batch_size=32, test_batch_size=1)
    return ssd(name, training=training, options=options, mode="FIT_SMALL_SIZE")


def _zf(name: str, options: Options) -> Recipe:
    training = replace(VOC_TRAINING, weights=ZF_WEIGHTS)
    return ssd(name, body=model_libs.of("ssd").ZFNetBody, first_source="conv2", training=training, options=options)


def _coco(name: str, options: Options) -> Recipe:
    return ssd(name, ratios=COCO_RATIOS, data=COCO, training=COCO_TRAINING, options=options)


def _ilsvrc(name: str, options: Options) -> Recipe:
    return ssd(name, data=ILSVRC, training=ILSVRC_TRAINING, options=options)


def _voc(name: str, options: Options) -> Recipe:
    return ssd(name, options=options)


def _plus(name: str, options: Options) -> Recipe:
    training = replace(VOC_TRAINING, stepvalue=(160000, 200000, 240000), max_iter=240000)
    return ssd(name, data=VOC0712PLUS, training=training, options=options)


def _voc512(name: str, options: Options) -> Recipe:
    return ssd(name, 512, ratios=VOC512_RATIOS, options=options)


def _coco512(name: str, options: Options) -> Recipe:
    return ssd(name, 512, ratios=COCO512_RATIOS, data=COCO512, training=COCO_TRAINING, options=options)


def _entry(name: str, size: int, result: str, build: Callable[[str, Options], Recipe], **more: Any) -> Entry:
    return Entry(name, size, result, partial(build, name), **more)


ENTRIES = [
    _entry("ssd300_vgg16_voc0712", 300, "SSD300*: 77.2 mAP on VOC 2007 test", _voc, can_resize=True),
    _entry("ssd300_vgg16_voc0712plus", 300, "SSD300*: 75.8 mAP on VOC 2012 test", _plus, can_resize=True),
    _entry("ssd300_vgg16_coco", 300, "SSD300*: 25.1 AP on COCO test-dev", _coco, can_resize=True),
    _entry("ssd300_vgg16_ilsvrc", 300, "SSD300 on ILSVRC DET", _ilsvrc, can_resize=True),
    _entry(
        "ssd300_vgg16_orig_voc0712",
        300,
        "none published",
        _orig,
        note="pictures keep their shape: shorter side 300, one per GPU",
    ),
    _entry("ssd300_zf_voc0712", 300, "none published", _zf, can_resize=True),
    _entry(
        "ssd300_resnet101_voc0712",
        300,
        "none published",
        ssd_resnet101,
        note="without colour distortion and zooming out",
    ),
    _entry("ssd512_vgg16_voc0712", 512, "SSD512*: 79.8 mAP on VOC 2007 test", _voc512, can_resize=True),
    _entry("ssd512_vgg16_coco", 512, "SSD512*: 28.8 AP on COCO test-dev", _coco512, can_resize=True),
]
