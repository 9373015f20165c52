"""torchvision's SSDs as whole Caffe SSDs: priors, decoding and suppression as layers.

torchvision's SSD takes pictures of any size, resizes and normalises them (`GeneralizedRCNNTransform`), and chooses
boxes in Python code. The net that is written takes what its transform resizes to, as Caffe's tools make it: blue first,
0 to 255, no mean subtracted. Its first layer, a Convolution, exchanges the channels and normalises.

- Each feature map has a PriorBox where that gives torchvision's anchors to float32's rounding. Where it cannot
  (torchvision clips an anchor's width and height to the picture's, Caffe knows no such rule), a Scale behind it
  replaces all its values: its factors are 0, its biases the anchors.
- The box coder's weights (10, 10, 5, 5) are the variances 0.1, 0.1, 0.2, 0.2.
- torchvision's candidates per class are DetectionOutput's top_k, its detections per picture keep_top_k. Boxes are
  clipped before suppression: `clip`, which OpenCV 4 and this runtime know and SSD's own Caffe does not.
- F.normalize and its scale are a Normalize layer (eps 1e-10 under the root, where torchvision has at least 1e-12).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG

from pyscratchdet.caffe.net_spec import assign_proto
from pyscratchdet.converters.build import NetBuilder
from pyscratchdet.converters.given_priors import FROZEN, add_priors
from pyscratchdet.converters.torch_import import import_module
from pyscratchdet.errors import ConversionError
from pyscratchdet.layers.base import Context
from pyscratchdet.layers.prior_box import PriorBox
from pyscratchdet.proto import caffe_pb2

# In pictures' widths: torchvision computes corners in pixels, Caffe in pictures' widths, both in float32.
_ANCHOR_ROUNDING = 5e-7
_PREPARE, _NORMALIZE = "prepare", "conv4_3_norm"


def import_ssd(
    module: SSD, name: str = "ssd", batch: int = 1, layers: str | None = None
) -> tuple[NetBuilder, list[str]]:
    """Returns the whole net of a torchvision SSD, in evaluation mode, and what its user must know, in sentences.

    Args:
        module: `ssd300_vgg16`, `ssdlite320_mobilenet_v3_large`, or an SSD with another backbone.
        name: The net's name.
        batch: The batch size that the prototxt says; it stays open.
        layers: The Caffe whose layers may be used; see `import_module`.

    Raises:
        ConversionError: The module has no fixed size, or an operation has no exact Caffe layer.
    """
    module = module.eval()
    if module.transform.fixed_size is None:
        raise ConversionError("an SSD without a fixed size of its pictures", code="import.detector")
    width, height = module.transform.fixed_size
    net = import_module(_Predictions(module), (batch, 3, height, width), name, layers=layers)
    _freeze(net, _PREPARE)
    if isinstance(module.backbone, SSDFeatureExtractorVGG):
        _replace_stand_in(net)
    _shrink_kernels(net)
    blobs = list(net.outputs.values())
    levels = len(blobs) // 2
    tops = {
        kind: [_flat_rows(net, f"mbox_{kind}_{k}", blob) for k, blob in enumerate(part)]
        for kind, part in (("loc", blobs[:levels]), ("conf", blobs[levels:]))
    }
    loc, conf = (net.add("Concat", f"mbox_{kind}", tops[kind], concat_param={"axis": 1})[0] for kind in tops)
    priors, constants = _priors(net, module, blobs[:levels], (height, width))
    scores = _scores(net, conf, module.head.classification_head.num_columns)
    (detections,) = net.add(
        "DetectionOutput", "detection_out", [loc, scores, priors], detection_output_param=_rule(module)
    )
    net.outputs = {"detections": detections}
    notes = [
        f"the net takes pictures of {height} x {width} as they are read: blue first, 0 to 255, no mean "
        "(`detect --mean 0,0,0`); its first layer normalises them",
        "boxes are clipped before suppression (`clip`), which OpenCV 4 knows and SSD's own Caffe does not",
        "torchvision enlarges a prior at most 62.5 times; Caffe's decoding has no such limit",
    ]
    if constants:
        notes.append(f"priors that PriorBox cannot express, written as a Scale's constants: {', '.join(constants)}")
    return net, notes


class _Predictions(nn.Module):
    """What an SSD computes before it chooses boxes: (N, A * 4, H, W) of each level, then (N, A * classes, H, W)."""

    def __init__(self, module: SSD) -> None:
        super().__init__()
        self.prepare = _preparation(module)
        self.backbone, self.head = module.backbone, module.head
        if isinstance(module.backbone, SSDFeatureExtractorVGG):
            self.conv4_3_norm = _stand_in(module.backbone.scale_weight)

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        features = self._features(self.prepare(pictures))
        heads = (self.head.regression_head.module_list, self.head.classification_head.module_list)
        return [part(feature) for head in heads for part, feature in zip(head, features, strict=True)]

    def _features(self, x: torch.Tensor) -> list[torch.Tensor]:
        if not isinstance(self.backbone, SSDFeatureExtractorVGG):
            features = self.backbone(x)
            return [features] if isinstance(features, torch.Tensor) else list(features.values())
        x = self.backbone.features(x)
        found = [self.conv4_3_norm(x)]
        for block in self.backbone.extra:
            x = block(x)
            found.append(x)
        return found


def _preparation(module: SSD) -> nn.Conv2d:
    """Returns a convolution that makes what the transform makes of a picture, from BGR up to 255."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in _statistics(module))
    layer = nn.Conv2d(len(mean), len(mean), 1)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(1 / (255 * std)).flip(1)[:, :, None, None])
        layer.bias.copy_(-mean / std)  # type: ignore[union-attr]
    return layer


def _statistics(module: SSD) -> tuple[list[float], list[float]]:
    return list(module.transform.image_mean), list(module.transform.image_std)


def _stand_in(scale: torch.Tensor) -> nn.BatchNorm2d:
    """Returns a layer that survives the export in one piece, in the place of F.normalize and its scale."""
    layer = nn.BatchNorm2d(len(scale))
    with torch.no_grad():
        layer.weight.copy_(scale)
    return layer


def _replace_stand_in(net: NetBuilder) -> None:
    """Puts a Normalize where `_stand_in` stands."""
    place = [layer.name for layer in net.param.layer].index(_NORMALIZE)
    layer, scale = net.param.layer[place : place + 2]
    weight = net.blobs.pop(scale.name)[0]
    net.blobs[layer.name] = [weight]
    bottom, top = layer.bottom[0], scale.top[0]
    layer.Clear()
    layer.MergeFrom(caffe_pb2.LayerParameter(name=_NORMALIZE, type="Normalize", bottom=[bottom], top=[top]))
    layer.norm_param.across_spatial = layer.norm_param.channel_shared = False
    del net.param.layer[place + 1]


def _shrink_kernels(net: NetBuilder) -> None:
    """Leaves out what a padded 3x3 window never reads on a map of one pixel, where OpenCV 4 goes wrong with it."""
    for layer in net.param.layer:
        window = layer.convolution_param
        if layer.type != "Convolution" or net.shapes[layer.bottom[0]][2:] != (1, 1):
            continue
        if (list(window.kernel_size), list(window.pad)) == ([3], [1]):
            window.kernel_size[:], window.pad[:] = [1], [0]
            weight, *bias = net.blobs[layer.name]
            net.blobs[layer.name] = [np.ascontiguousarray(weight[:, :, 1:2, 1:2]), *bias]


def _freeze(net: NetBuilder, name: str) -> None:
    layer = next(layer for layer in net.param.layer if layer.name == name)
    del layer.param[:]
    for values in FROZEN:
        layer.param.add(**values)


def _flat_rows(net: NetBuilder, name: str, blob: str) -> str:
    """Brings (N, A * values, H, W) into the order of priors, (N, H * W * A * values)."""
    (top,) = net.add("Permute", f"{name}_perm", [blob], permute_param={"order": [0, 2, 3, 1]})
    return net.add("Flatten", f"{name}_flat", [top], flatten_param={"axis": 1})[0]


def _scores(net: NetBuilder, conf: str, num_classes: int) -> str:
    (top,) = net.add("Reshape", f"{conf}_reshape", [conf], reshape_param={"shape": {"dim": [0, -1, num_classes]}})
    (top,) = net.add("Softmax", f"{conf}_softmax", [top], softmax_param={"axis": 2})
    return net.add("Flatten", f"{conf}_flatten", [top], flatten_param={"axis": 1})[0]


def _rule(module: SSD) -> dict[str, object]:
    """Returns DetectionOutput's parameters; OpenCV wants those of Caffe's defaults too."""
    return {
        "num_classes": module.head.classification_head.num_columns,
        "share_location": True,
        "background_label_id": 0,
        "nms_param": {"nms_threshold": module.nms_thresh, "top_k": module.topk_candidates},
        "code_type": caffe_pb2.PriorBoxParameter.CENTER_SIZE,
        "keep_top_k": module.detections_per_img,
        "confidence_threshold": module.score_thresh,
        "clip": True,
    }


# --- priors ---


def _priors(net: NetBuilder, module: SSD, maps: list[str], size: tuple[int, int]) -> tuple[str, list[str]]:
    """Adds the priors of all levels; returns their blob and the layers whose values are constants.

    Args:
        net: The net.
        module: The source.
        maps: A blob of the size of each level's feature map.
        size: Height and width of the pictures.
    """
    shapes = [net.shapes[blob] for blob in maps]
    anchors = _anchors(module, [shape[2:] for shape in shapes], size)  # type: ignore[misc]
    variances = [1 / weight for weight in module.box_coder.weights]
    tops, constants = [], []
    for k, (blob, boxes) in enumerate(zip(maps, anchors, strict=True)):
        name, param = f"mbox_priorbox_{k}", {**_prior_box(module, k), "variance": variances, "clip": False}
        made = _boxes(param, [shapes[k], net.shapes[net.inputs[0]]])
        if made.shape == boxes.shape and np.abs(made - boxes).max() <= _ANCHOR_ROUNDING:
            tops += net.add("PriorBox", name, [blob, net.inputs[0]], prior_box_param=param)
        else:
            constants.append(add_priors(net, name, [blob], boxes, np.array(variances)))
            tops.append(constants[-1])
    return net.add("Concat", "mbox_priorbox", tops, concat_param={"axis": 2})[0], constants


def _anchors(module: SSD, grids: list[tuple[int, int]], size: tuple[int, int]) -> list[np.ndarray]:
    """Returns each level's anchors in pictures' widths, (H * W * A, 4) float32."""
    pictures = ImageList(torch.zeros(1, 3, *size), [size])
    (boxes,) = module.anchor_generator(pictures, [torch.zeros(1, 1, *grid) for grid in grids])
    numbers = [
        math.prod(grid) * each
        for grid, each in zip(grids, module.anchor_generator.num_anchors_per_location(), strict=True)
    ]
    height, width = size
    scaled = boxes.double() / torch.tensor([width, height, width, height])
    return [part.float().numpy() for part in scaled.split(numbers)]


def _prior_box(module: SSD, level: int) -> dict[str, object]:
    """Returns what a PriorBox needs to know of a level of torchvision's DefaultBoxGenerator."""
    made = module.anchor_generator
    side = min(module.transform.fixed_size)
    values: dict[str, object] = {
        "min_size": round(made.scales[level] * side, 4),
        "max_size": round(made.scales[level + 1] * side, 4),
        "aspect_ratio": list(made.aspect_ratios[level]),
        "flip": True,
        "offset": 0.5,
    }
    if made.steps is not None:
        values["step"] = made.steps[level]
    return values


def _boxes(param: dict[str, object], bottoms: list[tuple[int, ...]]) -> np.ndarray:
    """Returns the boxes that a PriorBox gives for bottoms of these shapes, (P, 4)."""
    layer = caffe_pb2.LayerParameter(name="priors", type="PriorBox")
    assign_proto(layer, "prior_box_param", param)
    made = PriorBox(layer, Context())
    made.setup(bottoms)
    boxes: np.ndarray = made.priors(bottoms)[0, 0].reshape(-1, 4)
    return boxes
