"""`debug_info: true`: mean magnitudes of blobs, weights and gradients as Caffe prints them (net.cpp: *DebugInfo)."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from pyscratchdet.runtime import LayerModule, Net
from pyscratchdet.solver.log import number

_log = logging.getLogger(__name__)


def debug_info(net: Net, wanted: bool, backward: bool) -> AbstractContextManager[object]:
    """Returns a `DebugInfo` if it is wanted, otherwise a context that does nothing."""
    return DebugInfo(net, backward) if wanted else nullcontext()


class DebugInfo:
    """Prints one pass of a net while the block runs.

    The original's "diff" of a bottom is the gradient from this consumer alone, so each layer sees its bottoms through
    its own identity.

    Args:
        net: The net.
        backward: Whether the pass includes the backward half.
    """

    def __init__(self, net: Net, backward: bool = True) -> None:
        self.net = net
        self.backward = backward
        self._handles: list[Any] = []
        self._bottom_grads: dict[tuple[int, int], Tensor] = {}
        self._lines: dict[int, list[str]] = {}
        # Input layers compute nothing and are not called: their tops are seen as the bottoms of other layers.
        self._inputs = {b: i for i, m in enumerate(net.layers) if m.node.is_input for b in m.node.tops}
        self._indices = {id(module): index for index, module in enumerate(net.layers)}

    def __enter__(self) -> DebugInfo:
        # Every layer runs by itself here: BatchNorm and Scale are not combined.
        self._pairs, self.net._scaled_by = self.net._scaled_by, {}
        for module in self.net.layers:
            self._handles.append(module.register_forward_pre_hook(self._before))
            self._handles.append(module.register_forward_hook(self._after))
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        for handle in self._handles:
            handle.remove()
        self.net._scaled_by = self._pairs
        if kind is None:
            for index in sorted(self._lines):
                for line in self._lines[index]:
                    _log.info(line)
            if self.backward:
                self._print_backward()

    def _before(self, module: LayerModule, bottoms: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        index = self._indices[id(module)]
        for blob, bottom in zip(module.node.bottoms, bottoms, strict=True):
            if blob in self._inputs:
                self._add_top(self._inputs[blob], blob, bottom)
        return tuple(self._watched(bottom, (index, j)) for j, bottom in enumerate(bottoms))

    def _watched(self, bottom: Tensor, key: tuple[int, int]) -> Tensor:
        if not (bottom.requires_grad and self.net.plan.backward.bottoms[key[0]][key[1]]):
            return bottom
        alias = bottom.view_as(bottom)
        alias.register_hook(lambda grad: self._bottom_grads.__setitem__(key, grad.detach()))
        return alias

    def _after(self, module: LayerModule, bottoms: tuple[Tensor, ...], tops: list[Tensor]) -> None:
        index = self._indices[id(module)]
        for blob, top in zip(module.node.tops, tops, strict=True):
            self._add_top(index, blob, top)
        for k, weights in enumerate(module.blobs):
            what = f"param blob {_param_name(module, k)} data: {_mean(weights)}"
            self._add(index, what)

    def _add_top(self, index: int, blob: int, top: Tensor) -> None:
        self._add(index, f"top blob {self.net.plan.graph.blob_names[blob]} data: {_mean(top)}")

    def _add(self, index: int, what: str) -> None:
        self._lines.setdefault(index, []).append(f"    [Forward] Layer {self.net.layers[index].name}, {what}")

    def _print_backward(self) -> None:
        plan = self.net.plan.backward
        names = self.net.plan.graph.blob_names
        for index in reversed(range(len(self.net.layers))):
            module = self.net.layers[index]
            if not plan.layers[index]:
                continue
            start = f"    [Backward] Layer {module.name}"
            for j, blob in enumerate(module.node.bottoms):
                if plan.bottoms[index][j]:
                    mean = _mean(self._bottom_grads.get((index, j)))
                    _log.info(f"{start}, bottom blob {names[blob]} diff: {mean}")
            for k, parameter in enumerate(module.blobs):
                if plan.params[index][k]:
                    _log.info(f"{start}, param blob {k} diff: {_mean(parameter.grad)}")
        self._print_norms()

    def _print_norms(self) -> None:
        data = [entry.parameter.detach() for entry in self.net.learnable]
        diff = [tensor.grad for tensor in (entry.parameter for entry in self.net.learnable) if tensor.grad is not None]
        l1 = [number(_total(tensors, 1)) for tensors in (data, diff)]
        l2 = [number(_total(tensors, 2)) for tensors in (data, diff)]
        message = "    [Backward] All net params (data, diff): "
        message += f"L1 norm = ({', '.join(l1)}); L2 norm = ({', '.join(l2)})"
        _log.error(message)


def _mean(tensor: Tensor | None) -> str:
    if tensor is None or tensor.numel() == 0:
        return "0"
    return number(tensor.detach().float().abs().mean().item())


def _total(tensors: list[Tensor], order: int) -> float:
    if not tensors:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors, order)).double(), order))


def _param_name(module: LayerModule, index: int) -> str:
    specs = module.node.param.param
    return (specs[index].name if index < len(specs) else "") or str(index)
