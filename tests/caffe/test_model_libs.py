"""model_libs: what the three published versions write, by hand-derived layers and counts."""

import inspect
import subprocess
import sys

import pytest

from pyscratchdet.caffe import NetSpec, model_libs
from pyscratchdet.caffe import layers as L
from pyscratchdet.errors import UsageError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse

FORKS = ("ssd", "refinedet", "scratchdet")


def start():
    n = NetSpec()
    n.data = L.DummyData(shape={"dim": [1, 3, 300, 300]})
    return n


def layers_of(n):
    return {layer.name: layer for layer in n.to_proto().layer}


def layers_from(text):
    return list(parse(text, caffe_pb2.NetParameter).layer)


FROZEN = "param { lr_mult: 0 decay_mult: 0 }"
CONVOLUTION = """
layer {
  name: "c" type: "Convolution" bottom: "data" top: "c" param { lr_mult: 2 decay_mult: 1 }
  convolution_param {
    num_output: 7 bias_term: false kernel_h: 3 kernel_w: 5 pad_h: 1 pad_w: 2 stride_h: 1 stride_w: 1
    weight_filler { type: "gaussian" std: 0.01 }
  }
}
"""
SCALE_WRITTEN = """
layer {
  name: "c_scale" type: "Scale" bottom: "c" top: "c"
  param { lr_mult: 2 decay_mult: 0 } param { lr_mult: 2 decay_mult: 0 }
  scale_param { filler { type: "constant" value: 1 } bias_term: true bias_filler { type: "constant" value: 0 } }
}
"""
RELU = 'layer { name: "c_relu" type: "ReLU" bottom: "c" top: "c" }'
WRITTEN = f"""
{CONVOLUTION}
layer {{
  name: "c_bn" type: "BatchNorm" bottom: "c" top: "c" {FROZEN * 3}
  batch_norm_param {{ moving_average_fraction: 0.999 eps: 0.001 }}
}}
{SCALE_WRITTEN}
{RELU}
"""
PLAIN = f"""
{CONVOLUTION}
layer {{ name: "c_bn" type: "BatchNorm" bottom: "c" top: "c" }}
layer {{ name: "c_scale" type: "Scale" bottom: "c" top: "c" scale_param {{ bias_term: true }} }}
{RELU}
"""


@pytest.mark.parametrize(("fork", "expected"), [("ssd", WRITTEN), ("refinedet", PLAIN), ("scratchdet", WRITTEN)])
def test_convolution_with_batchnorm_differs_between_forks(fork, expected):
    n = start()
    model_libs.of(fork).ConvBNLayer(n, "data", "c", True, True, 7, [3, 5], [1, 2], 1, lr_mult=2)
    assert list(n.to_proto().layer[1:]) == layers_from(expected)


@pytest.mark.parametrize("fork", FORKS)
def test_convolution_without_batchnorm_is_the_same(fork):
    n = start()
    model_libs.of(fork).ConvBNLayer(n, "data", "c", False, False, 7, 3, 1, 2, dilation=2, lr_mult=3)
    assert list(n.to_proto().layer[1:]) == layers_from(
        """
        layer {
          name: "c" type: "Convolution" bottom: "data" top: "c"
          param { lr_mult: 3 decay_mult: 1 } param { lr_mult: 6 decay_mult: 0 }
          convolution_param {
            num_output: 7 pad: 1 kernel_size: 3 stride: 2 dilation: 2
            weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0 }
          }
        }
        """
    )


def test_global_statistics_freeze_the_scale():
    n = start()
    model_libs.of("ssd").ConvBNLayer(n, "data", "c", True, False, 7, 3, 1, 1, use_global_stats=True, eps=1e-5)
    made = layers_of(n)
    assert made["c_bn"].batch_norm_param == caffe_pb2.BatchNormParameter(use_global_stats=True, eps=1e-5)
    assert [spec.lr_mult for spec in made["c_scale"].param] == [0, 0]


def test_residual_block():
    n = start()
    model_libs.of("ssd").ResBody(n, "data", "5a", 4, 5, 6, stride=2, use_branch1=True, dilation=2)
    made = layers_of(n)
    convolutions = {
        name: (layer.convolution_param.num_output, layer.convolution_param.stride[0], layer.convolution_param.pad[0])
        for name, layer in made.items()
        if layer.type == "Convolution"
    }
    assert convolutions == {
        "res5a_branch1": (6, 2, 0),
        "res5a_branch2a": (4, 2, 0),
        "res5a_branch2b": (5, 1, 2),
        "res5a_branch2c": (6, 1, 0),
    }
    assert list(made["res5a"].bottom) == ["res5a_branch1", "res5a_branch2c"]
    assert {"bn5a_branch2b", "scale5a_branch2b", "res5a_branch2b_relu", "res5a_relu"} <= made.keys()
    assert "res5a_branch2c_relu" not in made


# Number of convolutions: conv1, three for each block and one for each of the four shortcuts.
@pytest.mark.parametrize(
    ("body", "blocks", "bias"), [("ResNet50Body", 16, True), ("ResNet101Body", 33, False), ("ResNet152Body", 50, False)]
)
def test_resnets(body, blocks, bias):
    n = start()
    getattr(model_libs.of("ssd"), body)(n, "data", use_dilation_conv5=True)
    made = layers_of(n)
    convolutions = [layer for layer in made.values() if layer.type == "Convolution"]
    assert len(convolutions) == 1 + 3 * blocks + 4
    assert made["conv1"].convolution_param.bias_term is bias
    assert list(made["res5b_branch2b"].convolution_param.dilation) == [2]
    assert list(made["res5a_branch2a"].convolution_param.stride) == [1]
    assert made["pool5"].pooling_param.global_pooling


def test_vgg_reduced_and_dilated():
    n = start()
    model_libs.of("ssd").VGGNetBody(n, "data", fully_conv=True, reduced=True, dilated=True, freeze_layers=["conv1_1"])
    made = layers_of(n)
    fc6 = made["fc6"].convolution_param
    assert (fc6.num_output, fc6.kernel_size[0], fc6.pad[0], fc6.dilation[0]) == (1024, 3, 6, 6)
    assert (made["pool5"].pooling_param.kernel_size, made["pool5"].pooling_param.stride) == (3, 1)
    assert [spec.lr_mult for spec in made["conv1_1"].param] == [0, 0]
    assert [spec.lr_mult for spec in made["conv1_2"].param] == [1, 2]
    assert list(made["fc7"].bottom) == ["fc6"]
    assert sum(layer.type == "Convolution" for layer in made.values()) == 15
    assert sum(layer.type == "Dropout" for layer in made.values()) == 2


def test_vgg_without_pooling_has_convolutions_in_its_place():
    n = start()
    model_libs.of("ssd").VGGNetBody(n, "data", fully_conv=True, nopool=True)
    made = layers_of(n)
    assert [name for name in made if name.endswith(("1_3", "2_3", "3_4", "4_4", "5_4"))] == [
        "conv1_3",
        "conv2_3",
        "conv3_4",
        "conv4_4",
        "conv5_4",
    ]
    fc6 = made["fc6"].convolution_param
    assert (fc6.num_output, fc6.kernel_size[0], fc6.pad[0]) == (4096, 7, 3)


def test_zf_windows():
    n = start()
    model_libs.of("ssd").ZFNetBody(n, "data", fully_conv=True, reduced=True, dilated=True, need_fc8=True)
    made = layers_of(n)
    fc6 = made["fc6"].convolution_param
    assert (fc6.kernel_size[0], fc6.pad[0], fc6.dilation[0]) == (3, 5, 5)
    assert made["norm2"].lrn_param.norm_region == caffe_pb2.LRNParameter.WITHIN_CHANNEL
    assert made["fc8"].convolution_param.num_output == 1000


def test_inception_v3():
    n = start()
    model_libs.of("ssd").InceptionV3Body(n, "data", output_pred=True)
    made = layers_of(n)
    assert sum(layer.type == "Convolution" for layer in made.values()) == 94
    assert sum(layer.type == "Bias" for layer in made.values()) == 94
    assert [layer.name for layer in made.values() if layer.type == "Concat"][-3:] == [
        "mixed_10/tower/mixed",
        "mixed_10/tower_1/mixed",
        "mixed_10/join",
    ]
    assert made["mixed_10/join"].bottom[0] == "mixed_10/conv"
    tall = made["mixed_4/tower/conv_2"].convolution_param
    assert (tall.kernel_h, tall.kernel_w, tall.pad_h, tall.pad_w) == (7, 1, 3, 0)


def test_root_resnet_34():
    """Section 3.2: three 3x3 convolutions without a stride, 3-4-6-3 blocks, four residual extra layers."""
    n = start()
    model_libs.of("scratchdet").Resnet34rootV2_res(n, "data")
    made = layers_of(n)
    # Without the last sum, which nothing needs.
    assert list(made)[-1] == "conv9_2"
    # Three in the root block, two for each of 16 + 4 blocks, five projections.
    assert sum(layer.type == "Convolution" for layer in made.values()) == 3 + 40 + 5
    strided = [name for name, layer in made.items() if layer.convolution_param.stride[:1] == [2]]
    assert strided == [
        "conv3_1",
        "Convolution1",
        "conv4_1",
        "Convolution2",
        "conv5_1",
        "Convolution3",
        "conv6_1",
        "Convolution4",
        "conv7_1",
        "Convolution5",
    ]
    assert list(made["conv2_1"].bottom) == ["pool1"]
    assert list(made["Eltwise1"].bottom) == ["pool1", "conv2_2"]


def test_root_resnet_18_keeps_convolutions_as_they_are():
    n = start()
    model_libs.of("scratchdet").Resnet18rootV2(n, "data")
    made = layers_of(n)
    assert all(list(layer.top) != list(layer.bottom) for layer in made.values() if layer.type == "BatchNorm")
    assert [made[f"conv{stage}_2"].convolution_param.num_output for stage in (6, 7, 8, 9)] == [512, 256, 256, 256]


def vgg_with_head(fork, **changes):
    n = start()
    libs = model_libs.of(fork)
    libs.VGGNetBody(n, "data", fully_conv=True, reduced=True, dilated=True)
    arguments = {
        "num_classes": 5,
        "from_layers": ["conv4_3", "fc7"],
        "min_sizes": [30, [60, 70]],
        "max_sizes": [[], [75, 85]],
        "aspect_ratios": [[2], [2, 3]],
        "steps": [8, 16],
        "normalizations": [20, -1],
        "use_batchnorm": False,
        "kernel_size": 3,
        "pad": 1,
        **changes,
    }
    return layers_of(n), [top.fn for top in libs.CreateMultiBoxHead(n, **arguments)], layers_of(n)


@pytest.mark.parametrize(("fork", "stem"), [("ssd", "mbox"), ("refinedet", ""), ("scratchdet", "mbox")])
def test_head_names(fork, stem):
    _, _, made = vgg_with_head(fork)
    assert list(made)[-3:] == [f"{stem}_loc", f"{stem}_conf", f"{stem}_priorbox"]
    assert made[f"{stem}_priorbox"].concat_param.axis == 2


def test_head_counts():
    _, tops, made = vgg_with_head("ssd", use_objectness=True, img_height=200, img_width=300)
    assert len(tops) == 4
    # One square, ratio 2 and its flip; then two of each: two squares, ratios 2 and 3 and their flips.
    assert made["conv4_3_norm_mbox_loc"].convolution_param.num_output == 3 * 4
    assert made["conv4_3_norm_mbox_conf"].convolution_param.num_output == 3 * 5
    assert made["fc7_mbox_loc"].convolution_param.num_output == 12 * 4
    assert made["fc7_mbox_objectness"].convolution_param.num_output == 12 * 2
    priors = made["fc7_mbox_priorbox"].prior_box_param
    assert list(priors.min_size) == [60, 70]
    assert (priors.step, priors.img_h, priors.img_w) == (16, 200, 300)
    assert not made["conv4_3_norm_mbox_priorbox"].prior_box_param.max_size
    assert made["conv4_3_norm"].norm_param.scale_filler.value == 20


def test_head_for_each_class():
    _, _, made = vgg_with_head("ssd", share_location=False, flip=False)
    assert made["conv4_3_norm_mbox_loc"].convolution_param.num_output == 2 * 4 * 5


def test_refinedet_head_predicts_twice_on_one_set_of_priors():
    n = start()
    libs = model_libs.of("refinedet")
    libs.VGGNetBody(n, "data", fully_conv=True, reduced=True)
    sources = {"from_layers": ["conv4_3", "fc7"], "from_layers2": ["conv3_1", "conv3_2"]}
    tops = libs.CreateRefineDetHead(n, num_classes=7, min_sizes=[32, 64], aspect_ratios=[[2], [2]], **sources)
    made = layers_of(n)
    assert len(tops) == 5
    assert made["conv4_3_mbox_conf"].convolution_param.num_output == 3 * 2
    assert made["conv3_1_mbox_conf"].convolution_param.num_output == 3 * 7
    assert [name for name in made if name.endswith("priorbox")] == [
        "conv4_3_mbox_priorbox",
        "fc7_mbox_priorbox",
        "arm_priorbox",
    ]


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(UsageError, match="from_layers and steps should have the same length, expected 2 and found 1"):
        vgg_with_head("ssd", steps=[8])
    with pytest.raises(UsageError, match="num_classes must be a positive number, found 0"):
        vgg_with_head("ssd", num_classes=0)
    with pytest.raises(UsageError, match="max_size and min_size"):
        vgg_with_head("ssd", max_sizes=[[], [75]])
    with pytest.raises(UsageError, match="expected 1 or 2 and found 3"):
        model_libs.of("ssd").UnpackVariable([1, 2, 3], 2)


def test_unknown_fork():
    with pytest.raises(UsageError, match=r'no published version called "refindet"; did you mean "refinedet"\?'):
        model_libs.of("refindet")


def test_signatures_are_the_published_ones():
    parameters = list(inspect.signature(model_libs.of("ssd").ConvBNLayer).parameters)
    assert parameters[:5] == ["net", "from_layer", "out_layer", "use_bn", "use_relu"]


def test_star_import_and_use_fork():
    """In its own process: use_fork changes the module."""
    script = """
from pyscratchdet.caffe.model_libs import *
assert caffe.NetSpec and L.ReLU and P.Pooling.MAX == 0 and caffe_pb2.TRAIN == 0 and os.path
assert ConvBNLayer.args[0].name == "ssd"
import pyscratchdet.caffe.model_libs as libs
libs.use_fork("refinedet")
from pyscratchdet.caffe.model_libs import *
assert ConvBNLayer.args[0].name == "refinedet"
"""
    subprocess.run([sys.executable, "-c", script], check=True)
