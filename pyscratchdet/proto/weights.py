"""Weights files: .caffemodel (binary, any format version), .caffemodel.h5 and .binaryproto, read without loss.

On the wire a packed `repeated float` equals a `bytes` field, so arrays are read through a copy of the schema that
declares them as bytes: protobuf hands them over whole and numpy views them, however large they are.
"""

from __future__ import annotations

import functools
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from pyscratchdet.errors import WeightsError
from pyscratchdet.files import atomic_path, read_bytes, write_bytes
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.upgrade import v1_type_name

MessageType = TypeVar("MessageType", bound=Message)
Arrays = Sequence[np.ndarray]

# Array fields of BlobProto and the type of their values.
_ARRAY_FIELDS = {"data": "<f4", "diff": "<f4", "double_data": "<f8", "double_diff": "<f8"}
# blob.hpp, kMaxBlobAxes, and what an int counts; an HDF5 layer has few blobs, and names with few slashes.
_MAX_AXES = 32
_MAX_COUNT = 2**31 - 1
_MAX_BLOBS = 1000
_MAX_DEPTH = 32
# A skeleton is a NetParameter with empty arrays, or, where protobuf would not write the file byte for byte (vendor
# fields in between), the pieces of the file between the arrays.
_MESSAGE_MARK = b"pyscratchdet skeleton: message\n"
_CHUNK_MARK = b"pyscratchdet skeleton: chunks\n"


@dataclass
class WeightLayer:
    """A layer of a weights file.

    Attributes:
        name: Its Caffe name.
        type: Its Caffe type; empty where the file does not say.
        arrays: Its blobs, float32, in Caffe's shape; None for one that the file leaves to its owner (shared params).
    """

    name: str
    type: str
    arrays: list[np.ndarray | None] = field(default_factory=list)


class Weights:
    """What a weights file holds.

    Attributes:
        layers: All layers in the file's order, those without blobs included.
    """

    def __init__(self, layers: list[WeightLayer]) -> None:
        self.layers = layers

    @property
    def blobs(self) -> dict[str, list[np.ndarray | None]]:
        """{layer: arrays} of the layers that have any; the last of several layers of one name wins."""
        return {layer.name: layer.arrays for layer in self.layers if layer.arrays}


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Reads a .caffemodel of any format version, or a .caffemodel.h5; told apart by content.

    Raises:
        FileError: The file cannot be read.
        WeightsError: It is truncated, foreign, or a blob's values do not fit its shape.
    """
    name = os.fspath(path)
    data = read_bytes(path)
    if data.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_hdf5(name)
    return Weights(_read_layers(_parse_net(data, name), name))


def take_apart(data: bytes, path: str = "<bytes>") -> tuple[bytes, Weights]:
    """Splits a .caffemodel into its arrays and a skeleton with everything else; `put_together` is the way back.

    Args:
        data: Content of the file.
        path: Where it is from, for errors.

    Returns:
        The skeleton and the weights. Values that the file has not in one piece come back in one.

    Raises:
        WeightsError: It is no caffemodel.
    """
    message = _parse_net(data, path)
    weights = Weights(_read_layers(message, path))
    if message.SerializeToString() != data and (chunks := _cut_out_arrays(data, message)) is not None:
        return chunks, weights
    for _, blob in _message_blobs(message):
        if name := _array_field(blob):
            setattr(blob, name, b"")
    return _MESSAGE_MARK + message.SerializeToString(), weights


def put_together(skeleton: bytes, arrays: Sequence[np.ndarray]) -> bytes:
    """Returns the .caffemodel that `take_apart` was given, with these arrays.

    Args:
        skeleton: From `take_apart`.
        arrays: Of all layers, in the file's order.

    Raises:
        WeightsError: The arrays do not fit, or `skeleton` is none.
    """
    if skeleton.startswith(_CHUNK_MARK):
        try:
            return _fill_in_arrays(skeleton[len(_CHUNK_MARK) :], arrays)
        except (struct.error, UnicodeDecodeError, TypeError) as error:
            raise WeightsError("the caffemodel's skeleton is damaged", code="weights.skeleton") from error
    if not skeleton.startswith(_MESSAGE_MARK):
        raise WeightsError("not a caffemodel's skeleton", code="weights.skeleton")
    message = _parse(_bulk_class("NetParameter"), skeleton[len(_MESSAGE_MARK) :], "skeleton")
    blobs = list(_message_blobs(message))
    if len(arrays) != len(blobs):
        raise WeightsError("number of arrays differs", code="weights.skeleton", expected=len(blobs), found=len(arrays))
    for (name, blob), array in zip(blobs, arrays, strict=True):
        _fill_blob(name, blob, array)
    data: bytes = message.SerializeToString()
    return data


def write_caffemodel(
    path: str | os.PathLike[str], net: caffe_pb2.NetParameter, blobs: Mapping[str, Arrays] | Sequence[Arrays]
) -> None:
    """Writes a .caffemodel: the layers of `net` with the arrays of `blobs`, by layer name or one list a layer; atomic.

    Raises:
        FileError: The file cannot be written.
    """
    message = _bulk_class("NetParameter").FromString(net.SerializeToString())
    for index, layer in enumerate(message.layer):
        del layer.blobs[:]
        for array in blobs.get(layer.name, ()) if isinstance(blobs, Mapping) else blobs[index]:
            blob = layer.blobs.add()
            blob.shape.dim.extend(array.shape)
            blob.data = np.ascontiguousarray(array, "<f4").tobytes()
    write_bytes(path, message.SerializeToString())


def write_hdf5(path: str | os.PathLike[str], net: caffe_pb2.NetParameter, blobs: Mapping[str, Arrays]) -> None:
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


def blob_to_array(blob: Message) -> np.ndarray:
    """Returns a BlobProto's values as float32 in its shape, legacy num/channels/height/width included.

    Raises:
        WeightsError: The number of values does not fit the shape.
    """
    return _blob_array(_bulk_class("BlobProto").FromString(blob.SerializeToString()), "BlobProto")


def array_to_blob(array: np.ndarray) -> caffe_pb2.BlobProto:
    """Returns a BlobProto with an array's shape and float32 values."""
    bulk = _bulk_class("BlobProto")()
    bulk.shape.dim.extend(array.shape)
    bulk.data = np.ascontiguousarray(array, "<f4").tobytes()
    blob = caffe_pb2.BlobProto()
    blob.ParseFromString(bulk.SerializeToString())
    return blob


def read_blob(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns the array in a .binaryproto file, such as a mean image.

    Raises:
        FileError, WeightsError: The file is missing or damaged.
    """
    data, name = read_bytes(path), os.fspath(path)
    blob = _parse(_bulk_class("BlobProto"), data, name)
    if not _fits(blob):
        blob = _repacked(_bulk_class("BlobProto"), data, name)
    return _blob_array(blob, name)


def write_blob(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Writes an array as a .binaryproto file; 4-d ones in the legacy form that old readers expect; atomic."""
    blob = array_to_blob(array)
    if array.ndim == 4:
        blob.ClearField("shape")
        blob.num, blob.channels, blob.height, blob.width = array.shape
    write_bytes(path, blob.SerializeToString())


def read_message(path: str | os.PathLike[str], message_class: type[MessageType]) -> MessageType:
    """Returns a binary message such as a SolverState.

    Raises:
        FileError, WeightsError: The file is missing, or truncated or foreign.
    """
    return _parse(message_class, read_bytes(path), os.fspath(path))


def write_message(path: str | os.PathLike[str], message: Message) -> None:
    """Writes a message in binary form; atomic."""
    write_bytes(path, message.SerializeToString())


@functools.cache
def _bulk_class(name: str) -> Any:
    """Returns a message class of the schema in which arrays are bytes."""
    file = descriptor_pb2.FileDescriptorProto()
    caffe_pb2.DESCRIPTOR.CopyToProto(file)
    blob = next(message for message in file.message_type if message.name == "BlobProto")
    for entry in blob.field:
        if entry.name in _ARRAY_FIELDS:
            entry.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
            entry.label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
            entry.ClearField("options")
    pool = _bulk_pool()
    try:
        descriptor = pool.FindMessageTypeByName(f"caffe.{name}")
    except KeyError:
        pool.AddSerializedFile(file.SerializeToString())
        descriptor = pool.FindMessageTypeByName(f"caffe.{name}")
    return message_factory.GetMessageClass(descriptor)


@functools.cache
def _bulk_pool() -> descriptor_pool.DescriptorPool:
    return descriptor_pool.DescriptorPool()


def _parse(message_class: type[MessageType], data: bytes, path: str) -> MessageType:
    message: MessageType = message_class()
    try:
        message.ParseFromString(data)
    except (DecodeError, RecursionError, ValueError) as error:
        kind = message_class.DESCRIPTOR.name
        raise WeightsError(
            f"{path}: not a {kind}, or truncated ({len(data)} bytes)",
            code="weights.damaged",
            hint="this is text" if data[:4096].isascii() and b"\0" not in data[:4096] else None,
        ) from error
    return message


def _parse_net(data: bytes, path: str) -> Any:
    message_class = _bulk_class("NetParameter")
    message = _parse(message_class, data, path)
    if all(_fits(blob) for _, blob in _message_blobs(message)):
        return message
    return _repacked(message_class, data, path)


def _read_layers(message: Any, path: str) -> list[WeightLayer]:
    layers = [_read_layer(layer, path) for layer in _message_layers(message)]
    if not layers:
        raise WeightsError(f"{path}: no layers in it", code="weights.empty", hint="is this a caffemodel?")
    return layers


def _cut_out_arrays(data: bytes, message: Any) -> bytes | None:
    """Returns [chunk length, array length, type, chunk]... and the rest of a file whose arrays are cut out.

    None where the arrays are not in the file in one piece each.
    """
    pieces = [_CHUNK_MARK]
    start = 0
    for _, blob in _message_blobs(message):
        name = _array_field(blob) or "data"
        array = getattr(blob, name)
        header = _varint(blob.DESCRIPTOR.fields_by_name[name].number << 3 | 2) + _varint(len(array))
        found = data.find(header + array, start)
        if found < 0:
            return None
        end = found + len(header)
        kind = _ARRAY_FIELDS[name].encode()
        pieces += [struct.pack("<QQ3s", end - start, len(array), kind), data[start:end]]
        start = end + len(array)
    return b"".join([*pieces, struct.pack("<QQ3s", len(data) - start, 0, b""), data[start:]])


def _fill_in_arrays(chunks: bytes, arrays: Sequence[np.ndarray]) -> bytes:
    pieces: list[bytes] = []
    rest = iter(arrays)
    place, size = 0, struct.calcsize("<QQ3s")
    while place < len(chunks):
        length, array_length, kind = struct.unpack_from("<QQ3s", chunks, place)
        pieces.append(chunks[place + size : place + size + length])
        place += size + length
        if kind != b"\0\0\0":
            array = next(rest, None)
            values = b"" if array is None else np.ascontiguousarray(array, kind.decode()).tobytes()
            if array is None or len(values) != array_length:
                raise WeightsError("the arrays do not fit the skeleton", code="weights.skeleton")
            pieces.append(values)
    if next(rest, None) is not None:
        raise WeightsError("more arrays than the skeleton has", code="weights.skeleton")
    return b"".join(pieces)


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def _message_layers(message: Any) -> Iterator[Any]:
    """Yields LayerParameter, V1LayerParameter or V0LayerParameter messages."""
    yield from message.layer
    for layer in message.layers:
        yield layer.layer if layer.HasField("layer") else layer


def _message_blobs(message: Any) -> Iterator[tuple[str, Any]]:
    for layer in _message_layers(message):
        for blob in layer.blobs:
            yield layer.name, blob


def _read_layer(layer: Any, path: str) -> WeightLayer:
    kind = layer.type
    if isinstance(kind, int):  # V1 names its types by an enum
        kind = v1_type_name(kind)
    if isinstance(layer.name, bytes) or isinstance(kind, bytes):  # what protobuf gives where text is not UTF-8
        raise WeightsError(f"{path}: a layer's name is not UTF-8 text", code="weights.damaged", found=layer.name)
    arrays = [_blob_array(blob, path, layer.name, kind) for blob in layer.blobs]
    return WeightLayer(layer.name, kind, list(arrays))


def _array_field(blob: Any) -> str | None:
    """Returns which field holds the values."""
    return next((name for name in ("double_data", "data") if blob.HasField(name)), None)


def _blob_shape(blob: Any) -> tuple[int, ...]:
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        return blob.num, blob.channels, blob.height, blob.width
    return tuple(blob.shape.dim)


def _blob_array(blob: Any, path: str, layer: str | None = None, layer_type: str | None = None) -> np.ndarray:
    name = _array_field(blob)
    data = getattr(blob, name) if name else b""
    kind = np.dtype(_ARRAY_FIELDS[name or "data"])
    shape = _blob_shape(blob)
    if len(shape) > _MAX_AXES:
        raise WeightsError(
            f"{path}: a blob with too many axes",
            code="weights.axes",
            layer=layer,
            layer_type=layer_type,
            expected=f"at most {_MAX_AXES}",
            found=len(shape),
        )
    if min(shape, default=0) < 0 or max(shape, default=0) > _MAX_COUNT or math.prod(shape) * kind.itemsize != len(data):
        raise WeightsError(
            f"{path}: a blob's values do not fit its shape",
            code="weights.count",
            layer=layer,
            layer_type=layer_type,
            expected=f"{math.prod(shape)} values for shape {shape}",
            found=len(data) / kind.itemsize,
        )
    return _as_float32(np.frombuffer(data, kind), path, layer).reshape(shape)


def _as_float32(values: np.ndarray, path: str, layer: str | None) -> np.ndarray:
    """Returns doubles as floats; a copy is made only where it must be."""
    try:
        with np.errstate(over="raise", invalid="ignore"):
            return values.astype(np.float32, copy=False)
    except FloatingPointError as error:
        raise WeightsError(f"{path}: a value is beyond float32", code="weights.range", layer=layer) from error


def _fill_blob(layer: str, blob: Any, array: np.ndarray) -> None:
    name = _array_field(blob) or "data"
    shape = _blob_shape(blob)
    if math.prod(shape) != array.size:
        raise WeightsError(
            "an array's size differs", code="weights.skeleton", layer=layer, expected=shape, found=array.shape
        )
    setattr(blob, name, np.ascontiguousarray(array, _ARRAY_FIELDS[name]).tobytes())


def _fits(blob: Any) -> bool:
    name = _array_field(blob)
    number = len(getattr(blob, name)) // np.dtype(_ARRAY_FIELDS[name]).itemsize if name else 0
    return number == math.prod(_blob_shape(blob))


def _repacked(message_class: type[Message], data: bytes, path: str) -> Any:
    """Reads values that are not in one piece: written one by one, as very old files may have them, or in several."""
    plain = _parse(getattr(caffe_pb2, message_class.DESCRIPTOR.name), data, path)
    return message_class.FromString(plain.SerializeToString())


def _read_hdf5(path: str) -> Weights:
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
    if dataset.size > _MAX_COUNT or not is_whole:
        raise WeightsError(
            f"{path}: a blob's values are not in the file", code="weights.count", layer=layer, expected=dataset.shape
        )
    return _as_float32(np.asarray(dataset[()]), path, layer)
