"""Caffe's SSD, RefineDet and ScratchDet without Caffe.

`load_net` and the rest of the runtime are imported at first use, so that importing the package is instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyscratchdet.converters.imports import import_module
    from pyscratchdet.detect.detector import Detector, Preparation
    from pyscratchdet.proto.schema import register_schema
    from pyscratchdet.runtime import Net, build_net, load_net

__version__ = "0.2.0"
__all__ = [
    "Detector",
    "Net",
    "Preparation",
    "__version__",
    "build_net",
    "import_module",
    "load_net",
    "register_schema",
]


def __getattr__(name: str) -> Any:
    if name in ("Net", "build_net", "load_net"):
        from pyscratchdet import runtime

        return getattr(runtime, name)
    if name == "import_module":
        from pyscratchdet.converters import imports

        return imports.import_module
    if name in ("Detector", "Preparation"):
        from pyscratchdet.detect import detector

        return getattr(detector, name)
    if name == "register_schema":
        from pyscratchdet.proto import schema

        return schema.register_schema
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
