"""Helpers of the detection layers' tests: recorded cases, and layers from a few lines of prototxt."""

from pathlib import Path

import numpy as np
import torch

from pyscratchdet.layers.base import Context, layer_class
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse

FOLDER = Path(__file__).parent / "recorded_detection"


def recorded(layer_type):
    """Names of the cases that the original was recorded with."""
    return sorted(path.stem for path in FOLDER.glob(f"{layer_type}-*.prototxt"))


def load(name):
    """Returns the layer of a recorded case, its bottoms (the first two of a loss want gradients) and the recording."""
    net = parse((FOLDER / f"{name}.prototxt").read_text(), caffe_pb2.NetParameter)
    record = dict(np.load(FOLDER / f"{name}.npz"))
    param = net.layer[-1]
    bottoms = []
    for index in range(len(param.bottom)):
        key = f"in:b{index}" if f"in:b{index}" in record else f"in:x{index}"
        bottoms.append(torch.from_numpy(record[key]).requires_grad_(key.startswith("in:x")))
    return layer_class(param.type)(param, Context()), bottoms, record


def run(layer, bottoms):
    """Sets a layer up, and returns its tops' shapes at set-up and the tops."""
    shapes = [tuple(bottom.shape) for bottom in bottoms]
    layer.setup(shapes)
    return layer.reshape(shapes), layer.forward(bottoms, [])


def make(text, root="."):
    """Returns the layer that `text` (the inside of a layer message) describes."""
    param = parse(f'name: "layer" {text}', caffe_pb2.LayerParameter)
    return layer_class(param.type)(param, Context(root=str(root), writes=True))


def prior_blob(boxes, variances=(0.1, 0.1, 0.2, 0.2)):
    """Returns boxes (P, 4) as the top of a PriorBox."""
    boxes = np.asarray(boxes, np.float32)
    return torch.from_numpy(
        np.stack([boxes.reshape(-1), np.broadcast_to(np.float32(variances), boxes.shape).reshape(-1)])[None]
    )
