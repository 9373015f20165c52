"""A batch size that a net file writes out is found out where it is written."""

import pytest
import torch

import pyscratchdet
from pyscratchdet.errors import LayerError
from pyscratchdet.proto import caffe_pb2, text

HEADS = """
layer {{ name: "in" type: "Input" top: "data" input_param {{ shape {{ dim: {batch} dim: 4 dim: 2 dim: 3 }} }} }}
layer {{ name: "prior" type: "PriorBox" bottom: "data" bottom: "data" top: "prior"
  prior_box_param {{ min_size: 2 variance: 0.1 }} }}
layer {{ name: "priors" type: "Reshape" bottom: "prior" top: "priors"
  reshape_param {{ shape {{ dim: 1 dim: 2 dim: -1 }} }} }}
layer {{ name: "perm" type: "Permute" bottom: "data" top: "perm"
  permute_param {{ order: 0 order: 2 order: 3 order: 1 }} }}
layer {{ name: "loc" type: "Reshape" bottom: "perm" top: "loc" reshape_param {{ shape {{ dim: {first} dim: -1 }} }} }}
layer {{ name: "conf" type: "Slice" bottom: "perm" top: "c0" top: "c1" slice_param {{ axis: 3 }} }}
layer {{ name: "flat" type: "Flatten" bottom: "c0" top: "conf" }}
layer {{ name: "silence" type: "Silence" bottom: "c1" }}
layer {{ name: "det" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "priors" top: "det"
  detection_output_param {{ num_classes: 2 nms_param {{ nms_threshold: 0.4 }} code_type: CENTER_SIZE }} }}
"""


def build(first, batch=1):
    return pyscratchdet.build_net(text.parse(HEADS.format(first=first, batch=batch), caffe_pb2.NetParameter))


def test_the_reshape_is_named_at_another_batch():
    net = build(1)
    with pytest.raises(LayerError, match=r'"loc" \(Reshape\).*fixes the batch size.*"det".*priors') as caught:
        net.reshape({"data": (8, 4, 2, 3)})
    assert (caught.value.code, caught.value.expected, caught.value.found) == ("layer.fixed-batch", 1, 8)
    # The net is as before, with what its layers keep of their shapes.
    assert net.blob_shapes["loc"] == (1, 24)
    assert net(torch.zeros(1, 4, 2, 3))["det"].shape[-1] == 7


def test_the_reshape_is_named_when_the_net_is_built():
    with pytest.raises(LayerError, match=r'"loc" \(Reshape\)') as caught:
        build(1, batch=3)
    assert caught.value.code == "layer.fixed-batch"


def test_a_batch_that_is_copied():
    net = build(0)
    net.reshape({"data": (8, 4, 2, 3)})
    assert net.plan.fixed_batch() is None
    assert net.blob_shapes["loc"] == (8, 24)
    with pytest.raises(LayerError) as caught:
        net.reshape({"data": (8, 5, 2, 3)})
    assert caught.value.code != "layer.fixed-batch"


@pytest.mark.parametrize(("first", "batch", "expected"), [(1, 1, 1), (3, 3, 3), (0, 3, None), (-1, 3, None)])
def test_fixed_batch(first, batch, expected):
    source = HEADS.format(first=first, batch=batch).replace("dim: -1 } } }", "dim: 24 } } }") if first == -1 else None
    net = pyscratchdet.build_net(text.parse(source or HEADS.format(first=first, batch=batch), caffe_pb2.NetParameter))
    shapes = net.blob_shapes
    assert net.plan.fixed_batch() == expected
    assert net.blob_shapes == shapes
    assert net(torch.zeros(batch, 4, 2, 3))["det"].shape[-1] == 7


def test_a_reshape_that_merges_the_batch_without_harm():
    """It runs, as in the original, but is bound to its batch size all the same."""
    layers = HEADS.format(first=1, batch=1).split('layer { name: "conf"')[0]
    net = pyscratchdet.build_net(text.parse(layers, caffe_pb2.NetParameter))
    assert net.plan.fixed_batch() == 1
    net.reshape({"data": (2, 4, 2, 3)})
    assert net.blob_shapes["loc"] == (1, 48)
