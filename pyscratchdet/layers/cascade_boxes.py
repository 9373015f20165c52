"""DecodeBBox, BoxGroupOutput, FrcnnOutput and ScaleRoute of Cascade R-CNN: regions and detections in pixels.

Cai and Vasconcelos 2018. Boxes include both their ends: they are xmax - xmin + 1 wide. Sources: decode_bbox_layer.cpp,
box_group_output_layer.cpp, frcnn_output_layer.cpp, scale_route_layer.cpp and bbox_util.cpp of zhaoweicai/cascade-rcnn.
None has a gradient; the original refuses to compute one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, Shape, at_least, exactly, register
from pyscratchdet.layers.loss import legacy_shape
from pyscratchdet.lazy import Tensor, torch

_OVERLAPS = ("IOU", "IOMU", "IOFU")


class CodeLayer(Layer):
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

    def check_nms_type(self, name: str) -> None:
        """Refuses a name that does not say what an intersection is divided by."""
        if name not in _OVERLAPS:
            raise self.fail("unknown nms_type", "nms-type", expected=" or ".join(_OVERLAPS), found=name)

    def decoded(self, regions: Tensor, codes: Tensor) -> Tensor:
        """Returns boxes (R, 4) of regions (R, 4) and codes (R, 4), in pixels."""
        x, y, log_width, log_height = self.plain(codes, 1)
        xmin, ymin, xmax, ymax = regions.unbind(1)
        width, height = xmax - xmin + 1, ymax - ymin + 1
        new_width, new_height = width * log_width.exp(), height * log_height.exp()
        left = x * width + 0.5 * (xmax + xmin) - (new_width - 1) / 2
        upper = y * height + 0.5 * (ymax + ymin) - (new_height - 1) / 2
        return torch.stack([left, upper, left + new_width - 1, upper + new_height - 1], 1)

    def plain(self, codes: Tensor, axis: int) -> list[Tensor]:
        """Returns the four codes along an axis, no longer normalised."""
        parts = codes.detach().unbind(axis)
        return [part * std + mean for part, std, mean in zip(parts, self.deviations, self.means, strict=True)]


@register("DecodeBBox")
class DecodeBBox(CodeLayer):
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
        boxes = self.decoded(regions[:, 1:], bottoms[0].flatten(1)[:, 4:])
        left, upper, right, lower = boxes.unbind(1)
        stays = torch.ones_like(left, dtype=torch.bool)
        if self.context.is_train:
            stays = ~((left > right) | (upper > lower))
            if len(bottoms) == 3:
                stays &= bottoms[2].detach().flatten(1)[:, -1] < self.param.decode_bbox_param.gt_iou_thr
        if not bool(stays.any()):
            raise self.fail("no box is left", "empty", expected="at least one with an area", found=len(regions))
        return [torch.cat([regions[:, :1], boxes], 1)[stays].reshape(-1, 5, 1, 1)]


@register("BoxGroupOutput")
class BoxGroupOutput(CodeLayer):
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
        self.check_nms_type(param.nms_type)
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
            is_near = functools.partial(_is_near, param.nms_type, param.iou_thr)
            kept = best_regions(rows[:, :4], rows[:, 4], is_near, param.max_nms_num, param.max_post_nms_num)
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


@register("FrcnnOutput")
class FrcnnOutput(CodeLayer):
    """The detections of one picture, from the classes and codes of its regions.

    Bottoms: probabilities (R, K), codes (R, 4 * K), or (R, 8) for all classes without `cls_aware`, of which the last
    four count, regions (R, 5) or (R, 6) as image 0, xmin, ymin, xmax, ymax, and the picture's height and width (1, 2).
    Top: (D + 1, 7, 1, 1), first a row of image 0 and -1, then image, xmin, ymin, xmax, ymax, label and score of each
    detection, by label and by falling score. Boxes are cut to the picture; those of a class that score `conf_thr` or
    more stay if their overlap with a better one is at most `iou_thr`; of all, `max_det_num` stay (0: no limit).
    """

    bottoms: ClassVar[Count] = exactly(4)
    no_gradient: ClassVar[frozenset[int]] = frozenset(range(4))
    fork_fields: ClassVar[frozenset[str]] = frozenset(
        {"bbox_reg_param.cls_aware"}
        | {f"frcnn_output_param.{name}" for name in ("conf_thr", "iou_thr", "nms_type", "max_det_num")}
    )

    def setup(self, bottoms: Sequence[Shape]) -> None:
        super().setup(bottoms)
        self.is_aware = self.param.bbox_reg_param.cls_aware
        self.check_nms_type(self.param.frcnn_output_param.nms_type)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        scores, codes, regions, sizes = (legacy_shape(self, bottom)[:2] for bottom in bottoms)
        expected = (scores[0], 4 * scores[1] if self.is_aware else 8)
        if codes != expected or regions[0] != scores[0] or regions[1] not in (5, 6) or sizes != (1, 2):
            shapes = f"(R, K), {expected}, (R, 5) or (R, 6), (1, 2)"
            raise self.fail("bottoms do not fit", "shape", expected=shapes, found=list(bottoms))
        return [(1, 7, 1, 1)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        scores, codes, regions, sizes = (bottom.detach().flatten(1) for bottom in bottoms)
        if bool((regions[:, 0] != 0).any()):
            raise self.fail("regions must be of one picture", "image", expected=0, found=float(regions[:, 0].max()))
        height, width = sizes[0].tolist()
        limits = torch.tensor([width, height], device=codes.device)
        found = []
        for label in range(1, scores.shape[1]):
            start = 4 * label if self.is_aware else 4
            boxes = self.decoded(regions[:, 1:5], codes[:, start : start + 4])
            boxes = torch.cat([boxes[:, :2].clamp(min=0), boxes[:, 2:].minimum(limits)], 1)
            found.append(self._of_class(label, boxes, scores[:, label]))
        rows = np.concatenate([np.zeros((0, 7), np.float32), *found])
        limit = self.param.frcnn_output_param.max_det_num
        if limit:
            rows = rows[np.sort(np.argsort(-rows[:, 6], kind="stable")[:limit])]
        rows = np.concatenate([np.array([[0, *[-1] * 6]], np.float32), rows])
        return [torch.from_numpy(rows).to(bottoms[0].device)[:, :, None, None]]

    def _of_class(self, label: int, boxes: Tensor, scores: Tensor) -> np.ndarray:
        from pyscratchdet.boxes.regions import best_regions

        param = self.param.frcnn_output_param
        is_found = scores >= param.conf_thr
        places, values = boxes[is_found].cpu().numpy(), scores[is_found].cpu().numpy()
        kept = best_regions(places, values, functools.partial(_is_near, param.nms_type, param.iou_thr), 0, 0)
        rows = np.zeros((len(kept), 7), np.float32)
        rows[:, 1:5], rows[:, 5], rows[:, 6] = places[kept], label, values[kept]
        return rows


@register("ScaleRoute")
class ScaleRoute(Layer):
    """The rows of each bottom whose region has a scale, the root of its area, from `low_scale` to below `high_scale`.

    The first bottom holds the regions (R, 5), the others have R rows each. If there is none, the one row whose scale
    is nearest to the middle is taken: the geometric mean of both limits, the one there is, or 256.
    """

    bottoms: ClassVar[Count] = at_least(1)
    tops: ClassVar[Count] = at_least(1)
    no_gradient: ClassVar[frozenset[int]] = frozenset(range(64))
    fork_fields: ClassVar[frozenset[str]] = frozenset({"scale_route_param"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.scale_route_param
        low = param.low_scale if param.HasField("low_scale") else None
        high = param.high_scale if param.HasField("high_scale") else None
        if (low is not None and low <= 0) or (high is not None and not (low or 0) <= high < math.inf):
            raise self.fail("scales out of range", "scale", expected="0 < low_scale <= high_scale", found=(low, high))
        limits = [limit for limit in (low, high) if limit is not None]
        self.middle = math.prod(limits) ** (1 / len(limits)) if limits else 256.0
        self.low, self.high = low or 0.0, math.inf if high is None else high
        if len(bottoms) != self.num_tops:
            raise self.fail("as many tops as bottoms", "tops", expected=len(bottoms), found=self.num_tops)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shapes = [legacy_shape(self, bottom) for bottom in bottoms]
        if shapes[0][1] != 5 or len({shape[0] for shape in shapes}) != 1:
            raise self.fail("bottoms do not fit", "shape", expected="(R, 5), and R rows each", found=list(bottoms))
        return [(1, *shape[1:]) for shape in shapes]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        corners = bottoms[0].detach().flatten(1)[:, 1:]
        widths, heights = (corners[:, 2:] - corners[:, :2] + 1).unbind(1)
        is_box = (corners[:, 2:] >= corners[:, :2]).all(1)
        scales = torch.where(is_box, widths * heights, 0).sqrt()
        rows = ((scales >= self.low) & (scales < self.high)).nonzero()[:, 0]
        if not len(rows):
            rows = (scales / self.middle).log2().abs().argmin()[None]
        return [bottom.detach().reshape(legacy_shape(self, tuple(bottom.shape)))[rows] for bottom in bottoms]


def _is_near(kind: str, threshold: float, box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns whether boxes (K, 4) overlap with one (4,) by more than a threshold."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    # Boxes that meet in one column overlap, those that meet in one row do not.
    meet = (low[:, 0] <= high[:, 0]) & (low[:, 1] < high[:, 1])
    common = np.where(meet, (high - low + np.float32(1)).prod(-1), np.float32(0))
    area = (box[2:] - box[:2] + np.float32(1)).prod()
    areas = (others[:, 2:] - others[:, :2] + np.float32(1)).prod(-1)
    divisors = {"IOU": area + areas - common, "IOMU": np.minimum(area, areas), "IOFU": np.full_like(areas, area)}
    # Where one ends before it begins nothing is common, and the divisor may be 0.
    return np.divide(common, divisors[kind], out=np.zeros_like(common), where=meet) > np.float32(threshold)
