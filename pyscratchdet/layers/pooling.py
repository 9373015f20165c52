"""Pooling: MAX with an optional mask, AVE and STOCHASTIC (pooling_layer.cpp, pooling_layer.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pyscratchdet.errors import ConversionError
from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.layers.source_text import call_text, sizes_text
from pyscratchdet.lazy import F, Tensor, torch
from pyscratchdet.proto import caffe_pb2

MAX = caffe_pb2.PoolingParameter.MAX
AVE = caffe_pb2.PoolingParameter.AVE
STOCHASTIC = caffe_pb2.PoolingParameter.STOCHASTIC

# Values of a window whose mean depends on the order of its float32 additions as the sums of a convolution do: where
# positive and negative ones nearly cancel, Caffe's order is 1e-5 from the exact mean of 56 x 56 values.
_MANY = 1024

Pair = tuple[int, int]


def pooled_size(size: int, kernel: int, stride: int, pad: int, drop_last: bool, rounds_up: bool = True) -> int:
    """Returns the number of windows along one axis.

    Args:
        size: Size of the bottom.
        kernel: Size of the window.
        stride: Step between windows.
        pad: Padding on each side.
        drop_last: Whether a last window that starts beyond the image plus padding is dropped, as it is if any axis has
            padding.
        rounds_up: Whether a last window that the padded image does not fill counts.
    """
    room = size + 2 * pad - kernel
    number = (-(-room // stride) if rounds_up else room // stride) + 1
    return number - 1 if drop_last and (number - 1) * stride >= size + pad else number


@register("Pooling")
class Pooling(Layer):
    """Windows over the last two of four axes; clipped to the image, AVE dividing by the part within the padded image.

    Their number is rounded up, or down with `round_mode: FLOOR` (BVLC Caffe since 2018) or `ceil_mode: false` (forks).
    Differs from PyTorch: without padding, a last window that starts beyond the image stays in the shape. The original
    leaves -FLT_MAX or garbage there and writes its gradient outside the blob; here such a top is 0 (its mask -1) and
    takes no gradient. STOCHASTIC exists only in the original's GPU code: in TRAIN a value is drawn with probability
    proportional to it; in TEST the top is the mean of the values weighted by themselves. With `avg_include_pad: false`
    (Intel's) AVE divides by the part within the image.
    """

    fork_fields: ClassVar[frozenset[str]] = frozenset({"pooling_param.avg_include_pad"})

    coordinates: ClassVar[str] = "window"
    tops: ClassVar[Count] = Count(1, 2)

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.pooling_param
        self.method = param.pool
        self.global_pooling = param.global_pooling
        self.rounds_up = self._rounds_up()
        if self.num_tops > 1 and self.method != MAX:
            raise self.fail("only MAX pooling has a mask", "tops", expected=1, found=self.num_tops)
        self.kernel = self._kernel(bottoms[0])
        self.pad = self._pair("pad", "pad")
        self.stride = self._pair("stride", "stride")
        if min(self.kernel) < 1 or min(self.stride) < 1:
            found = f"kernel {self.kernel}, stride {self.stride}"
            raise self.fail("kernel and stride must be positive", "kernel", expected="at least 1", found=found)
        if self.global_pooling and (self.pad, self.stride) != ((0, 0), (1, 1)):
            found = f"pad {self.pad}, stride {self.stride}"
            raise self.fail("global pooling takes no pad or stride", "global", expected="pad 0, stride 1", found=found)
        if any(self.pad) and self.method == STOCHASTIC:
            raise self.fail("stochastic pooling has no padding", "pad", expected=0, found=self.pad)
        if any(self.pad) and any(p >= k for p, k in zip(self.pad, self.kernel, strict=True)):
            raise self.fail("pad must be smaller than the kernel", "pad", expected=f"< {self.kernel}", found=self.pad)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise self.fail("wrong number of axes", "rank", expected="4: N, C, H, W", found=len(bottoms[0]))
        if min(bottoms[0][1:]) < 1:
            raise self.fail(
                "the bottom is empty", "empty", expected="channels and sizes of at least 1", found=bottoms[0]
            )
        size = self.size = bottoms[0][2:]
        if self.global_pooling:
            self.kernel = size
        drop_last = any(self.pad)
        windows = [
            pooled_size(*values, drop_last, self.rounds_up)
            for values in zip(size, self.kernel, self.stride, self.pad, strict=True)
        ]
        if min(windows) < 1:
            expected = f"at most {tuple(s + 2 * p for s, p in zip(size, self.pad, strict=True))}"
            raise self.fail(
                "the kernel is larger than the padded bottom", "kernel", expected=expected, found=self.kernel
            )
        self.sums_many = self.method == AVE and self.kernel[0] * self.kernel[1] >= _MANY
        self.windows = tuple(windows)
        # Windows that start beyond the image: at most one per axis, and only without padding.
        self.empty = tuple(
            int((n - 1) * s >= h + p) for n, s, h, p in zip(windows, self.stride, size, self.pad, strict=True)
        )
        # PyTorch's own rules are those of the original, but it pads by at most half the kernel.
        self.pads_itself = all(2 * p <= k for p, k in zip(self.pad, self.kernel, strict=True))
        return [(*bottoms[0][:2], *windows)] * self.num_tops

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        if self.method == STOCHASTIC:
            return [self._fill_empty(self._stochastic(bottoms[0]), 0.0)]
        bottom, pad, up = bottoms[0], self.pad, self.rounds_up
        if not self.pads_itself:
            fill = float("-inf") if self.method == MAX else 0.0
            bottom, pad = F.pad(bottom, (pad[1], pad[1], pad[0], pad[0]), value=fill), (0, 0)
        if self.method == AVE:
            top = self._cut(F.avg_pool2d(bottom, self.kernel, self.stride, pad, up, True))
            if not self.param.pooling_param.avg_include_pad:
                top = top * torch.from_numpy(self._clipped_ratio(self.pad) / self._clipped_ratio()).to(top)
            return [self._fill_empty(top, 0.0)]
        if self.num_tops == 1:
            return [self._fill_empty(self._cut(F.max_pool2d(bottom, self.kernel, self.stride, pad, 1, up)), 0.0)]
        top, index = F.max_pool2d(bottom, self.kernel, self.stride, pad, 1, up, return_indices=True)
        mask = self._mask(self._cut(index)).to(top.dtype)
        return [self._fill_empty(self._cut(top), 0.0), self._fill_empty(mask, -1.0)]

    def sliding_window(self) -> list[tuple[int, int]]:
        return list(zip(self.kernel, self.stride, strict=True))

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        from onnx import TensorProto

        if self.method == STOCHASTIC:
            raise ConversionError(
                "stochastic pooling has no ONNX form", code="onnx.unsupported", layer=self.name, layer_type=self.type
            )
        if self.global_pooling and self.num_tops == 1:
            return graph.node("GlobalMaxPool" if self.method == MAX else "GlobalAveragePool", bottoms)
        after = self._pads_after()
        attributes: dict[str, Any] = {"strides": list(self.stride), "kernel_shape": list(self.kernel)}
        if self.method == MAX:
            tops = graph.node("MaxPool", bottoms, self.num_tops, pads=[*self.pad, *after], **attributes)
        else:
            # Padding as an operator of its own, since engines differ in what count_include_pad means.
            tops = graph.node("AveragePool", [self._padded(graph, bottoms[0], after)], **attributes)
            excluded = (0, 0) if self.param.pooling_param.avg_include_pad else self.pad
            if any(a > p - e for a, p, e in zip(after, self.pad, excluded, strict=True)):
                tops = graph.node("Mul", [*tops, graph.constant(self._clipped_ratio(excluded))])
        if self.num_tops > 1:  # ONNX counts across the whole blob, the original within one picture
            area = graph.constant(np.array(self.size[0] * self.size[1], np.int64))
            tops[1] = graph.node("Cast", graph.node("Mod", [tops[1], area]), to=TensorProto.FLOAT)[0]
        if any(self.empty):
            pads = graph.constant(np.array([0] * 6 + list(self.empty), np.int64))
            fills = [graph.constant(np.array(value, np.float32)) for value in (0, -1)]
            tops = [graph.node("Pad", [top, pads, fill])[0] for top, fill in zip(tops, fills, strict=False)]
        return tops

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        if self.method == STOCHASTIC or self.num_tops > 1:
            raise self.no_torch_source("only MAX pooling without a mask and AVE pooling have PyTorch source")
        value, pad = bottoms[0], self.pad
        excludes_pad = self.method == AVE and not self.param.pooling_param.avg_include_pad
        if excludes_pad and not self.pads_itself:
            raise self.no_torch_source("averages without a padding of more than half the kernel have no PyTorch source")
        if not self.pads_itself:
            fill = 'float("-inf")' if self.method == MAX else "0.0"
            value = call_text("F.pad", value, f"({pad[1]}, {pad[1]}, {pad[0]}, {pad[0]})", value=(fill, "0.0"))
            pad = (0, 0)
        is_larger = self.rounds_up and self.stride != (1, 1)
        value = call_text(
            "F.max_pool2d" if self.method == MAX else "F.avg_pool2d",
            value,
            f"{bottoms[0]}.shape[2:]" if self.global_pooling else sizes_text(self.kernel),
            *([] if self.stride == self.kernel or self.global_pooling else [sizes_text(self.stride)]),
            padding=(sizes_text(pad), "0"),
            ceil_mode=(str(is_larger), "False"),
            count_include_pad=(str(not excludes_pad), "True"),
        )
        if not self.pads_itself:
            for axis, size in enumerate(self.windows, 2):
                value = f"torch.narrow({value}, {axis}, 0, {size})"
        if any(self.empty):  # windows that start beyond the image
            value = f"F.pad({value}, (0, {self.empty[1]}, 0, {self.empty[0]}))"
        return [value]

    def _padded(self, graph: OnnxGraph, bottom: str, after: Sequence[int]) -> str:
        if not any(self.pad) and not any(after):
            return bottom
        pads = graph.constant(np.array([0, 0, *self.pad, 0, 0, *after], np.int64), "pads")
        return graph.node("Pad", [bottom, pads])[0]

    def _rounds_up(self) -> bool:
        """Returns how the file rounds the number of windows.

        Raises:
            LayerError: Its two fields for that contradict each other.
        """
        param = self.param.pooling_param
        given = {}
        if param.HasField("round_mode"):
            given["round_mode"] = param.round_mode == caffe_pb2.PoolingParameter.CEIL
        if param.HasField("ceil_mode"):
            given["ceil_mode"] = param.ceil_mode
        if len(set(given.values())) > 1:
            raise self.fail("round_mode and ceil_mode contradict each other", "round", expected="one of them")
        return next(iter(given.values()), True)

    def _pair(self, field: str, pair: str) -> Pair:
        param = self.param.pooling_param
        given = param.HasField(f"{pair}_h"), param.HasField(f"{pair}_w")
        if not any(given):
            return (getattr(param, field),) * 2
        if param.HasField(field) or not all(given):
            expected = f"{field}, or {pair}_h and {pair}_w"
            raise self.fail(f"{field} is given twice or only in part", pair, expected=expected)
        return getattr(param, f"{pair}_h"), getattr(param, f"{pair}_w")

    def _kernel(self, bottom: Shape) -> Pair:
        param = self.param.pooling_param
        given = [name for name in ("kernel_size", "kernel_h", "kernel_w") if param.HasField(name)]
        if param.global_pooling:
            if given:
                raise self.fail("global pooling takes no kernel size", "kernel", expected="none", found=given)
            return (bottom[2], bottom[3]) if len(bottom) == 4 else (1, 1)
        if not given:
            raise self.fail("the kernel size is missing", "kernel", expected="kernel_size, or kernel_h and kernel_w")
        return self._pair("kernel_size", "kernel")

    def _cut(self, top: Tensor) -> Tensor:
        """Leaves out windows that start beyond the image plus its padding, if the padding was a step of its own."""
        return top if self.pads_itself else top[:, :, : self.windows[0], : self.windows[1]]

    def _fill_empty(self, top: Tensor, value: float) -> Tensor:
        return F.pad(top, (0, self.empty[1], 0, self.empty[0]), value=value) if any(self.empty) else top

    def _mask(self, index: Tensor) -> Tensor:
        """Returns indices into the image from indices into the picture that was pooled."""
        if self.pads_itself:
            return index
        width = self.size[1] + 2 * self.pad[1]
        return (index // width - self.pad[0]) * self.size[1] + index % width - self.pad[1]

    def _stochastic(self, bottom: Tensor) -> Tensor:
        reach = self._pads_after()
        bottom = F.pad(bottom, (0, reach[1], 0, reach[0]))
        patches = bottom.unfold(2, self.kernel[0], self.stride[0]).unfold(3, self.kernel[1], self.stride[1])
        patches = patches.flatten(-2)
        if not self.context.is_train:
            return patches.square().sum(-1) / (patches.sum(-1) + torch.finfo(torch.float32).tiny)
        sums = patches.detach().cumsum(-1)
        random = torch.from_numpy(self.context.random.uniform(0, 1, sums[..., 0].numel())).to(sums)
        reached = sums >= sums[..., -1:] * random.view(*sums.shape[:-1], 1)
        return patches.gather(-1, reached.byte().argmax(-1, keepdim=True)).squeeze(-1)

    def _pads_after(self) -> tuple[int, ...]:
        """Returns the padding after each axis with which rounding down gives the windows that are not empty."""
        return tuple(
            max(0, (n - e - 1) * s + k - h - p)
            for n, e, s, k, h, p in zip(
                self.windows, self.empty, self.stride, self.kernel, self.size, self.pad, strict=True
            )
        )

    def _clipped_ratio(self, excluded: Pair = (0, 0)) -> np.ndarray:
        """Returns full / clipped window size, (1, 1, windows): AVE divides by the part up to the image plus padding.

        Args:
            excluded: How much of the padding on each side does not count.
        """
        ratios = []
        for n, e, s, k, h, p, x in zip(
            self.windows, self.empty, self.stride, self.kernel, self.size, self.pad, excluded, strict=True
        ):
            start = np.arange(n - e) * s - p
            ratios.append(k / (np.minimum(start + k, h + p - x) - np.maximum(start, x - p)))
        return np.asarray(np.outer(*ratios)[None, None], np.float32)
