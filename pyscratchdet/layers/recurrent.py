"""RNN, LSTM and LSTMUnit (recurrent_layer.cpp, rnn_layer.cpp, lstm_layer.cpp, lstm_unit_layer.cpp).

The original unrolls a layer into a net of T time steps that share their weights; here the steps are a loop.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import BlobSpec, Count, Layer, Shape, exactly, register
from pyscratchdet.layers.fillers import fill
from pyscratchdet.lazy import F, Tensor, torch


class Recurrent(Layer):
    """Base of RNN and LSTM.

    Bottoms: x (T, N, ...), cont (T, N), optionally a static input (N, ...) seen at every step, and with `expose_hidden`
    the state before the first step, each (1, N, D). cont is 0 where a sequence starts (the state is forgotten) and 1
    where it continues. Tops: the outputs (T, N, D) and with `expose_hidden` the state after the last step.

    Without `expose_hidden` the next forward pass starts from this state, as in the original; the state is zero at first
    and whenever N changes. No gradient passes through a state from outside, exposed or not.

    Class attributes:
        num_states: Blobs in the state.
    """

    num_states: ClassVar[int]
    sums_many: bool = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.recurrent_param
        self.num_output = param.num_output
        self.num_exposed = self.num_states if param.expose_hidden else 0
        if self.num_output == 0:
            raise self.fail("num_output must be positive", "num-output", found=0)
        if len(bottoms) not in (2 + self.num_exposed, 3 + self.num_exposed):
            expected = f"{2 + self.num_exposed} or {3 + self.num_exposed}"
            raise self.fail("wrong number of bottoms", "bottoms", expected=expected, found=len(bottoms))
        if self.num_tops != 1 + self.num_exposed:
            raise self.fail("wrong number of tops", "tops", expected=1 + self.num_exposed, found=self.num_tops)
        self.has_static = len(bottoms) == 3 + self.num_exposed
        self.no_gradient = frozenset({1, *range(2 + self.has_static, len(bottoms))})  # type: ignore[misc]
        self._check(bottoms)
        self.num_steps = bottoms[0][0]
        self._carried: list[Tensor] = []
        self.blobs = self._filled(self.blob_shapes(bottoms))

    @abstractmethod
    def blob_shapes(self, bottoms: Sequence[Shape]) -> dict[str, Shape]:
        """Returns the shapes of the blobs that all steps share, by the original's names and in its order."""

    def _filled(self, shapes: dict[str, Shape]) -> list[BlobSpec]:
        """Fills the blobs here and not later: in the original's unrolled net every step first draws its own."""
        param = self.param.recurrent_param
        fillers = {role: param.bias_filler if role.startswith("b_") else param.weight_filler for role in shapes}
        of_steps = list(shapes)[2 + self.has_static :]
        values = {role: fill(fillers[role], shape, self.context.random) for role, shape in shapes.items()}
        for _ in range(self.num_steps - 1):
            for role in of_steps:
                fill(fillers[role], shapes[role], self.context.random)
        return [BlobSpec(role, shapes[role], value=values[role]) for role in shapes]

    def _check(self, bottoms: Sequence[Shape]) -> None:
        x, cont = bottoms[:2]
        if len(x) < 3 or 0 in x:
            raise self.fail("the input must have at least 3 axes", "rank", expected="(T, N, ...)", found=x)
        if cont != x[:2]:
            raise self.fail("the continuation bottom does not fit the input", "shape", expected=x[:2], found=cont)
        if self.has_static and (len(bottoms[2]) < 2 or bottoms[2][0] != x[1]):
            raise self.fail("the static input does not fit", "shape", expected=f"({x[1]}, ...)", found=bottoms[2])
        for state in bottoms[2 + self.has_static :]:
            if state != (1, x[1], self.num_output):
                raise self.fail(
                    "the hidden state does not fit", "shape", expected=(1, x[1], self.num_output), found=state
                )

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self._check(bottoms)
        if bottoms[0][0] != self.num_steps:
            raise self.fail(
                "the number of time steps cannot change", "steps", expected=self.num_steps, found=bottoms[0][0]
            )
        for spec, shape in zip(self.blobs, self.blob_shapes(bottoms).values(), strict=True):
            if spec.shape != shape:
                raise self.fail(
                    f"the input does not fit the weights {spec.role}", "shape", expected=spec.shape, found=shape
                )
        batch = bottoms[0][1]
        return [(self.num_steps, batch, self.num_output), *[(1, batch, self.num_output)] * self.num_exposed]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        x, cont = bottoms[0], bottoms[1].detach()
        weights = {spec.role: blob for spec, blob in zip(self.blobs, blobs, strict=True)}
        names = list(weights)
        inputs = F.linear(x.flatten(2), weights[names[0]], weights[names[1]])
        if self.has_static:
            inputs = inputs + F.linear(bottoms[2].flatten(1), weights[names[2]])
        output, state = self.steps(inputs, cont, self._first_state(bottoms), weights)
        state = [blob.detach() for blob in state]
        if self.num_exposed:
            return [output, *(blob[None] for blob in state)]
        # Not in half precision, which numpy only partly supports: a resumed run must start from the same numbers.
        self._carried = [blob if blob.dtype == torch.float64 else blob.float() for blob in state]
        return [output]

    @property
    def state(self) -> list[np.ndarray]:
        """The state after the last step; empty before the first pass and with `expose_hidden`."""
        return [blob.cpu().numpy() for blob in self._carried]

    @state.setter
    def state(self, state: Sequence[np.ndarray]) -> None:
        self._carried = [torch.from_numpy(np.array(array)) for array in state]

    @abstractmethod
    def steps(
        self, inputs: Tensor, cont: Tensor, state: list[Tensor], weights: dict[str, Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Runs all time steps.

        Args:
            inputs: What x and the static input contribute to each step, (T, N, rows of the weights).
            cont: (T, N).
            state: The state before the first step, each (N, D).
            weights: The blobs by name.

        Returns:
            The outputs (T, N, D) and the state after the last step.
        """

    def _first_state(self, bottoms: Sequence[Tensor]) -> list[Tensor]:
        if self.num_exposed:
            return [bottom.detach()[0] for bottom in bottoms[2 + self.has_static :]]
        zero = bottoms[0].new_zeros(bottoms[0].shape[1], self.num_output)
        if not self._carried or self._carried[0].shape != zero.shape:
            return [zero] * self.num_states
        return [blob.to(zero.device) for blob in self._carried]

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        num_steps, batch = bottoms[0][:2]
        static = sum(math.prod(spec.shape) for spec in self.blobs if spec.role.endswith("_static"))
        per_item = sum(math.prod(spec.shape) for spec in self.blobs if spec.role.startswith("W")) - static
        return batch * (num_steps * per_item + static)


@register("RNN")
class RNN(Recurrent):
    """h = tanh(W_hh (cont * h) + W_xh x + b_h [+ W_xh_static s]), output tanh(W_ho h + b_o); the state is h."""

    bottoms: ClassVar[Count] = Count(2, 4)
    tops: ClassVar[Count] = Count(1, 2)
    num_states: ClassVar[int] = 1

    def blob_shapes(self, bottoms: Sequence[Shape]) -> dict[str, Shape]:
        d = self.num_output
        shapes = {"W_xh": (d, math.prod(bottoms[0][2:])), "b_h": (d,)}
        if self.has_static:
            shapes["W_xh_static"] = (d, math.prod(bottoms[2][1:]))
        return shapes | {"W_hh": (d, d), "W_ho": (d, d), "b_o": (d,)}

    def steps(
        self, inputs: Tensor, cont: Tensor, state: list[Tensor], weights: dict[str, Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        hidden = []
        (h,) = state
        for step, going_on in zip(inputs, cont, strict=True):
            h = torch.tanh(F.linear(going_on[:, None] * h, weights["W_hh"]) + step)
            hidden.append(h)
        return torch.tanh(F.linear(torch.stack(hidden), weights["W_ho"], weights["b_o"])), [h]


@register("LSTM")
class LSTM(Recurrent):
    """LSTMUnit over gates W_hc (cont * h) + W_xc x + b_c [+ W_xc_static s]; the output is h, the state h and c.

    Rows of the weights: input, forget, output gate, then the cell's input, D each; PyTorch's order is i, f, g, o.
    """

    bottoms: ClassVar[Count] = Count(2, 5)
    tops: ClassVar[Count] = Count(1, 3)
    num_states: ClassVar[int] = 2

    def blob_shapes(self, bottoms: Sequence[Shape]) -> dict[str, Shape]:
        rows = 4 * self.num_output
        shapes = {"W_xc": (rows, math.prod(bottoms[0][2:])), "b_c": (rows,)}
        if self.has_static:
            shapes["W_xc_static"] = (rows, math.prod(bottoms[2][1:]))
        return shapes | {"W_hc": (rows, self.num_output)}

    def steps(
        self, inputs: Tensor, cont: Tensor, state: list[Tensor], weights: dict[str, Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        from pyscratchdet.layers.autograd.lstm_unit import LSTMUnitFunction

        hidden = []
        h, c = state
        for step, going_on in zip(inputs, cont, strict=True):
            gates = F.linear(going_on[:, None] * h, weights["W_hc"]) + step
            c, h = LSTMUnitFunction.apply(c, gates, going_on)
            hidden.append(h)
        return torch.stack(hidden), [h, c]


@register("LSTMUnit")
class LSTMUnit(Layer):
    """One step: c = cont * sigmoid(f) * c_prev + sigmoid(i) * tanh(g), h = sigmoid(o) * tanh(c).

    Bottoms: c_prev (1, N, D), gates (1, N, 4D) in the order i, f, o, g, and cont (1, N). Tops: c and h (1, N, D).
    """

    bottoms: ClassVar[Count] = exactly(3)
    tops: ClassVar[Count] = exactly(2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({2})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        cell = bottoms[0]
        if len(cell) != 3 or cell[0] != 1:
            raise self.fail("the cell must have 3 axes, the first of size 1", "shape", expected="(1, N, D)", found=cell)
        for shape, expected in zip(bottoms[1:], [(1, cell[1], 4 * cell[2]), (1, cell[1])], strict=True):
            if shape != expected:
                raise self.fail("gates or continuation do not fit the cell", "shape", expected=expected, found=shape)
        return [cell, cell]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.layers.autograd.lstm_unit import LSTMUnitFunction

        c, h = LSTMUnitFunction.apply(bottoms[0][0], bottoms[1][0], bottoms[2].detach()[0])
        return [c[None], h[None]]
