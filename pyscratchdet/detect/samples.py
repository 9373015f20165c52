"""A page of training pictures with their boxes, as a net's data layer delivers them, to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np

from pyscratchdet.data.loader import BatchLoader
from pyscratchdet.detect.draw import draw_detections
from pyscratchdet.detect.tables import ImageDetections
from pyscratchdet.errors import UsageError
from pyscratchdet.net.rules import is_included
from pyscratchdet.proto import caffe_pb2

_SIDE = 320
_GAP = 6


def sample_page(
    net: caffe_pb2.NetParameter, database: str, count: int, names: Mapping[int, str], seed: int = 0
) -> np.ndarray:
    """Returns a page (height, width, 3) uint8 BGR of augmented samples, row by row.

    Args:
        net: A net with an AnnotatedData layer in its training phase.
        database: The database to read instead of that layer's own.
        count: Number of samples.
        names: {label: class name}.
        seed: Seed of all random choices.

    Raises:
        UsageError: The net has no such layer, or its pictures come out in different sizes.
        DataError: The database cannot be read.
    """
    if count < 1:
        raise UsageError("nothing to draw", code="usage.count", expected="a count of at least 1", found=count)
    param = caffe_pb2.LayerParameter()
    param.CopyFrom(_data_layer(net))
    param.data_param.source, param.data_param.batch_size = database, count
    pictures, label, _ = BatchLoader(param, seed=seed, workers=0).next()
    height, width = pictures.shape[1:3]
    tiles = []
    for item, picture in enumerate(pictures):
        rows = label[0, 0][label[0, 0, :, 0] == item]
        boxes = rows[:, 3:7] * np.array([width, height, width, height], np.float32)
        found = ImageDetections(rows[:, 1].astype(int), np.ones(len(rows), np.float32), boxes)
        drawn = draw_detections(picture if picture.shape[2] == 3 else picture[..., 0], found, names)
        tiles.append(_framed(drawn))
    columns = math.ceil(math.sqrt(count))
    tiles += [np.full_like(tiles[0], 255)] * (-count % columns)
    return np.vstack([np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)])


def _data_layer(net: caffe_pb2.NetParameter) -> caffe_pb2.LayerParameter:
    state = caffe_pb2.NetState(phase=caffe_pb2.TRAIN)
    for layer in net.layer:
        if layer.type == "AnnotatedData" and is_included(state, layer):
            return layer
    raise UsageError("the net has no AnnotatedData layer for training", code="usage.model", hint="give train.prototxt")


def _framed(picture: np.ndarray) -> np.ndarray:
    """Returns a picture on a white square of fixed size."""
    scale = (_SIDE - _GAP) / max(picture.shape[:2])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:_SIDE, :_SIDE]
    tile = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
    top, left = ((_SIDE - side) // 2 for side in small.shape[:2])
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    return tile
