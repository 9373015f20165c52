"""`caffe.model_libs`: the bodies and heads of SSD, RefineDet and ScratchDet under their published names.

Three versions were published and differ in detail; `of("refinedet")` gives one, and the module itself is the one that
`use_fork` chose last (at first: ssd). `from caffe.model_libs import *` brings what it brings in Caffe: the functions,
and the names os, caffe, L, P and caffe_pb2 that scripts rely on.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from types import SimpleNamespace
from typing import Any

from pyscratchdet.caffe.model_libs import blocks, heads, inception, resnet, rootresnet, vgg  # noqa: F401
from pyscratchdet.caffe.model_libs.fork import FORKS, PUBLISHED
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.caffe.net_spec import params as P
from pyscratchdet.errors import UsageError, nearest
from pyscratchdet.proto import caffe_pb2

__all__ = [*sorted(PUBLISHED), "L", "P", "caffe", "caffe_pb2", "os"]
caffe = sys.modules["pyscratchdet.caffe"]


@functools.cache
def of(fork: str) -> SimpleNamespace:
    """Returns the functions of one published version: "ssd", "refinedet" or "scratchdet".

    Raises:
        UsageError: No such version.
    """
    if fork not in FORKS:
        hint = nearest(fork, FORKS) or f"one of {', '.join(FORKS)}"
        raise UsageError(f'no published version called "{fork}"', code="model_libs.fork", hint=hint)
    chosen = FORKS[fork]
    return SimpleNamespace(
        **{
            name: functools.partial(function, chosen) if "fork" in inspect.signature(function).parameters else function
            for name, function in PUBLISHED.items()
        }
    )


def use_fork(fork: str) -> None:
    """Makes one published version the module's own functions."""
    globals().update(vars(of(fork)))


def __getattr__(name: str) -> Any:
    # Until use_fork is called.
    if name in PUBLISHED:
        return getattr(of("ssd"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
