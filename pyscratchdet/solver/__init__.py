"""Caffe's solvers: learning-rate policies, update rules, the training loop, snapshots, several processes."""

from pyscratchdet.ranks import ProcessGroup, World
from pyscratchdet.solver.fast import Precision
from pyscratchdet.solver.meter import SolverEvent
from pyscratchdet.solver.optimizers import OPTIMIZERS, CaffeOptimizer, make_optimizer
from pyscratchdet.solver.policies import POLICIES, LearningRate
from pyscratchdet.solver.snapshot import latest_snapshot, read_state, snapshots
from pyscratchdet.solver.solver import Action, Solver, read_solver

__all__ = [
    "OPTIMIZERS",
    "POLICIES",
    "Action",
    "CaffeOptimizer",
    "LearningRate",
    "Precision",
    "ProcessGroup",
    "Solver",
    "SolverEvent",
    "World",
    "latest_snapshot",
    "make_optimizer",
    "read_solver",
    "read_state",
    "snapshots",
]
