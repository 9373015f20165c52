"""pycaffe's solvers: `get_solver` and the six classes (_caffe.cpp, solver.cpp)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from torch import Tensor

from pyscratchdet.caffe.mode import current_device, global_random
from pyscratchdet.caffe.pycaffe import Net
from pyscratchdet.errors import SolverError
from pyscratchdet.layers.python_layer import python_layers_allowed
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.upgrade import upgrade_solver
from pyscratchdet.runtime import share_weights
from pyscratchdet.solver import Solver as RuntimeSolver
from pyscratchdet.solver import read_solver


class Solver:
    """A solver whose nets are pycaffe's: inputs are taken from their blobs, and all blobs and diffs can be read later.

    Args:
        file: Solver prototxt.

    Attributes:
        net: The train net.
        test_nets: The test nets.
    """

    # The solver type of a class; None for the one in the file.
    _type: str | None = None

    def __init__(self, file: str | os.PathLike[str]) -> None:
        param = upgrade_solver(read_solver(file))
        if self._type is not None:
            param.type = self._type
        with python_layers_allowed():
            self._solver = RuntimeSolver(
                param, random=global_random(), device=current_device(), stop_when_diverged=False, path=file
            )
        self.net = Net.wrap(self._solver.net)
        self.test_nets = [Net.wrap(net) for net in self._solver.test_nets]
        self._solver.forward_backward = self._forward_backward
        self._solver.forward_test = self._forward_test
        self._solver.optimizer.keep_updates = True  # after a step the original's diffs hold what was subtracted

    @property
    def iter(self) -> int:
        """Number of updates made."""
        return self._solver.iter

    @property
    def param(self) -> caffe_pb2.SolverParameter:
        """The settings."""
        return self._solver.param

    def step(self, n: int) -> None:
        """Makes `n` updates."""
        self._solver.step(n)

    def solve(self, resume_file: str | os.PathLike[str] | None = None) -> None:
        """Trains to the end, from a solverstate if one is given."""
        self._solver.solve(resume_file)

    def snapshot(self) -> None:
        """Writes weights and state."""
        self._solver.snapshot()

    def restore(self, file: str | os.PathLike[str]) -> None:
        """Restores a solverstate."""
        self._solver.restore(file)

    def add_callback(self, on_start: Callable[[], None], on_gradients_ready: Callable[[], None]) -> None:
        """Registers functions to call at the start of each iteration and when its gradients are complete."""
        self._solver.callbacks.append((on_start, on_gradients_ready))

    def share_weights(self, net: Net) -> None:
        """Makes `net` use the train net's weights."""
        share_weights(net.runtime, self._solver.net)

    def _forward_backward(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        last = len(self.net.layers) - 1
        self.net._forward(0, last)
        self.net._backward(last, 0)
        return self._result(self.net)

    def _forward_test(self, index: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        net = self.test_nets[index]
        net._forward(0, len(net.layers) - 1)
        return self._result(net)

    @staticmethod
    def _result(net: Net) -> tuple[Tensor, Mapping[str, Tensor]]:
        blobs = {name: blob.tensor() for name, blob in net.blobs.items()}
        return net.runtime.total_loss(blobs), blobs


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum; a type that the file names is ignored."""

    _type = "SGD"


class NesterovSolver(Solver):
    """Nesterov's accelerated gradient."""

    _type = "Nesterov"


class AdaGradSolver(Solver):
    """AdaGrad."""

    _type = "AdaGrad"


class RMSPropSolver(Solver):
    """RMSProp."""

    _type = "RMSProp"


class AdaDeltaSolver(Solver):
    """AdaDelta."""

    _type = "AdaDelta"


class AdamSolver(Solver):
    """Adam."""

    _type = "Adam"


_CLASSES = {
    cls._type: cls for cls in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)
}


def get_solver(file: str | os.PathLike[str]) -> Solver:
    """Returns the solver of the type that the file names.

    Raises:
        SolverError: The type is unknown.
    """
    kind = upgrade_solver(read_solver(file)).type
    if kind not in _CLASSES:
        raise SolverError(f'unknown solver type "{kind}"', code="solver.type", expected=", ".join(sorted(_CLASSES)))
    return _CLASSES[kind](file)
