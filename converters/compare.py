"""Two sets of blobs side by side: how far apart, and which layer is to blame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from converters.engines import Engine, PyTorchEngine
from pyscratchdet.runtime import Net

# Relative L2 error that a layer may add by itself: DESIGN's levels of exactness. Sums over many terms round more.
LAYER_TOLERANCE = 1e-5
LONG_SUM_TOLERANCE = 1e-4
LONG_SUMS = frozenset({"Convolution", "Deconvolution", "InnerProduct", "LRN", "BatchNorm", "MVN", "LSTM", "RNN"})
NET_TOLERANCE = 1e-4


@dataclass
class Difference:
    """How far an array is from its reference.

    Attributes:
        max_abs: Largest absolute difference.
        relative: L2 norm of the difference over that of the reference (of the difference alone for a zero reference).
        cosine: Cosine of the angle between the two; 1 where they are alike, both zero included.
    """

    max_abs: float
    relative: float
    cosine: float


@dataclass
class BlobComparison:
    """One blob in both engines.

    Attributes:
        blob: Its Caffe name.
        layer, layer_type: The layer that leaves its final value.
        shape: Its shape in the reference.
        drift: From the net's inputs on, so errors of all earlier layers are in it; None when shapes differ.
        own: From the reference's own bottoms, so only this layer's error is in it; None when that cannot be told.
        tolerance: What `own` may be.
        note: Why there is no figure, if so.
    """

    blob: str
    layer: str
    layer_type: str
    shape: tuple[int, ...]
    drift: Difference | None
    own: Difference | None
    tolerance: float
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the blob is within its tolerances."""
        drift = self.drift is not None and self.drift.relative <= max(NET_TOLERANCE, self.tolerance)
        return drift and (self.own is None or self.own.relative <= self.tolerance)


@dataclass
class Comparison:
    """A net in two engines.

    Attributes:
        net: Its name.
        first, reference: Names of the engines.
        blobs: One entry per blob that both show, in the net's order.
        missing: Blobs that only one side shows.
    """

    net: str
    first: str
    reference: str
    blobs: list[BlobComparison] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether something was compared and every blob is within its tolerances."""
        return bool(self.blobs) and all(blob.agrees for blob in self.blobs)

    @property
    def culprit(self) -> BlobComparison | None:
        """The first blob whose own layer is out of tolerance, else the first that drifted too far, else None."""
        own = (blob for blob in self.blobs if blob.own is not None and blob.own.relative > blob.tolerance)
        return next(own, next((blob for blob in self.blobs if not blob.agrees), None))

    @property
    def worst(self) -> BlobComparison | None:
        """The blob with the largest drift."""
        known = [blob for blob in self.blobs if blob.drift is not None]
        return max(known, key=lambda blob: blob.drift.relative, default=None)  # type: ignore[union-attr]

    def verdict(self) -> str:
        """Returns one sentence: whether and where the engines part."""
        if not self.blobs:
            return f"Nothing to compare: {self.first} and {self.reference} show no blob in common."
        culprit, worst = self.culprit, self.worst
        if culprit is None and worst is not None:
            return (
                f"{self.first} and {self.reference} agree on all {len(self.blobs)} blobs; "
                f"worst relative L2 error {worst.drift.relative:.1e} at {worst.blob}."  # type: ignore[union-attr]
            )
        assert culprit is not None
        return (
            f"{self.first} and {self.reference} part at blob {culprit.blob}, "
            f"layer {culprit.layer} ({culprit.layer_type}): {_describe(culprit)}."
        )

    def as_dict(self) -> dict[str, object]:
        """Returns everything as plain values, for JSON."""
        return {
            "net": self.net,
            "first": self.first,
            "reference": self.reference,
            "agrees": self.agrees,
            "verdict": self.verdict(),
            "missing": self.missing,
            "blobs": [{**asdict(blob), "agrees": blob.agrees} for blob in self.blobs],
        }


def difference(array: np.ndarray, reference: np.ndarray) -> Difference:
    """Returns how far `array` is from `reference`, in float64; values that are not finite count as infinitely far."""
    a = np.asarray(array, np.float64).ravel()
    b = np.asarray(reference, np.float64).ravel()
    if not a.size:
        return Difference(0.0, 0.0, 1.0)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        same = np.array_equal(a, b, equal_nan=True)
        return Difference(0.0, 0.0, 1.0) if same else Difference(float("inf"), float("inf"), 0.0)
    delta, norm_a, norm_b = np.linalg.norm(a - b), np.linalg.norm(a), np.linalg.norm(b)
    cosine = float(a @ b / (norm_a * norm_b)) if norm_a and norm_b else float(norm_a == norm_b)
    return Difference(float(np.abs(a - b).max()), float(delta / norm_b if norm_b else delta), cosine)


def compare(net: Net, first: PyTorchEngine, reference: Engine, inputs: Mapping[str, np.ndarray]) -> Comparison:
    """Runs both engines on the same inputs and compares blob by blob.

    Args:
        net: The net, for the order and the layers of blobs.
        first: Our engine, which can also run single layers from the reference's bottoms.
        reference: The other engine.
        inputs: {input blob: float32 array}.
    """
    return compare_blobs(net, first, first.run(inputs), reference.name, reference.run(inputs))


def compare_blobs(
    net: Net, first: PyTorchEngine, blobs: Mapping[str, np.ndarray], reference: str, expected: Mapping[str, np.ndarray]
) -> Comparison:
    """Compares blobs that have been computed already; see `compare`."""
    result = Comparison(net.name, first.name, reference)
    alone = first.run_layers(expected)
    writers = _writers(net)
    inputs = set(net.input_names)
    for name, (layer, layer_type) in writers.items():
        if name in inputs or layer_type == "Split":
            continue
        if name not in blobs or name not in expected:
            result.missing.append(name)
            continue
        tolerance = LONG_SUM_TOLERANCE if layer_type in LONG_SUMS else LAYER_TOLERANCE
        result.blobs.append(
            _compare_blob(name, layer, layer_type, tolerance, blobs[name], alone.get(name), expected[name])
        )
    return result


def match_detections(rows: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Puts detection rows (image, label, score, xmin, ymin, xmax, ymax) of two engines into a common order.

    Engines order ties differently, so rows are sorted by image, label and score.
    """
    return _sorted_rows(rows.reshape(-1, 7)), _sorted_rows(expected.reshape(-1, 7))


def _sorted_rows(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort((rows[:, 3], -rows[:, 2], rows[:, 1], rows[:, 0]))]


def _compare_blob(
    name: str,
    layer: str,
    layer_type: str,
    tolerance: float,
    array: np.ndarray,
    alone: np.ndarray | None,
    expected: np.ndarray,
) -> BlobComparison:
    result = BlobComparison(name, layer, layer_type, tuple(expected.shape), None, None, tolerance)
    if layer_type == "DetectionOutput":
        if array.size != expected.size:
            result.note = f"{array.size // 7} detections, {expected.size // 7} in the reference"
            return result
        array, expected_rows = match_detections(array, expected)
        alone = None if alone is None or alone.size != expected.size else match_detections(alone, expected)[0]
        expected = expected_rows
    if array.size != expected.size:
        result.note = f"shape {tuple(array.shape)}, {tuple(expected.shape)} in the reference"
        return result
    result.drift = difference(array, expected)
    if alone is not None and alone.size == expected.size:
        result.own = difference(alone, expected)
    return result


def _writers(net: Net) -> dict[str, tuple[str, str]]:
    graph = net.plan.graph
    return {graph.blob_names[blob]: (node.name, node.type) for node in graph.nodes for blob in node.tops}


def _describe(blob: BlobComparison) -> str:
    if blob.drift is None:
        return blob.note
    figures: Sequence[str] = [f"relative L2 error {blob.drift.relative:.1e} from the net's inputs"]
    if blob.own is not None:
        figures = [*figures, f"{blob.own.relative:.1e} from the reference's own bottoms (allowed {blob.tolerance:.0e})"]
    return ", ".join(figures)
