"""The blocks that all bodies and heads are made of: convolution with BatchNorm, residual and inception blocks, data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pyscratchdet.caffe.model_libs.fork import Fork, published
from pyscratchdet.caffe.net_spec import NetSpec, Top
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.caffe.net_spec import params as P
from pyscratchdet.errors import UsageError
from pyscratchdet.proto import caffe_pb2

# Of a layer's blobs: what keeps one as it is, and the usual pair of a convolution (weights, bias).
FROZEN = {"lr_mult": 0, "decay_mult": 0}
CONVOLUTION = {
    "param": [{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 2, "decay_mult": 0}],
    "weight_filler": {"type": "xavier"},
    "bias_filler": {"type": "constant", "value": 0},
}
# A convolution whose bias a BatchNorm would cancel.
BIASLESS = {"param": [{"lr_mult": 1, "decay_mult": 1}], "weight_filler": {"type": "xavier"}, "bias_term": False}


@published
def check_if_exist(path: str) -> bool:
    """Returns whether `path` exists."""
    return os.path.exists(path)


@published
def make_if_not_exist(path: str) -> None:
    """Makes a folder and its parents."""
    os.makedirs(path, exist_ok=True)


@published
def UnpackVariable(var: Any, num: int) -> list[Any]:
    """Returns a list of `num` values: `var` itself, or its only value repeated.

    Raises:
        UsageError: A list that is neither `num` long nor of one value.
    """
    values = var if isinstance(var, list) else [var]
    if len(values) == num:
        return list(values)
    if len(values) != 1:
        raise UsageError("wrong number of values", code="spec.count", expected=f"1 or {num}", found=len(values))
    return values * num


def require_top(net: NetSpec, name: str) -> Top:
    """Returns the top a body starts from; NetSpec refuses names it does not have."""
    top: Top = net[name]
    return top


def batch_norm(bottom: Top, in_place: bool = True) -> Top:
    """Unnamed BatchNorm with frozen statistics and Scale, as the bodies trained from scratch have them."""
    normalised = L.BatchNorm(bottom, in_place=in_place, param=[FROZEN] * 3)
    scaled: Top = L.Scale(normalised, bias_term=True, in_place=True, filler={"value": 1}, bias_filler={"value": 0})
    return scaled


def batch_norm_relu(bottom: Top, in_place: bool = True) -> Top:
    """Unnamed BatchNorm, Scale and ReLU; `in_place=False` keeps the bottom's own values."""
    rectified: Top = L.ReLU(batch_norm(bottom, in_place), in_place=True)
    return rectified


def conv_relu(net: NetSpec, name: str, relu: str, bottom: str, **params: Any) -> str:
    """Named convolution with bias and in-place ReLU; returns the ReLU's name."""
    net[name] = L.Convolution(net[bottom], **params, **CONVOLUTION)
    net[relu] = L.ReLU(net[name], in_place=True)
    return relu


def freeze(net: NetSpec, names: Sequence[str], params: dict[str, Any]) -> None:
    """Sets learning rate and decay of the named convolutions to zero, with the other `params` as they were."""
    for name in names:
        if name in net.tops:
            net.update(name, {**params, "param": [FROZEN] * 2})


def _batch_norm_params(fork: Fork, lr_mult: float, params: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Returns BatchNorm's parameters and the learning rate factor of the Scale or Bias after it."""
    if not fork.writes_batchnorm:
        return {}, lr_mult
    written = {"param": [FROZEN] * 3, "eps": params.get("eps", 0.001)}
    if params.get("use_global_stats", False):
        return {**written, "use_global_stats": True}, 0
    return {**written, "moving_average_fraction": params.get("moving_average_fraction", 0.999)}, lr_mult


def _convolution_params(use_bn: bool, lr_mult: float, bias_term: bool) -> dict[str, Any]:
    if use_bn:
        return {
            "param": [{"lr_mult": lr_mult, "decay_mult": 1}],
            "weight_filler": {"type": "gaussian", "std": 0.01},
            "bias_term": bias_term,
        }
    return {
        **CONVOLUTION,
        "param": [{"lr_mult": lr_mult, "decay_mult": 1}, {"lr_mult": 2 * lr_mult, "decay_mult": 0}],
    }


def _normalise(
    fork: Fork,
    net: NetSpec,
    convolution: str,
    out_layer: str,
    affixes: Sequence[tuple[str, str]],
    use_scale: bool,
    lr_mult: float,
    bn_params: dict[str, Any],
) -> None:
    """Adds in-place BatchNorm and Scale (or Bias), named after `out_layer` by their (prefix, postfix), Bias's last."""
    bn_name, scale_name, bias_name = (f"{prefix}{out_layer}{postfix}" for prefix, postfix in affixes)
    params, lr_mult = _batch_norm_params(fork, lr_mult, bn_params)
    net[bn_name] = L.BatchNorm(net[convolution], in_place=True, **params)
    blob = {"lr_mult": lr_mult, "decay_mult": 0}
    constant = {"type": "constant", "value": 0.0}
    if not use_scale:
        net[bias_name] = L.Bias(net[bn_name], in_place=True, param=[blob], filler=constant)
    elif fork.writes_batchnorm:
        net[scale_name] = L.Scale(
            net[bn_name],
            in_place=True,
            bias_term=True,
            param=[blob] * 2,
            filler={"type": "constant", "value": 1.0},
            bias_filler=constant,
        )
    else:
        net[scale_name] = L.Scale(net[bn_name], in_place=True, bias_term=True)


@published
def ConvBNLayer(
    fork: Fork,
    net: NetSpec,
    from_layer: str,
    out_layer: str,
    use_bn: bool,
    use_relu: bool,
    num_output: int,
    kernel_size: int | list[int],
    pad: int | list[int],
    stride: int | list[int],
    dilation: int = 1,
    use_scale: bool = True,
    lr_mult: float = 1,
    conv_prefix: str = "",
    conv_postfix: str = "",
    bn_prefix: str = "",
    bn_postfix: str = "_bn",
    scale_prefix: str = "",
    scale_postfix: str = "_scale",
    bias_prefix: str = "",
    bias_postfix: str = "_bias",
    bbbb: bool = False,
    **bn_params: Any,
) -> None:
    """Convolution, BatchNorm and Scale where `use_bn`, ReLU where `use_relu`; pairs are (height, width).

    `bbbb` is the published name of "give the convolution a bias before its BatchNorm". `bn_params` may hold `eps`,
    `moving_average_fraction` and `use_global_stats`.
    """
    name = f"{conv_prefix}{out_layer}{conv_postfix}"
    kernel_h, kernel_w = UnpackVariable(kernel_size, 2)
    pad_h, pad_w = UnpackVariable(pad, 2)
    stride_h, stride_w = UnpackVariable(stride, 2)
    if kernel_h == kernel_w:
        window = {"kernel_size": kernel_h, "pad": pad_h, "stride": stride_h}
    else:
        window = {"kernel_h": kernel_h, "kernel_w": kernel_w, "pad_h": pad_h, "pad_w": pad_w}
        window.update(stride_h=stride_h, stride_w=stride_w)
    if dilation > 1:
        window["dilation"] = dilation
    params = _convolution_params(use_bn, lr_mult, bbbb)
    net[name] = L.Convolution(net[from_layer], num_output=num_output, **window, **params)
    if use_bn:
        affixes = (bn_prefix, bn_postfix), (scale_prefix, scale_postfix), (bias_prefix, bias_postfix)
        _normalise(fork, net, name, out_layer, affixes, use_scale, lr_mult, bn_params)
    if use_relu:
        net[f"{name}_relu"] = L.ReLU(net[name], in_place=True)


@published
def DeconvBNLayer(
    fork: Fork,
    net: NetSpec,
    from_layer: str,
    out_layer: str,
    use_bn: bool,
    use_relu: bool,
    num_output: int,
    kernel_size: int,
    pad: int,
    stride: int,
    use_scale: bool = True,
    lr_mult: float = 1,
    deconv_prefix: str = "",
    deconv_postfix: str = "",
    bn_prefix: str = "",
    bn_postfix: str = "_bn",
    scale_prefix: str = "",
    scale_postfix: str = "_scale",
    bias_prefix: str = "",
    bias_postfix: str = "_bias",
    **bn_params: Any,
) -> None:
    """Deconvolution, BatchNorm and Scale where `use_bn`, ReLU where `use_relu`."""
    name = f"{deconv_prefix}{out_layer}{deconv_postfix}"
    params = _convolution_params(use_bn, lr_mult, bias_term=False)
    net[name] = L.Deconvolution(
        net[from_layer], num_output=num_output, kernel_size=kernel_size, pad=pad, stride=stride, **params
    )
    if use_bn:
        affixes = (bn_prefix, bn_postfix), (scale_prefix, scale_postfix), (bias_prefix, bias_postfix)
        _normalise(fork, net, name, out_layer, affixes, use_scale, lr_mult, bn_params)
    if use_relu:
        net[f"{name}_relu"] = L.ReLU(net[name], in_place=True)


@published
def EltwiseLayer(net: NetSpec, from_layer: Sequence[str], out_layer: str) -> None:
    """Sum of two tops."""
    net[out_layer] = L.Eltwise(net[from_layer[0]], net[from_layer[1]])


@published
def ResBody(
    fork: Fork,
    net: NetSpec,
    from_layer: str,
    block_name: str,
    out2a: int,
    out2b: int,
    out2c: int,
    stride: int,
    use_branch1: bool,
    dilation: int = 1,
    **bn_param: Any,
) -> None:
    """Bottleneck block `res<block_name>`: 1x1, 3x3, 1x1, and a 1x1 on the shortcut where `use_branch1`."""
    conv, bn, scale = f"res{block_name}_", f"bn{block_name}_", f"scale{block_name}_"

    def convolve(bottom: str, branch: str, num_output: int, relu: bool, **window: Any) -> str:
        naming: dict[str, Any] = {
            "conv_prefix": conv,
            "bn_prefix": bn,
            "bn_postfix": "",
            "scale_prefix": scale,
            "scale_postfix": "",
        }
        ConvBNLayer(fork, net, bottom, branch, True, relu, num_output, **window, **naming, **bn_param)
        return f"{conv}{branch}"

    shortcut = from_layer
    if use_branch1:
        shortcut = convolve(from_layer, "branch1", out2c, False, kernel_size=1, pad=0, stride=stride)
    top = convolve(from_layer, "branch2a", out2a, True, kernel_size=1, pad=0, stride=stride)
    top = convolve(top, "branch2b", out2b, True, kernel_size=3, pad=dilation, stride=1, dilation=dilation)
    top = convolve(top, "branch2c", out2c, False, kernel_size=1, pad=0, stride=1)
    net[f"res{block_name}"] = L.Eltwise(net[shortcut], net[top])
    net[f"res{block_name}_relu"] = L.ReLU(net[f"res{block_name}"], in_place=True)


@published
def InceptionTower(
    fork: Fork, net: NetSpec, from_layer: str, tower_name: str, layer_params: Sequence[dict[str, Any]], **bn_param: Any
) -> Top:
    """A chain of convolutions (with BatchNorm and Bias) and poolings, named `<tower_name>/<name>`; returns its top."""
    for params in layer_params:
        rest = {key: value for key, value in params.items() if key != "name"}
        name = f"{tower_name}/{params['name']}"
        if "pool" in name:
            net[name] = L.Pooling(net[from_layer], **rest)
        else:
            ConvBNLayer(fork, net, from_layer, name, use_bn=True, use_relu=True, use_scale=False, **rest, **bn_param)
        from_layer = name
    top: Top = net[from_layer]
    return top


@published
def CreateAnnotatedDataLayer(
    source: str,
    batch_size: int = 32,
    backend: int = P.Data.LMDB,
    output_label: bool = True,
    train: bool = True,
    label_map_file: str = "",
    anno_type: int | None = None,
    transform_param: dict[str, Any] | None = None,
    batch_sampler: Sequence[dict[str, Any]] = ({},),
) -> Any:
    """AnnotatedData for one phase; returns its tops (data, label), or data alone without `output_label`."""
    annotated: dict[str, Any] = {"label_map_file": label_map_file, "batch_sampler": list(batch_sampler)}
    if anno_type is not None:
        annotated["anno_type"] = anno_type
    return L.AnnotatedData(
        name="data",
        annotated_data_param=annotated,
        data_param={"batch_size": batch_size, "backend": backend, "source": source},
        ntop=2 if output_label else 1,
        include={"phase": caffe_pb2.TRAIN if train else caffe_pb2.TEST},
        transform_param=transform_param or {},
    )
