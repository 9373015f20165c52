"""SPP: spatial pyramid pooling (spp_layer.cpp; He et al. 2014, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence

from pyscratchdet.errors import LayerError
from pyscratchdet.layers.base import Layer, OnnxGraph, Shape, register
from pyscratchdet.layers.pooling import Pooling
from pyscratchdet.lazy import Tensor, torch
from pyscratchdet.proto import caffe_pb2


@register("SPP")
class SPP(Layer):
    """Pooling to about 2^level bins per side for every level, flattened and joined: (N, C, H, W) -> (N, C * bins).

    A pyramid of one level keeps its four axes.
    """

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.height = self.param.spp_param.pyramid_height
        if self.height < 1:
            raise self.fail("pyramid_height is missing", "height", expected="at least 1", found=self.height)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom = bottoms[0]
        if len(bottom) != 4:
            raise self.fail("wrong number of axes", "rank", expected="4: N, C, H, W", found=len(bottom))
        self.levels = [self._pooling(level, bottom) for level in range(self.height)]
        tops = [pooling.reshape(bottoms)[0] for pooling in self.levels]
        if self.height == 1:
            return tops
        return [(bottom[0], sum(channels * height * width for _, channels, height, width in tops))]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        tops = [pooling.forward(bottoms, ())[0] for pooling in self.levels]
        return tops if self.height == 1 else [torch.cat([top.flatten(1) for top in tops], 1)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        tops = [pooling.onnx(graph, bottoms, ())[0] for pooling in self.levels]
        if self.height == 1:
            return tops
        return graph.node("Concat", [graph.node("Flatten", [top], axis=1)[0] for top in tops], axis=1)

    def _pooling(self, level: int, bottom: Shape) -> Pooling:
        """Returns the pooling of one level, padded so that 2^level windows side by side cover the image."""
        bins = 2**level
        kernel = [-(-size // bins) for size in bottom[2:]]
        pad = [(size * bins - full + 1) // 2 for size, full in zip(kernel, bottom[2:], strict=True)]
        param = caffe_pb2.LayerParameter(name=self.name, type="Pooling", top=["level"])
        for what, (height, width) in (("kernel", kernel), ("stride", kernel), ("pad", pad)):
            setattr(param.pooling_param, f"{what}_h", height)
            setattr(param.pooling_param, f"{what}_w", width)
        param.pooling_param.pool = self.param.spp_param.pool  # both enums number the methods alike
        pooling = Pooling(param, self.context)
        try:
            pooling.setup([bottom])
        except LayerError as error:
            error.layer_type, error.hint = self.type, f"level {level} of the pyramid is too fine for {bottom[2:]}"
            raise
        return pooling
