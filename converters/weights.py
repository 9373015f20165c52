"""Weights from one file form into another, without loss: caffemodel, HDF5, safetensors, pt, ONNX; and into programs.

Arrays keep Caffe's layout, which for convolutions and inner products is PyTorch's own. A key is `<layer>.<role>`
(`conv1_1.weight`), the key of the net's state_dict. What a caffemodel holds besides arrays is kept as its
skeleton, so that converting back gives the same bytes.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pyscratchdet.errors import ConversionError, FileError, PyScratchDetError, WeightsError
from pyscratchdet.files import atomic_path, check_unpacked, check_zip, map_bytes, open_bytes, read_bytes, write_pieces
from pyscratchdet.layers.plan import NetFile, NetPlan, plan_net, read_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.file_names import file_names
from pyscratchdet.proto.hdf5 import HDF5_MARK, write_hdf5
from pyscratchdet.proto.weights import put_together, read_weights, skeleton_layers, take_apart, write_caffemodel

if TYPE_CHECKING:
    from pyscratchdet.runtime import Net

SKELETON = "caffe_skeleton"
_LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass
class Bundle:
    """Weights on their way between two files.

    Attributes:
        blobs: {layer: float32 arrays in Caffe's layout}, in the net's order.
        skeleton: What a caffemodel holds besides arrays, where the weights come from one.
        unknown: Layers that the net lacks; they are kept for converting back, and Caffe skips them.
        drawn: Layers that the file lacks, where the target is a whole net; they have what their fillers drew.
        forgotten: Files and folders that the skeleton names, where the target was written without it.
    """

    blobs: dict[str, list[np.ndarray]] = field(default_factory=dict)
    skeleton: bytes | None = None
    unknown: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Choices:
    """How a file is written.

    Attributes:
        half: Store values as float16 (.safetensors, .pt, .onnx); computing stays in float32.
        onnx: For ONNX, options of `export_onnx`.
        torch: For .pt2, options of `export_program`; for .py, those of `module_source`.
        facts: For a whole net (ONNX, .pt2, .py), what the file says about itself.
        keep_paths: For ONNX, keep the skeleton of a caffemodel that names files too. Without, the file does not tell
            where data of the training lay, and the way back gives the same values in other bytes.
    """

    half: bool = False
    onnx: Mapping[str, Any] = field(default_factory=dict)
    torch: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    keep_paths: bool = False

    @property
    def dtype(self) -> type[np.floating]:
        """The type that values are stored as."""
        return np.float16 if self.half else np.float32


class Names:
    """How blobs are called outside Caffe: `<layer>.<role>`.

    Args:
        model: The net, which gives blobs their roles; without it, and for layers it lacks, they are `blob0`, `blob1`...
    """

    def __init__(self, model: NetFile | str | os.PathLike[str] | None) -> None:
        self.file: NetFile | None = model if model is None or isinstance(model, NetFile) else read_net(model)
        self.plan: NetPlan | None = None if self.file is None else plan_net(self.file, caffe_pb2.TEST)
        layers = self.plan.layers if self.plan else []
        self.roles = {layer.name: [spec.role for spec in layer.blobs] for layer in layers if layer.blobs}

    def keys(self, layer: str, number: int) -> list[str]:
        """Returns the keys of a layer's blobs."""
        roles = self.roles.get(layer, [])
        if len(roles) != number:
            roles = [f"blob{index}" for index in range(number)]
        return [f"{layer}.{role}" for role in roles]

    def group(self, arrays: Mapping[str, np.ndarray], path: str) -> dict[str, list[np.ndarray]]:
        """Returns {layer: arrays} from {key: array}, layers in the order of their first keys.

        Raises:
            WeightsError: A layer has only some of its blobs, or a key is not of that form.
        """
        found: dict[str, dict[str, np.ndarray]] = {}
        for key, array in arrays.items():
            layer, _, role = key.rpartition(".")
            if not layer:
                raise WeightsError(f'{path}: key "{key}" is not <layer>.<role>', code="weights.key")
            found.setdefault(layer, {})[role] = array
        return {layer: self._ordered(layer, blobs, path) for layer, blobs in found.items()}

    def _ordered(self, layer: str, blobs: Mapping[str, np.ndarray], path: str) -> list[np.ndarray]:
        numbered = [f"blob{index}" for index in range(len(blobs))]
        roles = numbered if set(blobs) == set(numbered) else self.roles.get(layer, list(blobs))
        if set(roles) != set(blobs):
            raise WeightsError(
                f"{path}: blobs differ from the net's",
                code="weights.key",
                layer=layer,
                expected=roles,
                found=list(blobs),
            )
        return [blobs[role] for role in roles]


def convert_weights(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    **choices: Any,
) -> Bundle:
    """Converts a weights file; the names' endings choose the forms.

    They are .caffemodel, .h5, .safetensors, .pt/.pth and .onnx, and for writing only .pt2 and .py.

    Args:
        source: File to read.
        target: File to write; atomic.
        model: Deploy prototxt; gives blobs their names and ONNX, .pt2 and .py their graph, and is needed for a
            caffemodel without skeleton.
        **choices: Fields of `Choices`.

    Returns:
        What was converted.

    Raises:
        FileError, WeightsError, ConversionError: A file is damaged, of unknown form, or lacks what the target needs.
    """
    names = Names(model)
    _by_ending(target, _WRITERS, "written")  # before the work, not after
    bundle = read_bundle(source, names)
    write_bundle(target, bundle, names, **choices)
    return bundle


def read_bundle(source: str | os.PathLike[str], names: Names) -> Bundle:
    """Reads weights in any form; see `convert_weights`."""
    bundle: Bundle = _by_ending(source, _READERS, "read")(os.fspath(source), names)
    if not bundle.blobs:
        raise WeightsError(f"{os.fspath(source)}: no weights in it", code="weights.empty")
    known = {node.name for node in names.plan.graph.nodes} if names.plan else bundle.blobs.keys()
    bundle.unknown = [layer for layer in bundle.blobs if layer not in known]
    return bundle


def write_bundle(target: str | os.PathLike[str], bundle: Bundle, names: Names, **choices: Any) -> None:
    """Writes weights in any form; see `convert_weights`."""
    chosen = Choices(**choices)
    if chosen.half:
        _check_half(bundle, names, os.fspath(target))
    _by_ending(target, _WRITERS, "written")(os.fspath(target), bundle, names, chosen)


def _check_half(bundle: Bundle, names: Names, path: str) -> None:
    """Refuses values that float16 cannot hold, and targets that cannot hold float16."""
    if path.lower().endswith((".caffemodel", ".h5")):
        raise ConversionError(f"{path}: Caffe's forms hold float32 only", code="convert.half")
    for layer, found in _beyond_half(bundle.blobs):
        raise ConversionError(
            "values too large for float16",
            code="convert.half",
            layer=layer,
            expected=f"<= {_LARGEST_HALF:g}",
            found=found,
            hint="--fold beside --half folds the layer into the one before it" if _folds(bundle, names) else None,
        )


def _beyond_half(blobs: Mapping[str, Sequence[np.ndarray]]) -> Iterator[tuple[str, float]]:
    """Yields (layer, largest value) where float16 cannot hold it."""
    for layer, arrays in blobs.items():
        found = max((float(np.abs(array[np.isfinite(array)]).max(initial=0)) for array in arrays), default=0.0)
        if found > _LARGEST_HALF:
            yield layer, found


def _folds(bundle: Bundle, names: Names) -> bool:
    """Whether float16 holds the net once it is folded."""
    from pyscratchdet.converters.merge_bn import merge_bn

    if names.file is None:
        return False
    try:
        return not any(_beyond_half(merge_bn(names.file.param, bundle.blobs).blobs))
    except PyScratchDetError:
        return False


def _by_ending(path: str | os.PathLike[str], table: Mapping[str, Callable[..., Any]], what: str) -> Callable[..., Any]:
    name = os.fspath(path).lower()
    for ending, function in table.items():
        if name.endswith(ending):
            return function
    raise ConversionError(
        f"{os.fspath(path)}: files with this ending cannot be {what}", code="convert.ending", expected=", ".join(table)
    )


def _read_caffe(path: str, names: Names) -> Bundle:
    data = map_bytes(path)
    if data[: len(HDF5_MARK)] == HDF5_MARK:
        return _read_hdf5(path, names)
    skeleton, weights = take_apart(data, path)
    _check_unique([layer.name for layer in weights.layers if layer.arrays], path)
    return Bundle({name: list(arrays) for name, arrays in weights.blobs.items()}, skeleton)  # type: ignore[arg-type]


def _read_hdf5(path: str, names: Names) -> Bundle:
    blobs = read_weights(path).blobs
    return Bundle({name: [a for a in arrays if a is not None] for name, arrays in blobs.items()})


def _read_safetensors(path: str, names: Names) -> Bundle:
    tensors, metadata = _safetensors(path, "numpy")
    arrays = {key: _float32(value, key, path) for key, value in tensors.items()}
    order = metadata.get("order", "").split("\n") if "order" in metadata else list(arrays)
    if sorted(order) != sorted(arrays):
        raise WeightsError(f"{path}: its list of keys does not fit its arrays", code="weights.damaged")
    return Bundle(names.group({key: arrays[key] for key in order}, path), _decoded(metadata.get(SKELETON), path))


def _safetensors(path: str, framework: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the tensors, "pt" for PyTorch's or "numpy" for arrays, and the metadata of a file.

    Raises:
        FileError, WeightsError: The file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework=framework) as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: damaged safetensors file: {error}", code="weights.damaged") from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}", code="file.read") from error


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the tensors of a .pt, .pth or .safetensors file by key.

    A .pt or .pth file is a state_dict, or a dict that holds one under `state_dict`. Integers (`num_batches_tracked`)
    keep their type. No code in the file is run.

    Raises:
        FileError, WeightsError: The file is missing, damaged, or holds other things.
    """
    name = os.fspath(path)
    is_plain = name.lower().endswith(".safetensors")
    state = _safetensors(name, "pt")[0] if is_plain else _state(load_pt(name), name)
    return {key: _numpy(value, key, name) for key, value in state.items()}


def _read_pt(path: str, names: Names) -> Bundle:
    content = load_pt(path)
    arrays = {key: _float32(_numpy(value, key, path), key, path) for key, value in _state(content, path).items()}
    skeleton = content.get(SKELETON)
    return Bundle(names.group(arrays, path), None if skeleton is None else _numpy(skeleton, SKELETON, path).tobytes())


def load_pt(path: str) -> dict[str, Any]:
    """Returns the dict in a .pt file, read without running code.

    Raises:
        FileError, WeightsError: The file is missing, damaged, or holds no dict of plain values.
    """
    import torch

    with open_bytes(path) as file, warnings.catch_warnings():
        check_zip(file, path)
        warnings.simplefilter("ignore")  # about pickle protocols
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's reader raises all kinds of exceptions for damaged bytes
            raise WeightsError(
                f"{path}: not a file of plain weights, or damaged",
                code="weights.damaged",
                hint="only dicts of tensors and numbers are read, never code or other objects",
            ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: no state_dict in it", code="weights.pt")
    try:
        num_values = _num_values(content, {})
    except RecursionError as error:
        raise WeightsError(f"{path}: dicts are nested too deeply", code="weights.pt") from error
    check_unpacked(4 * num_values, os.path.getsize(path), path)
    return content


def _num_values(content: Any, known: dict[int, int]) -> int:
    """Returns how many values the tensors in dicts and lists have; a tensor may use one stored value many times.

    Args:
        content: What is counted, once for each place where it appears.
        known: Counts by identity; filled.
    """
    import torch

    if isinstance(content, torch.Tensor):
        return content.numel()
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, (list, tuple)) else ()
    if id(content) not in known:
        known[id(content)] = 0  # for content that contains itself
        known[id(content)] = sum(_num_values(part, known) for part in parts)
    return known[id(content)]


def _state(content: dict[str, Any], path: str) -> dict[str, Any]:
    import torch

    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{path}: no state_dict in it", code="weights.pt")
    return {str(key): value for key, value in state.items()}


def _read_onnx(path: str, names: Names) -> Bundle:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(read_bytes(path))
    except (DecodeError, ValueError) as error:
        raise WeightsError(f"{path}: damaged ONNX file", code="weights.damaged") from error
    known = [key for layer, roles in names.roles.items() for key in names.keys(layer, len(roles))]
    if not known:
        raise ConversionError("weights from ONNX need --model", code="convert.model")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    text = metadata.get("order")
    order = text.split("\n") if isinstance(text, str) else known
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    if text is not None and (missing := [key for key in order if key not in tensors]):
        raise WeightsError(f"{path}: arrays are missing", code="weights.damaged", found=f"no {', '.join(missing[:5])}")
    arrays = {key: _float32(onnx_array(tensors[key], path), key, path) for key in order if key in tensors}
    return Bundle(names.group(arrays, path), _decoded(metadata.get(SKELETON), path))


def onnx_array(tensor: Any, path: str) -> np.ndarray:
    """Returns the values of an ONNX tensor that is stored in the file itself.

    Raises:
        WeightsError: It is damaged or stored elsewhere.
    """
    from onnx import numpy_helper

    if tensor.data_location:  # never follow a path that a file names
        raise WeightsError(f'{path}: "{tensor.name}" is stored in another file', code="weights.external")
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise WeightsError(f'{path}: "{tensor.name}" is damaged', code="weights.damaged") from error


def _decoded(skeleton: str | bytes | None, path: str) -> bytes | None:
    try:
        return None if skeleton is None else base64.b64decode(skeleton, validate=True)
    except ValueError as error:
        raise WeightsError(f"{path}: its skeleton is damaged", code="weights.damaged") from error


def _numpy(value: Any, key: str, path: str) -> np.ndarray:
    """Returns a tensor of a file as an array; float32 for bfloat16, which NumPy lacks."""
    import torch

    try:
        value = value.detach()
        array: np.ndarray = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    except (AttributeError, TypeError, RuntimeError) as error:
        raise WeightsError(f'{path}: "{key}" is not a plain tensor', code="weights.pt") from error
    return array


def _write_caffe(path: str, bundle: Bundle, names: Names, choices: Choices) -> None:
    if bundle.skeleton is not None:
        arrays = [array for arrays in bundle.blobs.values() for array in arrays]
        write_pieces(path, put_together(bundle.skeleton, arrays))
        return
    write_caffemodel(path, _structure(bundle, names), bundle.blobs)


def _write_hdf5(path: str, bundle: Bundle, names: Names, choices: Choices) -> None:
    """Writes all layers, including those that the net lacks: HDF5 needs their names only."""
    structure = caffe_pb2.NetParameter()
    for node in names.plan.graph.nodes if names.plan else ():
        structure.layer.add(name=node.param.name, param=node.param.param)  # which blobs are shared
    others = bundle.unknown if names.plan else bundle.blobs
    structure.layer.extend(caffe_pb2.LayerParameter(name=layer) for layer in others)
    write_hdf5(path, structure, bundle.blobs)


def _write_safetensors(path: str, bundle: Bundle, names: Names, choices: Choices) -> None:
    """Writes the length of a JSON header, the header and the values; the format's own library would copy all values."""
    arrays = _flat(bundle, names)
    metadata = {"format": "pt", "order": "\n".join(arrays)}
    if bundle.skeleton is not None:
        metadata[SKELETON] = base64.b64encode(bundle.skeleton).decode()
    kind = np.dtype(choices.dtype)
    entries: dict[str, dict[str, object]] = {"__metadata__": {**metadata}}
    end = 0
    for key, array in arrays.items():
        begin, end = end, end + array.size * kind.itemsize
        entries[key] = {"dtype": f"F{8 * kind.itemsize}", "shape": array.shape, "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    values = (np.ascontiguousarray(array, kind.newbyteorder("<")) for array in arrays.values())
    write_pieces(path, itertools.chain([struct.pack("<Q", len(header)), header], values))


def _write_pt(path: str, bundle: Bundle, names: Names, choices: Choices) -> None:
    import torch

    content = {
        "state_dict": {key: torch.from_numpy(np.array(a, choices.dtype)) for key, a in _flat(bundle, names).items()}
    }
    if bundle.skeleton is not None:
        content[SKELETON] = torch.frombuffer(bytearray(bundle.skeleton), dtype=torch.uint8)  # type: ignore[assignment]
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def _write_onnx(path: str, bundle: Bundle, names: Names, choices: Choices) -> None:
    from pyscratchdet.converters.onnx_export import save_onnx

    net = _net(bundle, names, "an ONNX graph")
    arrays = _flat(bundle, names)
    metadata = {**choices.facts, "order": "\n".join(arrays)}
    if bundle.skeleton is not None and not choices.keep_paths:
        found = (file_names(layer) for layer in skeleton_layers(bundle.skeleton))
        bundle.forgotten = sorted({name for layer in found for name in layer})
    if bundle.skeleton is not None and not bundle.forgotten:
        metadata[SKELETON] = base64.b64encode(bundle.skeleton).decode()
    save_onnx(net, path, metadata=metadata, weights=arrays, half=choices.half, **choices.onnx)


def _write_program(path: str, bundle: Bundle, names: Names, choices: Choices) -> None:
    from pyscratchdet.converters.torch_program import save_program

    save_program(_net(bundle, names, "an exported program"), path, metadata=choices.facts, **choices.torch)


def _write_source(path: str, bundle: Bundle, names: Names, choices: Choices) -> None:
    from pyscratchdet.converters.torch_source import save_source

    save_source(_net(bundle, names, "PyTorch source"), path, facts=choices.facts, **choices.torch)


def _net(bundle: Bundle, names: Names, what: str) -> Net:
    """Returns the whole net with these weights."""
    from pyscratchdet.runtime import build_net, copy_weights

    if names.plan is None or names.file is None:
        raise ConversionError(f"writing {what} needs --model", code="convert.model")
    net = build_net(names.file, caffe_pb2.TEST)
    bundle.drawn = copy_weights(net, bundle.blobs).untouched
    return net


_READERS: dict[str, Callable[[str, Names], Bundle]] = {
    ".caffemodel": _read_caffe,
    ".h5": _read_hdf5,
    ".safetensors": _read_safetensors,
    ".pt": _read_pt,
    ".pth": _read_pt,
    ".onnx": _read_onnx,
}
_WRITERS: dict[str, Callable[[str, Bundle, Names, Choices], None]] = {
    ".caffemodel": _write_caffe,
    ".h5": _write_hdf5,
    ".safetensors": _write_safetensors,
    ".pt": _write_pt,
    ".pth": _write_pt,
    ".onnx": _write_onnx,
    ".pt2": _write_program,
    ".py": _write_source,
}


def _flat(bundle: Bundle, names: Names) -> dict[str, np.ndarray]:
    return {
        key: array
        for layer, arrays in bundle.blobs.items()
        for key, array in zip(names.keys(layer, len(arrays)), arrays, strict=True)
    }


def _structure(bundle: Bundle, names: Names) -> caffe_pb2.NetParameter:
    """Returns the layers of a caffemodel for weights of another form: the net's, and by name those that it lacks."""
    if names.plan is None:
        raise ConversionError(
            "these weights do not come from a caffemodel, so writing one needs --model", code="convert.model"
        )
    structure = caffe_pb2.NetParameter(name=names.plan.graph.name)
    for node in names.plan.graph.nodes:
        structure.layer.add().CopyFrom(node.param)
    structure.layer.extend(caffe_pb2.LayerParameter(name=layer) for layer in bundle.unknown)
    return structure


def _check_unique(names: list[str], path: str) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConversionError(f"{path}: several layers are called {', '.join(twice)}", code="convert.duplicate")


def _float32(array: np.ndarray, key: str, path: str) -> np.ndarray:
    if array.dtype.kind != "f":
        raise WeightsError(f'{path}: "{key}" does not hold floats', code="weights.type", found=array.dtype)
    return array.astype(np.float32, copy=False)
