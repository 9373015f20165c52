"""The page of a net, from what the other modules say of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyscratchdet.errors import UsageError, printable
from pyscratchdet.layers.plan import NetFile, NetPlan, plan_net, read_net
from pyscratchdet.pages import fill_page
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.view.difference import difference_facts
from pyscratchdet.view.drift import read_drift
from pyscratchdet.view.layers import graph_boxes, layer_facts

if TYPE_CHECKING:
    from pyscratchdet.detect.detector import Preparation

Json = dict[str, Any]


@dataclass
class ViewChoices:
    """What a page shows besides the graph; each is left out by default.

    Attributes:
        phase: TEST or TRAIN.
        weights: A .caffemodel or .caffemodel.h5.
        picture: A picture to run through the net.
        preparation: How it becomes the net's input; needed with `picture`.
        verify: A report of `verify --json`.
        labels: A label set, for the priors (`priors.read_boxes`).
        against: The prototxt of another net.
    """

    phase: str = "TEST"
    weights: str | None = None
    picture: str | None = None
    preparation: Preparation | None = None
    verify: str | None = None
    labels: str | None = None
    against: str | None = None


@dataclass
class _Side:
    """A net with its file."""

    path: str
    file: NetFile
    plan: NetPlan
    notes: list[str] = field(default_factory=list)


def view_page(model: str, choices: ViewChoices) -> str:
    """Returns the page of a net.

    Args:
        model: Its prototxt.
        choices: What it shows.

    Raises:
        FileError, PrototxtError, NetError, LayerError, WeightsError, DataError: A file is missing or faulty.
        UsageError: There are labels, but the net has no priors.
    """
    data = view_data(model, choices)
    title = " and ".join(net["name"] for net in data["nets"])
    return fill_page(__package__, "page.html", title=title, data=data, **_parts())


def view_data(model: str, choices: ViewChoices) -> Json:
    """Returns what the page draws, as plain values; `page.js` says how. Arguments and errors as of `view_page`."""
    side = _side(model, choices.phase)
    data: Json = {"phase": choices.phase, "nets": [], "drift": None, "features": None, "difference": None}
    facts = layer_facts(side.file, side.plan)
    data.update(_prior_data(side, choices.labels))
    if choices.weights:
        from pyscratchdet.view.weights import weight_facts

        blobs, notes = weight_facts(side.plan, choices.weights)
        side.notes += notes
        for layer, entry in zip(facts, blobs, strict=True):
            layer["weights"] = entry
    if choices.verify:
        data["drift"] = read_drift(choices.verify)
    if choices.picture:
        from pyscratchdet.view.features import feature_facts

        assert choices.preparation is not None
        data["features"] = feature_facts(side.file, choices.weights, choices.picture, choices.preparation)
    data["nets"].append(_net_data(side, facts))
    if choices.against:
        other = _side(choices.against, choices.phase)
        data["nets"].append(_net_data(other, layer_facts(other.file, other.plan)))
        data["difference"] = difference_facts(side.plan, other.plan)
    return data


def _side(path: str, phase: str) -> _Side:
    file = read_net(path)
    plan = plan_net(file, caffe_pb2.Phase.Value(phase))
    return _Side(path, file, plan, [str(entry) for entry in file.passed_over if not entry.is_harmless])


def _net_data(side: _Side, facts: list[Json]) -> Json:
    boxes, lines = graph_boxes(side.plan)
    return {
        "name": printable(side.plan.graph.name or Path(Path(side.path).parent.name, Path(side.path).stem)),
        "file": printable(side.path),
        "layers": facts,
        "boxes": boxes,
        "lines": lines,
        "notes": [printable(note) for note in side.notes],
    }


def _prior_data(side: _Side, labels: str | None) -> Json:
    from pyscratchdet.view.priors import coverage_facts, prior_heads, read_boxes

    heads, boxes, notes = prior_heads(side.plan)
    side.notes += notes
    inputs = [side.plan.shapes[blob] for blob in side.plan.graph.inputs]
    size = next((list(shape[2:]) for shape in inputs if len(shape) == 4), None)
    coverage = None
    if labels:
        if not boxes:
            raise UsageError("the net has no priors to cover a label set's boxes", code="view.labels", found=side.path)
        truth, text, left_out = read_boxes(labels)
        side.notes += [f"{labels}: {line}" for line in left_out]
        coverage = coverage_facts(truth, boxes) | {"says": f"{printable(labels)}: {text}"}
    return {"heads": heads, "input": size, "coverage": coverage}


def _parts() -> dict[str, object]:
    from markupsafe import Markup

    folder = resources.files(__package__)
    files = {"style": "page.css", "script": "page.js", "library": "dagre/dagre.min.js", "licence": "dagre/LICENSE"}
    return {name: Markup(folder.joinpath(path).read_text(encoding="utf-8")) for name, path in files.items()}
