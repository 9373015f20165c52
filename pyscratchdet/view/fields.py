"""How much of the input each position of a blob sees: receptive fields, from the windows between the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyscratchdet.layers.base import Layer, Shape
from pyscratchdet.layers.plan import NetPlan


@dataclass(frozen=True)
class Field:
    """What a position of a blob sees of the input, in pixels, height before width.

    Attributes:
        size: Height and width of the part that it sees, padding included.
        step: Distance between the parts that two neighbours see.
    """

    size: tuple[float, ...]
    step: tuple[float, ...]


def receptive_fields(plan: NetPlan) -> list[Field | None]:
    """Returns the field of each layer's tops; None where a position of the top is not a place in the input.

    Only windows count: what a layer takes from the whole map, such as the norm of Normalize across space, does not.
    """
    of_blob: dict[int, Field | None] = {}
    fields: list[Field | None] = []
    for index, (node, layer) in enumerate(zip(plan.graph.nodes, plan.layers, strict=True)):
        tops = plan.top_shapes[index]
        known = [of_blob.get(blob) for blob in node.bottoms]
        shapes = [plan.shapes[blob] for blob in node.bottoms]
        field = _first(tops) if not node.bottoms else _next(layer, known, shapes, tops)
        fields.append(field)
        of_blob.update(dict.fromkeys(node.tops, field))
    return fields


def _first(tops: Sequence[Shape]) -> Field | None:
    return Field((1.0, 1.0), (1.0, 1.0)) if tops and len(tops[0]) == 4 else None


def _next(
    layer: Layer, fields: Sequence[Field | None], bottoms: Sequence[Shape], tops: Sequence[Shape]
) -> Field | None:
    steps = layer.sliding_window()
    seen = fields[0]
    if layer.coordinates in ("window", "transposed"):
        if seen is None or len(steps) != len(seen.size):
            return None
        return _windowed(seen, steps) if layer.coordinates == "window" else _transposed(seen, steps)
    if layer.coordinates == "cut":
        return seen
    if not tops or any(len(shape) != 4 or shape[2:] != tops[0][2:] for shape in (*bottoms, *tops)):
        return None
    return _widest(fields)


def _windowed(seen: Field, steps: Sequence[tuple[int, int]]) -> Field:
    size = tuple(s + (extent - 1) * j for s, j, (extent, _) in zip(seen.size, seen.step, steps, strict=True))
    return Field(size, tuple(j * stride for j, (_, stride) in zip(seen.step, steps, strict=True)))


def _transposed(seen: Field, steps: Sequence[tuple[int, int]]) -> Field:
    """A position of the top lies in at most ceil(extent / stride) windows along an axis."""
    size = tuple(s + (-(-e // stride) - 1) * j for s, j, (e, stride) in zip(seen.size, seen.step, steps, strict=True))
    return Field(size, tuple(j / stride for j, (_, stride) in zip(seen.step, steps, strict=True)))


def _widest(fields: Sequence[Field | None]) -> Field | None:
    known = [field for field in fields if field is not None]
    if len(known) < len(fields):
        return None
    sizes, steps = (
        zip(*(field.size for field in known), strict=True),
        zip(*(field.step for field in known), strict=True),
    )
    return Field(tuple(map(max, sizes)), tuple(map(max, steps)))
