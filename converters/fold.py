"""`convert --fold`: writes a folded net after running it against the unfolded one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyscratchdet.converters.compare import NET_TOLERANCE, BlobComparison, compare_blobs
from pyscratchdet.converters.engines import PyTorchEngine
from pyscratchdet.converters.merge_bn import Blobs, Folded, merge_bn
from pyscratchdet.converters.weights import Bundle, Names, read_bundle, write_bundle
from pyscratchdet.errors import ConversionError, UsageError, counted
from pyscratchdet.files import write_text
from pyscratchdet.layers.plan import NetFile
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import to_text
from pyscratchdet.runtime import build_net, copy_weights

SEED = 1  # of the noise that the nets are run on
# In an ONNX file: what in-place layers overwrite has no name of the unfolded net's.
FOLDED = {"folded": "BatchNorm, Scale, Bias"}


@dataclass
class FoldedFiles:
    """What was written.

    Attributes:
        folded: The net.
        worst: The blob that differs most from the unfolded net's; None where no blob is left to compare.
    """

    folded: Folded
    worst: BlobComparison | None

    def lines(self) -> list[str]:
        """Returns the report."""
        folded = self.folded
        lines = [f"{counted(len(folded.folded), 'layer')} folded, {counted(len(folded.kept), 'BatchNorm')} left"]
        if folded.left_out:
            lines.append(f"weights that no layer of the TEST net takes, left out: {', '.join(folded.left_out)}")
        return [*lines, *difference_lines(self.worst, "the unfolded net")]


def difference_lines(worst: BlobComparison | None, old: str) -> list[str]:
    """Returns how a new net differs from the old one, or nothing where no blob is left to compare."""
    if worst is None or worst.drift is None:
        return []
    error = f"{worst.drift.relative:.1e} (relative L2)"
    return [f"run against {old} on noise: blob {worst.blob} differs most, by {error}"]


def convert_folded(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    model: str | os.PathLike[str] | None,
    prototxt: str | os.PathLike[str] | None,
    **choices: Any,
) -> FoldedFiles:
    """Folds a net and writes it: weights to `target`, the net to `prototxt` (not needed for ONNX).

    Args:
        source: Weights of any form.
        target: See `convert_weights`.
        model: Prototxt of the net.
        prototxt: Where to write the folded net.
        **choices: Fields of `Choices`.

    Raises:
        UsageError: `model` or `prototxt` is missing.
        FileError, WeightsError, ConversionError: See `convert_weights`; or the folded net computes something else.
    """
    if model is None or (prototxt is None and not os.fspath(target).lower().endswith(".onnx")):
        raise UsageError(
            "folding needs a net to read and a place to write the folded one",
            code="convert.fold",
            expected="--model and --prototxt",
        )
    names = Names(model)
    assert names.file is not None
    blobs = read_bundle(source, names).blobs
    folded = merge_bn(names.file.param, blobs)
    worst = check_folded(names.file.param, blobs, folded)
    choices["facts"] = {**choices.get("facts", {}), **FOLDED}
    write_bundle(target, Bundle(folded.blobs), Names(NetFile(folded.param)), **choices)
    if prototxt is not None:
        write_text(prototxt, to_text(folded.param))
    return FoldedFiles(folded, worst)


def check_folded(
    net: caffe_pb2.NetParameter, blobs: Blobs, folded: Folded, what: str = "folding"
) -> BlobComparison | None:
    """Runs a folded net against the unfolded one and returns the blob that differs most.

    Rows of DetectionOutput do not count: a score close to the threshold may fall on either side of it.

    Args:
        net: The net as it was.
        blobs: Its weights by layer.
        folded: The new net.
        what: What was done to it, for the error.

    Raises:
        ConversionError: A layer has no weights, or a blob differs by more than is promised for a whole net.
    """
    ours, theirs = _engine(net, blobs), _engine(folded.param, folded.blobs)
    rng = np.random.default_rng(SEED)
    shapes = {name: ours.net.blob_shapes[name] for name in ours.net.input_names}
    inputs = {name: rng.uniform(-120, 130, shape).astype(np.float32) for name, shape in shapes.items()}
    expected = ours.run(inputs)
    # A value that an in-place layer overwrites is not the same value once the layers before it are folded away.
    # So is an input, where layers worked in place on it.
    found = {key: value for key, value in theirs.run(inputs).items() if "@" not in key and key not in inputs}
    comparison = compare_blobs(ours.net, ours, expected, theirs, found)
    entries = [blob for blob in comparison.blobs if blob.layer_type != "DetectionOutput"]
    worst = max(entries, key=_error, default=None)
    if worst is not None and not _error(worst) <= NET_TOLERANCE:
        raise ConversionError(
            f'{what} changes blob "{worst.blob}"',
            code="convert.fold",
            layer=worst.layer,
            layer_type=worst.layer_type,
            expected=f"a relative L2 error of at most {NET_TOLERANCE:.0e}",
            found=f"{_error(worst):.1e}",
        )
    return worst


def _error(blob: BlobComparison) -> float:
    return float("inf") if blob.drift is None else blob.drift.relative


def _engine(param: caffe_pb2.NetParameter, blobs: Blobs) -> PyTorchEngine:
    """Returns an engine for a net with its weights that writes no files: only its blobs are wanted."""
    quiet = caffe_pb2.NetParameter()
    quiet.CopyFrom(param)
    del quiet.layer[:]
    quiet.layer.extend(layer for layer in param.layer if layer.top)
    for layer in quiet.layer:
        layer.detection_output_param.ClearField("save_output_param")
    net = build_net(quiet, caffe_pb2.TEST, given=blobs)
    if untouched := copy_weights(net, blobs).untouched:
        raise ConversionError("its weights are missing", code="convert.missing", layer=untouched[0])
    return PyTorchEngine(net)
