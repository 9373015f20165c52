"""ROIPooling: the largest values of rectangles of a feature map (roi_pooling_layer.cpp and .cu of Fast R-CNN)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, exactly, register
from pyscratchdet.lazy import Tensor


@register("ROIPooling")
class ROIPooling(Layer):
    """Each region is divided into `pooled_h` x `pooled_w` cells, whose maximum is the top (Girshick 2015, section 2.1).

    Bottoms: features (N, C, H, W) and regions (R, 5), with rows image, xmin, ymin, xmax, ymax in pixels of the picture,
    which `spatial_scale` converts to pixels of the features. Top: (R, C, pooled_h, pooled_w). Corners are rounded to
    whole pixels of the feature map, halves away from zero, and belong to the region. Cells may overlap by one pixel and
    are cut at the map's border; an empty cell is 0. The gradient goes only to the features.
    """

    bottoms: ClassVar[Count] = exactly(2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({1})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.roi_pooling_param
        self.pooled = (param.pooled_h, param.pooled_w)
        self.scale = param.spatial_scale
        if min(self.pooled) < 1:
            raise self.fail("pooled_h and pooled_w must be positive", "pooled", found=self.pooled)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        features, regions = bottoms
        if len(features) != 4:
            raise self.fail("wrong number of axes", "rank", expected="4: N, C, H, W", found=features)
        if not regions or math.prod(regions[1:]) != 5:
            raise self.fail("regions must be rows of 5 numbers", "regions", expected="(R, 5)", found=regions)
        return [(regions[0], features[1], *self.pooled)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from torchvision.ops import roi_pool

        features, regions = bottoms[0], bottoms[1].detach().flatten(1)
        images = regions[:, 0].trunc()
        if not bool(((images >= 0) & (images < len(features))).all()):
            raise self.fail(
                "a region belongs to a picture that is not in the batch",
                "image",
                expected=f"0 to {len(features) - 1}",
                found=images.tolist(),
            )
        return [roi_pool(features, regions.to(features.dtype), self.pooled, self.scale)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return graph.node("MaxRoiPool", bottoms, pooled_shape=list(self.pooled), spatial_scale=self.scale)
