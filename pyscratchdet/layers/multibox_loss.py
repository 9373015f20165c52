"""MultiBoxLoss (multibox_loss_layer.cpp), with the bottoms that RefineDet adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pyscratchdet.layers.base import Count, Shape, register
from pyscratchdet.layers.loss import Loss, LossParameter, legacy_shape, normalization, normalizer
from pyscratchdet.lazy import Tensor, torch
from pyscratchdet.proto import caffe_pb2

if TYPE_CHECKING:
    import numpy as np

    from pyscratchdet.boxes.multibox import Batch

Param = caffe_pb2.MultiBoxLossParameter


@register("MultiBoxLoss")
class MultiBoxLoss(Loss):
    """(loc_weight * location loss + confidence loss) / normalizer after matching and mining: a scalar.

    Bottoms: mbox_loc (N, P * L * 4), mbox_conf (N, P * C), mbox_priorbox (1, 2, P * 4), label (1, 1, T, 8), and for
    RefineDet's ODM arm_conf (N, P * 2) and arm_loc (N, P * 4). P priors, C classes, L = 1 with share_location, else C.
    Gradients go only to mbox_loc and mbox_conf, and there only to the chosen priors.

    Differs from the original in three places that are errors there. Matches of an earlier forward pass without a
    backward pass are forgotten. Mining with both NMS and an objectness threshold takes the filtered priors themselves
    instead of others at their positions. Of equal losses at the limit of mining, the lowest index is taken.

    Attributes:
        matches: Numbers of objects and of priors matched with them, after mining, in the last forward pass.
    """

    bottoms: ClassVar[Count] = Count(4, 6)
    focal_weights: tuple[float, float] | None = None
    no_gradient: ClassVar[frozenset[int]] = frozenset({2, 3, 4, 5})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.loss_param = self.param.multibox_loss_param
        if not param.HasField("num_classes") or param.num_classes < 1:
            raise self.fail("num_classes is missing", "num-classes", expected="at least 1", found=param.num_classes)
        # A C++ int made from the uint32 of the schema: 4294967295 is -1, no background.
        self.background = (param.background_label_id + (1 << 31)) % (1 << 32) - (1 << 31)
        self.mode = normalization(self.param.loss_param, LossParameter.VALID)
        self.matches = (0, 0)
        self._check_classes()
        self._check_mining()
        if len(bottoms) == 6 and not param.share_location:
            raise self.fail("refined priors (6 bottoms) need share_location: true", "share-location")
        counts = [bool(flag) for flag in self.param.propagate_down] or [True, True]
        if len(counts) < 2:
            raise self.fail("propagate_down must be given for each bottom", "propagate-down", found=len(counts))
        self.with_loc, self.with_conf = counts[:2]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        param = self.loss_param
        batch, channels = bottoms[0][0], legacy_shape(self, bottoms[2])
        if channels[1] != 2 or channels[2] % 4:
            raise self.fail(
                "the priors have the wrong shape", "priors", expected="(1, 2, priors * 4)", found=bottoms[2]
            )
        priors = channels[2] // 4
        loc_classes = 1 if param.share_location else param.num_classes
        wanted = [("location", 4 * loc_classes, 0), ("confidence", param.num_classes, 1), ("arm_conf", 2, 4)]
        for what, each, index in [*wanted, ("arm_loc", 4, 5)][: len(bottoms) - 2]:
            shape = legacy_shape(self, bottoms[index])
            if shape[0] != batch or shape[1] != priors * each or shape[2:] != (1, 1):
                raise self.fail(
                    f"the number of priors does not fit the {what} predictions",
                    "num-priors",
                    expected=f"({batch}, {priors} priors * {each} = {priors * each})",
                    found=bottoms[index],
                )
        if legacy_shape(self, bottoms[3])[3] != 8:
            raise self.fail(
                "the label blob must have 8 columns", "label-shape", expected="(1, 1, N, 8)", found=bottoms[3]
            )
        return tops

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.boxes.multibox import MultiBox

        batch = self._batch(bottoms)
        work = MultiBox(batch, self.loss_param, self.background)
        self.matches = len(work.truth.labels), len(work.positives)
        loss = torch.zeros((), device=batch.loc.device)
        if self.with_loc:
            loss = loss + self.loss_param.loc_weight * work.location_loss()
        if self.with_conf:
            loss = loss + work.confidence_loss(self.focal_weights)
        matches = torch.tensor(len(work.positives), device=loss.device)
        return [loss / normalizer(self.param.loss_param, self.mode, len(batch.loc), len(batch.priors), matches)]

    @property
    def is_mining_hard(self) -> bool:
        """Whether mining may drop matched priors, too."""
        return bool(self.loss_param.mining_type == Param.HARD_EXAMPLE)

    def _batch(self, bottoms: Sequence[Tensor]) -> Batch:
        from pyscratchdet.boxes.ground_truth import read_ground_truth
        from pyscratchdet.boxes.multibox import Batch

        param = self.loss_param
        num, num_priors = len(bottoms[0]), bottoms[2].numel() // 8
        priors, variances = bottoms[2].detach().reshape(2, num_priors, 4).float()
        self._check_priors(priors, variances)
        truth = read_ground_truth(bottoms[3], use_difficult=param.use_difficult_gt, one_class=param.num_classes == 2)
        self._check_labels(truth.labels)
        return Batch(
            bottoms[0].reshape(num, num_priors, -1, 4).float(),
            bottoms[1].reshape(num, num_priors, param.num_classes).float(),
            priors,
            variances,
            truth,
            *(bottom.detach().reshape(num, num_priors, -1).float() for bottom in bottoms[4:]),
        )

    def _check_classes(self) -> None:
        param, background = self.loss_param, self.background
        if param.conf_loss_type == Param.SOFTMAX and not 0 <= background < param.num_classes:
            raise self.fail(
                "background_label_id must be a class with SOFTMAX",
                "background",
                expected=f"0 to {param.num_classes - 1}",
                found=background,
            )
        if background >= param.num_classes:
            raise self.fail("background_label_id is not one of the classes", "background", found=background)
        wanted = 2 if background >= 0 else 1
        if param.map_object_to_agnostic and param.num_classes != wanted:
            raise self.fail(
                "map_object_to_agnostic allows one class besides the background",
                "agnostic",
                expected=f"num_classes: {wanted}",
                found=param.num_classes,
            )

    def _check_mining(self) -> None:
        param = self.loss_param
        mining = param.mining_type != Param.NONE
        if param.HasField("do_neg_mining") and param.do_neg_mining != mining:
            raise self.fail(
                "do_neg_mining contradicts mining_type",
                "mining",
                expected=f"do_neg_mining: {str(mining).lower()}",
                found=str(param.do_neg_mining).lower(),
                hint="leave do_neg_mining out: it is deprecated",
            )
        if mining and not param.share_location:
            raise self.fail("mining needs share_location: true", "share-location", hint="or set mining_type: NONE")
        if param.mining_type == Param.HARD_EXAMPLE and param.sample_size <= 0:
            raise self.fail("sample_size must be positive", "sample-size", expected="> 0", found=param.sample_size)

    def _check_priors(self, priors: Tensor, variances: Tensor) -> None:
        sizes = priors[:, 2:] - priors[:, :2]
        if self.loss_param.code_type != caffe_pb2.PriorBoxParameter.CORNER and not bool((sizes > 0).all()):
            raise self.fail("a prior has no area", "priors", expected="xmin < xmax and ymin < ymax")
        if not bool((variances > 0).all()):
            raise self.fail("a variance is not positive", "variance", expected="> 0", found=float(variances.min()))

    def _check_labels(self, labels: np.ndarray) -> None:
        param = self.loss_param
        if (labels == self.background).any():
            raise self.fail("the background class is among the labels", "label", found=self.background)
        reads_any = param.mining_type == Param.NONE and (param.map_object_to_agnostic or not param.share_location)
        outside = (labels < 0) | (labels >= param.num_classes)
        if outside.any() and not reads_any:
            raise self.fail(
                "label out of range", "label", expected=f"0 to {param.num_classes - 1}", found=int(labels[outside][0])
            )
