"""Blobs that are one memory in the original (blob.cpp: ShareData, ShareDiff), and who writes to it.

Split, Reshape, Flatten and a few more make their tops from their bottom's memory instead of copying it. A layer that
works in place on one such blob changes what all of them hold, and what later layers read of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyscratchdet.net.graph import Graph


@dataclass
class Storage:
    """What a net's blobs share.

    Attributes:
        data: For each blob, the earliest blob that is the same memory; most are their own.
        diff: Likewise for gradients. Split's tops share values, not gradients.
        rewritten: Index of a layer -> {blob: position of the layer's top that it is the same memory as}, for the
            blobs made before that the layer changes without naming them.
    """

    data: list[int]
    diff: list[int]
    rewritten: dict[int, dict[int, int]]


def plan_storage(graph: Graph, shares_data: Sequence[bool], shares_diff: Sequence[bool]) -> Storage:
    """Returns what the blobs of a net share.

    Args:
        graph: The net.
        shares_data: Per layer, whether its tops are the values of its first bottom.
        shares_diff: Per layer, whether they are its gradients too.
    """
    storage = Storage(list(range(len(graph.blob_names))), list(range(len(graph.blob_names))), {})
    made: set[int] = set()
    for index, node in enumerate(graph.nodes):
        for roots, shares in ((storage.data, shares_data), (storage.diff, shares_diff)):
            if shares[index]:
                for top in node.tops:
                    roots[top] = roots[node.bottoms[0]]
        if not shares_data[index]:
            changed = {storage.data[top]: j for j, top in enumerate(node.tops) if top in node.bottoms}
            others = sorted(blob for blob in made.difference(node.tops) if storage.data[blob] in changed)
            if others:
                storage.rewritten[index] = {blob: changed[storage.data[blob]] for blob in others}
        made.update(node.tops)
    return storage
