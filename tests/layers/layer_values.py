"""Builds a case's layer and random values for it."""

from __future__ import annotations

import harness
import numpy as np
import torch
from google.protobuf import text_format
from layer_cases import Case

from pyscratchdet.layers.base import Layer
from pyscratchdet.proto import caffe_pb2


def build(case: Case, bottoms: tuple[tuple[int, ...], ...] | None = None) -> tuple[Layer, list[tuple[int, ...]]]:
    """Returns the layer, set up for the case's bottoms and reshaped to `bottoms`, and its top shapes."""
    param = text_format.Parse(case.text, caffe_pb2.LayerParameter(name="layer"))
    param.bottom.extend(f"bottom{i}" for i in range(len(case.bottoms)))
    param.top.extend(f"top{i}" for i in range(case.tops))
    layer, shapes = harness.build_layer(param, case.bottoms, caffe_pb2.TRAIN if case.train else caffe_pb2.TEST)
    return layer, shapes if bottoms is None else layer.reshape(bottoms)


def values(case: Case, layer: Layer, bottoms: tuple[tuple[int, ...], ...], dtype: torch.dtype = torch.float32):
    """Returns bottoms in the case's range, all values at least 1e-3 apart from kinks and each other, and blobs."""
    random = np.random.default_rng(7)
    tensors = []
    for shape in bottoms:
        grid = np.linspace(case.low, case.high, int(np.prod(shape)) + 1)[1:] + 0.0013
        array = random.permutation(grid).reshape(shape)
        tensors.append(torch.tensor(np.floor(array) if case.whole else array, dtype=dtype))
    blobs = [torch.tensor(random.uniform(0.5, 1.5, spec.shape), dtype=dtype) for spec in layer.blobs]
    return tensors, blobs
