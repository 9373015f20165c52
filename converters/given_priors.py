"""Priors that are given as numbers, and a DetectionOutput behind heads that were imported without one."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyscratchdet.converters.build import NetBuilder
from pyscratchdet.converters.engines import read_arrays
from pyscratchdet.errors import DataError, UsageError, counted
from pyscratchdet.files import read_bytes
from pyscratchdet.proto import caffe_pb2

VARIANCES = (0.1, 0.1, 0.2, 0.2)  # SSD's and RetinaFace's
FROZEN = [{"lr_mult": 0, "decay_mult": 0}] * 2


def read_priors(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns priors (P, 4), xmin, ymin, xmax, ymax in pictures' widths, and four variances.

    Args:
        path: An .npz with `priors` and perhaps `variances` (else 0.1, 0.1, 0.2, 0.2), or text with four numbers,
            separated by commas, in each line.

    Raises:
        FileError, WeightsError: The file is missing or damaged.
        DataError: It does not hold priors.
    """
    name = os.fspath(path)
    if name.lower().endswith(".npz"):
        arrays = read_arrays(path)
        priors, variances = arrays.get("priors", np.zeros(0)), arrays.get("variances", np.array(VARIANCES))
    else:
        priors, variances = _numbers(name), np.array(VARIANCES)
    is_sound = priors.ndim == 2 and priors.shape[1] == 4 and len(priors) and np.isfinite(priors).all()
    if not is_sound or not (priors[:, 2:] > priors[:, :2]).all():
        raise DataError(
            f"{name}: not priors",
            code="data.priors",
            expected="rows of xmin, ymin, xmax, ymax, each with an area",
            found=f"an array of shape {priors.shape}",
        )
    if variances.shape != (4,) or not (variances > 0).all():
        raise DataError(f"{name}: not four positive variances", code="data.priors", found=variances.tolist())
    return priors.astype(np.float32), variances.astype(np.float32)


def add_priors(net: NetBuilder, name: str, maps: Sequence[str], priors: np.ndarray, variances: np.ndarray) -> str:
    """Adds a blob (1, 2, P * 4) of given priors and their variances, as PriorBox makes it.

    Caffe has no layer for constants, so PriorBoxes give as many values as are needed, whatever they are, and a Scale
    multiplies them by 0 and adds the priors: exact in every Caffe, and independent of the batch.

    Args:
        net: The net.
        name: The PriorBox, or the Concat of several; the Scale is `<name>_constant`.
        maps: Maps (N, C, H, W); the first ones take as many whole priors for each place as there are.
        priors: (P, 4).
        variances: (4,).
    """
    rest, numbers = len(priors), []
    for blob in maps:
        each, rest = divmod(rest, math.prod(net.shapes[blob][2:]))
        numbers += [(blob, each)] * bool(each)
    if rest:
        pooling = {"pool": "MAX", "global_pooling": True}
        numbers.append((net.add("Pooling", f"{name}_point", [maps[-1]], pooling_param=pooling)[0], rest))
    tops = []
    for k, (blob, each) in enumerate(numbers):
        param = {"min_size": list(range(1, 1 + each)), "variance": [float(value) for value in variances]}
        layer = name if len(numbers) == 1 else f"{name}_{k}"
        tops += net.add(
            "PriorBox", layer, [blob, net.inputs[0]], prior_box_param={**param, "clip": False, "offset": 0.5}
        )
    if len(tops) > 1:
        tops = net.add("Concat", name, tops, concat_param={"axis": 2})
    values = np.stack([priors, np.broadcast_to(variances, priors.shape)]).reshape(2, -1).astype(np.float32)
    weights = [np.zeros_like(values), values]
    scale = {"axis": 1, "num_axes": 2, "bias_term": True}
    return net.add("Scale", f"{name}_constant", tops, weights, scale_param=scale, param=FROZEN)[0]


def add_detection(net: NetBuilder, priors: np.ndarray, variances: np.ndarray) -> list[str]:
    """Ends a net that gives locations (N, P, 4) and scores (N, P, classes) in a DetectionOutput with SSD's thresholds.

    Args:
        net: The net; its outputs are looked through by their shapes.
        priors: (P, 4).
        variances: (4,).

    Returns:
        What the user must know, in sentences.

    Raises:
        UsageError: The outputs do not have such shapes.
    """
    loc, conf = _heads(net, len(priors))
    others = [name for name, blob in net.outputs.items() if blob not in (loc, conf)]
    num_classes = math.prod(net.shapes[conf][1:]) // len(priors)
    kind = next(layer.type for layer in net.param.layer if conf in layer.top)
    notes = [f"locations are {loc}, scores of {counted(num_classes, 'class', 'classes')} {conf}; class 0 is background"]
    scores = conf
    if kind not in ("Softmax", "Sigmoid"):
        scores = net.reshape("mbox_conf_reshape", scores, (0, len(priors), num_classes))
        scores = net.add("Softmax", "mbox_conf_softmax", [scores], softmax_param={"axis": 2})[0]
        notes.append("the scores are no probabilities, so a Softmax was added")
    maps = {net.shapes[layer.top[0]][2:]: layer.top[0] for layer in net.param.layer if layer.type == "Convolution"}
    if not maps:
        raise UsageError("a net without convolutions, whose maps priors could belong to", code="import.priors")
    sizes = sorted((size for size in maps if math.prod(size) <= len(priors)), key=math.prod, reverse=True)
    param: dict[str, Any] = {
        "num_classes": num_classes,
        "share_location": True,
        "background_label_id": 0,
        "nms_param": {"nms_threshold": 0.45, "top_k": 400},
        "code_type": caffe_pb2.PriorBoxParameter.CENTER_SIZE,
        "keep_top_k": 200,
        "confidence_threshold": 0.01,
    }
    bottoms = [
        net.add("Flatten", "mbox_loc", [loc], flatten_param={"axis": 1})[0],
        net.add("Flatten", "mbox_conf_flatten", [scores], flatten_param={"axis": 1})[0],
        add_priors(net, "mbox_priorbox", [maps[size] for size in sizes or maps], priors, variances),
    ]
    net.add("DetectionOutput", "detection_out", bottoms, detection_output_param=param)
    notes.append("detection_out has SSD's thresholds: score 0.01, overlap 0.45, top_k 400, keep_top_k 200")
    if others:
        notes.append(f"outputs that are no part of detections: {', '.join(others)}")
    return notes


def _heads(net: NetBuilder, number: int) -> tuple[str, str]:
    """Returns the blobs of locations and of scores."""
    values = {
        blob: math.prod(net.shapes[blob][1:]) // number
        for blob in net.outputs.values()
        if math.prod(net.shapes[blob][1:]) % number == 0
    }
    locations = [blob for blob, each in values.items() if each == 4]
    softmaxes = {top for layer in net.param.layer if layer.type in ("Softmax", "Sigmoid") for top in layer.top}
    scores = [blob for blob, each in values.items() if each > 1 and blob not in locations[:1]]
    scores = [blob for blob in scores if blob in softmaxes] or scores
    if not locations or not scores:
        shown = ", ".join(f"{name} {net.shapes[blob]}" for name, blob in net.outputs.items())
        raise UsageError(
            f"no output fits {number} priors" if not values else "the outputs are not locations and scores",
            code="import.priors",
            expected=f"(N, {number}, 4) and (N, {number}, classes)",
            found=shown,
        )
    return locations[0], min(scores, key=lambda blob: values[blob])


def _numbers(path: str) -> np.ndarray:
    lines = [line for line in read_bytes(path).decode(errors="replace").splitlines() if line.strip()]
    try:
        return np.array([[float(part) for part in line.split(",")] for line in lines])
    except ValueError as error:  # no numbers, or rows of different lengths
        raise DataError(f"{path}: not rows of numbers: {error}", code="data.priors") from error
