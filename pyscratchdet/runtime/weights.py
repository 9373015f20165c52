"""Copying weights into a net and out of it (net.cpp: CopyTrainedLayersFrom, ShareTrainedLayersWith, ToProto)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pyscratchdet.errors import WeightsError, counted
from pyscratchdet.layers.base import Shape
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.hdf5 import write_hdf5
from pyscratchdet.proto.weights import array_to_blob, read_weights, release, write_caffemodel
from pyscratchdet.runtime.layer_module import LayerModule
from pyscratchdet.runtime.net import Net

Blobs = Sequence[np.ndarray | None]


@dataclass
class CopyReport:
    """What `copy_weights` did.

    Attributes:
        copied: Layers of the net that got their blobs.
        ignored: Layers of the file that the net does not have.
        untouched: Layers of the net with blobs of their own that are not in the file.
        reset: {layer: (shapes in the file, shapes here)} of those that keep their initial values since these differ.
    """

    copied: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)
    reset: dict[str, tuple[list[Shape], list[Shape]]] = field(default_factory=dict)

    def summary(self) -> str:
        """Returns one line that says what matched, and what did not and why."""
        parts = [f"{counted(len(self.copied), 'layer')} copied"]
        if self.ignored:
            parts.append(f"{counted(len(self.ignored), 'layer')} only in the file: {', '.join(self.ignored)}")
        if self.untouched:
            parts.append(
                f"{counted(len(self.untouched), 'layer')} not in the file, left unchanged: {', '.join(self.untouched)}"
            )
        if self.reset:
            parts.append(
                f"{counted(len(self.reset), 'layer')} of other shapes, freshly filled: {', '.join(self.reset)}"
            )
        return "; ".join(parts)


def copy_weights(
    net: Net, source: str | os.PathLike[str] | Mapping[str, Blobs], path: str = "", *, reset_heads: bool = False
) -> CopyReport:
    """Copies blobs by layer name, as Caffe does; layers that one side lacks are left alone and reported.

    Args:
        net: The net whose blobs are written.
        source: A .caffemodel or .caffemodel.h5 file, or {layer: [arrays]}. A blob that the layer shares with another
            one, which holds it (HDF5 files), is None or left out.
        path: Where the arrays come from, for errors.
        reset_heads: Whether layers whose blobs differ in number or shape keep their values instead of being refused.

    Raises:
        FileError, WeightsError: The file is damaged, a layer's blobs differ in number or shape, or nothing fits at all
            a net that has blobs; the net is then unchanged.
    """
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        source = read_weights(path).blobs
    targets = _first_of_each_name(net)
    shared = _shared_places(net)
    report = CopyReport()
    pairs: list[tuple[torch.Tensor, np.ndarray]] = []
    for layer, arrays in source.items():
        if layer not in targets:
            report.ignored.append(layer)
        elif len(arrays) or targets[layer].roles:
            try:
                pairs += _match(targets[layer], arrays, shared, path)
            except WeightsError:
                if not reset_heads:
                    raise
                report.reset[layer] = _shapes(arrays), _shapes(targets[layer].blobs)
            else:
                report.copied.append(layer)
    copied = {*report.copied, *report.reset}
    report.untouched = [
        module.name
        for module in net.layers
        if module.name not in copied and any((id(module), role) not in shared for role in module.roles)
    ]
    if not report.copied and (report.reset or report.untouched):
        raise _nothing_fits(report, path)
    for target, array in pairs:
        _assign(target, array)
        release(array)
    return report


def _shapes(blobs: Sequence[np.ndarray | torch.Tensor | None]) -> list[Shape]:
    return [tuple(blob.shape) for blob in blobs if blob is not None]


def _nothing_fits(report: CopyReport, path: str) -> WeightsError:
    return WeightsError(
        f"{path or 'weights'}: nothing fits this net",
        code="weights.nothing-fits",
        expected="at least one layer of the same name and shapes",
        found=f"{counted(len(report.reset), 'layer')} of other shapes, {len(report.ignored)} of other names",
        hint="start from weights of the same net: other classes are fine, other widths of all layers are not"
        if report.reset
        else "weights of another net? Layers are found by their names",
    )


def _assign(target: torch.Tensor, array: np.ndarray) -> None:
    """Copies an array into a blob; on the CPU directly from its memory, which may be a mapped file."""
    with torch.no_grad():
        if target.device.type == "cpu" and target.dtype == torch.float32:
            target.detach().numpy()[...] = array.reshape(tuple(target.shape))
        else:
            target.copy_(torch.from_numpy(np.array(array, np.float32).reshape(tuple(target.shape))))


def net_blobs(net: Net) -> dict[str, list[np.ndarray]]:
    """Returns {layer: [float32 arrays]} in Caffe's order and layout."""
    return {name: [_to_numpy(blob) for blob in blobs] for name, blobs in net.params.items()}


def _to_numpy(blob: torch.Tensor) -> np.ndarray:
    array: np.ndarray = blob.detach().float().cpu().numpy()
    return array


def net_to_proto(net: Net, *, diffs: bool = False) -> caffe_pb2.NetParameter:
    """Returns the net with its blobs: the message that a .caffemodel holds (Net::ToProto)."""
    message = caffe_pb2.NetParameter(name=net.name)
    for module in net.layers:
        layer = message.layer.add()
        layer.CopyFrom(_written_param(module))
        for blob in module.blobs:
            layer.blobs.append(array_to_blob(_to_numpy(blob)))
            if diffs and blob.grad is not None:
                layer.blobs[-1].diff.extend(_to_numpy(blob.grad).ravel().tolist())
    return message


def _written_param(module: LayerModule) -> caffe_pb2.LayerParameter:
    """Returns a layer's settings as the original writes them.

    The layer's set-up adds the loss weight of a loss that has none (LossLayer) and the rate 0 of statistics
    (BatchNorm).
    """
    param = caffe_pb2.LayerParameter()
    param.CopyFrom(module.node.param)
    del param.blobs[:]
    if module.layer.is_loss and not param.loss_weight:
        param.loss_weight.append(1)
    specs = module.layer.blobs
    if any(spec.is_statistic for spec in specs):
        for spec in specs[len(param.param) :]:
            param.param.add(**({"lr_mult": 0} if spec.is_statistic else {}))
    return param


def save_weights(net: Net, path: str | os.PathLike[str], *, hdf5: bool | None = None) -> None:
    """Writes a .caffemodel, or Caffe's HDF5 form; atomic.

    Args:
        net: The net whose blobs are written.
        path: The file.
        hdf5: True for HDF5; None takes HDF5 if the name ends in .h5.

    Raises:
        FileError: The file cannot be written.
    """
    structure = caffe_pb2.NetParameter(name=net.name)
    for module in net.layers:
        structure.layer.add().CopyFrom(_written_param(module))
    if os.fspath(path).endswith(".h5") if hdf5 is None else hdf5:
        write_hdf5(path, structure, net_blobs(net))
    else:
        write_caffemodel(path, structure, [[_to_numpy(blob) for blob in module.blobs] for module in net.layers])


def share_weights(net: Net, other: Net) -> list[str]:
    """Makes layers with equal names use the same blobs (Net::ShareTrainedLayersWith).

    Returns:
        Names of the other net's layers that this net lacks.

    Raises:
        WeightsError: Blobs of a layer differ in number or shape; then nothing is shared.
    """
    targets = _first_of_each_name(net)
    pairs = [(targets[source.name], source) for source in other.layers if source.name in targets]
    for module, source in pairs:
        _check_shapes(module, [tuple(blob.shape) for blob in source.blobs], "")
    for module, source in pairs:
        for role, theirs in zip(module.roles, source.roles, strict=True):
            net.replace_blob(module, role, source.blob(theirs))
    return [source.name for source in other.layers if source.name not in targets]


def _first_of_each_name(net: Net) -> dict[str, LayerModule]:
    """Returns the layers that receive weights: the first of each name, which is the one the original looks up."""
    return {module.name: module for module in reversed(net.layers)}


def _shared_places(net: Net) -> set[tuple[int, str]]:
    """Returns (id of layer, role) of the blobs that another layer owns."""
    return {(id(module), role) for entry in net.learnable for module, role in entry.places[1:]}


def _match(
    module: LayerModule, arrays: Blobs, shared: set[tuple[int, str]], path: str
) -> list[tuple[torch.Tensor, np.ndarray]]:
    """Returns (blob, its new values); shared blobs may be left out."""
    full = [*arrays, *[None] * (len(module.roles) - len(arrays))]
    left_out = {role for role, array in zip(module.roles, full, strict=False) if array is None}
    if any((id(module), role) not in shared for role in left_out):
        full = [array for array in full if array is not None]  # so that the wrong number is reported
    values = module.blobs
    found = [value.shape if array is None else array.shape for value, array in zip(values, full, strict=False)]
    _check_shapes(module, [tuple(shape) for shape in found] + [()] * (len(full) - len(found)), path)
    return [(value, array) for value, array in zip(values, full, strict=True) if array is not None]


def _check_shapes(module: LayerModule, shapes: Sequence[Shape], path: str) -> None:
    where = f"{path}: " if path else ""
    details: dict[str, Any] = {"code": "weights.shape", "layer": module.name, "layer_type": module.layer_type}
    if len(shapes) != len(module.roles):
        raise WeightsError(
            f"{where}the number of blobs differs", expected=len(module.roles), found=len(shapes), **details
        )
    for role, blob, shape in zip(module.roles, module.blobs, shapes, strict=True):
        expected = tuple(blob.shape)
        if shape not in (expected, (1,) * (4 - len(expected)) + expected):
            raise WeightsError(
                f"{where}the shape of {role} differs",
                expected=expected,
                found=shape,
                hint="rename the layer, or train with --reset-heads, to leave it at its initial values",
                **details,
            )
