"""What an exact continuation needs beyond Caffe's files: layers' states, random streams, losses, as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pyscratchdet.errors import SolverError
from pyscratchdet.layers.base import Layer
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.runtime import LayerModule, Net
from pyscratchdet.solver.smoothing import SmoothedLoss
from pyscratchdet.solver.snapshot import decode_array, encode_array


class CarriedState:
    """What the layers of a net carry from one pass to the next.

    A layer that carries something has either a `state` (`Layer.state`) or a method `skip(num_batches)`, for which
    this class counts the batches. Layers that draw from the net's own random stream alone need neither.
    """

    def __init__(self, net: Net) -> None:
        self._with_state: dict[str, Any] = {m.name: m.layer for m in net.layers if _has_state(m.layer)}
        counted = [m for m in net.layers if hasattr(m.layer, "skip") and m.name not in self._with_state]
        self._counted: dict[str, Any] = {module.name: module.layer for module in counted}
        self._sources: list[Any] = [m.layer for m in net.layers if hasattr(m.layer, "skip")]
        self._batches = dict.fromkeys(self._counted, 0)
        for module in counted:
            module.register_forward_hook(self._count)

    def skip(self, num_batches: int) -> None:
        """Makes the data layers pass over batches; nothing else of the net may carry anything over."""
        for layer in self._sources:
            layer.skip(num_batches)
        for name in self._batches:
            self._batches[name] += num_batches

    def collect(self) -> dict[str, Any]:
        """Returns the state."""
        return {
            "states": {name: _to_json(layer.state) for name, layer in self._with_state.items()},
            "batches": dict(self._batches),
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """Restores the state that `collect` returned.

        Raises:
            SolverError: Other layers carry something now, or the net is already past that state.
        """
        mine, theirs = {*self._with_state, *self._counted}, {*kept["states"], *kept["batches"]}
        if mine != theirs:
            raise SolverError(
                "other layers carried a state when the snapshot was made (data layers, LSTM, RNN)",
                code="solver.resume",
                expected=", ".join(sorted(mine)) or "none",
                found=", ".join(sorted(theirs)) or "none",
                hint="remove the .resume file beside it to start these layers afresh",
            )
        for name, state in kept["states"].items():
            self._with_state[name].state = _from_json(state)
        for name, batches in kept["batches"].items():
            missing = batches - self._batches[name]
            if missing < 0:
                raise SolverError(
                    f'data layer "{name}" is already past the snapshot',
                    code="solver.resume",
                    hint="restore into a newly built solver",
                )
            if missing:
                self._counted[name].skip(missing)
            self._batches[name] = batches

    def _count(self, module: LayerModule, bottoms: Any, tops: Any) -> None:
        self._batches[module.name] += 1


class RunState:
    """Where one process of a run stands, apart from weights and histories.

    Args:
        nets: The train net and the test nets, newly built.
        random: The stream that they draw from.
        losses: The losses seen.
        device: Where the nets run; on a GPU, dropout draws from its own generator.

    Attributes:
        carried: What the layers of each net carry over.
    """

    def __init__(
        self, nets: Sequence[Net], random: CaffeRandom, losses: SmoothedLoss, device: torch.device | None = None
    ) -> None:
        self.carried = [CarriedState(net) for net in nets]
        self._random = random
        self._losses = losses
        self._gpu = device if device is not None and device.type == "cuda" else None

    def collect(self) -> dict[str, Any]:
        """Returns the state."""
        return {
            "data": [carried.collect() for carried in self.carried],
            "random": self._random.state,
            "torch": encode_array(torch.get_rng_state().numpy()),
            **({"cuda": encode_array(torch.cuda.get_rng_state(self._gpu).numpy())} if self._gpu else {}),
            "losses": self._losses.state(),
            "first_loss": self._losses.first,
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """Restores the state that `collect` returned.

        Raises:
            SolverError: Other layers carry something now, or the nets are already past that state.
        """
        for carried, state in zip(self.carried, kept["data"], strict=False):
            carried.restore(state)
        self._random.state = kept["random"]
        torch.set_rng_state(torch.from_numpy(decode_array(kept["torch"])))
        if self._gpu and "cuda" in kept:
            torch.cuda.set_rng_state(torch.from_numpy(decode_array(kept["cuda"])), self._gpu)
        self._losses.restore(kept["losses"])
        self._losses.first = kept["first_loss"]


def _has_state(layer: Layer) -> bool:
    return type(layer).state is not Layer.state


def _to_json(value: Any) -> Any:
    """Returns a layer's state with its arrays encoded; `_from_json` is the inverse."""
    if isinstance(value, np.ndarray):
        return encode_array(value)
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return [_to_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        is_array = value.keys() == {"dtype", "shape", "base64"}
        return decode_array(value) if is_array else {key: _from_json(item) for key, item in value.items()}
    return [_from_json(item) for item in value] if isinstance(value, list) else value
