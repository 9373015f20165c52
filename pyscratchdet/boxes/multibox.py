"""MultiBoxLoss on tensors (multibox_loss_layer.cpp, bbox_util.cpp; SSD, section 2.2; RefineDet, section 3.3)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyscratchdet.boxes.codes import decode_boxes, encode_boxes
from pyscratchdet.boxes.ground_truth import GroundTruth
from pyscratchdet.boxes.loss import focal_loss, location_errors, location_loss, logistic_loss, softmax_loss
from pyscratchdet.boxes.matching import IGNORED, NEGATIVE, match_priors
from pyscratchdet.boxes.mining import confidence_losses, hardest, hardest_after_nms
from pyscratchdet.proto import caffe_pb2

Param = caffe_pb2.MultiBoxLossParameter


@dataclass
class Batch:
    """What a loss is made from.

    Attributes:
        loc: (N, P, L, 4) codes; L is 1 or the number of classes.
        conf: (N, P, C) scores before softmax or sigmoid.
        priors: (P, 4).
        variances: (P, 4).
        truth: The objects; those of images outside [0, N) are ignored.
        arm_conf: (N, P, 2) background and object probabilities, or None.
        arm_loc: (N, P, 4) codes that refine the priors first, or None.
    """

    loc: Tensor
    conf: Tensor
    priors: Tensor
    variances: Tensor
    truth: GroundTruth
    arm_conf: Tensor | None = None
    arm_loc: Tensor | None = None


@dataclass
class Positives:
    """M matched priors: rows of image, prior, location class and row of the ground truth."""

    image: Tensor
    prior: Tensor
    loc_class: Tensor
    truth: Tensor

    def __getitem__(self, rows: Tensor) -> Positives:
        return Positives(self.image[rows], self.prior[rows], self.loc_class[rows], self.truth[rows])

    def __len__(self) -> int:
        return len(self.image)


class MultiBox:
    """The loss of one batch, before normalisation.

    Attributes:
        positives: The matched priors, after mining.
        negatives: (N, P) bool mined background priors, or None without mining, when all others count.
    """

    def __init__(self, batch: Batch, param: caffe_pb2.MultiBoxLossParameter, background: int) -> None:
        """Matches and mines; no gradients.

        Args:
            batch: The tensors, on one device.
            param: The layer's parameter.
            background: `background_label_id`, -1 for none.
        """
        self.batch, self.param, self.background = batch, param, background
        inside = (batch.truth.images >= 0) & (batch.truth.images < len(batch.loc))
        self.truth = batch.truth if inside.all() else batch.truth.subset(inside)
        self.truth_labels = torch.from_numpy(self.truth.labels).to(batch.loc.device)
        self.negatives: Tensor | None = None
        with torch.no_grad():
            if len(self.truth.labels) == 0:
                self.positives = self._positives(torch.empty(0, 1, device=batch.loc.device, dtype=torch.int64), [0], 0)
                if param.mining_type != Param.NONE:
                    self.negatives = torch.zeros(batch.conf.shape[:2], dtype=torch.bool, device=batch.loc.device)
            elif param.share_location:
                self._match_and_mine()
            else:
                self.positives = self._match_classes()

    def location_loss(self) -> Tensor:
        """Returns the sum over all matched priors, 0 axes; the gradient goes to `loc` only."""
        found, loc = self.positives, self.batch.loc
        rows = (found.image * loc.shape[1] + found.prior) * loc.shape[2] + found.loc_class
        with torch.no_grad():
            predicted, target = self._location_pairs(found, self._refined(found))
        return location_loss(loc, rows, predicted, target, self.param.loc_loss_type == Param.SMOOTH_L1)

    def confidence_loss(self, focal: tuple[float, float] | None = None) -> Tensor:
        """Returns the sum over matched and mined priors, or over all without mining, 0 axes.

        Args:
            focal: Alpha and gamma of the focal loss, which then takes the place of the softmax's.
        """
        class_loss = functools.partial(focal_loss, alpha=focal[0], gamma=focal[1]) if focal else softmax_loss
        conf, found = self.batch.conf, self.positives
        num_images, num_priors, num_classes = conf.shape
        logistic = self.param.conf_loss_type == Param.LOGISTIC
        labels = self.truth_labels[found.truth]
        if self.param.map_object_to_agnostic:
            labels = torch.full_like(labels, self.background + 1)
        if self.negatives is None:
            rows = torch.arange(num_images * num_priors, device=conf.device)
            if logistic:
                return logistic_loss(conf, rows, self._all_targets(labels))
            return class_loss(conf, rows, self._all_labels(labels), num_classes)
        mined = self.negatives.flatten().nonzero()[:, 0]
        rows = torch.cat([found.image * num_priors + found.prior, mined])
        if not logistic:
            return class_loss(conf, rows, torch.cat([labels, torch.full_like(mined, self.background)]), num_classes)
        # The original fills the targets with the number of the background class.
        targets = conf.new_full((len(rows), num_classes), self.background)
        targets.scatter_(1, torch.cat([labels, torch.full_like(mined, max(self.background, 0))])[:, None], 1)
        if not 0 <= self.background < num_classes:
            targets[len(found) :] = self.background
        return logistic_loss(conf, rows, targets)

    # --- matching ---

    def _match_and_mine(self) -> None:
        images, counts = np.unique(self.truth.images, return_counts=True)
        place = torch.from_numpy(images).to(self.batch.loc.device)
        boxes = self._matching_boxes(place)
        indices, overlaps = match_priors(self.truth.boxes, counts, boxes, **self._rules())
        if self.param.mining_type != Param.NONE:
            indices, mined = self._mine(indices, overlaps, place)
            self.negatives = torch.zeros(self.batch.conf.shape[:2], dtype=torch.bool, device=place.device)
            self.negatives[place] = mined
        self.positives = self._positives(indices, images, 0)

    def _match_classes(self) -> Positives:
        """Matches if each class has its own locations: a class is matched only with its own objects."""
        param, labels = self.param, self.truth.labels
        own = (labels >= 0) & (labels < param.num_classes)
        if param.use_prior_for_matching:
            images, counts = np.unique(self.truth.images, return_counts=True)
            indices, _ = match_priors(self.truth.boxes, counts, self.batch.priors, **self._rules())
            found = self._positives(indices, images, 0)
            found.loc_class = self.truth_labels[found.truth]
            return found[torch.from_numpy(own).to(found.truth.device)[found.truth]]
        order = np.flatnonzero(own)
        group = self.truth.images[order] * param.num_classes + labels[order]
        order = order[np.argsort(group, kind="stable")]
        groups, counts = np.unique(group, return_counts=True)
        images, classes = np.divmod(groups, param.num_classes)
        if not len(groups):
            return self._positives(torch.empty(0, 1, device=self.batch.loc.device, dtype=torch.int64), [0], 0)
        place, label = (torch.from_numpy(column).to(self.batch.loc.device) for column in (images, classes))
        boxes = self._decode(self.batch.loc[place, :, label], self.batch.priors)
        indices, _ = match_priors(self.truth.subset(order).boxes, counts, boxes, **self._rules())
        found = self._positives(indices, images, 0)
        rows = torch.from_numpy(np.repeat(np.arange(len(groups)), counts)).to(place.device)[found.truth]
        found.loc_class = label[rows]
        found.truth = torch.from_numpy(order).to(place.device)[found.truth]
        return found

    def _rules(self) -> dict[str, Any]:
        per_prediction = self.param.match_type == Param.PER_PREDICTION
        return {
            "overlap_threshold": self.param.overlap_threshold if per_prediction else None,
            "ignore_cross_boundary": self.param.ignore_cross_boundary_bbox,
        }

    def _matching_boxes(self, images: Tensor) -> Tensor:
        """Returns the boxes that are matched: priors, refined priors or predictions; (P, 4) or (G, P, 4)."""
        batch = self.batch
        if not self.param.use_prior_for_matching:
            return self._decode(batch.loc[images, :, 0], batch.priors)
        return batch.priors if batch.arm_loc is None else self._decode(batch.arm_loc[images], batch.priors)

    def _decode(self, codes: Tensor, priors: Tensor) -> Tensor:
        return decode_boxes(
            codes.detach(), priors, self.batch.variances, self.param.code_type, self.param.encode_variance_in_target
        )

    def _positives(self, indices: Tensor, images: np.ndarray | list[int], loc_class: int) -> Positives:
        place, prior = (indices > NEGATIVE).nonzero(as_tuple=True)
        image = torch.as_tensor(images, device=indices.device)[place]
        return Positives(image, prior, torch.full_like(prior, loc_class), indices[place, prior])

    # --- mining ---

    def _mine(self, indices: Tensor, overlaps: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the matches that stay (G, P) and the mined negatives (G, P) of the images with objects."""
        param, batch = self.param, self.batch
        matched = indices > NEGATIVE
        hard = param.mining_type == Param.HARD_EXAMPLE
        eligible = torch.ones_like(matched) if hard else (indices == NEGATIVE) & (overlaps < param.neg_overlap)
        if batch.arm_conf is not None:
            eligible &= batch.arm_conf[images, :, 1] >= param.objectness_score
        wanted = param.sample_size if hard else (matched.sum(1).float() * param.neg_pos_ratio).long().clamp(min=0)
        counts = torch.clamp(eligible.sum(1), max=torch.as_tensor(wanted, device=indices.device))
        losses = self._mining_losses(indices, images, hard)
        nms = param.nms_param
        if param.HasField("nms_param") and nms.nms_threshold > 0:
            boxes = batch.priors if param.use_prior_for_nms else self._decode(batch.loc[images, :, 0], batch.priors)
            # Unlike in DetectionOutput, a top_k that is not given is 0 here, and nothing is mined.
            chosen = hardest_after_nms(losses, eligible, counts, boxes, nms.nms_threshold, nms.top_k)
        else:
            chosen = hardest(losses, eligible, counts)
        mined = chosen & (indices == NEGATIVE)
        return (torch.where(matched & ~chosen, NEGATIVE, indices) if hard else indices), mined

    def _mining_losses(self, indices: Tensor, images: Tensor, hard: bool) -> Tensor:
        """Returns each prior's loss (G, P): confidence, and with HARD_EXAMPLE the location of matched ones as well."""
        param, batch = self.param, self.batch
        logistic = param.conf_loss_type == Param.LOGISTIC
        conf = batch.conf.detach()
        scores = (conf if len(images) == len(conf) else conf[images]).flatten(0, 1)
        if not hard:
            return confidence_losses(scores, self.background, logistic).view_as(indices)
        labels = torch.where(indices > NEGATIVE, self.truth_labels[indices.clamp(min=0)], self.background)
        losses = confidence_losses(scores, labels.flatten(), logistic).view_as(indices)
        found = self._positives(indices, list(range(len(images))), 0)
        rows, found.image = found.image, images[found.image]
        # The original mines with the unrefined priors even if the ARM refines them.
        predicted, target = self._location_pairs(found, batch.priors[found.prior])
        errors = location_errors(predicted - target, param.loc_loss_type == Param.SMOOTH_L1)
        total = ((errors[:, 0] + errors[:, 1]) + errors[:, 2]) + errors[:, 3]
        return losses.index_put_((rows, found.prior), total, accumulate=True)

    # --- what is compared ---

    def _refined(self, found: Positives) -> Tensor:
        """Returns the priors of the positives, refined by the ARM if there is one: (M, 4)."""
        batch, param = self.batch, self.param
        priors = batch.priors[found.prior]
        if batch.arm_loc is None:
            return priors
        codes = batch.arm_loc[found.image, found.prior].detach()
        return decode_boxes(
            codes, priors, batch.variances[found.prior], param.code_type, param.encode_variance_in_target
        )

    def _location_pairs(self, found: Positives, priors: Tensor) -> tuple[Tensor, Tensor]:
        """Returns predictions and targets of the positives, (M, 4) each."""
        batch, param = self.batch, self.param
        plain = param.encode_variance_in_target
        variances = batch.variances[found.prior]
        target = encode_boxes(self.truth.boxes[found.truth], priors, variances, param.code_type, plain)
        predicted = batch.loc[found.image, found.prior, found.loc_class].detach()
        if param.bp_inside:
            boxes = priors
            if not param.use_prior_for_matching:
                boxes = decode_boxes(predicted, priors, variances, param.code_type, plain)
            predicted = torch.where((boxes < 0) | (boxes > 1), target, predicted)
        return (predicted / variances, target / variances) if plain else (predicted, target)

    def _all_labels(self, labels: Tensor) -> Tensor:
        """Returns a label for every prior of the batch; if several classes match a prior, the highest counts."""
        num_images, num_priors, _ = self.batch.conf.shape
        found = self.positives
        every = torch.full((num_images * num_priors,), IGNORED, device=labels.device, dtype=torch.int64)
        every.scatter_reduce_(0, found.image * num_priors + found.prior, labels, "amax")
        return every.masked_fill_(every == IGNORED, self.background)

    def _all_targets(self, labels: Tensor) -> Tensor:
        """Returns sigmoid targets of every prior, (N * P, C), as the original sets them.

        It fills them with the number of the background class, and steps from image to image by P instead of P * C.
        """
        num_images, num_priors, num_classes = self.batch.conf.shape
        found = self.positives
        targets = self.batch.conf.new_full((num_images * num_priors * num_classes,), self.background)
        targets[found.image * num_priors + found.prior * num_classes + labels] = 1
        return targets.view(-1, num_classes)
