"""One step of an LSTM with the original's gradient (lstm_unit_layer.cpp)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LSTMUnitFunction(torch.autograd.Function):
    """(c_prev (N, D), gates (N, 4D) as i, f, o, g, cont (N)) -> (c, h), both (N, D).

    With f' = cont * sigmoid(f) the original derives f' * (1 - f'), which is the true derivative only where cont is 0
    or 1; that is kept.
    """

    @staticmethod
    def forward(ctx: Any, c_prev: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the new cell and hidden state."""
        raw_i, raw_f, raw_o, raw_g = gates.chunk(4, dim=1)
        i, o, g = raw_i.sigmoid(), raw_o.sigmoid(), raw_g.tanh()
        # where, not a product: a cell value that overflowed ends with its sequence.
        f = torch.where(cont[:, None] == 0, 0, cont[:, None] * raw_f.sigmoid())
        c = f * c_prev + i * g
        tanh_c = c.tanh()
        ctx.save_for_backward(i, f, o, g, c_prev, tanh_c)
        return c, o * tanh_c

    @staticmethod
    def backward(ctx: Any, c_diff: Tensor, h_diff: Tensor) -> tuple[Tensor, Tensor, None]:
        """Returns the gradients of c_prev and gates."""
        i, f, o, g, c_prev, tanh_c = ctx.saved_tensors
        cell = c_diff + h_diff * o * (1 - tanh_c * tanh_c)
        gates = [
            cell * g * i * (1 - i),
            cell * c_prev * f * (1 - f),
            h_diff * tanh_c * o * (1 - o),
            cell * i * (1 - g * g),
        ]
        return cell * f, torch.cat(gates, dim=1), None
