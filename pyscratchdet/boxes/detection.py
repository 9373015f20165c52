"""From predictions to detections (detection_output_layer.cpp; SSD, section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyscratchdet.boxes.codes import decode_boxes
from pyscratchdet.boxes.nms import nms_groups
from pyscratchdet.boxes.sorting import std_sort_descending

# Scores looked at in one go if nothing limits them.
_SCORES = 1 << 23
_FIRST_LOOK = 256


@dataclass(frozen=True)
class DetectionRule:
    """What counts as a detection; see DetectionOutputParameter and NonMaximumSuppressionParameter.

    Attributes:
        num_classes: C.
        background: Class that is never detected; any number outside [0, C) means there is none.
        code_type: See `decode_boxes`.
        plain: True if variances are not applied (variance_encoded_in_target).
        score_threshold: Scores must be above it.
        nms_threshold: Highest overlap of two detections of a class.
        eta: Factor by which the NMS threshold falls.
        top_k: How many scores of each class go into NMS; -1 for all.
        keep_top_k: How many detections of an image are kept; -1 for all.
        objectness: Priors with a lower ARM objectness count as background.
        clip: Whether boxes end at the picture's border before NMS compares them, as in OpenCV and torchvision.
    """

    num_classes: int
    background: int
    code_type: int
    plain: bool = False
    score_threshold: float = -torch.finfo(torch.float32).max
    nms_threshold: float = 0.3
    eta: float = 1.0
    top_k: int = -1
    keep_top_k: int = -1
    objectness: float = 0.01
    clip: bool = False


@dataclass
class Predictions:
    """A net's predictions for N images.

    Attributes:
        loc: (N, P, L, 4) codes; L is 1 or the number of classes.
        conf: (N, P, C) scores after softmax or sigmoid.
        priors: (P, 4).
        variances: (P, 4).
        arm_loc: (N, P, 4) codes that refine the priors first, or None.
    """

    loc: Tensor
    conf: Tensor
    priors: Tensor
    variances: Tensor
    arm_loc: Tensor | None = None

    def boxes(self, image: Tensor, prior: Tensor, label: Tensor, rule: DetectionRule) -> Tensor:
        """Returns the boxes of some predictions, (S, 4)."""
        priors, variances = self.priors[prior], self.variances[prior]
        if self.arm_loc is not None:
            priors = decode_boxes(self.arm_loc[image, prior], priors, variances, rule.code_type, rule.plain)
        codes = self.loc[image, prior, label if self.loc.shape[2] > 1 else 0]
        boxes = decode_boxes(codes, priors, variances, rule.code_type, rule.plain)
        return boxes.clamp(0, 1) if rule.clip else boxes


@dataclass
class Detections:
    """S detections, ordered by image, label and rank within the label."""

    image: Tensor
    label: Tensor
    score: Tensor
    box: Tensor

    def __getitem__(self, rows: Tensor) -> Detections:
        return Detections(self.image[rows], self.label[rows], self.score[rows], self.box[rows])

    def table(self) -> Tensor:
        """Returns (S, 7) rows: image, label, score, xmin, ymin, xmax, ymax."""
        parts = [column.to(self.box.dtype)[:, None] for column in (self.image, self.label, self.score)]
        return torch.cat([*parts, self.box], 1)

    @classmethod
    def of_table(cls, rows: Tensor) -> Detections:
        """Returns the detections of such rows; those that stand for pictures without any are left out."""
        rows = rows[rows[:, 1] != -1]
        return cls(rows[:, 0].long(), rows[:, 1].long(), rows[:, 2], rows[:, 3:])


def objectness_scores(conf: Tensor, arm_conf: Tensor, threshold: float) -> Tensor:
    """Returns scores (N, P, C) in which priors with an ARM objectness below `threshold` are certain to be class 0.

    Args:
        conf: (N, P, C).
        arm_conf: (N, P, 2): background, object.
        threshold: Lowest objectness that counts.
    """
    certain = torch.zeros_like(conf[0, 0])
    certain[:1] = 1
    return torch.where((arm_conf[..., 1] < threshold)[..., None], certain, conf)


@torch.no_grad()
def detect(predictions: Predictions, rule: DetectionRule) -> Detections:
    """Returns the detections of all images in the original's order: image, label, score.

    Of equal scores the lower prior comes first; where `keep_top_k` cuts, equal scores are in the order that std::sort
    leaves.

    Only scores that can become detections are looked at: whether NMS keeps a box depends only on better boxes, so it is
    enough to start with the best scores of each image and to look at more only if fewer than `keep_top_k` are left.
    Loops run over chunks of images and over rounds; over single images only if equal scores need std::sort's order.
    """
    num_images, num_priors, _ = predictions.conf.shape
    best = _best_foreground(predictions.conf, rule.background)
    images = torch.arange(num_images, device=best.device)
    look = num_priors if rule.keep_top_k < 0 else min(num_priors, max(_FIRST_LOOK, 2 * rule.keep_top_k))
    found: list[Detections] = []
    while len(images):
        step = max(1, _SCORES // max(look * rule.num_classes, 1))
        again = []
        for part in images.split(step):
            detections, unfinished = _look(predictions, rule, best, part, look)
            found.append(detections)
            again.append(unfinished)
        images = torch.cat(again)
        look = num_priors if look * 4 >= num_priors else look * 4
    if not found:
        return _look(predictions, rule, best, images, look)[0]
    if len(found) == 1:
        return found[0]
    columns = (torch.cat([getattr(part, name) for part in found]) for name in ("image", "label", "score", "box"))
    merged = Detections(*columns)
    return merged[merged.image.argsort(stable=True)]


def _look(
    predictions: Predictions, rule: DetectionRule, best: Tensor, images: Tensor, look: int
) -> tuple[Detections, Tensor]:
    """Detects from the `look` best priors of each image; returns finished images' detections, and the other images."""
    num_priors = best.shape[1]
    scores = best[images]
    bar = scores.new_full((len(images),), -torch.inf)
    if look < num_priors:
        bar = scores.topk(look, 1).values[:, -1]
    complete = bar <= rule.score_threshold
    kept = _candidates_after_nms(predictions, rule, images, scores, bar)
    if rule.keep_top_k < 0:
        return kept, images[:0]
    # Positions within `images` instead of image numbers, which may have gaps.
    place = torch.searchsorted(images, kept.image)
    number = torch.bincount(place, minlength=len(images))
    finished = complete | (number >= rule.keep_top_k)
    order = kept.score.argsort(descending=True, stable=True)
    order = order[place[order].argsort(stable=True)]
    rank = torch.arange(len(order), device=order.device) - (number.cumsum(0) - number)[place[order]]
    ties = _ties_that_matter(kept, place, order, rank, rule.keep_top_k)
    cut = torch.zeros_like(complete).index_fill_(0, ties, True) & ~(complete & (number <= rule.keep_top_k))
    finished &= complete | ~cut
    position = torch.empty_like(rank).scatter_(0, order, rank)
    for index in (cut & complete).nonzero()[:, 0].tolist():
        rows = (place == index).nonzero()[:, 0]
        by_score = torch.tensor(std_sort_descending(kept.score[rows].tolist()), device=rows.device)
        position[rows[by_score]] = torch.arange(len(rows), device=rows.device)
    # With no more than keep_top_k rows nothing is sorted, and the rows are in NMS order already.
    chosen = ((position < rule.keep_top_k) & finished[place]).nonzero()[:, 0]
    chosen = chosen[position[chosen].argsort(stable=True)]
    group = kept.image[chosen] * rule.num_classes + kept.label[chosen]
    return kept[chosen[group.argsort(stable=True)]], images[~finished]


def _ties_that_matter(kept: Detections, place: Tensor, order: Tensor, rank: Tensor, keep_top_k: int) -> Tensor:
    """Returns the places of images with equal scores within a label or across the cut."""
    upper, lower = order[:-1], order[1:]
    equal = (place[upper] == place[lower]) & (kept.score[upper] == kept.score[lower]) & (rank[:-1] < keep_top_k)
    equal &= (kept.label[upper] == kept.label[lower]) | (rank[1:] == keep_top_k)
    return place[upper[equal]]


def _candidates_after_nms(
    predictions: Predictions, rule: DetectionRule, images: Tensor, best: Tensor, bar: Tensor
) -> Detections:
    """Returns what NMS keeps of the scores at or above each image's bar; labels ascend, best first within each."""
    place, prior = ((best > rule.score_threshold) & (best >= bar[:, None])).nonzero(as_tuple=True)
    image = images[place]
    scores = predictions.conf[image, prior]
    wanted = (scores > rule.score_threshold) & (scores >= bar[place, None])
    if 0 <= rule.background < rule.num_classes:
        wanted[:, rule.background] = False
    row, label = wanted.nonzero(as_tuple=True)
    score, image, prior = scores[row, label], image[row], prior[row]
    order = score.argsort(descending=True, stable=True)
    group = (image * rule.num_classes + label)[order]
    group, within = group.sort(stable=True)
    order = order[within]
    counts = torch.bincount(group, minlength=predictions.conf.shape[0] * rule.num_classes)
    if rule.top_k > -1:
        rank = torch.arange(len(group), device=group.device) - (counts.cumsum(0) - counts)[group]
        order = order[rank < rule.top_k]
        counts = counts.clamp(max=rule.top_k)
    score, image, prior, label = score[order], image[order], prior[order], label[order]
    box = predictions.boxes(image, prior, label, rule)
    keep = nms_groups(box, counts, rule.nms_threshold, rule.eta)
    return Detections(image, label, score, box)[keep]


def _best_foreground(conf: Tensor, background: int) -> Tensor:
    """Returns the highest score of each prior among all classes but the background, (N, P)."""
    parts = [conf] if not 0 <= background < conf.shape[2] else [conf[..., :background], conf[..., background + 1 :]]
    parts = [part.amax(-1) for part in parts if part.shape[-1]]
    if not parts:
        return conf.new_full(conf.shape[:2], -torch.inf)
    return parts[0] if len(parts) == 1 else torch.maximum(*parts)
