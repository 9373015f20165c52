"""A Python layer as pycaffe has them, on numpy arrays.

A net names the module and the class. A file by itself never runs code: the net is built where Python layers are
allowed.
"""

import numpy as np

import pyscratchdet
import pyscratchdet.caffe as caffe
from pyscratchdet.layers.python_layer import python_layers_allowed
from pyscratchdet.proto import caffe_pb2, text


class MeanOverWidth(caffe.Layer):
    """Averages each row of a map: (N, C, H, W) to (N, C, H)."""

    def setup(self, bottom, top):
        """Reads parameters, once; there are none."""

    def reshape(self, bottom, top):
        """Says how large the top is."""
        top[0].reshape(*bottom[0].data.shape[:3])

    def forward(self, bottom, top):
        """Computes the top."""
        top[0].data[...] = bottom[0].data.mean(axis=3)

    def backward(self, top, propagate_down, bottom):
        """Computes the gradient."""
        width = bottom[0].data.shape[3]
        bottom[0].diff[...] = np.repeat(top[0].diff[..., None] / width, width, axis=3)


NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 4 } } }
layer { name: "mean" type: "Python" bottom: "data" top: "mean"
        python_param { module: "python_layer" layer: "MeanOverWidth" } }
"""

if __name__ == "__main__":  # the net imports this file again, by its name
    with python_layers_allowed():
        net = pyscratchdet.build_net(text.parse(NET, caffe_pb2.NetParameter))
    print(net(np.arange(24.0).reshape(1, 2, 3, 4))["mean"].tolist())
