"""The losses of YOLO in Intel's Caffe and in MobileNet-YOLO, and the shapes of its evaluation.

Of all these losses the value is the sum of the squares of what is passed back, so that the gradient is not that of the
value. Boxes are centre x, centre y, width, height, as shares of the picture.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, Shape, ShapedLayer, exactly, register
from pyscratchdet.lazy import Tensor, torch

_NUM_ROWS = 300  # of MobileNet-YOLO's labels of a picture
_COORDS = 4


@dataclass
class _Truth:
    """One true box of a picture and the place of the map where its centre lies.

    Attributes:
        label: Its class, from 0.
        box: Centre x, centre y, width, height.
        row, column: The place.
    """

    label: int
    box: np.ndarray
    row: int
    column: int


class _YoloLoss(Layer):
    """Base: maps (N, boxes * (5 + classes), H, W) and labels make a loss, a scalar.

    The values of a box are x, y, log width, log height, objectness and the classes. Labels are MobileNet-YOLO's
    (N, 1, 300, 5), rows of class, centre x, centre y, width, height that end with zeros.
    """

    bottoms: ClassVar[Count] = exactly(2)
    auto_tops: ClassVar[bool] = True
    is_loss: ClassVar[bool] = True
    no_gradient: ClassVar[frozenset[int]] = frozenset({1})

    @property
    @abstractmethod
    def yolo_param(self) -> Any:
        """The settings."""

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.num_boxes, self.num_classes = self.yolo_param.num, self.yolo_param.num_class
        self.biases = np.array(self.yolo_param.biases, np.float32)
        self.only_shapes = self.why_only_shapes(bottoms)

    @abstractmethod
    def why_only_shapes(self, bottoms: Sequence[Shape]) -> str:
        """Returns why the loss is not computed for these settings and bottoms; empty if it is."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        expected = self.num_boxes * (_COORDS + 1 + self.num_classes)
        if len(bottoms[0]) != 4 or bottoms[0][1] != expected:
            raise self.fail(
                "the maps do not fit the boxes", "shape", expected=f"(N, {expected}, H, W)", found=bottoms[0]
            )
        return [()]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.layers.autograd.given_gradient import given_gradient

        if self.only_shapes:
            raise self.only_shapes_known()
        number = len(bottoms[0])
        values = bottoms[0].detach().float().cpu().numpy()
        values = values.reshape(number, self.num_boxes, -1, *values.shape[2:])
        with np.errstate(over="ignore", invalid="ignore"):  # a diverged net: NaN, as in the original
            deltas, gradients = self.deltas(values, bottoms[1].detach().float().cpu().numpy())
        loss = torch.tensor(np.square(deltas, dtype=np.float64).sum() / self.divisor(number), dtype=bottoms[0].dtype)
        passed_back = torch.from_numpy(gradients / np.float32(number)).view_as(bottoms[0]).to(bottoms[0])
        return [given_gradient(loss.to(bottoms[0].device), lambda: passed_back, bottoms[0])]

    @abstractmethod
    def deltas(self, values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns what is squared and what is passed back, both (N, boxes, 5 + classes, H, W) like the values."""

    def divisor(self, number: int) -> int:
        """Returns what the sum of squares is divided by, for a batch of that size."""
        return number

    def listed(self, labels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, list[_Truth]]:
        """Returns the boxes (T, 4) of a picture that predictions are held against, and those that are assigned.

        Args:
            labels: Its rows (300, 5); the first end where x is 0, the second where the width is.
            size: Height and width of the map.
        """
        ends = [int(np.argmax(column == 0)) if (column == 0).any() else len(column) for column in labels[:, [1, 3]].T]
        return labels[: ends[0], 1:], [self.truth(row[0], row[1:], size) for row in labels[: ends[1]]]

    def truth(self, label: float, box: np.ndarray, size: tuple[int, int]) -> _Truth:
        """Returns a true box with its place.

        Raises:
            LayerError: The class or the place does not exist; the original writes past its memory there.
        """
        column, row = int(box[0] * size[1]), int(box[1] * size[0])
        if not 0 <= int(label) < self.num_classes:
            raise self.fail("label out of range", "label", expected=f"0 to {self.num_classes - 1}", found=float(label))
        if not (0 <= column < size[1] and 0 <= row < size[0] and (box[2:] > 0).all()):
            expected = "a centre in the picture, and an area"
            raise self.fail("a true box does not fit", "box", expected=expected, found=box.tolist())
        return _Truth(int(label), box, row, column)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-values))).astype(np.float32)


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns intersection over union of boxes (..., 4) and others (..., 4)."""
    low = np.maximum(boxes[..., :2] - boxes[..., 2:] / 2, others[..., :2] - others[..., 2:] / 2)
    high = np.minimum(boxes[..., :2] + boxes[..., 2:] / 2, others[..., :2] + others[..., 2:] / 2)
    sides = high - low
    common = np.where((sides < 0).any(-1), np.float32(0), sides.prod(-1))
    return common / (boxes[..., 2:].prod(-1) + others[..., 2:].prod(-1) - common)


def _best_overlaps(boxes: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Returns for each of (boxes, H, W, 4) the largest overlap with one of (T, 4); 0 where T is 0."""
    best = np.zeros(boxes.shape[:-1], np.float32)
    for truth in truths:
        best = np.maximum(best, _overlaps(boxes, truth))
    return best


def _at_origin(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(sizes), sizes], -1)


def _place(values: np.ndarray, reach: tuple[float, float], sizes: np.ndarray) -> np.ndarray:
    """Returns the boxes (boxes, H, W, 4) of values (boxes, >= 4, H, W) whose x and y are shares of a cell.

    Args:
        values: x, y, log width, log height first.
        reach: What widths and heights are divided by.
        sizes: (boxes, 2) width and height at code 0.
    """
    height, width = values.shape[2:]
    x = (np.arange(width, dtype=np.float32) + values[:, 0]) / width
    y = (np.arange(height, dtype=np.float32)[:, None] + values[:, 1]) / height
    wide = np.exp(values[:, 2]) * sizes[:, 0, None, None] / reach[0]
    high = np.exp(values[:, 3]) * sizes[:, 1, None, None] / reach[1]
    return np.stack([x, y, wide, high], -1)


@register("RegionLoss")
class RegionLoss(_YoloLoss):
    """The loss of YOLO v2 of one square map (Redmon and Farhadi 2017; region_loss_layer.cpp of both Caffes).

    Which Caffe's it is, the labels show: SSD's rows (1, 1, T, 8) are Intel's, with classes from 1, and (N, 1, 300, 5)
    MobileNet-YOLO's. A place's objectness is to be 0 where no true box overlaps by more than `thresh`, and at the best
    of a true box's priors the overlap (`rescore`) or 1; Intel's divides no loss by N, limits each code's error to 1 and
    weights objects by 2 (1 - objectness)^2.
    """

    fork_fields: ClassVar[frozenset[str]] = frozenset({"region_loss_param"})

    @property
    def yolo_param(self) -> Any:
        """The settings."""
        return self.param.region_loss_param

    def why_only_shapes(self, bottoms: Sequence[Shape]) -> str:
        param, self.is_intel = self.yolo_param, bottoms[1][:2] == (1, 1) and bottoms[1][-1:] == (8,)
        if param.softmax_tree or param.class_map:
            return "the loss with softmax_tree or class_map is not implemented"
        if param.coords != _COORDS or len(self.biases) != 2 * self.num_boxes:
            return "the loss needs 4 coords and two biases for each box"
        if len(bottoms[0]) != 4 or bottoms[0][2] != bottoms[0][3] or (self.is_intel and bottoms[0][3] != param.side):
            return "the loss needs a square map, in Intel's Caffe of `side` places"
        if not self.is_intel and bottoms[1] != (bottoms[0][0], 1, _NUM_ROWS, 5):
            return f"the loss needs labels (1, 1, T, 8) or (N, 1, {_NUM_ROWS}, 5)"
        return ""

    def divisor(self, number: int) -> int:
        return 1 if self.is_intel else number

    def deltas(self, values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        param, side = self.yolo_param, values.shape[-1]
        sizes = self.biases.reshape(-1, 2)
        activated = values.copy()
        activated[:, :, [0, 1, 4]] = _sigmoid(values[:, :, [0, 1, 4]])
        powers = np.exp(values[:, :, 5:] - values[:, :, 5:].max(2, keepdims=True))
        activated[:, :, 5:] = powers / powers.sum(2, keepdims=True)
        found = np.zeros_like(values)
        objectness = activated[:, :, 4]
        found[:, :, 4] = param.noobject_scale * objectness * objectness * (1 - objectness)
        for image in range(len(values)):
            here, delta = activated[image], found[image]
            held, truths = self._truths(image, labels, (side, side))
            boxes = _place(here, (side, side), sizes)
            delta[:, 4][_best_overlaps(boxes, held) > np.float32(param.thresh)] = 0
            for truth in truths:
                place = (slice(None), truth.row, truth.column)
                shapes = sizes / side if param.bias_match else boxes[place][:, 2:]
                best = int(_overlaps(_at_origin(shapes), _at_origin(truth.box[2:])).argmax())
                one = (best, slice(None), truth.row, truth.column)
                overlap = _overlaps(boxes[best, truth.row, truth.column], truth.box)
                delta[one] = self._of_truth(truth, here[one], sizes[best], side, overlap)
        return found, found

    def _truths(self, image: int, labels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, list[_Truth]]:
        if not self.is_intel:
            return self.listed(labels[image, 0], size)
        rows = labels.reshape(-1, 8)
        rows = rows[rows[:, 0] == image]
        corners = rows[:, 3:7]
        boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
        return boxes, [self.truth(row[1] - 1, box, size) for row, box in zip(rows, boxes, strict=True)]

    def _of_truth(
        self, truth: _Truth, values: np.ndarray, size: np.ndarray, side: int, overlap: np.ndarray
    ) -> np.ndarray:
        """Returns the deltas (5 + classes) of the box that a true box is assigned to, from its activated values."""
        param = self.yolo_param
        delta = np.empty_like(values)
        places = np.array([truth.box[0] * side - truth.column, truth.box[1] * side - truth.row], np.float32)
        errors = np.concatenate([places, np.log(truth.box[2:] * side / size)]) - values[:_COORDS]
        scale, objectness = param.coord_scale, values[4]
        if self.is_intel:
            errors = errors.clip(-1, 1)
        elif not param.rescore:
            scale *= 2 - truth.box[2] * truth.box[3]
        delta[:_COORDS] = -scale * errors
        delta[:2] *= values[:2] * (1 - values[:2])
        wanted = overlap if param.rescore else 1
        missing = 2 * (1 - objectness) ** 3 if self.is_intel else wanted - objectness
        delta[4] = -param.object_scale * missing * objectness * (1 - objectness)
        delta[5:] = param.class_scale * (values[5:] - (np.arange(self.num_classes) == truth.label))
        return delta


@register("Yolov3")
class Yolov3(_YoloLoss):
    """The loss of YOLO v3 of one map (Redmon and Farhadi 2018; yolov3_layer.cpp of MobileNet-YOLO).

    `mask` says which of all the priors `biases`, in pixels, are the map's; a place is `anchors_scale` pixels wide. A
    true box is assigned to the best of all priors, if that is the map's, and to each of the map's that overlaps by more
    than `iou_thresh`. Errors are passed back as they are, with `use_logic_gradient` times the slope of the sigmoid; the
    loss is the sum of the squares without it.
    """

    fork_fields: ClassVar[frozenset[str]] = frozenset({"yolov3_param"})

    @property
    def yolo_param(self) -> Any:
        """The settings."""
        return self.param.yolov3_param

    def why_only_shapes(self, bottoms: Sequence[Shape]) -> str:
        param = self.yolo_param
        self.mask = list(param.mask)
        if param.iou_loss != param.MSE:
            return "the loss with an iou_loss other than MSE is not implemented"
        if (
            not self.mask
            or len(self.mask) != self.num_boxes
            or len(self.biases) % 2
            or 2 * max(self.mask) >= len(self.biases)
        ):
            return "the loss needs a mask for each box, and biases for each mask"
        if len(bottoms[0]) != 4 or bottoms[1] != (bottoms[0][0], 1, _NUM_ROWS, 5):
            return f"the loss needs labels (N, 1, {_NUM_ROWS}, 5): yolo_data_type: 1 of its data layer"
        return ""

    def deltas(self, values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        param = self.yolo_param
        height, width = values.shape[-2:]
        priors = self.biases.reshape(-1, 2)
        reach = np.array([width, height], np.float32) * param.anchors_scale
        activated = values.copy()
        activated[:, :, [0, 1]] = _sigmoid(values[:, :, [0, 1]])
        activated[:, :, 4:] = _sigmoid(values[:, :, 4:])
        found = np.zeros_like(values)
        found[:, :, 4] = activated[:, :, 4]
        for image, (here, delta) in enumerate(zip(activated, found, strict=True)):
            held, truths = self.listed(labels[image, 0], (height, width))
            boxes = _place(here, (float(reach[0]), float(reach[1])), priors[self.mask])
            delta[:, 4][_best_overlaps(boxes, held) > np.float32(param.thresh)] = 0
            for truth in truths:
                overlaps = _overlaps(_at_origin(priors / reach), _at_origin(truth.box[2:]))
                for box in self._assigned(overlaps):
                    place = (box, slice(None), truth.row, truth.column)
                    size = priors[self.mask[box]] / reach
                    delta[place] = self._of_truth(truth, here[place], delta[place], size, (height, width))
        gradients = found.copy()
        if param.use_logic_gradient:
            slopes = activated * (1 - activated)
            slopes[:, :, 2:4] = 1
            gradients *= slopes
        return found, gradients

    def _assigned(self, overlaps: np.ndarray) -> list[int]:
        """Returns the map's boxes that a true box is assigned to, in the original's order, one of them perhaps twice.

        Once the best prior is found to be the map's, the original keeps its place in the mask where it had its number,
        and leaves out the prior with that number.
        """
        best = int(overlaps.argmax()) if overlaps.max() > 0 else -1
        boxes = [self.mask.index(best)] if best in self.mask else []
        left_out = boxes[0] if boxes else best
        limit = np.float32(self.yolo_param.iou_thresh)
        if limit < 1:
            near = (number for number, overlap in enumerate(overlaps) if overlap > limit)
            boxes += [self.mask.index(number) for number in near if number in self.mask and number != left_out]
        return boxes

    def _of_truth(
        self, truth: _Truth, values: np.ndarray, before: np.ndarray, size: np.ndarray, map_size: tuple[int, int]
    ) -> np.ndarray:
        """Returns the deltas (5 + classes) of a box that a true box is assigned to.

        Args:
            truth: The true box.
            values: The box's values, activated.
            before: Its deltas so far.
            size: Width and height of its prior, as shares of the picture.
            map_size: Height and width of the map.
        """
        param, (height, width) = self.yolo_param, map_size
        delta = before.copy()
        places = np.array([truth.box[0] * width - truth.column, truth.box[1] * height - truth.row], np.float32)
        scale = param.coord_scale * (2 - truth.box[2] * truth.box[3])
        delta[:_COORDS] = -scale * (np.concatenate([places, np.log(truth.box[2:] / size)]) - values[:_COORDS])
        delta[4] = -(1 - values[4]) * (param.object_scale if param.use_logic_gradient else 1)
        classes, wanted = values[5:], np.arange(self.num_classes) == truth.label
        smoothed = wanted * (1 - param.label_smooth_eps) + 0.5 * param.label_smooth_eps
        if before[5 + truth.label]:  # another true box has this class here: the other classes stay as they are
            delta[5 + truth.label] = -param.class_scale * (smoothed - classes)[truth.label]
        elif param.use_focal_loss:
            true = classes[truth.label] + np.float32(1e-15)
            slope = -(1 - true) * (2 * true * np.log(true) + true - 1)
            delta[5:] = -param.class_scale * (wanted - classes) * 0.5 * slope
        else:
            delta[5:] = -param.class_scale * (smoothed - classes)
        return delta


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
