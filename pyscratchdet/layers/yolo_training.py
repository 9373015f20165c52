"""The losses and the evaluation of YOLO in Intel's Caffe and in MobileNet-YOLO: their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Count, Shape, ShapedLayer, exactly, register


class _YoloLoss(ShapedLayer):
    """Base: maps (N, boxes * (5 + classes), H, W) and the label blob (1, 1, T, 8) make a loss, a scalar."""

    only_shapes = "training YOLO is not implemented"
    bottoms: ClassVar[Count] = exactly(2)
    auto_tops: ClassVar[bool] = True
    is_loss: ClassVar[bool] = True
    no_gradient: ClassVar[frozenset[int]] = frozenset({1})

    def check_channels(self, bottoms: Sequence[Shape], num_boxes: int, num_values: int) -> None:
        """Refuses maps that do not have `num_values` channels for each box."""
        expected = num_boxes * num_values
        if len(bottoms[0]) != 4 or bottoms[0][1] != expected:
            raise self.fail(
                "the maps do not fit the boxes", "shape", expected=f"(N, {expected}, H, W)", found=bottoms[0]
            )


@register("RegionLoss")
class RegionLoss(_YoloLoss):
    """The loss of YOLO v2 (Redmon and Farhadi 2017; region_loss_layer.cpp of both Caffes, which differ)."""

    fork_fields: ClassVar[frozenset[str]] = frozenset({"region_loss_param"})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.region_loss_param
        self.check_channels(bottoms, param.num, param.coords + param.num_class + 1)
        return [()]


@register("Yolov3")
class Yolov3(_YoloLoss):
    """The loss of YOLO v3 of one map (Redmon and Farhadi 2018; yolov3_layer.cpp of MobileNet-YOLO)."""

    fork_fields: ClassVar[frozenset[str]] = frozenset({"yolov3_param"})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.yolov3_param
        self.check_channels(bottoms, param.num, 5 + param.num_class)
        return [()]


@register("EvalDetection")
class EvalDetection(ShapedLayer):
    """Judges YOLO v2's maps (N, boxes * (5 + classes), side, side): (N, classes + 4 * side * side * boxes).

    For each image the number of true boxes of each class, then label, score, true and false positive of each
    detection (eval_detection_layer.cpp of Intel's Caffe). Bottoms after the maps and the label blob are not read.
    """

    only_shapes = "judging YOLO's detections is not implemented"
    bottoms: ClassVar[Count] = Count(2, 3)
    no_gradient: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    fork_fields: ClassVar[frozenset[str]] = frozenset({"eval_detection_param"})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.eval_detection_param
        places = param.side * param.side * param.num_object
        expected = (param.num_object * (param.num_class + 5), param.side, param.side)
        if bottoms[0][1:] != expected:
            raise self.fail("the maps do not fit", "shape", expected=("N", *expected), found=bottoms[0])
        return [(bottoms[0][0], param.num_class + 4 * places)]
