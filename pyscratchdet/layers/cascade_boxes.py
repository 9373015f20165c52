"""DecodeBBox and BoxGroupOutput of Cascade R-CNN: from codes to regions in pixels (Cai and Vasconcelos 2018).

Boxes include both their ends: they are xmax - xmin + 1 wide. Sources: decode_bbox_layer.cpp, box_group_output_layer.cpp
and bbox_util.cpp of zhaoweicai/cascade-rcnn. Neither has a gradient; the original refuses to compute one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, Shape, register
from pyscratchdet.layers.loss import legacy_shape
from pyscratchdet.lazy import Tensor, torch

_OVERLAPS = ("IOU", "IOMU", "IOFU")


class _CodeLayer(Layer):
    """Base: reads the mean and the deviation that codes were normalised with."""

    fork_fields: ClassVar[frozenset[str]] = frozenset({"bbox_reg_param.bbox_mean", "bbox_reg_param.bbox_std"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.bbox_reg_param
        means, deviations = list(param.bbox_mean), list(param.bbox_std)
        if not means or not deviations:
            means, deviations = [0.0] * 4, [1.0] * 4
        if len(means) != 4 or len(deviations) != 4 or min(deviations) <= 0:
            found = (means, deviations)
            raise self.fail("bbox_mean and bbox_std are 4 numbers each, std above 0", "codes", expected=4, found=found)
        self.means, self.deviations = means, deviations

    def plain(self, codes: Tensor, axis: int) -> list[Tensor]:
        """Returns the four codes along an axis, no longer normalised."""
        parts = codes.detach().unbind(axis)
        return [part * std + mean for part, std, mean in zip(parts, self.deviations, self.means, strict=True)]


@register("DecodeBBox")
class DecodeBBox(_CodeLayer):
    """The boxes that a class-agnostic head makes of regions.

    Bottoms: codes (R, 8), of which the last four are those of an object, regions (R, 5) as image, xmin, ymin, xmax,
    ymax in pixels, and in training perhaps rows whose last number is the overlap with the true box. Top: (R, 5, 1, 1).
    In training, boxes without an area go, and those that overlap the true box by `gt_iou_thr` or more, which would be
    copies of it.
    """

    bottoms: ClassVar[Count] = Count(2, 3)
    no_gradient: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    fork_fields: ClassVar[frozenset[str]] = frozenset({"decode_bbox_param"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        super().setup(bottoms)
        if len(bottoms) == 3 and not self.context.is_train:
            raise self.fail("a third bottom is for training", "bottoms", expected=2, found=3)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shapes = [legacy_shape(self, bottom) for bottom in bottoms]
        rows = {shape[0] for shape in shapes}
        if len(rows) > 1 or [shape[1:] for shape in shapes[:2]] != [(8, 1, 1), (5, 1, 1)]:
            raise self.fail("bottoms must be codes and regions", "bottoms", expected="(R, 8), (R, 5)", found=bottoms)
        return [bottoms[1]]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        regions = bottoms[1].detach().flatten(1)
        x, y, log_width, log_height = self.plain(bottoms[0].flatten(1)[:, 4:], 1)
        image, xmin, ymin, xmax, ymax = regions.unbind(1)
        width, height = xmax - xmin + 1, ymax - ymin + 1
        new_width, new_height = width * log_width.exp(), height * log_height.exp()
        left = x * width + 0.5 * (xmax + xmin) - (new_width - 1) / 2
        upper = y * height + 0.5 * (ymax + ymin) - (new_height - 1) / 2
        right, lower = left + new_width - 1, upper + new_height - 1
        stays = torch.ones_like(image, dtype=torch.bool)
        if self.context.is_train:
            stays = ~((left > right) | (upper > lower))
            if len(bottoms) == 3:
                stays &= bottoms[2].detach().flatten(1)[:, -1] < self.param.decode_bbox_param.gt_iou_thr
        if not bool(stays.any()):
            raise self.fail("no box is left", "empty", expected="at least one with an area", found=len(image))
        boxes = torch.stack([image, left, upper, right, lower], 1)
        return [boxes[stays].reshape(-1, 5, 1, 1)]


@register("BoxGroupOutput")
class BoxGroupOutput(_CodeLayer):
    """The best regions of several feature maps, each with priors of its own.

    Bottoms, two per map: probabilities (N * G, classes, H, W), where 1 minus the first is an object's, and codes
    (N * G, 4, H, W), with the G = len(field_w) priors of a map inside the batch. Tops: regions (R, 5, 1, 1) as image,
    xmin, ymin, xmax, ymax in pixels, and with two tops also (R, 6, 1, 1) with their scores. A centre moves by at most
    1 / `field_xyr` of the prior and a side changes by at most `field_whr`; boxes are cut to the map and dropped below
    `fg_thr` or `min_size`. Of the best `max_nms_num` of an image those stay whose overlap with a better one is at most
    `iou_thr`, at most `max_post_nms_num` (0: no limit). `nms_type` says what the intersection is divided by: the union
    (IOU), the smaller (IOMU) or the better box (IOFU). If none is left, one region 1, 1, 10, 10 of image 0 is given,
    with scores a row of zeros.
    """

    bottoms: ClassVar[Count] = Count(2, 64)
    tops: ClassVar[Count] = Count(1, 2)
    no_gradient: ClassVar[frozenset[int]] = frozenset(range(64))
    fork_fields: ClassVar[frozenset[str]] = frozenset({"box_group_output_param"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        super().setup(bottoms)
        param = self.param.box_group_output_param
        self.groups = list(param.box_group_param)
        if len(bottoms) != 2 * len(self.groups):
            expected = f"{2 * len(self.groups)} bottoms for {len(self.groups)} box_group_param"
            raise self.fail("each group has two bottoms", "bottoms", expected=expected, found=len(bottoms))
        for group in self.groups:
            if not group.field_w or len(group.field_w) != len(group.field_h) or not group.stride:
                found = (list(group.field_w), list(group.field_h), group.stride)
                raise self.fail("a group has as many field_w as field_h, and a stride", "group", found=found)
        if param.nms_type not in _OVERLAPS:
            raise self.fail("unknown nms_type", "nms-type", expected=" or ".join(_OVERLAPS), found=param.nms_type)
        limits = (param.field_whr, param.field_xyr)
        if min(limits) <= 0:
            raise self.fail("field_whr and field_xyr must be positive", "field", expected="> 0", found=limits)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        number = (bottoms[0] or (0,))[0] // len(self.groups[0].field_w)
        for group, scores, codes in zip(self.groups, bottoms[::2], bottoms[1::2], strict=True):
            expected = (number * len(group.field_w), 4, *scores[2:])
            if len(scores) != 4 or not scores[1] or scores[0] != expected[0] or codes != expected:
                found = (scores, codes)
                raise self.fail("scores and codes do not fit their group", "shape", expected=expected, found=found)
        shapes: list[Shape] = [(1, 5, 1, 1), (1, 6, 1, 1)]
        return shapes[: self.num_tops]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.boxes.regions import best_regions

        param = self.param.box_group_output_param
        maps = [self._candidates(*each) for each in zip(self.groups, bottoms[::2], bottoms[1::2], strict=True)]
        found = []
        for image, parts in enumerate(zip(*maps, strict=True)):
            rows = torch.cat(parts).cpu().numpy()
            boxes, scores = rows[:, :4], rows[:, 4]
            large = (boxes[:, 2:] - boxes[:, :2] + np.float32(1) >= np.float32(param.min_size)).all(1)
            rows = rows[large & (scores >= np.float32(param.fg_thr))]
            kept = best_regions(rows[:, :4], rows[:, 4], self._is_near, param.max_nms_num, param.max_post_nms_num)
            found.append(np.insert(rows[kept], 0, image, axis=1))
        result = np.concatenate(found)
        regions = result[:, :5] if len(result) else np.array([[0, 1, 1, 10, 10]], np.float32)
        scored = result if len(result) else np.zeros((1, 6), np.float32)
        tops = [torch.from_numpy(rows.astype(np.float32)).to(bottoms[0].device) for rows in (regions, scored)]
        return [top[:, :, None, None] for top in tops[: self.num_tops]]

    def _candidates(self, group: Any, probabilities: Tensor, codes: Tensor) -> Tensor:
        """Returns every box of a map with its score, (N, G * H * W, 5)."""
        param, number = self.param.box_group_output_param, len(group.field_w)
        height, width = codes.shape[2:]
        x, y, log_width, log_height = self.plain(codes.unflatten(0, (-1, number)), 2)  # each N, G, H, W
        reach, growth = 1 / param.field_xyr, math.log(param.field_whr)
        field_width, field_height = (
            torch.tensor(list(sizes), dtype=x.dtype, device=x.device)[:, None, None]
            for sizes in (group.field_w, group.field_h)
        )
        columns, rows = (torch.arange(size, device=x.device, dtype=x.dtype) + 0.5 for size in (width, height))
        new_width = field_width * log_width.clamp(-growth, growth).exp()
        new_height = field_height * log_height.clamp(-growth, growth).exp()
        left = x.clamp(-reach, reach) * field_width + columns * group.stride - new_width / 2
        upper = y.clamp(-reach, reach) * field_height + rows[:, None] * group.stride - new_height / 2
        right = (left + new_width - 1).clamp(max=width * group.stride)
        lower = (upper + new_height - 1).clamp(max=height * group.stride)
        score = 1 - probabilities.detach()[:, 0].unflatten(0, (-1, number))
        return torch.stack([left.clamp(min=0), upper.clamp(min=0), right, lower, score], -1).flatten(1, 3)

    def _is_near(self, box: np.ndarray, others: np.ndarray) -> np.ndarray:
        param = self.param.box_group_output_param
        low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
        # Boxes that meet in one column overlap, those that meet in one row do not.
        meet = (low[:, 0] <= high[:, 0]) & (low[:, 1] < high[:, 1])
        common = np.where(meet, (high - low + np.float32(1)).prod(-1), np.float32(0))
        area = (box[2:] - box[:2] + np.float32(1)).prod()
        areas = (others[:, 2:] - others[:, :2] + np.float32(1)).prod(-1)
        divisors = {"IOU": area + areas - common, "IOMU": np.minimum(area, areas), "IOFU": np.full_like(areas, area)}
        return common / divisors[param.nms_type] > np.float32(param.iou_thr)
