"""Small nets with weights, written on the fly."""

import numpy as np
import torch
from torch import nn

from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.runtime import build_net, copy_weights, net_blobs, save_weights

# In-place chains, BatchNorm with Scale, padding, pooling that rounds up, two branches, a flattened head.
BODY = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" }
    bias_filler { type: "uniform" min: -0.5 max: 0.5 } } }
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "scale1" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 4 kernel_size: 3 group: 2 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "side" type: "Convolution" bottom: "pool1" top: "side"
  convolution_param { num_output: 4 kernel_size: 3 dilation: 1 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "conv2" bottom: "side" top: "sum" }
layer { name: "fc" type: "InnerProduct" bottom: "sum" top: "fc"
  inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
SHAPE = "dim: 1 dim: 3 dim: 11 dim: 14"
NET = f'name: "small"\nlayer {{ name: "in" type: "Input" top: "data" input_param {{ shape {{ {SHAPE} }} }} }}{BODY}'

# A whole SSD head on two feature maps, its DetectionOutput included.
HEAD = """
layer { name: "loc%(k)d" type: "Convolution" bottom: "%(bottom)s" top: "loc%(k)d"
  convolution_param { num_output: %(loc)d kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "loc%(k)d_perm" type: "Permute" bottom: "loc%(k)d" top: "loc%(k)d_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "loc%(k)d_flat" type: "Flatten" bottom: "loc%(k)d_perm" top: "loc%(k)d_flat"
  flatten_param { axis: 1 } }
layer { name: "conf%(k)d" type: "Convolution" bottom: "%(bottom)s" top: "conf%(k)d"
  convolution_param { num_output: %(conf)d kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "conf%(k)d_perm" type: "Permute" bottom: "conf%(k)d" top: "conf%(k)d_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "conf%(k)d_flat" type: "Flatten" bottom: "conf%(k)d_perm" top: "conf%(k)d_flat"
  flatten_param { axis: 1 } }
layer { name: "prior%(k)d" type: "PriorBox" bottom: "%(bottom)s" bottom: "data" top: "prior%(k)d"
  prior_box_param { min_size: %(size)s aspect_ratio: 2 flip: true clip: false
    variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 } }
"""


END = """
layer { name: "mbox_loc" type: "Concat" bottom: "loc1_flat" bottom: "loc2_flat" top: "mbox_loc" }
layer { name: "mbox_conf" type: "Concat" bottom: "conf1_flat" bottom: "conf2_flat" top: "mbox_conf" }
layer { name: "mbox_priorbox" type: "Concat" bottom: "prior1" bottom: "prior2" top: "mbox_priorbox"
  concat_param { axis: 2 } }
layer { name: "mbox_conf_reshape" type: "Reshape" bottom: "mbox_conf" top: "mbox_conf_reshape"
  reshape_param { shape { dim: 0 dim: -1 dim: CLASSES } } }
layer { name: "mbox_conf_softmax" type: "Softmax" bottom: "mbox_conf_reshape" top: "mbox_conf_softmax"
  softmax_param { axis: 2 } }
layer { name: "mbox_conf_flatten" type: "Flatten" bottom: "mbox_conf_softmax" top: "mbox_conf_flatten" }
layer { name: "detection_out" type: "DetectionOutput" bottom: "mbox_loc" bottom: "mbox_conf_flatten"
  bottom: "mbox_priorbox" top: "detection_out"
  detection_output_param { num_classes: CLASSES share_location: true background_label_id: 0 code_type: CENTER_SIZE
    nms_param { nms_threshold: 0.45 top_k: 60 } keep_top_k: 21 confidence_threshold: 0.3 } }
"""


def detector(num_classes=3, min_size="9"):
    """Returns the prototxt of a detector with two feature maps, 3 priors per place."""
    heads = "".join(
        HEAD % {"k": k, "bottom": bottom, "loc": 12, "conf": 3 * num_classes, "size": size}
        for k, bottom, size in ((1, "conv1", min_size), (2, "pool1", "17"))
    )
    body = BODY[: BODY.index('layer { name: "conv2"')]
    return (
        'name: "detector"\nlayer { name: "in" type: "Input" top: "data"'
        " input_param { shape { dim: 1 dim: 3 dim: 22 dim: 26 } } }"
        + body
        + heads
        + END.replace("CLASSES", str(num_classes))
    )


def small_net(text=NET, seed=3):
    """Returns the net with weights of a seed, statistics of BatchNorm included (scale factor 7)."""
    net = build_net(parse(text, caffe_pb2.NetParameter), random=CaffeRandom(seed))
    rng = np.random.default_rng(seed)
    blobs = net_blobs(net)
    for module in net.layers:
        if module.layer_type == "BatchNorm":
            channels = blobs[module.name][0].size
            blobs[module.name] = [
                rng.normal(0, 2, channels).astype("f4"),
                rng.uniform(3, 9, channels).astype("f4"),
                np.array([7], "f4"),
            ]
    copy_weights(net, blobs)
    return net


def write_net(folder, text=NET, seed=3):
    """Writes deploy.prototxt and model.caffemodel; returns both paths as strings."""
    (folder / "deploy.prototxt").write_text(text)
    save_weights(small_net(text, seed), folder / "model.caffemodel")
    return str(folder / "deploy.prototxt"), str(folder / "model.caffemodel")


def noise(shape, seed=5):
    """Input as wide as a picture minus its mean."""
    return np.random.default_rng(seed).uniform(-120, 130, shape).astype("f4")


def seeded(module):
    """Gives statistics and slopes values of their own."""
    torch.manual_seed(3)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.5)
                part.running_var.uniform_(0.5, 2)
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.3)
    return module.eval()
