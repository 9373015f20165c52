"""BoxOutput of MS-CNN, and the shapes of what trains it: ImageGtData, DetectionLoss, DetectionAccuracy.

Cai, Fan, Feris and Vasconcelos 2016. Boxes here are left, upper, width and height in pixels, without an end that counts
twice. Sources: the .cpp files of these names in zhaoweicai/mscnn, and BoxIOU in its util/math_functions.cpp.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Shape, ShapedLayer, at_least, exactly, register
from pyscratchdet.layers.cascade_boxes import CodeLayer
from pyscratchdet.layers.cascade_training import ListedPictures
from pyscratchdet.layers.loss import legacy_shape
from pyscratchdet.lazy import Tensor, torch

_NUM_CODES = 4


@register("BoxOutput")
class BoxOutput(CodeLayer):
    """The best regions of several feature maps, each with one prior of its own.

    Bottoms, one per map: scores of the classes, the background first, then four codes (N, classes + 4, H, W). A box
    scores its best class minus the background. Tops: regions (R, 5, 1, 1) as image, xmin, ymin, xmax, ymax in pixels,
    and with two tops also (R, 6, 1, 1) with their scores. The limits and `nms_type` are those of BoxGroupOutput, but
    widths do not include both ends, and of equal scores the later place comes first.
    """

    bottoms: ClassVar[Count] = at_least(1)
    tops: ClassVar[Count] = Count(1, 2)
    no_gradient: ClassVar[frozenset[int]] = frozenset(range(64))
    fork_fields: ClassVar[frozenset[str]] = frozenset({"box_output_param"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        super().setup(bottoms)
        param = self.param.box_output_param
        self.maps = list(zip(param.field_w, param.field_h, param.downsample_rate, strict=False))
        numbers = {len(param.field_w), len(param.field_h), len(param.downsample_rate)}
        if numbers != {len(bottoms)}:
            expected = f"{len(bottoms)} each"
            raise self.fail("each bottom has a field_w, field_h and downsample_rate", "fields", expected=expected)
        self.check_nms_type(param.nms_type)
        if min(param.field_whr, param.field_xyr) <= 0:
            found = (param.field_whr, param.field_xyr)
            raise self.fail("field_whr and field_xyr must be positive", "field", expected="> 0", found=found)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if any(len(shape) != 4 or shape[:2] != bottoms[0][:2] or shape[1] < 6 for shape in bottoms):
            raise self.fail(
                "bottoms do not fit",
                "shape",
                expected="(N, classes + 4, H, W), at least 2 classes",
                found=list(bottoms),
            )
        shapes: list[Shape] = [(1, 5, 1, 1), (1, 6, 1, 1)]
        return shapes[: self.num_tops]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.boxes.regions import best_regions

        param = self.param.box_output_param
        maps = [self._candidates(bottom, *each) for bottom, each in zip(bottoms, self.maps, strict=True)]
        found = []
        for image, parts in enumerate(zip(*maps, strict=True)):
            rows = torch.cat(parts).flip(0).cpu().numpy()
            rows = rows[(rows[:, 2:4] >= np.float32(param.min_size)).all(1) & (rows[:, 4] >= np.float32(param.fg_thr))]
            is_near = functools.partial(_is_near, param.nms_type, param.iou_thr)
            kept = best_regions(rows[:, :4], rows[:, 4], is_near, param.max_nms_num, param.max_post_nms_num)
            found.append(np.insert(rows[kept], 0, image, axis=1))
        result = np.concatenate(found)
        result[:, 3:5] += result[:, 1:3]
        regions = result[:, :5] if len(result) else np.array([[0, 1, 1, 10, 10]], np.float32)
        scored = result if len(result) else np.zeros((1, 6), np.float32)
        tops = [torch.from_numpy(rows.astype(np.float32)).to(bottoms[0].device) for rows in (regions, scored)]
        return [top[:, :, None, None] for top in tops[: self.num_tops]]

    def _candidates(self, bottom: Tensor, field_width: int, field_height: int, stride: int) -> Tensor:
        """Returns every box of a map with its score, (N, H * W, 5)."""
        param = self.param.box_output_param
        scores, codes = bottom.detach().split([bottom.shape[1] - _NUM_CODES, _NUM_CODES], 1)
        height, width = bottom.shape[2:]
        x, y, log_width, log_height = self.plain(codes, 1)
        reach, growth = 1 / param.field_xyr, math.log(param.field_whr)
        columns, rows = (torch.arange(size, device=x.device, dtype=x.dtype) + 0.5 for size in (width, height))
        new_width = field_width * log_width.clamp(-growth, growth).exp()
        new_height = field_height * log_height.clamp(-growth, growth).exp()
        left = x.clamp(-reach, reach) * field_width + columns * stride - new_width / 2
        upper = y.clamp(-reach, reach) * field_height + rows[:, None] * stride - new_height / 2
        left, upper = left.clamp(min=0), upper.clamp(min=0)
        new_width, new_height = new_width.minimum(width * stride - left), new_height.minimum(height * stride - upper)
        score = scores[:, 1:].amax(1) - scores[:, 0]
        return torch.stack([left, upper, new_width, new_height, score], -1).flatten(1, 2)


def _is_near(kind: str, threshold: float, box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns whether boxes (K, 4) overlap with one (4,) by more than a threshold."""
    sides = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    is_box = (box[2:] > 0).all() & (others[:, 2:] > 0).all(1)
    common = np.where((sides > 0).all(1), sides.prod(1), np.float32(0))
    area, areas = box[2:].prod(), others[:, 2:].prod(1)
    divisors = {"IOU": area + areas - common, "IOMU": np.minimum(area, areas), "IOFU": np.full_like(areas, area)}
    return np.divide(common, divisors[kind], out=np.zeros_like(common), where=is_box) > np.float32(threshold)


@register("ImageGtData")
class ImageGtData(ListedPictures):
    """Pictures to train on (N, 3, H, W), a map of labels and codes (N, 6, H / s, W / s) per prior, perhaps boxes."""

    only_shapes = "the reading of MS-CNN's lists is not implemented"
    fork_fields: ClassVar[frozenset[str]] = frozenset({"image_gt_data_param"})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.image_gt_data_param
        height, width = param.resize_height, param.resize_width
        if param.HasField("crop_height") and param.HasField("crop_width"):
            height, width = param.crop_height or height, param.crop_width or width
        picture = self.picture_shape(param.source, height, width)
        strides = list(param.downsample_rate)
        if not strides or not len(strides) == len(param.field_w) == len(param.field_h) or 0 in strides:
            found = (strides, list(param.field_w), list(param.field_h))
            raise self.fail("as many downsample_rate as field_w and field_h, all above 0", "stride", found=found)
        shapes = [(param.batch_size, *picture)]
        shapes += [(param.batch_size, 2 + param.coord_num, *(int(s / d + 0.5) for s in picture[1:])) for d in strides]
        if param.output_gt_boxes:
            shapes.append((1, 7, 1, 1))
        if len(shapes) != self.num_tops:
            expected = len(shapes)
            raise self.fail(
                "a top for each prior, and one for gt_boxes", "tops", expected=expected, found=self.num_tops
            )
        return shapes


class _OfOnePrior(ShapedLayer):
    """Base: bottoms are scores and codes (N, classes + 4, H, W), and labels (N, 6, H, W)."""

    only_shapes = "training MS-CNN is not implemented"
    bottoms: ClassVar[Count] = exactly(2)

    def check_maps(self, bottoms: Sequence[Shape], num_classes: int, num_codes: int) -> None:
        """Refuses bottoms of other shapes.

        Raises:
            LayerError: They do not fit each other, or the settings.
        """
        number, _, height, width = legacy_shape(self, bottoms[0])
        expected = [(number, channels, height, width) for channels in (num_classes + num_codes, num_codes + 2)]
        if [legacy_shape(self, bottom) for bottom in bottoms] != expected:
            raise self.fail("predictions and labels do not fit", "shape", expected=expected, found=list(bottoms))


@register("DetectionLoss")
class DetectionLoss(_OfOnePrior):
    """The loss of one prior: its whole, and its part for boxes (1, 1, 1, 2)."""

    auto_tops: ClassVar[bool] = True
    is_loss: ClassVar[bool] = True
    no_gradient: ClassVar[frozenset[int]] = frozenset({1})
    fork_fields: ClassVar[frozenset[str]] = frozenset({"detection_loss_param", "bbox_reg_param"})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.detection_loss_param
        self.check_maps(bottoms, param.cls_num, param.coord_num)
        return [(1, 1, 1, 2)]


@register("DetectionAccuracy")
class DetectionAccuracy(_OfOnePrior):
    """Accuracies of all and of the objects (1, 1, 1, 2), and perhaps the mean overlap of boxes (1, 1, 1, 1)."""

    tops: ClassVar[Count] = Count(1, 2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({0, 1})
    fork_fields: ClassVar[frozenset[str]] = frozenset({"detection_accuracy_param", "bbox_reg_param"})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.detection_accuracy_param
        self.check_maps(bottoms, param.cls_num, param.coord_num)
        shapes: list[Shape] = [(1, 1, 1, 2), (1, 1, 1, 1)]
        return shapes[: self.num_tops]
