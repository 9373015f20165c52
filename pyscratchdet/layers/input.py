"""Blobs from outside or from fillers: Input, DummyData, Parameter (input_layer.cpp, dummy_data_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pyscratchdet.layers.base import BlobSpec, Count, Layer, OnnxGraph, Shape, at_least, exactly, register
from pyscratchdet.lazy import Tensor, torch
from pyscratchdet.proto import caffe_pb2


def _shape(layer: Layer, shape: caffe_pb2.BlobShape) -> Shape:
    dims = tuple(shape.dim)
    if any(dim < 0 for dim in dims):
        raise layer.fail("negative dimension", "shape", expected="dimensions of at least 0", found=list(dims))
    return dims


def _check_number(layer: Layer, field: str, found: int, allowed: Sequence[int]) -> None:
    if found not in allowed:
        expected = " or ".join(str(number) for number in sorted(set(allowed)))
        raise layer.fail(f"wrong number of {field} entries", "count", expected=expected, found=found)


@register("Input")
class Input(Layer):
    """Tops that the caller fills; without `shape` they are empty until the net is reshaped."""

    bottoms: ClassVar[Count] = exactly(0)
    tops: ClassVar[Count] = at_least(1)
    is_input: ClassVar[bool] = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        shapes = self.param.input_param.shape
        _check_number(self, "shape", len(shapes), (0, 1, self.num_tops))
        given = [_shape(self, shape) for shape in shapes] or [()]
        self.shapes = given * self.num_tops if len(given) == 1 else given

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return list(self.shapes)

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        raise self.fail("the tops of an Input layer come from the caller", "input")


@register("DummyData")
class DummyData(Layer):
    """Tops made by fillers; those of constant fillers are made once, the others anew each time."""

    bottoms: ClassVar[Count] = exactly(0)
    tops: ClassVar[Count] = at_least(1)
    is_source: ClassVar[bool] = True
    fills_at_setup: ClassVar[bool] = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.dummy_data_param
        fillers = list(param.data_filler)
        _check_number(self, "data_filler", len(fillers), (0, 1, self.num_tops))
        self.fillers = self._spread(fillers or [caffe_pb2.FillerParameter()])
        self.shapes = self._shapes(param)
        self._constants: dict[int, Tensor] = {}

    @property
    def carries_over(self) -> bool:
        """Whether a filler draws anew in each pass."""
        return any(filler.type != "constant" for filler in self.fillers)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return list(self.shapes)

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [self._top(index) for index in range(self.num_tops)]

    def initial_tops(self) -> list[Tensor]:
        return [
            self._top(index) if filler.type == "constant" else torch.zeros(self.shapes[index])
            for index, filler in enumerate(self.fillers)
        ]

    def _spread(self, values: list[Any]) -> list[Any]:
        return values * self.num_tops if len(values) == 1 else values

    def _shapes(self, param: caffe_pb2.DummyDataParameter) -> list[Shape]:
        legacy = {name: list(getattr(param, name)) for name in ("num", "channels", "height", "width")}
        if not any(legacy.values()):
            _check_number(self, "shape", len(param.shape), (1, self.num_tops))
            return self._spread([_shape(self, shape) for shape in param.shape])
        if param.shape:
            raise self.fail("both shape and num/channels/height/width are given", "twice", expected="one of them")
        for name, values in legacy.items():
            _check_number(self, name, len(values), (1, self.num_tops))
        return list(zip(*(self._spread(values) for values in legacy.values()), strict=True))

    def _top(self, index: int) -> Tensor:
        if index in self._constants:
            return self._constants[index]
        from pyscratchdet.layers.fillers import fill

        filler = self.fillers[index]
        values = torch.from_numpy(fill(filler, self.shapes[index], self.context.random))
        if filler.type == "constant":
            self._constants[index] = values
        return values


@register("Parameter")
class Parameter(Layer):
    """One learned blob as a top (parameter_layer.hpp); it starts at 0."""

    bottoms: ClassVar[Count] = exactly(0)

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.shape = _shape(self, self.param.parameter_param.shape)
        self.blobs = [BlobSpec("weight", self.shape)]

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [self.shape]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        return [blobs[0].view_as(blobs[0])]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return graph.node("Identity", blobs)
