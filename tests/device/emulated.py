"""A device that computes on the CPU, so that what is on the wrong device is found without a GPU.

Under `emulated()`, tensors on "meta" have values after all. As on a GPU, an operation on tensors of both devices is an
error (but for a CPU scalar), so is `.numpy()`, and what is made without naming a device is on the CPU. PyTorch itself
calls these tensors meta ones, so that it asks no driver for anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
_MAY_MIX = ("aten::to", "aten::_to_copy", "aten::copy_")


class OnDevice(torch.Tensor):
    """A tensor on the emulated device; `values` are on the CPU."""

    values: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> OnDevice:
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        made: OnDevice = torch.Tensor._make_wrapper_subclass(cls, values.size(), **layout, device=DEVICE)
        made.values = values
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["values"], None

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, torch.Tensor], _: None, size: Any, stride: Any) -> OnDevice:
        return OnDevice(inner["values"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """PyTorch refuses it for subclasses; a GPU's tensor has it."""
        return self.values.tolist()

    def data_ptr(self) -> int:
        """Likewise."""
        return self.values.data_ptr()


class _Emulation(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """PyTorch does not look at the numbers of `torch.tensor([1, 2], device="meta")`."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in (torch.tensor, torch.as_tensor) or torch.device(kwargs.get("device") or "cpu") != DEVICE:
            return func(*args, **kwargs)
        return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)


@contextmanager
def emulated() -> Iterator[torch.device]:
    """Gives the device, which works inside the context."""
    with _Emulation(), _FromNumbers():
        yield DEVICE


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Does an operation on the CPU, and puts the result where it belongs."""
    schema = func._schema
    # Arguments before the device stay where they are: some operations take it by its place.
    place = next((i for i, argument in enumerate(schema.arguments) if argument.name == "device"), len(args))
    names = [argument.name for argument in schema.arguments[place : len(args)]]
    args, kwargs = args[:place], {**dict(zip(names, args[place:], strict=True)), **kwargs}
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    has_ours = any(isinstance(tensor, OnDevice) for tensor in tensors)
    if has_ours and schema.name not in _MAY_MIX:
        strangers = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim()]
        if strangers:
            raise RuntimeError(f"{func}: tensors on two devices, of shape {tuple(strangers[0].shape)} on the CPU")
    asked = kwargs.get("device")
    on_device = has_ours if asked is None else torch.device(asked) == DEVICE
    if schema.name == "aten::copy_":
        on_device = isinstance(args[0], OnDevice)
    args_on_cpu, kwargs_on_cpu = tree_map_only(OnDevice, lambda tensor: tensor.values, (args, dict(kwargs)))
    if asked is not None:
        kwargs_on_cpu["device"] = torch.device("cpu")
    with _disable_current_modes():
        result = func(*args_on_cpu, **kwargs_on_cpu)
    if not on_device:
        return args[0] if schema.name == "aten::copy_" else result
    is_inference = torch.is_inference_mode_enabled()
    with torch.inference_mode(False):  # PyTorch cannot take a subclass's tensor into the inference mode
        result = tree_map_only(torch.Tensor, OnDevice, result)
    if is_inference:
        return args[0] if schema.name.endswith("_") else result
    return return_and_correct_aliasing(func, args, kwargs, result) if has_ours else result
