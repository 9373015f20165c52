"""Inception v3, as a table of towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyscratchdet.caffe.model_libs.blocks import ConvBNLayer, InceptionTower
from pyscratchdet.caffe.model_libs.fork import Fork, published
from pyscratchdet.caffe.net_spec import NetSpec
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.caffe.net_spec import params as P

Tower = tuple[str, list[dict[str, Any]]]


def _conv(
    name: str, num_output: int, kernel: int | tuple[int, int] = 1, pad: int = 0, stride: int = 1
) -> dict[str, Any]:
    """One convolution; a pair of kernel sides is padded to keep the size."""
    if isinstance(kernel, tuple):
        window: dict[str, Any] = {"kernel_size": list(kernel), "pad": [side // 2 for side in kernel], "stride": [1, 1]}
    else:
        window = {"kernel_size": kernel, "pad": pad, "stride": stride}
    return {"name": name, "num_output": num_output, **window}


def _pool(method: int, pad: int, stride: int) -> dict[str, Any]:
    return {"name": "pool", "pool": method, "kernel_size": 3, "pad": pad, "stride": stride}


def _same_size(pool_width: int) -> list[Tower]:
    """mixed, mixed_1, mixed_2: 1x1, 5x5 and double 3x3 towers."""
    return [
        ("", [_conv("conv", 64)]),
        ("/tower", [_conv("conv", 48), _conv("conv_1", 64, 5, 2)]),
        ("/tower_1", [_conv("conv", 64), _conv("conv_1", 96, 3, 1), _conv("conv_2", 96, 3, 1)]),
        ("/tower_2", [_pool(P.Pooling.AVE, 1, 1), _conv("conv", pool_width)]),
    ]


def _factorised(width: int) -> list[Tower]:
    """mixed_4 to mixed_7: 7x7 as 1x7 and 7x1."""
    wide, tall = (1, 7), (7, 1)
    return [
        ("", [_conv("conv", 192)]),
        ("/tower", [_conv("conv", width), _conv("conv_1", width, wide), _conv("conv_2", 192, tall)]),
        (
            "/tower_1",
            [
                _conv("conv", width),
                _conv("conv_1", width, tall),
                _conv("conv_2", width, wide),
                _conv("conv_3", width, tall),
                _conv("conv_4", 192, wide),
            ],
        ),
        ("/tower_2", [_pool(P.Pooling.AVE, 1, 1), _conv("conv", 192)]),
    ]


def _blocks() -> list[tuple[str, list[Tower]]]:
    """Mixed to mixed_8."""
    halve3 = [
        ("", [_conv("conv", 384, 3, 0, 2)]),
        ("/tower", [_conv("conv", 64), _conv("conv_1", 96, 3, 1), _conv("conv_2", 96, 3, 0, 2)]),
        ("", [_pool(P.Pooling.MAX, 0, 2)]),
    ]
    halve8 = [
        ("/tower", [_conv("conv", 192), _conv("conv_1", 320, 3, 0, 2)]),
        (
            "/tower_1",
            [
                _conv("conv", 192),
                _conv("conv_1", 192, (1, 7)),
                _conv("conv_2", 192, (7, 1)),
                _conv("conv_3", 192, 3, 0, 2),
            ],
        ),
        ("", [_pool(P.Pooling.MAX, 0, 2)]),
    ]
    return [
        *(("mixed" if not index else f"mixed_{index}", _same_size(64 if index else 32)) for index in range(3)),
        ("mixed_3", halve3),
        *((f"mixed_{index}", _factorised(width)) for index, width in enumerate((128, 160, 160, 192), 4)),
        ("mixed_8", halve8),
    ]


def _stem(fork: Fork, net: NetSpec, from_layer: str, bn_param: dict[str, Any]) -> str:
    def convolve(name: str, bottom: str, num_output: int, kernel: int, pad: int, stride: int) -> str:
        ConvBNLayer(fork, net, bottom, name, True, True, num_output, kernel, pad, stride, use_scale=False, **bn_param)
        return name

    def pool(name: str, bottom: str) -> str:
        net[name] = L.Pooling(net[bottom], pool=P.Pooling.MAX, kernel_size=3, stride=2, pad=0)
        return name

    top = convolve("conv", from_layer, 32, 3, 0, 2)
    top = convolve("conv_1", top, 32, 3, 0, 1)
    top = pool("pool", convolve("conv_2", top, 64, 3, 1, 1))
    top = convolve("conv_3", top, 80, 1, 0, 1)
    return pool("pool_1", convolve("conv_4", top, 192, 3, 0, 1))


def _concat(net: NetSpec, name: str, tops: Sequence[Any]) -> str:
    net[name] = L.Concat(*tops, axis=1)
    return name


def _expanded(fork: Fork, net: NetSpec, name: str, bottom: str, pool: int, bn_param: dict[str, Any]) -> str:
    """mixed_9, mixed_10: two towers end in a 1x3 and a 3x1 side by side."""

    def tower(source: str, suffix: str, params: list[dict[str, Any]]) -> Any:
        return InceptionTower(fork, net, source, f"{name}{suffix}", params, **bn_param)

    tops = [tower(bottom, "", [_conv("conv", 320)])]
    for suffix, chain in (
        ("/tower", [_conv("conv", 384)]),
        ("/tower_1", [_conv("conv", 448), _conv("conv_1", 384, 3, 1)]),
    ):
        tower(bottom, suffix, chain)
        source, mixed = f"{name}{suffix}/{chain[-1]['name']}", f"{suffix}/mixed"
        halves = [
            tower(source, mixed, [_conv(half, 384, kernel)]) for half, kernel in (("conv", (1, 3)), ("conv_1", (3, 1)))
        ]
        tops.append(net[_concat(net, f"{name}{mixed}", halves)])
    tops.append(tower(bottom, "/tower_2", [_pool(pool, 1, 1), _conv("conv", 192)]))
    return _concat(net, f"{name}/join", tops)


@published
def InceptionV3Body(fork: Fork, net: NetSpec, from_layer: str, output_pred: bool = False, **bn_param: Any) -> NetSpec:
    """Inception v3 (BatchNorm with Bias, no Scale); `output_pred` adds pool_3 and the 1008-way classifier."""
    top = _stem(fork, net, from_layer, bn_param)
    for name, towers in _blocks():
        tops = [InceptionTower(fork, net, top, f"{name}{suffix}", chain, **bn_param) for suffix, chain in towers]
        top = _concat(net, f"{name}/join", tops)
    for name, pool in (("mixed_9", P.Pooling.AVE), ("mixed_10", P.Pooling.MAX)):
        top = _expanded(fork, net, name, top, pool, bn_param)
    if output_pred:
        net.pool_3 = L.Pooling(net[top], pool=P.Pooling.AVE, kernel_size=8, pad=0, stride=1)
        net.softmax = L.InnerProduct(net.pool_3, num_output=1008)
        net.softmax_prob = L.Softmax(net.softmax)
    return net
