"""What all losses share (loss_layer.cpp): a scalar top of weight 1, labels without a gradient, normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Count, Layer, Shape, exactly
from pyscratchdet.lazy import Tensor, torch
from pyscratchdet.proto import caffe_pb2

LossParameter = caffe_pb2.LossParameter
# A fixed number that a loss is divided by, of R-FCN's and Intel's Caffe.
PRE_FIXED_FIELDS = frozenset({"loss_param.normalization=PRE_FIXED", "loss_param.pre_fixed_normalizer"})


class Loss(Layer):
    """Base of losses: bottoms are predictions and labels, the first top is a scalar (0 axes), added if not named."""

    bottoms: ClassVar[Count] = exactly(2)
    auto_tops: ClassVar[bool] = True
    is_loss: ClassVar[bool] = True
    no_gradient: ClassVar[frozenset[int]] = frozenset({1})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not bottoms[0] or not bottoms[1] or bottoms[0][0] != bottoms[1][0]:
            raise self.fail(
                "predictions and labels must have the same first dimension",
                "batch",
                expected=bottoms[0][:1] or "at least 1 axis",
                found=bottoms[1][:1] or "0 axes",
            )
        if 0 in bottoms[0]:
            raise self.fail("a loss needs at least one prediction", "empty", found=bottoms[0])
        return [()]

    def check_one_label_each(self, bottoms: Sequence[Shape]) -> None:
        """Refuses labels unless there is one number per item: (N), (N, 1), (N, 1, 1) or (N, 1, 1, 1)."""
        if math.prod(bottoms[1]) != bottoms[0][0]:
            raise self.fail(
                "there must be one label per item", "labels", expected=f"({bottoms[0][0]},)", found=bottoms[1]
            )


def legacy_shape(layer: Layer, shape: Shape) -> Shape:
    """Returns Blob's num, channels, height, width: `shape` with 1 for missing axes.

    Raises:
        LayerError: There are more than 4 axes.
    """
    if len(shape) > 4:
        raise layer.fail("this type takes blobs of at most 4 axes", "rank", found=shape)
    return shape + (1,) * (4 - len(shape))


def check_one_label_each(layer: Layer, scores: Shape, labels: Shape, axis: int) -> None:
    """Refuses labels unless there is one for each place of the scores, whose classes lie along `axis`."""
    num_places = math.prod(scores[:axis]) * math.prod(scores[axis + 1 :])
    if math.prod(labels) != num_places:
        raise layer.fail(
            "there must be one label per prediction",
            "labels",
            expected=f"{num_places} for scores {scores} with classes along axis {axis}",
            found=labels,
        )


def class_indices(layer: Layer, labels: Tensor, num_classes: int, ignore_label: int | None = None) -> Tensor:
    """Returns labels as int64, truncated towards zero as in the original; ignored ones become -1.

    Raises:
        LayerError: A label is neither ignored nor in [0, num_classes); the original reads past its memory there.
    """
    whole = labels.detach().trunc()
    valid = (whole >= 0) & (whole < num_classes)
    if ignore_label is not None:
        ignored = whole == ignore_label
        valid, whole = valid | ignored, whole.masked_fill(ignored, -1)
    if not bool(valid.all()):
        raise layer.fail(
            "label out of range", "label", expected=f"0 to {num_classes - 1}", found=float(labels[~valid].flatten()[0])
        )
    return whole.to(torch.int64)


def ignore_label(param: caffe_pb2.LossParameter) -> int | None:
    """Returns the label that does not count, or None."""
    return param.ignore_label if param.HasField("ignore_label") else None


def normalization(param: caffe_pb2.LossParameter, default: int) -> int:
    """Returns the mode: `normalization` if given, else what the old `normalize` says, else `default`."""
    if param.HasField("normalization"):
        return param.normalization
    if param.HasField("normalize"):
        return LossParameter.VALID if param.normalize else LossParameter.BATCH_SIZE
    return default


def normalizer(param: caffe_pb2.LossParameter, mode: int, outer: int, inner: int, num_valid: Tensor) -> Tensor | float:
    """Returns what a loss is divided by, at least 1 (LossLayer::GetNormalizer).

    Args:
        param: The loss's settings; `pre_fixed_normalizer` is what PRE_FIXED divides by.
        mode: What is counted: FULL all places, VALID those not ignored, BATCH_SIZE items, NONE nothing.
        outer: Number of items.
        inner: Number of places in an item.
        num_valid: Number of places that are not ignored, a scalar.
    """
    if mode == LossParameter.VALID:
        return num_valid.clamp(min=1)
    if mode == LossParameter.PRE_FIXED:
        return max(param.pre_fixed_normalizer, 1.0)
    return {LossParameter.FULL: max(outer * inner, 1), LossParameter.BATCH_SIZE: max(outer, 1)}.get(mode, 1)
