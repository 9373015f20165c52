"""A picture through a net, as a page shows it: the detections on it, and the maps of every blob as thumbnails."""

from __future__ import annotations

import base64
import math
from typing import Any

import cv2
import numpy as np
import torch

from pyscratchdet.data.images import encode
from pyscratchdet.detect.detector import Preparation
from pyscratchdet.detect.engine import picture_input
from pyscratchdet.detect.media import read_picture
from pyscratchdet.errors import printable
from pyscratchdet.layers.plan import NetFile
from pyscratchdet.runtime import Net, load_net

Json = dict[str, Any]

MOST_MAPS = 36  # of each blob: those that vary most
_COLUMNS = 6
_CELL = (24, 48)  # the least and the largest side of a thumbnail
_SIDE = 640  # of the picture
_LEAST_SCORE = 0.3
_MOST_ROWS = 200


def picture_data(image: np.ndarray) -> Json:
    """Returns a picture, (h, w, 3) with blue first, as the page holds it."""
    factor = min(1.0, _SIDE / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else image
    return {"source": _url(small, "jpg"), "width": small.shape[1], "height": small.shape[0]}


def feature_facts(file: NetFile, weights: str | None, path: str, preparation: Preparation) -> Json:
    """Runs a net on a picture and returns what a page shows of it.

    Args:
        file: The net; it has one input, for pictures.
        weights: A .caffemodel; None for the fillers' values.
        path: The picture.
        preparation: Mean, scale and channel order.

    Returns:
        `picture`, `maps` {blob: its figures and thumbnails}, and `detections`: rows of label, score and corners as
        parts of the picture.

    Raises:
        NetError: The net does not take a picture.
        FileError, DataError, WeightsError: The picture or the weights are missing or damaged.
    """
    net = load_net(file, weights)
    name, channels, size = picture_input(net)
    image = read_picture(path)
    array = preparation(image, channels, *size)
    with torch.inference_mode():
        blobs = net.forward_blobs({name: np.repeat(array[None], net.blob_shapes[name][0], axis=0)})
    maps = {printable(key): blob_maps(value[:1].numpy()) for key, value in blobs.items() if value.dim() == 4}
    return {
        "picture": picture_data(image),
        "maps": {key: value for key, value in maps.items() if value is not None},
        "detections": _detections(net, {key: value.numpy() for key, value in blobs.items()}),
        "weights": weights is not None,
    }


def blob_maps(blob: np.ndarray) -> Json | None:
    """Returns the channels of a blob (1, C, H, W) that vary most, as one picture of thumbnails.

    Each channel has its own colours, from its least value (dark) to its largest (light).

    Returns:
        `shape`, `low`, `high` and `mean` of all values, `notFinite`: how many are none, `still`: how many channels have
        the same value everywhere, `channels`: the indices shown, `cell` and `columns` of the picture, `source`; None
        where there is no map.
    """
    is_finite = np.isfinite(blob[0])
    # In float64, where sums and differences of float32 values are finite; an infinity counts as the largest float32.
    maps = np.nan_to_num(blob[0]).astype(np.float64)
    if maps.shape[0] == 0 or maps.shape[1] * maps.shape[2] < 2:
        return None
    spread = maps.std(axis=(1, 2))
    chosen = np.sort(np.argsort(-spread, kind="stable")[:MOST_MAPS])
    height, width = _cell(maps.shape[1:])
    columns = min(_COLUMNS, len(chosen))
    sheet = np.zeros((math.ceil(len(chosen) / columns) * height, columns * width), np.uint8)
    for number, channel in enumerate(chosen):
        row, column = divmod(number, columns)
        place = (slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
        sheet[place] = _thumbnail(maps[channel], height, width)
    return {
        "shape": list(maps.shape),
        "low": float(maps.min()),
        "high": float(maps.max()),
        "mean": float(maps.mean()),
        "notFinite": int((~is_finite).sum()),
        "still": int((np.ptp(maps, axis=(1, 2)) == 0).sum()),
        "channels": chosen.tolist(),
        "cell": [height, width],
        "columns": columns,
        "source": _url(cv2.applyColorMap(sheet, cv2.COLORMAP_VIRIDIS), "webp"),
    }


def _cell(size: tuple[int, ...]) -> tuple[int, int]:
    """Returns the size of the thumbnails of maps: as they are, if their longer side is neither small nor large."""
    longer = max(size)
    factor = min(max(longer, _CELL[0]), _CELL[1]) / longer
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _thumbnail(values: np.ndarray, height: int, width: int) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    gray = ((values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)).astype(np.uint8)
    enlarges = height > values.shape[0] or width > values.shape[1]
    return cv2.resize(gray, (width, height), interpolation=cv2.INTER_NEAREST if enlarges else cv2.INTER_AREA)


def _detections(net: Net, blobs: dict[str, np.ndarray]) -> list[list[float]]:
    rows = [np.zeros((0, 7), np.float32)]
    for index in net.plan.detection_layers:
        top = net.plan.graph.blob_names[net.plan.graph.nodes[index].tops[0]]
        rows.append(blobs[top].reshape(-1, 7))
    found = np.concatenate(rows)
    found = found[(found[:, 0] == 0) & (found[:, 2] >= _LEAST_SCORE) & np.isfinite(found).all(1)]
    found = found[np.argsort(-found[:, 2], kind="stable")[:_MOST_ROWS]]
    return [[int(row[1]), *(round(float(value), 4) for value in row[2:])] for row in found]


def _url(image: np.ndarray, kind: str) -> str:
    data = base64.b64encode(encode(image, kind)).decode()
    return f"data:image/{'jpeg' if kind == 'jpg' else kind};base64,{data}"
