"""From a net file to layers with shapes: everything that can be known before there are tensors, without torch."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pyscratchdet.errors import LayerError, NetError, Position, PyScratchDetError
from pyscratchdet.files import read_bytes
from pyscratchdet.layers.base import Context, Layer, Shape, layer_class
from pyscratchdet.net import BackwardPlan, Graph, Storage, build_graph, plan_backward, plan_storage
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.forks import fork_paths, refuse_fork_fields, say_harmless
from pyscratchdet.proto.text import Locator, PassedOver, decode_text, parse
from pyscratchdet.proto.upgrade import num_inserted_layers, upgrade_net

_log = logging.getLogger(__name__)

# The original counts the values of a blob in an int (blob.cpp, Blob::Reshape).
MAX_COUNT = 2**31 - 1

# The fields of other Caffes of a net itself that are computed.
NET_FORK_FIELDS = frozenset({"bn_stats_batch_size"})


@dataclass
class NetFile:
    """A net as it stands in a file.

    Attributes:
        param: The net in the latest format.
        locate: Index of a layer in `param`, and keys of a field inside it -> its position in the file, or None.
        locate_field: Keys of a field of the net itself -> likewise.
        passed_over: The file's fields that were passed over.
        layer_text: Index of a layer in `param` -> the number of its first line in the file and its text there; 0 and
            no text for a layer that the file does not have.
    """

    param: caffe_pb2.NetParameter
    locate: Callable[..., Position | None] = lambda index, *keys: None
    locate_field: Callable[..., Position | None] = lambda *keys: None
    passed_over: list[PassedOver] = field(default_factory=list)
    layer_text: Callable[[int], tuple[int, str]] = lambda index: (0, "")


@dataclass
class NetPlan:
    """A net with its layers set up and all shapes known.

    Attributes:
        graph: Layers in order and the blobs between them.
        layers: The layer objects, one per node.
        shapes: The shape of each blob index; an in-place layer's shape replaces the earlier one.
        top_shapes: For each layer, the shapes of its tops.
        backward: What gets a gradient.
        storage: Which blobs share memory.
        context: What the layers share.
    """

    graph: Graph
    layers: list[Layer]
    shapes: list[Shape]
    top_shapes: list[list[Shape]]
    backward: BackwardPlan
    storage: Storage
    context: Context
    locate: Callable[..., Position | None]

    def bottom_shapes(self, index: int) -> list[Shape]:
        """Returns the present shapes of a layer's bottoms."""
        return [self.shapes[blob] for blob in self.graph.nodes[index].bottoms]

    def written(self, index: int) -> list[int]:
        """Returns the blobs whose values a layer changes: its tops, then others that share their memory."""
        return [*self.graph.nodes[index].tops, *self.storage.rewritten.get(index, ())]

    def reshape(self, inputs: dict[str, Shape] | None = None) -> None:
        """Works out all shapes again, with new shapes for some inputs.

        Raises:
            LayerError: A layer cannot take them; the shapes are then as before.
            NetError: A name is not an input of the net.
        """
        inputs = inputs or {}
        names = {self.graph.blob_names[blob]: blob for blob in self.graph.inputs}
        for name in inputs:
            if name not in names:
                raise NetError(f'"{name}" is not an input of the net', code="net.input", expected=list(names) or "none")
        old_shapes, old_tops = list(self.shapes), [list(shapes) for shapes in self.top_shapes]
        try:
            for index, node in enumerate(self.graph.nodes):
                if node.is_input:
                    shapes = [inputs.get(self.graph.blob_names[blob], self.shapes[blob]) for blob in node.tops]
                    with self.located(index):
                        self._set_tops(index, [tuple(shape) for shape in shapes])
                else:
                    self.reshape_layer(index)
        except PyScratchDetError:
            self.shapes, self.top_shapes = old_shapes, old_tops
            for index, layer in enumerate(self.layers):
                layer.reshape(self.bottom_shapes(index))  # what layers remember of their shapes must fit again, too
            raise

    @property
    def detection_layers(self) -> list[int]:
        """The indices of the layers that make detections (`Layer.makes_detections`)."""
        return [index for index, layer in enumerate(self.layers) if layer.makes_detections]

    def fixed_batch(self) -> int | None:
        """Returns the batch size that the net is bound to, or None if it takes any; found by trying another one.

        A net is bound to its batch size by a Reshape that states it (`dim: 1`), or by a layer that refuses another.
        """
        given = {self.graph.blob_names[blob]: self.shapes[blob] for blob in self.graph.inputs}
        sizes = [shape[0] for shape in given.values() if shape]
        if not sizes:
            return None
        larger = {name: (sizes[0] + 1, *shape[1:]) for name, shape in given.items() if shape[:1] == (sizes[0],)}
        before = [self.bottom_shapes(index) for index in range(len(self.layers))]
        try:
            self.reshape(larger)
        except PyScratchDetError:
            return sizes[0]
        is_fixed = any(
            layer.fixed_batch is not None and self.bottom_shapes(index)[0][:1] != shapes[0][:1]
            for index, (layer, shapes) in enumerate(zip(self.layers, before, strict=True))
        )
        self.reshape(given)
        return sizes[0] if is_fixed else None

    def reshape_layer(self, index: int) -> None:
        """Works out the shapes of one layer's tops from those of its bottoms.

        Raises:
            LayerError: The layer cannot take them.
        """
        try:
            with self.located(index):
                self._set_tops(index, self.layers[index].reshape(self.bottom_shapes(index)))
        except LayerError as error:
            self._blame_fixed_batch(index, error)
            raise

    def _blame_fixed_batch(self, index: int, error: LayerError) -> None:
        """Raises the error at the earlier layer that replaced the batch size, if there is one."""
        wanted = set(self.graph.nodes[index].bottoms)
        for earlier in range(index - 1, -1, -1):
            node, size = self.graph.nodes[earlier], self.layers[earlier].fixed_batch
            if not wanted.intersection(node.tops):
                continue
            wanted.update(node.bottoms)
            found = self.shapes[node.bottoms[0]][:1] if size is not None else ()
            if found and found != (size,):
                with self.located(earlier):
                    raise self.layers[earlier].fail(
                        f'the shape fixes the batch size, and layer "{error.layer}" cannot go on: {error.message}',
                        "fixed-batch",
                        expected=size,
                        found=found[0],
                        hint="write dim: 0, which copies the batch size, or run the net with the fixed size",
                    ) from error

    @contextmanager
    def located(self, index: int) -> Iterator[None]:
        """Adds to errors raised in the block which layer they are about and where it is written."""
        node = self.graph.nodes[index]
        try:
            yield
        except PyScratchDetError as error:
            if error.layer is None:
                error.layer, error.layer_type = node.name, node.type
            if error.position is None and node.index >= 0:
                error.position = self.locate(node.index)
            raise

    def _set_tops(self, index: int, shapes: Sequence[Shape]) -> None:
        for shape, name in zip(shapes, self.graph.nodes[index].param.top, strict=False):
            check_count(shape, f'top "{name}"')
        self.top_shapes[index] = list(shapes)
        for blob, shape in zip(self.graph.nodes[index].tops, shapes, strict=True):
            self.shapes[blob] = shape


def check_count(shape: Shape, what: str) -> None:
    """Refuses a blob whose size the original refuses.

    Raises:
        LayerError: It has more values than an int can count, or a negative dimension.
    """
    if min(shape, default=0) < 0:
        raise LayerError(f"{what} has a negative dimension", code="layer.shape", found=tuple(shape))
    if math.prod(shape) > MAX_COUNT:
        raise LayerError(
            f"{what} is too large", code="layer.count", expected=f"at most {MAX_COUNT} values", found=tuple(shape)
        )


def read_net(path: str | os.PathLike[str]) -> NetFile:
    """Reads a net prototxt and upgrades it to the latest format.

    Raises:
        FileError: The file cannot be read.
        PrototxtError: It is not a net.
    """
    name = os.fspath(path)
    text = decode_text(read_bytes(path), name)
    passed_over: list[PassedOver] = []
    param = parse(text, caffe_pb2.NetParameter, path=name, passed_over=passed_over)
    inserted = num_inserted_layers(param)
    key = "layers" if param.layers else "layer"
    locator = Locator(text, name)

    def locate(index: int, *keys: str | int) -> Position | None:
        return locator.position(key, index - inserted, *keys) if index >= inserted else locator.position("input")

    def layer_text(index: int) -> tuple[int, str]:
        return locator.lines(key, index - inserted) if index >= inserted else (0, "")

    return NetFile(upgrade_net(param, locator=locator), locate, locator.position, passed_over, layer_text)


def plan_net(
    net: NetFile | caffe_pb2.NetParameter | str | os.PathLike[str],
    phase: int = caffe_pb2.TEST,
    level: int = 0,
    stages: Sequence[str] = (),
    context: Context | None = None,
    on_layer: Callable[[Layer], None] = lambda layer: None,
    runs: bool = False,
) -> NetPlan:
    """Returns the plan of a net: graph, layers, shapes.

    Args:
        net: A path, a parsed file, or a NetParameter of any format version.
        phase: `caffe_pb2.TRAIN` or `caffe_pb2.TEST`.
        level: For `min_level` and `max_level` rules.
        stages: Added to the file's own.
        context: What the layers share; its phase is set to `phase`.
        on_layer: Called after each layer's set-up, in order (the runtime fills weights there, so that random numbers
            are drawn in the original's order).
        runs: Whether the net is to run. If not, a warning says of which layers only the shapes are known.

    Raises:
        NetError: The layers do not fit together.
        PrototxtError: A field of another Caffe changes results and is not computed.
        LayerError: A layer breaks a rule of its type.
        DataError, FileError: What a data layer reads is missing or damaged.
    """
    if isinstance(net, (str, Path, os.PathLike)):
        net = read_net(net)
    if isinstance(net, caffe_pb2.NetParameter):
        net = NetFile(upgrade_net(net))
    context = context or Context()
    context.phase = phase
    context.stats_batch_size = net.param.bn_stats_batch_size
    graph = build_graph(net.param, lambda type_, name: layer_class(type_, name), phase, level, stages, net.locate)
    _refuse_fork_fields(net, graph, runs)
    number = len(graph.blob_names)
    plan = NetPlan(graph, [], [()] * number, [], BackwardPlan([], [], []), Storage([], [], {}), context, net.locate)
    for index, node in enumerate(graph.nodes):
        layer = layer_class(node.type, node.name)(node.param, context)
        layer.num_tops = len(node.tops)
        plan.layers.append(layer)
        plan.top_shapes.append([])
        with plan.located(index):
            layer.setup(plan.bottom_shapes(index))
            _check_runs(layer, runs)
            for spec in layer.blobs:
                check_count(spec.shape, f"blob {spec.role}")
        if len(node.param.param) > len(layer.blobs):
            raise NetError(
                "too many param entries",
                code="net.params",
                position=net.locate(node.index),
                layer=node.name,
                layer_type=node.type,
                expected=f"at most {len(layer.blobs)}",
                found=len(node.param.param),
            )
        plan.reshape_layer(index)
        with plan.located(index):
            on_layer(layer)
    plan.storage = plan_storage(
        graph, [layer.shares_data for layer in plan.layers], [layer.shares_diff for layer in plan.layers]
    )
    plan.backward = plan_backward(
        graph, [len(layer.blobs) for layer in plan.layers], lambda i, j: j not in plan.layers[i].no_gradient
    )
    return plan


def _check_runs(layer: Layer, runs: bool) -> None:
    """Refuses a layer of which only the shapes are known if the net is to run, else says so."""
    if not layer.only_shapes:
        return
    if runs:
        raise layer.only_shapes_known()
    _log.warning('layer "%s" (%s): only the shapes are known: %s', layer.name, layer.type, layer.only_shapes)


def _refuse_fork_fields(net: NetFile, graph: Graph, runs: bool) -> None:
    harmless = refuse_fork_fields(net.param, NET_FORK_FIELDS, net.locate_field, skipped=("layer",))
    for node in graph.nodes:
        cls = layer_class(node.type)
        harmless += refuse_fork_fields(
            node.param,
            cls.known_fork_fields(runs),
            functools.partial(net.locate, node.index),
            skipped=("blobs",),
            layer=node.name,
            layer_type=node.type,
        )
        if not runs and (unread := fork_paths(node.param, cls.known_fork_fields(False) - cls.known_fork_fields())):
            text = 'layer "%s" (%s): only the shapes are known: %s is not computed'
            _log.warning(text, node.name, node.type, ", ".join(unread))
    first = net.locate_field()
    say_harmless(first.path if first else "net", harmless)
