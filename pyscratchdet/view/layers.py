"""The layers of a net as a page shows them: what each is, costs and sees, its lines in the file, and the graph."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from pyscratchdet.caffe.draw import describe_layer
from pyscratchdet.errors import printable
from pyscratchdet.layers.base import Layer, Shape
from pyscratchdet.layers.costs import net_cost
from pyscratchdet.layers.plan import NetFile, NetPlan
from pyscratchdet.proto.text import to_text
from pyscratchdet.view.fields import Field, receptive_fields

Json = dict[str, Any]


def shown_layers(plan: NetPlan) -> list[int]:
    """Returns the indices of the layers that a page shows: all but the Splits that no file has."""
    return [i for i, layer in enumerate(plan.layers) if not (layer.copies_bottom and layer.shares_data)]


def layer_facts(file: NetFile, plan: NetPlan) -> list[Json]:
    """Returns what a page says of each shown layer."""
    sources = _sources(plan)
    fields = receptive_fields(plan)
    costs = net_cost(plan).layers
    facts = []
    for index, cost in zip(shown_layers(plan), costs, strict=True):
        node, layer = plan.graph.nodes[index], plan.layers[index]
        line, text = file.layer_text(node.index) if node.index >= 0 else (0, "")
        facts.append(
            {
                "name": printable(node.name),
                "type": printable(node.type),
                "says": printable(describe_layer(node.param)),
                "kind": _kind(layer, cost.macs),
                "bottoms": [_blob(plan, sources.get(blob, blob)) for blob in node.bottoms],
                "tops": [
                    [printable(plan.graph.blob_names[blob]), list(shape)]
                    for blob, shape in zip(node.tops, plan.top_shapes[index], strict=True)
                ],
                "line": line,
                "text": text or to_text(node.param),
                "parameters": cost.num_parameters,
                "statistics": cost.num_statistics,
                "macs": cost.macs,
                "memory": cost.memory,
                "field": _field(fields[index]),
                "onlyShapes": layer.only_shapes,
            }
        )
    return facts


def graph_boxes(plan: NetPlan) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Returns the boxes of the graph and the lines between them.

    Layers that work in place (BatchNorm, Scale, ReLU) are in the box of the layer whose output they change. A layer
    that reads only shapes (PriorBox) has a line from its first bottom alone.

    Returns:
        For each box the places of its layers among `shown_layers`; and (from, to) pairs of boxes.
    """
    sources = _sources(plan)
    boxes: list[list[int]] = []
    lines: dict[tuple[int, int], None] = {}
    box_of: dict[int, int] = {}
    for place, index in enumerate(shown_layers(plan)):
        node, layer = plan.graph.nodes[index], plan.layers[index]
        bottoms = [sources.get(blob, blob) for blob in node.bottoms]
        if bottoms and node.tops == bottoms[: len(node.tops)] and len(bottoms) == len(node.tops):
            boxes[box_of[bottoms[0]]].append(place)
            continue
        boxes.append([place])
        read = bottoms[:1] if layer.reads_shapes else bottoms
        lines.update(dict.fromkeys((box_of[blob], len(boxes) - 1) for blob in read))
        box_of.update(dict.fromkeys(node.tops, len(boxes) - 1))
    return boxes, list(lines)


def settings_of(message: Message) -> dict[str, str]:
    """Returns {path of a field: its value} of all fields that a layer sets, but for its name and its weights."""
    return dict(_settings(message, ""))


def _settings(message: Message, path: str) -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        if not path and field.name in ("name", "blobs"):
            continue
        values = list(value) if field.is_repeated else [value]
        for number, one in enumerate(values):
            key = f"{path}{field.name}" + (f"[{number}]" if len(values) > 1 else "")
            if isinstance(one, Message):
                yield from _settings(one, f"{key}.")
            elif field.enum_type is not None:
                yield key, field.enum_type.values_by_number[one].name
            else:
                yield key, f"{one:g}" if isinstance(one, float) else str(one)


def bottom_blobs(plan: NetPlan, index: int) -> list[int]:
    """Returns the blobs that a layer reads, as the file has them: not the copies that Splits make."""
    sources = _sources(plan)
    return [sources.get(blob, blob) for blob in plan.graph.nodes[index].bottoms]


def _sources(plan: NetPlan) -> dict[int, int]:
    """Returns {copy that a Split made: the blob it is a copy of}."""
    sources: dict[int, int] = {}
    for node, layer in zip(plan.graph.nodes, plan.layers, strict=True):
        if layer.copies_bottom and layer.shares_data:
            sources.update(dict.fromkeys(node.tops, sources.get(node.bottoms[0], node.bottoms[0])))
    return sources


def _blob(plan: NetPlan, blob: int) -> list[object]:
    return [printable(plan.graph.blob_names[blob]), list(plan.shapes[blob])]


def _field(field: Field | None) -> Json | None:
    if field is None or not all(map(math.isfinite, (*field.size, *field.step))):
        return None
    return {"size": list(field.size), "step": list(field.step)}


def _kind(layer: Layer, macs: int) -> str:
    """Returns what colours a layer's box."""
    if layer.is_input or layer.is_source:
        return "data"
    if layer.makes_detections or layer.is_loss:
        return "result"
    if layer.reads_shapes:
        return "priors"
    if macs and layer.blobs:
        return "weights"
    if layer.coordinates == "window":
        return "window"
    if layer.blobs:
        return "norm"
    return "moves" if layer.moves_values else "other"


def shape_text(shape: Shape) -> str:
    """Returns a shape as the page writes it."""
    return " x ".join(map(str, shape))
