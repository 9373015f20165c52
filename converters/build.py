"""Writing a Caffe net layer by layer from another framework's operators, and refusing what Caffe cannot express.

Layer classes check parameters and give shapes, so a net that is built here runs. What an operator of another framework
becomes is said in `pyscratchdet.converters.operations`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from pyscratchdet.caffe.net_spec import assign_proto
from pyscratchdet.converters.layer_sets import ALL_LAYERS, LayerSet
from pyscratchdet.errors import ConversionError, LayerError
from pyscratchdet.files import write_text
from pyscratchdet.layers.base import Context, Shape, layer_class
from pyscratchdet.layers.plan import check_count
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import to_text
from pyscratchdet.proto.weights import write_caffemodel

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]  # top, left, bottom, right

# Caffe's running sums are statistics * scale factor. In the long run the factor is 1 / (1 - moving_average_fraction),
# 1000 for Caffe's default; the power of two next to it keeps every bit, and if training continues, batches have the
# weight that they should have.
SCALE_FACTOR = 1024.0


class NetBuilder:
    """A net that is being built.

    Args:
        name: The net's name.
        layers: The layers that it may have.
        approximate: Whether operations that no layers compute exactly may be approximated.

    Attributes:
        param: Its layers.
        blobs: Their weights by layer; they may share memory with the source's.
        shapes: The shape of each blob.
        inputs: Its input blobs, in the source's order.
        outputs: Output of the source -> blob, in the source's order.
        sources: Name in the source -> blob, for comparison of what lies between. Values that no blob holds, such as
            padding that a convolution took over, are not in it.
        approximations: What was approximated, one sentence each, with its largest error.
        approximated: A layer of each approximation.
        check_size: Called with the number of bytes of weights about to be made; may refuse a number out of proportion.
    """

    def __init__(self, name: str, layers: LayerSet = ALL_LAYERS, *, approximate: bool = False) -> None:
        self.param = caffe_pb2.NetParameter(name=name)
        self.layers = layers
        self.approximate = approximate
        self.blobs: dict[str, list[np.ndarray]] = {}
        self.shapes: dict[str, Shape] = {}
        self.inputs: list[str] = []
        self.outputs: dict[str, str] = {}
        self.sources: dict[str, str] = {}
        self.approximations: list[str] = []
        self.approximated: set[str] = set()
        self.check_size: Callable[[int], None] = lambda num_bytes: None
        self._names: set[str] = set()  # of layers and tops
        self._padded: dict[str, tuple[str, Pads, float]] = {}  # blobs that are not made yet, and what they are made of

    def write(self, prototxt: str | os.PathLike[str], caffemodel: str | os.PathLike[str]) -> None:
        """Writes both files; atomic."""
        write_text(prototxt, to_text(self.param))
        write_caffemodel(caffemodel, self.param, self.blobs)

    def add(
        self,
        kind: str,
        name: str,
        bottoms: Sequence[str],
        weights: Sequence[np.ndarray] = (),
        tops: Sequence[str] | None = None,
        **params: Any,
    ) -> list[str]:
        """Adds a layer and returns its tops: those given (the bottom's name for a layer in place), else its name.

        Raises:
            ConversionError: The target has no such layer, it cannot work on these bottoms, or the weights do not fit.
        """
        bottoms = [self.made(bottom) for bottom in bottoms]
        name = self.unique(name)
        tops = [name] if tops is None else list(tops)
        fields = {key for values in params.values() if isinstance(values, dict) for key in values}
        if lacking := self.layers.missing(kind, fields):
            raise self.refuse(name, kind, f"{lacking} is needed, which {self.layers.name} lacks")
        layer = caffe_pb2.LayerParameter(name=name, type=kind, bottom=bottoms, top=tops)
        for field, values in params.items():
            assign_proto(layer, field, values)
        made = layer_class(kind, name)(layer, Context())
        made.num_tops = len(tops)
        try:
            made.setup([self.shapes[bottom] for bottom in bottoms])
            shapes = made.reshape([self.shapes[bottom] for bottom in bottoms])
            for shape in shapes:
                check_count(shape, "the top")
        except LayerError as error:
            raise self.refuse(name, kind, f"Caffe's layer cannot take it: {error.message}") from error
        expected, found = [spec.shape for spec in made.blobs], [array.shape for array in weights]
        if expected != found:
            raise self.refuse(name, kind, f"weights of shapes {found} where Caffe has {expected}")
        if weights:
            self.blobs[name] = [np.asarray(array, np.float32) for array in weights]
        self.param.layer.append(layer)
        self.shapes.update(zip(tops, shapes, strict=True))
        self._names.update((name, *tops))
        return tops

    def refuse(self, name: str, kind: str, reason: str) -> ConversionError:
        """Returns the error that says what cannot be expressed and why."""
        return ConversionError(reason, code="import.unsupported", layer=name, layer_type=kind)

    def input(self, name: str, shape: Shape) -> str:
        """Adds an input blob."""
        layer = self.param.layer.add(name=name, type="Input", top=[name])
        layer.input_param.shape.add(dim=shape)
        self.shapes[name] = shape
        self.inputs.append(name)
        self._names.add(name)
        return name

    # --- padding, which the layer that reads it may take over ---

    def pad(self, name: str, bottom: str, pads: Pads, value: float = 0.0) -> str:
        """A blob with a value around height and width, which is made only if its reader cannot pad by itself."""
        if not any(pads):
            return bottom
        shape = self.shapes[bottom]
        if len(shape) != 4 or min(pads) < 0:
            raise self.refuse(
                name, "Pad", f"padding {pads} of a blob of shape {shape}; only height and width can be padded"
            )
        name = self.unique(name)
        self.shapes[name] = (*shape[:2], shape[2] + pads[0] + pads[2], shape[3] + pads[1] + pads[3])
        self._names.add(name)
        self._padded[name] = (bottom, pads, value)
        return name

    def is_made(self, blob: str) -> bool:
        """Returns whether a layer makes the blob by now."""
        return blob not in self._padded

    def made(self, blob: str) -> str:
        """Makes a blob that `pad` has promised: a Convolution that multiplies each channel by 1 and pads it."""
        if blob not in self._padded:
            return blob
        bottom, pads, value = self._padded.pop(blob)
        if not math.isfinite(value):
            raise self.refuse(blob, "Pad", f"padding with {value:g}, which only a MAX pooling after it can take over")
        self._forget(blob)
        most = [max(pads[i::2]) for i in (0, 1)]
        channels = self.shapes[bottom][1]
        if value:  # zeros around x - value
            bottom = self.add("Power", f"{blob}_less", [bottom], power_param={"shift": -value})[0]
        values = {"num_output": channels, "group": channels, "bias_term": False, "kernel_size": 1}
        weight = np.ones((channels, 1, 1, 1), np.float32)
        values.update(window_fields("pad", most))
        name = f"{blob}_zeros" if value else blob
        top = self.add("Convolution", name, [bottom], [weight], convolution_param=values, param=frozen(1))[0]
        top = self.crop(top, [most[i % 2] - pad for i, pad in enumerate(pads)])
        return self.add("Power", blob, [top], power_param={"shift": value})[0] if value else top

    def take_padding(
        self, name: str, bottom: str, pads: Pads, kernel: Pair | None = None, value: float = 0.0
    ) -> tuple[str, Pads]:
        """Returns what a layer with padding reads, and its padding: its own and that of a `pad` before it, in one.

        Args:
            name: The layer.
            bottom: What it reads in the source.
            pads: Its own padding.
            kernel: For Pooling, whose padding must be smaller than its kernel.
            value: What it pads with.
        """
        if bottom in self._padded and self._padded[bottom][2] == value:
            before, more, _ = self._padded[bottom]
            both = tuple(a + b for a, b in zip(pads, more, strict=True))
            fits = kernel is None or all(pad < size for pad, size in zip(both[:2], kernel, strict=True))
            if both[:2] == both[2:] and fits:
                return before, both  # type: ignore[return-value]
        if pads[:2] == pads[2:]:
            return self.made(bottom), pads
        return self.made(self.pad(f"{name}_pad", self.made(bottom), pads, value)), (0, 0, 0, 0)

    def padding_before(self, bottom: str) -> tuple[str, Pads, float]:
        """Returns what a blob that is not made yet is made of; for any other itself and no padding."""
        return self._padded.get(bottom, (bottom, (0, 0, 0, 0), 0.0))

    # --- parts of blobs ---

    def crop(self, top: str, margins: Sequence[int]) -> str:
        """Cuts rows and columns (top, left, bottom, right) off the last layer's top, which keeps its name."""
        if not any(margins):
            return top
        name, blob = top, self._rename_last(f"{top}_all")
        cuts = [axis for axis in (0, 1) if margins[axis] or margins[axis + 2]]
        for axis in cuts:
            size = self.shapes[blob][axis + 2]
            part = name if axis == cuts[-1] else f"{name}_rows"
            blob = self.part(part, blob, axis + 2, margins[axis], size - margins[axis + 2])
        return blob

    def part(self, name: str, bottom: str, axis: int, start: int, end: int) -> str:
        """Keeps the entries `start` to `end` of an axis."""
        name = self.unique(name)
        size = self.shapes[bottom][axis]
        sizes = {f"{name}_before": start, name: end - start, f"{name}_after": size - end}
        sizes = {top: number for top, number in sizes.items() if number}
        self.split(f"{name}_slice", bottom, axis, list(sizes.values()), list(sizes))
        self.silence(f"{name}_silence", [top for top in sizes if top != name])
        return name

    def split(self, name: str, bottom: str, axis: int, sizes: Sequence[int], tops: Sequence[str]) -> list[str]:
        """Slices an axis."""
        points = [int(point) for point in np.cumsum(sizes)[:-1]]
        return self.add("Slice", name, [bottom], tops=tops, slice_param={"axis": axis, "slice_point": points})

    def silence(self, name: str, bottoms: Sequence[str]) -> None:
        """Takes blobs that nobody needs, which would otherwise be outputs; left out where the target has no Silence."""
        if bottoms and self.layers.has("Silence"):
            name = self.unique(name)
            self._names.add(name)
            self.param.layer.add(name=name, type="Silence", bottom=bottoms)

    def reshape(self, name: str, bottom: str, shape: Sequence[int]) -> str:
        """Reshape; a first axis of the bottom's size is left open, and with it the batch size."""
        found = self.shapes[bottom]
        dims = [int(size) for size in shape]
        if dims and found and dims[0] == found[0]:
            dims[0] = 0
        return self.add("Reshape", name, [bottom], reshape_param={"shape": {"dim": dims}})[0]

    def maker(self, blob: str) -> caffe_pb2.LayerParameter | None:
        """Returns the last layer that writes a blob."""
        return next((layer for layer in reversed(self.param.layer) if blob in layer.top), None)

    def tops(self) -> set[str]:
        """Returns the blobs that layers make."""
        return {top for layer in self.param.layer for top in layer.top}

    # --- names ---

    def unique(self, name: str) -> str:
        """Returns the name, numbered if a layer or blob has it."""
        candidate, number = name, 1
        while candidate in self._names:
            number += 1
            candidate = f"{name}_{number}"
        return candidate

    def select(self, wanted: Iterable[str]) -> None:
        """Leaves out the layers that none of these blobs depends on, and silences what else nobody reads."""
        outputs = set(wanted)
        needed, kept = set(outputs), []
        for layer in reversed(self.param.layer):
            if layer.type == "Input" or (layer.type != "Silence" and needed.intersection(layer.top)):
                needed.update(layer.bottom)
                kept.append(layer)
        layers = caffe_pb2.NetParameter(layer=kept[::-1]).layer
        del self.param.layer[:]
        names = {layer.name for layer in layers}
        self.blobs = {name: arrays for name, arrays in self.blobs.items() if name in names}
        for layer in layers:
            self.param.layer.append(layer)
            self.silence(f"{layer.name}_silence", [top for top in layer.top if top not in needed | set(self.inputs)])

    def _rename_last(self, name: str) -> str:
        """Gives the last layer and its top another name."""
        layer, name = self.param.layer[-1], self.unique(name)
        self.shapes[name] = self.shapes.pop(layer.top[0])
        self._names.discard(layer.name)
        self._names.add(name)
        if layer.name in self.blobs:
            self.blobs[name] = self.blobs.pop(layer.name)
        layer.name = layer.top[0] = name
        return name

    def _forget(self, blob: str) -> None:
        del self.shapes[blob]
        self._names.discard(blob)


def frozen(number: int) -> list[dict[str, float]]:
    """Returns Caffe's `param` for blobs that do not learn."""
    return [{"lr_mult": 0, "decay_mult": 0}] * number


def window_fields(field: str, sizes: Sequence[int]) -> dict[str, int]:
    """Caffe's fields of a window: kernel_size or kernel_h and kernel_w."""
    height, width = (int(size) for size in sizes)
    if height == width:
        return {"kernel_size" if field == "kernel" else field: height}
    return {f"{field}_h": height, f"{field}_w": width}
