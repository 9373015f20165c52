"""A layer type of one's own, with a weight: a gate per channel, learned in a plain PyTorch loop.

Registered, it is a type like all others: it is in summaries, learns, and its weight is saved and loaded.
"""

import torch

import pyscratchdet
from pyscratchdet.layers import Layer, register
from pyscratchdet.layers.base import BlobSpec
from pyscratchdet.proto import caffe_pb2, text


@register("ChannelGate")
class ChannelGate(Layer):
    """Multiplies each channel by the sigmoid of a learned number: (N, C, H, W) to the same."""

    coordinates = "same"

    def setup(self, bottoms):
        """Declares the weight, one number per channel."""
        self.blobs = [BlobSpec("weight", (bottoms[0][1],))]

    def reshape(self, bottoms):
        """The top is as large as the bottom."""
        return [bottoms[0]]

    def forward(self, bottoms, blobs):
        """The gradient comes from PyTorch."""
        return [bottoms[0] * torch.sigmoid(blobs[0]).view(1, -1, 1, 1)]


NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 6 dim: 5 } } }
layer { name: "gate" type: "ChannelGate" bottom: "data" top: "gated" }
"""

torch.manual_seed(0)
net = pyscratchdet.build_net(text.parse(NET, caffe_pb2.NetParameter), "TRAIN")
data = torch.randn(4, 3, 6, 5)
wanted = data * torch.tensor([0.9, 0.5, 0.1]).view(1, -1, 1, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=50.0)
for _ in range(300):
    loss = ((net(data)["gated"] - wanted) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
gates = torch.sigmoid(net.params["gate"][0]).tolist()
print("gates:", ", ".join(f"{gate:.2f}" for gate in gates))
