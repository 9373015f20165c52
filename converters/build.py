"""Writing a Caffe net layer by layer from another framework's operators, and refusing what Caffe cannot express.

Each method adds one operation and returns the name of its blob. Layer classes check parameters and give shapes, so a
net that is built here runs. Windows are given as in PyTorch and ONNX: sizes round down unless stated otherwise, and the
padding at the beginning and at the end may differ.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pyscratchdet.caffe.net_spec import assign_proto
from pyscratchdet.errors import ConversionError, LayerError, counted
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

    Attributes:
        param: Its layers.
        blobs: Their weights by layer.
        shapes: The shape of each blob.
        check_size: Called with the number of bytes of weights about to be made; may refuse a number out of proportion.
    """

    def __init__(self, name: str) -> None:
        self.param = caffe_pb2.NetParameter(name=name)
        self.check_size: Callable[[int], None] = lambda num_bytes: None
        self._padded: dict[str, tuple[str, Pads]] = {}  # blobs that are not made yet, and what they are made of
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
        bottoms = [self.made(bottom) for bottom in bottoms]
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
            for shape in shapes:
                check_count(shape, "the top")
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
            raise self.refuse(
                name, kind, f"a convolution over {counted(weight.ndim - 2, 'axis', 'axes')}; two are supported"
            )
        if not transposed:
            bottom, pads = self._take_padding(name, bottom, pads)
        values = {
            "num_output": weight.shape[1] * group if transposed else weight.shape[0],
            "bias_term": bias is not None,
            "group": group,
            **_window("kernel", weight.shape[2:]),
            **_window("stride", stride),
            **_window("pad", pads[:2] if not transposed else _common(pads)),
        }
        if dilation != (1, 1):
            values["dilation"] = list(dilation)
        weights = [weight] if bias is None else [weight, bias]
        top = self.add(kind, name, [bottom], weights, convolution_param=values)[0]
        return self._crop(top, tuple(pad - _common(pads)[i % 2] for i, pad in enumerate(pads))) if transposed else top

    def deconvolution(
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
        more: Pair = (0, 0),
    ) -> str:
        """Deconvolution whose top is larger at the end than padding leaves it, by `more` rows and columns.

        Less is cut off to get them; where that is not enough, the kernel is extended by zeros at its end.
        """
        ends = pads[2:]
        short = [max(0, extra - pad) for extra, pad in zip(more, ends, strict=True)]
        if any(short) and weight.ndim == 4:
            zeros = [-(-size // step) for size, step in zip(short, dilation, strict=True)]
            self.check_size(4 * math.prod(weight.shape[:2]) * math.prod(np.add(weight.shape[2:], zeros)))
            weight = np.pad(weight, [(0, 0), (0, 0), *((0, number) for number in zeros)])
            ends = ends[0] + zeros[0] * dilation[0], ends[1] + zeros[1] * dilation[1]
        pads = (*pads[:2], ends[0] - more[0], ends[1] - more[1])
        return self.convolution(
            name, bottom, weight, bias, stride=stride, pads=pads, dilation=dilation, group=group, transposed=True
        )

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
        """Adds or multiplies ("Add", "Mul") a number, or an array that is broadcast over any axes but the batch."""
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
        self.check_size(8 * math.prod(shape[covered]))
        weight = np.broadcast_to(array.reshape(full[covered]), shape[covered])
        # Scale with a factor of 1 adds exactly, and works where Bias is unknown (OpenCV).
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
            raise self.refuse(name, method, f"pooling of a blob of {counted(len(shape), 'axis', 'axes')}")
        if method == "AVE" and any(pads) and not include_pad:
            raise self.refuse(name, method, "averages that do not count the padding; Caffe's do")
        if method == "AVE":
            # Rounding up, no window begins in the end padding: padding before the layer differs from the layer's own.
            bottom, pads = self._take_padding(name, self.made(bottom) if ceil else bottom, pads, kernel)
            shape = self.shapes[bottom]
        wanted = [_pooled(shape[2 + i], kernel[i], stride[i], pads[i::2], ceil) for i in (0, 1)]
        if min(wanted) < 1:
            raise self.refuse(name, method, f"a window of {kernel} that does not fit into {shape[2:]}")
        values = {"pool": method, **_window("kernel", kernel), **_window("stride", stride), **_window("pad", pads[:2])}
        top = self.add("Pooling", name, [bottom], pooling_param=values)[0]
        found = self.shapes[top][2:]
        if tuple(wanted) == found:
            return top
        if any(f < w for f, w in zip(found, wanted, strict=True)):
            raise self.refuse(name, method, f"{wanted} windows where Caffe has {list(found)}")
        return self._crop(top, (0, 0, *(f - w for f, w in zip(found, wanted, strict=True))))

    def _crop(self, top: str, margins: Sequence[int]) -> str:
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

    # --- padding ---

    def pad(self, name: str, bottom: str, pads: Pads) -> str:
        """Zeros around height and width; a layer is added only if the reader cannot pad by itself."""
        if not any(pads):
            return bottom
        shape = self.shapes[bottom]
        if len(shape) != 4 or min(pads) < 0:
            raise self.refuse(
                name, "Pad", f"padding {pads} of a blob of shape {shape}; only height and width can be padded"
            )
        name = self._unique(name)
        self.shapes[name] = (*shape[:2], shape[2] + pads[0] + pads[2], shape[3] + pads[1] + pads[3])
        self._padded[name] = (bottom, pads)
        return name

    def made(self, blob: str) -> str:
        """Makes a blob that `pad` has promised: a Convolution that multiplies each channel by 1 and pads it."""
        if blob not in self._padded:
            return blob
        bottom, pads = self._padded.pop(blob)
        del self.shapes[blob]
        most = [max(pads[i::2]) for i in (0, 1)]
        channels = self.shapes[bottom][1]
        values = {"num_output": channels, "group": channels, "bias_term": False, "kernel_size": 1}
        weight = np.ones((channels, 1, 1, 1), np.float32)
        frozen = [{"lr_mult": 0, "decay_mult": 0}]
        values.update(_window("pad", most))
        top = self.add("Convolution", blob, [bottom], [weight], convolution_param=values, param=frozen)[0]
        return self._crop(top, tuple(most[i % 2] - pad for i, pad in enumerate(pads)))

    def _take_padding(self, name: str, bottom: str, pads: Pads, kernel: Pair | None = None) -> tuple[str, Pads]:
        """Returns what a layer with padding reads, and its padding: its own and that of a `pad` before it, in one.

        Args:
            name: The layer.
            bottom: What it reads in the source.
            pads: Its own padding.
            kernel: For Pooling, whose padding must be smaller than its kernel.
        """
        if bottom in self._padded:
            before, more = self._padded[bottom]
            both = tuple(a + b for a, b in zip(pads, more, strict=True))
            fits = kernel is None or all(pad < size for pad, size in zip(both[:2], kernel, strict=True))
            if both[:2] == both[2:] and fits:
                return before, both  # type: ignore[return-value]
        if pads[:2] == pads[2:]:
            return bottom, pads
        return self.made(self.pad(f"{name}_pad", self.made(bottom), pads)), (0, 0, 0, 0)

    def part(self, name: str, bottom: str, axis: int, start: int, end: int) -> str:
        """Keeps the entries `start` to `end` of an axis."""
        size = self.shapes[bottom][axis]
        sizes = {f"{name}_before": start, name: end - start, f"{name}_after": size - end}
        sizes = {top: number for top, number in sizes.items() if number}
        self.split(f"{name}_slice", bottom, axis, list(sizes.values()), list(sizes))
        self.silence(f"{name}_silence", [top for top in sizes if top != name])
        return name

    def silence(self, name: str, bottoms: Sequence[str]) -> None:
        """Takes blobs that nobody needs, which would otherwise be outputs."""
        self.param.layer.add(name=self._unique(name), type="Silence", bottom=bottoms)

    def global_pool(self, name: str, bottom: str, method: str) -> str:
        """One value per channel, axes kept."""
        return self.add("Pooling", name, [bottom], pooling_param={"pool": method, "global_pooling": True})[0]

    # --- the rest ---

    def eltwise(self, name: str, operation: str, bottoms: Sequence[str], coeff: Sequence[float] = ()) -> str:
        """Eltwise "SUM", "PROD" or "MAX" of blobs of one shape; or "PROD" of a blob and one value for each channel."""
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

    def clamp(self, name: str, bottom: str, low: float, high: float) -> str:
        """Adds min(max(x, low), high): ReLU, ReLU6, or ReLU6 between two Powers, which every Caffe with ReLU6 has."""
        if low == 0 and high == math.inf:
            return self.add("ReLU", name, [bottom])[0]
        if not -math.inf < low < high < math.inf:
            raise self.refuse(
                name, "Clip", f"limits {[low, high]}; only two finite limits, or 0 and infinity, have layers"
            )
        scale = 6 / (high - low)
        return self.hard_sigmoid(name, bottom, scale / 6, -low * scale / 6, high - low, low)

    def hard_sigmoid(
        self, name: str, bottom: str, alpha: float, beta: float, height: float = 1, shift: float = 0
    ) -> str:
        """Adds shift + height * min(max(alpha * x + beta, 0), 1)."""
        if (alpha, beta) != (1 / 6, 0):
            values = {"scale": 6 * alpha, "shift": 6 * beta}
            bottom = self.add("Power", f"{name}_in", [bottom], power_param=values)[0]
        if (height, shift) == (6, 0):
            return self.add("ReLU6", name, [bottom])[0]
        top = self.add("ReLU6", f"{name}_relu6", [bottom])
        return self.add("Power", name, top, power_param={"scale": height / 6, "shift": shift})[0]

    def enlarge_bilinear(self, name: str, bottom: str, size: Pair, *, align_corners: bool) -> str:
        """Bilinear resizing: Interp for `align_corners`; else, by whole factors, a Deconvolution and a Scale.

        The Deconvolution treats everything outside the picture as zeros. Each row and column is therefore divided by
        the sum of the weights that lie inside, as if the outermost pixels went on beyond the edge.
        """
        if align_corners:
            return self.add("Interp", name, [bottom], interp_param={"height": size[0], "width": size[1]})[0]
        channels, *found = self.shapes[bottom][1:]
        if any(wanted % have for wanted, have in zip(size, found, strict=True)):
            raise self.refuse(name, "Deconvolution", f"{found} resized to {list(size)}, which is not a whole factor")
        factors = [wanted // have for wanted, have in zip(size, found, strict=True)]
        rows = [_bilinear(factor) for factor in factors]
        kernel, pad = [len(row) for row in rows], [factor // 2 for factor in factors]
        self.check_size(4 * channels * math.prod(kernel) + 4 * math.prod(size))
        values = {
            "num_output": channels,
            "group": channels,
            "bias_term": False,
            **_window("kernel", kernel),
            **_window("stride", factors),
            **_window("pad", pad),
        }
        weight = np.broadcast_to(np.outer(*rows), (channels, 1, *kernel))
        frozen = [{"lr_mult": 0, "decay_mult": 0}]
        top = self.add("Deconvolution", f"{name}_sum", [bottom], [weight], convolution_param=values, param=frozen)
        # OpenCV folds a Scale into a Deconvolution before it, whatever its axis.
        top = [self.reshape(f"{name}_apart", top[0], self.shapes[top[0]])]
        inside = [_inside(*values) for values in zip(rows, found, factors, pad, strict=True)]
        scale = {"axis": 2, "num_axes": 2}
        return self.add("Scale", name, top, [1 / np.outer(*inside)], scale_param=scale, param=frozen)[0]

    def enlarge(self, name: str, bottom: str, factors: Pair) -> str:
        """Repeats each pixel in both directions: a Deconvolution of ones, which every Caffe has; it does not learn."""
        channels = self.shapes[bottom][1]
        self.check_size(4 * channels * math.prod(factors))
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
        """Reshape; a first axis of the bottom's size is left open, and with it the batch size."""
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
        if layer.name in self.blobs:
            self.blobs[name] = self.blobs.pop(layer.name)
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


def _common(pads: Sequence[int]) -> Pair:
    """The padding that both ends have, for height and width."""
    return min(pads[0], pads[2]), min(pads[1], pads[3])


def _bilinear(factor: int) -> np.ndarray:
    """The weights of a Deconvolution that enlarges an axis linearly: Caffe's bilinear filler."""
    size = 2 * factor - factor % 2
    row: np.ndarray = 1 - np.abs(np.arange(size) - (size - 1) / 2) / factor
    return row


def _inside(row: np.ndarray, size: int, factor: int, pad: int) -> np.ndarray:
    """For each place of an enlarged axis, the sum of the weights that lie on pixels of the picture."""
    sums = np.zeros((size - 1) * factor + len(row))
    for place in range(size):
        sums[place * factor : place * factor + len(row)] += row
    return sums[pad : pad + size * factor]
