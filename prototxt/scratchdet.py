"""ScratchDet: Root-ResNet trained from scratch (ScratchDet's ssd_pascal.py, ssd_coco.py and its paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pyscratchdet.caffe.model_libs import rootresnet as blocks
from pyscratchdet.caffe.model_libs.vgg import EXTRA_STAGES
from pyscratchdet.caffe.net_spec import NetSpec
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.caffe.net_spec import params as P
from pyscratchdet.errors import UsageError
from pyscratchdet.prototxt import printed
from pyscratchdet.prototxt.nets import Head, ratio_sizes, single_shot, usual_ratios
from pyscratchdet.prototxt.recipe import COCO, VOC0712, VOC0712PLUS, DataSet, Entry, Options, Recipe, Training

# Residual blocks of conv2 to conv5.
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}

# What `pyscratchdet convert --coco-to-voc` makes of the COCO net's weights.
VOC_INIT = "coco_for_voc.caffemodel"

# As in the published script; the paper's section 4.2.2 says 45k, 30k, 20k, 5k iterations (see PAPER_VOC).
SCRIPT_VOC = Training(
    base_lr=0.05,
    stepvalue=(40000, 75000, 90000, 100000),
    max_iter=100000,
    snapshot=5000,
    batch_size=128,
    test_interval=5000,
    display=20,
    debug_info=True,
)
PAPER_VOC = replace(SCRIPT_VOC, stepvalue=(45000, 75000, 95000), debug_info=False)
# RefineDet's rule for the same step: a twentieth of the rate, two falls by 5.
FINETUNING = replace(
    PAPER_VOC,
    base_lr=0.0025,
    stepvalue=(80000, 120000),
    gamma=0.2,
    max_iter=120000,
    weights=f"models/scratchdet300_rootres34_coco/{VOC_INIT}",
)
SCRIPT_COCO = Training(
    base_lr=0.05,
    stepvalue=(150000, 250000, 310000, 320000),
    max_iter=325000,
    snapshot=10000,
    batch_size=64,
    accum_batch_size=128,
    test_batch_size=2,
    display=20,
)


PAPER_COCO = replace(SCRIPT_COCO, stepvalue=(150000, 250000, 310000), max_iter=320000)
COCO512 = replace(COCO, output_name_prefix="detections_minival_ssd512_results")

# Pixels between the cells of each source layer, where they are published.
STEPS = {300: (8, 16, 32, 64, 100, 300), 512: (8, 16, 32, 64, 128, 256, 512)}


def squeeze_stages(feature: int, width: int = 64) -> list[tuple[int, int, int, int]]:
    """Returns SSD's extra layers down to 1x1 for a feature map of this side: (squeeze, channels, pad, stride) each.

    For 19 these are the published ones (10, 5, 3, 1).
    """
    stages: list[tuple[int, int, int, int]] = []
    while feature > 1:
        pad, stride = (0, 1) if 3 <= feature < 6 else (1, 2)
        squeeze, channels, _, _ = EXTRA_STAGES[min(len(stages), 1)]
        stages.append((squeeze * width // 64, channels * width // 64, pad, stride))
        feature = (feature + 2 * pad - 3) // stride + 1
    return stages


def rootresnet(
    name: str = "scratchdet",
    depth: int = 18,
    size: int = 300,
    width: int = 64,
    *,
    root: Sequence[int] = (3, 3, 3),
    downsample: bool = False,
    pool: bool = True,
    head_batchnorm: bool = False,
    ratios: tuple[int, int, tuple[int, int]] = (20, 90, (10, 20)),
    residual_extras: bool | None = None,
    data: DataSet = VOC0712,
    training: Training = SCRIPT_VOC,
    options: Options | None = None,
) -> Recipe:
    """Returns a ScratchDet on Root-ResNet.

    Args:
        name: The recipe's name.
        depth: 18 or 34.
        size: Side of the input in pixels.
        width: Channels of the first stage; the published nets have 64.
        root: Kernel sides of the root block's convolutions.
        downsample: Stride 2 in the first convolution, as in ResNet.
        pool: Max pooling behind the root block.
        head_batchnorm: BatchNorm after the predicting convolutions.
        ratios: Smallest and largest prior in percent of `size`, and the first source layer's two.
        residual_extras: Residual blocks (as published for 34) or SSD's layers (as published for 18) after conv5.
        data: Data set.
        training: Schedule.
        options: The user's own settings, which override `data`, `training`, `size` and `width`.

    Raises:
        UsageError: The depth is neither 18 nor 34.
    """
    options = options or Options()
    data, training = options.data(data), options.training(training)
    size = options.size or size
    width = max(1, round(width * (options.width or 1)))
    if depth not in BLOCKS:
        raise UsageError("no such depth", code="recipe.depth", expected="18 or 34", found=depth)
    residual = depth == 34 if residual_extras is None else residual_extras
    # conv2 is at 1/2 or 1/4 of the input; the detection layers begin at 1/8, whichever stage that is.
    halvings = downsample + pool
    stages = squeeze_stages(-(-size // 2 ** (halvings + 3)), width)
    strides = (2, 2, 2, 2) if size == 512 else (2, 2, 1, 1)

    def body(net: NetSpec) -> None:
        in_place = depth == 34
        top = blocks.root_block(net, "data", width, root, 2 if downsample else 1, in_place)
        if pool:
            net.pool1 = L.Pooling(top, pool=P.Pooling.MAX, kernel_size=2, stride=2)
            top = net.pool1
        top = blocks.residual_stages(net, top, BLOCKS[depth], width, in_place=in_place, preactivate_first=depth == 18)
        if not residual:
            blocks.squeeze_extras(net, top, stages, in_place)
            return
        top = blocks.residual_extras(net, top, strides, 2 * width)
        if size == 512:
            blocks.closing_extra(net, top, 10, 2 * width)

    num_extras = 4 + (size == 512) if residual else len(stages)
    sources = [f"conv{stage}_{2 * BLOCKS[depth][stage - 2]}" for stage in range(5 - halvings, 6)]
    sources += [f"conv{stage}_2" for stage in range(6, 6 + num_extras)]
    low, high = ratio_sizes(size, len(sources), *ratios)
    head = Head(
        sources,
        low,
        high,
        usual_ratios(len(sources)),
        steps=STEPS.get(size, ()),
        batchnorm=head_batchnorm,
        fork="scratchdet",
    )
    return single_shot(name, size, body, head, data, training, options)


# Percent of the input's side: smallest and largest prior of the even steps, and the first source layer's two.
VOC_RATIOS = (20, 90, (10, 20))
VOC512_RATIOS = (15, 90, (7, 15))
COCO_RATIOS = (15, 90, (7, 15))
COCO512_RATIOS = (10, 90, (4, 10))

_VOC18, _VOC34, _COCO34 = (
    "scratchdet300_rootres18_voc0712",
    "scratchdet300_rootres34_voc0712",
    "scratchdet300_rootres34_coco",
)
_COCO: dict[str, Any] = {"head_batchnorm": True, "ratios": COCO_RATIOS, "data": COCO, "training": SCRIPT_COCO}
_FINETUNED: dict[str, Any] = {"head_batchnorm": True, "ratios": COCO_RATIOS, "training": FINETUNING}
_SCRIPT_NOTE = "as the published script: rate falls at 40k, 75k, 90k of 100k, no BatchNorm in the heads"
_PAPER_NOTE = "as the paper prints it: 45k, 30k, 20k, 5k iterations, BatchNorm in the heads"
_FINETUNE_NOTE = (
    "starts from the COCO net with VOC's classes picked (convert --coco-to-voc); the paper prints no schedule"
)


def _entry(
    name: str, depth: int, result: str, note: str = "", size: int = 300, nets_of: str | None = None, **arguments: Any
) -> Entry:
    def build(options: Options) -> Recipe:
        return rootresnet(name, depth, size, options=options, **arguments)

    return Entry(name, size, result, build, note=note, can_resize=True, can_widen=True, nets_of=nets_of)


def _printed(name: str, note: str, **arguments: Any) -> Entry:
    return _entry(name, 34, printed.result(name), note, **arguments)


ENTRIES = [
    _entry(_VOC34, 34, printed.result(f"{_VOC34}_paper"), _SCRIPT_NOTE),
    _printed(f"{_VOC34}_paper", _PAPER_NOTE, head_batchnorm=True, training=PAPER_VOC),
    _printed(f"{_VOC34}plus", "schedule as 07+12", data=VOC0712PLUS),
    _entry(_COCO34, 34, printed.result(f"{_COCO34}_paper"), "as the published script", **_COCO),
    _printed(
        f"{_COCO34}_paper",
        "as the paper prints it: 150k, 100k, 60k, 10k iterations",
        nets_of=_COCO34,
        **{**_COCO, "training": PAPER_COCO},
    ),
    _entry(
        "scratchdet512_rootres34_coco",
        34,
        "none published for Caffe",
        "extra layers as in the mmdetection release",
        size=512,
        **{**_COCO, "ratios": COCO512_RATIOS, "data": COCO512},
    ),
    _printed(f"{_VOC34}_ft", _FINETUNE_NOTE, **_FINETUNED),
    _printed(f"{_VOC34}plus_ft", _FINETUNE_NOTE, data=VOC0712PLUS, **_FINETUNED),
    _entry(
        _VOC18,
        18,
        printed.result("table2_root3x3"),
        f"published body, {_SCRIPT_NOTE}; table2_root3x3 is the paper's",
    ),
]
