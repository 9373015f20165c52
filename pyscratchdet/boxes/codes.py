"""Boxes as offsets from priors and back (bbox_util.cpp: EncodeBBox, DecodeBBox; SSD, equation 2).

Both directions round as the original does: exp and log are computed in double, all else in float32. torchvision's
BoxCoder rounds differently and clamps the exponent; Caffe does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyscratchdet.proto import caffe_pb2

CORNER = caffe_pb2.PriorBoxParameter.CORNER
CENTER_SIZE = caffe_pb2.PriorBoxParameter.CENTER_SIZE
CORNER_SIZE = caffe_pb2.PriorBoxParameter.CORNER_SIZE


def encode_boxes(boxes: Tensor, priors: Tensor, variances: Tensor, code_type: int, plain: bool = False) -> Tensor:
    """Returns the targets that `decode_boxes` turns back into `boxes`.

    Args:
        boxes: (..., 4) xmin, ymin, xmax, ymax, normalised.
        priors: (..., 4), in the same frame; shapes broadcast.
        variances: (..., 4), one per coordinate.
        code_type: CORNER (offsets of the corners), CENTER_SIZE (centre offsets and log sizes relative to the prior)
            or CORNER_SIZE (corner offsets relative to the prior's size).
        plain: True leaves the variances out (encode_variance_in_target, variance_encoded_in_target).

    Returns:
        (..., 4) codes.
    """
    if code_type == CENTER_SIZE:
        centers, sizes = _centers_sizes(boxes)
        prior_centers, prior_sizes = _centers_sizes(priors)
        offsets = (centers - prior_centers) / prior_sizes
        logs = torch.log((sizes / prior_sizes).double())
        if not plain:
            offsets, logs = offsets / variances[..., :2], logs / variances[..., 2:].double()
        return torch.cat([offsets, logs.to(boxes.dtype)], -1)
    offsets = boxes - priors
    if code_type == CORNER_SIZE:
        offsets = offsets / _sizes(priors)
    return offsets if plain else offsets / variances


def decode_boxes(
    codes: Tensor,
    priors: Tensor,
    variances: Tensor,
    code_type: int,
    plain: bool = False,
) -> Tensor:
    """Returns the boxes that codes stand for, unclipped.

    Args:
        codes: (..., 4) the net's predictions (mbox_loc).
        priors: (..., 4) xmin, ymin, xmax, ymax, normalised; shapes broadcast.
        variances: (..., 4), one per coordinate.
        code_type: CORNER (offsets of the corners), CENTER_SIZE (centre offsets and log sizes relative to the prior)
            or CORNER_SIZE (corner offsets relative to the prior's size).
        plain: True leaves the variances out.

    Returns:
        (..., 4) boxes in the priors' frame.
    """
    scaled = codes if plain else variances * codes
    if code_type == CORNER:
        return priors + scaled
    if code_type == CORNER_SIZE:
        return priors + scaled * _sizes(priors)
    prior_centers, prior_sizes = _centers_sizes(priors)
    centers = scaled[..., :2] * prior_sizes + prior_centers
    sizes = scaled[..., 2:].double().exp_().mul_(prior_sizes)
    halves = sizes.to(codes.dtype).mul_(0.5)
    return torch.cat([centers - halves, centers + halves], -1)


def _centers_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


def _sizes(boxes: Tensor) -> Tensor:
    """Width, height, width, height."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([sizes, sizes], -1)
