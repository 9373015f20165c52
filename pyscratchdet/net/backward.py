"""Which layers and bottoms get a gradient (net.cpp, Net::Init, the analysis after set-up)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyscratchdet.net.graph import Graph, Node


@dataclass
class BackwardPlan:
    """What backpropagation visits.

    Attributes:
        layers: For each layer, whether it is visited at all.
        bottoms: For each layer and bottom, whether the bottom gets a gradient.
        params: For each layer and weight blob, whether the blob gets a gradient.
    """

    layers: list[bool]
    bottoms: list[list[bool]]
    params: list[list[bool]]


def plan_backward(graph: Graph, num_params: Sequence[int], allow_force: Callable[[int, int], bool]) -> BackwardPlan:
    """Returns what gets a gradient in `graph`.

    Args:
        graph: The net.
        num_params: Number of weight blobs of each layer.
        allow_force: (layer index, bottom index) -> whether `force_backward` reaches that bottom.
    """
    plan = _upward(graph, num_params)
    _downward(graph, plan)
    if graph.param.force_backward:
        for i in range(len(graph.nodes)):
            plan.layers[i] = True
            plan.bottoms[i] = [needed or allow_force(i, j) for j, needed in enumerate(plan.bottoms[i])]
            plan.params[i] = [True] * num_params[i]
    return plan


def lr_mult(node: Node, param_index: int) -> float:
    """Returns the learning-rate multiplier of a layer's weight blob; 1 where the file says nothing."""
    return float(node.param.param[param_index].lr_mult) if param_index < len(node.param.param) else 1.0


def _upward(graph: Graph, num_params: Sequence[int]) -> BackwardPlan:
    """In file order: a layer is visited when a bottom or one of its weights needs it."""
    blob_needs = [False] * len(graph.blob_names)
    plan = BackwardPlan([], [], [])
    for node, count in zip(graph.nodes, num_params, strict=True):
        given = list(node.param.propagate_down)
        bottoms = [given[j] if given else blob_needs[blob] for j, blob in enumerate(node.bottoms)]
        params = [lr_mult(node, k) != 0 for k in range(count)]
        # The blob's own need counts here, not propagate_down: Net::Init reads blob_need_backward_.
        needed = any(params) or any(blob_needs[blob] for blob in node.bottoms)
        if needed:
            for blob in node.tops:
                blob_needs[blob] = True
        plan.layers.append(needed)
        plan.bottoms.append(bottoms)
        plan.params.append(params)
    return plan


def _downward(graph: Graph, plan: BackwardPlan) -> None:
    """Against file order: what no loss depends on, or what propagate_down cuts off, is left out."""
    names = graph.blob_names
    under_loss: set[str] = set()
    skipped: set[str] = set()
    for i in reversed(range(len(graph.nodes))):
        node = graph.nodes[i]
        contributes, skip = False, True
        for weight, blob in zip(node.loss_weights, node.tops, strict=True):
            contributes |= bool(weight) or names[blob] in under_loss
            skip &= names[blob] in skipped
            if contributes and not skip:
                break
        if plan.layers[i] and skip:
            plan.layers[i] = False
            plan.bottoms[i] = [False] * len(node.bottoms)
        if not contributes:
            plan.layers[i] = False
            plan.bottoms[i] = [False] * len(node.bottoms)
        for needed, blob in zip(plan.bottoms[i], node.bottoms, strict=True):
            if contributes:
                under_loss.add(names[blob])
            if not needed:
                skipped.add(names[blob])
