"""What every operation needs: the net, the names of its layers, and the register of operations."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from pyscratchdet.converters.build import NetBuilder, frozen
from pyscratchdet.errors import ConversionError, counted
from pyscratchdet.layers.base import Shape

Value = str | np.ndarray  # a blob, or a constant


class Exactness(enum.Enum):
    """How near an operation's layers come to the source's formula."""

    SAME = "the same values, as long as they are finite: none is computed, or each as in the source"
    ROUNDED = "the same formula, of which float32 rounds the steps in another order"
    APPROXIMATE = "another formula, only with approximate; its largest error is said"


Function = TypeVar("Function", bound=Callable[..., Any])
OPERATIONS: dict[str, Exactness] = {}


def operation(exactness: Exactness) -> Callable[[Function], Function]:
    """Function decorator: registers an operation and how exact it is."""

    def add(function: Function) -> Function:
        name = function.__name__.rstrip("_")
        if name in OPERATIONS:
            raise ValueError(f'operation "{name}" is defined twice')
        OPERATIONS[name] = exactness
        return function

    return add


@dataclass(frozen=True)
class Composer:
    """Adds the layers of one operation of the source.

    Attributes:
        net: The net.
        name: The name of the last layer; the others are named after it.
        kind: The source's operator, for refusals.
        origin: The operation's name, for refusals, where that of the layer differs.
    """

    net: NetBuilder
    name: str
    kind: str
    origin: str = ""

    def refuse(self, reason: str) -> ConversionError:
        """Returns the error that names the operation and the reason."""
        return self.net.refuse(self.origin or self.name, self.kind, reason)

    def part(self, suffix: str) -> Composer:
        """Returns the same for a step of this operation."""
        return Composer(self.net, f"{self.name}_{suffix}", self.kind, self.origin or self.name)

    def shape(self, blob: str) -> Shape:
        """Returns a blob's shape."""
        return self.net.shapes[blob]

    def has(self, *types: str) -> bool:
        """Returns whether the target has these layers."""
        return self.net.layers.has(*types)

    def add(self, kind: str, bottoms: Sequence[str], weights: Sequence[np.ndarray] = (), **params: Any) -> str:
        """Adds a layer of one top."""
        try:
            return self.net.add(kind, self.name, bottoms, weights, **params)[0]
        except ConversionError as error:
            if error.code == "import.unsupported":
                error.layer, error.layer_type = self.origin or self.name, self.kind
            raise

    def power(self, x: str, *, scale: float = 1.0, shift: float = 0.0, power: float = 1.0) -> str:
        """(shift + scale * x) ^ power.

        Kept apart from a root or reciprocal before it, of which OpenCV makes one wrong layer (PowerFunctor::tryFuse in
        its elementwise_layers.cpp).
        """
        maker = self.net.maker(x)
        if power == 1 and maker is not None and maker.type == "Power" and maker.power_param.power != 1:
            x = self.apart(x)
        values = {"scale": scale, "shift": shift, "power": power}
        defaults = {"scale": 1.0, "shift": 0.0, "power": 1.0}
        return self.add("Power", [x], power_param={key: v for key, v in values.items() if v != defaults[key]})

    def apart(self, x: str) -> str:
        """Keeps a layer apart from the one before it, by a Reshape, where OpenCV would join them wrongly."""
        return self.net.reshape(f"{self.name}_apart", x, self.shape(x))

    def entries(self, number: int) -> np.ndarray:
        """The numbers from 0 up, unless they are out of proportion to the file that asks for them."""
        self.net.check_size(8 * number)
        return np.arange(number)

    def identity_matrix(self, size: int) -> np.ndarray:
        """The identity, unless it is out of proportion to the file that asks for it."""
        self.net.check_size(4 * size**2)
        return np.eye(size, dtype=np.float32)

    def axis(self, axis: int, rank: int) -> int:
        """Returns an axis counted from the front."""
        if not -rank <= axis < rank:
            raise self.refuse(f"axis {axis} of a blob of {counted(rank, 'axis', 'axes')}")
        return axis % rank

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """The same values under another shape; the blob itself where nothing changes.

        A first axis other than the batch size is left open, since it grows with the batch.
        """
        found, wanted = self.shape(x), [int(size) for size in shape]
        if tuple(wanted) == found:
            return self.net.made(x)
        if wanted and found and wanted[0] != found[0] and -1 not in wanted:
            wanted[0] = -1
        return self.net.reshape(self.name, x, wanted)

    def along(self, x: str, axis: int, matrix: np.ndarray) -> str:
        """Multiplies an axis by a constant matrix (new size, old size): a pointwise Convolution with it as channels."""
        shape = self.shape(x)
        axis = self.axis(axis, len(shape))
        size, rest = shape[axis], math.prod(shape[axis + 1 :])
        self.net.check_size(4 * matrix.size)
        if axis == len(shape) - 1 and axis > 0:
            values = {"num_output": len(matrix), "bias_term": False, "axis": axis}
            return self.add("InnerProduct", [x], [matrix], inner_product_param=values, param=frozen(1))
        if axis == 0:
            raise self.refuse("work along the batch's axis")
        wanted = (*shape[:axis], len(matrix), *shape[axis + 1 :])
        columns = (math.prod(shape[:axis]), size, rest, 1)
        if axis == 1 and len(shape) == 4:
            columns = shape
        values = {"num_output": len(matrix), "bias_term": False, "kernel_size": 1}
        weight = matrix.reshape(*matrix.shape, 1, 1)
        if columns == shape:
            return self.add("Convolution", [x], [weight], convolution_param=values, param=frozen(1))
        x = self.part("columns").reshape(x, columns)
        x = self.part("along").add("Convolution", [x], [weight], convolution_param=values, param=frozen(1))
        return self.reshape(x, wanted)
