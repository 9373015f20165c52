"""Caffe's SSD, RefineDet and ScratchDet without Caffe.

The names below are imported at first use, so that importing the package is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyscratchdet.cli.calls import convert, verify
    from pyscratchdet.converters.imports import import_module
    from pyscratchdet.detect.detector import Detector, Preparation
    from pyscratchdet.errors import PyScratchDetError
    from pyscratchdet.evaluate.model import evaluate_detector
    from pyscratchdet.layers.base import BlobSpec, Layer, register
    from pyscratchdet.layers.plan import read_net
    from pyscratchdet.proto.schema import register_schema
    from pyscratchdet.runtime import Net, build_net, load_net, save_weights

__version__ = "0.2.0"
__all__ = [
    "BlobSpec",
    "Detector",
    "Layer",
    "Net",
    "Preparation",
    "PyScratchDetError",
    "__version__",
    "build_net",
    "convert",
    "evaluate_detector",
    "import_module",
    "load_net",
    "read_net",
    "register",
    "register_schema",
    "save_weights",
    "verify",
]
# name: the module that has it
_PLACES = {
    **dict.fromkeys(("BlobSpec", "Layer", "register"), "layers.base"),
    **dict.fromkeys(("Detector", "Preparation"), "detect.detector"),
    **dict.fromkeys(("Net", "build_net", "load_net", "save_weights"), "runtime"),
    **dict.fromkeys(("convert", "verify"), "cli.calls"),
    "PyScratchDetError": "errors",
    "evaluate_detector": "evaluate.model",
    "import_module": "converters.imports",
    "read_net": "layers.plan",
    "register_schema": "proto.schema",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
