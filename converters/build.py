"""Writing a Caffe net layer by layer from another framework's operators, and refusing what Caffe cannot express.

Each method adds one operation and returns the name of its blob. Layer classes check parameters and give shapes, so a
net that is built here is one that runs. Windows are given as PyTorch and ONNX do: sizes round down unless said
otherwise, and begin and end padding may differ.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyscratchdet.caffe.net_spec import assign_proto
from pyscratchdet.errors import ConversionError, LayerError
from pyscratchdet.files import write_text
from pyscratchdet.layers.base import Context, Shape, layer_class
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import to_text
from pyscratchdet.proto.weights import write_caffemodel

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]  # top, left, bottom, right

# Caffe's running sums are statistics * scale factor. At rest the factor is 1 / (1 - moving_average_fraction), 1000 for
# Caffe's default; the power of two next to it keeps every bit, and a training that goes on weighs batches as it should.
SCALE_FACTOR = 1024.0
MAX_COUNT = 2**31  # values in a blob of Caffe's


class NetBuilder:
    """A net in the making.

    Attributes:
        param: Its layers.
        blobs: Their weights by layer.
        shapes: The shape of each blob.
    """

    def __init__(self, name: str) -> None:
        self.param = caffe_pb2.NetParameter(name=name)
        self.blobs: dict[str, list[np.ndarray]] = {}
        self.shapes: dict[str, Shape] = {}

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
            ConversionError: The layer cannot work on these bottoms, or the weights do not fit.
        """
        name = self._unique(name)
        tops = [name] if tops is None else list(tops)
        layer = self.param.layer.add(name=name, type=kind, bottom=bottoms, top=tops)
        for field, values in params.items():
            assign_proto(layer, field, values)
        made = layer_class(kind, name)(layer, Context())
        made.num_tops = len(tops)
        try:
            made.setup([self.shapes[bottom] for bottom in bottoms])
            shapes = made.reshape([self.shapes[bottom] for bottom in bottoms])
        except LayerError as error:
            raise self.refuse(name, kind, f"Caffe's layer cannot take it: {error.message}") from error
        expected, found = [spec.shape for spec in made.blobs], [array.shape for array in weights]
        if expected != found:
            raise self.refuse(name, kind, f"weights of shapes {found} where Caffe has {expected}")
        if weights:
            self.blobs[name] = [np.array(array, np.float32) for array in weights]
        self.shapes.update(zip(tops, shapes, strict=True))
        return tops

    def refuse(self, name: str, kind: str, reason: str) -> ConversionError:
        """Returns the error that says what cannot be expressed and why."""
        return ConversionError(reason, code="import.unsupported", layer=name, layer_type=kind)

    def input(self, name: str, shape: Shape) -> str:
        """Adds an input blob."""
        layer = self.param.layer.add(name=name, type="Input", top=[name])
        layer.input_param.shape.add(dim=shape)
        self.shapes[name] = shape
        return name

    # --- layers with weights ---

    def convolution(
        self,
        name: str,
        bottom: str,
        weight: np.ndarray,
        bias: np.ndarray | None,
        *,
        stride: Pair,
        pads: Pads,
        dilation: Pair,
        group: int,
        transposed: bool = False,
    ) -> str:
        """Convolution, or Deconvolution with weights (in, out / group, kh, kw) as in PyTorch, ONNX and Caffe."""
        kind = "Deconvolution" if transposed else "Convolution"
        if weight.ndim != 4:
            raise self.refuse(name, kind, f"a convolution over {weight.ndim - 2} axes; two are supported")
        if pads[:2] != pads[2:]:
            raise self.refuse(name, kind, f"padding that differs at the two ends, {pads}")
        values = {
            "num_output": weight.shape[1] * group if transposed else weight.shape[0],
            "bias_term": bias is not None,
            "group": group,
            **_window("kernel", weight.shape[2:]),
            **_window("stride", stride),
            **_window("pad", pads[:2]),
        }
        if dilation != (1, 1):
            values["dilation"] = list(dilation)
        weights = [weight] if bias is None else [weight, bias]
        return self.add(kind, name, [bottom], weights, convolution_param=values)[0]

    def inner_product(self, name: str, bottom: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        """InnerProduct over the last axis; weights (out, in)."""
        values = {
            "num_output": weight.shape[0],
            "bias_term": bias is not None,
            "axis": len(self.shapes[bottom]) - 1,
        }
        weights = [weight] if bias is None else [weight, bias]
        return self.add("InnerProduct", name, [bottom], weights, inner_product_param=values)[0]

    def batch_norm(
        self,
        name: str,
        bottom: str,
        scale: np.ndarray,
        bias: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        eps: float,
    ) -> str:
        """BatchNorm and a Scale `<name>_scale`."""
        factor = np.float32(SCALE_FACTOR)
        statistics = [mean * factor, variance * factor, np.array([factor])]
        frozen = [{"lr_mult": 0, "decay_mult": 0}] * 3
        top = self.add("BatchNorm", name, [bottom], statistics, batch_norm_param={"eps": eps}, param=frozen)
        return self.add("Scale", f"{name}_scale", top, [scale, bias], top, scale_param={"bias_term": True})[0]

    def constant(self, name: str, kind: str, bottom: str, array: np.ndarray) -> str:
        """Adds or multiplies ("Add", "Mul") a number, or an array laid over any axes but the batch."""
        shape = self.shapes[bottom]
        array = np.asarray(array, np.float32)
        full = (1,) * (len(shape) - array.ndim) + array.shape
        if len(full) != len(shape) or any(size not in (1, have) for size, have in zip(full, shape, strict=True)):
            raise self.refuse(name, kind, f"a constant of shape {array.shape} on a blob of {shape}")
        axes = [axis for axis, size in enumerate(full) if size > 1]
        if not axes:
            number = {"shift" if kind == "Add" else "scale": float(array.ravel()[0])}
            return self.add("Power", name, [bottom], power_param=number)[0]
        if axes[0] == 0:
            raise self.refuse(name, kind, f"a constant of shape {array.shape}, with values for each picture of a batch")
        covered = slice(axes[0], axes[-1] + 1)
        weight = np.broadcast_to(array.reshape(full[covered]), shape[covered])
        # Scale with a factor of 1 adds exactly, and is known where Bias is not (OpenCV).
        weights = [np.ones_like(weight), weight] if kind == "Add" else [weight]
        values = {"axis": covered.start, "num_axes": weight.ndim, "bias_term": kind == "Add"}
        return self.add("Scale", name, [bottom], weights, scale_param=values)[0]

    # --- pooling ---

    def pool(
        self,
        name: str,
        bottom: str,
        method: str,
        kernel: Pair,
        *,
        stride: Pair,
        pads: Pads,
        ceil: bool = False,
        include_pad: bool = True,
    ) -> str:
        """Pooling "MAX" or "AVE". Caffe rounds up: rows and columns that the source does not have are cut off."""
        shape = self.shapes[bottom]
        if len(shape) != 4:
            raise self.refuse(name, method, f"pooling of a blob of {len(shape)} axes")
        if method == "AVE" and any(pads) and not include_pad:
            raise self.refuse(name, method, "averages that leave out the padding; Caffe's count it")
        wanted = [_pooled(shape[2 + i], kernel[i], stride[i], pads[i::2], ceil) for i in (0, 1)]
        if min(wanted) < 1:
            raise self.refuse(name, method, f"a window of {kernel} that does not fit into {shape[2:]}")
        if method == "AVE" and pads[:2] != pads[2:]:
            raise self.refuse(name, method, f"averages with padding that differs at the two ends, {pads}")
        values = {"pool": method, **_window("kernel", kernel), **_window("stride", stride), **_window("pad", pads[:2])}
        top = self.add("Pooling", name, [bottom], pooling_param=values)[0]
        found = self.shapes[top][2:]
        if tuple(wanted) == found:
            return top
        if any(f < w for f, w in zip(found, wanted, strict=True)):
            raise self.refuse(name, method, f"{wanted} windows where Caffe has {list(found)}")
        top = self._rename_last(f"{name}_all")
        cuts = [(axis, size) for axis, size in zip((2, 3), wanted, strict=True) if self.shapes[top][axis] > size]
        for axis, size in cuts:
            last = axis == cuts[-1][0]
            top = self.part(name if last else f"{name}_rows", top, axis, 0, size)
        return top

    def part(self, name: str, bottom: str, axis: int, start: int, end: int) -> str:
        """Keeps the entries `start` to `end` of an axis."""
        size = self.shapes[bottom][axis]
        sizes = {f"{name}_before": start, name: end - start, f"{name}_after": size - end}
        sizes = {top: number for top, number in sizes.items() if number}
        self.split(f"{name}_slice", bottom, axis, list(sizes.values()), list(sizes))
        self.silence(f"{name}_silence", [top for top in sizes if top != name])
        return name

    def silence(self, name: str, bottoms: Sequence[str]) -> None:
        """Takes blobs that nobody needs, which would else be outputs."""
        self.param.layer.add(name=self._unique(name), type="Silence", bottom=bottoms)

    def global_pool(self, name: str, bottom: str, method: str) -> str:
        """One value per channel, axes kept."""
        return self.add("Pooling", name, [bottom], pooling_param={"pool": method, "global_pooling": True})[0]

    # --- the rest ---

    def eltwise(self, name: str, operation: str, bottoms: Sequence[str], coeff: Sequence[float] = ()) -> str:
        """Eltwise "SUM", "PROD" or "MAX" of blobs of one shape; or "PROD" of one and a value per channel of its own."""
        shapes = {self.shapes[bottom] for bottom in bottoms}
        if operation == "PROD" and len(bottoms) == len(shapes) == 2:
            gate, blob = sorted(bottoms, key=lambda bottom: np.prod(self.shapes[bottom]))
            channels = self.shapes[gate][:2]
            if self.shapes[gate] == (*channels, 1, 1) and self.shapes[blob][:2] == channels:
                flat = self.reshape(f"{name}_gate", gate, channels)
                return self.add("Scale", name, [blob, flat], scale_param={"axis": 0})[0]
        if len(shapes) > 1:
            raise self.refuse(name, operation, f"blobs of different shapes, {sorted(shapes)}; Caffe does not broadcast")
        values: dict[str, Any] = {"operation": operation}
        if any(value != 1 for value in coeff):
            values["coeff"] = list(coeff)
        return self.add("Eltwise", name, bottoms, eltwise_param=values)[0]

    def enlarge(self, name: str, bottom: str, factors: Pair) -> str:
        """Repeats each pixel in both directions: a Deconvolution of ones, which every Caffe has; it does not learn."""
        if np.prod([*map(float, self.shapes[bottom]), *factors]) >= MAX_COUNT:
            raise self.refuse(name, "Deconvolution", f"factors {factors} make more values than a Caffe blob holds")
        channels = self.shapes[bottom][1]
        values = {
            "num_output": channels,
            "group": channels,
            "bias_term": False,
            **_window("kernel", factors),
            **_window("stride", factors),
        }
        weight = np.ones((channels, 1, *factors), np.float32)
        frozen = [{"lr_mult": 0, "decay_mult": 0}]
        return self.add("Deconvolution", name, [bottom], [weight], convolution_param=values, param=frozen)[0]

    def reshape(self, name: str, bottom: str, shape: Sequence[int]) -> str:
        """Reshape; what equals the bottom's first axis is left open, so the batch size is."""
        found = self.shapes[bottom]
        dims = [int(size) for size in shape]
        if dims and found and dims[0] == found[0]:
            dims[0] = 0
        return self.add("Reshape", name, [bottom], reshape_param={"shape": {"dim": dims}})[0]

    def split(self, name: str, bottom: str, axis: int, sizes: Sequence[int], tops: Sequence[str]) -> list[str]:
        """Slices an axis."""
        points = [int(point) for point in np.cumsum(sizes)[:-1]]
        return self.add("Slice", name, [bottom], tops=tops, slice_param={"axis": axis, "slice_point": points})

    def _rename_last(self, name: str) -> str:
        """Gives the last layer and its top another name."""
        layer = self.param.layer[-1]
        self.shapes[name] = self.shapes.pop(layer.top[0])
        layer.name = layer.top[0] = name
        return name

    def _unique(self, name: str) -> str:
        taken = {layer.name for layer in self.param.layer} | self.shapes.keys()
        candidate, number = name, 1
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        return candidate


def _window(field: str, sizes: Sequence[int]) -> dict[str, int]:
    """Caffe's fields of a window: kernel_size or kernel_h and kernel_w."""
    height, width = (int(size) for size in sizes)
    if height == width:
        return {"kernel_size" if field == "kernel" else field: height}
    return {f"{field}_h": height, f"{field}_w": width}


def _pooled(size: int, kernel: int, stride: int, pads: Sequence[int], ceil: bool) -> int:
    """Number of windows as PyTorch and ONNX count them: no window begins in the end padding."""
    number = (math.ceil if ceil else math.floor)((size + sum(pads) - kernel) / stride) + 1
    return number - 1 if ceil and (number - 1) * stride >= size + pads[0] else number
