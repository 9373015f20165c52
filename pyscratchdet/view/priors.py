"""The priors of a detector as a page shows them: where they lie, and how well they cover the boxes of a label set."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from pyscratchdet.data.objects import intersections, jaccard
from pyscratchdet.errors import counted
from pyscratchdet.layers.plan import NetPlan
from pyscratchdet.layers.prior_box import PriorBox
from pyscratchdet.view.layers import shown_layers

Json = dict[str, Any]

# The page holds corners as 16-bit numbers: a unit is 1 / 8192 of the picture, and a prior may reach 4 pictures far.
UNIT, REACH = 8192, 4.0 - 1 / 8192
MOST_PRIORS = 1 << 18  # more than any published net has; 2 MiB in the page
MOST_BOXES = 20_000  # of a label set; larger ones are thinned out evenly
OVERLAP = 0.5  # with which a prior stands for an object (SSD, section 2.2)
_AT_ONCE = 1 << 22
_BINS = 20
_SHOWN_BOXES = 2000


def prior_heads(plan: NetPlan) -> tuple[list[Json], list[np.ndarray], list[str]]:
    """Returns the layers that make priors.

    Returns:
        For each its `layer` (place among `shown_layers`), `map` (height, width), `sizes` in pixels of the input,
        `perCell`, `corners` (base64 of int16); its priors (P, 4), as parts of the picture; and what is left out.
    """
    heads: list[Json] = []
    boxes: list[np.ndarray] = []
    notes: list[str] = []
    for place, index in enumerate(shown_layers(plan)):
        layer = plan.layers[index]
        if not isinstance(layer, PriorBox):
            continue
        number = plan.top_shapes[index][0][2] // 4
        if number > MOST_PRIORS:
            notes.append(f"{layer.name}: {number:,} priors are too many to draw")
            continue
        priors = layer.priors(plan.bottom_shapes(index))[0, 0].reshape(-1, 4)
        boxes.append(priors)
        heads.append(
            {
                "layer": place,
                "map": list(plan.bottom_shapes(index)[0][2:4]),
                "sizes": np.round(layer.sizes.astype(np.float64), 2).tolist(),
                "perCell": len(layer.sizes),
                "corners": _packed(priors),
            }
        )
    return heads, boxes, notes


def read_boxes(path: str) -> tuple[np.ndarray, str, list[str]]:
    """Returns the boxes of a label set, (N, 4) as parts of their pictures, one line about it, and what is left out.

    Args:
        path: A database of AnnotatedDatum records, or pictures with annotations as `lmdb folder` takes them.

    Raises:
        FileError, DataError: It is neither, or damaged.
    """
    boxes, pictures, left_out = _database_boxes(path) if _is_database(path) else _folder_boxes(path)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    if not has_area.all():
        left_out = [*left_out, counted(int((~has_area).sum()), "box without area", "boxes without area")]
    boxes = boxes[has_area]
    text = f"{len(boxes):,} boxes in {pictures:,} pictures"
    if len(boxes) > MOST_BOXES:
        boxes = boxes[np.linspace(0, len(boxes) - 1, MOST_BOXES).astype(np.intp)]
        text += f", of which {MOST_BOXES:,}, evenly spread, are looked at"
    return boxes, text, left_out


def coverage_facts(boxes: np.ndarray, heads: list[np.ndarray]) -> Json:
    """Returns how well priors cover boxes: the overlap of each box with the prior that overlaps it most.

    Args:
        boxes: (N, 4) as parts of the picture.
        heads: The priors (P, 4) of each head.
    """
    best = np.stack([best_overlap(boxes, priors) for priors in heads], 1) if heads else np.zeros((len(boxes), 0))
    top, owner = (best.max(1), best.argmax(1)) if best.size else (np.zeros(len(boxes)), np.zeros(len(boxes), int))
    shown = np.linspace(0, len(boxes) - 1, min(len(boxes), _SHOWN_BOXES)).astype(np.intp)
    sides = boxes[:, 2:] - boxes[:, :2]
    return {
        "boxes": len(boxes),
        "covered": int((top >= OVERLAP).sum()),
        "mean": float(top.mean()) if len(top) else 0.0,
        "bins": np.histogram(top, _BINS, (0, 1))[0].tolist(),
        "heads": [
            {"best": int(((owner == head) & (top > 0)).sum()), "covered": int((best[:, head] >= OVERLAP).sum())}
            for head in range(len(heads))
        ],
        "points": [[round(float(w), 4), round(float(h), 4), bool(top[i] >= OVERLAP)]
                   for i in shown for w, h in [sides[i]]],
    }  # fmt: skip


def best_overlap(boxes: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """Returns for boxes (N, 4) the highest intersection over union with a prior (P, 4): (N,)."""
    best = np.zeros(len(boxes), np.float32)
    areas, own = (np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (priors, boxes))
    rows = max(1, _AT_ONCE // max(len(priors), 1))
    for start in range(0, len(boxes), rows):
        part = slice(start, start + rows)
        inner = intersections(boxes[part, None], priors)
        best[part] = jaccard(inner, areas, own[part, None]).max(1, initial=0)
    return best


def _packed(priors: np.ndarray) -> str:
    corners = np.round(np.clip(np.nan_to_num(priors), -REACH, REACH) * UNIT).astype("<i2")
    return base64.b64encode(corners.tobytes()).decode()


def _is_database(path: str) -> bool:
    return (Path(path) / "data.mdb").is_file() or (Path(path) / "CURRENT").is_file()


def _database_boxes(path: str) -> tuple[np.ndarray, int, list[str]]:
    from pyscratchdet.data.database import Database
    from pyscratchdet.data.objects import objects_of
    from pyscratchdet.data.records import annotated_of, record_title

    boxes, pictures = [np.zeros((0, 4), np.float32)], 0
    for key, value in Database(path):
        title = record_title(key, path)
        boxes.append(objects_of([annotated_of(value, title)], [title]).boxes)
        pictures += 1
    return np.concatenate(boxes), pictures, []


def _folder_boxes(path: str) -> tuple[np.ndarray, int, list[str]]:
    from pyscratchdet.evaluate.sets import own_truth

    truth, left_out = own_truth(path, path, skip_bad=True)
    sizes = np.tile(truth.sizes[truth.image], 2)
    return (truth.boxes_px / sizes).astype(np.float32), len(truth.names), left_out
