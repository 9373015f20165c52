"""RefineDet: anchor refinement, transfer connections, object detection (sfzhang15/RefineDet, examples/refinedet)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pyscratchdet.caffe import model_libs
from pyscratchdet.caffe.net_spec import NetSpec, Top
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.errors import UsageError
from pyscratchdet.prototxt.nets import add_test_data, add_train_data, assemble, detection_output, multibox_loss, softmax
from pyscratchdet.prototxt.recipe import COCO, VOC0712, VOC0712PLUS, DataSet, Entry, Options, Recipe, Training
from pyscratchdet.prototxt.scratchdet import VOC_INIT
from pyscratchdet.prototxt.ssd import RESNET101_WEIGHTS, VGG_WEIGHTS

_LIBS = model_libs.of("refinedet")
_OBJECTNESS = 0.01

VOC_TRAINING = Training(
    base_lr=0.001, stepvalue=(80000, 100000, 120000), max_iter=120000, snapshot=5000, weights=VGG_WEIGHTS
)
PLUS_TRAINING = replace(VOC_TRAINING, stepvalue=(160000, 200000, 240000), max_iter=240000, snapshot=10000)
COCO_TRAINING = replace(VOC_TRAINING, stepvalue=(280000, 360000, 400000), max_iter=400000, snapshot=10000)
COCO512_RESNET_TRAINING = replace(
    COCO_TRAINING,
    stepvalue=(400000, 480000, 540000),
    max_iter=540000,
    batch_size=20,
)
VOC_FINETUNING = replace(VOC_TRAINING, base_lr=0.00005, stepvalue=(80000, 120000), gamma=0.2)
PLUS_FINETUNING = replace(VOC_FINETUNING, stepvalue=(120000, 160000), max_iter=160000, snapshot=10000)


@dataclass(frozen=True)
class RefineDetBackbone:
    """A body with its four source layers at 1/8 to 1/64 of the input.

    Attributes:
        add: Adds the layers up to the last source.
        sources: Finest first.
        normalizations: L2 normalisation's initial scale for each, -1 for none.
        batchnorm: BatchNorm in the transfer connections.
        inter_layers: A residual block in front of every prediction.
    """

    add: Callable[[NetSpec], None]
    sources: tuple[str, ...]
    normalizations: tuple[float, ...] = (-1, -1, -1, -1)
    batchnorm: bool = False
    inter_layers: bool = False


def _vgg(net: NetSpec) -> None:
    _LIBS.VGGNetBody(net, from_layer="data", fully_conv=True, reduced=True, dilated=False, dropout=False)
    _LIBS.ConvBNLayer(net, net.keys()[-1], "conv6_1", False, True, 256, 1, 0, 1)
    _LIBS.ConvBNLayer(net, "conv6_1", "conv6_2", False, True, 512, 3, 1, 2)


def _resnet101(net: NetSpec) -> None:
    _LIBS.ResNet101Body(net, from_layer="data", use_pool5=False, use_dilation_conv5=False)
    _LIBS.ResBody(net, net.keys()[-1], "6", out2a=128, out2b=128, out2c=512, stride=2, use_branch1=True)


VGG16 = RefineDetBackbone(_vgg, ("conv4_3", "conv5_3", "fc7", "conv6_2"), (10, 8, -1, -1))
RESNET101 = RefineDetBackbone(
    _resnet101, ("res3b3_relu", "res4b22_relu", "res5c_relu", "res6_relu"), batchnorm=True, inter_layers=True
)


def _transfer(net: NetSpec, backbone: RefineDetBackbone) -> list[str]:
    """Adds the transfer connections, coarsest first (P6 to P3); returns the anchor refinement's source layers.

    RefineDet, section 3.1: each feature is convolved twice, joined with the deconvolved coarser one, convolved again.
    """
    convolve = partial(
        _LIBS.ConvBNLayer, net, use_bn=backbone.batchnorm, num_output=256, kernel_size=3, pad=1, stride=1
    )
    sources: list[str] = []
    for level, (source, scale) in zip(
        (6, 5, 4, 3), zip(backbone.sources[::-1], backbone.normalizations[::-1], strict=True), strict=True
    ):
        if scale != -1:
            filler = {"type": "constant", "value": scale}
            name = f"{source}_norm"
            net[name] = L.Normalize(net[source], scale_filler=filler, across_spatial=False, channel_shared=False)
            source = name
        sources.insert(0, source)
        top = f"TL{level}_2"
        convolve(source, f"TL{level}_1", use_relu=True)
        convolve(f"TL{level}_1", top, use_relu=level == 6)
        if level < 6:
            coarser = f"P{level + 1}"
            _LIBS.DeconvBNLayer(net, coarser, f"{coarser}-up", backbone.batchnorm, False, 256, 2, 0, 2)
            _LIBS.EltwiseLayer(net, [top, f"{coarser}-up"], f"Elt{level}")
            top = f"Elt{level}_relu"
            net[top] = L.ReLU(net[f"Elt{level}"], in_place=True)
        convolve(top, f"P{level}", use_relu=True)
    return sources


def _heads(net: NetSpec, backbone: RefineDetBackbone, num_classes: int) -> dict[str, Top]:
    backbone.add(net)
    sources = _transfer(net, backbone)
    tops = _LIBS.CreateRefineDetHead(
        net,
        data_layer="data",
        from_layers=sources,
        from_layers2=["P3", "P4", "P5", "P6"],
        use_batchnorm=False,
        min_sizes=[32, 64, 128, 256],
        max_sizes=[[], [], [], []],
        aspect_ratios=[[2], [2], [2], [2]],
        steps=[8, 16, 32, 64],
        num_classes=num_classes,
        flip=True,
        clip=False,
        prior_variance=[0.1, 0.1, 0.2, 0.2],
        kernel_size=3,
        pad=1,
        inter_layer_depth=[1, 1, 1, 1] if backbone.inter_layers else [],
    )
    return dict(zip(("arm_loc", "arm_conf", "priors", "odm_loc", "odm_conf"), tops, strict=True))


def refinedet(
    name: str, size: int, backbone: RefineDetBackbone, data: DataSet, training: Training, options: Options
) -> Recipe:
    """Returns a RefineDet.

    Raises:
        UsageError: The size is not a multiple of 64, so the joined features would not match.
    """
    data, training = options.data(data), options.training(training)
    size = options.size or size
    if size % 64:
        raise UsageError(
            "RefineDet cannot have this input size", code="recipe.size", expected="a multiple of 64", found=size
        )
    train = NetSpec()
    add_train_data(train, data, size, training.batch_size_per_device)
    tops = _heads(train, backbone, data.num_classes)
    arm = [tops["arm_loc"], tops["arm_conf"], tops["priors"], train.label]
    multibox_loss(train, "arm_loss", arm, 2, data, objectness_score=_OBJECTNESS)
    objectness = softmax(train, "arm_conf", 2)
    odm = [tops["odm_loc"], tops["odm_conf"], tops["priors"], train.label, objectness, tops["arm_loc"]]
    multibox_loss(train, "odm_loss", odm, data.num_classes, data, objectness_score=_OBJECTNESS)

    test = NetSpec()
    add_test_data(test, data, size, training.test_batch_size)
    tops = _heads(test, backbone, data.num_classes)
    objectness = softmax(test, "arm_conf", 2)
    confidence = softmax(test, "odm_conf", data.num_classes)
    bottoms = [tops["odm_loc"], confidence, tops["priors"], objectness, tops["arm_loc"]]
    nms = {"nms_threshold": 0.45, "top_k": 1000}
    detection_output(test, bottoms, data, nms_param=nms, keep_top_k=500, objectness_score=_OBJECTNESS)
    return assemble(name, size, train, test, data, training, options)


def _entry(
    size: int, body: str, data: DataSet, training: Training, result: str, finetune: bool = False, note: str = ""
) -> Entry:
    backbone = {"vgg16": VGG16, "resnet101": RESNET101}[body]
    coco = f"refinedet{size}_{body}_coco"
    name = f"refinedet{size}_{body}_{data.name.lower()}{'_ft' if finetune else ''}"
    nets_of = name.removesuffix("_ft") if finetune else None
    if body == "resnet101":
        training = replace(training, weights=RESNET101_WEIGHTS)
    if finetune:
        training = replace(training, weights=f"models/{coco}/{VOC_INIT}")
        note = "starts from the COCO net with VOC's classes picked (pyscratchdet convert --coco-to-voc)"
    build = _builder(name, size, backbone, data, training)
    return Entry(name, size, result, build, note=note, can_resize=True, nets_of=nets_of)


def _builder(name: str, size: int, backbone: RefineDetBackbone, data: DataSet, training: Training) -> Any:
    return lambda options: refinedet(name, size, backbone, data, training, options)


_VOC07, _VOC12, _AP = "mAP on VOC 2007 test", "mAP on VOC 2012 test", "AP on COCO test-dev"
ENTRIES = [
    _entry(320, "vgg16", VOC0712, VOC_TRAINING, f"RefineDet320: 80.0 {_VOC07}"),
    _entry(512, "vgg16", VOC0712, VOC_TRAINING, f"RefineDet512: 81.8 {_VOC07}"),
    _entry(320, "vgg16", VOC0712PLUS, PLUS_TRAINING, f"RefineDet320: 78.1 {_VOC12}"),
    _entry(512, "vgg16", VOC0712PLUS, PLUS_TRAINING, f"RefineDet512: 80.1 {_VOC12}"),
    _entry(320, "vgg16", COCO, COCO_TRAINING, f"RefineDet320: 29.4 {_AP}"),
    _entry(512, "vgg16", COCO, COCO_TRAINING, f"RefineDet512: 33.0 {_AP}"),
    _entry(320, "resnet101", COCO, COCO_TRAINING, f"RefineDet320: 32.0 {_AP}"),
    _entry(512, "resnet101", COCO, COCO512_RESNET_TRAINING, f"RefineDet512: 36.4 {_AP}"),
    _entry(320, "vgg16", VOC0712, VOC_FINETUNING, f"RefineDet320 with COCO: 84.0 {_VOC07}", finetune=True),
    _entry(512, "vgg16", VOC0712, VOC_FINETUNING, f"RefineDet512 with COCO: 85.2 {_VOC07}", finetune=True),
    _entry(320, "vgg16", VOC0712PLUS, PLUS_FINETUNING, f"RefineDet320 with COCO: 82.7 {_VOC12}", finetune=True),
    _entry(512, "vgg16", VOC0712PLUS, PLUS_FINETUNING, f"RefineDet512 with COCO: 85.0 {_VOC12}", finetune=True),
]
