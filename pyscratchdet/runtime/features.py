"""Blobs of a net on its own data as Datum databases (tools/extract_features.cpp)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import torch

from pyscratchdet.data.database import DatabaseWriter, new_database
from pyscratchdet.devices import use_tf32
from pyscratchdet.errors import NetError, nearest
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.runtime import load_net


def extract_features(
    model: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    targets: Sequence[tuple[str, str | os.PathLike[str]]],
    batches: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int], object] = lambda done: None,
) -> list[int]:
    """Writes one float Datum per picture and blob, under keys `%010d` counting from 0.

    Args:
        model: Prototxt of a net with a data layer; run in the TEST phase.
        weights: .caffemodel or .caffemodel.h5.
        targets: (blob, path of a new LMDB) pairs.
        batches: Forward passes.
        device: torch device.
        progress: Called with the number of passes done.

    Returns:
        The number of records of each target.

    Raises:
        FileError, PrototxtError, NetError, LayerError, WeightsError, DataError: Something is missing or faulty.
        NetError: The net has no such blob, or it has more than 4 axes.
    """
    place = torch.device(device)
    use_tf32(place, False)
    net = load_net(model, weights, phase="TEST").to(place)
    net.deliver(place)
    for name, _ in targets:
        if name not in net.blob_names:
            hint = nearest(name, net.blob_names) or "pyscratchdet summary lists the blobs"
            raise NetError(f'the net has no blob "{name}"', code="features.unknown-blob", hint=hint)
    if net.input_names:
        raise NetError(
            "the net has no data layer", code="features.no-data", found=f"inputs {', '.join(net.input_names)}",
            hint="use a net with a data layer, such as the test net",
        )  # fmt: skip
    with ExitStack() as stack, torch.inference_mode():
        writers = [stack.enter_context(new_database(path)) for _, path in targets]
        for done in range(1, batches + 1):
            blobs = net.forward_blobs()
            for writer, (name, _) in zip(writers, targets, strict=True):
                _write(writer, name, blobs[name].cpu().numpy())
            progress(done)
        return [writer.count for writer in writers]


def _write(writer: DatabaseWriter, name: str, values: np.ndarray) -> None:
    if values.ndim > 4:
        raise NetError(
            f'blob "{name}" has too many axes', code="features.axes", expected="at most 4", found=values.shape
        )
    shape = (*values.shape, 1, 1, 1, 1)[:4]
    for one in values.reshape(shape):
        datum = caffe_pb2.Datum(channels=shape[1], height=shape[2], width=shape[3])
        datum.float_data.extend(one.ravel().tolist())
        writer.put(f"{writer.count:010d}", datum.SerializeToString())
