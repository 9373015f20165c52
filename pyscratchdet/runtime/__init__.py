"""Running nets with PyTorch: a prototxt becomes an nn.Module."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from pyscratchdet.layers.plan import NetFile
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.weights import check_form, read_weights
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.runtime.layer_module import LayerModule
from pyscratchdet.runtime.net import Learnable, Net, build_net
from pyscratchdet.runtime.optimize import OptimizedNet
from pyscratchdet.runtime.weights import CopyReport, copy_weights, net_blobs, net_to_proto, save_weights, share_weights

__all__ = [
    "CopyReport",
    "LayerModule",
    "Learnable",
    "Net",
    "OptimizedNet",
    "build_net",
    "copy_weights",
    "load_net",
    "net_blobs",
    "net_to_proto",
    "save_weights",
    "share_weights",
]

_log = logging.getLogger(__name__)


def load_net(
    model: NetFile | caffe_pb2.NetParameter | str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    phase: int | str = "TEST",
    *,
    level: int = 0,
    stages: Sequence[str] = (),
    random: CaffeRandom | None = None,
    options: Mapping[str, object] | None = None,
    optimize: bool = False,
    writes: bool = False,
) -> Net:
    """Builds a net from a prototxt and fills it from a caffemodel.

    Layers that only one of them has are logged: INFO for layers that only the file has, WARNING for layers of the net
    that keep the values of their fillers.

    Args:
        model: Path of a prototxt, or a NetParameter.
        weights: A .caffemodel or .caffemodel.h5; None leaves the fillers' values.
        phase: "TRAIN" or "TEST".
        level: For `min_level` and `max_level` rules.
        stages: Added to the file's own.
        random: Stream that fillers, dropout and data layers draw from.
        options: Runtime choices for layers.
        optimize: Detection mode (`runtime.optimize`): faster, but gives only the output blobs of a TEST net.
        writes: Whether layers may write the files that the net names (HDF5Output, `save_output_param`).

    Raises:
        FileError, PrototxtError, NetError, LayerError, WeightsError: One of the files is missing or faulty.
    """
    if weights is not None and isinstance(model, (str, os.PathLike)):
        check_form(weights, model)
    blobs = {} if weights is None else read_weights(weights).blobs
    # Random draws for values that the file holds matter only to a caller that goes on using the stream.
    net = build_net(model, phase, level, stages, random, options, blobs if random is None else (), writes)
    if weights is not None:
        report = copy_weights(net, blobs, os.fspath(weights))
        if report.ignored or report.untouched:
            severity = logging.WARNING if report.untouched else logging.INFO
            _log.log(severity, "%s: %s", os.fspath(weights), report.summary())
    return OptimizedNet(net) if optimize else net
