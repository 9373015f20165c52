"""The detection heads: location, confidence and prior boxes on each source layer (SSD), twice over (RefineDet)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyscratchdet.caffe.model_libs.blocks import ConvBNLayer, ResBody
from pyscratchdet.caffe.model_libs.fork import Fork, published
from pyscratchdet.caffe.net_spec import NetSpec, Top
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.errors import UsageError


@dataclass(frozen=True)
class _Priors:
    """The prior boxes of one source layer, sizes in pixels of the network's input."""

    min_size: list[float]
    max_size: list[float]
    aspect_ratio: list[float]
    step: Any
    flip: bool

    @property
    def num_per_cell(self) -> int:
        """Returns how many priors a cell has: one or two squares, and each ratio (and its flip), per min_size."""
        ratios = len(self.aspect_ratio) * (2 if self.flip else 1)
        return (1 + bool(self.max_size) + ratios) * len(self.min_size)


def _as_list(values: Sequence[Any], index: int) -> list[Any]:
    if index >= len(values):
        return []
    value = values[index]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _check_head(net: NetSpec, data_layer: str, num_classes: Any, num_sources: int, **lists: Sequence[Any]) -> None:
    """Refuses lists whose length is not the number of source layers; `min_sizes` must be there."""
    if not isinstance(num_classes, int) or num_classes <= 0:
        raise UsageError("num_classes must be a positive number", code="head.classes", found=num_classes)
    for name, values in lists.items():
        if (values or name == "min_sizes") and len(values) != num_sources:
            raise UsageError(
                f"from_layers and {name} should have the same length",
                code="head.length",
                expected=num_sources,
                found=len(values),
            )
    net[data_layer]


def _priors(
    index: int, min_sizes: Sequence[Any], max_sizes: Sequence[Any], aspect_ratios: Sequence[Any], steps: Any, flip: bool
) -> _Priors:
    min_size, max_size = _as_list(min_sizes, index), _as_list(max_sizes, index)
    if max_size and len(max_size) != len(min_size):
        raise UsageError(
            "max_size and min_size should have the same length",
            code="head.length",
            expected=len(min_size),
            found=len(max_size),
        )
    step = steps[index] if len(steps) > index else None
    return _Priors(min_size, max_size, _as_list(aspect_ratios, index), step, flip)


def _normalised(net: NetSpec, source: str, normalizations: Sequence[float], index: int) -> str:
    """Adds L2 normalisation with a learned scale per channel unless the list is empty or says -1."""
    if not normalizations or normalizations[index] == -1:
        return source
    name = f"{source}_norm"
    scale = {"type": "constant", "value": normalizations[index]}
    net[name] = L.Normalize(net[source], scale_filler=scale, across_spatial=False, channel_shared=False)
    return name


@dataclass(frozen=True)
class _Predictor:
    """Adds one prediction: convolution, and its output flattened with channels last."""

    fork: Fork
    net: NetSpec
    convolution: dict[str, Any]
    share_location: bool
    loc_postfix: str
    conf_postfix: str

    def loc(self, source: str, num_priors: int, num_classes: int) -> Top:
        num_boxes = num_priors * (1 if self.share_location else num_classes)
        return self(source, f"{source}_mbox_loc{self.loc_postfix}", num_boxes * 4)

    def conf(self, source: str, num_priors: int, num_classes: int) -> Top:
        return self(source, f"{source}_mbox_conf{self.conf_postfix}", num_priors * num_classes)

    def __call__(self, source: str, name: str, num_output: int) -> Top:
        net = self.net
        ConvBNLayer(self.fork, net, source, name, use_relu=False, num_output=num_output, stride=1, **self.convolution)
        net[f"{name}_perm"] = L.Permute(net[name], order=[0, 2, 3, 1])
        net[f"{name}_flat"] = L.Flatten(net[f"{name}_perm"], axis=1)
        top: Top = net[f"{name}_flat"]
        return top


def _prior_box(net: NetSpec, source: str, data_layer: str, priors: _Priors, box: dict[str, Any]) -> Top:
    params: dict[str, Any] = {"min_size": priors.min_size, **box}
    if priors.max_size:
        params["max_size"] = priors.max_size
    if priors.aspect_ratio:
        params.update(aspect_ratio=priors.aspect_ratio, flip=priors.flip)
    if priors.step:
        params["step"] = priors.step
    name = f"{source}_mbox_priorbox"
    net[name] = L.PriorBox(net[source], net[data_layer], **params)
    top: Top = net[name]
    return top


def _box_params(clip: bool, variance: Any, offset: float, height: int, width: int) -> dict[str, Any]:
    params = {"clip": clip, "variance": variance, "offset": offset}
    if height and width:
        params.update({"img_size": height} if height == width else {"img_h": height, "img_w": width})
    return params


def _concat(net: NetSpec, name: str, tops: Sequence[Top], axis: int = 1) -> Top:
    net[name] = L.Concat(*tops, axis=axis)
    top: Top = net[name]
    return top


@published
def CreateMultiBoxHead(
    fork: Fork,
    net: NetSpec,
    data_layer: str = "data",
    num_classes: Any = (),
    from_layers: Sequence[str] = (),
    use_objectness: bool = False,
    normalizations: Sequence[float] = (),
    use_batchnorm: bool = True,
    lr_mult: float = 1,
    use_scale: bool = True,
    min_sizes: Sequence[Any] = (),
    max_sizes: Sequence[Any] = (),
    prior_variance: Sequence[float] = (0.1,),
    aspect_ratios: Sequence[Any] = (),
    steps: Sequence[Any] = (),
    img_height: int = 0,
    img_width: int = 0,
    share_location: bool = True,
    flip: bool = True,
    clip: bool = True,
    offset: float = 0.5,
    inter_layer_depth: Sequence[int] = (),
    kernel_size: int = 1,
    pad: int = 0,
    conf_postfix: str = "",
    loc_postfix: str = "",
    prefix: str | None = None,
    **bn_param: Any,
) -> list[Top]:
    """SSD's head: per source layer a location and a confidence convolution and a PriorBox, joined by Concat.

    Args:
        fork: Which published version.
        net: Where the layers go.
        data_layer: Name of the images, whose size the priors are relative to.
        num_classes: Classes with background.
        from_layers: Source layers; all lists below have one entry for each.
        use_objectness: Whether to predict object or not as well.
        normalizations: L2 normalisation's initial scale, -1 for none.
        use_batchnorm: BatchNorm after the predicting convolutions.
        lr_mult: Learning rate factor of what is added here.
        use_scale: Without effect, as in the original.
        min_sizes: Sides of the small squares in pixels of the input, a number or a list per layer.
        max_sizes: Sides whose geometric mean with min_size is the large square; [] for none.
        prior_variance: One or four variances.
        aspect_ratios: Width over height, a list per layer.
        steps: Pixels between cells; empty lets PriorBox divide the image size by the layer's.
        img_height: Image height of the priors if not the data layer's.
        img_width: Image width of the priors if not the data layer's.
        share_location: One box for all classes.
        flip: Also the inverse of each aspect ratio.
        clip: Cut priors at the image's border.
        offset: Where in its cell a prior is centred.
        inter_layer_depth: Channels of a 3x3 convolution in between, 0 for none.
        kernel_size: Of the predicting convolutions.
        pad: Of the predicting convolutions.
        conf_postfix: Appended to the confidence layers' names.
        loc_postfix: Appended to the location layers' names.
        prefix: Of the joined outputs' names, `<prefix>_loc`...; default: the fork's.
        bn_param: As ConvBNLayer's.

    Returns:
        The tops mbox_loc (N, priors * 4), mbox_conf (N, priors * classes), mbox_priorbox (1, 2, priors * 4) and, on
        demand, mbox_objectness (N, priors * 2).

    Raises:
        UsageError: Lists of different lengths, or no classes.
    """
    _check_head(
        net,
        data_layer,
        num_classes,
        len(from_layers),
        normalizations=normalizations,
        min_sizes=min_sizes,
        max_sizes=max_sizes,
        aspect_ratios=aspect_ratios,
        steps=steps,
        inter_layer_depth=inter_layer_depth,
    )
    convolution = {"use_bn": use_batchnorm, "lr_mult": lr_mult, "kernel_size": kernel_size, "pad": pad, **bn_param}
    predict = _Predictor(fork, net, convolution, share_location, loc_postfix, conf_postfix)
    box = _box_params(clip, prior_variance, offset, img_height, img_width)
    outputs: dict[str, list[Top]] = {"loc": [], "conf": [], "priorbox": []}
    if use_objectness:
        outputs["objectness"] = []
    for index, layer in enumerate(from_layers):
        source = _normalised(net, layer, normalizations, index)
        if inter_layer_depth and inter_layer_depth[index] > 0:
            inter = f"{source}_inter"
            depth = inter_layer_depth[index]
            ConvBNLayer(fork, net, source, inter, use_batchnorm, True, depth, 3, 1, 1, lr_mult=lr_mult, **bn_param)
            source = inter
        priors = _priors(index, min_sizes, max_sizes, aspect_ratios, steps, flip)
        num = priors.num_per_cell
        outputs["loc"].append(predict.loc(source, num, num_classes))
        outputs["conf"].append(predict.conf(source, num, num_classes))
        outputs["priorbox"].append(_prior_box(net, source, data_layer, priors, box))
        if use_objectness:
            outputs["objectness"].append(predict(source, f"{source}_mbox_objectness", num * 2))
    stem = fork.mbox_prefix if prefix is None else prefix
    return [_concat(net, f"{stem}_{name}", tops, axis=2 if name == "priorbox" else 1) for name, tops in outputs.items()]


@published
def CreateRefineDetHead(
    fork: Fork,
    net: NetSpec,
    data_layer: str = "data",
    num_classes: Any = (),
    from_layers: Sequence[str] = (),
    from_layers2: Sequence[str] = (),
    normalizations: Sequence[float] = (),
    use_batchnorm: bool = True,
    lr_mult: float = 1,
    min_sizes: Sequence[Any] = (),
    max_sizes: Sequence[Any] = (),
    prior_variance: Sequence[float] = (0.1,),
    aspect_ratios: Sequence[Any] = (),
    steps: Sequence[Any] = (),
    img_height: int = 0,
    img_width: int = 0,
    share_location: bool = True,
    flip: bool = True,
    clip: bool = True,
    offset: float = 0.5,
    inter_layer_depth: Sequence[int] = (),
    kernel_size: int = 1,
    pad: int = 0,
    conf_postfix: str = "",
    loc_postfix: str = "",
    **bn_param: Any,
) -> list[Top]:
    """RefineDet's two heads: anchor refinement (arm, two classes) and object detection (odm), with one set of priors.

    Arguments as CreateMultiBoxHead's; `from_layers2` are the odm's source layers, `inter_layer_depth` adds a residual
    block in front of each prediction where positive.

    Returns:
        The tops arm_loc, arm_conf, arm_priorbox, odm_loc, odm_conf.

    Raises:
        UsageError: Lists of different lengths, or no classes.
    """
    lists = {"normalizations": normalizations, "inter_layer_depth": inter_layer_depth}
    lists.update(min_sizes=min_sizes, max_sizes=max_sizes, aspect_ratios=aspect_ratios, steps=steps)
    _check_head(net, data_layer, num_classes, len(from_layers), from_layers2=from_layers2, **lists)
    convolution = {"use_bn": use_batchnorm, "lr_mult": lr_mult, "kernel_size": kernel_size, "pad": pad, **bn_param}
    predict = _Predictor(fork, net, convolution, share_location, loc_postfix, conf_postfix)
    box = _box_params(clip, prior_variance, offset, img_height, img_width)
    tops = []
    for prefix, layers, classes in (("arm", from_layers, 2), ("odm", from_layers2, num_classes)):
        loc, conf, boxes = [], [], []
        for index, layer in enumerate(layers):
            source = _normalised(net, layer, normalizations, index)
            if inter_layer_depth and inter_layer_depth[index] > 0:
                ResBody(fork, net, source, f"{source}_inter", 256, 256, 1024, stride=1, use_branch1=True)
                source = f"res{source}_inter"
            priors = _priors(index, min_sizes, max_sizes, aspect_ratios, steps, flip)
            loc.append(predict.loc(source, priors.num_per_cell, classes))
            conf.append(predict.conf(source, priors.num_per_cell, classes))
            if prefix == "arm":
                boxes.append(_prior_box(net, source, data_layer, priors, box))
        tops += [_concat(net, f"{prefix}_loc", loc), _concat(net, f"{prefix}_conf", conf)]
        if boxes:
            tops.append(_concat(net, f"{prefix}_priorbox", boxes, axis=2))
    return tops
