"""Blobs that share memory in the original (blob.cpp: ShareData, ShareDiff), and which layers write to it.

Split, Reshape, Flatten and a few more make their tops from their bottom's memory instead of copying it. A layer that
works in place on one such blob changes what all of them hold, and what later layers read from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyscratchdet.net.graph import Graph


@dataclass
class Storage:
    """What a net's blobs share.

    Attributes:
        data: For each blob, the earliest blob with the same memory; for most blobs that is the blob itself.
        diff: Likewise for gradients. Split's tops share values, not gradients.
        rewritten: Index of a layer -> {blob: position of the layer's top with which it shares memory}, for the earlier
            blobs that the layer changes without naming them.
    """

    data: list[int]
    diff: list[int]
    rewritten: dict[int, dict[int, int]]


def plan_storage(graph: Graph, shares_data: Sequence[bool], shares_diff: Sequence[bool]) -> Storage:
    """Returns what the blobs of a net share.

    Args:
        graph: The net.
        shares_data: For each layer, whether its tops share the values of its first bottom.
        shares_diff: For each layer, whether they share its gradients too.
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
