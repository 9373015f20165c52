"""Nets as pictures: `caffe.draw` (python/caffe/draw.py) and `pyscratchdet draw-net`.

Layers that work in place (BatchNorm, Scale, ReLU) share the box of the layer whose output they change. Graphviz' `dot`
lays the picture out; where it is not installed, SVG and HTML pictures get a plain layout of rows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from pyscratchdet.errors import ConversionError, PyScratchDetError, UsageError, printable
from pyscratchdet.files import write_bytes
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.net.rules import is_included, net_state
from pyscratchdet.proto import caffe_pb2

if TYPE_CHECKING:
    import pydot

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
    """A layer, together with the layers that change its output in place.

    Attributes:
        name: The layer's name.
        kind: Its type with its main parameters.
        shapes: Its tops' shapes, as text.
        colour: Its fill.
        sources: Indices of the boxes whose outputs it takes, without repetitions.
        in_place: Types of the layers that change its output.
        size: Its batch size or number of outputs, as text; empty for types that have neither.
        lr_mults: Its weights' multipliers of the learning rate; none for types that have no such weights.
    """

    name: str
    kind: str
    shapes: list[str]
    colour: str = "#eeeeee"
    sources: list[int] = field(default_factory=list)
    in_place: list[str] = field(default_factory=list)
    size: str = ""
    lr_mults: list[float] = field(default_factory=list)

    def lines(self, display_lrm: bool = False) -> list[str]:
        """Returns the text in the box, with the learning-rate multipliers if asked for."""
        lines = [self.name, self.kind, *([", ".join(self.in_place)] if self.in_place else []), *self.shapes]
        if display_lrm and self.lr_mults:
            lines.append("lr_mult " + ", ".join(f"{value:g}" for value in self.lr_mults))
        return lines


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
        # A PriorBox uses only the size of its second bottom: a line from the images would say nothing.
        bottoms = layer.bottom[:1] if layer.type == "PriorBox" else layer.bottom
        sources = dict.fromkeys(producers[blob] for blob in bottoms if blob in producers)
        producers.update((top, len(boxes)) for top in layer.top)
        boxes.append(
            Box(
                layer.name,
                describe_layer(layer),
                _shape_lines(layer.top, shapes),
                _COLOURS.get(layer.type, "#eeeeee"),
                list(sources),
                size=_size_of(layer),
                lr_mults=_lr_mults(layer),
            )
        )
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
        # A data layer without its data, or a net that is partly broken: the picture still helps.
        return {}
    return dict(zip(plan.graph.blob_names, plan.shapes, strict=True))


def _shape_lines(tops: Sequence[str], shapes: dict[str, Shape]) -> list[str]:
    return [" x ".join(map(str, shapes[top])) for top in tops if top in shapes]


def describe_layer(layer: Any) -> str:
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


def _size_of(layer: Any) -> str:
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    return str(layer.inner_product_param.num_output) if layer.type == "InnerProduct" else ""


def _lr_mults(layer: Any) -> list[float]:
    if layer.type not in ("Convolution", "Deconvolution", "InnerProduct"):
        return []
    return [param.lr_mult for param in layer.param] or [1.0]


def get_pydot_graph(
    caffe_net: Any,
    rankdir: str,
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
) -> pydot.Dot:
    """Returns a net as a pydot graph.

    Args:
        caffe_net: The NetParameter.
        rankdir: "TB", "LR", "BT" or "RL".
        label_edges: Whether edges show the batch size or number of outputs of the layer that they come from.
        phase: Layers of one phase, or None for all.
        display_lrm: Whether layers with weights show their multipliers of the learning rate.

    Raises:
        UsageError: There is no such direction.
    """
    import pydot

    if rankdir not in RANKDIRS:
        raise UsageError("no such direction", code="draw.rankdir", expected=", ".join(RANKDIRS), found=rankdir)
    graph = pydot.Dot(_quoted(caffe_net.name or "Net"), graph_type="digraph", rankdir=rankdir)
    graph.set_node_defaults(shape="box", style="filled,rounded", fontname="Helvetica", fontsize="11")
    boxes = boxes_of(caffe_net, phase)
    for index, box in enumerate(boxes):
        label = _quoted("\n".join(box.lines(display_lrm)))
        graph.add_node(pydot.Node(f"n{index}", label=label, fillcolor=box.colour))
        for source in box.sources:
            edge = pydot.Edge(f"n{source}", f"n{index}")
            if label_edges and boxes[source].size:
                edge.set("label", _quoted(boxes[source].size))
            graph.add_edge(edge)
    return graph


def _quoted(text: str) -> str:
    import pydot

    return str(pydot.make_quoted(printable(text).replace("\\", "\\\\")))


def draw_net(
    caffe_net: Any, rankdir: str, ext: str = "png", phase: int | None = None, display_lrm: bool = False
) -> bytes:
    """Returns the picture in the named format: svg, html, dot or raw (the graph itself), or any that Graphviz knows.

    Args:
        caffe_net: The NetParameter.
        rankdir: "TB", "LR", "BT" or "RL".
        ext: The format.
        phase: Layers of one phase, or None for all.
        display_lrm: Whether layers with weights show their multipliers of the learning rate.

    Raises:
        ConversionError: The format needs Graphviz, which is not installed, or Graphviz refused it.
        UsageError: There is no such direction.
    """
    graph = get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm)
    source = graph.to_string().encode()
    if ext in ("dot", "raw"):
        return source
    dot = shutil.which("dot")
    if ext in ("svg", "html"):
        if dot:
            picture = ElementTree.fromstring(_run_dot(dot, source, "svg"))
        else:
            picture = _rows(boxes_of(caffe_net, phase), rankdir, caffe_net.name or "Net", display_lrm)
        return _svg(picture) if ext == "svg" else _page(picture, caffe_net.name or "Net")
    if dot is None:
        raise ConversionError(
            f"{ext} pictures need Graphviz, whose `dot` program is not on PATH",
            code="draw.graphviz",
            hint="install it (Debian: apt-get install graphviz), or write .svg, .html or .dot",
        )
    return _run_dot(dot, source, ext)


def draw_net_to_file(
    caffe_net: Any,
    filename: str | os.PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Draws a net into a file; its suffix is the format. Arguments as in `draw_net`.

    Raises:
        ConversionError: The format needs Graphviz, which is not installed, or Graphviz refused it.
        FileError: The file cannot be written.
        UsageError: There is no such direction, or the file has no suffix.
    """
    suffix = Path(filename).suffix
    if not suffix:
        raise UsageError(
            "the picture's name has no suffix", code="draw.suffix", expected="such as .svg", found=filename
        )
    write_bytes(filename, draw_net(caffe_net, rankdir, suffix[1:].lower(), phase, display_lrm))


def _run_dot(dot: str, source: bytes, ext: str) -> bytes:
    made = subprocess.run([dot, f"-T{ext}"], input=source, capture_output=True, check=False)
    if made.returncode:
        reason = made.stderr.decode(errors="replace").strip().splitlines() or ["failed"]
        raise ConversionError(f"Graphviz: {reason[0]}", code="draw.graphviz")
    return made.stdout


_SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", _SVG)


def _svg(picture: ElementTree.Element) -> bytes:
    return bytes(ElementTree.tostring(picture, encoding="utf-8", xml_declaration=True))


def _page(picture: ElementTree.Element, title: str) -> bytes:
    page = ElementTree.Element("html")
    head = ElementTree.SubElement(page, "head")
    ElementTree.SubElement(head, "meta", charset="utf-8")
    ElementTree.SubElement(head, "title").text = title
    ElementTree.SubElement(page, "body").append(picture)
    return b"<!doctype html>\n" + ElementTree.tostring(page, encoding="utf-8", method="html")


_LINE, _CHARACTER, _GAP = 15.0, 6.6, 28.0


def _rows(boxes: Sequence[Box], rankdir: str, title: str, display_lrm: bool) -> ElementTree.Element:
    """Draws boxes without Graphviz: each in a row below the last of its sources, lines straight from box to box."""
    lines = [box.lines(display_lrm) for box in boxes]
    sizes = [(16 + _CHARACTER * max(map(len, each)), 10 + _LINE * len(each)) for each in lines]
    centres, (width, height) = _centres(boxes, sizes, rankdir)
    picture = ElementTree.Element(f"{{{_SVG}}}svg", width=f"{width:.0f}", height=f"{height:.0f}")
    picture.attrib |= {"font-family": "Helvetica, Arial, sans-serif", "font-size": "11", "text-anchor": "middle"}
    ElementTree.SubElement(picture, f"{{{_SVG}}}title").text = title
    for index, box in enumerate(boxes):
        for source in box.sources:
            (x1, y1), (x2, y2) = centres[source], centres[index]
            path = f"M{x1:.1f},{y1:.1f} L{x2:.1f},{y2:.1f}"
            ElementTree.SubElement(picture, f"{{{_SVG}}}path", d=path, stroke="#8899aa")
    for index, (box, (w, h)) in enumerate(zip(boxes, sizes, strict=True)):
        x, y = centres[index]
        frame = {"x": x - w / 2, "y": y - h / 2, "width": w, "height": h}
        style = {"rx": "4", "fill": box.colour, "stroke": "#556677"}
        ElementTree.SubElement(picture, f"{{{_SVG}}}rect", {k: f"{v:.1f}" for k, v in frame.items()} | style)
        for row, text in enumerate(lines[index]):
            place = {"x": f"{x:.1f}", "y": f"{y - h / 2 + 5 + _LINE * (row + 0.75):.1f}"}
            ElementTree.SubElement(picture, f"{{{_SVG}}}text", place).text = text
    return picture


def _centres(
    boxes: Sequence[Box], sizes: Sequence[tuple[float, float]], rankdir: str
) -> tuple[dict[int, tuple[float, float]], tuple[float, float]]:
    """Returns the centre (x, y) of each box, and the picture's width and height."""
    is_flat = rankdir in ("LR", "RL")
    ranks: list[int] = []
    for box in boxes:
        ranks.append(1 + max((ranks[source] for source in box.sources), default=-1))
    rows = [[i for i, rank in enumerate(ranks) if rank == k] for k in range(max(ranks, default=-1) + 1)]
    spans = [sum(sizes[i][is_flat] + _GAP for i in row) for row in rows]
    extent, position = max(spans, default=0) + _GAP, _GAP
    centres = {}
    for row, span in zip(rows, spans, strict=True):
        depth = max(sizes[i][not is_flat] for i in row)
        edge = (extent - span + _GAP) / 2
        for i in row:
            centres[i] = (edge + sizes[i][is_flat] / 2, position + depth / 2)
            edge += sizes[i][is_flat] + _GAP
        position += depth + _GAP
    if rankdir in ("BT", "RL"):
        centres = {i: (across, position - along) for i, (across, along) in centres.items()}
    if is_flat:
        return {i: (along, across) for i, (across, along) in centres.items()}, (position, extent)
    return centres, (extent, position)
