"""DetectionEvaluate (detection_evaluate_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, Shape, register
from pyscratchdet.layers.loss import legacy_shape
from pyscratchdet.lazy import Tensor, torch


@register("DetectionEvaluate")
class DetectionEvaluate(Layer):
    """Judges detections; the solver computes average precisions from the result.

    Bottoms: detections (1, 1, D, 7) as DetectionOutput makes them, and the label blob (1, 1, T, 8). Top:
    (1, 1, K + E, 5): first for each of the K classes other than the background (-1, label, number of objects, -1, -1),
    then for each detection (image, label, score, true positive, false positive). Before the first forward pass E is D.

    With `name_size_file` overlaps are measured in pixels. Pictures are then taken in the order of that file, one for
    each image with detections, starting again after the last.

    Of Cascade R-CNN's form, with sizes of pictures as a third bottom, only the shapes are known: detections
    (D, 7, 1, 1), boxes (T, 8, 1, 1) and sizes (N, 2, 1, 1), top (K + D, 5, 1, 1).
    """

    bottoms: ClassVar[Count] = Count(2, 3)
    no_gradient: ClassVar[frozenset[int]] = frozenset({0, 1, 2})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        if len(bottoms) == 3:
            self.only_shapes = "judging Cascade R-CNN's detections is not implemented"
        param = self.evaluate_param = self.param.detection_evaluate_param
        if not param.HasField("num_classes") or param.num_classes < 1:
            raise self.fail("num_classes is missing", "num-classes", expected="at least 1", found=param.num_classes)
        self.background = (param.background_label_id + (1 << 31)) % (1 << 32) - (1 << 31)
        if not -1 <= self.background < param.num_classes:
            raise self.fail("background_label_id is not one of the classes", "background", found=self.background)
        if not param.overlap_threshold > 0:
            raise self.fail("overlap_threshold must be positive", "overlap-threshold", found=param.overlap_threshold)
        resize = param.resize_param
        if param.HasField("resize_param") and not (resize.height and resize.width):
            raise self.fail("resize_param needs height and width", "resize", found=(resize.height, resize.width))
        self.resize = resize if param.HasField("resize_param") else None
        self._sizes: np.ndarray | None = None
        self._count = 0

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms) == 3:
            shapes = [legacy_shape(self, bottom) for bottom in bottoms]
            if [shape[1] for shape in shapes] != [7, 8, 2]:
                raise self.fail(
                    "the bottoms have the wrong shapes", "shape", expected="(N, 7), (N, 8), (N, 2)", found=bottoms
                )
            return [(len(self._labels()) + shapes[0][0], 5, 1, 1)]
        for index, (what, width) in enumerate([("detections", 7), ("labels", 8)]):
            shape = legacy_shape(self, _four_axes(bottoms[index]))
            if shape[:2] != (1, 1) or shape[3] != width:
                raise self.fail(f"the {what} have the wrong shape", "shape", expected=(1, 1, "N", width), found=shape)
        return [(1, 1, len(self._labels()) + _four_axes(bottoms[0])[2], 5)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.boxes.evaluation import Sizes, judge
        from pyscratchdet.boxes.ground_truth import read_ground_truth

        param, rows = self.evaluate_param, bottoms[0].detach().reshape(-1, 7)
        truth = read_ground_truth(bottoms[1], use_difficult=True, one_class=param.num_classes == 2, ends=True)
        labels = np.append(truth.labels, rows[rows[:, 0].trunc() != -1, 1].long().cpu().numpy())
        if self.background >= 0 and (labels == self.background).any():
            raise self.fail("the background class is among detections or labels", "label", found=self.background)
        table = self._size_table()
        sizes = None if table is None else Sizes(table, self._count, self.resize)
        judged, num_images = judge(rows, truth, param.overlap_threshold, param.evaluate_difficult_gt, sizes)
        if table is not None:
            self._count = (self._count + num_images) % len(table)
        counted = truth.labels if param.evaluate_difficult_gt else truth.labels[~truth.difficult]
        heads = torch.full((len(self._labels()), 5), -1.0)
        heads[:, 1] = torch.tensor(self._labels(), dtype=torch.float32)
        heads[:, 2] = torch.tensor([np.count_nonzero(counted == label) for label in self._labels()]).float()
        # Rows of image -1 with a label get a row of zeros, as in the original.
        empty = judged.new_zeros(int((rows[:, 1] != -1).sum()) - len(judged), 5)
        return [torch.cat([heads, judged, empty])[None, None].to(bottoms[0].device)]

    def _labels(self) -> list[int]:
        return [label for label in range(self.evaluate_param.num_classes) if label != self.background]

    def _size_table(self) -> np.ndarray | None:
        """Returns heights and widths (V, 2), or None without a file; the file is read at the first forward pass."""
        from pyscratchdet.boxes.result_files import read_name_sizes

        name = self.evaluate_param.name_size_file
        if name and self._sizes is None:
            rows = read_name_sizes(Path(self.context.root) / name)
            self._sizes = np.array([row[1:] for row in rows], np.int64)
        return self._sizes


def _four_axes(shape: Shape) -> Shape:
    """Drops leading axes of size 1 beyond four: in HDF5 files of recorded detections the batch adds one."""
    while len(shape) > 4 and shape[0] == 1:
        shape = shape[1:]
    return shape
