"""Accuracy (accuracy_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Count, Layer, Shape, exactly, register
from pyscratchdet.layers.loss import check_one_label_each, class_indices
from pyscratchdet.lazy import F, Tensor, torch


@register("Accuracy")
class Accuracy(Layer):
    """Share of the places whose label is among the `top_k` best scores, ignored labels left out.

    Bottoms: scores with the classes along `axis`, and one label per place. Tops: the share (a scalar; NaN if no label
    counts) and, as an optional second top, the share per class (C), 0 for a class without labels. Of equal scores the
    higher class ranks first. There is no gradient.
    """

    bottoms: ClassVar[Count] = exactly(2)
    tops: ClassVar[Count] = Count(1, 2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({0, 1})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.accuracy_param
        self.top_k = param.top_k
        self.ignored = param.ignore_label if param.HasField("ignore_label") else None

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        axis = self.axis(self.param.accuracy_param.axis, len(bottoms[0]))
        num_classes = bottoms[0][axis]
        check_one_label_each(self, bottoms[0], bottoms[1], axis)
        if self.top_k > num_classes:
            raise self.fail("top_k exceeds the number of classes", "top-k", expected=num_classes, found=self.top_k)
        return [(), (num_classes,)][: self.num_tops]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        axis = self.axis(self.param.accuracy_param.axis, bottoms[0].dim())
        scores = bottoms[0].detach().movedim(axis, -1).flatten(0, -2)
        labels = class_indices(self, bottoms[1].reshape(-1, 1), scores.shape[1], self.ignored)
        counted = labels[:, 0] >= 0
        scores, labels = scores[counted], labels[counted]
        true_score = scores.gather(1, labels)
        classes = torch.arange(scores.shape[1], device=scores.device)
        # The order of the original's std::greater on (score, class) pairs, NaN included.
        better = (true_score < scores) | (~(scores < true_score) & (labels < classes))
        hits = (better.sum(1) < self.top_k).to(torch.float32)
        share = hits.sum() / len(hits)
        if self.num_tops == 1:
            return [share]
        members = F.one_hot(labels[:, 0], scores.shape[1]).to(torch.float32)
        return [share, (members * hits[:, None]).sum(0) / members.sum(0).clamp(min=1)]
