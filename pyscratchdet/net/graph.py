"""The graph of a net: layers in order, blobs by index, inputs and outputs (net.cpp, Net::Init).

A blob has an index, because names may repeat: anonymous tops are all called "(automatic)", and an in-place layer's top
is its bottom's blob. `build_graph` filters by phase, level and stages, inserts splits and connects.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from pyscratchdet.errors import NetError, Position, nearest
from pyscratchdet.net.rules import is_included, net_state
from pyscratchdet.net.splits import UnknownBottom, insert_splits
from pyscratchdet.proto import caffe_pb2

Locate = Callable[[int], Position | None]  # layer index -> where it is written

AUTOMATIC = "(automatic)"


class CountLike(Protocol):
    """How many bottoms or tops a layer type takes."""

    @property
    def low(self) -> int:
        """The smallest number."""

    def __contains__(self, number: int) -> bool: ...


class LayerTraits(Protocol):
    """What the graph must know about a layer type."""

    @property
    def bottoms(self) -> CountLike:
        """How many bottoms it takes."""

    @property
    def tops(self) -> CountLike:
        """How many tops it takes."""

    @property
    def auto_tops(self) -> bool:
        """Whether missing tops are added automatically."""

    @property
    def is_loss(self) -> bool:
        """Whether the first top has loss weight 1 by default."""

    @property
    def is_input(self) -> bool:
        """Whether the caller gives the tops."""


@dataclass
class Node:
    """One layer in its place.

    Attributes:
        param: The layer's own parameters, with its phase set; bottoms renamed where a Split came in between.
        index: Its place among the layers of the upgraded net file; -1 for an inserted Split.
        bottoms, tops: Blob indices.
        loss_weights: One per top; 0 for a top that is not a loss.
        is_input: Whether the caller gives the tops.
    """

    param: caffe_pb2.LayerParameter
    index: int
    bottoms: list[int] = field(default_factory=list)
    tops: list[int] = field(default_factory=list)
    loss_weights: list[float] = field(default_factory=list)
    is_input: bool = False

    @property
    def name(self) -> str:
        """The layer's name; not unique in every net."""
        return str(self.param.name)

    @property
    def type(self) -> str:
        """The layer's Caffe type."""
        return str(self.param.type)


@dataclass
class Graph:
    """A net for one phase.

    Attributes:
        param: The net's own parameters, without the layers.
        phase: `caffe_pb2.TRAIN` or `caffe_pb2.TEST`.
        nodes: The layers in the order of the file, including splits.
        blob_names: A name for each blob index.
        inputs: Blob indices of the tops of Input layers.
        outputs: Indices of the blobs that no layer consumes, sorted by name as the original lists them.
    """

    param: caffe_pb2.NetParameter
    phase: int
    nodes: list[Node]
    blob_names: list[str]
    inputs: list[int]
    outputs: list[int]

    @property
    def name(self) -> str:
        """The net's name."""
        return str(self.param.name)


def build_graph(
    net: caffe_pb2.NetParameter,
    layer_class: Callable[[str, str], LayerTraits],
    phase: int,
    level: int = 0,
    stages: Sequence[str] = (),
    locate: Locate = lambda index: None,
) -> Graph:
    """Returns the graph of an upgraded net in one state.

    Args:
        net: A net in the latest format (`proto.upgrade.upgrade_net`).
        layer_class: (type, layer name) -> what the type takes; raises NetError for an unknown type.
        phase: `caffe_pb2.TRAIN` or `caffe_pb2.TEST`.
        level: The caller's level for `min_level` and `max_level` rules.
        stages: The caller's stages, added to the file's own.
        locate: Index of a layer in `net` -> its position in the file, for errors.

    Raises:
        NetError: Unknown types or bottoms, tops made twice, wrong numbers of bottoms, tops or loss weights.
    """
    state = net_state(net, phase, level, stages)
    selected = [i for i, layer in enumerate(net.layer) if is_included(state, layer, partial(locate, i))]
    unknown = partial(_unknown_bottom, net, state, locate)
    split = insert_splits([net.layer[i] for i in selected], lambda i, *bottom: unknown(selected[i], *bottom))
    rest = caffe_pb2.NetParameter()
    rest.CopyFrom(net)
    del rest.layer[:]
    rest.state.CopyFrom(state)
    builder = _Builder(Graph(rest, phase, [], [], [], []), layer_class, locate, unknown)
    for index, param in split:
        builder.add(param, selected[index] if index >= 0 else -1)
    return builder.finish()


def _unknown_bottom(
    net: caffe_pb2.NetParameter,
    state: caffe_pb2.NetState,
    locate: Locate,
    index: int,
    bottom: int,
    known: Collection[str],
) -> NetError:
    """Returns the error for a bottom of layer `index` that no layer makes in `state`."""
    layer, blob = net.layer[index], net.layer[index].bottom[bottom]
    other = caffe_pb2.NetState()
    other.CopyFrom(state)
    other.phase = caffe_pb2.TRAIN if state.phase == caffe_pb2.TEST else caffe_pb2.TEST
    maker = next((one.name for one in net.layer[:index] if blob in one.top and is_included(other, one)), None)
    name = caffe_pb2.Phase.Name(other.phase)
    return NetError(
        f'bottom {bottom} is "{blob}", which no earlier layer makes in phase {caffe_pb2.Phase.Name(state.phase)}',
        code="net.unknown-bottom",
        position=locate(index),
        layer=layer.name,
        layer_type=layer.type,
        hint=nearest(blob, known)
        if maker is None
        else f'layer "{maker}" makes it in phase {name} (--phase {name}, where a command has it)',
    )


class _Builder:
    """Adds layers one by one, as Net::Init does."""

    def __init__(
        self,
        graph: Graph,
        layer_class: Callable[[str, str], LayerTraits],
        locate: Locate,
        unknown_bottom: UnknownBottom,
    ) -> None:
        self.graph = graph
        self.layer_class = layer_class
        self.locate = locate
        self.unknown_bottom = unknown_bottom
        self.latest: dict[str, int] = {}
        self.available: set[str] = set()

    def add(self, param: caffe_pb2.LayerParameter, index: int) -> None:
        if not param.HasField("phase"):
            param.phase = self.graph.phase
        node = Node(param, index)
        try:
            traits = self.layer_class(node.type, node.name)
        except NetError as error:
            error.position = error.position or self._position(node)
            raise
        self._check_propagate_down(node)
        node.bottoms = [self._bottom(node, j, blob) for j, blob in enumerate(param.bottom)]
        node.tops = [self._top(node, j, blob) for j, blob in enumerate(param.top)]
        if traits.auto_tops:
            node.tops += [self._new_blob(AUTOMATIC) for _ in range(traits.tops.low - len(node.tops))]
        self._check_count(node, "bottoms", traits.bottoms, len(node.bottoms))
        self._check_count(node, "tops", traits.tops, len(node.tops))
        node.loss_weights = self._loss_weights(node, traits)
        node.is_input = traits.is_input
        if node.is_input:
            self.graph.inputs += node.tops
        self.graph.nodes.append(node)

    def finish(self) -> Graph:
        self.graph.outputs = [self.latest[blob] for blob in sorted(self.available)]
        return self.graph

    def _bottom(self, node: Node, index: int, blob: str) -> int:
        if blob not in self.available:
            raise self.unknown_bottom(node.index, index, self.available)
        self.available.remove(blob)
        return self.latest[blob]

    def _top(self, node: Node, index: int, blob: str) -> int:
        in_place = index < len(node.param.bottom) and node.param.bottom[index] == blob
        if not in_place:
            if blob in self.latest:
                raise self._error(
                    node,
                    f'top "{blob}" is already made by an earlier layer',
                    "duplicate-top",
                    hint="an in-place top must repeat the bottom of the same index, and no other layer may read "
                    "the blob before it is changed",
                )
            self.latest[blob] = self._new_blob(blob)
        self.available.add(blob)
        return self.latest[blob]

    def _new_blob(self, name: str) -> int:
        self.graph.blob_names.append(name)
        return len(self.graph.blob_names) - 1

    def _loss_weights(self, node: Node, traits: LayerTraits) -> list[float]:
        weights = list(node.param.loss_weight) or ([1.0] if traits.is_loss else [])
        if weights and len(weights) != len(node.tops):
            raise self._error(
                node,
                "loss_weight must be left out or given once per top",
                "loss-weight",
                expected=len(node.tops),
                found=len(weights),
            )
        return weights or [0.0] * len(node.tops)

    def _check_propagate_down(self, node: Node) -> None:
        number = len(node.param.propagate_down)
        if number not in (0, len(node.param.bottom)):
            raise self._error(
                node,
                "propagate_down must be left out or given once per bottom",
                "propagate-down",
                expected=len(node.param.bottom),
                found=number,
            )

    def _check_count(self, node: Node, what: str, count: CountLike, number: int) -> None:
        if number not in count:
            raise self._error(node, f"wrong number of {what}", what, expected=count, found=number)

    def _position(self, node: Node) -> Position | None:
        return self.locate(node.index) if node.index >= 0 else None

    def _error(self, node: Node, message: str, rule: str, **details: object) -> NetError:
        return NetError(
            message,
            code=f"net.{rule}",
            position=self._position(node),
            layer=node.name,
            layer_type=node.type,
            **details,  # type: ignore[arg-type]
        )
