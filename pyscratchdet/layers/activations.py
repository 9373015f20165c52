"""Elementwise functions: Sigmoid, TanH, AbsVal, BNLL, ELU, Power, Exp, Log, Threshold, and those of later Caffes.

Sources: sigmoid_layer.cpp, tanh_layer.cpp, absval_layer.cpp, bnll_layer.cpp, elu_layer.cpp, power_layer.cpp,
exp_layer.cpp, log_layer.cpp, threshold_layer.cpp; swish_layer.cpp and clip_layer.cpp of BVLC Caffe; ReLU6 and
HardSwish of the MobileNet forks, Mish of YOLO's, SeLu of soeaver's models.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.layers.source_text import call_text, float_text
from pyscratchdet.lazy import F, Tensor, torch


class _Elementwise(Layer):
    """One bottom of any shape and a top of the same shape.

    `onnx_type` names the ONNX operator, and `expression` is the PyTorch source, if there are such.
    """

    coordinates: ClassVar[str] = "same"
    onnx_type: ClassVar[str]
    expression: ClassVar[str]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0]]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [self.apply(bottoms[0])]

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """Returns the function's value for each element."""

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return graph.node(self.onnx_type, bottoms)

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        return [self.expression.format(bottoms[0])]


def _onnx_affine(graph: OnnxGraph, value: str, scale: float, shift: float) -> str:
    if scale != 1:
        value = graph.node("Mul", [value, graph.constant(np.array(scale, np.float32))])[0]
    if shift != 0:
        value = graph.node("Add", [value, graph.constant(np.array(shift, np.float32))])[0]
    return value


def _affine_text(value: str, scale: float, shift: float) -> str:
    if scale != 1:
        value = f"{value} * {float_text(scale)}"
    return value if shift == 0 else f"{value} + {float_text(shift)}"


def _log_base(layer: Layer, base: float) -> float:
    """Returns the logarithm of the base; -1 stands for e."""
    if base == -1:
        return 1.0
    if not 0 < base < math.inf:
        raise layer.fail("base out of range", "base", expected="a positive number, or -1 for e", found=base)
    return math.log(base)


@register("Sigmoid")
class Sigmoid(_Elementwise):
    """y = 1 / (1 + exp(-x))."""

    onnx_type: ClassVar[str] = "Sigmoid"
    expression: ClassVar[str] = "{}.sigmoid()"

    def apply(self, x: Tensor) -> Tensor:
        return x.sigmoid()


@register("TanH")
class TanH(_Elementwise):
    """y = tanh(x)."""

    onnx_type: ClassVar[str] = "Tanh"
    expression: ClassVar[str] = "{}.tanh()"

    def apply(self, x: Tensor) -> Tensor:
        return x.tanh()


@register("AbsVal")
class AbsVal(_Elementwise):
    """y = |x|, with gradient 0 at 0; it cannot work in place."""

    onnx_type: ClassVar[str] = "Abs"
    expression: ClassVar[str] = "{}.abs()"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.refuse_in_place()

    def apply(self, x: Tensor) -> Tensor:
        return x.abs()


@register("BNLL")
class BNLL(_Elementwise):
    """y = log(1 + exp(x))."""

    onnx_type: ClassVar[str] = "Softplus"
    expression: ClassVar[str] = "F.softplus({}, threshold=50)"

    def apply(self, x: Tensor) -> Tensor:
        return F.softplus(x, threshold=50)


@register("ReLU6")
class ReLU6(_Elementwise):
    """y = min(max(x, 0), 6), with gradient 0 at both ends."""

    expression: ClassVar[str] = "F.relu6({})"

    def apply(self, x: Tensor) -> Tensor:
        return F.relu6(x)

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return graph.node("Clip", [*bottoms, *(graph.constant(np.array(value, np.float32)) for value in (0, 6))])


@register("Clip")
class Clip(_Elementwise):
    """y = min(max(x, min), max); the gradient passes between the two, ends included (clip_layer.cpp of BVLC Caffe)."""

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.clip_param
        if missing := [name for name in ("min", "max") if not param.HasField(name)]:
            raise self.fail(f"clip_param needs min and max: {missing[0]} is missing", "clip")
        self.low, self.high = param.min, param.max

    def apply(self, x: Tensor) -> Tensor:
        from pyscratchdet.layers.modules.clip import caffe_clip

        return caffe_clip(x, self.low, self.high)

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        limits = [graph.constant(np.array(value, np.float32)) for value in (self.low, self.high)]
        return graph.node("Clip", [*bottoms, *limits])

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        from pyscratchdet.layers.modules.clip import caffe_clip

        limits = float_text(self.low), float_text(self.high)
        return [call_text(text.part(caffe_clip), bottoms[0], *limits)]


@register("Swish")
class Swish(_Elementwise):
    """y = x / (1 + exp(-beta * x)) (Ramachandran et al. 2017)."""

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.beta = self.param.swish_param.beta

    def apply(self, x: Tensor) -> Tensor:
        return F.silu(x) if self.beta == 1 else x * (x * self.beta).sigmoid()

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        if self.beta == 1:
            return [f"F.silu({bottoms[0]})"]
        return [f"torch.mul({bottoms[0]}, torch.sigmoid({bottoms[0]} * {float_text(self.beta)}))"]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        scaled = _onnx_affine(graph, bottoms[0], self.beta, 0)
        return graph.node("Mul", [*bottoms, *graph.node("Sigmoid", [scaled])])


@register("HardSwish")
class HardSwish(_Elementwise):
    """y = x * min(max(x + 3, 0), 6) / 6 (Howard et al. 2019, section 5.2)."""

    onnx_type: ClassVar[str] = "HardSwish"
    expression: ClassVar[str] = "F.hardswish({})"

    def apply(self, x: Tensor) -> Tensor:
        return F.hardswish(x)


@register("Mish")
class Mish(_Elementwise):
    """y = x * tanh(log(1 + exp(x))) (Misra 2019)."""

    expression: ClassVar[str] = "F.mish({})"

    def apply(self, x: Tensor) -> Tensor:
        return F.mish(x)

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return graph.node("Mul", [*bottoms, *graph.node("Tanh", graph.node("Softplus", bottoms))])


@register("SeLu")
class SeLu(_Elementwise):
    """y = 1.0507 * x where x > 0, else 1.0507 * 1.67326 * (exp(x) - 1) (Klambauer et al. 2017, equation 2)."""

    onnx_type: ClassVar[str] = "Selu"
    expression: ClassVar[str] = "F.selu({})"

    def apply(self, x: Tensor) -> Tensor:
        return F.selu(x)


@register("ELU")
class ELU(_Elementwise):
    """y = x where x > 0, else alpha * (exp(x) - 1)."""

    def apply(self, x: Tensor) -> Tensor:
        return F.elu(x, self.param.elu_param.alpha)

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return graph.node("Elu", bottoms, alpha=self.param.elu_param.alpha)

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        return [f"F.elu({bottoms[0]}, {float_text(self.param.elu_param.alpha)})"]


@register("Power")
class Power(_Elementwise):
    """y = (shift + scale * x) ^ power; a constant without gradient where scale or power is 0."""

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.power_param
        self.power, self.scale, self.shift = param.power, param.scale, param.shift
        self.is_constant = self.power * self.scale == 0
        if self.is_constant:
            try:
                self.value = 1.0 if self.power == 0 else math.pow(self.shift, self.power)
            except (ValueError, OverflowError):
                found = f"{self.shift} ^ {self.power}"
                raise self.fail(
                    "the constant is not a number", "power", expected="a real result", found=found
                ) from None

    def apply(self, x: Tensor) -> Tensor:
        if self.is_constant:
            return torch.full_like(x, self.value)
        if self.scale != 1:
            x = x * self.scale
        if self.shift != 0:
            x = x + self.shift
        return x.view_as(x) if self.power == 1 else x.pow(self.power)

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        if self.is_constant:
            shape = graph.node("Shape", bottoms)[0]
            return graph.node("Expand", [graph.constant(np.array(self.value, np.float32)), shape])
        value = _onnx_affine(graph, bottoms[0], self.scale, self.shift)
        if self.power == 1:
            return graph.node("Identity", [value])
        return graph.node("Pow", [value, graph.constant(np.array(self.power, np.float32))])

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        if self.is_constant:
            return [f"torch.full_like({bottoms[0]}, {float_text(self.value)})"]
        value = _affine_text(bottoms[0], self.scale, self.shift)
        return [value if self.power == 1 else f"torch.pow({value}, {float_text(self.power)})"]


@register("Exp")
class Exp(_Elementwise):
    """y = base ^ (shift + scale * x); base -1 stands for e."""

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.exp_param
        log_base = _log_base(self, param.base)
        self.inner, self.outer = log_base * param.scale, math.exp(log_base * param.shift)

    def apply(self, x: Tensor) -> Tensor:
        y = (x if self.inner == 1 else x * self.inner).exp()
        return y if self.outer == 1 else y * self.outer

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        top = graph.node("Exp", [_onnx_affine(graph, bottoms[0], self.inner, 0)])[0]
        return [_onnx_affine(graph, top, self.outer, 0)]

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        top = f"torch.exp({_affine_text(bottoms[0], self.inner, 0)})"
        return [top if self.outer == 1 else f"torch.mul({top}, {float_text(self.outer)})"]


@register("Log")
class Log(_Elementwise):
    """y = log to `base` of (shift + scale * x); base -1 stands for e."""

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.log_param
        log_base = _log_base(self, param.base)
        if log_base == 0:
            raise self.fail("there is no logarithm to base 1", "base", expected="another base", found=1)
        self.scale, self.shift, self.factor = param.scale, param.shift, 1 / log_base

    def apply(self, x: Tensor) -> Tensor:
        if self.scale != 1:
            x = x * self.scale
        y = (x if self.shift == 0 else x + self.shift).log()
        return y if self.factor == 1 else y * self.factor

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        top = graph.node("Log", [_onnx_affine(graph, bottoms[0], self.scale, self.shift)])[0]
        return [_onnx_affine(graph, top, self.factor, 0)]

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        top = f"torch.log({_affine_text(bottoms[0], self.scale, self.shift)})"
        return [top if self.factor == 1 else f"torch.mul({top}, {float_text(self.factor)})"]


@register("Threshold")
class Threshold(_Elementwise):
    """y = 1 where x > threshold, else 0; no gradient."""

    no_gradient: ClassVar[frozenset[int]] = frozenset({0})

    def apply(self, x: Tensor) -> Tensor:
        return torch.gt(x, self.param.threshold_param.threshold).to(x.dtype)

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        from onnx import TensorProto

        threshold = graph.constant(np.array(self.param.threshold_param.threshold, np.float32))
        return graph.node("Cast", graph.node("Greater", [bottoms[0], threshold]), to=TensorProto.FLOAT)

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        x, threshold = bottoms[0], float_text(self.param.threshold_param.threshold)
        return [f"torch.where({x} > {threshold}, torch.ones_like({x}), torch.zeros_like({x}))"]
