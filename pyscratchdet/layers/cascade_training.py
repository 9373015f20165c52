"""What Cascade R-CNN's training and testing nets need besides boxes: the shapes of its data, targets and losses.

Sources: the .cpp files of these names in zhaoweicai/cascade-rcnn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Count, Shape, ShapedLayer, at_least, exactly, register
from pyscratchdet.layers.data import assume_shape
from pyscratchdet.layers.loss import legacy_shape

_TRUTH = 8  # image, xmin, ymin, xmax, ymax, label, ignored, difficult
_NUM_CODES = 4


class ListedPictures(ShapedLayer):
    """Base of the data layers: their lists hold pictures of 3 channels, with boxes."""

    bottoms: ClassVar[Count] = exactly(0)
    tops: ClassVar[Count] = at_least(2)
    is_source: ClassVar[bool] = True

    def picture_shape(self, source: str, height: int, width: int) -> Shape:
        """Returns channels, height and width of the pictures, and says that they are assumed.

        Raises:
            LayerError: The net does not say the size.
        """
        if not height or not width:
            expected = "resize_width and resize_height, or short_size and long_size"
            raise self.fail("the size of the pictures is not in the net", "size", expected=expected)
        assume_shape(self, source, (3, height, width))
        return 3, height, width


@register("EvalData")
class EvalData(ListedPictures):
    """Pictures to be judged (N, 3, H, W), true boxes (1, 8, 1, 1) and sizes (N, 2, 1, 1); the last may be left out."""

    only_shapes = "the reading of Cascade R-CNN's lists is not implemented"
    tops: ClassVar[Count] = Count(2, 3)
    fork_fields: ClassVar[frozenset[str]] = frozenset({"eval_data_param"})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.eval_data_param
        # As in the original, the first shape is that of an upright picture.
        size = (param.resize_height, param.resize_width)
        if not all(size):
            size = (param.long_size, param.short_size)
        picture = self.picture_shape(param.source, *size)
        shapes: list[Shape] = [(param.batch_size, *picture), (1, _TRUTH, 1, 1), (param.batch_size, 2, 1, 1)]
        return shapes[: self.num_tops]


@register("DetectionData")
class DetectionData(ListedPictures):
    """Pictures to train on (N, 3, H, W), a map of labels and codes (N, 6, H / s, W / s) per stride s, perhaps boxes."""

    only_shapes = "the reading of Cascade R-CNN's lists is not implemented"
    fork_fields: ClassVar[frozenset[str]] = frozenset({"detection_data_param"})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.detection_data_param
        sizes = [
            (param.crop_height, param.crop_width),
            (param.crop_long_size, param.crop_short_size),
            (param.resize_height, param.resize_width),
            (param.long_size, param.short_size),
        ]
        picture = self.picture_shape(param.source, *next((size for size in sizes if all(size)), (0, 0)))
        if not len(param.stride) == len(param.field_w) == len(param.field_h) or 0 in param.stride:
            found = (list(param.stride), list(param.field_w), list(param.field_h))
            raise self.fail("as many strides as field_w and field_h, all above 0", "stride", found=found)
        shapes = [(param.batch_size, *picture)]
        for stride in param.stride:
            height, width = (int(size / stride + 0.5) for size in picture[1:])
            shapes.append((param.batch_size, 2 + param.coord_num, height, width))
        if param.output_gt_boxes:
            shapes.append((1, _TRUTH, 1, 1))
        if len(shapes) != self.num_tops:
            raise self.fail(
                "a top for each stride, and one for gt_boxes", "tops", expected=len(shapes), found=self.num_tops
            )
        return shapes


class _OfGroups(ShapedLayer):
    """Base: bottoms are probabilities (N * G, classes, H, W), codes (N * G, 4, H, W), labels (N * G, 6, H, W)."""

    only_shapes = "training Cascade R-CNN is not implemented"
    bottoms: ClassVar[Count] = exactly(3)
    no_gradient: ClassVar[frozenset[int]] = frozenset({2})

    def check_groups(self, bottoms: Sequence[Shape], num_classes: int, num_groups: int) -> None:
        """Refuses bottoms of other shapes.

        Raises:
            LayerError: They do not fit each other, or the settings.
        """
        number, _, height, width = legacy_shape(self, bottoms[0])
        expected = [(number, channels, height, width) for channels in (num_classes, _NUM_CODES, _NUM_CODES + 2)]
        if [legacy_shape(self, bottom) for bottom in bottoms] != expected or not num_groups or number % num_groups:
            wanted = f"{expected}, their number a multiple of {num_groups}"
            raise self.fail("scores, codes and labels do not fit", "shape", expected=wanted, found=list(bottoms))


@register("DetectionGroupLoss")
class DetectionGroupLoss(_OfGroups):
    """The loss of a region proposal network: its whole, and its part for boxes (1, 1, 1, 2)."""

    auto_tops: ClassVar[bool] = True
    is_loss: ClassVar[bool] = True
    fork_fields: ClassVar[frozenset[str]] = frozenset({"detection_group_loss_param", "bbox_reg_param"})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.detection_group_loss_param
        self.check_groups(bottoms, param.cls_num, len(param.field_w))
        return [(1, 1, 1, 2)]


@register("DetectionGroupAccuracy")
class DetectionGroupAccuracy(_OfGroups):
    """Accuracies of all and of the objects (1, 1, 1, 2), and perhaps the mean overlap of boxes (1, 1, 1, 1)."""

    tops: ClassVar[Count] = Count(1, 2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    fork_fields: ClassVar[frozenset[str]] = frozenset({"detection_group_accuracy_param", "bbox_reg_param"})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.detection_group_accuracy_param
        self.check_groups(bottoms, param.cls_num, len(param.field_w))
        shapes: list[Shape] = [(1, 1, 1, 2), (1, 1, 1, 1)]
        return shapes[: self.num_tops]


@register("ProposalTarget")
class ProposalTarget(ShapedLayer):
    """Sampled regions (R, 5), labels, targets with two weights (R, C), matched boxes (R, 6), perhaps a weight each.

    Bottoms: regions (R, 5) and true boxes. R is `batch_size`, or that of the regions where it is -1; C is 8, or
    4 * cls_num with `cls_aware`. All have four axes.
    """

    only_shapes = "training Cascade R-CNN is not implemented"
    bottoms: ClassVar[Count] = exactly(2)
    tops: ClassVar[Count] = Count(6, 7)
    no_gradient: ClassVar[frozenset[int]] = frozenset({0, 1})
    fork_fields: ClassVar[frozenset[str]] = frozenset({"proposal_target_param", "bbox_reg_param"})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.proposal_target_param
        number, columns, *_ = legacy_shape(self, bottoms[0])
        if columns != 5 or (param.batch_size < 1 and param.batch_size != -1):
            found = (bottoms[0], param.batch_size)
            raise self.fail("regions and batch_size", "shape", expected="(R, 5), above 0 or -1", found=found)
        number = max(number, 1) if param.batch_size == -1 else param.batch_size
        codes = _NUM_CODES * param.cls_num if self.param.bbox_reg_param.cls_aware else 2 * _NUM_CODES
        widths = (5, 1, codes, codes, codes, 6, 1)[: self.num_tops]
        return [(number, width, 1, 1) for width in widths]


@register("BboxAccuracy")
class BboxAccuracy(ShapedLayer):
    """The mean overlap of decoded codes (R, C) of regions (R, 5) with their boxes (R, 6), and that of the regions."""

    only_shapes = "training Cascade R-CNN is not implemented"
    bottoms: ClassVar[Count] = exactly(3)
    tops: ClassVar[Count] = Count(1, 2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    fork_fields: ClassVar[frozenset[str]] = frozenset({"bbox_reg_param"})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len({bottom[:1] for bottom in bottoms}) != 1:
            raise self.fail(
                "bottoms differ in their number of regions", "shape", expected="R each", found=list(bottoms)
            )
        return [(1, 1, 1, 1) for _ in range(self.num_tops)]
