"""ResNet-50, -101 and -152 with bottleneck blocks, names and order of the published caffemodels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyscratchdet.caffe.model_libs.blocks import ConvBNLayer, ResBody
from pyscratchdet.caffe.model_libs.fork import Fork, published
from pyscratchdet.caffe.net_spec import NetSpec
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.caffe.net_spec import params as P


def _bottleneck_resnet(
    fork: Fork,
    net: NetSpec,
    from_layer: str,
    num_3b: int,
    num_4b: int,
    use_pool5: bool,
    use_dilation_conv5: bool,
    conv1_bias: bool,
    bn_param: dict[str, Any],
) -> NetSpec:
    """conv1 to res5c; `num_3b` and `num_4b` blocks follow the first one of stages 3 and 4."""
    naming: dict[str, Any] = {"bn_prefix": "bn_", "bn_postfix": "", "scale_prefix": "scale_", "scale_postfix": ""}
    ConvBNLayer(fork, net, from_layer, "conv1", True, True, 64, 7, 3, 2, bbbb=conv1_bias, **naming, **bn_param)
    net.pool1 = L.Pooling(net.conv1, pool=P.Pooling.MAX, kernel_size=3, stride=2)

    stride5, dilation5 = (1, 2) if use_dilation_conv5 else (2, 1)
    stages: tuple[tuple[list[str], int, int, int], ...] = (
        (["2a", "2b", "2c"], 64, 1, 1),
        (["3a", *(f"3b{index}" for index in range(1, num_3b + 1))], 128, 2, 1),
        (["4a", *(f"4b{index}" for index in range(1, num_4b + 1))], 256, 2, 1),
        (["5a", "5b", "5c"], 512, stride5, dilation5),
    )
    top = "pool1"
    for blocks, width, stride, dilation in stages:
        for index, block in enumerate(blocks):
            first = index == 0
            widths = (width, width, 4 * width)
            ResBody(fork, net, top, block, *widths, stride if first else 1, first, dilation=dilation, **bn_param)
            top = f"res{block}"
    if use_pool5:
        net.pool5 = L.Pooling(net.res5c, pool=P.Pooling.AVE, global_pooling=True)
    return net


def _body(depth: int, num_3b: int, num_4b: int, conv1_bias: bool = False) -> Callable[..., NetSpec]:
    """Offers the body of one depth under its published name."""

    def body(
        fork: Fork,
        net: NetSpec,
        from_layer: str,
        use_pool5: bool = True,
        use_dilation_conv5: bool = False,
        **bn_param: Any,
    ) -> NetSpec:
        return _bottleneck_resnet(
            fork, net, from_layer, num_3b, num_4b, use_pool5, use_dilation_conv5, conv1_bias, bn_param
        )

    body.__name__ = body.__qualname__ = f"ResNet{depth}Body"
    body.__doc__ = f"ResNet-{depth} from conv1 to res5c, or pool5. Dilated conv5 keeps stride 16."
    return published(body)


# As in its published caffemodel, the conv1 of ResNet-50 has a bias.
ResNet50Body = _body(50, 3, 5, conv1_bias=True)
ResNet101Body = _body(101, 3, 22)
ResNet152Body = _body(152, 7, 35)
