"""What an exact continuation needs beyond Caffe's files: data layers, random streams, losses, as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pyscratchdet.errors import SolverError
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.runtime import LayerModule, Net
from pyscratchdet.solver.smoothing import SmoothedLoss
from pyscratchdet.solver.snapshot import decode_array, encode_array


class DataPosition:
    """How far a net's data layers have come.

    A layer whose batches depend on the past has either a property `state` (plain numbers and lists; assigning it makes
    the layer go on from there) or a method `skip(num_batches)`, for which batches are counted here. Layers that draw
    from the net's own random stream alone need neither.
    """

    def __init__(self, net: Net) -> None:
        self._with_state: dict[str, Any] = {m.name: m.layer for m in net.layers if _has_state(m.layer)}
        counted = [m for m in net.layers if hasattr(m.layer, "skip") and m.name not in self._with_state]
        self._counted: dict[str, Any] = {module.name: module.layer for module in counted}
        self._batches = dict.fromkeys(self._counted, 0)
        for module in counted:
            module.register_forward_hook(self._count)

    def collect(self) -> dict[str, Any]:
        """Returns the position."""
        return {
            "states": {name: layer.state for name, layer in self._with_state.items()},
            "batches": dict(self._batches),
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """Goes to the position that `collect` returned.

        Raises:
            SolverError: The net has other data layers now, or is further already.
        """
        mine, theirs = {*self._with_state, *self._counted}, {*kept["states"], *kept["batches"]}
        if mine != theirs:
            raise SolverError(
                "the snapshot was made with other data layers",
                code="solver.resume",
                expected=", ".join(sorted(mine)) or "none",
                found=", ".join(sorted(theirs)) or "none",
                hint="remove the .resume file beside it to start the data anew",
            )
        for name, state in kept["states"].items():
            self._with_state[name].state = state
        for name, batches in kept["batches"].items():
            missing = batches - self._batches[name]
            if missing < 0:
                raise SolverError(
                    f'data layer "{name}" is past the snapshot already',
                    code="solver.resume",
                    hint="restore with a newly made solver",
                )
            if missing:
                self._counted[name].skip(missing)
            self._batches[name] = batches

    def _count(self, module: LayerModule, bottoms: Any, tops: Any) -> None:
        self._batches[module.name] += 1


class RunState:
    """Where one process of a run stands, beyond its weights and histories.

    Args:
        nets: The train net and the test nets, newly built.
        random: The stream that they draw from.
        losses: The losses seen.
    """

    def __init__(self, nets: Sequence[Net], random: CaffeRandom, losses: SmoothedLoss) -> None:
        self._positions = [DataPosition(net) for net in nets]
        self._random = random
        self._losses = losses

    def collect(self) -> dict[str, Any]:
        """Returns the state."""
        return {
            "data": [position.collect() for position in self._positions],
            "random": self._random.state,
            "torch": encode_array(torch.get_rng_state().numpy()),
            "losses": self._losses.state(),
            "first_loss": self._losses.first,
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """Goes to the state that `collect` returned.

        Raises:
            SolverError: The nets have other data layers now, or are further already.
        """
        for position, state in zip(self._positions, kept["data"], strict=False):
            position.restore(state)
        self._random.state = kept["random"]
        torch.set_rng_state(torch.from_numpy(decode_array(kept["torch"])))
        self._losses.restore(kept["losses"])
        self._losses.first = kept["first_loss"]


def _has_state(layer: Any) -> bool:
    return isinstance(getattr(type(layer), "state", None), property)
