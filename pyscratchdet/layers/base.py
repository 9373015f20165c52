"""What a layer is: its rules, shapes, blobs, forward pass, ONNX form and PyTorch source, in one class per type.

A layer object holds the parameters of one layer and no weights: those are passed to `forward`, so that the same object
serves PyTorch's modules, pycaffe's arrays and the exporters. Gradients come from autograd. Importing a layer imports
no torch (`pyscratchdet.lazy`), so nets are checked and summarised instantly.

To add a type: a file here with a class under `@register("Type")`, and its cases in `tests/layers`. Nothing else.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import logging
import os
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pyscratchdet.errors import ConversionError, LayerError, NetError, nearest
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.forks import type_origin
from pyscratchdet.rng import CaffeRandom

if TYPE_CHECKING:
    import numpy as np

    from pyscratchdet.lazy import Tensor

Shape = tuple[int, ...]

# Installed packages name the modules that register their layer types under this group of entry points.
ENTRY_POINTS = "pyscratchdet.layers"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Count:
    """How many bottoms or tops a type takes: `low` to `high`, None for no upper limit."""

    low: int
    high: int | None

    def __contains__(self, number: int) -> bool:
        return self.low <= number and (self.high is None or number <= self.high)

    def __str__(self) -> str:
        if self.low == self.high:
            return str(self.low)
        return f"at least {self.low}" if self.high is None else f"{self.low} to {self.high}"


def exactly(number: int) -> Count:
    """Exactly this many."""
    return Count(number, number)


def at_least(number: int) -> Count:
    """This many or more."""
    return Count(number, None)


@dataclass
class BlobSpec:
    """One blob of weights of a layer, in Caffe's layout.

    Attributes:
        role: Its name in a PyTorch state_dict: `weight`, `bias`, `mean`...
        shape: Caffe's shape.
        filler: What fills it initially; None leaves zeros.
        is_statistic: True for a blob that the forward pass itself updates (BatchNorm): it gets no gradient and no
            solver update.
        value: Initial values if there is no filler: a constant, or an array of the same shape.
    """

    role: str
    shape: Shape
    filler: caffe_pb2.FillerParameter | None = None
    is_statistic: bool = False
    value: float | np.ndarray = 0.0


@dataclass
class Context:
    """What a net's layers share.

    Attributes:
        phase: `caffe_pb2.TRAIN` or `caffe_pb2.TEST`, fixed when the net is built, as in Caffe.
        random: Caffe's random stream: fillers, dropout, data.
        root: Folder against which relative paths in the net are resolved.
        options: Runtime choices by name, e.g. {"workers": 2}; a layer reads those it knows.
        writes: Whether layers may write the files that the net names (HDF5Output, `save_output_param`).
        stats_batch_size: The net's `bn_stats_batch_size` (Intel's), which replaces that of each BatchNorm; 0 for none.
    """

    phase: int = caffe_pb2.TEST
    random: CaffeRandom = field(default_factory=CaffeRandom)
    root: str = "."
    options: dict[str, Any] = field(default_factory=dict)
    writes: bool = False
    stats_batch_size: int = 0

    @property
    def is_train(self) -> bool:
        """Whether the net was built for the TRAIN phase."""
        return self.phase == caffe_pb2.TRAIN

    @property
    def share(self) -> tuple[int, int]:
        """This process's rank and the number that train together; a test net reads all records, as in the original."""
        options = self.options if self.is_train else {}
        return options.get("rank", 0), options.get("world_size", 1)


class OnnxGraph(Protocol):
    """What a layer's `onnx` method may ask of the exporter. Values are referred to by name.

    Attributes:
        open_batch: Whether the file takes any batch size.
    """

    open_batch: bool

    def node(self, op_type: str, inputs: Sequence[str], num_outputs: int = 1, **attributes: object) -> list[str]:
        """Adds a standard ONNX operator and returns the names of its outputs."""

    def constant(self, array: np.ndarray, name: str = "constant") -> str:
        """Adds an initializer (one with the same name and array is stored once) and returns its name."""

    def shape(self, value: str) -> Shape:
        """Returns the Caffe shape of a value made by an earlier layer, batch size included."""


class SourceText(Protocol):
    """What a layer's `torch_source` method may ask of the writer of PyTorch source. Values are expressions."""

    def module(self, constructor: str, shapes: Mapping[str, Shape] | None = None) -> str:
        """Makes a submodule that is called like the layer and holds its blobs by role.

        Args:
            constructor: The expression that makes it, such as "nn.ReLU()".
            shapes: Blobs that have another shape there, by role.

        Returns:
            The expression for it, "self.<name>".
        """

    def part(self, definition: Callable[..., Any]) -> str:
        """Puts a function or class of this project into the file, with all that it uses, and returns its name."""

    def constant(self, name: str, value: float) -> str:
        """Puts a named number into the file and returns its name."""

    def shape(self, value: str) -> Shape:
        """Returns the Caffe shape of a value made by an earlier layer, batch size included."""


class Layer(ABC):
    """Base of all layer types. Subclasses override what differs.

    Class attributes:
        bottoms, tops: How many of each it takes.
        auto_tops: True when missing tops are added automatically (losses without a named top).
        is_loss: True when the first top has loss weight 1 by default.
        no_gradient: Indices of bottoms that never get a gradient (labels, priors).
        is_input: True when the caller gives the tops, so that `forward` is never called.
        is_source: True when the layer makes data itself: `forward` gets no bottoms and returns a new batch each call.
        copies_bottom: True when every top equals the first bottom in TEST; may be set by `setup`.
        moves_values: True when the tops are the bottoms' values in another order or shape.
        reads_shapes: True when the tops depend only on the bottoms' shapes.
        sums_many: True when a top's value is a sum over many terms, whose float32 rounding depends on their order.
        makes_detections: True when the first top's rows are detections; those of equal score may be in any order. Such
            a type has `num_labels` (with the background), `background_label` and `confidence_threshold`.
        only_silences: True when the layer does nothing but keep its bottoms from being outputs of the net.
        coordinates: How positions along the spatial axes of a top relate to the bottom's: "same", "window" (one slides
            over the bottom), "transposed" (the inverse of a window), "cut" (an offset), or "" for none of these.
        top_is_free: True when gradients do not need the top's values, so that a later layer may overwrite it.
        fork_fields: The fields of other Caffes (`proto/dialects`) that this class computes; those of its bases are
            added.
            "pooling_param.torch_pooling" is one field, "loss_param.normalization=PRE_FIXED" one value, and
            "reorg_param" the message with all its fields. Any other such field is refused by name, unless its value is
            the one that leaves results as they are.
        looked_at_fields: Such fields that this class does not compute and that change no shape: a net that sets them
            can be looked at (`plan_net`), and is refused when it is to run.
        settings: The LayerParameter field with the `bias_term` of types that have a `scaled_weight`.
        fills_at_setup: True when tops have values from set-up on, and those of constant fillers never change
            (DummyData).

    Attributes:
        shares_data: Whether in the original the tops share the first bottom's memory (ShareData); set by `setup`.
        shares_diff: Whether their gradients share memory too (ShareDiff).
        fixed_batch: The top's batch size if the file states it, whatever the bottom's is (Reshape).
        only_shapes: Why only the shapes of the layer are known, so that a net with it can be looked at but not run;
            empty if it can. A type may say it of all its layers, or `setup` of this one.
    """

    type: ClassVar[str]
    bottoms: ClassVar[Count] = exactly(1)
    tops: ClassVar[Count] = exactly(1)
    auto_tops: ClassVar[bool] = False
    is_loss: ClassVar[bool] = False
    no_gradient: ClassVar[frozenset[int]] = frozenset()
    is_input: ClassVar[bool] = False
    is_source: ClassVar[bool] = False
    fills_at_setup: ClassVar[bool] = False
    copies_bottom: bool = False
    moves_values: ClassVar[bool] = False
    reads_shapes: ClassVar[bool] = False
    sums_many: bool = False
    makes_detections: ClassVar[bool] = False
    only_silences: ClassVar[bool] = False
    coordinates: ClassVar[str] = ""
    top_is_free: ClassVar[bool] = False
    settings: ClassVar[str] = ""
    fork_fields: ClassVar[frozenset[str]] = frozenset()
    looked_at_fields: ClassVar[frozenset[str]] = frozenset()
    only_shapes: str = ""

    def __init__(self, param: caffe_pb2.LayerParameter, context: Context) -> None:
        self.param = param
        self.name = param.name
        self.context = context
        self.blobs: list[BlobSpec] = []
        self.num_tops = len(param.top)
        self._said_unwritten = False
        self.shares_data = self.shares_diff = False
        self.fixed_batch: int | None = None

    @classmethod
    def known_fork_fields(cls, runs: bool = True) -> frozenset[str]:
        """Returns the `fork_fields` of the class and of its bases.

        Args:
            runs: Whether the net is to run; if not, `looked_at_fields` are among them.
        """
        names = ("fork_fields",) if runs else ("fork_fields", "looked_at_fields")
        return frozenset().union(*(vars(base).get(name, ()) for base in cls.__mro__ for name in names))

    def setup(self, bottoms: Sequence[Shape]) -> None:  # noqa: B027 - a hook that many types do without
        """Checks parameters against the bottoms' shapes and declares `self.blobs`; called once.

        Raises:
            LayerError: A rule of the type is broken.
        """

    @abstractmethod
    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the tops' shapes for these bottoms; called after `setup` and whenever the shapes change.

        Raises:
            LayerError: The shapes do not fit.
        """

    @abstractmethod
    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        """Returns the tops, differentiable with respect to bottoms and blobs; never changes a bottom in place."""

    @property
    def state(self) -> Any:
        """What one pass leaves for the next, besides weights, to continue exactly: numbers, lists, dicts, arrays.

        Types that carry something over define it, with a setter that makes the layer continue from there. What a layer
        draws from the net's own random stream is not part of it.
        """
        return None

    @state.setter  # noqa: B027 - most types carry nothing over
    def state(self, state: Any) -> None:
        pass

    @property
    def carries_over(self) -> bool:
        """Whether a pass depends on the passes before it, or draws: then one process makes all passes of a test.

        Where data layers stand does not count, if they have a method `skip(num_batches)` that passes over batches.
        """
        return type(self).state is not Layer.state or (self.is_source and not hasattr(self, "skip"))

    def write_over(self, bottom: Tensor) -> Tensor | None:
        """Computes the top in the bottom's memory and returns it; if it cannot, changes nothing and returns None."""
        return None

    def takes_in(self, after: Layer) -> bool:
        """Whether the method `normalize` computes this layer and the one right after it in one pass."""
        return False

    def initial_tops(self) -> list[Tensor]:
        """Returns what the tops hold from set-up on; empty except for types with `fills_at_setup`."""
        return []

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        """Adds this layer in standard ONNX operators and returns the names of its tops' values.

        Raises:
            ConversionError: The layer has no exact ONNX form.
        """
        raise ConversionError(
            "this layer type has no ONNX form", code="onnx.unsupported", layer=self.name, layer_type=self.type
        )

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        """Returns this layer in PyTorch source: one expression for each top.

        Raises:
            ConversionError: The layer has no such form.
        """
        raise self.no_torch_source("this layer type has no PyTorch source")

    def no_torch_source(self, message: str, **details: Any) -> ConversionError:
        """Returns the error for `torch_source`, ready to be raised."""
        return ConversionError(message, code="torch.unsupported", layer=self.name, layer_type=self.type, **details)

    def affine(self, bottom: Shape, blobs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns factor and summand, float64 (C,), if the layer is factor * x + summand per channel, else None.

        Args:
            bottom: The shape of its only bottom; channels are axis 1.
            blobs: Its weights.
        """
        return None

    def scaled_weight(self, weight: np.ndarray, factor: np.ndarray) -> np.ndarray | None:
        """Returns the weight that makes channel k (axis 1) of the top `factor[k]` times as large, bias excluded.

        Args:
            weight: The first blob.
            factor: float64 (C,), like the result.

        Returns:
            None if the type has no such weight.
        """
        return None

    def fold(self, blobs: Sequence[np.ndarray], factor: np.ndarray, summand: np.ndarray) -> list[np.ndarray] | None:
        """Returns weight and bias, float64, that make the top factor * top + summand per channel.

        Args:
            blobs: The present weight and, if there is one, bias.
            factor: float64 (C,), as from `affine`.
            summand: Likewise.

        Returns:
            None if the type cannot absorb them.
        """
        weight = self.scaled_weight(blobs[0], factor) if blobs else None
        if weight is None:
            return None
        return [weight, summand + (blobs[1].astype(factor.dtype) * factor if len(blobs) > 1 else 0)]

    def sliding_window(self) -> list[tuple[int, int]]:
        """Returns how far the window reaches and its stride, per spatial axis, if `coordinates` says that one slides.

        That is "window", or "transposed" for the window that slides over the top; other types have none.
        """
        return []

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns the multiply-accumulates of one forward pass; 0 if there are none worth counting."""
        return 0

    def opencv_difference(self) -> str:
        """Returns what OpenCV 4's importer is known to do otherwise here (modules/dnn/src); empty if nothing."""
        return ""

    def may_write(self, path: str | os.PathLike[str]) -> bool:
        """Returns whether the net may write a file that it names; if not, one line per layer is logged to say so."""
        if not self.context.writes and not self._said_unwritten:
            _log.warning('layer "%s" (%s): %s is not written here', self.name, self.type, os.fspath(path))
            self._said_unwritten = True
        return self.context.writes

    def fail(self, message: str, rule: str, **details: Any) -> LayerError:
        """Returns a LayerError about this layer with code `layer.<rule>`, ready to be raised."""
        layer_type = self.param.type or self.type  # as written, if a type has two names
        return LayerError(message, code=f"layer.{rule}", layer=self.name, layer_type=layer_type, **details)

    def only_shapes_known(self) -> LayerError:
        """Returns the error that the layer cannot run, ready to be raised."""
        return self.fail(
            f"only the shapes of this layer are known: {self.only_shapes}",
            "only-shapes",
            hint="the net can be looked at: pyscratchdet summary, draw-net",
        )

    def refuse_in_place(self) -> None:
        """Refuses a first top that is the first bottom, for types whose original does.

        Raises:
            LayerError: The two have the same name.
        """
        if self.param.top and self.param.top[:1] == self.param.bottom[:1]:
            raise self.fail(
                "this type cannot work in place",
                "in-place",
                expected="a top with a different name",
                found=self.param.top[0],
            )

    def axis(self, index: int, rank: int) -> int:
        """Returns Caffe's CanonicalAxisIndex: a negative axis counts from the end.

        Raises:
            LayerError: The axis is outside [-rank, rank).
        """
        if not -rank <= index < rank:
            raise self.fail("axis out of range", "axis", expected=f"-{rank} to {rank - 1}", found=index)
        return index % rank


class ShapedLayer(Layer):
    """Base of types of which only the shapes are known (`only_shapes`): their nets can be looked at, but not run."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        raise self.only_shapes_known()


LayerClass = TypeVar("LayerClass", bound=type[Layer])

_TYPES: dict[str, type[Layer]] = {}


def register(*names: str) -> Callable[[LayerClass], LayerClass]:
    """Class decorator that makes a layer type known under its Caffe name(s); the first is the type's own.

    Raises:
        NetError: A name is already taken.
    """

    def add(cls: LayerClass) -> LayerClass:
        for name in names:
            if name in _TYPES:
                raise NetError(f'layer type "{name}" is registered twice', code="net.duplicate-type")
            _TYPES[name] = cls
        cls.type = names[0]
        return cls

    return add


def layer_types() -> dict[str, type[Layer]]:
    """Returns every known type by name, importing all layer files at the first call."""
    _import_layer_files()
    return dict(sorted(_TYPES.items()))


@functools.cache
def _import_layer_files() -> None:
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        entry.load()


def layer_class(name: str, layer: str | None = None) -> type[Layer]:
    """Returns the class of a Caffe layer type.

    Raises:
        NetError: The type is unknown; the hint says which fork defines it or which type may be meant, and how to
                register one.
    """
    _import_layer_files()
    if name not in _TYPES:
        origin = type_origin(name)
        likely = f"defined by {origin}" if origin else nearest(name, _TYPES, 0.9)
        registering = "docs/own_layer.md shows how to register a type of your own"
        hint = f"{likely}{'; ' if origin else ' '}{registering}" if likely else registering
        raise NetError(f'unknown layer type "{name}"', code="net.unknown-type", layer=layer, hint=hint)
    return _TYPES[name]
