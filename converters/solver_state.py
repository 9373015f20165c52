"""Converts solver states to and from the state of `pyscratchdet.solver.optimizers`, which are torch optimisers.

The .pt file holds {"solver": iteration and the like, "optimizer": {"state": {index: {"history0": ...}}}, "names"}: the
`state` of `CaffeOptimizer.state_dict()`, parameters in Caffe's order. The learning rate is inside Caffe's history
(h = momentum * h + rate * g), while torch.optim.SGD keeps it outside: to use the state there, divide it by the rate of
each blob.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import torch

from pyscratchdet.converters.weights import load_pt
from pyscratchdet.errors import ConversionError, SolverError
from pyscratchdet.files import atomic_path, write_bytes
from pyscratchdet.runtime import build_net
from pyscratchdet.solver.snapshot import SolverState, read_state, state_bytes


def state_to_torch(
    source: str | os.PathLike[str], target: str | os.PathLike[str], model: str | os.PathLike[str]
) -> SolverState:
    """Writes a `.solverstate` or `.solverstate.h5` as a .pt file.

    Args:
        source: The solver state.
        target: The .pt file; atomic.
        model: Prototxt whose learnable blobs the state belongs to; gives their names and number.

    Raises:
        FileError, SolverError: The state is missing or damaged.
        ConversionError: It does not fit the net.
    """
    state = read_state(source)
    learnable = build_net(model).learnable
    number = len(learnable)
    if not number or len(state.histories) % number or not state.histories:
        raise ConversionError(
            "the state's number of histories does not fit the net's learnable blobs",
            code="state.count",
            expected=f"a multiple of {number}",
            found=len(state.histories),
        )
    per_blob: dict[int, dict[str, torch.Tensor]] = {i: {} for i in range(number)}
    for place, array in enumerate(state.histories):
        blob = learnable[place % number]
        if array.size != blob.parameter.numel():
            raise ConversionError(
                f"history {place} does not fit blob {blob.name}",
                code="state.shape",
                expected=tuple(blob.parameter.shape),
                found=array.shape,
            )
        values = torch.from_numpy(np.array(array, np.float32).reshape(tuple(blob.parameter.shape)))
        per_blob[place % number][f"history{place // number}"] = values
    facts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name != "histories"}
    content = {"solver": facts, "names": [blob.name for blob in learnable], "optimizer": {"state": per_blob}}
    with atomic_path(target) as temporary:
        torch.save(content, temporary)
    return state


def state_from_torch(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> SolverState:
    """Writes such a .pt file as a `.solverstate`, or Caffe's HDF5 form where the name ends in .h5.

    Raises:
        FileError, WeightsError, SolverError: The file is missing, damaged, or holds no optimiser state.
    """
    content = load_pt(os.fspath(source))
    try:
        per_blob: dict[int, dict[str, Any]] = content["optimizer"]["state"]
        kinds = sorted(per_blob[0])
        histories = [per_blob[i][kind].detach().numpy() for kind in kinds for i in range(len(per_blob))]
        state = SolverState(histories=histories, **content["solver"])
        data = state_bytes(state, os.fspath(target).endswith(".h5"))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise SolverError(
            f"{os.fspath(source)}: no optimiser state in it",
            code="state.torch",
            expected='"solver" and "optimizer" as `convert` writes them',
        ) from error
    write_bytes(target, data)
    return state
