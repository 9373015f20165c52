"""Layers with their parameters for the tests that hold for every type: shapes, gradients, ONNX.

A case: an id, the layer's own fields, the bottoms' shapes, and what it is good for.
"""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]
ITEM = (2, 6, 4, 3)


@dataclass(frozen=True)
class Case:
    """One layer.

    Attributes:
        text: Type and parameters, as in a prototxt.
        bottoms: The bottoms' shapes.
        tops: How many.
        low, high: Range of the random bottom values.
        differentiable: Whether its gradient is the true one, so that finite differences agree.
        onnx: Whether it has an ONNX form.
        dynamic: Whether that form leaves the batch size open.
        train: Whether the net is in TRAIN.
        whole: Whether bottom values are whole numbers.
    """

    text: str
    bottoms: tuple[Shape, ...] = (ITEM,)
    tops: int = 1
    low: float = -1.0
    high: float = 1.0
    differentiable: bool = True
    onnx: bool = True
    dynamic: bool = True
    train: bool = False
    whole: bool = False

    @property
    def type(self) -> str:
        return self.text.split('"')[1]


def _conv(type_: str, text: str, *bottoms: Shape, **kwargs: object) -> Case:
    return Case(f'type: "{type_}" convolution_param {{ {text} }}', bottoms or (ITEM,), **kwargs)


def _pool(text: str, *bottoms: Shape, **kwargs: object) -> Case:
    return Case(f'type: "Pooling" pooling_param {{ {text} }}', bottoms or ((2, 3, 7, 9),), **kwargs)


CASES = [
    _conv("Convolution", "num_output: 5 kernel_size: 3 pad: 1 stride: 2"),
    _conv("Convolution", "num_output: 4 kernel_size: 2 dilation: 2 group: 2 bias_term: false", (2, 6, 5, 7)),
    _conv("Convolution", "num_output: 4 kernel_h: 1 kernel_w: 3 pad_h: 0 pad_w: 2 stride_h: 2 stride_w: 1"),
    _conv("Convolution", "num_output: 5 kernel_size: 2 kernel_size: 1 kernel_size: 3 pad: 1", (2, 3, 2, 4, 3)),
    _conv("Convolution", "num_output: 5 kernel_size: 2 pad: 1", (2, 3, 4)),
    _conv("Convolution", "num_output: 5 kernel_size: 1", (2, 3), onnx=False),
    _conv("Convolution", "num_output: 5 kernel_size: 2 axis: -3", (2, 1, 3, 4, 2), onnx=False),
    _conv("Convolution", "num_output: 5 kernel_size: 3", (2, 3, 4, 5), (2, 3, 4, 5), tops=2),
    _conv("DepthwiseConvolution", "num_output: 6 kernel_size: 3 pad: 1 stride: 2"),
    _conv("ConvolutionDepthwise", "num_output: 12 kernel_size: 2 group: 6"),
    _conv("Deconvolution", "num_output: 5 kernel_size: 2 stride: 2"),
    _conv("Deconvolution", "num_output: 4 kernel_size: 3 stride: 2 pad: 1 group: 2 dilation: 2 bias_term: false"),
    _conv("Deconvolution", "num_output: 4 kernel_h: 1 kernel_w: 3 stride_h: 2 stride_w: 1", (2, 3, 4, 5)),
    _conv("Deconvolution", "num_output: 2 kernel_size: 2 stride: 2", (1, 3, 2, 3, 2)),
    _conv("Im2col", "kernel_size: 3 pad: 1 stride: 2"),
    _conv("Im2col", "kernel_h: 2 kernel_w: 3 dilation: 2 pad_h: 1 pad_w: 2"),
    _conv("Im2col", "kernel_size: 2", (2, 3, 4)),
    Case('type: "BatchNorm"', train=True, onnx=False),
    Case('type: "BatchNorm" batch_norm_param { eps: 0.1 }', ((5, 3),), train=True, onnx=False),
    Case('type: "BatchNorm" batch_norm_param { eps: 0.001 }'),
    Case('type: "BatchNorm" batch_norm_param { use_global_stats: true }', ((5, 3),), train=True),
    Case('type: "BatchNorm" batch_norm_param { scale_bias: true }'),
    Case('type: "BatchNorm" batch_norm_param { scale_bias: true eps: 0.1 }', train=True, onnx=False),
    Case('type: "BatchNorm" batch_norm_param { use_weight_bias: true }'),
    Case('type: "BatchNorm" batch_norm_param { bias_term: false stats_batch_size: 2 }'),
    Case(
        'type: "BatchNorm" batch_norm_param { stats_batch_size: 2 }', ((4, 3, 3, 2),),
        train=True, onnx=False, dynamic=False,
    ),
    Case('type: "BN" bn_param { bn_mode: INFERENCE scale_filler { value: 2 } }'),
    Case('type: "BN" bn_param { bn_mode: LEARN }', onnx=False),
    Case('type: "BN" bn_param { scale_filler { value: 1 } }', train=True, onnx=False),
    Case('type: "BN"'),
    Case('type: "BN" bn_param { frozen: true }', ((5, 3),), train=True),
    Case('type: "BN" bn_param { slope_filler { value: 1 } momentum: 0.5 eps: 0.1 }', train=True, onnx=False),
    Case('type: "Scale" scale_param { bias_term: true }'),
    Case('type: "Scale" scale_param { axis: 2 num_axes: -1 }'),
    Case('type: "Scale" scale_param { num_axes: 0 bias_term: true }'),
    Case('type: "Scale" scale_param { axis: 0 num_axes: 2 }', dynamic=False),
    Case('type: "Scale" scale_param { axis: 0 }', (ITEM, (2, 6))),
    Case('type: "Scale" scale_param { axis: -2 bias_term: true }', (ITEM, (4, 3)), dynamic=False),
    Case('type: "Scale"', (ITEM, ()), dynamic=False),
    Case('type: "Bias" bias_param { axis: 1 num_axes: 2 }'),
    Case('type: "Bias" bias_param { axis: 0 }', (ITEM, (2, 6, 4))),
    _pool("pool: MAX kernel_size: 2 stride: 2"),
    _pool("pool: MAX kernel_size: 3 stride: 2 pad: 1"),
    _pool("pool: MAX kernel_size: 3 pad: 2"),
    _pool("pool: MAX kernel_h: 5 kernel_w: 2 stride_h: 3 stride_w: 1 pad_h: 4 pad_w: 0"),
    _pool("pool: MAX kernel_size: 1 stride: 2", (2, 3, 8, 6)),
    _pool("pool: MAX kernel_size: 2 stride: 2", tops=2),
    _pool("pool: MAX kernel_h: 3 kernel_w: 1 stride: 2", (2, 3, 7, 8), tops=2),
    _pool("pool: MAX global_pooling: true", tops=2),
    _pool("pool: MAX global_pooling: true"),
    _pool("pool: AVE kernel_size: 2 stride: 2"),
    _pool("pool: AVE kernel_size: 5 stride: 3 pad: 2", (1, 3, 11, 14)),
    _pool("pool: AVE kernel_size: 3 stride: 4 pad: 2", (1, 3, 11, 14)),
    _pool("pool: AVE kernel_size: 1 stride: 3", (2, 3, 5, 6)),
    _pool("pool: AVE global_pooling: true"),
    _pool("pool: AVE kernel_size: 3 stride: 2 pad: 1 avg_include_pad: false", (1, 3, 10, 14)),
    _pool("pool: AVE kernel_size: 5 stride: 3 pad: 4 avg_include_pad: false", (1, 3, 11, 14)),
    _pool("pool: STOCHASTIC kernel_size: 3 stride: 2", low=0.1, onnx=False),
    Case('type: "SPP" spp_param { pyramid_height: 3 }', ((2, 3, 9, 7),)),
    Case('type: "SPP" spp_param { pyramid_height: 1 pool: AVE }', ((2, 3, 5, 4),)),
    _pool("pool: MAX kernel_size: 3 stride: 2 round_mode: FLOOR", (2, 3, 8, 6), tops=2, differentiable=False),
    _pool("pool: AVE kernel_size: 3 stride: 2 pad: 1 ceil_mode: false", (2, 3, 8, 6)),
    _pool("pool: AVE kernel_h: 2 kernel_w: 3 stride: 3 pad_h: 1 pad_w: 0 ceil_mode: false", (2, 3, 8, 9)),
    Case('type: "InnerProduct" inner_product_param { num_output: 5 }'),
    Case('type: "InnerProduct" inner_product_param { num_output: 5 axis: -1 transpose: true }'),
    Case('type: "InnerProduct" inner_product_param { num_output: 5 transpose: true bias_term: false }'),
    Case('type: "InnerProduct" inner_product_param { num_output: 5 axis: 2 bias_term: false }'),
    Case('type: "Embed" embed_param { num_output: 3 input_dim: 7 }', ((4, 2),), low=0, high=6, whole=True),
    Case('type: "Embed" embed_param { num_output: 3 input_dim: 7 bias_term: 0 }', ((4,),), low=0, high=6, whole=True),
    Case('type: "LRN" lrn_param { local_size: 3 alpha: 0.7 k: 1.3 }', ((2, 5, 3, 2),)),
    Case('type: "LRN" lrn_param { local_size: 3 alpha: 0.7 norm_region: WITHIN_CHANNEL }', ((2, 3, 5, 4),)),
    Case('type: "MVN" mvn_param { normalize_variance: false }'),
    Case('type: "MVN"'),
    Case('type: "MVN" mvn_param { across_channels: true eps: 0.01 }', ((2, 6),), differentiable=False),
    Case('type: "Normalize" norm_param { across_spatial: false channel_shared: true eps: 0.01 }'),
    Case('type: "Normalize" norm_param { channel_shared: false scale_filler { value: 3 } }', differentiable=False),
    Case('type: "Normalize" norm_param { across_spatial: 0 channel_shared: 0 }', ((2, 5),), differentiable=False),
    Case('type: "ReLU"'),
    Case('type: "ReLU" relu_param { negative_slope: 0.2 }'),
    Case('type: "ReLU6"', low=-3, high=9),
    Case('type: "Clip" clip_param { min: -0.5 max: 0.7 }'),
    Case('type: "PReLU"'),
    Case('type: "PReLU" prelu_param { channel_shared: true }', ((3, 4),)),
    Case('type: "Sigmoid"'),
    Case('type: "TanH"'),
    Case('type: "AbsVal"'),
    Case('type: "BNLL"', low=-9, high=60),
    Case('type: "ELU" elu_param { alpha: 0.6 }'),
    Case('type: "Swish"'),
    Case('type: "Swish" swish_param { beta: 1.7 }'),
    Case('type: "HardSwish"', low=-5, high=5),
    Case('type: "Mish"', low=-5, high=30),
    Case('type: "SeLu"', low=-3, high=3),
    Case('type: "Power" power_param { power: 3 scale: 0.5 shift: -0.2 }'),
    Case('type: "Power" power_param { power: 0.5 scale: 2 }', low=0.1),
    Case('type: "Power" power_param { shift: 2 }'),
    Case('type: "Power" power_param { power: 2 scale: 0 shift: 3 }', differentiable=False),
    Case('type: "Exp" exp_param { base: 2 scale: 0.5 shift: 1 }'),
    Case('type: "Exp"'),
    Case('type: "Log" log_param { base: 10 scale: 2 shift: 0.5 }', low=0.1),
    Case('type: "Log"', low=0.1),
    Case('type: "Threshold" threshold_param { threshold: 0.2 }', differentiable=False),
    Case('type: "Dropout"'),
    Case('type: "Eltwise"', (ITEM, ITEM, ITEM)),
    Case('type: "Eltwise" eltwise_param { coeff: 1 coeff: -0.5 coeff: 2 }', (ITEM, ITEM, ITEM)),
    Case('type: "Eltwise" eltwise_param { operation: PROD }', (ITEM, ITEM, ITEM)),
    Case('type: "Eltwise" eltwise_param { operation: MAX }', (ITEM, ITEM, ITEM)),
    Case('type: "Concat"', (ITEM, (2, 1, 4, 3), (2, 2, 4, 3))),
    Case('type: "Concat" concat_param { concat_dim: 3 }', (ITEM, (2, 6, 4, 5))),
    Case('type: "Concat" concat_param { axis: -3 }'),
    Case('type: "Slice"', tops=3),
    Case('type: "Slice" slice_param { axis: -2 slice_point: 1 slice_point: 2 }', tops=3),
    Case('type: "Slice" slice_param { slice_dim: 3 }'),
    Case('type: "Permute" permute_param { order: 0 order: 2 order: 3 order: 1 }'),
    Case('type: "Permute" permute_param { order: 2 }'),
    Case('type: "Flatten"'),
    Case('type: "Flatten" flatten_param { axis: 0 end_axis: -2 }'),
    Case('type: "Flatten" flatten_param { axis: 2 }'),
    Case('type: "Flatten" flatten_param { axis: 2 end_axis: 1 }'),
    Case('type: "Reshape" reshape_param { shape { dim: 0 dim: -1 dim: 3 } }'),
    Case('type: "Reshape" reshape_param { shape { dim: -1 dim: 9 } }'),
    Case('type: "Reshape" reshape_param { shape { dim: 1 dim: 1 } axis: 2 num_axes: 0 }'),
    Case('type: "Reshape" reshape_param { shape { dim: 1 dim: 1 } axis: -1 num_axes: 0 }'),
    Case('type: "Reshape" reshape_param { shape { dim: 0 dim: 12 } axis: 1 num_axes: 3 }', ((2, 6, 3, 4),)),
    Case('type: "Reshape" reshape_param { shape { dim: 3 dim: 48 } }', dynamic=False),
    Case('type: "Interp" interp_param { height: 7 width: 2 }'),
    Case('type: "Interp" interp_param { zoom_factor: 3 pad_beg: -1 }', ((2, 6, 4, 3),)),
    Case('type: "Interp" interp_param { shrink_factor: 2 pad_end: -1 }', ((2, 3, 9, 6),)),
    Case('type: "Interp" interp_param { pad_end: -1 }', ((2, 3, 9, 6), (2, 5, 4, 7))),
    Case('type: "Interp" interp_param { shrink_factor: 3 zoom_factor: 2 }', ((2, 3, 9, 5),)),
    Case('type: "Upsample" upsample_param { scale: 3 }'),
    Case('type: "Upsample"'),
    Case('type: "ShuffleChannel" shuffle_channel_param { group: 3 }'),
    Case('type: "ShuffleChannel" shuffle_channel_param { group: 2 }', ((3, 4),)),
    Case('type: "ShuffleChannel"', ((2, 5, 3),)),
    Case('type: "Softmax"'),
    Case('type: "Softmax" softmax_param { axis: -1 }'),
    Case('type: "Crop" crop_param { offset: 1 offset: 0 }', (ITEM, (9, 9, 2, 3))),
    Case('type: "Crop" crop_param { axis: 1 offset: 1 }', (ITEM, (9, 2, 3, 2))),
    Case('type: "Split"', tops=3),
    Case('type: "Silence"', (ITEM, (3,)), tops=0, differentiable=False),
    Case('type: "Tile" tile_param { tiles: 3 }'),
    Case('type: "Tile" tile_param { axis: -1 tiles: 2 }'),
    Case('type: "Reduction" reduction_param { axis: 1 coeff: 0.5 }'),
    Case('type: "Reduction" reduction_param { operation: ASUM axis: -1 }'),
    Case('type: "Reduction" reduction_param { operation: SUMSQ axis: 1 coeff: -2 }'),
    Case('type: "Reduction" reduction_param { operation: MEAN }'),
    Case('type: "ArgMax"', differentiable=False),
    Case('type: "ArgMax" argmax_param { out_max_val: true top_k: 4 }', ((2, 6),), differentiable=False),
    Case('type: "ArgMax" argmax_param { axis: 1 top_k: 2 }', differentiable=False),
    Case('type: "ArgMax" argmax_param { axis: -1 out_max_val: true }', differentiable=False),
]  # fmt: skip


def case_id(case: Case) -> str:
    """Returns the type and its parameters, short."""
    text = case.text.replace('type: "', "").replace('"', "")
    return " ".join(text.split()) + " " + "+".join("x".join(map(str, shape)) for shape in case.bottoms)
