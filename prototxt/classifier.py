"""An SSD on a classifier that was imported from PyTorch: its nets, ready to train.

The classifier is cut at the feature layers, of which the first two are usually those at 1/16 and 1/32 of the picture.
Behind the last one come SSD's extra layers, each halving the map until one pixel is left, with BatchNorm. Every feature
layer and every extra layer has predictors of its own (SSD, section 2.2; sizes from 20 to 90 % of the picture).

Pictures are BGR up to 255 less the classifier's mean; `converters.backbone.take_bgr` makes its weights for them.
Statistics of BatchNorm go on from the classifier's. Weights learn at the solver's rate with its decay, biases at twice
the rate without decay, factors and biases of Scale without decay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pyscratchdet.caffe import model_libs
from pyscratchdet.caffe.net_spec import NetSpec
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.errors import UsageError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.prototxt.nets import Head, ratio_sizes, single_shot, usual_ratios
from pyscratchdet.prototxt.recipe import VOC0712, Options, Recipe
from pyscratchdet.prototxt.ssd import VOC_TRAINING

# torchvision's families: the modules that end at 1/16 and at 1/32 of the picture.
_FEATURES = {
    r"(wide_)?resne(t|xt)\d.*": ("layer3", "layer4"),
    r"mobilenet_v2": ("features.13", "features.18"),
    r"mobilenet_v3_large": ("features.12", "features.16"),
    r"mobilenet_v3_small": ("features.8", "features.12"),
    r"shufflenet_v2_.*": ("stage3", "conv5"),
    r"efficientnet_(b\d|v2_m|v2_l)": ("features.5", "features.8"),
    r"efficientnet_v2_s": ("features.5", "features.7"),
    r"regnet_.*": ("trunk_output.block3", "trunk_output.block4"),
}
_WEIGHTS = ((1, 1), (2, 0))  # lr_mult and decay_mult of weights and biases
_LEARNED = {
    **dict.fromkeys(("Convolution", "Deconvolution", "InnerProduct"), _WEIGHTS),
    "Scale": ((1, 0), (1, 0)),
}


def feature_layers(module: Any, name: str) -> tuple[str, ...]:
    """Returns the modules of a classifier that a detector usually reads.

    Args:
        module: The classifier; one of timm's tells them itself (`feature_info`).
        name: Its name in torchvision.

    Raises:
        UsageError: Nothing is known about it.
    """
    known = getattr(module, "feature_info", None)
    if isinstance(known, list):
        return tuple(str(entry["module"]) for entry in known if entry["reduction"] in (16, 32))
    for pattern, layers in _FEATURES.items():
        if re.fullmatch(pattern, name):
            return layers
    raise UsageError(
        f"the feature layers of {name} are not known", code="convert.features", expected="--features NAME,..."
    )


def ssd_on_classifier(
    classifier: Any,
    num_blobs: Mapping[str, int],
    features: Mapping[str, tuple[str, tuple[int, ...]]],
    size: int,
    name: str,
    mean_value: tuple[float, ...],
    options: Options,
) -> Recipe:
    """Returns an SSD whose first layers are a classifier that was cut at its feature layers, fine ones first.

    Args:
        classifier: NetParameter of the cut classifier, which begins with its Input.
        num_blobs: {layer: how many arrays of weights it has}.
        features: {feature layer: its blob and that one's shape}, fine ones first.
        size: Side of the input.
        name: The detector's name.
        mean_value: What is subtracted from blue, green, red.
        options: The user's data, schedule and folder.

    Raises:
        UsageError: The feature layers are not maps, each coarser than the one before.
    """
    sources, sides = [blob for blob, _ in features.values()], [shape[2:] for _, shape in features.values()]
    if any(len(side) != 2 or side[0] != side[1] for side in sides) or sides != sorted(set(sides), reverse=True):
        shown = ", ".join(f"{layer} {'x'.join(map(str, side))}" for layer, side in zip(features, sides, strict=True))
        raise UsageError(
            "feature layers must be square maps, each smaller than the one before", code="convert.features", found=shown
        )
    extra = _extra_sides(sides[-1][0])
    layers = [*sources, *(f"extra{k}_2" for k in range(1, 1 + len(extra)))]
    low, high = ratio_sizes(size, len(layers), 20, 90, (10, 20))
    head = Head(layers, low, high, usual_ratios(len(layers)))
    data = replace(options.data(VOC0712), mean_value=mean_value)
    training = options.training(replace(VOC_TRAINING, weights=f"{options.folder}/start.caffemodel"))
    recipe = single_shot(
        name, size, partial(_body, sources=sources, num_extra=len(extra)), head, data, training, options
    )
    for message in (recipe.train, recipe.test, recipe.deploy):
        _splice(message, classifier, num_blobs, sources)
    return recipe


def _extra_sides(side: int) -> list[int]:
    """Returns the sides of the maps that follow: half of the one before, rounded up, down to one pixel."""
    found = []
    while side > 1:
        side = -(-side // 2)
        found.append(side)
    return found


def _body(net: NetSpec, sources: Sequence[str], num_extra: int) -> None:
    """Adds a layer in the place of each feature layer, and the extra layers."""
    for source in sources:
        net[source] = L.Convolution(net.data, num_output=1, kernel_size=1)
    convolve = partial(model_libs.of("ssd").ConvBNLayer, net, use_bn=True, use_relu=True)
    top = sources[-1]
    for k in range(1, 1 + num_extra):
        convolve(top, f"extra{k}_1", num_output=128, kernel_size=1, pad=0, stride=1)
        top = f"extra{k}_2"
        convolve(f"extra{k}_1", top, num_output=256, kernel_size=3, pad=1, stride=2)


def _splice(message: Any, classifier: Any, num_blobs: Mapping[str, int], sources: Sequence[str]) -> None:
    """Puts the classifier's layers where `_body` left a place for them."""
    layers = list(message.layer)
    first = next(i for i, layer in enumerate(layers) if layer.name in sources)
    rest = [layer for layer in layers[first:] if layer.name not in sources]
    given = [layer for layer in classifier.layer if layer.type != "Input"]
    copies = [learning(layer, num_blobs.get(layer.name, 0)) for layer in given]
    del message.layer[:]
    message.layer.extend([*layers[:first], *copies, *rest])


def learning(layer: Any, num_blobs: int) -> Any:
    """Returns a copy of a layer with Caffe's usual rates for its blobs, where nothing else is said."""
    copy = caffe_pb2.LayerParameter()
    copy.CopyFrom(layer)
    if not copy.param:
        for lr_mult, decay_mult in _LEARNED.get(layer.type, ())[:num_blobs]:
            copy.param.add(lr_mult=lr_mult, decay_mult=decay_mult)
    return copy
