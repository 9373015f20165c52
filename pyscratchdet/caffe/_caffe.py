"""`caffe._caffe`, the compiled half of pycaffe, which some scripts look into (_caffe.cpp).

Its vectors are lists here; `BlobVec` is a type of its own, by which scripts tell a layer's weights from other values.
"""

from pyscratchdet.caffe.blob import Blob, BlobVec
from pyscratchdet.caffe.mode import (
    Timer,
    has_nccl,
    init_log,
    log,
    set_device,
    set_mode_cpu,
    set_mode_gpu,
    set_random_seed,
    set_solver_count,
    solver_count,
)
from pyscratchdet.caffe.pycaffe import Layer, Net, layer_type_list
from pyscratchdet.caffe.solvers import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    get_solver,
)

BoolVec = DtypeVec = IntVec = LayerVec = NetVec = StringVec = list

__all__ = [
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "BlobVec",
    "BoolVec",
    "DtypeVec",
    "IntVec",
    "Layer",
    "LayerVec",
    "NesterovSolver",
    "Net",
    "NetVec",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "StringVec",
    "Timer",
    "get_solver",
    "has_nccl",
    "init_log",
    "layer_type_list",
    "log",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_random_seed",
    "set_solver_count",
    "solver_count",
]
