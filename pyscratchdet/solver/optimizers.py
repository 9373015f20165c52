"""Caffe's update rules behind torch.optim's interface (src/caffe/solvers/*.cpp).

The order is the original's: clip by the global norm -> divide by iter_size -> add the decay -> turn the gradient into
an update -> subtract it. The histories contain the learning rate, so SGD with momentum differs from torch.optim.SGD
once the rate has changed. Arithmetic is `torch._foreach_*`: a few kernels for all blobs together.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pyscratchdet.errors import SolverError, nearest
from pyscratchdet.proto import caffe_pb2

Tensors = list[Tensor]


class CaffeOptimizer(torch.optim.Optimizer, ABC):
    """Base of the six rules.

    Args:
        params: Tensors, or dicts with `params`, `lr_mult` and `decay_mult`, in Caffe's order (learnable_params).
            A tensor without a gradient counts as one with gradient 0.
        lr: The global rate; set `param_groups[i]["lr"]` (or use a scheduler) to change it.
        weight_decay: Global decay, multiplied by each blob's `decay_mult`.
        regularization_type: "L2" or "L1".
        clip_gradients: The largest L2 norm allowed over all gradients; negative for no clipping.
        iter_size: Number of passes whose gradients were summed up.
        momentum, momentum2, delta, rms_decay: As in SolverParameter.

    Attributes:
        clipped: (norm, factor) of the last step if its gradients were scaled down, else None.
        keep_updates: True to leave the updates in `.grad`, where the original's diffs have them.
    """

    num_histories: ClassVar[int] = 1
    # True where a rate of 0 leaves a zero history zero, so frozen blobs need no work.
    rests_when_frozen: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.01,
        *,
        weight_decay: float = 0.0,
        regularization_type: str = "L2",
        clip_gradients: float = -1.0,
        iter_size: int = 1,
        momentum: float = 0.0,
        momentum2: float = 0.999,
        delta: float = 1e-8,
        rms_decay: float = 0.99,
    ) -> None:
        if weight_decay and regularization_type not in ("L1", "L2"):
            raise SolverError(
                f'unknown regularization_type "{regularization_type}"',
                code="solver.regularization",
                expected="L1 or L2",
            )
        if iter_size < 1:
            raise SolverError("iter_size must be at least 1", code="solver.iter-size", found=iter_size)
        self.weight_decay = weight_decay
        self.regularization_type = regularization_type
        self.clip_gradients = clip_gradients
        self.iter_size = iter_size
        self.momentum = momentum
        self.momentum2 = momentum2
        self.delta = delta
        self.rms_decay = rms_decay
        self.clipped: tuple[float, float] | None = None
        self.keep_updates = False
        groups, self._order = _grouped(params)
        super().__init__(groups, {"lr": lr, "lr_mult": 1.0, "decay_mult": 1.0, "iteration": 0})

    # --- settings and state ---

    def set_rate(self, rate: float) -> None:
        """Sets the global rate of the next step."""
        for group in self.param_groups:
            group["lr"] = rate

    @property
    def iteration(self) -> int:
        """Number of steps made, which Adam's correction depends on."""
        return int(self.param_groups[0]["iteration"]) if self.param_groups else 0

    @iteration.setter
    def iteration(self, value: int) -> None:
        for group in self.param_groups:
            group["iteration"] = value

    @property
    def parameters(self) -> Tensors:
        """All parameters in Caffe's order."""
        return list(self._order)

    def histories(self) -> Tensors:
        """Returns the state in the order of SolverState.history: all first histories, then all second ones."""
        return [self._history(p, k, keep=False) for k in range(self.num_histories) for p in self._order]

    def set_histories(self, arrays: Sequence[np.ndarray]) -> None:
        """Restores the state from SolverState.history.

        Raises:
            SolverError: Their number or a shape is wrong; nothing has been changed.
        """
        places = [(p, k) for k in range(self.num_histories) for p in self._order]
        if len(arrays) != len(places):
            raise SolverError(
                "incorrect length of history blobs", code="solver.history", expected=len(places), found=len(arrays)
            )
        for index, ((p, _), array) in enumerate(zip(places, arrays, strict=True)):
            shape = tuple(p.shape)
            # Older files have four dimensions, the first ones of size 1.
            if array.shape not in (shape, (1,) * (4 - len(shape)) + shape):
                raise SolverError(
                    f"history blob {index} has the wrong shape",
                    code="solver.history",
                    expected=shape,
                    found=array.shape,
                )
        with torch.no_grad():
            for (p, k), array in zip(places, arrays, strict=True):
                values = torch.from_numpy(np.array(array, np.float32).reshape(tuple(p.shape)))
                self._history(p, k).copy_(values)

    def _history(self, p: Tensor, index: int, keep: bool = True) -> Tensor:
        state: dict[str, Tensor] = self.state[p] if keep else self.state.get(p, {})
        key = f"history{index}"
        if key not in state:
            zeros = torch.zeros_like(p, requires_grad=False)
            if not keep:
                return zeros
            state[key] = zeros
        return state[key]

    # --- the step ---

    def gradient_norm(self) -> Tensor:
        """Returns the L2 norm over all gradients as a scalar tensor."""
        grads = [p.grad for p in self._order if p.grad is not None]
        if not grads:
            return torch.zeros(())
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Makes one update from the gradients summed up in `.grad`, which it modifies."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = self._clip() / self.iter_size
        for group in self.param_groups:
            self._step_group(group, scale)
            group["iteration"] += 1
        return loss

    def _clip(self) -> float:
        self.clipped = None
        if self.clip_gradients < 0:
            return 1.0
        norm = float(self.gradient_norm())
        if not norm > self.clip_gradients:
            return 1.0
        self.clipped = norm, self.clip_gradients / norm
        return self.clipped[1]

    def _step_group(self, group: dict[str, Any], scale: float) -> None:
        rate = float(np.float32(group["lr"]) * np.float32(group["lr_mult"]))
        params: Tensors = group["params"]
        rests = group["lr_mult"] == 0 and self.rests_when_frozen and not self.keep_updates
        if rests and not any(p in self.state for p in params):
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        if scale != 1:
            torch._foreach_mul_(grads, scale)
        decay = float(np.float32(self.weight_decay) * np.float32(group["decay_mult"]))
        if decay:
            values = params if self.regularization_type == "L2" else list(torch._foreach_sign(params))
            torch._foreach_add_(grads, values, alpha=decay)
        histories = [[self._history(p, k) for p in params] for k in range(self.num_histories)]
        updates = self._updates(grads, *histories, rate=rate, iteration=group["iteration"])
        torch._foreach_sub_(params, updates)
        if self.keep_updates:
            for p, grad, update in zip(params, grads, updates, strict=True):
                grad.copy_(update)
                p.grad = grad

    @abstractmethod
    def _updates(self, grads: Tensors, *histories: Tensors, rate: float, iteration: int) -> Tensors:
        """Advances the histories and returns what is subtracted from the parameters (ComputeUpdateValue)."""


class SGD(CaffeOptimizer):
    """h = momentum * h + rate * g; w -= h (sgd_solver.cpp)."""

    rests_when_frozen = True

    def _updates(self, grads: Tensors, *histories: Tensors, rate: float, iteration: int) -> Tensors:
        (history,) = histories
        _axpby_(rate, grads, self.momentum, history)
        return history


class Nesterov(CaffeOptimizer):
    """h' = momentum * h + rate * g; w -= (1 + momentum) * h' - momentum * h (nesterov_solver.cpp)."""

    rests_when_frozen = True

    def _updates(self, grads: Tensors, *histories: Tensors, rate: float, iteration: int) -> Tensors:
        (history,) = histories
        updates = list(torch._foreach_mul(history, -self.momentum))
        _axpby_(rate, grads, self.momentum, history)
        torch._foreach_add_(updates, history, alpha=_f32(1 + self.momentum))
        return updates


class AdaGrad(CaffeOptimizer):
    """h += g^2; w -= rate * g / (sqrt(h) + delta) (adagrad_solver.cpp)."""

    def _updates(self, grads: Tensors, *histories: Tensors, rate: float, iteration: int) -> Tensors:
        (history,) = histories
        torch._foreach_addcmul_(history, grads, grads)
        return _scaled_ratio(grads, history, self.delta, rate)


class RMSProp(CaffeOptimizer):
    """h = rms_decay * h + (1 - rms_decay) * g^2; w -= rate * g / (sqrt(h) + delta) (rmsprop_solver.cpp)."""

    def _updates(self, grads: Tensors, *histories: Tensors, rate: float, iteration: int) -> Tensors:
        (history,) = histories
        torch._foreach_mul_(history, self.rms_decay)
        torch._foreach_addcmul_(history, grads, grads, value=_f32(1 - self.rms_decay))
        return _scaled_ratio(grads, history, self.delta, rate)


class AdaDelta(CaffeOptimizer):
    """u = g * sqrt((d + delta) / (h + delta)); w -= rate * u; d averages u^2, h averages g^2 (adadelta_solver.cpp)."""

    num_histories = 2

    def _updates(self, grads: Tensors, *histories: Tensors, rate: float, iteration: int) -> Tensors:
        squares, steps = histories
        rest = _f32(1 - self.momentum)
        torch._foreach_mul_(squares, self.momentum)
        torch._foreach_addcmul_(squares, grads, grads, value=rest)
        updates = list(torch._foreach_add(steps, self.delta))
        torch._foreach_div_(updates, torch._foreach_add(squares, self.delta))
        torch._foreach_sqrt_(updates)
        torch._foreach_mul_(updates, grads)
        torch._foreach_mul_(steps, self.momentum)
        torch._foreach_addcmul_(steps, updates, updates, value=rest)
        torch._foreach_mul_(updates, rate)
        return updates


class Adam(CaffeOptimizer):
    """w -= rate * c * m / (sqrt(v) + delta), c = sqrt(1 - momentum2^t) / (1 - momentum^t) (adam_solver.cpp).

    Unlike torch.optim.Adam, delta is added to the uncorrected root.
    """

    num_histories = 2

    def _updates(self, grads: Tensors, *histories: Tensors, rate: float, iteration: int) -> Tensors:
        means, squares = histories
        _axpby_(_f32(1 - self.momentum), grads, self.momentum, means)
        torch._foreach_mul_(squares, self.momentum2)
        torch._foreach_addcmul_(squares, grads, grads, value=_f32(1 - self.momentum2))
        t = iteration + 1
        correction = _f32(math.sqrt(1 - self.momentum2**t) / (1 - self.momentum**t))
        return _scaled_ratio(means, squares, self.delta, _f32(rate * correction))


OPTIMIZERS: dict[str, type[CaffeOptimizer]] = {
    cls.__name__: cls for cls in (SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam)
}


def make_optimizer(
    param: caffe_pb2.SolverParameter, params: Iterable[Tensor] | Iterable[dict[str, Any]]
) -> CaffeOptimizer:
    """Returns the optimizer that a solver file asks for.

    Raises:
        SolverError: The type is unknown.
    """
    if param.type not in OPTIMIZERS:
        raise SolverError(
            f'unknown solver type "{param.type}"',
            code="solver.type",
            expected=", ".join(OPTIMIZERS),
            hint=nearest(param.type, OPTIMIZERS),
        )
    return OPTIMIZERS[param.type](
        params,
        param.base_lr,
        weight_decay=param.weight_decay,
        regularization_type=param.regularization_type,
        clip_gradients=param.clip_gradients,
        iter_size=param.iter_size,
        momentum=param.momentum,
        momentum2=param.momentum2,
        delta=param.delta,
        rms_decay=param.rms_decay,
    )


def _grouped(params: Iterable[Any]) -> tuple[list[dict[str, Any]], Tensors]:
    """Groups tensors by their multipliers, so that one kernel updates a whole group, and remembers the order."""
    order: Tensors = []
    groups: dict[tuple[float, float], Tensors] = {}
    for entry in params:
        group: dict[str, Any] = entry if isinstance(entry, dict) else {"params": [entry]}
        tensors = group["params"]
        tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        order += tensors
        groups.setdefault((group.get("lr_mult", 1.0), group.get("decay_mult", 1.0)), []).extend(tensors)
    return [{"params": tensors, "lr_mult": lr, "decay_mult": decay} for (lr, decay), tensors in groups.items()], order


def _axpby_(a: float, x: Tensors, b: float, y: Tensors) -> None:
    """Y = a * x + b * y."""
    torch._foreach_mul_(y, b)
    torch._foreach_add_(y, x, alpha=a)


def _scaled_ratio(numerators: Tensors, squares: Tensors, delta: float, rate: float) -> Tensors:
    """Returns rate * numerator / (sqrt(square) + delta)."""
    roots = list(torch._foreach_sqrt(squares))
    torch._foreach_add_(roots, delta)
    ratios = list(torch._foreach_div(numerators, roots))
    torch._foreach_mul_(ratios, rate)
    return ratios


def _f32(value: float) -> float:
    return float(np.float32(value))
