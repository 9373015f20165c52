"""The transformed 3x3 convolution against the direct one in float64, alone and inside detection mode."""

import pytest
import torch
from google.protobuf import text_format

from pyscratchdet.proto import caffe_pb2
from pyscratchdet.runtime import OptimizedNet, build_net, winograd

# Relative L2. The transforms multiply by up to 8 and take differences again, so errors are several times those of the
# direct sum in float32, which is off by 5e-7.
TOLERANCE = 5e-6


@pytest.mark.parametrize("pad", [(0, 0), (1, 1), (2, 1), (0, 3)])
@pytest.mark.parametrize("size", [(3, 4), (5, 9), (8, 16), (19, 14)])
def test_against_the_direct_sum(size, pad):
    generator = torch.Generator().manual_seed(2)
    bottom = torch.randn(2, 7, *size, generator=generator)
    weight = torch.randn(5, 7, 3, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator)
    expected = torch.nn.functional.conv2d(bottom.double(), weight, padding=pad)
    coefficients = winograd.transform(weight)
    for given, wanted in ((None, expected), (bias, expected + bias.double().view(-1, 1, 1))):
        found = winograd.convolve(bottom, coefficients, given, pad)
        assert found.shape == wanted.shape
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert (found - wanted).norm() <= TOLERANCE * wanted.norm()


NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 128 dim: 9 dim: 7 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 130 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { filler { value: 0.7 } bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "last" type: "Convolution" bottom: "conv" top: "last"
        convolution_param { num_output: 130 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "conv" bottom: "last" top: "sum" }
layer { name: "few" type: "Convolution" bottom: "sum" top: "few"
        convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
"""


def test_the_plain_way_gives_the_same(monkeypatch):
    net = build_net(text_format.Parse(NET, caffe_pb2.NetParameter()))
    data = torch.randn((2, 128, 9, 7), generator=torch.Generator().manual_seed(5))
    found = OptimizedNet(net)(data)["few"]
    monkeypatch.setattr(winograd, "faster", lambda layer, arrays: None)
    plain = OptimizedNet(net)
    expected = plain(data)["few"]
    assert not any(step.is_transformed for step in plain._program.steps)
    assert (found - expected).norm() <= TOLERANCE * expected.norm()


def test_in_detection_mode():
    net = build_net(text_format.Parse(NET, caffe_pb2.NetParameter()))
    fast = OptimizedNet(net)
    for shape in ((2, 128, 9, 7), (1, 128, 12, 13)):
        data = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            expected = net(data)["few"]
        assert (fast(data)["few"] - expected).norm() <= TOLERANCE * expected.norm()
    transformed = [step.module.name for step in fast._program.steps if step.is_transformed]
    assert transformed == ["conv", "last"]
