"""YoloDetectionOutput and Yolov3DetectionOutput of MobileNet-YOLO (the .cpp files of these names)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, Shape, register
from pyscratchdet.lazy import F, Tensor, torch


class _YoloOutput(Layer):
    """Base: the detections of YOLO's feature maps, of one picture.

    Bottoms: one per map, (1, num_box * (5 + num_classes), H, W), with x, y, log width, log height, objectness and
    classes of each box. Top: D detections (1, 1, D, 7) as image 0, label (1 is the first class), score, xmin, ymin,
    xmax, ymax, normalised to the picture and not cut to it; best first. Non-maximum suppression at `nms_threshold` does
    not look at labels, as in the original. If there is none, one row of -1 with image 0. No gradient.

    Attributes:
        settings_field: The LayerParameter field with the settings.
    """

    no_gradient: ClassVar[frozenset[int]] = frozenset(range(16))
    makes_detections: ClassVar[bool] = True
    settings_field: ClassVar[str]

    @property
    def detection_param(self) -> Any:
        """The layer's settings."""
        return getattr(self.param, self.settings_field)

    @property
    def num_labels(self) -> int:
        """How many labels there are, with 0, the background, which `num_classes` leaves out."""
        return int(self.detection_param.num_classes) + 1

    @property
    def background_label(self) -> int:
        """The label of what is no object."""
        return 0

    @property
    def confidence_threshold(self) -> float:
        """The score from which on there are detections."""
        return float(self.detection_param.confidence_threshold)

    @abstractmethod
    def scores(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the scores of (..., 5 + classes) values, and which are detections, (..., classes) each."""

    @abstractmethod
    def prior_sizes(self, index: int, map_size: tuple[int, int]) -> np.ndarray:
        """Returns width and height (num_box, 2), normalised, of a map's boxes at code 0, float32."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.detection_param
        channels = param.num_box * (5 + param.num_classes)
        for bottom in bottoms:
            if len(bottom) != 4 or bottom[:2] != (1, channels):
                raise self.fail("wrong shape", "shape", expected=f"(1, {channels}, H, W)", found=bottom)
        return [(1, 1, 1, 7)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.boxes.regions import best_regions

        rows = np.concatenate([self._candidates(index, bottom) for index, bottom in enumerate(bottoms)])
        threshold = np.float32(self.detection_param.nms_threshold)
        kept = best_regions(rows[:, :4], rows[:, 4], lambda box, others: _overlaps(box, others) >= threshold)
        boxes, scores, labels = rows[kept, :4], rows[kept, 4:5], rows[kept, 5:]
        half = boxes[:, 2:] / 2
        found = [np.zeros_like(scores), labels, scores, boxes[:, :2] - half, boxes[:, :2] + half]
        result = np.concatenate(found, 1) if len(kept) else np.array([[0, *[-1] * 6]], np.float32)
        return [torch.from_numpy(result).to(bottoms[0].device)[None, None]]

    def _candidates(self, index: int, bottom: Tensor) -> np.ndarray:
        """Returns centre x, y, width, height, score and label of a map's detections, (K, 6) float32."""
        height, width = bottom.shape[2:]
        values = bottom.detach().float()[0].unflatten(0, (self.detection_param.num_box, -1)).permute(2, 3, 0, 1)
        columns, rows = (torch.arange(size, device=bottom.device) for size in (width, height))
        x = (columns[:, None] + values[..., 0].sigmoid()) / width
        y = (rows[:, None, None] + values[..., 1].sigmoid()) / height
        sizes = torch.from_numpy(self.prior_sizes(index, (height, width))).to(bottom.device)
        boxes = torch.cat([x[..., None], y[..., None], values[..., 2:4].exp() * sizes], -1)
        scores, is_detection = self.scores(values)
        places = is_detection.nonzero(as_tuple=True)
        found = [boxes[places[:3]], scores[places][:, None], places[3][:, None].float() + 1]
        return torch.cat(found, 1).cpu().numpy()


@register("YoloDetectionOutput")
class YoloDetectionOutput(_YoloOutput):
    """The detections of YOLO v2 (Redmon and Farhadi 2017, section 2): see `_YoloOutput`.

    Each box has one label, that of its largest softmax(classes); it is a detection if sigmoid(objectness) times that is
    at least `confidence_threshold`. `biases` are widths and heights in places of the map, which is square.
    """

    bottoms: ClassVar[Count] = Count(1, 2)
    fork_fields: ClassVar[frozenset[str]] = frozenset({"yolo_detection_output_param"})
    settings_field: ClassVar[str] = "yolo_detection_output_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.detection_param
        if not param.num_box or len(param.biases) < 2 * param.num_box:
            expected = f"2 for each of {param.num_box} boxes"
            raise self.fail("biases are missing", "biases", expected=expected, found=len(param.biases))

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        if any(height != width for _, _, height, width in bottoms):
            raise self.fail("the maps must be square", "shape", expected="H = W", found=bottoms)
        return tops

    def scores(self, values: Tensor) -> tuple[Tensor, Tensor]:
        scores = values[..., 5:].softmax(-1) * values[..., 4:5].sigmoid()
        is_best = F.one_hot(values[..., 5:].argmax(-1), self.detection_param.num_classes).bool()
        return scores, is_best & (scores >= self.detection_param.confidence_threshold)

    def prior_sizes(self, index: int, map_size: tuple[int, int]) -> np.ndarray:
        biases = np.array(self.detection_param.biases[: 2 * self.detection_param.num_box], np.float32)
        return biases.reshape(-1, 2) / np.float32(map_size[1])


@register("Yolov3DetectionOutput")
class Yolov3DetectionOutput(_YoloOutput):
    """The detections of YOLO v3 (Redmon and Farhadi 2018, section 2.1): see `_YoloOutput`.

    Every class of a box whose sigmoid(objectness) * sigmoid(class) is above `confidence_threshold` is a detection.
    `biases` are widths and heights in pixels of a picture `anchors_scale` times as large as the map.
    """

    bottoms: ClassVar[Count] = Count(1, 16)
    fork_fields: ClassVar[frozenset[str]] = frozenset({"yolov3_detection_output_param"})
    settings_field: ClassVar[str] = "yolov3_detection_output_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.detection_param
        num_maps = len(bottoms)
        if param.gaussian_box:
            raise self.fail("gaussian_box is not implemented", "gaussian", expected=False, found=True)
        if param.mask_group_num != num_maps or len(param.anchors_scale) < num_maps:
            found = (param.mask_group_num, len(param.anchors_scale))
            raise self.fail("mask_group_num and anchors_scale: one a bottom", "maps", expected=num_maps, found=found)
        group = len(param.mask) // num_maps
        masks = [list(param.mask[k * group : k * group + param.num_box]) for k in range(num_maps)]
        if any(len(mask) != param.num_box or not mask or 2 * max(mask) + 1 >= len(param.biases) for mask in masks):
            expected = f"{param.num_box} a bottom, below {len(param.biases) // 2}"
            raise self.fail("mask does not choose sizes from biases", "mask", expected=expected, found=list(param.mask))
        sizes = np.array(param.biases[: len(param.biases) // 2 * 2], np.float32).reshape(-1, 2)
        self.sizes = [sizes[mask] for mask in masks]  # in pixels, per map

    def scores(self, values: Tensor) -> tuple[Tensor, Tensor]:
        scores = values[..., 5:].sigmoid() * values[..., 4:5].sigmoid()
        return scores, scores > self.detection_param.confidence_threshold

    def prior_sizes(self, index: int, map_size: tuple[int, int]) -> np.ndarray:
        pixels = np.array(map_size[::-1], np.float32) * np.float32(self.detection_param.anchors_scale[index])
        return self.sizes[index] / pixels


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the intersection over union (K,) of boxes given by centre and size, (4,) with (K, 4)."""
    low = np.maximum(box[:2] - box[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = np.minimum(box[:2] + box[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    common = (high - low).clip(min=0).prod(-1)
    with np.errstate(invalid="ignore"):
        return common / (box[2:].prod() + others[:, 2:].prod(-1) - common)
