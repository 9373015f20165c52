"""Snapshots: `.caffemodel` + `.solverstate` that Caffe reads and writes, and beside them what Caffe does not keep.

The files of a snapshot are written in the order model, `.resume`, solver state, each under a temporary name and then
renamed. Where there is a solver state, its snapshot is therefore complete: a run killed at any moment can resume from
the last one. `.resume` is JSON: the checksums of both files, the position of the data layers, the random streams.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyscratchdet.errors import FileError, PyScratchDetError, SolverError, WeightsError
from pyscratchdet.files import atomic_path, read_bytes, write_bytes
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.hdf5 import read_datasets, write_hdf5
from pyscratchdet.proto.weights import array_to_blob, blob_to_array, read_message, read_weights, write_message
from pyscratchdet.runtime import Net, net_blobs, net_to_proto, save_weights

RESUME_FORMAT = 2
_STATE = re.compile(r"_iter_(\d+)\.solverstate(\.h5)?$")


@dataclass
class SolverState:
    """What a `.solverstate` holds.

    Attributes:
        iteration: Number of updates made.
        learned_net: Path of the weights that go with it; empty where the file names none.
        histories: float32 arrays in SolverState.history's order.
        current_step, minimum_loss, iter_last_event: See `policies.LearningRate`.
    """

    iteration: int
    learned_net: str
    histories: Sequence[np.ndarray] = field(default_factory=list)
    current_step: int = 0
    minimum_loss: float = 1e38
    iter_last_event: int = 0


def snapshot_path(prefix: str, iteration: int, suffix: str) -> str:
    """Returns `<prefix>_iter_<iteration><suffix>`."""
    return f"{prefix}_iter_{iteration}{suffix}"


def state_bytes(state: SolverState, hdf5: bool = False) -> bytes:
    """Returns the content of a `.solverstate`, or of Caffe's HDF5 form."""
    if not hdf5:
        return bytes(_state_message(state).SerializeToString())
    buffer = io.BytesIO()
    _write_hdf5_state(buffer, state)
    return buffer.getvalue()


def read_state(path: str | os.PathLike[str]) -> SolverState:
    """Reads a `.solverstate` or `.solverstate.h5`.

    Raises:
        FileError: The file cannot be read.
        SolverError, WeightsError: It is not a solver state.
    """
    try:
        return _read_state(path)
    except (SolverError, WeightsError) as error:
        if _holds_weights(path):
            raise SolverError(
                f"{os.fspath(path)} holds weights, not a solver state",
                code="solver.state",
                hint="use --weights to start from weights; --snapshot resumes from a .solverstate",
            ) from error
        raise


def holds_state(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file is a solver state."""
    try:
        return bool(_read_state(path))
    except PyScratchDetError:
        return False


def _holds_weights(path: str | os.PathLike[str]) -> bool:
    try:
        return bool(read_weights(path).blobs)
    except PyScratchDetError:
        return False


def _read_state(path: str | os.PathLike[str]) -> SolverState:
    if os.fspath(path).endswith(".h5"):
        return _read_hdf5_state(path)
    message = read_message(path, caffe_pb2.SolverState)
    if not message.HasField("iter"):
        raise _damaged(path, "it has no iteration")
    return SolverState(
        message.iter,
        message.learned_net,
        [blob_to_array(blob) for blob in message.history],
        message.current_step,
        message.minimum_loss,
        message.iter_last_event,
    )


def find_model(state_path: str | os.PathLike[str], state: SolverState) -> str:
    """Returns the path of a state's weights: the path it names, or else beside the state, if the folder was moved.

    Raises:
        SolverError: The file is at neither place.
    """
    beside = Path(state_path).parent / Path(state.learned_net).name
    for path in (Path(state.learned_net), beside):
        if path.is_file():
            return str(path)
    raise SolverError(
        f"{os.fspath(state_path)} needs {state.learned_net}, which does not exist",
        code="solver.learned-net",
        hint=f"put it at {beside}",
    )


def write_model(net: Net, path: str, diffs: bool = False) -> None:
    """Writes the weights atomically, as .caffemodel or .caffemodel.h5 by the path's end; `diffs` adds the gradients.

    Raises:
        FileError: The file cannot be written.
    """
    if not diffs:
        save_weights(net, path)
    elif not path.endswith(".h5"):
        write_message(path, net_to_proto(net, diffs=True))
    else:
        _write_hdf5_with_diffs(net, path)


# --- what Caffe does not keep ---


def resume_path(state_path: str | os.PathLike[str]) -> Path:
    """Returns the path of the `.resume` file that goes with a solver state."""
    return Path(re.sub(r"\.solverstate(\.h5)?$", "", os.fspath(state_path)) + ".resume")


def write_snapshot(
    state_path: str | os.PathLike[str], model_path: str | os.PathLike[str], state: SolverState, run: dict[str, Any]
) -> None:
    """Completes a snapshot whose model is already written: `.resume`, then the solver state.

    Args:
        state_path: The state to be written.
        model_path: The weights.
        state: What the solver state holds.
        run: What `.resume` keeps for an exact continuation; JSON values.

    Raises:
        FileError: A file cannot be written; earlier snapshots stay intact.
    """
    content = state_bytes(state, hdf5=os.fspath(state_path).endswith(".h5"))
    checks = {"model": _digest(model_path), "state": hashlib.sha256(content).hexdigest(), "run": _run_digest(run)}
    kept = {"format": RESUME_FORMAT, "iteration": state.iteration, "sha256": checks, "run": run}
    write_bytes(resume_path(state_path), json.dumps(kept, sort_keys=True).encode())
    write_bytes(state_path, content)


def read_resume(state_path: str | os.PathLike[str], model_path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns what `.resume` keeps for this snapshot, or None if there is no such file (Caffe's snapshots).

    Raises:
        FileError: It cannot be read.
        SolverError: It is damaged, or a file of the snapshot is not the one that was written.
    """
    path = resume_path(state_path)
    if not path.exists():
        return None
    try:
        content = json.loads(read_bytes(path))
        checks, run = content["sha256"], content["run"]
        known = content["format"] == RESUME_FORMAT
        whole = checks["run"] == _run_digest(run)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, "this program did not write it", hint="remove it to resume without it") from error
    if not (known and whole):
        what = "its checksum is wrong" if known else "it has another format version"
        raise _damaged(path, what, hint="remove it to resume without it")
    for what, file in (("model", model_path), ("state", state_path)):
        if checks.get(what) != _digest(file):
            raise _damaged(
                file,
                "it is not the file that was written with this snapshot",
                hint=f"resume from an earlier snapshot, or remove {path} if the file was replaced on purpose",
            )
    return dict(run)


def kept_seed(state_path: str | os.PathLike[str]) -> int | None:
    """Returns the seed of a snapshot's run, so that its data layers can be built the same way."""
    state = read_state(state_path)
    kept = read_resume(state_path, find_model(state_path, state)) if state.learned_net else None
    return kept["seed"] if kept else None


def snapshots(prefix: str, last: int | None = None) -> list[Path]:
    """Returns the solver states of a prefix up to iteration `last`, oldest first."""
    folder, stem = os.path.split(prefix)
    found = []
    for path in Path(folder or ".").glob("*.solverstate*"):
        match = _STATE.search(path.name)
        if match and path.name[: match.start()] == stem and (last is None or int(match[1]) <= last):
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def latest_snapshot(prefix: str) -> Path | None:
    """Returns the solver state of a prefix's newest complete snapshot, or None."""
    for path in reversed(snapshots(prefix)):
        try:
            read_resume(path, find_model(path, read_state(path)))
        except PyScratchDetError:
            continue
        return path
    return None


def prune(prefix: str, keep: int, last: int) -> list[Path]:
    """Removes all but the newest `keep` snapshots up to iteration `last` and returns the removed states.

    A state is removed before its other files, so that what is left at any moment is complete.
    """
    old = snapshots(prefix, last)[:-keep] if keep > 0 else []
    for path in old:
        stem = os.fspath(path)[: os.fspath(path).rindex(".solverstate")]
        path.unlink(missing_ok=True)
        for suffix in (".resume", ".caffemodel", ".caffemodel.h5"):
            Path(stem + suffix).unlink(missing_ok=True)
    return old


def encode_array(array: np.ndarray) -> dict[str, Any]:
    """Returns an array as JSON values; `decode_array` is the inverse."""
    plain = np.ascontiguousarray(array)
    return {
        "dtype": plain.dtype.str,
        "shape": list(plain.shape),
        "base64": base64.b64encode(plain.tobytes()).decode(),
    }


def decode_array(value: dict[str, Any]) -> np.ndarray:
    """Returns the array that `encode_array` encoded."""
    flat = np.frombuffer(base64.b64decode(value["base64"]), np.dtype(value["dtype"]))
    return flat.reshape(value["shape"]).copy()


# --- HDF5 ---


def _write_hdf5_with_diffs(net: Net, path: str) -> None:
    import h5py

    with atomic_path(path) as temporary:
        write_hdf5(temporary, net_to_proto(net), net_blobs(net))
        with h5py.File(temporary, "a") as file:
            group = file.create_group("diff")
            for module in net.layers:
                layer = group.require_group(module.name)
                for index, blob in enumerate(module.blobs):
                    diff = torch.zeros_like(blob) if blob.grad is None else blob.grad
                    layer[str(index)] = diff.detach().cpu().numpy()


# --- the two forms of a solver state ---


def _state_message(state: SolverState) -> caffe_pb2.SolverState:
    message = caffe_pb2.SolverState(iter=state.iteration, learned_net=state.learned_net)
    message.history.extend(array_to_blob(array) for array in state.histories)
    message.current_step = state.current_step
    message.minimum_loss = state.minimum_loss
    message.iter_last_event = state.iter_last_event
    return message


def _write_hdf5_state(buffer: io.BytesIO, state: SolverState) -> None:
    import h5py

    with h5py.File(buffer, "w") as file:
        for name, value in (("iter", state.iteration), ("current_step", state.current_step)):
            file[name] = np.array([value], np.int32)
        file["iter_last_event"] = np.array([state.iter_last_event], np.int32)
        file["minimum_loss"] = np.array([state.minimum_loss], np.float32)
        _write_string(file, "learned_net", state.learned_net)
        group = file.create_group("history")
        for index, array in enumerate(state.histories):
            group[str(index)] = np.asarray(array, np.float32)


def _write_string(file: Any, name: str, text: str) -> None:
    """Writes a null-terminated string of fixed size, the only kind that H5LTread_dataset_string reads safely."""
    import h5py

    data = text.encode() + b"\0"
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(data))
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(data, f"S{len(data)}"), mtype=kind)


def _read_hdf5_state(path: str | os.PathLike[str]) -> SolverState:
    values = read_datasets(path, SolverError, "solver.state")
    try:
        return SolverState(
            int(np.ravel(values["iter"])[0]),
            values["learned_net"].item().decode() if "learned_net" in values else "",
            [
                np.asarray(values[f"history/{index}"], np.float32)
                for index in range(sum(name.startswith("history/") for name in values))
            ],
            int(np.ravel(values["current_step"])[0]),
            float(np.ravel(values["minimum_loss"])[0]) if "minimum_loss" in values else 1e38,
            int(np.ravel(values["iter_last_event"])[0]) if "iter_last_event" in values else 0,
        )
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise _damaged(path, "it is not a solver state") from error


def _digest(path: str | os.PathLike[str]) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"cannot read {os.fspath(path)}: {error.strerror or error}", code="file.read") from error


def _run_digest(run: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def _damaged(path: str | os.PathLike[str], what: str, hint: str | None = None) -> SolverError:
    return SolverError(f"{os.fspath(path)} is damaged: {what}", code="solver.state", hint=hint)
