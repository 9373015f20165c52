"""Detections by tensors whose shapes do not depend on the predictions, for files that torch.export or a user keeps.

The results are those of `detection.detect`, which is faster and takes less memory. Only where `keep_top_k` cuts between
equal scores does the lower label, then the lower prior, stay here, and in the original what std::sort leaves.
This file stands alone, like those in layers/modules, and has short lines as they have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyscratchdet.boxes.codes import decode_boxes
from pyscratchdet.boxes.detection import DetectionRule
from pyscratchdet.boxes.overlap import area, pairwise_jaccard


def prior_boxes_blob(
    feature: Tensor,
    image_size: tuple[int, int],
    sizes: tuple[tuple[float, float], ...],
    variances: tuple[float, ...],
    step: tuple[float, float] | None = None,
    offset: float = 0.5,
    clip: bool = False,
) -> Tensor:
    """Returns the priors of a feature map, (1, 2, H * W * K * 4): normalised corners, then variances.

    Priors run over y, then x, then the K sizes. Centres are (index + offset) * step in float32; corners are computed
    in double and rounded once, as in the original.

    Args:
        feature: (N, C, H, W); only H and W matter.
        image_size: Height and width of the image, in pixels.
        sizes: Width and height of the K priors of a place, in pixels.
        variances: One for all, or four.
        step: Distance between centres along y and x in pixels; None for image size / map size.
        offset: Where in a cell the centre is, as a share of the cell.
        clip: Whether to clip the boxes at the image's border.
    """
    centers = []
    for axis in (0, 1):
        cells = feature.shape[2 + axis]
        distance = step[axis] if step else image_size[axis] / cells
        index = torch.arange(cells, dtype=torch.float32, device=feature.device)
        centers.append(((index + offset) * distance).double())
    y, x = torch.meshgrid(*centers, indexing="ij")
    center = torch.stack([x, y], -1)[:, :, None]
    half = torch.tensor(sizes, device=feature.device).double() / 2
    image = torch.tensor(image_size[::-1], device=feature.device).double()
    corners = torch.cat([(center - half) / image, (center + half) / image], -1)
    boxes = corners.float().reshape(-1, 4)
    if clip:
        boxes = boxes.clamp(0, 1)
    spread = torch.tensor(variances, device=feature.device).expand_as(boxes)
    return torch.stack([boxes.reshape(-1), spread.reshape(-1)])[None]


def boxes_and_scores(
    loc: Tensor,
    conf: Tensor,
    priorbox: Tensor,
    rule: DetectionRule,
    arm_conf: Tensor | None = None,
    arm_loc: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns decoded boxes (N, P, 4), or (N, P, C, 4) if each class has its own, and scores (N, P, C).

    Args:
        loc: mbox_loc (N, P * 4) or (N, P * C * 4).
        conf: Scores after softmax or sigmoid (N, P * C).
        priorbox: (1, 2, P * 4) priors and variances.
        rule: What counts as a detection.
        arm_conf: RefineDet's (N, P * 2): priors of less objectness than the rule asks for are certainly class 0.
        arm_loc: RefineDet's (N, P * 4) codes that refine the priors first.
    """
    number = loc.shape[0]
    priors, variances = priorbox.reshape(2, -1, 4).unbind()
    scores = conf.reshape(number, len(priors), rule.num_classes)
    if arm_conf is not None:
        objects = arm_conf.reshape(number, len(priors), 2)[..., 1:]
        certain = torch.zeros_like(scores[:1, :1])
        certain[..., 0] = 1
        scores = torch.where(objects < rule.objectness, certain, scores)
    if arm_loc is not None:
        codes = arm_loc.reshape(number, len(priors), 4)
        priors = decode_boxes(codes, priors, variances, rule.code_type, rule.plain)
    if loc.shape[1] == 4 * len(variances):
        codes = loc.reshape(number, len(variances), 4)
    else:
        codes = loc.reshape(number, len(variances), rule.num_classes, 4)
        priors, variances = priors.unsqueeze(-2), variances.unsqueeze(-2)
    boxes = decode_boxes(codes, priors, variances, rule.code_type, rule.plain)
    return boxes.clamp(0, 1) if rule.clip else boxes, scores


def greedy_suppression(boxes: Tensor, usable: Tensor, threshold: float) -> Tensor:
    """Returns which boxes stay: none overlaps a better one that stays by more than `threshold`.

    Starting with all boxes, each round drops those that overlap a better box that is left, until nothing changes. Each
    round settles at least one more box for good, and what is settled is what greedy suppression keeps.

    Args:
        boxes: (N, F, T, 4), best first.
        usable: (N, F, T) bool; other boxes neither stay nor cause any to be dropped.
        threshold: Highest overlap of two boxes that stay.

    Returns:
        (N, F, T) bool.
    """
    sizes = area(boxes)
    overlaps = pairwise_jaccard(
        boxes[..., None, :],
        boxes[..., None, :, :],
        sizes[..., None],
        sizes[..., None, :],
    )
    near = (overlaps > threshold).triu(1)

    def differ(before: Tensor, after: Tensor) -> Tensor:
        return (before != after).any()

    def settle(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        return after.clone(), usable & ~(near & after[..., None]).any(-2)

    state = settle(usable, usable)
    if torch.compiler.is_exporting():
        return torch.while_loop(differ, settle, state)[1]
    while differ(*state):
        state = settle(*state)
    return state[1]


@torch.no_grad()
def fixed_detections(
    loc: Tensor,
    conf: Tensor,
    priorbox: Tensor,
    rule: DetectionRule,
    arm_conf: Tensor | None = None,
    arm_loc: Tensor | None = None,
) -> Tensor:
    """Returns detections in a number of rows that does not depend on the predictions, (1, 1, N * K, 7).

    K is keep_top_k, or the number that suppression can keep at most if that is less. Rows are image, label, score,
    xmin, ymin, xmax, ymax; each image's detections come first, ordered by label, then score; all other rows are -1.

    Args:
        loc: See `boxes_and_scores`, like the others.
        conf: Likewise.
        priorbox: Likewise.
        rule: What counts as a detection.
        arm_conf: Likewise.
        arm_loc: Likewise.
    """
    boxes, scores = boxes_and_scores(loc, conf, priorbox, rule, arm_conf, arm_loc)
    number, num_priors, num_classes = scores.shape
    labels = [label for label in range(num_classes) if label != rule.background]
    most = num_priors if rule.top_k < 0 else min(rule.top_k, num_priors)
    ranked = scores[..., labels].mT.sort(dim=-1, descending=True, stable=True)
    best, prior = ranked.values[..., :most], ranked.indices[..., :most]
    place = prior.reshape(number, -1, 1)
    if boxes.dim() == 4:
        column = torch.arange(len(labels), device=loc.device)[:, None]
        place = place + (column * num_priors).expand_as(prior[0]).reshape(-1, 1)
        boxes = boxes[:, :, labels].transpose(1, 2).flatten(1, 2)
    boxes = boxes.gather(1, place.expand(-1, -1, 4))
    usable = best > rule.score_threshold
    keep = greedy_suppression(
        boxes.reshape(number, len(labels), most, 4),
        usable,
        rule.nms_threshold,
    )
    # All classes of an image side by side: places rise with the label, then as scores fall.
    score = torch.where(keep, best, -torch.inf).flatten(1)
    total = score.shape[1]
    rows = total if rule.keep_top_k < 0 else min(rule.keep_top_k, total)
    order = score.sort(dim=1, descending=True, stable=True)
    found = order.values[:, :rows] > -torch.inf
    place = torch.where(found, order.indices[:, :rows], total).sort(dim=1).values
    found = (place < total)[..., None]
    place = place.clamp(max=total - 1)
    image = torch.arange(number, device=loc.device)[:, None].expand_as(place)
    label = torch.tensor(labels, device=loc.device)[place // most]
    columns = [image.to(score.dtype), label.to(score.dtype), score.gather(1, place)]
    box = boxes.gather(1, place[..., None].expand(-1, -1, 4))
    table = torch.cat([torch.stack(columns, -1), box], -1)
    return torch.where(found, table, -1.0).reshape(1, 1, -1, 7)


def detected_rows(fixed: Tensor, number: int) -> Tensor:
    """Returns detections (1, 1, S, 7) as Caffe writes them from those of `fixed_detections`.

    Where nothing is found there is one row (image, -1, -1, -1, -1, -1, -1) for each image.

    Args:
        fixed: (1, 1, N * K, 7).
        number: N.
    """
    rows = fixed[:, :, fixed[0, 0, :, 1] >= 0]
    if rows.shape[2]:
        return rows
    nothing = fixed.new_full((1, 1, number, 7), -1)
    nothing[..., 0] = torch.arange(number)
    return nothing
