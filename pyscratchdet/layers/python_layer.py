"""Python: a layer that a user's own class computes, as in pycaffe (python_layer.hpp, _caffe.cpp).

    layer { name: "ten" type: "Python" bottom: "x" top: "y"
            python_param { module: "my_layers" layer: "TimesTen" param_str: "10" } }

names a class that derives from `UserLayer` (`caffe.Layer`) and works on blobs with `.data`, `.diff` and `.reshape`.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar

import numpy as np

from pyscratchdet.errors import LayerError, Position
from pyscratchdet.layers.base import BlobSpec, Count, Layer, Shape, at_least, register
from pyscratchdet.lazy import Tensor
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom

_ALLOWED = ContextVar("python_layers_allowed", default=False)


@contextmanager
def python_layers_allowed() -> Iterator[None]:
    """Inside this context, nets import the modules that their Python layers name; elsewhere those are refused."""
    token = _ALLOWED.set(True)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


class BlobShape(ABC):
    """What pycaffe says about a blob's shape."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """The shape."""

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def num(self) -> int:
        """Legacy shape, axis 0."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """Legacy shape, axis 1."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """Legacy shape, axis 2."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """Legacy shape, axis 3."""
        return self._legacy(3)

    def _legacy(self, axis: int) -> int:
        return self.shape[axis] if axis < len(self.shape) else 1


class ArrayBlob(BlobShape):
    """A float32 array `data` and its gradient `diff`, as pycaffe's Blob shows them to a Python layer.

    Written with `blob.data[...] = values`; only `reshape` makes new arrays.
    """

    def __init__(self, *shape: int) -> None:
        self.data = np.zeros(shape, np.float32)
        self.diff = np.zeros(shape, np.float32)

    def __setattr__(self, name: str, value: Any) -> None:
        # pycaffe's are properties without a setter: `blob.data = x` would lose the values unnoticed.
        if name in ("data", "diff") and name in self.__dict__:
            raise AttributeError(f"write blob.{name}[...] = values instead of blob.{name} = values")
        super().__setattr__(name, value)

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self.data.shape

    def reshape(self, *shape: int) -> None:
        """Gives the blob a new shape; as many of the first values as fit are kept."""
        shape = tuple(int(size) for size in shape)
        if shape == self.shape:
            return
        count = min(self.count, math.prod(shape))
        for name in ("data", "diff"):
            array = np.zeros(shape, np.float32)
            array.reshape(-1)[:count] = self.__dict__[name].reshape(-1)[:count]
            self.__dict__[name] = array

    def show(self, values: np.ndarray) -> None:
        """Takes the shape and a copy of the values of `values`."""
        self.reshape(*values.shape)
        self.data[...] = values


class BlobList(list[ArrayBlob]):
    """A layer's weights; `add_blob` declares one more."""

    def add_blob(self, *shape: int) -> None:
        """Adds a blob of this shape, filled with zeros; only in `setup`."""
        self.append(ArrayBlob(*(int(size) for size in shape)))


class UserLayer:
    """The base class of Python layers.

    `setup` is called once and may check the blobs and add weights. Each pass calls `reshape`, then `forward`.
    `backward` gets one flag per bottom that says whether its gradient is wanted. The `diff` of weights is added to that
    of other passes.

    Attributes:
        param_str: `python_param.param_str` of the net.
        phase: 0 in training, 1 in testing.
        blobs: The layer's weights.
    """

    def __init__(self, param: caffe_pb2.LayerParameter) -> None:
        self.param_str = param.python_param.param_str
        self.phase = 0
        self.blobs = BlobList()

    def setup(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        """Checks the parameters; by default does nothing."""

    def reshape(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        """Gives the tops their shapes."""
        raise NotImplementedError(f"{type(self).__name__}.reshape")

    def forward(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        """Writes the tops' data."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def backward(self, top: Sequence[ArrayBlob], propagate_down: Sequence[bool], bottom: Sequence[ArrayBlob]) -> None:
        """Writes the bottoms' diff from the tops'."""
        raise NotImplementedError(f"{type(self).__name__}.backward")


class StandIn(UserLayer):
    """Our own code for a published Python layer; see `stands_in_for`.

    Attributes:
        param: The layer.
        fail: Returns a LayerError about the layer (`Layer.fail`).
        random: The net's random stream.
        draws: Whether it draws from that.
        only_shapes: As of a Layer: why only the shapes are known; empty if it computes.
    """

    only_shapes: ClassVar[str] = ""
    draws: bool = False

    def __init__(self, param: caffe_pb2.LayerParameter, fail: Callable[..., LayerError], random: CaffeRandom) -> None:
        super().__init__(param)
        self.param = param
        self.fail = fail
        self.random = random


StandInClass = TypeVar("StandInClass", bound=type[StandIn])

_STAND_INS: dict[tuple[str, str], type[StandIn]] = {}


def stands_in_for(module: str, layer: str) -> Callable[[StandInClass], StandInClass]:
    """Class decorator: the class computes the layer that nets name by this module and class, without importing it."""

    def add(cls: StandInClass) -> StandInClass:
        _STAND_INS[module, layer] = cls
        return cls

    return add


@register("Python")
class Python(Layer):
    """Runs a user's class on host copies of the bottoms; its own exceptions pass through unchanged.

    A net file alone never runs code: the layer is refused unless the caller has allowed it (`python_layers_allowed`,
    `--allow-python`; pycaffe's Net and solvers allow it, as the original does), or a class of our own stands in for it
    (`stands_in_for`). The module is found like any import: beside the script, in the working folder of `python -m`, on
    PYTHONPATH. Where it is allowed but not there, our own class is taken.
    """

    bottoms: ClassVar[Count] = at_least(0)
    tops: ClassVar[Count] = at_least(0)

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.user = self._user_layer()
        if isinstance(self.user, StandIn) and self.user.only_shapes:
            self.only_shapes = f"{self.user.only_shapes}; its own module on PYTHONPATH computes it with --allow-python"
        self.user.phase = self.context.phase
        self.user.param_str = self.param.python_param.param_str
        self.bottom_blobs = [ArrayBlob(*shape) for shape in bottoms]
        # An in-place top is its bottom's blob, as in the original.
        names = list(zip(self.param.top, self.param.bottom, strict=False))
        self.in_place = [k < len(names) and names[k][0] == names[k][1] for k in range(self.num_tops)]
        self.top_blobs = [self.bottom_blobs[k] if same else ArrayBlob(0) for k, same in enumerate(self.in_place)]
        self.user.setup(self.bottom_blobs, self.top_blobs)
        self.blobs = [
            BlobSpec(f"blob{k}", blob.shape, value=blob.data.copy()) for k, blob in enumerate(self.user.blobs)
        ]

    @property
    def carries_over(self) -> bool:
        """True, since nobody knows what a user's class remembers, unless a class of our own computes the layer."""
        return not isinstance(self.user, StandIn) or self.user.draws

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        for blob, shape in zip(self.bottom_blobs, bottoms, strict=True):
            blob.reshape(*shape)
        self.user.reshape(self.bottom_blobs, self.top_blobs)
        return [blob.shape for blob in self.top_blobs]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.layers.autograd.python_call import python_call

        return python_call(self._run_forward, self._run_backward, self.num_tops, bottoms, blobs)

    def _run_forward(
        self, bottoms: Sequence[np.ndarray], blobs: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Lets the user's class compute the tops; returns them and the weights as it leaves them."""
        self._show(bottoms, blobs)
        self.user.reshape(self.bottom_blobs, self.top_blobs)
        self.user.forward(self.bottom_blobs, self.top_blobs)
        return [blob.data.copy() for blob in self.top_blobs], [blob.data for blob in self.user.blobs]

    def _run_backward(
        self,
        bottoms: Sequence[np.ndarray],
        blobs: Sequence[np.ndarray],
        tops: Sequence[np.ndarray],
        top_diffs: Sequence[np.ndarray],
        propagate_down: Sequence[bool],
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Lets the user's class compute the gradients of bottoms and weights."""
        self._show(bottoms, blobs)
        for blob in [*self.bottom_blobs, *self.user.blobs]:
            blob.diff[...] = 0
        for blob, values, diff in zip(self.top_blobs, tops, top_diffs, strict=True):
            blob.show(values)
            blob.diff[...] = diff
        self.user.backward(self.top_blobs, list(propagate_down), self.bottom_blobs)
        return [blob.diff.copy() for blob in self.bottom_blobs], [blob.diff.copy() for blob in self.user.blobs]

    def _show(self, bottoms: Sequence[np.ndarray], blobs: Sequence[np.ndarray]) -> None:
        for blob, values in zip([*self.bottom_blobs, *self.user.blobs], [*bottoms, *blobs], strict=True):
            blob.show(values)

    def _user_layer(self) -> UserLayer:
        param = self.param.python_param
        if not param.module or not param.layer:
            raise self.fail("python_param needs module and layer", "python", found=f'"{param.module}", "{param.layer}"')
        stand_in = _STAND_INS.get((param.module, param.layer))
        if not _ALLOWED.get():
            if stand_in:
                return stand_in(self.param, self.fail, self.context.random)
            raise self.fail(
                f'the net would import and run the Python module "{param.module}"',
                "python-refused",
                hint="if you trust it: --allow-python (in Python, python_layers_allowed)",
            )
        try:
            module = importlib.import_module(param.module)
        except ImportError as error:
            if stand_in and error.name in (param.module, param.module.partition(".")[0]):
                return stand_in(self.param, self.fail, self.context.random)
            hint = "add its folder to PYTHONPATH"
            if error.name == "caffe":
                hint = "run the script with python -m pyscratchdet.caffe, or import pyscratchdet.caffe as caffe"
            raise self.fail(f'cannot import "{param.module}": {error}', "python", hint=hint) from error
        except SyntaxError as error:
            where = Position(error.filename or param.module, error.lineno or 0, error.offset or 0)
            raise self.fail(
                f'cannot import "{param.module}": {error.msg} ({where})',
                "python",
                hint="if it is Python 2, run the script with python -m pyscratchdet.caffe, which can read it",
            ) from error
        cls = getattr(module, param.layer, None)
        if not (isinstance(cls, type) and issubclass(cls, UserLayer)):
            raise self.fail(
                f'"{param.module}.{param.layer}" is not a layer class',
                "python",
                expected="a class derived from caffe.Layer",
                found=cls if cls is None else type(cls).__name__ if not isinstance(cls, type) else cls.__name__,
            )
        return cls(self.param)
