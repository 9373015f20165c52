"""pycaffe's Blob: an array and its gradient as numpy views that write through."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyscratchdet.layers.python_layer import BlobShape


class Blob(BlobShape):
    """N-d float32 array `data` with a gradient `diff` of the same shape.

    On the CPU both are numpy views of the tensors that the net works on. On a GPU they are host copies: what is written
    there reaches the net before it next computes.
    """

    def __init__(self, data: Tensor, diff: Tensor | None = None) -> None:
        self._data = data
        self._diff = diff
        self._host: dict[str, np.ndarray] = {}
        self._exposed = False

    @property
    def data(self) -> np.ndarray:
        """The values; write with `blob.data[...] = array`."""
        self._exposed = True
        return self._view("data", self._data)

    @property
    def diff(self) -> np.ndarray:
        """The gradient of the loss with respect to the values."""
        return self._view("diff", self.diff_tensor())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as a tuple."""
        return tuple(self._data.shape)

    def reshape(self, *shape: int) -> None:
        """Gives the blob a new shape; values that still fit stay, as in Caffe."""
        self.flush()
        self._data = _resized(self._data, shape)
        self._diff = None if self._diff is None else _resized(self._diff, shape)
        self._host.clear()

    # --- for the net ---

    def tensor(self) -> Tensor:
        """Returns the values as the net sees them, including what was written through numpy."""
        self.flush()
        return self._data

    def diff_tensor(self) -> Tensor:
        """Returns the gradient, zeros at first."""
        if self._diff is None or self._diff.shape != self._data.shape:
            self._diff = torch.zeros_like(self._data, memory_format=torch.contiguous_format)
            self._host.pop("diff", None)
        self._take_over("diff", self._diff)
        return self._diff

    def set(self, value: Tensor) -> None:
        """Stores a layer's result; arrays handed out earlier keep showing the current values."""
        value = value.detach()
        same = value.shape == self._data.shape and value.device == self._data.device
        if same and self._exposed and value.data_ptr() != self._data.data_ptr():
            self._data.data.copy_(value)  # autograd may hold this memory from an earlier pass; Caffe reads it anew
        else:
            self._data = value if value.is_contiguous() and value.dtype == torch.float32 else _plain(value)
        self._host.pop("data", None)

    def flush(self) -> None:
        """Copies what was written into host copies to the device."""
        self._take_over("data", self._data)
        if self._diff is not None:
            self._take_over("diff", self._diff)

    def _take_over(self, key: str, tensor: Tensor) -> None:
        if tensor.device.type != "cpu" and key in self._host:
            tensor.copy_(torch.from_numpy(self._host.pop(key)))

    def _view(self, key: str, tensor: Tensor) -> np.ndarray:
        if tensor.device.type == "cpu":
            return tensor.numpy()
        if key not in self._host:
            self._host[key] = tensor.cpu().numpy()
        return self._host[key]


class SharedBlob(Blob):
    """A blob that shares another one's memory under a shape of its own (`net.storage`).

    Args:
        owner: The blob whose values these are.
        shape: The shape.
        diff_owner: The blob whose gradient this is; None for one of its own.
    """

    def __init__(self, owner: Blob, shape: tuple[int, ...], diff_owner: Blob | None) -> None:
        self._owner = owner
        self._diff_owner = diff_owner
        self._shape = shape
        super().__init__(owner._data)

    @property
    def data(self) -> np.ndarray:
        """The values; write with `blob.data[...] = array`."""
        return self._owner.data.reshape(self._shape)

    @property
    def diff(self) -> np.ndarray:
        """The gradient of the loss with respect to the values."""
        return super().diff if self._diff_owner is None else self._diff_owner.diff.reshape(self._shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as a tuple."""
        return self._shape

    def reshape(self, *shape: int) -> None:
        """Gives the blob a new shape, of as many values as its owner has."""
        self._shape = tuple(int(size) for size in shape)

    def tensor(self) -> Tensor:
        """Returns the values as the net sees them, including what was written through numpy."""
        return self._owner.tensor().view(self._shape)

    def diff_tensor(self) -> Tensor:
        """Returns the gradient, zeros at first."""
        if self._diff_owner is not None:
            return self._diff_owner.diff_tensor().view(self._shape)
        self._data = self.tensor()  # for the shape and the device
        return super().diff_tensor()

    def set(self, value: Tensor) -> None:
        """Takes the shape of a layer's result; the values are set in the owner."""
        self._shape = tuple(value.shape)


class ParameterBlob(Blob):
    """A blob of weights: `data` is the parameter, `diff` its accumulated gradient.

    Args:
        parameter: The parameter, or the buffer of a statistic.
        shape: The layer's shape for it; may differ from the parameter's where sharing is permissive.
    """

    def __init__(self, parameter: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__(parameter.detach().view(shape))
        self.parameter = parameter

    def diff_tensor(self) -> Tensor:
        """Returns the parameter's `.grad`, made of zeros where there is none."""
        if not isinstance(self.parameter, torch.nn.Parameter):
            return super().diff_tensor()
        if self.parameter.grad is None:
            self.parameter.grad = torch.zeros_like(self.parameter, memory_format=torch.contiguous_format)
            self._host.pop("diff", None)
        grad = self.parameter.grad.view(self._data.shape)
        self._take_over("diff", grad)
        return grad


class BlobVec(list[ParameterBlob]):
    """A layer's weights."""


def _plain(value: Tensor) -> Tensor:
    return value.to(torch.float32).contiguous()


def _resized(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    shape = tuple(int(size) for size in shape)
    result = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    number = min(result.numel(), tensor.numel())
    result.view(-1)[:number] = tensor.reshape(-1)[:number]
    return result
