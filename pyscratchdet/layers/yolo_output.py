"""Yolov3DetectionOutput of MobileNet-YOLO (yolov3_detection_output_layer.cpp, get_region_box of bbox_util.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, Shape, register
from pyscratchdet.lazy import Tensor, torch


@register("Yolov3DetectionOutput")
class Yolov3DetectionOutput(Layer):
    """The detections of YOLO v3's feature maps (Redmon and Farhadi 2018, section 2.1), of one picture.

    Bottoms: one per map, (1, num_box * (5 + num_classes), H, W), with x, y, log width, log height, objectness and
    classes of each box. Top: D detections (1, 1, D, 7) as image 0, label (1 is the first class), score, xmin, ymin,
    xmax, ymax, normalised to the picture and not cut to it; best first. Every class of a box whose score,
    sigmoid(objectness) * sigmoid(class), is above `confidence_threshold` is one. Non-maximum suppression at
    `nms_threshold` does not look at labels, as in the original. If there is none, one row of -1 with image 0. No
    gradient.
    """

    bottoms: ClassVar[Count] = Count(1, 16)
    no_gradient: ClassVar[frozenset[int]] = frozenset(range(16))
    makes_detections: ClassVar[bool] = True
    fork_fields: ClassVar[frozenset[str]] = frozenset({"yolov3_detection_output_param"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.yolov3_detection_output_param
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

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.yolov3_detection_output_param
        channels = param.num_box * (5 + param.num_classes)
        for bottom in bottoms:
            if len(bottom) != 4 or bottom[:2] != (1, channels):
                raise self.fail("wrong shape", "shape", expected=f"(1, {channels}, H, W)", found=bottom)
        return [(1, 1, 1, 7)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.boxes.regions import best_regions

        param = self.param.yolov3_detection_output_param
        maps = zip(bottoms, self.sizes, param.anchors_scale, strict=False)
        rows = np.concatenate([self._candidates(*each) for each in maps])
        threshold = np.float32(param.nms_threshold)
        kept = best_regions(rows[:, :4], rows[:, 4], lambda box, others: _overlaps(box, others) >= threshold)
        boxes, scores, labels = rows[kept, :4], rows[kept, 4:5], rows[kept, 5:]
        half = boxes[:, 2:] / 2
        found = [np.zeros_like(scores), labels, scores, boxes[:, :2] - half, boxes[:, :2] + half]
        result = np.concatenate(found, 1) if len(kept) else np.array([[0, *[-1] * 6]], np.float32)
        return [torch.from_numpy(result).to(bottoms[0].device)[None, None]]

    def _candidates(self, bottom: Tensor, sizes: np.ndarray, scale: int) -> np.ndarray:
        """Returns centre x, y, width, height, score and label of a map's boxes above the threshold, (K, 6) float32."""
        param = self.param.yolov3_detection_output_param
        height, width = bottom.shape[2:]
        values = bottom.detach().float()[0].unflatten(0, (param.num_box, -1)).permute(2, 3, 0, 1)  # H, W, boxes, values
        columns, rows = (torch.arange(size, device=bottom.device) for size in (width, height))
        x = (columns[:, None] + values[..., 0].sigmoid()) / width
        y = (rows[:, None, None] + values[..., 1].sigmoid()) / height
        pixels = torch.from_numpy(sizes).to(bottom.device)
        spans = [values[..., 2 + k].exp() * pixels[:, k] / (size * scale) for k, size in enumerate((width, height))]
        scores = values[..., 5:].sigmoid() * values[..., 4:5].sigmoid()
        places = (scores > param.confidence_threshold).nonzero(as_tuple=True)
        boxes = torch.stack([x, y, *spans], -1)[places[:3]]
        columns_of_rows = [boxes, scores[places][:, None], places[3][:, None].float() + 1]
        return torch.cat(columns_of_rows, 1).cpu().numpy()


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the intersection over union (K,) of boxes given by centre and size, (4,) with (K, 4)."""
    low = np.maximum(box[:2] - box[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = np.minimum(box[:2] + box[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    common = (high - low).clip(min=0).prod(-1)
    with np.errstate(invalid="ignore"):
        return common / (box[2:].prod() + others[:, 2:].prod(-1) - common)
