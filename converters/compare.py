"""Two sets of blobs side by side: how far apart, and which layer is to blame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from pyscratchdet.converters.engines import Engine, same_shape
from pyscratchdet.converters.onnx_export import value_keys
from pyscratchdet.errors import counted
from pyscratchdet.runtime import Net

# Relative L2 errors of float32 arithmetic, as README promises them under "What is promised": the error that one layer
# may add, the same for layers whose sums over many terms depend on the order of rounding, and the error that may build
# up through a whole net.
LAYER_TOLERANCE = 1e-5
LONG_SUM_TOLERANCE = 1e-4
NET_TOLERANCE = 1e-4


@dataclass
class Difference:
    """How far an array is from its reference.

    Attributes:
        max_abs: Largest absolute difference.
        relative: L2 norm of the difference over that of the reference (of the difference alone for a zero reference).
        cosine: Cosine of the angle between the two; 1 where both are equal, two zeros included.
    """

    max_abs: float
    relative: float
    cosine: float


@dataclass
class BlobComparison:
    """One value in both engines.

    Attributes:
        blob: Its Caffe name; `<blob>@<layer>` for what an in-place layer overwrites.
        layer, layer_type: The layer that makes it.
        shape: Its shape in the reference.
        drift: The difference when both engines start from the net's inputs, so it includes the errors of all earlier
            layers; None where shapes differ.
        own: The difference when our layer starts from the reference's own bottoms, so it is this layer's error alone;
            None where that cannot be computed.
        tolerance: The largest relative `own` that is allowed.
        suspects: The layers that `own` cannot tell apart, since the reference shows nothing between them.
        note: What else there is to say: why there is no figure, how many detections there are, a known difference.
    """

    blob: str
    layer: str
    layer_type: str
    shape: tuple[int, ...]
    drift: Difference | None
    own: Difference | None
    tolerance: float
    suspects: tuple[str, ...] = ()
    note: str = ""

    def add_note(self, text: str) -> None:
        """Adds a remark; an empty one adds nothing."""
        self.note = "; ".join(part for part in (self.note, text) if part)

    @property
    def drift_tolerance(self) -> float:
        """The largest relative `drift` that is allowed."""
        return max(NET_TOLERANCE, self.tolerance)

    @property
    def agrees(self) -> bool:
        """Whether the value is within its tolerances."""
        return self.drift is not None and self.drift.relative <= self.drift_tolerance and not self.is_culprit

    @property
    def is_culprit(self) -> bool:
        """Whether its layer alone, from the reference's own bottoms, is out of tolerance."""
        return self.own is not None and self.own.relative > self.tolerance


@dataclass
class Comparison:
    """A net in two engines.

    Attributes:
        net: Its name.
        first, reference: Names of the engines.
        blobs: One entry per value that both show, in the net's order.
        missing: Blobs that the reference does not show.
        failure: Why the reference could not run the net, if it could not; nothing is compared then.
        what: What `blobs` are: "blob", "gradient" or "update".
        passed_over: Fields of the net file that were passed over and may change results.
    """

    net: str
    first: str
    reference: str
    blobs: list[BlobComparison] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    failure: str = ""
    what: str = "blob"
    passed_over: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Which engines are compared, and which of their values."""
        return f"{self.first} against {self.reference}" + (f": {self.what}s" if self.what != "blob" else "")

    @property
    def agrees(self) -> bool:
        """Whether something was compared and every blob is within its tolerances."""
        return bool(self.blobs) and all(blob.agrees for blob in self.blobs)

    @property
    def culprit(self) -> BlobComparison | None:
        """The first blob whose own layer is out of tolerance, else the first that drifted too far, else None."""
        own = (blob for blob in self.blobs if blob.is_culprit)
        return next(own, next((blob for blob in self.blobs if not blob.agrees), None))

    @property
    def worst(self) -> BlobComparison | None:
        """The blob with the largest drift."""
        known = [blob for blob in self.blobs if blob.drift is not None]
        return max(known, key=lambda blob: blob.drift.relative, default=None)  # type: ignore[union-attr]

    def verdict(self) -> str:
        """Returns a sentence or two: whether and where the engines differ, and which fields were passed over."""
        if not self.passed_over:
            return self._finding()
        fields = "; ".join(self.passed_over)
        return f"{self._finding()} Unknown fields of the net file that may change results were passed over: {fields}."

    def _finding(self) -> str:
        if self.failure:
            return f"{self.reference} did not run, so nothing can be said about it: {self.failure}"
        if not self.blobs:
            return f"Nothing to compare: {self.first} and {self.reference} show no {self.what} in common."
        culprit, worst = self.culprit, self.worst
        if culprit is None:
            assert worst is not None
            assert worst.drift is not None
            number = counted(len(self.blobs), self.what)
            error = worst.drift.relative
            rest = f"worst relative L2 error {error:.1e} at {worst.blob}" if error else "all values are equal"
            return f"{self.first} and {self.reference} agree on all {number}; {rest}."
        where = f"layer {culprit.layer} ({culprit.layer_type})"
        if len(culprit.suspects) > 1:
            before, more = culprit.suspects[-2::-1], ""
            if len(before) > 6:
                before, more = before[:6], f" and {len(culprit.suspects) - 7} more"
            where += f" or one before it that {self.reference} does not show ({', '.join(before)}{more})"
        return f"{self.first} and {self.reference} part at {self.what} {culprit.blob}, {where}: {_describe(culprit)}."

    def as_dict(self) -> dict[str, object]:
        """Returns everything as plain values, for JSON."""
        return {
            "net": self.net,
            "first": self.first,
            "reference": self.reference,
            "what": self.what,
            "agrees": self.agrees,
            "culprit": self.culprit.layer if self.culprit else None,
            "failure": self.failure,
            "verdict": self.verdict(),
            "missing": self.missing,
            "passed_over": self.passed_over,
            "blobs": [{**asdict(blob), "agrees": blob.agrees} for blob in self.blobs],
        }


def all_agree(comparisons: Iterable[Comparison]) -> bool:
    """Returns whether every engine that could run the net agrees."""
    return all(comparison.agrees for comparison in comparisons if not comparison.failure)


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


def compare(net: Net, first: Engine, reference: Engine, inputs: Mapping[str, np.ndarray]) -> Comparison:
    """Runs both engines on the same inputs and compares blob by blob.

    Args:
        net: The net, for the order and the layers of blobs.
        first: The engine that is judged; ours can also run single layers from the reference's bottoms.
        reference: The other engine.
        inputs: {input blob: float32 array}.
    """
    return compare_blobs(net, first, first.run(inputs), reference, reference.run(inputs))


def compare_blobs(
    net: Net,
    first: Engine,
    blobs: Mapping[str, np.ndarray],
    reference: Engine,
    expected: Mapping[str, np.ndarray],
) -> Comparison:
    """Compares blobs that have been computed already, ours and the reference's, from the same inputs; see `compare`."""
    result = Comparison(net.name, first.name, reference.name)
    graph, keys = net.plan.graph, value_keys(net)
    given = {key for i, node in enumerate(graph.nodes) if node.is_input for key in keys[i]}
    expected = {**expected, **{key: blobs[key] for key in given if key in blobs}}
    alone = first.run_layers(expected)
    unseen: dict[int, tuple[str, ...]] = {}  # layers between the reference's nearest values and a blob
    summing = {node.name for node, layer in zip(graph.nodes, net.plan.layers, strict=True) if layer.sums_many}
    copies = {blob for node in graph.nodes if node.index < 0 for blob in node.tops}  # of inserted Splits
    rewritten: set[int] = set()  # blobs that an in-place layer has changed because they share its blob's memory
    for i, node in enumerate(graph.nodes):
        before = tuple(dict.fromkeys(layer for blob in node.bottoms for layer in unseen.get(blob, ())))
        is_added = node.is_input or node.index < 0
        suspects = before if is_added else (*before, node.name)
        for blob, key in zip(net.plan.written(i), keys[i], strict=True):
            unseen[blob] = () if key in expected else suspects
            if is_added or blob in copies or key not in blobs:
                continue
            if key not in expected:
                result.missing += [key] if "@" not in key else []
                continue
            entry = BlobComparison(
                key, node.name, node.type, tuple(expected[key].shape), None, None,
                LAYER_TOLERANCE if summing.isdisjoint(suspects) else LONG_SUM_TOLERANCE, suspects,
            )  # fmt: skip
            measure = _measure_detections if net.plan.layers[i].makes_detections else _measure
            measure(entry, blobs[key], alone.get(key), expected[key])
            if not entry.agrees:
                entry.add_note(reference.known_difference(net.plan.layers[i]))
                if not reference.shares_memory and not rewritten.isdisjoint(node.bottoms):
                    entry.add_note(
                        "Caffe reads what an in-place layer wrote into shared memory; the reference does not"
                    )
            result.blobs.append(entry)
        rewritten.update(net.plan.storage.rewritten.get(i, ()))
    return result


def match_detections(rows: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs detections of two engines, which order equal scores differently: same image and label, nearest values.

    Args:
        rows: (..., 7) rows of image, label, score, xmin, ymin, xmax, ymax. Rows that are not detections
            (-1 in Caffe, 0 in OpenCV) are left out.
        expected: The other engine's rows.

    Returns:
        Two arrays of paired rows, each (pairs, 7).
    """
    rows, expected = _real_rows(rows), _real_rows(expected)
    free = np.ones(len(rows), bool)
    pairs: list[tuple[int, int]] = []
    for j, row in enumerate(expected):
        candidates = np.flatnonzero(free & (rows[:, :2] == row[:2]).all(axis=1))
        if candidates.size:
            i = candidates[np.abs(rows[candidates, 2:] - row[2:]).max(axis=1).argmin()]
            free[i] = False
            pairs.append((int(i), j))
    order = np.array(pairs, np.int64).reshape(-1, 2)
    return rows[order[:, 0]], expected[order[:, 1]]


def _real_rows(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows).reshape(-1, 7)
    return rows[(rows[:, :2] >= 0).all(axis=1) & rows.any(axis=1)]


def _measure(entry: BlobComparison, array: np.ndarray, alone: np.ndarray | None, expected: np.ndarray) -> None:
    """Fills in the differences of an ordinary blob; a layer whose shape differs counts as infinitely far off."""
    if alone is not None:
        is_alike = same_shape(alone.shape, expected.shape)
        entry.own = difference(alone, expected) if is_alike else Difference(math.inf, math.inf, 0.0)
    if same_shape(array.shape, expected.shape):
        entry.drift = difference(array, expected)
    else:
        entry.add_note(shapes_note(array.shape, expected.shape))


def _measure_detections(
    entry: BlobComparison, rows: np.ndarray, alone: np.ndarray | None, expected: np.ndarray
) -> None:
    """Fills in the differences of rows of detections, whatever the order of equal scores."""
    ours, theirs = _real_rows(rows), _real_rows(expected)
    pairs = match_detections(ours, theirs)
    other = f", {len(ours)} here" if len(ours) != len(theirs) else ""
    entry.add_note(f"{len(pairs[0])} of {counted(len(theirs), 'detection')} found again{other}")
    if padding := int((~expected.reshape(-1, 7).any(axis=1)).sum()):
        entry.add_note(f"the reference ends with {counted(padding, 'row')} of zeros, which are padding")
    if len(pairs[0]) == len(ours) == len(theirs):
        entry.drift = difference(pairs[0][:, 2:], pairs[1][:, 2:])
    if alone is not None and len(_real_rows(alone)) == len(theirs):
        own = match_detections(alone, theirs)
        entry.own = difference(own[0][:, 2:], own[1][:, 2:]) if len(own[0]) == len(theirs) else None
    if not entry.agrees and len(ours) == len(theirs):
        scores = np.sort(ours[:, 2]), np.sort(theirs[:, 2])
        if np.allclose(*scores, rtol=0, atol=NET_TOLERANCE):
            entry.add_note(
                "the scores are the same, so this may be the order of equal scores where keep_top_k cuts off"
            )


def shapes_note(shape: Sequence[int], expected: Sequence[int]) -> str:
    """Returns the remark about shapes that differ."""
    ours, theirs = ("x".join(map(str, sizes)) or "a single value" for sizes in (shape, expected))
    return f"shape {ours} here, {theirs} in the reference"


def _describe(blob: BlobComparison) -> str:
    if blob.drift is None:
        return blob.note
    text = f"relative L2 error {blob.drift.relative:.1e}"
    if blob.own is None:
        text += f" (allowed {blob.drift_tolerance:.0e})"
    else:
        text += (
            f" from the net's inputs, {blob.own.relative:.1e} from the reference's own bottoms "
            f"(allowed {blob.tolerance:.0e})"
        )
    return f"{text}; {blob.note}" if blob.note else text
