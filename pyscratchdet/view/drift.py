"""A report of `verify --json` on a page: how far each layer is from the other engine, and where they part."""

from __future__ import annotations

import math
from typing import Any

from pyscratchdet.errors import DataError, Position
from pyscratchdet.files import read_json

Json = dict[str, Any]


def read_drift(path: str) -> list[Json]:
    """Returns the comparisons of blobs in a report, each with {layer: its figures}.

    Raises:
        FileError: The file is missing.
        DataError: It is not such a report, or nothing in it was compared.
    """
    content = read_json(path, "a report of verify --json", "view.report")
    try:
        found = [_comparison(entry) for entry in content if entry["what"] == "blob" and not entry["failure"]]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise _fault(path, f"not a report of verify --json: {type(error).__name__}: {error}") from error
    if not found:
        raise _fault(path, "the report compares no blobs")
    return found


def _comparison(entry: Json) -> Json:
    layers: dict[str, Json] = {}
    for blob in entry["blobs"]:
        own, drift = (None if blob[key] is None else float(blob[key]["relative"]) for key in ("own", "drift"))
        figures = {"drift": _finite(drift), "own": _finite(own), "agrees": bool(blob["agrees"]), "note": blob["note"]}
        worst = layers.get(blob["layer"])
        if worst is None or (worst["agrees"] and not figures["agrees"]):  # of several tops the one that differs
            layers[str(blob["layer"])] = figures
    parts = entry["culprit"]
    return {
        "title": f"{entry['first']} against {entry['reference']}",
        "verdict": str(entry["verdict"]),
        "parts": None if parts is None else str(parts),
        "layers": layers,
    }


def _finite(value: float | None) -> float | None:
    """Returns a number that JSON can hold: what is infinitely far off counts as far as a page shows."""
    return value if value is None or math.isfinite(value) else 1e9


def _fault(path: str, message: str) -> DataError:
    return DataError(message, code="view.report", position=Position(path), hint="pyscratchdet verify ... --json FILE")
