"""The weights of a net as a page shows them: statistics, histograms, and channels that do nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyscratchdet.layers.base import BlobSpec, Layer
from pyscratchdet.layers.plan import NetPlan
from pyscratchdet.proto.weights import read_weights
from pyscratchdet.view.layers import shape_text, shown_layers

Json = dict[str, Any]

BINS = 40
# A channel is called dead if its largest weight is this small beside the blob's largest: float32 keeps about 7 digits,
# so such a channel adds nothing that rounding would not take away again.
DEAD = 1e-7


def weight_facts(plan: NetPlan, path: str) -> tuple[list[list[Json]], list[str]]:
    """Returns what a page says of the weights in a file.

    Args:
        plan: The net.
        path: A .caffemodel or .caffemodel.h5.

    Returns:
        For each of `shown_layers` an entry per blob; and what does not fit between file and net, a line each.

    Raises:
        FileError, WeightsError: The file is missing or damaged.
    """
    stored = read_weights(path).blobs
    facts: list[list[Json]] = []
    notes: list[str] = []
    names = set()
    for index in shown_layers(plan):
        layer = plan.layers[index]
        first = layer.name not in names  # the one of its name that gets the file's weights
        names.add(layer.name)
        arrays = stored.get(layer.name, []) if first else []
        given = [array for array in arrays if array is not None]
        shapes = [tuple(array.shape) for array in given]
        facts.append([])
        if len(given) == len(layer.blobs) and all(
            array.size == np.prod(spec.shape) for array, spec in zip(given, layer.blobs, strict=True)
        ):
            blobs = [array.reshape(spec.shape) for array, spec in zip(given, layer.blobs, strict=True)]
            facts[-1] = [_blob_facts(layer, spec, blob) for spec, blob in zip(layer.blobs, blobs, strict=True)]
        elif given:
            here = ", ".join(shape_text(spec.shape) for spec in layer.blobs) or "no weights"
            notes.append(f"{layer.name}: the net has {here}, the file {', '.join(map(shape_text, shapes))}")
        elif layer.blobs and layer.name not in stored:
            notes.append(f"{layer.name}: not in the weights file")
    if others := [name for name in stored if name not in names]:
        notes.append(f"only in the weights file: {', '.join(others)}")
    return facts, notes


def _blob_facts(layer: Layer, spec: BlobSpec, blob: np.ndarray) -> Json:
    values = blob[np.isfinite(blob)].astype(np.float64)
    facts: Json = {"role": spec.role, "shape": list(spec.shape), "notFinite": int(blob.size - values.size)}
    if not values.size:
        return facts
    low, high = float(values.min()), float(values.max())
    margin = 0.0 if high > low else max(0.5, abs(low) / 2)  # one value alone stands in the middle
    counts = np.histogram(values, BINS, (low - margin, high + margin))[0]
    return facts | {
        "mean": float(values.mean()),
        "deviation": float(values.std()),
        "low": low,
        "high": high,
        "zeros": int((values == 0).sum()),
        "bins": counts.tolist(),
        "dead": _dead(layer, spec, blob),
    }


def _dead(layer: Layer, spec: BlobSpec, blob: np.ndarray) -> list[int]:
    """Returns the output channels whose weights are all next to nothing; for a variance, those that never vary."""
    if spec.role == "variance":
        return [int(channel) for channel in np.flatnonzero(blob <= 0)]
    if spec.role != "weight" or blob.ndim < 1 or blob.size < 2:
        return []
    axis = 1 if layer.coordinates == "transposed" else 0  # Deconvolution has its output channels there
    others = tuple(other for other in range(blob.ndim) if other != axis)
    is_finite = np.isfinite(blob)
    sizes = np.abs(blob).max(others, initial=0, where=is_finite)
    return [int(channel) for channel in np.flatnonzero((sizes <= DEAD * sizes.max(initial=0)) & is_finite.all(others))]
