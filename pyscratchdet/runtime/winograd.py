"""Convolutions of 3x3 with a quarter of the multiplications: F(4x4, 3x3) of Lavin and Gray 2016, section 4.

The top is made in tiles of 4x4, each from 6x6 values of the bottom. Tiles and kernels are transformed to 36
coefficients (matrices B and G), multiplied coefficient by coefficient, which sums over channels in 36 matrix products,
and transformed back (matrix A). The points are 0, 1, -1, 2, -2 and infinity. Errors are several times those of the
direct sum: a few 1e-6 relative to the values. With few channels the transforms cost more than they save.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyscratchdet.layers.base import Layer
from pyscratchdet.layers.convolution import Convolution

MIN_CHANNELS = 128
_PART = 16  # channels whose kernels are transformed at once

_B = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
_B += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
_G = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # times 24
_A = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
# Of both axes at once: (36, 36), (36, 9) and (16, 36).
_TO_COEFFICIENTS = torch.kron(torch.tensor(_B), torch.tensor(_B)).float()
_KERNEL_TO_COEFFICIENTS = torch.kron(torch.tensor(_G), torch.tensor(_G)).double() / 24**2
_FROM_COEFFICIENTS = torch.kron(torch.tensor(_A), torch.tensor(_A)).float()


def faster(layer: Layer, arrays: Sequence[np.ndarray]) -> Callable[[Tensor], Tensor] | None:
    """Returns a function bottom -> top if this beats the direct sum for a convolution on a CPU, else None.

    Args:
        layer: The layer.
        arrays: Its weight and, where there is one, bias; float32 or float64.
    """
    if not isinstance(layer, Convolution) or layer.channel_axis != 1:
        return None
    window, one = layer.window, (1, 1)
    is_plain = (window.kernel, window.stride, window.dilation, layer.group) == ((3, 3), one, one, 1)
    if not is_plain or min(arrays[0].shape[:2]) < MIN_CHANNELS:
        return None
    weight, *bias = (torch.from_numpy(array) for array in arrays)
    values = bias[0].float() if bias else None
    return functools.partial(convolve, coefficients=transform(weight), bias=values, pad=window.pad)


def transform(weight: Tensor) -> Tensor:
    """Returns the coefficients (36, C, num_output), float32 of float64 sums, of kernels (num_output, C, 3, 3)."""
    num_output, channels = weight.shape[:2]
    coefficients = torch.empty(36, channels, num_output)
    # In parts that stay in the processor's cache: all at once, clearing fresh memory takes most of the time.
    for kernels, target in zip(weight.split(_PART, 1), coefficients.split(_PART, 1), strict=True):
        values = _KERNEL_TO_COEFFICIENTS @ kernels.permute(2, 3, 1, 0).reshape(9, -1).double()
        target.copy_(values.view(target.shape))
    return coefficients


def convolve(bottom: Tensor, coefficients: Tensor, bias: Tensor | None, pad: tuple[int, ...]) -> Tensor:
    """Returns the top (N, num_output, H, W), channels_last, of a bottom (N, C, H, W); float32.

    Args:
        bottom: The bottom, best channels_last.
        coefficients: As returned by `transform`.
        bias: (num_output,) or None.
        pad: Zeros along height and width.
    """
    number, channels, *spatial = bottom.shape
    num_output = coefficients.shape[2]
    height, width = (size + 2 * margin - 2 for size, margin in zip(spatial, pad, strict=True))
    rows, columns = -(-height // 4), -(-width // 4)
    below, right = 4 * rows + 2 - spatial[0] - pad[0], 4 * columns + 2 - spatial[1] - pad[1]
    padded = F.pad(bottom.permute(0, 2, 3, 1), (0, 0, pad[1], right, pad[0], below))
    top = bottom.new_empty(number, height, width, num_output)
    # The picture is done in strips: one that takes no more memory than the kernels stays in the processor's cache.
    strip = max(1, coefficients.numel() // (36 * number * columns * max(channels, num_output)))
    for first in range(0, rows, strip):
        lines = padded[:, 4 * first : 4 * min(first + strip, rows) + 2]
        tiles = lines.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)  # 6, 6, N, rows, columns, C
        values = (_TO_COEFFICIENTS @ tiles.reshape(36, -1)).view(36, -1, channels)
        products = torch.bmm(values, coefficients).flatten(1)
        parts = (_FROM_COEFFICIENTS @ products).view(4, 4, number, -1, columns, num_output).permute(2, 3, 0, 4, 1, 5)
        target = top[:, 4 * first : 4 * (first + strip)]
        sums = parts.reshape(number, -1, 4 * columns, num_output)[:, : target.shape[1], :width]
        target.copy_(sums if bias is None else sums + bias)
    return top.permute(0, 3, 1, 2)
