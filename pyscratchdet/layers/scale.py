"""Scale and Bias: a factor or a summand, per channel or for several axes (scale_layer.cpp, bias_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import BlobSpec, Count, Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.layers.source_text import call_text, joined_text, tuple_text
from pyscratchdet.lazy import Tensor, torch
from pyscratchdet.proto import caffe_pb2


class _Broadcast(Layer):
    """A second operand broadcast over the first bottom along some axes: the second bottom, or else a learned blob."""

    coordinates: ClassVar[str] = "same"
    bottoms: ClassVar[Count] = Count(1, 2)

    def _operand(self, bottom: Shape, axis: int, num_axes: int) -> Shape:
        """Returns the shape of the learned blob: `num_axes` axes from `axis`, -1 for all that follow."""
        start = self.axis(axis, len(bottom))
        if num_axes < -1:
            raise self.fail("num_axes is negative", "num-axes", expected="at least 0, or -1 for all", found=num_axes)
        if num_axes >= 0 and start + num_axes > len(bottom):
            expected = f"at most {len(bottom) - start} from axis {start}"
            raise self.fail("num_axes goes past the bottom's axes", "num-axes", expected=expected, found=num_axes)
        return bottom[start:] if num_axes == -1 else bottom[start : start + num_axes]

    def _set_view(self, bottom: Shape, operand: Shape, axis: int) -> None:
        """Checks that the operand fits the bottom and stores the shape in which it broadcasts."""
        start = self.axis(axis, len(bottom)) if operand else 0
        covered = bottom[start : start + len(operand)]
        if covered != operand:
            expected = f"{covered} from axis {start}"
            raise self.fail("the operand does not fit the bottom", "shape", expected=expected, found=operand)
        self.view = (*operand, *(1,) * (len(bottom) - start - len(operand)))

    def _channel_values(self, bottom: Shape, blobs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Returns the blobs as float64 (C,), if the operand is a blob with one value for all or one per channel."""
        if len(self.param.bottom) != 1 or len(bottom) < 2:
            return None
        operand = self.blobs[0].shape
        if operand and (operand != bottom[1:2] or len(self.view) != len(bottom) - 1):
            return None
        return [np.broadcast_to(blob, bottom[1:2]).astype(np.float64) for blob in blobs]

    def _view_as_operand(self, operand: Tensor, bottom: Tensor) -> Tensor:
        """Returns the operand in the shape that broadcasts, in the bottom's precision, which the top keeps."""
        return operand.reshape(self.view).to(bottom.dtype)

    def _source_operand(self, operand: str, bottom: Shape) -> str:
        """Returns a second bottom in the shape that broadcasts, whatever the batch size is."""
        if len(self.view) == len(bottom) and self.view == bottom:
            return operand
        shape = [str(size) for size in self.view]
        if len(self.view) == len(bottom):
            shape[0] = f"{operand}.shape[0]"
        return f"{operand}.reshape({', '.join(shape)})"

    def _onnx_view(self, graph: OnnxGraph, operand: str, is_bottom: bool) -> str:
        view = [0, *self.view[1:]] if is_bottom and len(graph.shape(operand)) else list(self.view)
        return graph.node("Reshape", [operand, graph.constant(np.array(view, np.int64))])[0]


@register("Scale")
class Scale(_Broadcast):
    """y = x * scale (+ bias), the scale being blob `weight` or the second bottom, the bias blob `bias`."""

    top_is_free: ClassVar[bool] = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.scale_param
        if len(bottoms) == 1:
            shape = self._operand(bottoms[0], param.axis, param.num_axes)
            filler = param.filler if param.HasField("filler") else caffe_pb2.FillerParameter(type="constant", value=1)
            self.blobs = [BlobSpec("weight", shape, filler)]
        else:
            shape = bottoms[1]
        self.bias_term = param.bias_term
        if param.bias_term:
            self.blobs.append(BlobSpec("bias", shape, param.bias_filler))

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        operand = bottoms[1] if len(bottoms) > 1 else self.blobs[0].shape
        self._set_view(bottoms[0], operand, self.param.scale_param.axis)
        if self.bias_term and self.blobs[-1].shape != operand:
            expected, found = self.blobs[-1].shape, operand
            raise self.fail("the scale does not fit the bias", "shape", expected=expected, found=found)
        return [bottoms[0]]

    def affine(self, bottom: Shape, blobs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
        values = self._channel_values(bottom, blobs)
        return None if values is None else (values[0], values[1] if self.bias_term else np.zeros_like(values[0]))

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        scale = self._view_as_operand(bottoms[1] if len(bottoms) > 1 else blobs[0], bottoms[0])
        if not self.bias_term:
            return [bottoms[0] * scale]
        return [torch.addcmul(self._view_as_operand(blobs[-1], bottoms[0]), bottoms[0], scale)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        two = len(bottoms) > 1
        top = graph.node("Mul", [bottoms[0], self._onnx_view(graph, bottoms[1] if two else blobs[0], two)])
        if self.bias_term:
            top = graph.node("Add", [top[0], self._onnx_view(graph, blobs[-1], False)])
        return top

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        from pyscratchdet.layers.modules.scale import CaffeBias, CaffeScale

        if len(bottoms) == 1:
            operand, view = tuple_text(self.blobs[0].shape), tuple_text(self.view)
            part = text.part(CaffeScale)
            module = text.module(call_text(part, operand, view, bias=(str(self.bias_term), "False")))
            return [f"{module}({bottoms[0]})"]
        top = joined_text("*", "torch.mul", [bottoms[0], self._source_operand(bottoms[1], text.shape(bottoms[0]))])
        if self.bias_term:
            shapes = tuple_text(self.blobs[0].shape), tuple_text(self.view)
            module = text.module(call_text(text.part(CaffeBias), *shapes))
            top = f"{module}({top})"
        return [top]


@register("Bias")
class Bias(_Broadcast):
    """y = x + bias, the bias being blob `bias` (0 at first) or the second bottom."""

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.bias_param
        if len(bottoms) == 1:
            self.blobs = [BlobSpec("bias", self._operand(bottoms[0], param.axis, param.num_axes), param.filler)]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        operand = bottoms[1] if len(bottoms) > 1 else self.blobs[0].shape
        self._set_view(bottoms[0], operand, self.param.bias_param.axis)
        return [bottoms[0]]

    def affine(self, bottom: Shape, blobs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
        values = self._channel_values(bottom, blobs)
        return None if values is None else (np.ones_like(values[0]), values[0])

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [bottoms[0] + self._view_as_operand(bottoms[1] if len(bottoms) > 1 else blobs[0], bottoms[0])]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        two = len(bottoms) > 1
        return graph.node("Add", [bottoms[0], self._onnx_view(graph, bottoms[1] if two else blobs[0], two)])

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        from pyscratchdet.layers.modules.scale import CaffeBias

        if len(bottoms) > 1:
            terms = [bottoms[0], self._source_operand(bottoms[1], text.shape(bottoms[0]))]
            return [joined_text("+", "torch.add", terms)]
        shapes = tuple_text(self.blobs[0].shape), tuple_text(self.view)
        return [f"{text.module(call_text(text.part(CaffeBias), *shapes))}({bottoms[0]})"]
