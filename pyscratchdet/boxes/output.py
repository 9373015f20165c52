"""From normalised boxes to pixels of the original picture (bbox_util.cpp: OutputBBox and what it calls)."""

from __future__ import annotations

import torch
from torch import Tensor

from pyscratchdet.boxes.overlap import area
from pyscratchdet.proto import caffe_pb2

Resize = caffe_pb2.ResizeParameter


def to_pixels(boxes: Tensor, sizes: Tensor, resize: caffe_pb2.ResizeParameter | None = None) -> tuple[Tensor, Tensor]:
    """Returns boxes in pixels of their picture, clipped at its borders, and their areas as the original computes them.

    Args:
        boxes: (S, 4) normalised to the net's input.
        sizes: (S, 2) height and width of each box's picture, in pixels.
        resize: How the picture was resized to the net's input; None for plain warping.

    Returns:
        (S, 4) pixels and (S,) areas: (width + 1) * (height + 1), but width * height where the picture was scaled to
        fit its small side (there the original clips once more).
    """
    scale = sizes.flip(1).repeat(1, 2).to(boxes.dtype)
    resize = Resize() if resize is None else resize
    if resize.resize_mode == Resize.FIT_SMALL_SIZE and resize.height_scale and resize.width_scale:
        factors = boxes.new_tensor([resize.width_scale, resize.height_scale]).repeat(2)
        pixels = torch.minimum(boxes * factors, scale).clamp(min=0)
        return pixels, area(pixels)
    if resize.resize_mode == Resize.FIT_LARGE_SIZE_AND_PAD:
        boxes = _without_padding(boxes, scale, resize)
    pixels = boxes.clamp(0, 1) * scale
    widths, heights = pixels[:, 2] - pixels[:, 0], pixels[:, 3] - pixels[:, 1]
    larger = torch.where((sizes > 1).any(1), (widths + 1) * (heights + 1), widths * heights)
    return pixels, torch.where((widths < 0) | (heights < 0), 0, larger)


def _without_padding(boxes: Tensor, scale: Tensor, resize: caffe_pb2.ResizeParameter) -> Tensor:
    """Returns boxes relative to the picture within its padded frame; those outside it stay as they are."""
    height, width = (boxes.new_tensor(side) for side in (float(resize.height), float(resize.width)))
    aspect = scale[:, 0] / scale[:, 1]
    wide = aspect > width / height
    border_y = torch.where(wide, (height - width / aspect) / 2 / height, 0)
    border_x = torch.where(wide, 0, (width - height * aspect) / 2 / width)
    low = torch.stack([border_x, border_y], 1)
    high = 1 - low
    inside = ((boxes[:, :2] < high) & (boxes[:, 2:] > low)).all(1, keepdim=True)
    projected = (boxes - low.repeat(1, 2)) / (high - low).repeat(1, 2)
    return torch.where(inside, projected, boxes)
