"""The Python layers of py-faster-rcnn and py-R-FCN, by code of our own: their nets run without the user's modules.

    layer { name: "proposal" type: "Python" bottom: "rpn_cls_prob_reshape" bottom: "rpn_bbox_pred" bottom: "im_info"
            top: "rois" python_param { module: "rpn.proposal_layer" layer: "ProposalLayer"
                                       param_str: "'feat_stride': 16" } }

Their settings are in lib/fast_rcnn/config.py, not in the net: its defaults are taken. Where Python layers are allowed,
the user's own modules come first.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pyscratchdet.boxes.regions import best_regions, decode_on_map, pixel_overlaps, window_priors
from pyscratchdet.layers.python_layer import ArrayBlob, StandIn, stands_in_for
from pyscratchdet.proto import caffe_pb2

# __C.TRAIN and __C.TEST of lib/fast_rcnn/config.py, by phase.
_NUM_BEFORE_NMS = {caffe_pb2.TRAIN: 12000, caffe_pb2.TEST: 6000}
_NUM_AFTER_NMS = {caffe_pb2.TRAIN: 2000, caffe_pb2.TEST: 300}
_NMS_THRESHOLD, _MIN_SIZE = 0.7, 16
_IMAGE_SIZE = (600, 1000)  # TRAIN.SCALES and TRAIN.MAX_SIZE
_RATIOS, _SCALES, _BASE_SIZE = (0.5, 1, 2), (8, 16, 32), 16  # generate_anchors.py

_ENTRY = re.compile(r"""\s*(['"]?)(\w+)\1\s*:\s*(?:!!python/tuple\s*)?(.+?)\s*""")


class _RegionLayer(StandIn):
    """Base: `param_str` holds keys and values in YAML, one a line or all in braces.

    Attributes:
        keys: The keys that the layer reads.
    """

    keys: ClassVar[tuple[str, ...]] = ()

    def settings(self) -> dict[str, Any]:
        """Returns what `param_str` sets: numbers and lists of them.

        Raises:
            LayerError: It is not one key and value a line, or a key is not one of `keys`.
        """
        found = self._braced() if self.param_str.strip().startswith("{") else self._lines()
        for key in found:
            if key not in self.keys:
                raise self.fail("unknown key in param_str", "param-str", expected=", ".join(self.keys), found=key)
        return found

    def _braced(self) -> dict[str, Any]:
        try:
            found = ast.literal_eval(self.param_str.strip())
        except (ValueError, SyntaxError):
            found = None
        if not isinstance(found, dict):
            expected = "{'key': number or [numbers], ...}"
            raise self.fail("param_str is not read", "param-str", expected=expected, found=self.param_str)
        return found

    def _lines(self) -> dict[str, Any]:
        found = {}
        for line in filter(str.strip, self.param_str.splitlines()):
            entry = _ENTRY.fullmatch(line)
            try:
                value = ast.literal_eval(entry[3]) if entry else None
            except (ValueError, SyntaxError):
                value = None
            if entry is None or value is None:
                raise self.fail("param_str is not read", "param-str", expected="'key': number or [numbers]", found=line)
            found[entry[2]] = value
        return found

    def required(self, key: str) -> int:
        """Returns a whole number above 0 that `param_str` must hold."""
        value = self.settings().get(key)
        if not isinstance(value, int) or value < 1:
            raise self.fail(f"param_str needs {key}", "param-str", expected="a whole number above 0", found=value)
        return value

    def priors(self) -> np.ndarray:
        """Returns the priors of the first place of the feature map."""
        scales = self.settings().get("scales", _SCALES)
        if not isinstance(scales, list | tuple) or not scales or not all(_is_positive(scale) for scale in scales):
            raise self.fail("scales must be positive numbers", "param-str", expected="[8, 16, 32]", found=scales)
        return window_priors(_RATIOS, scales, _BASE_SIZE)


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")


@stands_in_for("rpn.proposal_layer", "ProposalLayer")
class ProposalLayer(_RegionLayer):
    """The best regions of a region proposal network (proposal_layer.py; Ren et al. 2015, section 3).

    Bottoms: probabilities (1, 2A, H, W), of which the second A are those of an object, codes (1, 4A, H, W) and the
    picture's height, width and scale (1, 3). Tops: R regions (R, 5) as image, xmin, ymin, xmax, ymax in pixels of the
    picture, image 0, and if asked for their probabilities (R, 1). Every prior is decoded, cut to the picture, and
    dropped if a side is below 16 pixels of the unscaled picture. Of the best 6,000 (in training 12,000) those stay that
    non-maximum suppression at 0.7 leaves, at most 300 (2,000). No gradient.
    """

    keys = ("feat_stride", "scales")

    def setup(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        self.stride, self.first = self.required("feat_stride"), self.priors()

    def reshape(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        number = len(self.first)
        height, width = bottom[0].shape[2:] if bottom and len(bottom[0].shape) == 4 else (0, 0)
        expected = [(1, 2 * number, height, width), (1, 4 * number, height, width)]
        shapes = [blob.shape for blob in bottom]
        has_one_info = len(bottom) == 3 and shapes[2][:1] == (1,) and bottom[2].count >= 3
        if not has_one_info or shapes[:2] != expected or len(top) not in (1, 2):
            raise self.fail(
                "takes probabilities, codes and im_info of one picture, and gives regions and perhaps scores",
                "bottoms",
                expected=f"(1, {2 * number}, H, W), (1, {4 * number}, H, W), (1, 3)",
                found=shapes,
            )
        top[0].reshape(1, 5)
        if len(top) > 1:
            top[1].reshape(1, 1, 1, 1)

    def forward(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        height, width, scale = bottom[2].data.reshape(-1)[:3]
        scores = bottom[0].data[0, len(self.first) :].transpose(1, 2, 0).reshape(-1)
        boxes = decode_on_map(self.first, self.stride, bottom[1].data[0], (height, width))
        is_large = (boxes[:, 2:] - boxes[:, :2] + np.float32(1) >= _MIN_SIZE * scale).all(1)
        boxes, scores = boxes[is_large], scores[is_large]
        limits = (_NUM_BEFORE_NMS[self.phase], _NUM_AFTER_NMS[self.phase])
        kept = best_regions(boxes, scores, lambda a, b: pixel_overlaps(a, b) > np.float32(_NMS_THRESHOLD), *limits)
        top[0].reshape(len(kept), 5)
        top[0].data[:, 0], top[0].data[:, 1:] = 0, boxes[kept]
        if len(top) > 1:
            top[1].reshape(len(kept), 1)
            top[1].data[:, 0] = scores[kept]

    def backward(self, top: Sequence[ArrayBlob], propagate_down: Sequence[bool], bottom: Sequence[ArrayBlob]) -> None:
        """Passes no gradient on, as the original."""


@stands_in_for("rpn.anchor_target_layer", "AnchorTargetLayer")
class AnchorTargetLayer(_RegionLayer):
    """Labels (1, 1, A * H, W), targets and two weights (1, 4A, H, W) of the priors: shapes (anchor_target_layer.py)."""

    keys = ("feat_stride", "scales", "allowed_border")
    only_shapes = "its values depend on the settings of a training"

    def setup(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        self.number = len(self.priors())
        self.required("feat_stride")

    def reshape(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        if not bottom or len(bottom[0].shape) != 4 or len(top) != 4:
            raise self.fail("needs scores and 4 tops", "bottoms", expected="(1, 2A, H, W)", found=len(top))
        height, width = bottom[0].shape[2:]
        top[0].reshape(1, 1, self.number * height, width)
        for blob in top[1:]:
            blob.reshape(1, 4 * self.number, height, width)


@stands_in_for("rpn.proposal_target_layer", "ProposalTargetLayer")
class ProposalTargetLayer(_RegionLayer):
    """Sampled regions (1, 5, 1, 1), labels (1, 1, 1, 1), targets and two weights (1, 4 * num_classes, 1, 1): shapes.

    The number of rows in a pass is another (proposal_target_layer.py). The axes are py-R-FCN's; py-faster-rcnn leaves
    out the last two.
    """

    keys = ("num_classes",)
    only_shapes = "its values depend on the settings of a training"

    def reshape(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        _shape_targets(self, top)


@stands_in_for("roi_data_layer.layer", "RoIDataLayer")
class RoIDataLayer(_RegionLayer):
    """Pictures with their boxes, or with regions and targets: shapes before the first pass (roi_data_layer/layer.py).

    With a top `im_info` it feeds a region proposal network: a picture (1, 3, 600, 1000), im_info (1, 3), boxes (1, 4).
    Otherwise 2 pictures, and what ProposalTargetLayer gives: regions, labels and, with 5 or 6 tops, targets with one or
    two weights (Fast R-CNN, and its first version).
    """

    keys = ("num_classes",)
    only_shapes = "its pictures come from tools/train_net.py"

    def reshape(self, bottom: Sequence[ArrayBlob], top: Sequence[ArrayBlob]) -> None:
        has_regions = "im_info" not in self.param.top
        top[0].reshape(2 if has_regions else 1, 3, *_IMAGE_SIZE)
        if has_regions:
            _shape_targets(self, top[1:])
        elif len(top) == 3:
            top[1].reshape(1, 3)
            top[2].reshape(1, 4)
        else:
            raise self.fail("wrong number of tops", "tops", expected="data, im_info, gt_boxes", found=len(top))


def _shape_targets(layer: _RegionLayer, top: Sequence[ArrayBlob]) -> None:
    num_classes = layer.required("num_classes")
    if len(top) not in (2, 4, 5):
        raise layer.fail("wrong number of tops", "tops", expected="regions, labels, targets, weights", found=len(top))
    for blob, columns in zip(top, (5, 1, *[4 * num_classes] * 3), strict=False):
        blob.reshape(1, columns, 1, 1)
