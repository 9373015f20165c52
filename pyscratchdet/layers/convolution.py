"""Convolution, Deconvolution and the depthwise forks' types (base_conv_layer.cpp, conv_layer.cpp, deconv_layer.cpp)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyscratchdet.errors import ConversionError
from pyscratchdet.layers.base import BlobSpec, Count, Layer, OnnxGraph, Shape, SourceText, at_least, register
from pyscratchdet.layers.source_text import call_text, sizes_text
from pyscratchdet.lazy import F, Tensor

if TYPE_CHECKING:
    import numpy as np


class Window:
    """Kernel, stride, pad and dilation per spatial axis, from a ConvolutionParameter.

    Attributes:
        kernel, stride, pad, dilation: One value per spatial axis.
    """

    def __init__(self, layer: Layer, num_spatial: int) -> None:
        self._layer = layer
        self._num_spatial = num_spatial
        self.kernel = self._values("kernel_size", "kernel", None, 1)
        self.stride = self._values("stride", "stride", 1, 1)
        self.pad = self._values("pad", "pad", 0, 0)
        self.dilation = self._values("dilation", None, 1, 1)

    def _values(self, field: str, pair: str | None, default: int | None, least: int) -> tuple[int, ...]:
        layer, rank, param = self._layer, self._num_spatial, self._layer.param.convolution_param
        given = list(getattr(param, field))
        if pair and (param.HasField(f"{pair}_h") or param.HasField(f"{pair}_w")):
            if rank != 2:
                raise layer.fail(f"{pair}_h and {pair}_w need two spatial axes", pair, expected=2, found=rank)
            if given:
                raise layer.fail(f"both {field} and {pair}_h/{pair}_w are given", pair, expected="one of them")
            values = [getattr(param, f"{pair}_h"), getattr(param, f"{pair}_w")]
        else:
            allowed = {1, rank} | ({0} if default is not None else set())
            if len(given) not in allowed:
                expected = " or ".join(map(str, sorted(allowed)))
                raise layer.fail(f"wrong number of {field} values", pair or field, expected=expected, found=len(given))
            values = given * rank if len(given) == 1 else given or [default] * rank
        if any(value < least for value in values):
            raise layer.fail(f"{field} is too small", pair or field, expected=f"at least {least}", found=values)
        return tuple(values)

    def extent(self, axis: int) -> int:
        """Returns how far the dilated kernel reaches along a spatial axis."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def steps(self) -> list[tuple[int, int]]:
        """Returns extent and stride per spatial axis, as `Layer.sliding_window` does."""
        return [(self.extent(axis), stride) for axis, stride in enumerate(self.stride)]

    def sizes(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Returns the number of positions per spatial axis (rounded down).

        Raises:
            LayerError: The kernel is larger than the padded bottom.
        """
        padded = [size + 2 * pad for size, pad in zip(spatial, self.pad, strict=True)]
        extents = [self.extent(axis) for axis in range(len(padded))]
        if any(size < extent for size, extent in zip(padded, extents, strict=True)):
            raise self._layer.fail(
                "the kernel is larger than the padded bottom", "kernel", expected=f"at most {padded}", found=extents
            )
        return tuple((p - e) // s + 1 for p, e, s in zip(padded, extents, self.stride, strict=True))


class _Convolution(Layer):
    """What both directions share; blobs `weight` and, with `bias_term`, `bias`."""

    top_is_free: ClassVar[bool] = True
    bottoms: ClassVar[Count] = at_least(1)
    tops: ClassVar[Count] = at_least(1)
    settings: ClassVar[str] = "convolution_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.convolution_param
        if len(bottoms) != self.num_tops:
            raise self.fail("there must be as many tops as bottoms", "tops", expected=len(bottoms), found=self.num_tops)
        self.channel_axis = self.axis(param.axis, len(bottoms[0]))
        self.num_spatial = len(bottoms[0]) - self.channel_axis - 1
        if self.num_spatial > 3:
            raise self.fail("too many spatial axes", "spatial-axes", expected="at most 3", found=self.num_spatial)
        self.window = Window(self, self.num_spatial)
        # Without spatial axes the convolution runs along one added axis of size 1.
        self._arguments = (self.window.stride or (1,), self.window.pad or (0,), self.window.dilation or (1,))
        self.channels = bottoms[0][self.channel_axis]
        self.num_output = param.num_output
        self.group = self._group()
        if self.num_output < 1:
            raise self.fail("num_output is missing", "num-output", expected="at least 1", found=self.num_output)
        for what, number in (("channels of the bottom", self.channels), ("num_output", self.num_output)):
            if self.group < 1 or number % self.group:
                raise self.fail(
                    f"{what} must be a multiple of group", "group", expected=f"a multiple of {self.group}", found=number
                )
        self.blobs = [BlobSpec("weight", self._weight_shape(), param.weight_filler)]
        if param.bias_term:
            self.blobs.append(BlobSpec("bias", (self.num_output,), param.bias_filler))

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        first = bottoms[0]
        if len(first) != self.channel_axis + 1 + self.num_spatial:
            found, expected = len(first), self.channel_axis + 1 + self.num_spatial
            raise self.fail("the number of axes must not change", "rank", expected=expected, found=found)
        if first[self.channel_axis] != self.channels:
            raise self.fail(
                "wrong number of channels", "channels", expected=self.channels, found=first[self.channel_axis]
            )
        if min(first[self.channel_axis :]) < 1:
            raise self.fail("the bottom is empty", "empty", expected="channels and sizes of at least 1", found=first)
        self.map_size = first[self.channel_axis + 1 :]
        if any(bottom != first for bottom in bottoms):
            raise self.fail("all bottoms must have the same shape", "shape", expected=first, found=list(bottoms[1:]))
        spatial = self._spatial_sizes(self.map_size)
        return [(*first[: self.channel_axis], self.num_output, *spatial)] * len(bottoms)

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        weight, bias = blobs[0], blobs[1] if len(blobs) > 1 else None
        if self.channel_axis == 1 and self.num_spatial:
            return [self._convolve(bottom, weight, bias) for bottom in bottoms]
        return [self._convolve_at_axis(bottom, weight, bias) for bottom in bottoms]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        if self.channel_axis != 1 or not self.num_spatial:
            raise ConversionError(
                "ONNX convolves (N, C, spatial axes) only",
                code="onnx.unsupported",
                layer=self.name,
                layer_type=self.type,
                expected="axis 1",
                found=self.channel_axis,
            )
        window = self.window
        attributes: dict[str, Any] = {
            "kernel_shape": list(window.kernel),
            "strides": list(window.stride),
            "pads": [*window.pad, *window.pad],
            "dilations": list(window.dilation),
            "group": self.group,
        }
        if self._onnx_type == "Conv" and set(window.kernel) == {1} and any(window.pad):
            # OpenCV 5 computes padded 1x1 convolutions wrongly.
            pads = graph.constant(np.array(2 * [0, 0, *window.pad], np.int64), "pads")
            bottoms = [graph.node("Pad", [bottom, pads])[0] for bottom in bottoms]
            attributes["pads"] = [0] * (2 * self.num_spatial)
        return [graph.node(self._onnx_type, [bottom, *blobs], **attributes)[0] for bottom in bottoms]

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        if self.channel_axis != 1 or not self.num_spatial:
            raise self.no_torch_source("PyTorch convolves (N, C, spatial axes) only")
        window = self.window
        module = text.module(
            call_text(
                f"nn.{self._module_name}{self.num_spatial}d",
                str(self.channels),
                str(self.num_output),
                sizes_text(window.kernel),
                stride=(sizes_text(window.stride), "1"),
                padding=(sizes_text(window.pad), "0"),
                dilation=(sizes_text(window.dilation), "1"),
                groups=(str(self.group), "1"),
                bias=(str(len(self.blobs) > 1), "True"),
            )
        )
        return [f"{module}({bottom})" for bottom in bottoms]

    def scaled_weight(self, weight: np.ndarray, factor: np.ndarray) -> np.ndarray | None:
        return weight * factor.reshape(-1, *(1,) * (weight.ndim - 1)) if self.channel_axis == 1 else None

    def sliding_window(self) -> list[tuple[int, int]]:
        return self.window.steps()

    def _convolve_at_axis(self, bottom: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """All axes before `axis` are independent inputs; if there are no spatial axes, one of size 1 is added."""
        outer, inner = bottom.shape[: self.channel_axis], bottom.shape[self.channel_axis :]
        bottom = bottom.reshape(math.prod(outer), *inner)
        if self.num_spatial:
            top = self._convolve(bottom, weight, bias)
        else:
            top = self._convolve(bottom.unsqueeze(-1), weight.unsqueeze(-1), bias).squeeze(-1)
        return top.reshape(*outer, *top.shape[1:])

    def _function(self) -> Callable[..., Tensor]:
        function: Callable[..., Tensor] = getattr(F, f"{self._torch_name}{max(self.num_spatial, 1)}d")
        return function

    def _group(self) -> int:
        return int(self.param.convolution_param.group)

    @abstractmethod
    def _weight_shape(self) -> Shape:
        """Returns the shape of the weight blob."""

    @abstractmethod
    def _spatial_sizes(self, spatial: Shape) -> tuple[int, ...]:
        """Returns the top's spatial sizes for the bottom's."""

    @abstractmethod
    def _convolve(self, bottom: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Returns the top of a bottom (N, C, spatial axes)."""

    _onnx_type: ClassVar[str]
    _torch_name: ClassVar[str]
    _module_name: ClassVar[str]


@register("Convolution")
class Convolution(_Convolution):
    """Cross-correlation with zero padding; bottoms (..., C, spatial axes), weight (num_output, C / group, kernel)."""

    coordinates: ClassVar[str] = "window"
    _onnx_type: ClassVar[str] = "Conv"
    _torch_name: ClassVar[str] = "conv"
    _module_name: ClassVar[str] = "Conv"
    sums_many: bool = True

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return sum(math.prod(top) for top in tops) * math.prod(self.blobs[0].shape[1:])

    def opencv_difference(self) -> str:
        is_depthwise = 1 < self.group == self.channels == self.num_output
        if is_depthwise and self.window.kernel == (3, 3) and self.map_size == (1, 1):
            return "OpenCV 4 gives wrong values for depthwise windows of 3x3 on a map of one pixel"
        return ""

    def _weight_shape(self) -> Shape:
        return (self.num_output, self.channels // self.group, *self.window.kernel)

    def _spatial_sizes(self, spatial: Shape) -> tuple[int, ...]:
        return self.window.sizes(spatial)

    def _convolve(self, bottom: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride, pad, dilation = self._arguments
        if self.channels < 16 and set(self.window.kernel) == {1} and not any(self.window.pad):
            # oneDNN 3.13 crashes in the gradient of strided 1x1 convolutions of few channels in channels_last.
            bottom = bottom[(slice(None), slice(None), *(slice(None, None, step) for step in stride))]
            stride = (1,) * len(stride)
        return self._function()(bottom, weight, bias, stride, pad, dilation, self.group)


@register("DepthwiseConvolution", "ConvolutionDepthwise")
class DepthwiseConvolution(Convolution):
    """One filter per channel, as the MobileNet forks define it; `group` is always the number of channels."""

    sums_many: bool = False  # a window of one channel

    def _group(self) -> int:
        group = self.param.convolution_param.group
        if group not in (1, self.channels):
            raise self.fail("group must be the number of channels", "group", expected=self.channels, found=group)
        return self.channels


@register("Deconvolution")
class Deconvolution(_Convolution):
    """The transpose of Convolution: weight (C, num_output / group, kernel), as in the original and in PyTorch."""

    coordinates: ClassVar[str] = "transposed"
    _onnx_type: ClassVar[str] = "ConvTranspose"
    _torch_name: ClassVar[str] = "conv_transpose"
    _module_name: ClassVar[str] = "ConvTranspose"
    sums_many: bool = True

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return sum(math.prod(bottom) for bottom in bottoms) * math.prod(self.blobs[0].shape[1:])

    def scaled_weight(self, weight: np.ndarray, factor: np.ndarray) -> np.ndarray | None:
        """The output channels of a group lie along axis 1 of that group's rows."""
        if self.channel_axis != 1:
            return None
        grouped = weight.reshape(self.group, -1, *weight.shape[1:])
        return (grouped * factor.reshape(self.group, 1, -1, *(1,) * (weight.ndim - 2))).reshape(weight.shape)

    def _weight_shape(self) -> Shape:
        return (self.channels, self.num_output // self.group, *self.window.kernel)

    def _spatial_sizes(self, spatial: Shape) -> tuple[int, ...]:
        window = self.window
        sizes = tuple(
            window.stride[axis] * (size - 1) + window.extent(axis) - 2 * window.pad[axis]
            for axis, size in enumerate(spatial)
        )
        if any(size < 1 for size in sizes):
            raise self.fail("pad leaves an empty top", "pad", expected="sizes of at least 1", found=sizes)
        return sizes

    def _convolve(self, bottom: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride, pad, dilation = self._arguments
        return self._function()(bottom, weight, bias, stride, pad, 0, self.group, dilation)
