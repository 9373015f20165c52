"""A detector whose answers are known, which sees blue and red blocks of an 8 x 8 grid cell; and devices to test on."""

import numpy as np
import pytest
from together import Together

DEPLOY = """
name: "blocks"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 48 } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool"
  pooling_param { pool: AVE kernel_size: 8 stride: 8 } }
layer { name: "loc" type: "Convolution" bottom: "pool" top: "loc"
  convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "loc_perm" type: "Permute" bottom: "loc" top: "loc_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "loc_flat" type: "Flatten" bottom: "loc_perm" top: "loc_flat" }
layer { name: "conf" type: "Convolution" bottom: "pool" top: "conf"
  convolution_param { num_output: 3 kernel_size: 1 } }
layer { name: "conf_perm" type: "Permute" bottom: "conf" top: "conf_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "conf_rows" type: "Reshape" bottom: "conf_perm" top: "conf_rows"
  reshape_param { shape { dim: 0 dim: -1 dim: 3 } } }
layer { name: "prob" type: "Softmax" bottom: "conf_rows" top: "prob" softmax_param { axis: 2 } }
layer { name: "prob_flat" type: "Flatten" bottom: "prob" top: "prob_flat" }
layer { name: "priors" type: "PriorBox" bottom: "pool" bottom: "data" top: "priors"
  prior_box_param { min_size: 8 step: 8 variance: 0.1 } }
layer { name: "detection_out" type: "DetectionOutput" bottom: "loc_flat" bottom: "prob_flat" bottom: "priors"
  top: "detection_out" include { phase: TEST }
  detection_output_param { num_classes: 3 background_label_id: 0 code_type: CENTER_SIZE keep_top_k: 50
    confidence_threshold: 0.1 nms_param { nms_threshold: 0.45 top_k: 100 } } }
"""
LABELS = """
item { name: "none_of_the_above" label: 0 display_name: "background" }
item { name: "blue" label: 1 display_name: "blue" }
item { name: "red" label: 2 display_name: "red" }
"""


@pytest.fixture(scope="session")
def together():
    """Returns a function that runs a command in several processes; see `Together.__call__`."""
    run = Together()
    yield run
    run.close()


@pytest.fixture(scope="session")
def block_model(tmp_path_factory):
    """Returns (deploy prototxt, caffemodel, label map); meant for mean 0 and scale 1/255."""
    from pyscratchdet.runtime import build_net, save_weights

    folder = tmp_path_factory.mktemp("blocks")
    deploy, weights, labels = folder / "deploy.prototxt", folder / "blocks.caffemodel", folder / "labelmap.prototxt"
    deploy.write_text(DEPLOY)
    labels.write_text(LABELS)
    net = build_net(str(deploy))
    for blob in net.params["loc"]:
        blob.detach().zero_()
    weight, bias = (blob.detach() for blob in net.params["conf"])
    weight.zero_()
    weight[1, 0], weight[2, 2] = 20.0, 20.0  # blue is channel 0, red channel 2
    bias[0], bias[1:] = 0.0, -10.0
    save_weights(net, weights)
    return deploy, weights, labels


@pytest.fixture
def detector(block_model):
    from pyscratchdet.detect.detector import Detector, Preparation

    deploy, weights, labels = block_model
    return Detector(deploy, weights, labels, preparation=Preparation((0.0,), 1 / 255), batch_size=2)


@pytest.fixture
def picture():
    """Returns a function that paints (channel, row, column) cells of the 4 x 6 grid on a black picture."""
    return _paint


def _paint(*blocks, height=64, width=144):
    image = np.zeros((height, width, 3), np.uint8)
    for channel, row, column in blocks:
        image[row * height // 4 : (row + 1) * height // 4, column * width // 6 : (column + 1) * width // 6, channel] = (
            255
        )
    return image


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Returns a torch device other than the CPU."""
    import torch
    from emulated import emulated

    if request.param == "emulated":
        with emulated() as device:
            yield device
    elif torch.cuda.is_available():
        yield torch.device("cuda")
    else:
        pytest.skip("no CUDA device")
