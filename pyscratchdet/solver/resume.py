"""What an exact continuation needs beyond Caffe's files: data layers, random streams, losses, as JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pyscratchdet.errors import SolverError
from pyscratchdet.runtime import Net
from pyscratchdet.solver.snapshot import decode_array, encode_array

if TYPE_CHECKING:
    from pyscratchdet.solver.solver import Solver


def collect(solver: Solver) -> dict[str, Any]:
    """Returns where a run stands.

    A layer whose batches depend on the past has a property `state` (plain numbers and lists); assigning it makes the
    layer go on from there.
    """
    return {
        "train": _layer_states(solver.net),
        "test": [_layer_states(net) for net in solver.test_nets],
        "random": solver.random.state,
        "torch": encode_array(torch.get_rng_state().numpy()),
        "losses": solver.losses.state(),
        "first_loss": solver.first_loss,
    }


def restore(solver: Solver, kept: dict[str, Any]) -> None:
    """Brings a freshly built solver to where `collect` saw its predecessor.

    Raises:
        SolverError: The net has other data layers now.
    """
    _restore_layers(solver.net, kept["train"])
    for net, states in zip(solver.test_nets, kept["test"], strict=False):
        _restore_layers(net, states)
    solver.random.state = kept["random"]
    torch.set_rng_state(torch.from_numpy(decode_array(kept["torch"])))
    solver.losses.restore(kept["losses"])
    solver.first_loss = kept["first_loss"]


def _layer_states(net: Net) -> dict[str, Any]:
    return {module.name: module.layer.state for module in net.layers if _has_state(module.layer)}


def _restore_layers(net: Net, states: dict[str, Any]) -> None:
    layers = {module.name: module.layer for module in net.layers if _has_state(module.layer)}
    if set(layers) != set(states):
        raise SolverError(
            "the snapshot was made with other data layers",
            code="solver.resume",
            expected=", ".join(sorted(layers)) or "none",
            found=", ".join(sorted(states)) or "none",
            hint="remove the .resume file beside it to start the data anew",
        )
    for name, layer in layers.items():
        layer.state = states[name]


def _has_state(layer: Any) -> bool:
    return isinstance(getattr(type(layer), "state", None), property)
