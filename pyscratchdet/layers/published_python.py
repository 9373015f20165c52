"""Python layers of published nets by code of our own: FCN's data, ENet's dropout, the loss of Caffe's examples.

    layer { name: "data" type: "Python" top: "data" top: "label"
            python_param { module: "voc_layers" layer: "VOCSegDataLayer" param_str: "{'split': 'val', ...}" } }

Sources: shelhamer/fcn.berkeleyvision.org (voc_layers.py, ...), TimoSaemann/caffe-enet (spatial_dropout.py) and
BVLC/caffe (examples/pycaffe/layers/pyloss.py). Where Python layers are allowed, the user's own modules come first.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pyscratchdet.layers.python_layer import ArrayBlob, StandIn, stands_in_for

_log = logging.getLogger(__name__)


class _DictSettings(StandIn):
    """Base: `param_str` is a Python dictionary."""

    def settings(self) -> dict[str, Any]:
        """Returns the dictionary.

        Raises:
            LayerError: It is not one.
        """
        try:
            found = ast.literal_eval(self.param_str)
        except (ValueError, SyntaxError):
            found = None
        if not isinstance(found, dict):
            raise self.fail("param_str is not read", "param-str", expected="a dictionary", found=self.param_str)
        return found


class _SegmentationData(_DictSettings):
    """Base: one picture after another, each in its own size (1, 3, H, W), with its labels (1, 1, H, W): shapes.

    Attributes:
        size: (height, width) of the data set's pictures, or about that where they differ.
        channels: Of each top.
    """

    only_shapes = "its pictures come from a data set's own folders"
    size: ClassVar[tuple[int, int]] = (500, 500)
    channels: ClassVar[tuple[int, ...]] = (3, 1)

    def top_channels(self) -> tuple[int, ...]:
        """Returns the channels of each top."""
        return self.channels

    def setup(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        if bottom or len(top) != len(self.top_channels()):
            expected = f"0 bottoms and {len(self.top_channels())} tops"
            raise self.fail("wrong number of bottoms or tops", "tops", expected=expected, found=(len(bottom), len(top)))
        _log.warning('layer "%s" (Python): pictures are assumed to be %dx%d', self.param.name, *self.size)

    def reshape(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        for blob, channels in zip(top, self.top_channels(), strict=True):
            blob.reshape(1, channels, *self.size)


@stands_in_for("voc_layers", "VOCSegDataLayer")
@stands_in_for("voc_layers", "SBDDSegDataLayer")
@stands_in_for("pascalcontext_layers", "PASCALContextSegDataLayer")
class PascalPictures(_SegmentationData):
    """PASCAL VOC, SBDD and PASCAL-Context: pictures of up to 500 x 500, as FCN's deploy net has them."""


@stands_in_for("siftflow_layers", "SIFTFlowSegDataLayer")
class SiftFlowPictures(_SegmentationData):
    """SIFT Flow: pictures of 256 x 256, with semantic and with geometric labels."""

    size = (256, 256)
    channels = (3, 1, 1)


@stands_in_for("nyud_layers", "NYUDSegDataLayer")
class NyudPictures(_SegmentationData):
    """NYUDv2: pictures of 425 x 560; `tops` of param_str says which tops there are."""

    size = (425, 560)
    kinds: ClassVar[dict[str, int]] = {"color": 3, "depth": 1, "hha": 3, "label": 1}

    def top_channels(self) -> tuple[int, ...]:
        """Returns the channels of each top."""
        tops = self.settings().get("tops")
        if not isinstance(tops, list) or not set(tops) <= set(self.kinds):
            raise self.fail("param_str needs tops", "param-str", expected=f"a list of {list(self.kinds)}", found=tops)
        return tuple(self.kinds[name] for name in tops)


@stands_in_for("spatial_dropout", "SpatialDropoutLayer")
class SpatialDropoutLayer(_DictSettings):
    """Dropout of whole channels, by the phase that `param_str` names, whatever the net's is.

    TRAIN: each channel is 0 with probability `p`, the others are divided by 1 - p. TEST: all are divided by 1 - p, as
    the original does it. The original draws from NumPy's global stream.

    Attributes:
        random: Where masks are drawn from.
    """

    def setup(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        settings = self.settings()
        try:
            ratio, phase = float(settings["p"]), settings["phase"]
        except (KeyError, TypeError, ValueError):
            ratio, phase = 0.0, None
        if not 0 < ratio < 1 or phase not in ("TRAIN", "TEST") or len(bottom) != 1 or len(top) != 1:
            expected = "one bottom, one top, phase TRAIN or TEST, 0 < p < 1"
            raise self.fail("param_str does not fit", "param-str", expected=expected, found=self.param_str)
        self.ratio, self.draws, self.scale = ratio, phase == "TRAIN", np.float32(1 / (1 - ratio))

    def reshape(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        self.factor = np.array(self.scale)
        if self.draws:
            shape = (bottom[0].num, bottom[0].channels)
            mask = self.random.bernoulli(1 - self.ratio, shape[0] * shape[1]).reshape(*shape, 1, 1)
            self.factor = mask.astype(np.float32) * self.scale
        top[0].data[...] = bottom[0].data * self.factor

    def backward(self, top: Sequence[ArrayBlob], propagate_down: Sequence[bool], bottom: Sequence[ArrayBlob]) -> None:
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff * self.factor


@stands_in_for("pyloss", "EuclideanLossLayer")
class ExampleLoss(StandIn):
    """The loss of Caffe's example of a Python layer, (1): its shape; anybody's `pyloss` may be another."""

    only_shapes = "the module may be anybody's"

    def reshape(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        if len(bottom) != 2 or bottom[0].count != bottom[1].count:
            found = [blob.shape for blob in bottom]
            raise self.fail("needs two bottoms of equal size", "bottoms", expected=2, found=found)
        top[0].reshape(1)
