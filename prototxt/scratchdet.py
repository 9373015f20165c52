"""ScratchDet: Root-ResNet trained from scratch (ScratchDet's ssd_pascal.py, ssd_coco.py and its paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prototxt.nets import Head, ratio_sizes, single_shot, usual_ratios
from prototxt.recipe import COCO, VOC0712, DataSet, Entry, Options, Recipe, Training
from pyscratchdet.caffe.model_libs import rootresnet as blocks
from pyscratchdet.caffe.model_libs.vgg import EXTRA_STAGES
from pyscratchdet.caffe.net_spec import NetSpec
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.caffe.net_spec import params as P
from pyscratchdet.errors import UsageError

# Residual blocks of conv2 to conv5.
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}

# As the published script has it; the paper's section 4.2.2 says 45k, 30k, 20k, 5k iterations (see PAPER_VOC).
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


def squeeze_stages(feature: int, width: int = 64) -> list[tuple[int, int, int, int]]:
    """Returns SSD's extra layers down to 1x1 for a feature map of this side: (squeeze, channels, pad, stride) each.

    For 19 these are the published ones (10, 5, 3, 1).
    """
    stages = []
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
        options: One's own settings, which win over `data`, `training`, `size` and `width`.

    Raises:
        UsageError: A depth that is neither, or an input too small for the body.
    """
    options = options or Options()
    data, training = options.data(data), options.training(training)
    size = options.size or size
    width = max(1, round(width * (options.width or 1)))
    if depth not in BLOCKS:
        raise UsageError("no such depth", code="recipe.depth", expected="18 or 34", found=depth)
    residual = depth == 34 if residual_extras is None else residual_extras
    # A root block that halves the image more or less often than once is made up for in conv2: conv4 stays at 1/8.
    stride2 = 2 if not downsample and not pool else 1
    halvings = downsample + pool + (stride2 == 2)
    feature = size
    for _ in range(halvings + 3):
        feature = -(-feature // 2)
    stages = squeeze_stages(feature, width)

    def body(net: NetSpec) -> None:
        in_place = depth == 34
        top = blocks.root_block(net, "data", width, root, 2 if downsample else 1, in_place)
        if pool:
            net.pool1 = L.Pooling(top, pool=P.Pooling.MAX, kernel_size=2, stride=2)
            top = net.pool1
        top = blocks.residual_stages(
            net, top, BLOCKS[depth], width, in_place=in_place, preactivate_first=depth == 18, stride2=stride2
        )
        if residual:
            blocks.residual_extras(net, top, width=2 * width)
        else:
            blocks.squeeze_extras(net, top, stages, in_place)

    num_extras = 4 if residual else len(stages)
    sources = [f"conv4_{2 * BLOCKS[depth][2]}", f"conv5_{2 * BLOCKS[depth][3]}"]
    sources += [f"conv{stage}_2" for stage in range(6, 6 + num_extras)]
    low, high = ratio_sizes(size, len(sources), *ratios)
    head = Head(
        sources,
        low,
        high,
        usual_ratios(len(sources)),
        steps=(8, 16, 32, 64, 100, 300) if size == 300 else (),
        batchnorm=head_batchnorm,
        fork="scratchdet",
    )
    return single_shot(name, size, body, head, data, training, options)


def _voc34(options: Options) -> Recipe:
    return rootresnet("scratchdet300_rootres34_voc0712", 34, options=options)


def _voc18(options: Options) -> Recipe:
    return rootresnet("scratchdet300_rootres18_voc0712", 18, options=options)


def _coco34(options: Options) -> Recipe:
    name = "scratchdet300_rootres34_coco"
    return rootresnet(
        name, 34, head_batchnorm=True, ratios=COCO_RATIOS, data=COCO, training=SCRIPT_COCO, options=options
    )


# The prior sizes of SSD's and ScratchDet's COCO scripts: smaller than VOC's.
COCO_RATIOS = (15, 90, (7, 15))

ENTRIES = [
    Entry(
        "scratchdet300_rootres34_voc0712",
        300,
        "ScratchDet table 3: 80.4 mAP on VOC 2007 test",
        _voc34,
        note="as the published script: steps 40k/75k/90k/100k, no BatchNorm in the heads",
        can_resize=True,
        can_widen=True,
    ),
    Entry(
        "scratchdet300_rootres34_coco",
        300,
        "ScratchDet table 4: 32.7 AP on COCO test-dev",
        _coco34,
        can_resize=True,
        can_widen=True,
    ),
    Entry(
        "scratchdet300_rootres18_voc0712",
        300,
        "ScratchDet table 2: 78.5 mAP on VOC 2007 test",
        _voc18,
        note="published body, heads without BatchNorm as in the script; table 2 itself has them",
        can_resize=True,
        can_widen=True,
    ),
]
