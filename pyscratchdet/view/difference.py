"""Two nets side by side: which layers of one the other has, and in what the two differ."""

from __future__ import annotations

from typing import Any

from pyscratchdet.errors import printable
from pyscratchdet.layers.plan import NetPlan
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.view.layers import bottom_blobs, settings_of, shape_text, shown_layers

Json = dict[str, Any]

_SHAPE = "shape of top"


def difference_facts(first: NetPlan, second: NetPlan) -> Json:
    """Returns in what two nets differ; layers are paired by name.

    Returns:
        `pairs`: the places, among the `shown_layers` of each net, of the layers that both have; `rows`: one for each
        layer that is not the same in both, with `first` and `second`, its places or None where only the other net has
        it, its `name`, `fields`: (what differs, in the first net, in the second) if both have it, and `isShape`:
        whether those are shapes alone, as another input size changes them.
    """
    ours, theirs = _by_name(first), _by_name(second)
    rows: list[Json] = []
    for name, (place, index) in ours.items():
        other = theirs.get(name)
        fields = [] if other is None else _changes(_described(first, index), _described(second, other[1]))
        if other is None or fields:
            rows.append(_row(name, place, other and other[0], fields))
    rows += [_row(name, None, place, []) for name, (place, _) in theirs.items() if name not in ours]
    pairs = [(place, theirs[name][0]) for name, (place, _) in ours.items() if name in theirs]
    return {"pairs": pairs, "rows": rows}


def _row(name: str, first: int | None, second: int | None, fields: list[tuple[str, str, str]]) -> Json:
    is_shape = bool(fields) and all(key.startswith(_SHAPE) for key, *_ in fields)
    return {"name": printable(name), "first": first, "second": second, "fields": fields, "isShape": is_shape}


def _by_name(plan: NetPlan) -> dict[str, tuple[int, int]]:
    """Returns {layer: its place among the shown ones, its index}; the first of several layers of one name counts."""
    places: dict[str, tuple[int, int]] = {}
    for place, index in enumerate(shown_layers(plan)):
        places.setdefault(plan.graph.nodes[index].name, (place, index))
    return places


def _changes(ours: dict[str, str], theirs: dict[str, str]) -> list[tuple[str, str, str]]:
    keys = dict.fromkeys([*ours, *theirs])
    return [(key, ours.get(key, "-"), theirs.get(key, "-")) for key in keys if ours.get(key) != theirs.get(key)]


def _described(plan: NetPlan, index: int) -> dict[str, str]:
    param = caffe_pb2.LayerParameter()
    param.CopyFrom(plan.graph.nodes[index].param)
    param.bottom[:] = [plan.graph.blob_names[blob] for blob in bottom_blobs(plan, index)]
    shapes = {f"{_SHAPE} {number}": shape_text(shape) for number, shape in enumerate(plan.top_shapes[index])}
    return {key: printable(value) for key, value in settings_of(param).items()} | shapes
