#!/usr/bin/env python3
"""Write docs/layers.md: every layer type, what it takes, and how far it is from the original where that was recorded.

    python scripts/layer_table.py

A recording, of which tests/layers has many, is a prototxt whose tested layer is called "layer", and beside it the
original's numbers as an npz: `in:`, `param:` and `topdiff:` go in, `out:`, `param_after:`, `diff:` and `pdiff:` must
come out. They are run through the pycaffe drop-in.
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

import pyscratchdet.caffe as caffe
from pyscratchdet.files import write_text
from pyscratchdet.layers.base import Layer, layer_types
from pyscratchdet.layers.plan import read_net
from pyscratchdet.proto import caffe_pb2

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "layers.md"
RECORDINGS = ROOT / "tests" / "layers"
HEADER = ["type", "bottoms", "tops", "parameters", "gradient", "ONNX", "source", "cases", "forward", "backward"]
Errors = list[tuple[float, float | None]]


def description(name: str, cls: type[Layer]) -> list[str]:
    """Returns what the class itself says: the first seven columns."""
    fields = {field.name for field in caffe_pb2.LayerParameter.DESCRIPTOR.fields if field.name.endswith("_param")}
    source = "".join(inspect.getsource(base) for base in cls.__mro__ if base not in (Layer, object))
    params = sorted(fields & set(re.findall(r"\bself\.param\.(\w+)", source)))
    return [
        name,
        str(cls.bottoms),
        str(cls.tops),
        ", ".join(f"`{param}`" for param in params) or "-",
        _has_gradient(cls, "BlobSpec(" in source),
        "yes" if cls.onnx is not Layer.onnx else "no",
        "yes" if cls.torch_source is not Layer.torch_source else "no",
    ]


def _has_gradient(cls: type[Layer], has_weights: bool) -> str:
    if cls.only_shapes:
        return "shapes only"
    last = cls.bottoms.low if cls.bottoms.high is None else cls.bottoms.high
    to_bottoms = bool(set(range(last)) - cls.no_gradient) and cls.tops.high != 0
    return "yes" if to_bottoms or has_weights else "no"


def recorded_errors(folder: Path) -> dict[str, Errors]:
    """Returns for each type the worst forward and backward error of each of its recordings."""
    errors: dict[str, Errors] = defaultdict(list)
    for path in sorted(folder.rglob("*.prototxt")):
        layers = {layer.name: layer.type for layer in read_net(path).param.layer}
        if "layer" in layers and path.with_suffix(".npz").exists():
            errors[layers["layer"]].append(case_errors(path))
    return errors


def case_errors(path: Path) -> tuple[float, float | None]:
    """Returns the worst error of a recording, forward and backward; None where no gradient but 0 was recorded."""
    phase = read_net(path).param.state.phase
    net = caffe.Net(str(path), phase)
    with np.load(path.with_suffix(".npz")) as arrays:
        recorded = [(*key.split(":"), arrays[key]) for key in arrays.files if ":" in key]
    params = net.params.get("layer", [])
    for kind, name, array in recorded:
        if kind == "in":
            net.blobs[name].data[...] = array
        elif kind == "param":
            params[int(name)].data[...] = array
    net.forward()
    forward = [error(net.blobs[name].data, array) for kind, name, array in recorded if kind == "out"]
    forward += [error(params[int(name)].data, array) for kind, name, array in recorded if kind == "param_after"]
    for param in params:
        param.diff[...] = 0
    for kind, name, array in recorded:
        if kind == "topdiff":
            net.blobs[name].diff[...] = array
    net.backward()
    backward = [error(net.blobs[name].diff, array) for kind, name, array in recorded if kind == "diff"]
    backward += [error(params[int(name)].diff, array) for kind, name, array in recorded if kind == "pdiff"]
    has_gradient = any(array.any() for kind, _, array in recorded if kind in ("diff", "pdiff"))
    return max(forward, default=0.0), max(backward) if has_gradient else None


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the relative L2 error; the largest difference where the expectation is zero."""
    if found.size != expected.size:
        return float("inf")
    difference = found.astype(np.float64).reshape(expected.shape) - expected
    norm = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm(difference)) / norm if norm > 1e-6 else float(np.abs(difference).max(initial=0))


def measurement(errors: Errors) -> list[str]:
    """Returns the last three columns: number of cases, worst error forward and backward."""
    if not errors:
        return ["-", "-", "-"]
    backward = [value for _, value in errors if value is not None]
    worst = f"{max(value for value, _ in errors):.1g}"
    return [str(len(errors)), worst, f"{max(backward):.1g}" if backward else "-"]


def page() -> str:
    """Returns docs/layers.md."""
    errors = recorded_errors(RECORDINGS)
    rows = [[*description(name, cls), *measurement(errors.get(name, []))] for name, cls in layer_types().items()]
    every = [case for cases in errors.values() for case in cases]
    num_backward = sum(backward is not None for _, backward in every)
    lines = [
        "# Layer types",
        "",
        "Written by `python scripts/layer_table.py`; do not edit.",
        "",
        f"{len(rows)} types. *gradient*: whether bottoms or weights get one; *shapes only*: nets with such a layer can",
        "be looked at, not run. *ONNX*: whether the exporter knows it.",
        "*source*: whether it can be written as PyTorch source (.py) and as an exported program (.pt2).",
        "The last three columns compare with recordings of the original Caffe: how many there are, and the worst",
        "relative L2 error of any blob and of any gradient in them.",
        f"The recordings under `tests/layers` are {len(every)}, of {len(errors)} types; {num_backward} have gradients",
        "other than 0. Types without any are tested against formulas, PyTorch and finite differences.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---|---|---|---|---|---|---|---:|---:|---:|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_text(PAGE, page())
