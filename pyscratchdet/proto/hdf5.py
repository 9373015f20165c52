"""Caffe's HDF5 form of weights: data/<layer>/<index> (net.cpp, Net::ToHDF5 and CopyTrainedLayersFromHDF5)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pyscratchdet.errors import WeightsError
from pyscratchdet.files import atomic_path
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.layer_arrays import MAX_COUNT, WeightLayer, Weights, as_float32

HDF5_MARK = b"\x89HDF\r\n\x1a\n"
# A layer has few blobs, and names with few slashes.
_MAX_BLOBS = 1000
_MAX_DEPTH = 32


def read_hdf5(path: str) -> Weights:
    """Reads a .caffemodel.h5.

    Raises:
        WeightsError: It is damaged, or values are missing, or no floats.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            data = file.get("data")
            if not isinstance(data, h5py.Group):
                raise WeightsError(f"{path}: no group data/ in it", code="weights.hdf5")
            layers = [WeightLayer(name, "", arrays) for name, arrays in _hdf5_layers(data, "", path) if arrays]
    except WeightsError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # what h5py makes of damage
        raise WeightsError(f"{path}: damaged HDF5 file: {error}", code="weights.damaged") from error
    if not layers:
        raise WeightsError(f"{path}: no layers in it", code="weights.empty")
    return Weights(layers)


def write_hdf5(
    path: str | os.PathLike[str], net: caffe_pb2.NetParameter, blobs: Mapping[str, Sequence[np.ndarray]]
) -> None:
    """Writes Caffe's HDF5 form, data/<layer>/<index> (net.cpp, Net::ToHDF5); atomic.

    A blob shared by param name is written with the layer that owns it.

    Raises:
        FileError: The file cannot be written.
    """
    import h5py

    owned: set[str] = set()
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        for layer in net.layer:
            group = _hdf5_group(data, layer.name)
            for index, array in enumerate(blobs.get(layer.name, ())):
                shared = layer.param[index].name if index < len(layer.param) else ""
                if shared not in owned and str(index) not in group:
                    group.create_dataset(str(index), data=np.asarray(array, np.float32))
                if shared:
                    owned.add(shared)


def _hdf5_group(data: Any, layer: str) -> Any:
    """Returns a layer's group, made where it is missing.

    Raises:
        WeightsError: HDF5 cannot have this name: it is empty, or runs through another layer's blobs.
    """
    try:
        return data.require_group(layer)
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"{error}", code="weights.hdf5-name", layer=layer, hint="rename the layer or write a .caffemodel"
        ) from error


def _hdf5_layers(group: Any, prefix: str, path: str) -> Iterator[tuple[str, list[np.ndarray | None]]]:
    """Yields (layer, arrays); a slash in a layer's name nests groups."""
    import h5py

    if prefix.count("/") > _MAX_DEPTH:
        raise WeightsError(f"{path}: groups too deep inside each other", code="weights.hdf5", found=prefix[:80])
    for name in group:
        item = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
        if not isinstance(item, h5py.Group):
            continue
        layer = f"{prefix}{name}"
        datasets = {int(key): item[key] for key in item if key.isdecimal() and isinstance(item[key], h5py.Dataset)}
        number = max(datasets, default=-1) + 1
        if number > _MAX_BLOBS:
            raise WeightsError(f"{path}: no layer has so many blobs", code="weights.hdf5", layer=layer, found=number)
        yield layer, [_hdf5_array(datasets.get(i), path, layer) for i in range(number)]
        yield from _hdf5_layers(item, f"{layer}/", path)


def _hdf5_array(dataset: Any, path: str, layer: str) -> np.ndarray | None:
    if dataset is None:
        return None
    if dataset.dtype.kind != "f":
        raise WeightsError(
            f"{path}: values are no floats", code="weights.hdf5", layer=layer, expected="float32", found=dataset.dtype
        )
    # A file can claim any size; what is not compressed must be there.
    is_whole = dataset.compression is not None or dataset.id.get_storage_size() == dataset.size * dataset.dtype.itemsize
    if dataset.size > MAX_COUNT or not is_whole:
        raise WeightsError(
            f"{path}: a blob's values are not in the file", code="weights.count", layer=layer, expected=dataset.shape
        )
    return as_float32(np.asarray(dataset[()]), path, layer)
