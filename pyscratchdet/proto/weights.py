"""Weights files: .caffemodel (binary, any format version), .caffemodel.h5 and .binaryproto, read without loss.

A caffemodel is mapped and its arrays are read-only views on the map: only what surrounds them is parsed by protobuf.
"""

from __future__ import annotations

import math
import mmap
import os
import shlex
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from pyscratchdet.errors import WeightsError, counted
from pyscratchdet.files import map_bytes, read_bytes, write_bytes, write_pieces
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.hdf5 import HDF5_MARK, read_hdf5
from pyscratchdet.proto.layer_arrays import MAX_COUNT, WeightLayer, Weights, as_float32
from pyscratchdet.proto.numbers import dialect_of_message, dialect_of_net, from_dialect, say_dialect, to_dialect
from pyscratchdet.proto.upgrade import v1_type_name
from pyscratchdet.proto.wire import BYTES, FIXED32, FIXED64, Field, WireError, header, join_fields, read_fields

MessageType = TypeVar("MessageType", bound=Message)
Arrays = Sequence[np.ndarray]

_OTHERS = (".safetensors", ".pt", ".pth", ".onnx")  # forms of weights that `convert` reads
_ANOTHER = "if another Caffe wrote it, --dialect (in Python binary_dialect) names whose field numbers it has"

# blob.hpp, kMaxBlobAxes.
_MAX_AXES = 32
# A skeleton is the pieces of the file between the arrays, each preceded by its length and the array's length and type.
_SKELETON_MARK = b"pyscratchdet skeleton: chunks\n"
_PIECE = struct.Struct("<QQ3s")


def _number(message_class: type[Message], name: str) -> int:
    return int(message_class.DESCRIPTOR.fields_by_name[name].number)


# Array fields of BlobProto by number, and the type of their values; blob.cpp, Blob::FromProto, prefers doubles.
_VALUES = {_number(caffe_pb2.BlobProto, "double_data"): "<f8", _number(caffe_pb2.BlobProto, "data"): "<f4"}
# The wire types of values that are written one by one.
_SINGLE = {number: FIXED64 if kind == "<f8" else FIXED32 for number, kind in _VALUES.items()}
_DIFFS = {_number(caffe_pb2.BlobProto, name) for name in ("diff", "double_diff", "raw_diff")}
# NVIDIA's Caffe writes values as raw bytes of a type.
_RAW = _number(caffe_pb2.BlobProto, "raw_data")
_RAW_TYPES = {caffe_pb2.DOUBLE: "<f8", caffe_pb2.FLOAT: "<f4", caffe_pb2.FLOAT16: "<f2"}
_DATA = _number(caffe_pb2.BlobProto, "data")
# Fields of NetParameter that hold layers, and of layers that hold blobs.
_LAYERS = {
    _number(caffe_pb2.NetParameter, "layer"): "LayerParameter",
    _number(caffe_pb2.NetParameter, "layers"): "V1LayerParameter",
}
_V0_LAYER = _number(caffe_pb2.V1LayerParameter, "layer")


class _Scattered(Exception):
    """A blob's values are not in one piece: written one by one, as in very old files, or in several pieces."""


class _Blob(NamedTuple):
    """A blob as it lies in a file: `data[start:end]` are its values, `kind` their type, `message` is the rest of it."""

    message: Any
    kind: str
    start: int
    end: int


class _Layer(NamedTuple):
    """A layer as it lies in a file; `message` is all of it but its blobs."""

    message: Any
    blobs: list[_Blob]


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Reads a .caffemodel of any format version, or a .caffemodel.h5, told apart by their content.

    The arrays are read-only; they are views on the mapped file where it holds them in one piece, as all but very old
    files do.

    Raises:
        FileError: The file cannot be read.
        WeightsError: It is truncated or not a weights file, or a blob's values do not fit its shape.
    """
    name = os.fspath(path)
    check_form(name)
    data = map_bytes(path)
    if data[: len(HDF5_MARK)] == HDF5_MARK:
        return read_hdf5(name)
    return _weights(*_walk_net(data, name), name)


def check_form(path: str | os.PathLike[str], model: str | os.PathLike[str] = "NET") -> None:
    """Checks by its ending that a file may be of one of Caffe's own forms of weights.

    Args:
        path: The file.
        model: Prototxt of the net, for the hint.

    Raises:
        WeightsError: It is a form that `convert` reads; the hint is the command.
    """
    stem, ending = os.path.splitext(os.fspath(path))
    if ending.lower() in _OTHERS:
        files = [os.fspath(path), f"{stem}.caffemodel", "--model", os.fspath(model)]
        raise WeightsError(
            f"{os.fspath(path)}: not one of Caffe's own forms of weights",
            code="weights.form",
            expected=".caffemodel or .caffemodel.h5",
            found=ending,
            hint=f"convert it first: pyscratchdet convert {shlex.join(files)}",
        )


def release(array: np.ndarray) -> None:
    """Frees the memory of a mapped file's pages once an array of `read_weights` has been copied elsewhere.

    The array stays valid: its values are read from the file again when needed. Other arrays are left alone.
    """
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    content = owner.obj if isinstance(owner, memoryview) else None
    if isinstance(content, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # Windows lacks it
        content.madvise(mmap.MADV_DONTNEED)


def take_apart(data: bytes | memoryview, path: str = "<bytes>") -> tuple[bytes, Weights]:
    """Splits a .caffemodel into its arrays and a skeleton with everything else; `put_together` is the way back.

    Args:
        data: Content of the file.
        path: Where it comes from, for errors.

    Returns:
        The skeleton and the weights, whose arrays are views on `data`. Values that the file holds in several pieces are
        joined into one array.

    Raises:
        WeightsError: It is not a caffemodel.
    """
    view, layers = _walk_net(memoryview(data), path)
    return _cut_out_arrays(view, layers), _weights(view, layers, path)


def put_together(skeleton: bytes, arrays: Arrays) -> list[bytes | np.ndarray]:
    """Returns the .caffemodel that `take_apart` was given, with these arrays, in pieces: float32 ones are not copied.

    Args:
        skeleton: From `take_apart`.
        arrays: Of all layers, in the file's order.

    Raises:
        WeightsError: The arrays do not fit, or `skeleton` is not a skeleton.
    """
    if not skeleton.startswith(_SKELETON_MARK):
        raise WeightsError("not a caffemodel's skeleton", code="weights.skeleton")
    try:
        pieces = list(_skeleton_pieces(skeleton))
    except (struct.error, ValueError) as error:
        raise WeightsError("the caffemodel's skeleton is damaged", code="weights.skeleton") from error
    places = [(length, kind) for _, length, kind in pieces if kind]
    if len(places) != len(arrays):
        raise WeightsError(
            "the number of arrays differs", code="weights.skeleton", expected=len(places), found=len(arrays)
        )
    rest = iter(arrays)
    result: list[bytes | np.ndarray] = []
    for piece, length, kind in pieces:
        result.append(piece)
        if kind:
            result.append(np.ascontiguousarray(next(rest), kind))
            if result[-1].nbytes != length:  # type: ignore[union-attr]
                raise WeightsError("an array's size differs", code="weights.skeleton", expected=f"{length} bytes")
    return result


def skeleton_layers(skeleton: bytes) -> list[Message]:
    """Returns the layers of a caffemodel by its skeleton, of the type that the file has, without their blobs.

    Raises:
        WeightsError: It is not a skeleton.
    """
    places = [length // np.dtype(kind).itemsize for _, length, kind in _skeleton_pieces(skeleton) if kind]
    whole = join_pieces(put_together(skeleton, [np.zeros(number, np.float16) for number in places]))
    return [layer.message for layer in _walk_net(memoryview(whole), "<skeleton>")[1]]


def join_pieces(pieces: Iterable[bytes | np.ndarray]) -> bytes:
    """Joins the pieces of a file into its content."""
    return b"".join(piece if isinstance(piece, bytes) else piece.tobytes() for piece in pieces)


def write_caffemodel(
    path: str | os.PathLike[str], net: caffe_pb2.NetParameter, blobs: Mapping[str, Arrays] | Sequence[Arrays]
) -> None:
    """Writes a .caffemodel: the layers of `net` with the arrays of `blobs`, by layer name or in one list each; atomic.

    The bytes are those that protobuf writes for such a net. Arrays are written as they are, float32 ones without a
    copy.

    Raises:
        FileError: The file cannot be written.
    """
    write_pieces(path, _net_pieces(net, blobs))


def blob_to_array(blob: Message) -> np.ndarray:
    """Returns a BlobProto's values as float32 in its shape, including the legacy num/channels/height/width.

    Raises:
        WeightsError: The number of values does not fit the shape.
    """
    return _read_blob(memoryview(blob.SerializeToString()), "BlobProto")


def array_to_blob(array: np.ndarray) -> caffe_pb2.BlobProto:
    """Returns a BlobProto with an array's shape and float32 values."""
    blob = caffe_pb2.BlobProto()
    blob.ParseFromString(join_pieces(_blob_pieces(np.asarray(array, "<f4", order="C"))))
    return blob


def read_blob(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns the array in a .binaryproto file, such as a mean image.

    Raises:
        FileError, WeightsError: The file is missing or damaged.
    """
    return _read_blob(map_bytes(path), os.fspath(path))


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
        FileError, WeightsError: The file is missing, truncated or not such a message.
    """
    data, name = read_bytes(path), os.fspath(path)
    try:
        is_net = message_class.DESCRIPTOR.name == "NetParameter"
        dialect = dialect_of_net(memoryview(data)) if is_net else dialect_of_message()
    except WireError as error:
        raise _damaged(message_class, data, name, str(error)) from error
    say_dialect(name, dialect)
    return _parse(message_class, data, name, dialect)


def write_message(path: str | os.PathLike[str], message: Message) -> None:
    """Writes a message in binary form, by the numbers of the dialect asked for (`binary_dialect`); atomic."""
    write_bytes(path, to_dialect(message.SerializeToString(), type(message)))


# --- reading ---


def _parse(message_class: type[MessageType], data: bytes, path: str, dialect: str = "") -> MessageType:
    message: MessageType = message_class()
    try:
        message.ParseFromString(from_dialect(data, message_class, dialect))
    except (DecodeError, RecursionError, ValueError) as error:
        hint = _ANOTHER if _is_sound(data) else None
        raise _damaged(message_class, data, path, counted(len(data), "byte"), hint) from error
    return message


def _is_sound(data: bytes) -> bool:
    """Returns whether bytes are some message, if not the one that was wanted."""
    try:
        return any(read_fields(memoryview(data), 0, len(data)))
    except WireError:
        return False


def _damaged(
    message_class: type[Message], data: bytes | memoryview, path: str, what: str, hint: str | None = None
) -> WeightsError:
    beginning = bytes(data[:4096])
    return WeightsError(
        f"{path}: not a {message_class.DESCRIPTOR.name}, or truncated ({what})",
        code="weights.damaged",
        hint="this is text" if beginning.isascii() and b"\0" not in beginning else hint,
    )


def _walk_net(data: memoryview, path: str) -> tuple[memoryview, list[_Layer]]:
    """Returns the layers of a NetParameter and the bytes in which they lie."""
    try:
        dialect = dialect_of_net(data)
        say_dialect(path, dialect)
        return data, _find_layers(data, path, dialect)
    except WireError as error:
        raise _damaged(caffe_pb2.NetParameter, data, path, str(error)) from error
    except _Scattered:
        whole = memoryview(_parse(caffe_pb2.NetParameter, bytes(data), path, dialect).SerializeToString())
        return whole, _find_layers(whole, path, "")


def _find_layers(data: memoryview, path: str, dialect: str) -> list[_Layer]:
    layers, rest = [], []
    for field in read_fields(data, 0, len(data)):
        if field.kind == BYTES and field.number in _LAYERS:
            layers.append(_find_blobs(data, field, getattr(caffe_pb2, _LAYERS[field.number]), path, dialect))
        else:
            rest.append(field)
    _parse(caffe_pb2.NetParameter, join_fields(data, rest), path, dialect)
    return layers


def _find_blobs(data: memoryview, layer: Field, message_class: type[Message], path: str, dialect: str) -> _Layer:
    fields = list(read_fields(data, layer.payload, layer.end))
    if message_class is caffe_pb2.V1LayerParameter:  # may hold a V0LayerParameter, which then counts
        old = [field for field in fields if field.kind == BYTES and field.number == _V0_LAYER]
        if old:
            _parse(message_class, join_fields(data, (field for field in fields if field not in old)), path, dialect)
            message_class = caffe_pb2.V0LayerParameter
            fields = [field for part in old for field in read_fields(data, part.payload, part.end)]
    number = _number(message_class, "blobs")
    blobs = [field for field in fields if field.kind == BYTES and field.number == number]
    rest = (field for field in fields if field.kind != BYTES or field.number != number)
    message = _parse(message_class, join_fields(data, rest), path, dialect)
    return _Layer(message, [_find_values(data, blob.payload, blob.end, path) for blob in blobs])


def _find_values(data: memoryview, start: int, end: int, path: str) -> _Blob:
    """Finds a blob's values in `data[start:end]`.

    Raises:
        _Scattered: They are not in one piece.
    """
    found: dict[int, Field] = {}
    rest = []
    for field in read_fields(data, start, end):
        if field.number in _VALUES and field.kind == BYTES and field.number not in found:
            found[field.number] = field
        elif field.number in _VALUES and field.kind in (BYTES, _SINGLE[field.number]):
            raise _Scattered
        elif field.number == _RAW and field.kind == BYTES:
            found[_RAW] = field
        elif field.number not in _DIFFS:  # values of another wire type are an unknown field to protobuf
            rest.append(field)
    message = _parse(caffe_pb2.BlobProto, join_fields(data, rest), path)
    for number, kind in _VALUES.items():
        if number in found and found[number].payload < found[number].end:
            return _Blob(message, kind, found[number].payload, found[number].end)
    if _RAW not in found:
        return _Blob(message, "<f4", end, end)
    if message.raw_data_type not in _RAW_TYPES:
        raise WeightsError(
            f"{path}: a blob's raw_data_type is not a type of weights",
            code="weights.raw-type",
            expected="DOUBLE, FLOAT or FLOAT16",
            found=caffe_pb2.Type.Name(message.raw_data_type),
        )
    return _Blob(message, _RAW_TYPES[message.raw_data_type], found[_RAW].payload, found[_RAW].end)


def _read_blob(data: memoryview, path: str) -> np.ndarray:
    try:
        return _array(data, _find_values(data, 0, len(data), path), path)
    except WireError as error:
        raise _damaged(caffe_pb2.BlobProto, data, path, str(error)) from error
    except _Scattered:
        whole = memoryview(_parse(caffe_pb2.BlobProto, bytes(data), path).SerializeToString())
        return _array(whole, _find_values(whole, 0, len(whole), path), path)


def _weights(data: memoryview, layers: Sequence[_Layer], path: str) -> Weights:
    if not layers:
        raise WeightsError(f"{path}: the file has no layers", code="weights.empty", hint="is this a caffemodel?")
    return Weights([_weight_layer(data, layer, path) for layer in layers])


def _weight_layer(data: memoryview, layer: _Layer, path: str) -> WeightLayer:
    name, kind = layer.message.name, layer.message.type
    if isinstance(kind, int):  # V1 names its types by an enum
        kind = v1_type_name(kind)
    for what, text in (("name", name), ("type", kind)):
        if isinstance(text, bytes):  # what protobuf returns for text that is not UTF-8
            raise WeightsError(f"{path}: a layer's {what} is not UTF-8 text", code="weights.damaged", found=text)
    return WeightLayer(name, kind, [_array(data, blob, path, name, kind) for blob in layer.blobs])


def _blob_shape(blob: Any) -> tuple[int, ...]:
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        return blob.num, blob.channels, blob.height, blob.width
    return tuple(blob.shape.dim)


def _array(
    data: memoryview, blob: _Blob, path: str, layer: str | None = None, layer_type: str | None = None
) -> np.ndarray:
    kind, shape, length = np.dtype(blob.kind), _blob_shape(blob.message), blob.end - blob.start
    where: dict[str, Any] = {"layer": layer, "layer_type": layer_type}
    if len(shape) > _MAX_AXES:
        raise WeightsError(
            f"{path}: a blob has too many axes",
            code="weights.axes",
            expected=f"at most {_MAX_AXES}",
            found=len(shape),
            **where,
        )
    if min(shape, default=0) < 0 or max(shape, default=0) > MAX_COUNT or math.prod(shape) * kind.itemsize != length:
        raise WeightsError(
            f"{path}: a blob's values do not fit its shape",
            code="weights.count",
            expected=f"{counted(math.prod(shape), 'value')} for shape {shape}",
            found=length / kind.itemsize,
            **where,
        )
    return as_float32(np.frombuffer(data[blob.start : blob.end], kind), path, layer).reshape(shape)


# --- the skeleton ---


def _cut_out_arrays(data: memoryview, layers: Sequence[_Layer]) -> bytes:
    pieces = [_SKELETON_MARK]
    place = 0
    for blob in (blob for layer in layers for blob in layer.blobs):
        pieces.append(_PIECE.pack(blob.start - place, blob.end - blob.start, blob.kind.encode()))
        pieces.append(bytes(data[place : blob.start]))
        place = blob.end
    return b"".join([*pieces, _PIECE.pack(len(data) - place, 0, b""), bytes(data[place:])])


def _skeleton_pieces(skeleton: bytes) -> Iterator[tuple[bytes, int, str]]:
    """Yields (piece, length of the array after it, its type); there is no type where no array follows."""
    place = len(_SKELETON_MARK)
    while place < len(skeleton):
        length, array_length, kind = _PIECE.unpack_from(skeleton, place)
        place += _PIECE.size
        if length > len(skeleton) - place or kind.decode() not in ("\0\0\0", *_RAW_TYPES.values()):
            raise ValueError("a piece without an end, or another type")
        yield skeleton[place : place + length], array_length, kind.decode().strip("\0")
        place += length


# --- writing ---


def _net_pieces(
    net: caffe_pb2.NetParameter, blobs: Mapping[str, Arrays] | Sequence[Arrays]
) -> Iterator[bytes | np.ndarray]:
    rest = caffe_pb2.NetParameter()
    rest.CopyFrom(net)
    rest.ClearField("layer")
    number = _number(caffe_pb2.NetParameter, "layer")
    before, behind = _around(rest, number)
    yield before
    for index, layer in enumerate(net.layer):
        arrays = blobs.get(layer.name, ()) if isinstance(blobs, Mapping) else blobs[index]
        pieces = list(_layer_pieces(layer, arrays))
        yield header(number, _length(pieces))
        yield from pieces
    yield behind


def _layer_pieces(layer: caffe_pb2.LayerParameter, arrays: Arrays) -> Iterator[bytes | np.ndarray]:
    rest = caffe_pb2.LayerParameter()
    rest.CopyFrom(layer)
    rest.ClearField("blobs")
    number = _number(caffe_pb2.LayerParameter, "blobs")
    before, behind = _around(rest, number)
    yield before
    for array in arrays:
        pieces = _blob_pieces(np.asarray(array, "<f4", order="C"))
        yield header(number, _length(pieces))
        yield from pieces
    yield behind


def _blob_pieces(array: np.ndarray) -> list[bytes | np.ndarray]:
    """Returns a BlobProto's bytes, the array among them as it is; without data if it is empty, as in protobuf."""
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(array.shape)
    shape = blob.SerializeToString()
    return [header(_DATA, array.nbytes), array, shape] if array.size else [shape]


def _around(message: Message, number: int) -> tuple[bytes, bytes]:
    """Returns a message's bytes before and after the place of field `number`: protobuf writes fields by number."""
    data = to_dialect(message.SerializeToString(), type(message))
    view = memoryview(data)
    place = next((field.start for field in read_fields(view, 0, len(data)) if field.number > number), len(data))
    return data[:place], data[place:]


def _length(pieces: Sequence[bytes | np.ndarray]) -> int:
    return sum(len(piece) if isinstance(piece, bytes) else piece.nbytes for piece in pieces)
