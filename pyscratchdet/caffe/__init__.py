"""The pycaffe drop-in: `import pyscratchdet.caffe as caffe`.

The part that writes nets (NetSpec, layers, params, model_libs, caffe_pb2) does not need torch; the part that runs them
(Net, the solvers, io, Classifier, Detector) is imported at first use. `python -m pyscratchdet.caffe script.py` runs an
existing script.
"""

from __future__ import annotations

import importlib
from typing import Any

# {public name: the module in this folder that has it, or "" for a module itself}.
MODULES: dict[str, str] = {
    **dict.fromkeys(("NetSpec", "layers", "params", "to_proto"), "net_spec"),
    **dict.fromkeys(("Layer", "Net", "layer_type_list"), "pycaffe"),
    **dict.fromkeys(
        (
            "NCCL",
            "Timer",
            "has_nccl",
            "init_log",
            "log",
            "set_device",
            "set_mode_cpu",
            "set_mode_gpu",
            "set_random_seed",
            "set_solver_count",
            "solver_count",
        ),
        "mode",
    ),
    **dict.fromkeys(
        (
            "AdaDeltaSolver",
            "AdaGradSolver",
            "AdamSolver",
            "NesterovSolver",
            "RMSPropSolver",
            "SGDSolver",
            "get_solver",
        ),
        "solvers",
    ),
    "Classifier": "classifier",
    "Detector": "detector",
    **dict.fromkeys(("_caffe", "draw", "io", "model_libs", "net_spec", "proto", "pycaffe"), ""),
}

TRAIN, TEST = 0, 1
__version__ = "1.0.0-rc3"
__all__ = sorted(["TEST", "TRAIN", "__version__", *MODULES])


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{MODULES[name] or name}")
    return getattr(module, name) if MODULES[name] else module


def __dir__() -> list[str]:
    return __all__
