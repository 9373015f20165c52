"""Proposal: the best regions of a region proposal network, as PVANET's Caffe has it in C++ (proposal_layer.cpp).

Source: sanghoon/caffe, branch dev_pvanet; OpenVINO's importer knew the same. py-faster-rcnn's Python layer, of which it
is a copy but for what small boxes do, is in `region_proposals`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.boxes.regions import best_regions, decode_on_map, pixel_overlaps, window_priors
from pyscratchdet.layers.base import Count, Layer, Shape, exactly, register
from pyscratchdet.lazy import Tensor, torch


@register("Proposal")
class Proposal(Layer):
    """Regions of one picture.

    Bottoms: probabilities (1, 2A, H, W), of which the second A are those of an object, codes (1, 4A, H, W), and the
    picture's height, width and scale (1, 3), or its scales of height and width (1, 4). Tops: R regions (R, 5) as image
    0, xmin, ymin, xmax, ymax in pixels, and if named their probabilities (R). Every prior is decoded and cut to the
    picture; a box with a side below `min_size` of the unscaled picture gets the probability 0, but is not dropped. Of
    the best `pre_nms_topn` those stay that non-maximum suppression at `nms_thresh` leaves, at most `post_nms_topn`. No
    gradient.
    """

    bottoms: ClassVar[Count] = exactly(3)
    tops: ClassVar[Count] = Count(1, 2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    fork_fields: ClassVar[frozenset[str]] = frozenset({"proposal_param"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.proposal_param
        ratios, scales = list(param.ratio), list(param.scale)
        if not ratios or not scales or min(*ratios, *scales) <= 0:
            raise self.fail("ratio and scale must be positive numbers", "priors", found=(ratios, scales))
        if min(param.feat_stride, param.base_size, param.pre_nms_topn, param.post_nms_topn) < 1:
            names = "feat_stride, base_size, pre_nms_topn and post_nms_topn"
            raise self.fail(f"{names} must be at least 1", "number", expected=">= 1", found=str(param).split("\n"))
        self.first = window_priors(ratios, scales, param.base_size)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        number = len(self.first)
        places = bottoms[0][2:]
        expected = [(1, 2 * number, *places), (1, 4 * number, *places)]
        if len(places) != 2 or list(bottoms[:2]) != expected or int(np.prod(bottoms[2])) not in (3, 4):
            wanted = f"(1, {2 * number}, H, W), (1, {4 * number}, H, W), (1, 3) or (1, 4)"
            raise self.fail(
                "probabilities, codes and im_info do not fit", "shape", expected=wanted, found=list(bottoms)
            )
        most = self.param.proposal_param.post_nms_topn
        shapes: list[Shape] = [(most, 5), (most,)]
        return shapes[: self.num_tops]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        param = self.param.proposal_param
        probabilities, codes, info = (bottom.detach().float().cpu().numpy() for bottom in bottoms)
        height, width, *scales = info.reshape(-1)
        scores = probabilities[0, len(self.first) :].transpose(1, 2, 0).reshape(-1)
        boxes = decode_on_map(self.first, param.feat_stride, codes[0], (height, width))
        least = np.array([scales[-1], scales[0]], np.float32) * np.float32(param.min_size)  # of width, of height
        is_large = (boxes[:, 2:] - boxes[:, :2] + np.float32(1) >= least).all(1)
        scores = np.where(is_large, scores, np.float32(0))
        threshold = np.float32(param.nms_thresh)
        limits = (param.pre_nms_topn, param.post_nms_topn)
        kept = best_regions(boxes, scores, lambda a, b: pixel_overlaps(a, b) > threshold, *limits)
        regions = np.insert(boxes[kept], 0, 0, axis=1)
        tops = [torch.from_numpy(array).to(bottoms[0].device) for array in (regions, scores[kept])]
        return tops[: self.num_tops]
