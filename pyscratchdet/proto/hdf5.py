"""Weights in HDF5 as Caffe writes them, data/<layer>/<index> (net.cpp, ToHDF5 and CopyTrainedLayersFromHDF5).

A stranger's HDF5 file may point into other files (external links, external and virtual storage), link a group to itself
or load a filter plug-in. So only what lies in the file itself and needs no filters but HDF5's own is read.
"""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from pyscratchdet.errors import PyScratchDetError, WeightsError
from pyscratchdet.files import atomic_path, check_unpacked, open_bytes
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.layer_arrays import MAX_COUNT, WeightLayer, Weights, as_float32

HDF5_MARK = b"\x89HDF\r\n\x1a\n"
# A layer has few blobs, and its name has few slashes.
_MAX_BLOBS = 1000
_MAX_DEPTH = 32
# The processor seconds that the HDF5 library gets to open a file, and the bytes for which it gets another second.
_TRIAL_SECONDS, _TRIAL_BYTES = 3, 20 << 20
# Filters of HDF5 and h5py: deflate, shuffle, fletcher32, szip, nbit, scale and offset, lzf.
_FILTERS = {1, 2, 3, 4, 5, 6, 32000}


def read_datasets(
    path: str | os.PathLike[str], error: type[PyScratchDetError], code: str, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Returns the data sets of an HDF5 file by name, such as "data/conv1/0".

    Args:
        path: The file.
        error: What to raise if the file is damaged or lacks a name, or if what is asked for lies in another file or is
            neither numbers nor text.
        code: The code of that error.
        names: The data sets to read; None for all of them.

    Raises:
        FileError: The file cannot be read, or would unpack to far more than its size suggests.
    """
    with open_bytes(path) as file:  # one clear error for a missing or unreadable file
        status = os.fstat(file.fileno())
    if not _survives(os.path.abspath(path), status.st_size, status.st_mtime_ns):
        raise error(f"{os.fspath(path)}: so damaged that the HDF5 library crashes or never finishes", code=code)
    return _read(path, error, code, names)


@functools.lru_cache(maxsize=1000)
def _survives(path: str, size: int, changed: int) -> bool:
    """Returns whether the HDF5 library finishes with a file, even if with an error: damage can crash or hang it.

    Another process reads the file first, within limits.

    Args:
        path: The file.
        size: Its size in bytes.
        changed: When it was last changed; this and the size show whether it is the same file as before.
    """
    limit = _TRIAL_SECONDS + size // _TRIAL_BYTES
    code = "import sys; from pyscratchdet.proto.hdf5 import try_reading; try_reading(sys.argv[1], float(sys.argv[2]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    trial = [sys.executable, "-c", code, path, str(limit)]
    try:
        return subprocess.run(trial, env=environment, capture_output=True, timeout=60 + 20 * limit).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def try_reading(path: str, limit: float) -> None:
    """Reads a file and discards it; ends the process if that takes more than `limit` seconds of processor time."""
    import signal

    signal.setitimer(signal.ITIMER_PROF, limit)  # its signal ends a process that does not catch it
    with suppress(PyScratchDetError):
        _read(path, WeightsError, "weights.damaged", None)


def _read(
    path: str | os.PathLike[str], error: type[PyScratchDetError], code: str, names: Collection[str] | None
) -> dict[str, np.ndarray]:
    import h5py

    reader = _Reader(os.fspath(path), error, code)
    try:
        with h5py.File(path, "r") as file:
            found = dict(reader.walk(file, "") if names is None else reader.find(file, names))
            for name, dataset in found.items():
                reader.check(dataset, name)
            num_bytes = sum(math.prod(dataset.shape) * dataset.dtype.itemsize for dataset in found.values())
            check_unpacked(num_bytes, os.path.getsize(path), path)
            return {name: np.asarray(dataset[()]) for name, dataset in found.items()}
    except PyScratchDetError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as reason:  # h5py, for damage
        raise reader.refused(f"damaged HDF5 file: {reason}") from reason


class _Reader:
    """Finds data sets in an open file."""

    def __init__(self, path: str, error: type[PyScratchDetError], code: str) -> None:
        self._path = path
        self._error = error
        self._code = code
        self._visited: set[int] = set()

    def refused(self, message: str, **details: Any) -> PyScratchDetError:
        return self._error(f"{self._path}: {message}", code=self._code, **details)

    def walk(self, group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        """Yields (name, data set) for a group and the groups inside it, each group once."""
        import h5py

        address = h5py.h5o.get_info(group.id).addr
        if address in self._visited:
            raise self.refused("a group that is linked twice", found=group.name)
        self._visited.add(address)
        if prefix.count("/") > _MAX_DEPTH:
            raise self.refused("groups are nested too deeply", found=prefix[:80])
        for name in group:
            item = self._own(group, name)
            if isinstance(item, h5py.Group):
                yield from self.walk(item, f"{prefix}{name}/")
            elif isinstance(item, h5py.Dataset):
                yield f"{prefix}{name}", item

    def find(self, file: Any, names: Collection[str]) -> Iterator[tuple[str, Any]]:
        """Yields (name, data set) for each of the names."""
        import h5py

        for name in names:
            item = file
            for part in name.split("/"):
                item = self._own(item, part) if isinstance(item, h5py.Group) else None
            if not isinstance(item, h5py.Dataset):
                raise self.refused(f'there is no data set "{name}"')
            yield name, item

    def _own(self, group: Any, name: str) -> Any:
        """Returns what a group itself holds under a name; None if there is nothing."""
        import h5py

        link = group.get(name, getlink=True)
        if link is None or isinstance(link, h5py.HardLink):
            return group.get(name)
        to = f"{getattr(link, 'filename', '')}:{link.path}"
        raise self.refused("a link to another place, which is not followed", found=f"{group.name}/{name} -> {to}")

    def check(self, dataset: Any, name: str) -> None:
        """Refuses a data set that is not numbers or text, or not in the file."""
        import h5py

        what = f'data set "{name}"'
        if dataset.shape is None or (dataset.dtype.kind not in "fiuS" and not h5py.check_string_dtype(dataset.dtype)):
            raise self.refused(f"{what} is not numbers or text", found=dataset.dtype)
        properties = dataset.id.get_create_plist()
        if dataset.is_virtual or properties.get_external_count():
            raise self.refused(f"{what} lies in another file, which is not read")
        filters = {properties.get_filter(index)[0] for index in range(properties.get_nfilters())}
        if not filters <= _FILTERS:
            raise self.refused(f"{what} needs a filter that is not HDF5's own", found=min(filters - _FILTERS))
        if not _is_whole(dataset):
            raise self.refused(f"{what} is not completely in the file", expected=dataset.shape)


def _is_whole(dataset: Any) -> bool:
    """Returns whether every value is stored: a file can claim any size, and what is left out is read as zeros."""
    if dataset.chunks:
        pieces = zip(dataset.shape, dataset.chunks, strict=True)
        return bool(dataset.id.get_num_chunks() == math.prod(-(-size // chunk) for size, chunk in pieces))
    stored, size = dataset.id.get_storage_size(), math.prod(dataset.shape)
    # Text of variable length is stored elsewhere; here is only where it begins.
    return bool(stored >= size if dataset.dtype.kind == "O" else stored == size * dataset.dtype.itemsize)


def read_hdf5(path: str) -> Weights:
    """Reads a .caffemodel.h5.

    Raises:
        FileError: It cannot be read, or would unpack to far more than its size suggests.
        WeightsError: It is damaged or not a weights file, or values are missing, not floats or in another file.
    """
    layers: dict[str, dict[int, np.ndarray]] = {}
    for name, values in read_datasets(path, WeightsError, "weights.damaged").items():
        root, _, rest = name.partition("/")
        layer, _, index = rest.rpartition("/")
        if root == "data" and layer and index.isdecimal():
            layers.setdefault(layer, {})[int(index)] = values
    if not layers:
        raise WeightsError(
            f"{path}: the file has no layers", code="weights.empty", hint="layers are the groups under data/"
        )
    return Weights([WeightLayer(layer, "", _layer_arrays(blobs, path, layer)) for layer, blobs in layers.items()])


def _layer_arrays(blobs: Mapping[int, np.ndarray], path: str, layer: str) -> list[np.ndarray | None]:
    """Returns a layer's blobs by index; None for a blob that is stored with the layer that owns it."""
    number = max(blobs) + 1
    if number > _MAX_BLOBS:
        raise WeightsError(f"{path}: no layer has so many blobs", code="weights.hdf5", layer=layer, found=number)
    for values in blobs.values():
        if values.dtype.kind != "f" or values.size > MAX_COUNT:
            raise WeightsError(
                f"{path}: not the values of a blob",
                code="weights.hdf5",
                layer=layer,
                expected=f"at most {MAX_COUNT} floats",
                found=f"{values.size} of {values.dtype}",
            )
    return [as_float32(blobs[index], path, layer) if index in blobs else None for index in range(number)]


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
        WeightsError: HDF5 cannot store this name: it is empty, or leads through another layer's blobs.
    """
    try:
        return data.require_group(layer)
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"{error}", code="weights.hdf5-name", layer=layer, hint="rename the layer or write a .caffemodel"
        ) from error
