"""The three published versions of model_libs, as one named choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar


@dataclass(frozen=True)
class Fork:
    """In what the published versions of model_libs.py differ.

    Attributes:
        name: How to ask for it.
        writes_batchnorm: True where ConvBNLayer writes BatchNorm's eps (0.001), fraction and frozen blobs and Scale's
            fillers; False where it leaves Caffe's defaults (eps 1e-5).
        mbox_prefix: What CreateMultiBoxHead's four outputs are called by default, e.g. `mbox` for `mbox_loc`.
    """

    name: str
    writes_batchnorm: bool
    mbox_prefix: str


# weiliu89/caffe branch ssd, sfzhang15/RefineDet, KimSoybean/ScratchDet.
FORKS = {
    fork.name: fork
    for fork in (Fork("ssd", True, "mbox"), Fork("refinedet", False, ""), Fork("scratchdet", True, "mbox"))
}

FunctionType = TypeVar("FunctionType", bound=Callable[..., Any])

# Published name: the function; those that take a fork have it as their first argument.
PUBLISHED: dict[str, Callable[..., Any]] = {}


def published(function: FunctionType) -> FunctionType:
    """Decorator that offers a function under its name in `caffe.model_libs`."""
    PUBLISHED[function.__name__] = function
    return function
