"""What breaks a rule of its type ends in a LayerError that says what was expected and what was found."""

import pytest
from google.protobuf import text_format

from pyscratchdet.errors import LayerError
from pyscratchdet.layers.base import Context, layer_class, layer_types
from pyscratchdet.proto import caffe_pb2

ITEM = (2, 6, 4, 3)


def conv(text):
    return f'type: "Convolution" convolution_param {{ {text} }}'


def pool(text):
    return f'type: "Pooling" pooling_param {{ {text} }}'


# Text, bottoms, number of tops, code. A pair of bottom lists means: set up with the first, reshape to the second.
BROKEN = [
    ('type: "Input" input_param { shape { dim: 1 } shape { dim: 2 } }', [], 3, "count"),
    ('type: "Input" input_param { shape { dim: -1 } }', [], 1, "shape"),
    ('type: "DummyData" dummy_data_param { shape { dim: 1 } shape { dim: 2 } }', [], 3, "count"),
    ('type: "DummyData" dummy_data_param { }', [], 1, "count"),
    ('type: "DummyData" dummy_data_param { shape { dim: 1 } num: 1 }', [], 1, "twice"),
    ('type: "DummyData" dummy_data_param { num: 1 channels: 2 height: 3 }', [], 1, "count"),
    ('type: "DummyData" dummy_data_param { shape { dim: 1 } data_filler {} data_filler {} }', [], 3, "count"),
    ('type: "Parameter" parameter_param { shape { dim: -2 } }', [], 1, "shape"),
    (conv("kernel_size: 3"), [ITEM], 1, "num-output"),
    (conv("num_output: 4"), [ITEM], 1, "kernel"),
    (conv("num_output: 4 kernel_size: 0"), [ITEM], 1, "kernel"),
    (conv("num_output: 4 kernel_h: 3"), [ITEM], 1, "kernel"),
    (conv("num_output: 4 kernel_size: 1 kernel_h: 3 kernel_w: 3"), [ITEM], 1, "kernel"),
    (conv("num_output: 4 kernel_size: 1 kernel_size: 2 kernel_size: 3"), [ITEM], 1, "kernel"),
    (conv("num_output: 4 kernel_h: 1 kernel_w: 1"), [(2, 3, 4)], 1, "kernel"),
    (conv("num_output: 4 kernel_size: 5"), [ITEM], 1, "kernel"),
    (conv("num_output: 4 kernel_size: 2 dilation: 4"), [ITEM], 1, "kernel"),
    (conv("num_output: 4 kernel_size: 1 stride: 0"), [ITEM], 1, "stride"),
    (conv("num_output: 4 kernel_size: 1 stride: 1 stride_h: 1"), [ITEM], 1, "stride"),
    (conv("num_output: 4 kernel_size: 1 pad: 1 pad_w: 1"), [ITEM], 1, "pad"),
    (conv("num_output: 4 kernel_size: 1 pad: 1 pad: 1 pad: 1"), [ITEM], 1, "pad"),
    (conv("num_output: 4 kernel_size: 1 dilation: 0"), [ITEM], 1, "dilation"),
    (conv("num_output: 4 kernel_size: 1 group: 3"), [ITEM], 1, "group"),
    (conv("num_output: 6 kernel_size: 1 group: 3"), [(2, 5, 4, 3)], 1, "group"),
    (conv("num_output: 6 kernel_size: 1 group: 0"), [ITEM], 1, "group"),
    (conv("num_output: 6 kernel_size: 1 axis: 4"), [ITEM], 1, "axis"),
    (conv("num_output: 6 kernel_size: 1"), [(1, 2, 3, 4, 5, 6)], 1, "spatial-axes"),
    (conv("num_output: 6 kernel_size: 1"), [ITEM, (2, 6, 4, 4)], 2, "shape"),
    (conv("num_output: 6 kernel_size: 1"), [ITEM, ITEM], 1, "tops"),
    (conv("num_output: 6 kernel_size: 1"), ([ITEM], [(2, 5, 4, 3)]), 1, "channels"),
    (conv("num_output: 6 kernel_size: 1"), ([ITEM], [(2, 6, 4)]), 1, "rank"),
    (conv("num_output: 6 kernel_size: 1 pad: 1"), [(2, 6, 0, 3)], 1, "empty"),
    (conv("num_output: 6 kernel_size: 1"), [(2, 0, 4, 3)], 1, "empty"),
    ('type: "DepthwiseConvolution" convolution_param { num_output: 6 kernel_size: 1 group: 3 }', [ITEM], 1, "group"),
    ('type: "ConvolutionDepthwise" convolution_param { num_output: 8 kernel_size: 1 }', [ITEM], 1, "group"),
    ('type: "Deconvolution" convolution_param { num_output: 6 kernel_size: 1 pad: 2 }', [ITEM], 1, "pad"),
    ('type: "Deconvolution" convolution_param { num_output: 6 kernel_size: 1 group: 4 }', [ITEM], 1, "group"),
    ('type: "Im2col" convolution_param { kernel_size: 1 }', [(2, 3)], 1, "spatial-axes"),
    ('type: "Im2col" convolution_param { kernel_size: 9 }', [ITEM], 1, "kernel"),
    ('type: "Im2col" convolution_param { kernel_size: 1 }', ([ITEM], [(2, 3)]), 1, "rank"),
    ('type: "BatchNorm"', [()], 1, "rank"),
    ('type: "BatchNorm"', [(5,)], 1, "rank"),
    ('type: "BatchNorm" param { lr_mult: 0 } param { lr_mult: 1 }', [ITEM], 1, "statistics"),
    ('type: "BatchNorm" param { decay_mult: 0 }', [ITEM], 1, "statistics"),
    ('type: "BatchNorm"', ([ITEM], [(2, 5, 4, 3)]), 1, "channels"),
    ('type: "Scale" scale_param { axis: 4 }', [ITEM], 1, "axis"),
    ('type: "Scale" scale_param { num_axes: -2 }', [ITEM], 1, "num-axes"),
    ('type: "Scale" scale_param { axis: 2 num_axes: 3 }', [ITEM], 1, "num-axes"),
    ('type: "Scale"', [ITEM, (5,)], 1, "shape"),
    ('type: "Scale" scale_param { axis: 2 }', [ITEM, (4, 3, 2)], 1, "shape"),
    ('type: "Scale" scale_param { bias_term: true }', ([ITEM, (6,)], [ITEM, (6, 4)]), 1, "shape"),
    ('type: "Scale"', ([ITEM], [(2, 5, 4, 3)]), 1, "shape"),
    ('type: "Bias" bias_param { axis: -5 }', [ITEM], 1, "axis"),
    ('type: "Bias"', [ITEM, (4,)], 1, "shape"),
    (pool(""), [ITEM], 1, "kernel"),
    (pool("kernel_size: 0"), [ITEM], 1, "kernel"),
    (pool("kernel_h: 2"), [ITEM], 1, "kernel"),
    (pool("kernel_size: 2 kernel_h: 2 kernel_w: 2"), [ITEM], 1, "kernel"),
    (pool("kernel_size: 2 global_pooling: true"), [ITEM], 1, "kernel"),
    (pool("stride: 2 global_pooling: true"), [ITEM], 1, "global"),
    (pool("pad_h: 1 pad_w: 0 global_pooling: true"), [ITEM], 1, "global"),
    (pool("kernel_size: 2 stride_h: 2"), [ITEM], 1, "stride"),
    (pool("kernel_size: 2 stride: 2 stride_h: 2 stride_w: 2"), [ITEM], 1, "stride"),
    (pool("kernel_size: 2 stride: 0"), [ITEM], 1, "kernel"),
    (pool("kernel_size: 3 pad: 1 pad_h: 1 pad_w: 1"), [ITEM], 1, "pad"),
    (pool("kernel_size: 3 pad_w: 1"), [ITEM], 1, "pad"),
    (pool("kernel_size: 2 pad: 2"), [ITEM], 1, "pad"),
    (pool("pool: STOCHASTIC kernel_size: 2 pad: 1"), [ITEM], 1, "pad"),
    (pool("kernel_size: 9"), [ITEM], 1, "kernel"),
    (pool("kernel_size: 2"), [(2, 3, 4)], 1, "rank"),
    (pool("pool: AVE kernel_size: 2"), [ITEM], 2, "tops"),
    (pool("kernel_size: 1"), [(2, 0, 4, 3)], 1, "empty"),
    ('type: "SPP"', [ITEM], 1, "height"),
    ('type: "SPP" spp_param { pyramid_height: 2 }', [(2, 3)], 1, "rank"),
    ('type: "SPP" spp_param { pyramid_height: 3 }', [ITEM], 1, "pad"),
    ('type: "InnerProduct"', [ITEM], 1, "num-output"),
    ('type: "InnerProduct" inner_product_param { num_output: 2 axis: 4 }', [ITEM], 1, "axis"),
    ('type: "InnerProduct" inner_product_param { num_output: 2 }', ([ITEM], [(2, 6, 4, 4)]), 1, "size"),
    ('type: "Embed" embed_param { num_output: 2 }', [(3,)], 1, "input-dim"),
    ('type: "Embed" embed_param { input_dim: 2 }', [(3,)], 1, "num-output"),
    ('type: "LRN" lrn_param { local_size: 4 }', [ITEM], 1, "size"),
    ('type: "LRN"', [(2, 3)], 1, "rank"),
    ('type: "LRN"', [(2, 3, 0, 4)], 1, "empty"),
    ('type: "MVN"', [(1, 2, 3, 4, 5)], 1, "rank"),
    ('type: "Normalize"', [(4,)], 1, "rank"),
    ('type: "Normalize"', ([ITEM], [(4,)]), 1, "rank"),
    ('type: "Normalize" norm_param { channel_shared: false }', ([ITEM], [(2, 5, 4, 3)]), 1, "channels"),
    ('type: "PReLU"', [(4,)], 1, "rank"),
    ('type: "PReLU"', [(1, 2, 3, 4, 5)], 1, "rank"),
    ('type: "Split" bottom: "x" top: "x"', [ITEM], 1, "in-place"),
    ('type: "PReLU"', ([ITEM], [(2, 5, 4, 3)]), 1, "channels"),
    ('type: "AbsVal" bottom: "x" top: "x"', [ITEM], 0, "in-place"),
    ('type: "Exp" exp_param { base: 0 }', [ITEM], 1, "base"),
    ('type: "Log" log_param { base: -2 }', [ITEM], 1, "base"),
    ('type: "Log" log_param { base: 1 }', [ITEM], 1, "base"),
    ('type: "Power" power_param { power: 0.5 scale: 0 shift: -1 }', [ITEM], 1, "power"),
    ('type: "Dropout" dropout_param { dropout_ratio: 1 }', [ITEM], 1, "ratio"),
    ('type: "Dropout" dropout_param { dropout_ratio: -0.1 }', [ITEM], 1, "ratio"),
    ('type: "Eltwise"', [ITEM, (2, 6, 4, 4)], 1, "shape"),
    ('type: "Eltwise" eltwise_param { coeff: 2 }', [ITEM, ITEM], 1, "coeff"),
    ('type: "Eltwise" eltwise_param { operation: PROD coeff: 1 coeff: 1 }', [ITEM, ITEM], 1, "coeff"),
    ('type: "Concat" concat_param { axis: 1 concat_dim: 1 }', [ITEM], 1, "axis"),
    ('type: "Concat" concat_param { axis: 4 }', [ITEM], 1, "axis"),
    ('type: "Concat" concat_param { concat_dim: 4 }', [ITEM], 1, "axis"),
    ('type: "Concat"', [ITEM, (2, 6, 4)], 1, "shape"),
    ('type: "Concat"', [ITEM, (2, 6, 4, 4)], 1, "shape"),
    ('type: "Slice" slice_param { axis: 1 slice_dim: 1 }', [ITEM], 2, "axis"),
    ('type: "Slice" slice_param { axis: -5 }', [ITEM], 2, "axis"),
    ('type: "Slice"', [ITEM], 4, "slice"),
    ('type: "Slice" slice_param { slice_point: 1 }', [ITEM], 3, "slice"),
    ('type: "Slice" slice_param { slice_point: 2 slice_point: 2 }', [ITEM], 3, "slice"),
    ('type: "Slice" slice_param { slice_point: 2 slice_point: 6 }', [ITEM], 3, "slice"),
    ('type: "Permute" permute_param { order: 4 }', [ITEM], 1, "order"),
    ('type: "Permute" permute_param { order: 1 order: 1 }', [ITEM], 1, "order"),
    ('type: "Permute"', ([ITEM], [(2, 3)]), 1, "rank"),
    ('type: "Flatten" bottom: "x" top: "x"', [ITEM], 0, "in-place"),
    ('type: "Flatten" flatten_param { axis: 4 }', [ITEM], 1, "axis"),
    ('type: "Flatten" flatten_param { axis: 2 end_axis: 0 }', [ITEM], 1, "axis"),
    ('type: "Reshape" reshape_param { shape { dim: -1 dim: -1 } }', [ITEM], 1, "shape"),
    ('type: "Reshape" reshape_param { shape { dim: -2 } }', [ITEM], 1, "shape"),
    ('type: "Reshape" reshape_param { shape { dim: 143 } }', [ITEM], 1, "shape"),
    ('type: "Reshape" reshape_param { shape { dim: 5 dim: -1 } }', [ITEM], 1, "shape"),
    ('type: "Reshape" reshape_param { shape { dim: 2 dim: 2 dim: 2 dim: 2 dim: 0 } }', [ITEM], 1, "shape"),
    ('type: "Reshape" reshape_param { shape { dim: 1 } axis: 5 }', [ITEM], 1, "axis"),
    ('type: "Reshape" reshape_param { shape { dim: 1 } axis: 2 num_axes: 3 }', [ITEM], 1, "num-axes"),
    ('type: "Reshape" reshape_param { shape { dim: 1 } num_axes: -2 }', [ITEM], 1, "num-axes"),
    ('type: "Reshape" bottom: "x" top: "x" reshape_param { shape { dim: 0 } }', [ITEM], 0, "in-place"),
    ('type: "Softmax" softmax_param { axis: 4 }', [ITEM], 1, "axis"),
    ('type: "Crop" crop_param { axis: 4 }', [ITEM, ITEM], 1, "axis"),
    ('type: "Crop" crop_param { offset: 1 offset: 1 offset: 1 }', [ITEM, ITEM], 1, "offset"),
    ('type: "Crop" crop_param { offset: 1 }', [ITEM, ITEM], 1, "bounds"),
    ('type: "Crop"', [ITEM, (2, 6, 4)], 1, "rank"),
    ('type: "Tile"', [ITEM], 1, "tiles"),
    ('type: "Tile" tile_param { tiles: -1 }', [ITEM], 1, "tiles"),
    ('type: "Tile" tile_param { tiles: 2 axis: 4 }', [ITEM], 1, "axis"),
    ('type: "Reduction" reduction_param { axis: 4 }', [ITEM], 1, "axis"),
    ('type: "Reduction" reduction_param { operation: MEAN }', [(0, 3)], 1, "shape"),
    ('type: "Interp"', [ITEM], 1, "size"),
    ('type: "Interp" interp_param { height: 3 }', [ITEM], 1, "size"),
    ('type: "Interp" interp_param { zoom_factor: 2 }', [ITEM, ITEM], 1, "size"),
    ('type: "BN"', [(5,)], 1, "rank"),
    ('type: "BN"', [(2, 0, 3, 4)], 1, "empty"),
    ('type: "BN"', ([ITEM], [(2, 5, 4, 3)]), 1, "channels"),
    ('type: "BN" bn_param { bn_mode: INFERENCE }', [ITEM], 2, "tops"),
    ('type: "SegAccuracy"', [ITEM, (2, 2, 4, 3)], 1, "shape"),
    ('type: "Interp" interp_param { height: 3 width: 0 }', [ITEM], 1, "size"),
    ('type: "Interp" interp_param { zoom_factor: 0 }', [ITEM], 1, "size"),
    ('type: "Interp" interp_param { zoom_factor: 2 pad_end: 1 }', [ITEM], 1, "pad"),
    ('type: "Interp" interp_param { zoom_factor: 2 pad_end: -3 }', [ITEM], 1, "empty"),
    ('type: "Interp" interp_param { zoom_factor: 2 }', [(2, 3, 4)], 1, "rank"),
    ('type: "ShuffleChannel" shuffle_channel_param { group: 4 }', [ITEM], 1, "group"),
    ('type: "ShuffleChannel" shuffle_channel_param { group: 0 }', [ITEM], 1, "group"),
    ('type: "ShuffleChannel"', [(3,)], 1, "rank"),
    ('type: "Upsample" upsample_param { scale: 0 }', [ITEM], 1, "scale"),
    ('type: "Upsample" upsample_param { scale_h: 2 scale_w: 3 }', [ITEM], 1, "scale"),
    ('type: "Upsample" upsample_param { scale: 1 }', [ITEM, ITEM], 1, "scale"),
    ('type: "Upsample" upsample_param { scale_h: 2 }', [ITEM, ITEM], 1, "scale"),
    ('type: "Upsample" upsample_param { scale: 2 scale_w: 2 }', [ITEM, ITEM], 1, "scale"),
    ('type: "Upsample" upsample_param { scale: 3 pad_out_w: true }', [ITEM, ITEM], 1, "scale"),
    ('type: "Upsample"', [ITEM, (2, 6, 4, 4)], 1, "shape"),
    ('type: "Upsample"', [(2, 3, 4)], 1, "rank"),
    ('type: "Upsample"', [(2, 3, 0, 4)], 1, "empty"),
    ('type: "ArgMax" argmax_param { top_k: 0 }', [ITEM], 1, "top-k"),
    ('type: "ArgMax" argmax_param { top_k: 7 axis: 1 }', [ITEM], 1, "top-k"),
    ('type: "ArgMax" argmax_param { top_k: 73 }', [ITEM], 1, "top-k"),
    ('type: "ArgMax" argmax_param { axis: 4 }', [ITEM], 1, "axis"),
    ('type: "ArgMax"', [()], 1, "rank"),
]


@pytest.mark.parametrize(("text", "bottoms", "tops", "rule"), BROKEN, ids=lambda value: str(value)[:90])
def test_broken_rule(text, bottoms, tops, rule):
    first, then = bottoms if isinstance(bottoms, tuple) else (bottoms, bottoms)
    param = text_format.Parse(text, caffe_pb2.LayerParameter(name="here"))
    param.top.extend(f"top{i}" for i in range(tops))
    layer = layer_class(param.type)(param, Context(phase=caffe_pb2.TRAIN))

    def build():
        layer.setup(first)
        layer.reshape(first)
        layer.reshape(then)

    with pytest.raises(LayerError) as caught:
        build()
    error = caught.value
    assert (error.code, error.layer, error.layer_type) == (f"layer.{rule}", "here", param.type)
    assert error.expected is not None or error.found is not None
    assert len(str(error).splitlines()) == 1


# What the types' headers say (ExactNumBottomBlobs and the like): bottoms and tops, low to high, None for no limit.
ONE_TO_ONE = """
    AbsVal ArgMax BNLL BatchNorm Clip Dropout ELU Embed Exp Flatten HardSwish Im2col InnerProduct LRN Log MVN
    Normalize PReLU Permute Power ReLU ReLU6 Reduction Reshape SPP ShuffleChannel Sigmoid Softmax Swish TanH
    Threshold Tile
"""
CONVOLUTIONS = ("Convolution", "Deconvolution", "DepthwiseConvolution", "ConvolutionDepthwise")
COUNTS = {
    **dict.fromkeys(("Input", "DummyData"), (0, 0, 1, None)),
    "Parameter": (0, 0, 1, 1),
    **dict.fromkeys(CONVOLUTIONS, (1, None, 1, None)),
    **dict.fromkeys(("Scale", "Bias", "Interp"), (1, 2, 1, 1)),
    "BN": (1, 1, 1, 3),
    "SegAccuracy": (2, 2, 1, 1),
    "ImageSegData": (0, 0, 2, 3),
    "DenseImageData": (0, 0, 2, 2),
    "Pooling": (1, 1, 1, 2),
    "ROIPooling": (2, 2, 1, 1),
    "Eltwise": (2, None, 1, 1),
    "Upsample": (1, 2, 1, 1),
    "Concat": (1, None, 1, 1),
    "Crop": (2, 2, 1, 1),
    **dict.fromkeys(("Slice", "Split"), (1, 1, 1, None)),
    "Silence": (1, None, 0, 0),
    **dict.fromkeys(ONE_TO_ONE.split(), (1, 1, 1, 1)),
}


@pytest.mark.parametrize("type_", COUNTS)
def test_numbers_of_bottoms_and_tops(type_):
    cls = layer_types()[type_]
    assert (cls.bottoms.low, cls.bottoms.high, cls.tops.low, cls.tops.high) == COUNTS[type_]


def test_an_embed_index_out_of_range():
    import torch
    from harness import make_layer

    text = 'name: "e" type: "Embed" top: "t" embed_param { num_output: 2 input_dim: 3 bias_term: false }'
    layer, _ = make_layer(text, [(2,)])
    with pytest.raises(LayerError, match=r"expected 0 to 2 and found 1 to 3 \[layer.index\]"):
        layer.forward([torch.tensor([1.0, 3.0])], [torch.zeros(3, 2)])


def test_the_caller_fills_an_input():
    layer = layer_class("Input")(caffe_pb2.LayerParameter(name="data", top=["data"]), Context())
    layer.setup([])
    assert layer.reshape([]) == [()]
    with pytest.raises(LayerError, match="come from the caller"):
        layer.forward([], [])
