"""ROIPooling and its kin: values of rectangles of a feature map, as many for each, whatever their size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, exactly, register
from pyscratchdet.lazy import F, Tensor, torch


class RegionPooling(Layer):
    """Base: features (N, C, H, W) and regions (R, 5), with rows image, xmin, ymin, xmax, ymax in pixels of the picture.

    The gradient goes only to the features.
    """

    bottoms: ClassVar[Count] = exactly(2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({1})

    def num_regions(self, bottoms: Sequence[Shape]) -> int:
        """Returns R.

        Raises:
            LayerError: The bottoms' shapes do not fit.
        """
        features, regions = bottoms
        if len(features) != 4:
            raise self.fail("wrong number of axes", "rank", expected="4: N, C, H, W", found=features)
        if not regions or math.prod(regions[1:]) != 5:
            raise self.fail("regions must be rows of 5 numbers", "regions", expected="(R, 5)", found=regions)
        return regions[0]

    def regions(self, bottoms: Sequence[Tensor]) -> Tensor:
        """Returns the regions (R, 5) in the features' type.

        Raises:
            LayerError: A region belongs to a picture that is not there, or a corner is not a finite number.
        """
        regions = bottoms[1].detach().flatten(1)
        if not bool(regions[:, 1:].isfinite().all()):
            raise self.fail(
                "a region's corners are not finite", "regions", expected="finite numbers", found="NaN or inf"
            )
        images = regions[:, 0].trunc()
        if not bool(((images >= 0) & (images < len(bottoms[0]))).all()):
            raise self.fail(
                "a region belongs to a picture that is not in the batch",
                "image",
                expected=f"0 to {len(bottoms[0]) - 1}",
                found=images.tolist(),
            )
        return regions.to(bottoms[0].dtype)


class _PooledRegions(RegionPooling):
    """Base of the types with a `roi_pooling_param`.

    With Cascade R-CNN's `pad_ratio` p, a region first grows on each side by p times its width (xmax - xmin + 1) or
    height.
    """

    fork_fields: ClassVar[frozenset[str]] = frozenset({"roi_pooling_param.pad_ratio"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.roi_pooling_param
        self.pooled = (param.pooled_h, param.pooled_w)
        self.scale = param.spatial_scale
        self.pad_ratio = param.pad_ratio
        if min(self.pooled) < 1:
            raise self.fail("pooled_h and pooled_w must be positive", "pooled", found=self.pooled)

    def regions(self, bottoms: Sequence[Tensor]) -> Tensor:
        """Returns the regions, padded."""
        regions = super().regions(bottoms)
        if not self.pad_ratio:
            return regions
        images, low, high = regions.split((1, 2, 2), 1)
        pad = (high - low + 1) * self.pad_ratio
        return torch.cat([images, low - pad, high + pad], 1)


@register("ROIPooling")
class ROIPooling(_PooledRegions):
    """Each region is divided into `pooled_h` x `pooled_w` cells, whose maximum is the top (Girshick 2015, section 2.1).

    Top: (R, C, pooled_h, pooled_w). `spatial_scale` converts regions to pixels of the features. Corners are rounded to
    whole pixels of the feature map, halves away from zero, and belong to the region. Cells may overlap by one pixel and
    are cut at the map's border; an empty cell is 0. Source: roi_pooling_layer.cpp and .cu of Fast R-CNN; `pad_ratio`:
    those of Cascade R-CNN.
    """

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(self.num_regions(bottoms), bottoms[0][1], *self.pooled)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from torchvision.ops import roi_pool

        return [roi_pool(bottoms[0], self.regions(bottoms), self.pooled, self.scale)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        features, regions = bottoms
        if self.pad_ratio:
            parts = graph.constant(np.array([1, 2, 2], np.int64), "region_parts")
            images, low, high = graph.node("Split", [regions, parts], 3, axis=1)
            one = graph.constant(np.array(1, np.float32), "one")
            ratio = graph.constant(np.array(self.pad_ratio, np.float32), f"{self.name}_pad_ratio")
            (sizes,) = graph.node("Add", [*graph.node("Sub", [high, low]), one])
            (pad,) = graph.node("Mul", [sizes, ratio])
            ends = [*graph.node("Sub", [low, pad]), *graph.node("Add", [high, pad])]
            (regions,) = graph.node("Concat", [images, *ends], axis=1)
        return graph.node("MaxRoiPool", [features, regions], pooled_shape=list(self.pooled), spatial_scale=self.scale)


@register("ROIAlign")
class ROIAlign(_PooledRegions):
    """Bilinear values at the corners of a region's `pooled_h` x `pooled_w` cells (roi_align_layer.cpp, Cascade R-CNN).

    Top: (R, C, pooled_h + 1, pooled_w + 1); nets average them 2 by 2 with a Pooling of stride 1. A pixel's value is
    that of its centre, so that places are 0.5 less than in the picture scaled by `spatial_scale`. Corners of a region
    without an area, and those more than half a pixel beside the map, are 0. Unlike torchvision's roi_align, which
    samples inside the cells.
    """

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(self.num_regions(bottoms), bottoms[0][1], self.pooled[0] + 1, self.pooled[1] + 1)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        features, regions = bottoms[0], self.regions(bottoms)
        images = regions[:, 0].long()[:, None, None]
        low, high = regions[:, 1:3] * self.scale - 0.5, regions[:, 3:] * self.scale - 0.5
        sizes = high - low
        height, width = features.shape[2:]
        top, bottom, down, has_rows = _places(low[:, 1], sizes[:, 1], self.pooled[0], height)
        left, right, across, has_columns = _places(low[:, 0], sizes[:, 0], self.pooled[1], width)

        def values(rows: Tensor, columns: Tensor) -> Tensor:
            return features[images, :, rows[:, :, None], columns[:, None]]  # R, rows, columns, C

        down, across = down[:, :, None, None], across[:, None, :, None]
        upper = values(top, left) * (1 - across) + values(top, right) * across
        lower = values(bottom, left) * (1 - across) + values(bottom, right) * across
        is_inside = has_rows[:, :, None] & has_columns[:, None] & (sizes > 0).all(1)[:, None, None]
        blended = upper * (1 - down) + lower * down
        return [torch.where(is_inside[..., None], blended, 0).permute(0, 3, 1, 2)]


def _places(start: Tensor, length: Tensor, num_cells: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns, for the ends of cells along one axis, (R, num_cells + 1) each: pixel, next, its weight, if inside.

    Args:
        start: (R,) where the first cell begins.
        length: (R,) of all cells together.
        num_cells: How many cells.
        size: Pixels of the map along this axis.
    """
    places = start[:, None] + torch.arange(num_cells + 1, device=start.device) * (length / num_cells)[:, None]
    is_inside = (places >= -0.5) & (places <= size - 0.5)
    places = torch.where(is_inside, places, 0)
    first = places.floor().clamp(0, size - 1)
    second = (places.floor() + 1).clamp(0, size - 1)
    return first.long(), second.long(), places.clamp(0, size - 1) - first, is_inside


@register("PSROIPooling")
class PSROIPooling(RegionPooling):
    """Averages of a region's cells, each over channels of its own (Dai et al. 2016, R-FCN, section 3.2, equation 1).

    Features: (N, output_dim * k * k, H, W) with k = `group_size`. Top: (R, output_dim, k, k): cell (i, j) of channel c
    is the average of channel (c * k + i) * k + j over the cell; an empty cell is 0. Corners are rounded to whole pixels
    of the picture, halves away from zero, and belong to the region, which is then scaled and at least 0.1 pixels of the
    features wide and high. Cells reach to whole pixels of the map and are cut at its border. Unlike torchvision's
    ps_roi_pool, which rounds after scaling and leaves out the last pixel. Sums are in double precision. Source:
    psroi_pooling_layer.cu.
    """

    fork_fields: ClassVar[frozenset[str]] = frozenset({"psroi_pooling_param"})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.psroi_pooling_param
        self.size, self.num_channels, self.scale = param.group_size, param.output_dim, param.spatial_scale
        if min(self.size, self.num_channels) < 1:
            found = (self.size, self.num_channels)
            raise self.fail("group_size and output_dim must be positive", "pooled", expected="> 0", found=found)
        if not 0 < self.scale < math.inf:
            raise self.fail("spatial_scale must be positive", "scale", expected="> 0", found=self.scale)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        number, channels = self.num_regions(bottoms), self.num_channels * self.size**2
        if bottoms[0][1] != channels:
            raise self.fail("wrong number of channels", "channels", expected=channels, found=bottoms[0][1])
        return [(number, self.num_channels, self.size, self.size)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        features, regions = bottoms[0], self.regions(bottoms)
        images = regions[:, 0].long()[:, None, None]
        first_row, last_row = self._spans(regions[:, 2], regions[:, 4], features.shape[2])
        first_column, last_column = self._spans(regions[:, 1], regions[:, 3], features.shape[3])
        cells = torch.arange(self.size, device=features.device)
        # The sum of a rectangle from the sums of those that begin at the map's corner.
        sums = F.pad(features.double().cumsum(2).cumsum(3), (1, 0, 1, 0))
        sums = sums.unflatten(1, (self.num_channels, self.size, self.size))

        def upto(rows: Tensor, columns: Tensor) -> Tensor:
            return sums[images, :, cells[:, None], cells, rows[:, :, None], columns[:, None]]  # R, k, k, channels

        total = upto(last_row, last_column) - upto(first_row, last_column)
        total = total - upto(last_row, first_column) + upto(first_row, first_column)
        area = (last_row - first_row)[:, :, None] * (last_column - first_column)[:, None]
        averages = torch.where(area[..., None] > 0, total / area.clamp(min=1)[..., None], 0)
        return [averages.to(features.dtype).permute(0, 3, 1, 2)]

    def _spans(self, low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Returns the pixels [first, last) of each region's cells along one axis, (R, group_size) int64."""
        start = _rounded(low) * self.scale
        length = ((_rounded(high) + 1) * self.scale - start).clamp(min=0.1) / self.size
        cells = torch.arange(self.size, device=low.device)
        first = (cells * length[:, None] + start[:, None]).floor()
        last = ((cells + 1) * length[:, None] + start[:, None]).ceil()
        return first.clamp(0, size).long(), last.clamp(0, size).long()


def _rounded(values: Tensor) -> Tensor:
    """C's round: halves away from zero."""
    return (values.abs() + 0.5).floor().copysign(values)
