"""Nets as pictures: `caffe.draw` and `pyscratchdet draw-net`.

Layers that work in place (BatchNorm, Scale, ReLU) share the box of the layer whose output they change. With Graphviz
installed `dot` lays the picture out; without it we do, for SVG and HTML.
"""

from __future__ import annotations

import html
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyscratchdet.errors import ConversionError, PyScratchDetError, UsageError
from pyscratchdet.files import write_bytes
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.net.rules import is_included, net_state
from pyscratchdet.proto import caffe_pb2

Shape = tuple[int, ...]

RANKDIRS = ("TB", "LR", "BT", "RL")

# Fill colours by what a layer does; everything else is grey.
_COLOURS = {
    "Convolution": "#cfe2f3",
    "Deconvolution": "#d9d2e9",
    "InnerProduct": "#cfe2f3",
    "Pooling": "#fce5cd",
    "Eltwise": "#d9ead3",
    "Concat": "#d9ead3",
    "PriorBox": "#fff2cc",
    "DetectionOutput": "#f4cccc",
    "MultiBoxLoss": "#f4cccc",
}


@dataclass
class Box:
    """A layer with those that change its output in place.

    Attributes:
        name: The layer's name.
        kind: Its type with its main parameters.
        shapes: Its tops' shapes, as text.
        colour: Its fill.
        sources: Indices of the boxes whose outputs it takes, without repetitions.
        in_place: Types of the layers that change its output.
    """

    name: str
    kind: str
    shapes: list[str]
    colour: str = "#eeeeee"
    sources: list[int] = field(default_factory=list)
    in_place: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """Returns what stands in the box."""
        return [self.name, self.kind, *([", ".join(self.in_place)] if self.in_place else []), *self.shapes]


def boxes_of(net: Any, phase: int | None = None) -> list[Box]:
    """Returns a net's boxes in its order, for one phase or, with None, for all layers.

    Shapes are shown where they are known without reading data.
    """
    shapes = _shapes(net, phase)
    boxes: list[Box] = []
    producers: dict[str, int] = {}
    for name in net.input:
        producers[name] = len(boxes)
        boxes.append(Box(name, "Input", _shape_lines([name], shapes)))
    for layer in _selected(net, phase):
        if layer.bottom and list(layer.top) == list(layer.bottom[: len(layer.top)]) and layer.bottom[0] in producers:
            boxes[producers[layer.bottom[0]]].in_place.append(layer.type)
            continue
        # A PriorBox looks at the size of its second bottom only: a line from the images would tell nothing.
        bottoms = layer.bottom[:1] if layer.type == "PriorBox" else layer.bottom
        sources = dict.fromkeys(producers[blob] for blob in bottoms if blob in producers)
        producers.update((top, len(boxes)) for top in layer.top)
        colour = _COLOURS.get(layer.type, "#eeeeee")
        boxes.append(Box(layer.name, _describe(layer), _shape_lines(layer.top, shapes), colour, list(sources)))
    return boxes


def _selected(net: Any, phase: int | None) -> list[Any]:
    if phase is None:
        return list(net.layer)
    state = net_state(net, phase, 0, ())
    return [layer for layer in net.layer if is_included(state, layer)]


def _shapes(net: Any, phase: int | None) -> dict[str, Shape]:
    try:
        plan = plan_net(net, caffe_pb2.TEST if phase is None else phase)
    except PyScratchDetError:
        # A data layer without its data, or a net that is only partly sound: the picture helps all the same.
        return {}
    return dict(zip(plan.graph.blob_names, plan.shapes, strict=True))


def _shape_lines(tops: Sequence[str], shapes: dict[str, Shape]) -> list[str]:
    return [" x ".join(map(str, shapes[top])) for top in tops if top in shapes]


def _describe(layer: Any) -> str:
    """Returns the type and the parameters that tell one such layer from another."""
    if layer.type in ("Convolution", "Deconvolution"):
        param = layer.convolution_param
        kernel = param.kernel_size[0] if param.kernel_size else f"{param.kernel_h}x{param.kernel_w}"
        sizes = (("/", param.stride), ("dilated", param.dilation))
        extras = [f"{name} {values[0]}" for name, values in sizes if values and values[0] > 1]
        return " ".join([layer.type, f"{kernel}", *extras, f"-> {param.num_output}"])
    if layer.type == "Pooling":
        param = layer.pooling_param
        window = "global" if param.global_pooling else f"{param.kernel_size} / {param.stride}"
        return f"Pooling {caffe_pb2.PoolingParameter.PoolMethod.Name(param.pool)} {window}"
    if layer.type == "InnerProduct":
        return f"InnerProduct -> {layer.inner_product_param.num_output}"
    return str(layer.type)


def to_dot(net: Any, rankdir: str = "TB", phase: int | None = None) -> str:
    """Returns the picture in Graphviz' language."""
    lines = [f"digraph {_quoted(net.name or 'net')} {{", f"  rankdir={rankdir};"]
    lines.append('  node [shape=box, style="filled,rounded", fontname="Helvetica", fontsize=11];')
    for index, box in enumerate(boxes_of(net, phase)):
        label = "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in box.lines)
        lines.append(f'  n{index} [label="{label}", fillcolor="{box.colour}"];')
        lines += [f"  n{source} -> n{index};" for source in box.sources]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_LINE, _GAP, _MARGIN, _CHARACTER = 15, 28, 20, 6.6


@dataclass
class _Place:
    x: float
    y: float
    width: float
    height: float


def to_svg(net: Any, rankdir: str = "TB", phase: int | None = None) -> str:
    """Returns the picture as SVG, laid out here: each box one rank after the last of its sources."""
    boxes = boxes_of(net, phase)
    flat = rankdir in ("LR", "RL")
    places, width, height = _layout(boxes, flat)
    if rankdir in ("BT", "RL"):
        for place in places:
            place.x, place.y = (place.x, height - place.y) if not flat else (width - place.x, place.y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif" font-size="11">',
        f"<title>{html.escape(net.name or 'net')}</title>",
        '<g fill="none" stroke="#8899aa" stroke-width="1">',
    ]
    for box, place in zip(boxes, places, strict=True):
        parts += [_edge(places[source], place, flat) for source in box.sources]
    parts.append("</g>")
    for box, place in zip(boxes, places, strict=True):
        parts += _svg_box(box, place)
    return "\n".join([*parts, "</svg>", ""])


def _layout(boxes: Sequence[Box], flat: bool) -> tuple[list[_Place], float, float]:
    """Returns the boxes' centres and sizes, and the picture's size; `flat` runs from left to right."""
    ranks: list[int] = []
    for box in boxes:
        ranks.append(1 + max((ranks[source] for source in box.sources), default=-1))
    rows: list[list[int]] = [[] for _ in range(max(ranks, default=0) + 1)]
    for index, rank in enumerate(ranks):
        rows[rank].append(index)
    sizes = [_size(box) for box in boxes]
    across = [size[1 if flat else 0] for size in sizes]
    along = [size[0 if flat else 1] for size in sizes]
    centres = _across(boxes, rows, across)
    offset = min((centres[i] - across[i] / 2 for i in range(len(boxes))), default=0) - _MARGIN
    extent = max((centres[i] + across[i] / 2 - offset for i in range(len(boxes))), default=0) + _MARGIN
    places, position = [_Place(0, 0, *size) for size in sizes], float(_MARGIN)
    for row in rows:
        depth = max((along[index] for index in row), default=0)
        for index in row:
            centre = centres[index] - offset, position + depth / 2
            places[index].x, places[index].y = reversed(centre) if flat else centre
        position += depth + _GAP
    length = position - _GAP + _MARGIN
    return places, *((length, extent) if flat else (extent, length))


def _size(box: Box) -> tuple[float, float]:
    return 16 + _CHARACTER * max(map(len, box.lines)), 10 + _LINE * len(box.lines)


def _across(boxes: Sequence[Box], rows: Sequence[Sequence[int]], widths: Sequence[float]) -> list[float]:
    """Returns where each box stands in its row: below its sources, as far as its neighbours leave room."""
    centres = [0.0] * len(boxes)
    for row in rows:
        wanted = {
            index: sum(centres[source] for source in boxes[index].sources) / max(1, len(boxes[index].sources))
            for index in row
        }
        order = sorted(row, key=lambda index: (wanted[index], index))
        edge = float("-inf")
        for index in order:
            centres[index] = max(wanted[index], edge + widths[index] / 2)
            edge = centres[index] + widths[index] / 2 + _GAP
        # Packing moves boxes one way only: move the row back by its mean shift.
        shift = sum(centres[index] - wanted[index] for index in order) / max(1, len(order))
        for index in order:
            centres[index] -= shift
    return centres


def _edge(source: _Place, target: _Place, flat: bool) -> str:
    """A curve between the facing sides; one that would run behind the boxes between bows out beside them."""
    places = [_Place(p.y, p.x, p.height, p.width) if flat else p for p in (source, target)]
    above, below = places
    direction = 1 if below.y >= above.y else -1
    x1, y1 = above.x, above.y + direction * above.height / 2
    x2, y2 = below.x, below.y - direction * below.height / 2
    middle = (y1 + y2) / 2
    is_long = abs(y2 - y1) > 2 * _GAP and abs(x2 - x1) < above.width / 2
    bow = above.width + 3 * _GAP if is_long else 0
    points = [(x1, y1), (x1 + bow, middle), (x2 + bow, middle), (x2, y2)]
    first, *rest = (f"{y:.1f},{x:.1f}" if flat else f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<path d="M{first} C{" ".join(rest)}"/>'


def _svg_box(box: Box, place: _Place) -> list[str]:
    left, top = place.x - place.width / 2, place.y - place.height / 2
    parts = [
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{place.width:.1f}" height="{place.height:.1f}" rx="4" '
        f'fill="{box.colour}" stroke="#556677"/>'
    ]
    for row, line in enumerate(line for line in box.lines):
        weight = ' font-weight="bold"' if row == 0 else ""
        baseline = top + 5 + _LINE * (row + 0.75)
        parts.append(
            f'<text x="{place.x:.1f}" y="{baseline:.1f}" text-anchor="middle"{weight}>{html.escape(line)}</text>'
        )
    return parts


def draw_net(net: Any, rankdir: str = "LR", ext: str = "png", phase: int | None = None) -> bytes:
    """Returns the picture in a format by its name: svg, html, dot, or any that Graphviz knows.

    Raises:
        ConversionError: The format needs Graphviz, which is not installed, or Graphviz refused it.
        UsageError: `rankdir` is none.
    """
    if rankdir not in RANKDIRS:
        raise UsageError("no such direction", code="draw.rankdir", expected=", ".join(RANKDIRS), found=rankdir)
    if ext == "dot":
        return to_dot(net, rankdir, phase).encode()
    dot = shutil.which("dot")
    if ext == "html":
        title = html.escape(net.name or "net")
        picture = draw_net(net, rankdir, "svg", phase).decode()
        picture = picture[picture.index("<svg") :]
        head = f'<head><meta charset="utf-8"><title>{title}</title></head>'
        return f"<!doctype html>\n<html>{head}\n<body>\n{picture}</body></html>\n".encode()
    if dot is None:
        if ext != "svg":
            raise ConversionError(
                f"{ext} pictures need Graphviz",
                code="draw.graphviz",
                hint="install its `dot` program, or write .svg, .html or .dot",
            )
        return to_svg(net, rankdir, phase).encode()
    made = subprocess.run(
        [dot, f"-T{ext}"], input=to_dot(net, rankdir, phase).encode(), capture_output=True, check=False
    )
    if made.returncode:
        reason = made.stderr.decode(errors="replace").strip().splitlines() or ["failed"]
        raise ConversionError(f"Graphviz: {reason[0]}", code="draw.graphviz")
    return made.stdout


def draw_net_to_file(net: Any, filename: str | os.PathLike[str], rankdir: str = "LR", phase: int | None = None) -> None:
    """Draws a net into a file; the suffix says how.

    Raises:
        ConversionError: The format needs Graphviz, which is not installed, or Graphviz refused it.
        FileError: The file cannot be written.
        UsageError: `rankdir` is none, or the file has no suffix.
    """
    suffix = Path(filename).suffix
    if not suffix:
        raise UsageError(
            "the picture's name has no suffix", code="draw.suffix", expected="such as .svg", found=filename
        )
    write_bytes(filename, draw_net(net, rankdir, suffix[1:].lower(), phase))
