"""`convert --calibrate`: a detector in int8, by onnxruntime's post-training quantisation.

The net is folded first (`merge_bn`). Weights become int8, per channel and symmetric; values between layers become
uint8, with the ranges that they have on calibration pictures. The layers that an output depends on directly (the last
convolutions of a detector's heads) and all that follows them stay float32. The file says so by QuantizeLinear and
DequantizeLinear around what stays written as float32 operators, which onnxruntime and OpenVINO join into int8 kernels.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper

from pyscratchdet.boxes.overlap import area, pairwise_jaccard
from pyscratchdet.converters.fold import FOLDED, check_folded
from pyscratchdet.converters.merge_bn import merge_bn
from pyscratchdet.converters.onnx_detection import OnnxDetection, OnnxDetector
from pyscratchdet.converters.onnx_export import save_onnx
from pyscratchdet.converters.sessions import OnnxRuntimeSession
from pyscratchdet.converters.weights import Names, read_bundle
from pyscratchdet.detect.detector import Preparation
from pyscratchdet.detect.engine import picture_input
from pyscratchdet.detect.media import find_media, read_picture
from pyscratchdet.errors import ConversionError, DataError, counted
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.runtime import build_net, copy_weights

MAX_PICTURES = 128  # ranges hardly change after that many
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# What int8 kernels exist for in both engines; other operators between them work on float32.
_QUANTIZED = [*_WEIGHTED, "Relu", "Clip", "MaxPool", "Add", "Concat"]
_SURE = 0.5  # score of the detections that are looked for in both


@dataclass
class Quantized:
    """What was written.

    Attributes:
        size: Bytes of the file.
        num_layers: Convolutions and inner products in int8.
        left: Those that stay float32.
        used, given: Calibration pictures.
        agreement: What both find on them; "" where the file gives no rows.
    """

    size: int
    num_layers: int
    left: list[str]
    used: int
    given: int
    agreement: str

    def lines(self) -> list[str]:
        """Returns the report."""
        of_all = f" of {self.given}" if self.used < self.given else ""
        layers = f"{counted(self.num_layers, 'layer')} in int8, the last {counted(len(self.left), 'layer')} in float32"
        lines = [f"{layers}, {self.size / 1e6:.1f} MB; ranges from {counted(self.used, 'picture')}{of_all}"]
        return lines + ([self.agreement] if self.agreement else [])


def convert_quantized(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    model: str | os.PathLike[str],
    pictures: str | os.PathLike[str],
    preparation: Preparation,
    facts: dict[str, str],
    onnx_options: dict[str, Any],
) -> Quantized:
    """Quantises a net and writes it as ONNX.

    Args:
        source: Weights of any form.
        target: The ONNX file; atomic.
        model: Prototxt of the deploy net.
        pictures: A folder of pictures like those that the net will see, or one picture.
        preparation: Of pictures.
        facts: What the file says about itself.
        onnx_options: Options of `export_onnx`.

    Raises:
        FileError, DataError, WeightsError, NetError, ConversionError: A file is missing or not sound, onnxruntime is
            not installed, or the net cannot be folded, written or quantised.
    """
    if onnx_options.get("heads") == "fixed" and not onnx_options.get("batch"):
        raise ConversionError(  # docs/engine_faults: it drops biases
            "OpenVINO computes int8 with fixed rows and an open batch size wrongly",
            code="convert.calibrate",
            hint="give --batch N, or --heads decoded",
        )
    OnnxRuntimeSession.import_engine()  # before the work, not after
    names = Names(model)
    assert names.file is not None
    blobs = read_bundle(source, names).blobs
    folded = merge_bn(names.file.param, blobs)
    check_folded(names.file.param, blobs, folded)
    net = build_net(folded.param, caffe_pb2.TEST)
    copy_weights(net, folded.blobs)
    name, channels, size = picture_input(net)
    paths = _pictures(pictures)
    used = paths[:: -(-len(paths) // MAX_PICTURES)]
    batch = onnx_options.get("batch") or 1
    prepared = [np.repeat(preparation(read_picture(path), channels, *size)[None], batch, axis=0) for path in used]
    before: list[onnx.ModelProto] = []

    def transform(exported: onnx.ModelProto) -> onnx.ModelProto:
        before.append(exported)
        return quantize(exported, [{name: picture} for picture in prepared])

    facts = {**facts, **FOLDED, "precision": "int8"}
    written = save_onnx(net, target, metadata=facts, transform=transform, **onnx_options)
    left = last_layers(before[0])
    agreement = ""
    if onnx_options.get("heads", "decoded") in ("decoded", "fixed"):
        helper.set_model_props(before[0], {entry.key: entry.value for entry in written.metadata_props})
        rows = [_rows(one, prepared) for one in (before[0], written)]
        agreement = _agreement(*rows)
    num_layers = sum(node.op_type in _WEIGHTED for node in written.graph.node) - len(left)
    return Quantized(os.path.getsize(target), num_layers, left, len(used), len(paths), agreement)


def quantize(model: onnx.ModelProto, feeds: Sequence[dict[str, np.ndarray]]) -> onnx.ModelProto:
    """Returns the model in int8 but for its last layers and what follows them.

    Args:
        model: A float32 model whose nodes have names of their own.
        feeds: Inputs, from which the ranges of values are taken.

    Raises:
        ConversionError: onnxruntime cannot quantise it, or there is nothing to quantise.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    kept = _after_last(model)
    if all(node.op_type not in _WEIGHTED or node.name in kept for node in model.graph.node):
        raise ConversionError("nothing to quantise before the last layers", code="convert.calibrate")
    ready = onnx.ModelProto.FromString(model.SerializeToString())
    # Says that shapes are known and constants are folded, which onnxruntime would otherwise advise on stderr.
    helper.set_model_props(ready, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        try:
            quantize_static(
                ready,
                path,
                _Reader(feeds),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_QUANTIZED,
                nodes_to_exclude=kept + _plus_constant(model),
                per_channel=True,
                # Weights of 7 bits: with 8, a detector that loses 0.003 mAP this way lost 0.027 and 0.042 in the two
                # engines on an x86 CPU without VNNI, where sums of two products presumably saturate at 16 bits.
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
            result = onnx.load(path)
        except Exception as error:  # onnxruntime's exceptions have no base class of their own
            reason = " ".join(str(error).split())
            raise ConversionError(f"onnxruntime cannot quantise the net: {reason}", code="convert.calibrate") from error
    del result.metadata_props[:]
    return result


def last_layers(model: onnx.ModelProto) -> list[str]:
    """Returns the names of the convolutions and inner products from which an output can be reached without another."""
    kept = set(_after_last(model))
    return [node.name for node in model.graph.node if node.name in kept and node.op_type in _WEIGHTED]


def _after_last(model: onnx.ModelProto) -> list[str]:
    """Returns the names of the nodes behind the last layers, and of these."""
    wanted = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            kept.append(node.name)
            if node.op_type not in _WEIGHTED:
                wanted.update(node.input)
    return kept


def _plus_constant(model: onnx.ModelProto) -> list[str]:
    """Returns the names of the nodes that add a constant, such as Normalize's eps, which 8 bits would round to 0."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node.name for node in model.graph.node if node.op_type == "Add" and constants.intersection(node.input)]


class _Reader:
    """Hands out inputs as onnxruntime's calibration asks for them."""

    def __init__(self, feeds: Sequence[dict[str, np.ndarray]]) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the next inputs, None at the end."""
        return next(self._feeds, None)


def _pictures(source: str | os.PathLike[str]) -> list[str]:
    paths = [one.path for one in find_media([os.fspath(source)]).sources if one.kind == "picture"]
    if not paths:
        raise DataError(f"{os.fspath(source)}: no pictures to calibrate with", code="convert.calibrate")
    return paths


def _rows(model: onnx.ModelProto, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
    engine = OnnxDetection("onnxruntime", OnnxDetector(model, ""))
    found = [engine.find(one) for one in prepared]
    return [rows[(rows[:, 0] == 0) & (rows[:, 1] >= 0)] for rows in found]


def _agreement(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> str:
    """Says how many of the float32 net's sure detections the other finds too, and how far their scores are apart."""
    total, gaps = 0, []
    for rows, others in zip(before, after, strict=True):
        sure = torch.from_numpy(rows[rows[:, 2] >= _SURE])
        candidates = torch.from_numpy(others)
        total += len(sure)
        boxes, theirs = sure[:, None, 3:], candidates[None, :, 3:]
        overlaps = pairwise_jaccard(boxes, theirs, area(boxes), area(theirs))
        overlaps[sure[:, 1, None] != candidates[None, :, 1]] = 0
        for k, row in enumerate(overlaps):
            if len(row) and row.max() >= _SURE:
                gaps.append(abs(float(sure[k, 2] - candidates[row.argmax(), 2])))
    if not total:
        return f"on these pictures the float32 net finds nothing with a score of {_SURE} or more"
    worst = f", scores within {max(gaps):.3f}, half of them within {np.median(gaps):.3f}" if gaps else ""
    return (
        f"on these pictures the float32 net has {counted(total, 'detection')} of score {_SURE} or more; "
        f"{len(gaps)} found again (IoU {_SURE} or more){worst}; `evaluate voc --weights` measures the mAP"
    )
