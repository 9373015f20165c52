"""Online hard example mining of R-FCN: only the regions with the largest losses train (Dai et al. 2016, section 3.4).

SoftmaxWithLossOHEM and SmoothL1LossOHEM give each region's loss, BoxAnnotatorOHEM picks the regions. Sources: the .cpp
files of these names in Intel's Caffe, of which R-FCN's own only has the GPU's half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Count, Layer, Shape, exactly, register
from pyscratchdet.layers.loss import (
    PRE_FIXED_FIELDS,
    Loss,
    LossParameter,
    class_indices,
    legacy_shape,
    normalization,
    normalizer,
)
from pyscratchdet.layers.softmax_loss import FLOOR, SoftmaxWithLoss
from pyscratchdet.lazy import F, Tensor, torch


@register("SoftmaxWithLossOHEM")
class SoftmaxWithLossOHEM(SoftmaxWithLoss):
    """SoftmaxWithLoss with two more tops, without a gradient: probabilities, and each place's loss.

    The losses have the labels' shape; that of a place that does not count is 0. The original leaves both unwritten in
    part: probabilities where there is a third top, and losses where one does not count.
    """

    tops: ClassVar[Count] = Count(1, 3)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [*super().reshape(bottoms), *bottoms][: self.num_tops]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        tops = super().forward(bottoms, blobs)
        if self.num_tops > 1:
            axis = self.axis(self.param.softmax_param.axis, bottoms[0].dim())
            tops.append(bottoms[0].detach().softmax(axis))
        if self.num_tops > 2:
            tops.append(self._losses(bottoms[0].detach(), bottoms[1], axis))
        return tops

    def _losses(self, scores: Tensor, labels: Tensor, axis: int) -> Tensor:
        moved = F.log_softmax(scores, axis).movedim(axis, -1)
        index = class_indices(self, labels.reshape(moved.shape[:-1]), scores.shape[axis], self.ignored)
        losses = -moved.gather(-1, index.clamp(min=0)[..., None])[..., 0].clamp(min=FLOOR)
        return torch.where(index >= 0, losses, 0).reshape(labels.shape)


@register("SmoothL1LossOHEM")
class SmoothL1LossOHEM(Loss):
    """sum(f(w * (a - b))) / normalizer with f(d) = d^2 / 2 where |d| < 1 and |d| - 1/2 elsewhere; w is bottom 3, or 1.

    A second top (N, 1, H, W), without a gradient, has the sum over each place's channels. The normalizer is N * H * W
    unless `loss_param` says otherwise. As in the original, the gradient is f'(w * (a - b)) without the factor w, which
    is the true one for weights of 0 and 1.
    """

    bottoms: ClassVar[Count] = Count(2, 3)
    tops: ClassVar[Count] = Count(1, 2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({2})
    fork_fields: ClassVar[frozenset[str]] = PRE_FIXED_FIELDS

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.mode = normalization(self.param.loss_param, LossParameter.VALID)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        for bottom in bottoms[1:]:
            if legacy_shape(self, bottom) != legacy_shape(self, bottoms[0]):
                raise self.fail("all bottoms must have the same shape", "shape", expected=bottoms[0], found=bottom)
        number, _, height, width = legacy_shape(self, bottoms[0])
        return [*tops, (number, 1, height, width)][: self.num_tops]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.layers.autograd.given_gradient import given_gradient

        values, targets = bottoms[0], bottoms[1].reshape(bottoms[0].shape)
        differences = values.detach() - targets.detach()
        if len(bottoms) == 3:
            differences = differences * bottoms[2].detach().reshape(values.shape)
        errors = F.smooth_l1_loss(differences, torch.zeros_like(differences), reduction="none")
        number, channels, height, width = legacy_shape(self, tuple(values.shape))
        places = torch.tensor(number * height * width)
        divisor = normalizer(self.param.loss_param, self.mode, number, height * width, places)
        loss = errors.sum() / divisor

        def gradient() -> Tensor:
            return differences.clamp(-1, 1) / divisor

        top = given_gradient(loss, gradient, values, bottoms[1], signs=(1, -1))
        return [top, errors.view(number, channels, height, width).sum(1, keepdim=True)][: self.num_tops]


@register("BoxAnnotatorOHEM")
class BoxAnnotatorOHEM(Layer):
    """Keeps the labels and weights of the `roi_per_img` regions of each image with the largest losses.

    Bottoms: regions (R, 5, H, W), of which only the image counts, losses and labels (R, 1, H, W), weights (R, C, H, W).
    Tops: labels, `ignore_label` where not kept, and weights, 0 where not kept. Regions of equal loss are taken in their
    order, which the original leaves open. No gradient.
    """

    bottoms: ClassVar[Count] = exactly(4)
    tops: ClassVar[Count] = exactly(2)
    no_gradient: ClassVar[frozenset[int]] = frozenset(range(4))
    fork_fields: ClassVar[frozenset[str]] = frozenset({"box_annotator_ohem_param"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.number = self.param.box_annotator_ohem_param.roi_per_img
        if self.number < 1:
            raise self.fail("roi_per_img must be positive", "number", expected="> 0", found=self.number)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shapes = [legacy_shape(self, bottom) for bottom in bottoms]
        number, channels, height, width = shapes[0]
        label, weight = (number, 1, height, width), (number, shapes[3][1], height, width)
        if channels != 5 or shapes[1:] != [label, label, weight]:
            expected = "(R, 5, H, W), (R, 1, H, W) twice, (R, C, H, W)"
            raise self.fail("regions, losses, labels and weights do not fit", "shape", expected=expected, found=bottoms)
        return [label, weight]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        label, weight = self.reshape([tuple(bottom.shape) for bottom in bottoms])
        regions, losses, labels, weights = (bottom.detach() for bottom in bottoms)
        images = regions.reshape(label[0], 5, -1)[:, 0].reshape(-1).trunc()
        order = losses.reshape(-1).argsort(descending=True, stable=True)
        is_kept = torch.zeros_like(images, dtype=torch.bool)
        for image in images.unique():
            is_kept[order[images[order] == image][: self.number]] = True
        kept = is_kept.view(label)
        ignored = float(self.param.box_annotator_ohem_param.ignore_label)
        return [torch.where(kept, labels.view(label), ignored), torch.where(kept, weights.view(weight), 0)]
