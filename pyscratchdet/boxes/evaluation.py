"""Which detections are right (detection_evaluate_layer.cpp)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyscratchdet.boxes.ground_truth import GroundTruth
from pyscratchdet.boxes.output import to_pixels
from pyscratchdet.boxes.overlap import area, pairwise_jaccard
from pyscratchdet.boxes.sorting import std_sort_descending
from pyscratchdet.proto import caffe_pb2

_PAIRS = 1 << 22


@dataclass(frozen=True)
class Sizes:
    """Pixel sizes of the pictures, for overlaps measured in pixels.

    Attributes:
        table: (V, 2) height and width of each picture of the test set.
        first: Index of the batch's first picture with detections.
        resize: How pictures were resized to the net's input, or None.
    """

    table: np.ndarray
    first: int
    resize: caffe_pb2.ResizeParameter | None


def judge(
    rows: Tensor, truth: GroundTruth, threshold: float, use_difficult: bool, sizes: Sizes | None
) -> tuple[Tensor, int]:
    """Judges the detections of a batch: each object counts once, for the highest-scored detection that finds it.

    Args:
        rows: (D, 7) image, label, score, xmin, ymin, xmax, ymax; rows of image -1 are ignored.
        truth: All objects, including difficult ones.
        threshold: Lowest overlap that counts, with the object that a detection overlaps most.
        use_difficult: Whether difficult objects count; a detection of one that does not is neither right nor wrong.
        sizes: If given, overlaps are measured in pixels, with borders that belong to the box.

    Returns:
        (E, 5) rows image, label, score, true positive, false positive, by image, label and score (by score only for
        labels that have objects); and the number of images that have rows.
    """
    table = rows.detach().cpu()
    image, label = table[:, 0].to(torch.int64), table[:, 1].to(torch.int64)
    used = (image != -1).nonzero()[:, 0]
    image, label = image[used], label[used]
    order = torch.from_numpy(np.lexsort((label.numpy(), image.numpy())))
    used, image, label = used[order], image[order], label[order]
    place = torch.unique(image, return_inverse=True)[1]
    num_images = int(place.max()) + 1 if len(place) else 0
    keep = label != -1
    used, image, label, place = used[keep], image[keep], label[keep], place[keep]
    score, box = table[used, 2], table[used, 3:7].float()
    order = _by_score(image, label, score, truth)
    image, label, score, box, place = image[order], label[order], score[order], box[order], place[order]
    best, overlap = _best_objects(image, label, box, place, truth, sizes)
    difficult = (
        torch.from_numpy(truth.difficult)[best] if len(truth.labels) else torch.zeros(len(best), dtype=torch.bool)
    )
    found = overlap >= threshold
    counted = found if use_difficult else found & ~difficult
    right = _first_of_each(best, counted, len(truth.labels))
    wrong = ~found | (counted & ~right)
    columns = [image.float(), label.float(), score, right.float(), wrong.float()]
    return torch.stack(columns, 1), num_images


def _by_score(image: Tensor, label: Tensor, score: Tensor, truth: GroundTruth) -> Tensor:
    """Returns the order in which detections claim objects; lists without objects of their label keep their order."""
    order = np.lexsort((-score.numpy(), label.numpy(), image.numpy()))
    key = _keys(image.numpy(), label.numpy())
    with_objects = np.isin(key, _keys(truth.images, truth.labels))
    order = np.where(with_objects[order], order, np.arange(len(order)))
    # std::sort is not stable beyond 16 rows: equal scores keep the order that it leaves.
    _, starts, counts = np.unique(key, return_index=True, return_counts=True)
    for start, count in zip(starts[counts > 16], counts[counts > 16], strict=True):
        part = score[start : start + count].tolist()
        if with_objects[start] and len(set(part)) < count:
            order[start : start + count] = start + np.array(std_sort_descending(part))
    return torch.from_numpy(order)


def _keys(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns one number per image and label."""
    return (image << 32) + label


def _best_objects(
    image: Tensor, label: Tensor, box: Tensor, place: Tensor, truth: GroundTruth, sizes: Sizes | None
) -> tuple[Tensor, Tensor]:
    """Returns for each detection the object of its image and label that it overlaps most, and that overlap or -1."""
    objects = truth.boxes.detach().cpu()
    best, overlap = torch.zeros(len(box), dtype=torch.int64), torch.full((len(box),), -1.0)
    if not len(objects) or not len(box):
        return best, overlap
    own, theirs = area(box), area(objects)
    if sizes is not None:
        size = torch.from_numpy(sizes.table)[(sizes.first + place) % len(sizes.table)]
        # An object is measured by the size of its image; images without detections do not matter.
        index = torch.searchsorted(image, torch.from_numpy(truth.images)).clamp(max=len(image) - 1)
        objects, theirs = to_pixels(objects, size[index], sizes.resize)
        box, own = to_pixels(box, size, sizes.resize)
    keys = torch.from_numpy(_keys(truth.images, truth.labels))
    step = max(1, _PAIRS // len(objects))
    for begin in range(0, len(box), step):
        part = slice(begin, begin + step)
        pairs = (box[part, None], objects[None], own[part, None], theirs[None])
        overlaps = pairwise_jaccard(*pairs) if sizes is None else _pixel_overlaps(*pairs)
        same = torch.from_numpy(_keys(image[part].numpy(), label[part].numpy()))[:, None] == keys
        overlap[part], best[part] = overlaps.masked_fill_(~same, -1).max(1)
    return best, overlap


def _pixel_overlaps(first: Tensor, second: Tensor, first_area: Tensor, second_area: Tensor) -> Tensor:
    """Returns overlaps with borders included (+1). As in the original, separate boxes share one pixel at (0, 0)."""
    apart = (second[..., :2] > first[..., 2:]).any(-1) | (second[..., 2:] < first[..., :2]).any(-1)
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    sides = torch.where(apart[..., None], 1, high - low + 1)
    inner = torch.where((sides > 0).all(-1), sides[..., 0] * sides[..., 1], 0)
    union = first_area + second_area - inner
    return torch.where(inner > 0, inner / torch.where(inner > 0, union, 1), 0)


def _first_of_each(best: Tensor, counted: Tensor, num_objects: int) -> Tensor:
    """Returns which detections are the first that counts for their object: (D,) bool."""
    first = torch.full((num_objects + 1,), len(best), dtype=torch.int64)
    rows = counted.nonzero()[:, 0]
    first.scatter_reduce_(0, best[rows], rows, "amin")
    right = torch.zeros(len(best) + 1, dtype=torch.bool)
    right[first] = True
    return right[:-1]
