"""Weights into a net and out of it (net.cpp: CopyTrainedLayersFrom, ShareTrainedLayersWith, ToProto)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from pyscratchdet.errors import WeightsError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.weights import array_to_blob, read_weights, write_caffemodel, write_hdf5
from pyscratchdet.runtime.net import LayerModule, Net

LayerBlobs = Mapping[str, Sequence[np.ndarray]]


@dataclass
class CopyReport:
    """What `copy_weights` did.

    Attributes:
        copied: Layers of the net that got their blobs.
        ignored: Layers of the file that the net does not have.
        untouched: Layers of the net with blobs that the file does not have.
    """

    copied: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)


def copy_weights(net: Net, source: str | os.PathLike[str] | LayerBlobs) -> CopyReport:
    """Copies blobs by layer name, as Caffe does; what one side lacks is left alone and reported.

    Args:
        net: The net whose blobs are written.
        source: A .caffemodel or .caffemodel.h5 file, or {layer: [arrays]}.

    Raises:
        FileError, WeightsError: The file is damaged, or a layer's blobs differ in number or shape; the net is then
            unchanged.
    """
    path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
    blobs = read_weights(path).blobs if path else source
    targets = {module.name: module for module in net.layers}
    report = CopyReport()
    pairs: list[tuple[torch.Tensor, np.ndarray]] = []
    for layer, arrays in blobs.items():  # type: ignore[union-attr]
        if layer not in targets:
            if len(arrays):
                report.ignored.append(layer)
            continue
        module = targets[layer]
        if len(arrays) == 0 and not module.roles:
            continue
        pairs += _match(module, arrays, path)
        report.copied.append(layer)
    copied = set(report.copied)
    report.untouched = [module.name for module in net.layers if module.roles and module.name not in copied]
    with torch.no_grad():
        for target, array in pairs:
            target.copy_(torch.from_numpy(np.require(array, np.float32, ["C", "W"]).reshape(tuple(target.shape))))
    return report


def net_blobs(net: Net) -> dict[str, list[np.ndarray]]:
    """Returns {layer: [float32 arrays]} in Caffe's order and layout."""
    return {name: [blob.detach().cpu().numpy() for blob in blobs] for name, blobs in net.params.items()}


def net_to_proto(net: Net, *, diffs: bool = False) -> caffe_pb2.NetParameter:
    """Returns the net with its blobs, the message that a .caffemodel holds (Net::ToProto)."""
    message = caffe_pb2.NetParameter(name=net.name)
    for module in net.layers:
        layer = message.layer.add()
        layer.CopyFrom(module.node.param)
        del layer.blobs[:]
        for blob in module.blobs:
            layer.blobs.append(array_to_blob(blob.detach().cpu().numpy()))
            if diffs and blob.grad is not None:
                layer.blobs[-1].diff.extend(blob.grad.detach().cpu().numpy().ravel().tolist())
    return message


def save_weights(net: Net, path: str | os.PathLike[str]) -> None:
    """Writes a .caffemodel, or Caffe's HDF5 form where the name ends in .h5; atomic.

    Raises:
        FileError: The file cannot be written.
    """
    structure = caffe_pb2.NetParameter(name=net.name)
    for module in net.layers:
        structure.layer.add().CopyFrom(module.node.param)
    if os.fspath(path).endswith(".h5"):
        write_hdf5(path, structure, net_blobs(net))
    else:
        write_caffemodel(path, structure, net_blobs(net))


def share_weights(net: Net, other: Net) -> None:
    """Makes the blobs of layers with equal names one and the same (Net::ShareTrainedLayersWith).

    Raises:
        WeightsError: Blobs of a layer differ in number or shape.
    """
    theirs = {module.name: module for module in other.layers}
    for module in net.layers:
        if module.name not in theirs:
            continue
        source = theirs[module.name]
        _match(module, [blob.detach().cpu().numpy() for blob in source.blobs], "")
        for role, theirs_role in zip(module.roles, source.roles, strict=True):
            if role in module._parameters:
                module._parameters[role] = source._parameters[theirs_role]
            else:
                module._buffers[role] = source._buffers[theirs_role]


def _match(module: LayerModule, arrays: Sequence[np.ndarray], path: str) -> list[tuple[torch.Tensor, np.ndarray]]:
    where = f"{path}: " if path else ""
    details = {"code": "weights.shape", "layer": module.name, "layer_type": module.layer_type}
    if len(arrays) != len(module.roles):
        raise WeightsError(f"{where}number of blobs differs", expected=len(module.roles), found=len(arrays), **details)
    for role, blob, array in zip(module.roles, module.blobs, arrays, strict=True):
        shape = tuple(blob.shape)
        if array.shape not in (shape, (1,) * (4 - len(shape)) + shape):
            raise WeightsError(
                f"{where}shape of {role} differs",
                expected=shape,
                found=array.shape,
                hint="rename the layer to leave it at its initial values",
                **details,
            )
    return list(zip(module.blobs, arrays, strict=True))
