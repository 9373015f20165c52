"""Diverged losses: where the trouble began and what to try."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pyscratchdet.errors import SolverError, counted
from pyscratchdet.runtime import Net

EXPLODED = 1e6
# Losses of healthy runs stay below three times their first value; two in a row above ten times are no outlier.
_GROWN, _IN_A_ROW = 10.0, 2
# The paper's: from scratch, with BatchNorm, 0.05 at 128 pictures per update.
_RATE_PER_PICTURE = 0.05 / 128


def has_diverged(loss: float, first: float | None) -> bool:
    """Returns whether a loss is not finite, or over a million times the first one."""
    return not math.isfinite(loss) or abs(loss) > EXPLODED * max(1.0, abs(first or 0.0))


class LossGrowth:
    """Notices a loss that explodes long before `has_diverged` does; once."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def is_exploding(self, loss: float, first: float | None) -> bool:
        """Takes the next loss; returns True at the second in a row over ten times the first one (or 10), once."""
        is_grown = loss > _GROWN * max(1.0, abs(first or 0.0))
        self._in_a_row = self._in_a_row + 1 if is_grown or self._in_a_row >= _IN_A_ROW else 0
        return self._in_a_row == _IN_A_ROW

    def text(self, loss: float, first: float | None) -> str:
        """Returns what is said then."""
        return f"the loss explodes: it is {loss:.4g} and began at {first or 0.0:.4g}"


def advice(rate: float, pictures: int, has_batchnorm: bool) -> str:
    """Returns what to try against a loss that grows.

    Args:
        rate: The learning rate of the last update.
        pictures: Pictures per update, of all processes.
        has_batchnorm: Whether the net has BatchNorm layers, which allow higher rates.
    """
    usual = _RATE_PER_PICTURE * pictures
    known = f" (from scratch with BatchNorm, {usual:.2g} at {pictures})" if has_batchnorm and rate > usual > 0 else ""
    return (
        f"the rate is {rate:.3g} at {counted(pictures, 'picture')} per update{known}: lower base_lr (try a tenth "
        "first) or warm up; check batch_size per GPU (BatchNorm needs several pictures) and the boxes (wider and "
        "higher than 0, inside the picture); clip_gradients: 10 limits the damage"
    )


def divergence(net: Net, blobs: Mapping[str, Tensor], iteration: int, loss: float, hint: str) -> SolverError:
    """Returns the error that names the layer in which a run went wrong.

    Args:
        net: The net in its present state.
        blobs: Blobs of a forward pass by name; missing ones are not checked.
        iteration: When it happened.
        loss: The loss found.
        hint: What to try.
    """
    place = _first_bad_weights(net) or _first_bad_top(net, blobs) or _largest(net, blobs)
    index, what = place if place else (None, "")
    module = None if index is None else net.layers[index]
    return SolverError(
        f"the loss of iteration {iteration} is {loss:.6g}" + (f"; {what}" if what else ""),
        code="solver.diverged",
        layer=module.name if module else None,
        layer_type=module.layer_type if module else None,
        hint=hint,
    )


def _first_bad_weights(net: Net) -> tuple[int, str] | None:
    for index, module in enumerate(net.layers):
        for role, blob in zip(module.roles, module.blobs, strict=True):
            if not torch.isfinite(blob).all():
                return index, f"it began here: {role} of this layer has values that are not finite"
    return None


def _first_bad_top(net: Net, blobs: Mapping[str, Tensor]) -> tuple[int, str] | None:
    for index, name, top in _tops(net, blobs):
        if not torch.isfinite(top).all():
            return index, f'it began here: blob "{name}" has values that are not finite'
    return None


def _largest(net: Net, blobs: Mapping[str, Tensor]) -> tuple[int, str] | None:
    """Finds the layer with the largest values, for when all are finite but too large."""
    sizes = [(float(top.abs().max()), index, name) for index, name, top in _tops(net, blobs) if top.numel()]
    losses = net.loss_weights
    inner = [entry for entry in sizes if entry[2] not in losses] or sizes
    if not inner:
        return None
    size, index, name = max(inner, key=lambda entry: entry[0])  # the first if several are equal: later ones are copies
    return index, f'the largest values are here: up to {size:.3g} in blob "{name}"'


def _tops(net: Net, blobs: Mapping[str, Tensor]) -> list[tuple[int, str, Tensor]]:
    names = net.plan.graph.blob_names
    return [
        (index, names[blob], blobs[names[blob]])
        for index, module in enumerate(net.layers)
        for blob in module.node.tops
        if names[blob] in blobs and blobs[names[blob]].is_floating_point()
    ]
