"""Weights files: round trips byte for byte, and damaged files."""

import random

import numpy as np
import pytest

from pyscratchdet.errors import PyScratchDetError, WeightsError
from pyscratchdet.proto import caffe_pb2, weights


def make_net():
    net = caffe_pb2.NetParameter(name="net")
    layer = net.layer.add(name="conv", type="Convolution")
    layer.blobs.append(weights.array_to_blob(np.arange(24, dtype=np.float32).reshape(2, 3, 4)))
    blob = net.layer.add(name="old", type="InnerProduct").blobs.add(num=1, channels=1, height=5, width=7)
    blob.data.extend(range(35))
    net.layer.add(name="double").blobs.add(double_data=[1.5, 2.5]).shape.dim.append(2)
    return net


def test_arrays_and_bytes_survive(tmp_path):
    data = make_net().SerializeToString()
    skeleton, found = weights.take_apart(data)
    arrays = [array for layer in found.layers for array in layer.arrays]
    assert [array.shape for array in arrays] == [(2, 3, 4), (1, 1, 5, 7), (2,)]
    np.testing.assert_array_equal(arrays[0].ravel(), np.arange(24))
    np.testing.assert_array_equal(arrays[2], [1.5, 2.5])
    assert weights.put_together(skeleton, arrays) == data


def test_hdf5_holds_the_same_arrays(tmp_path):
    path = tmp_path / "net.caffemodel.h5"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    weights.write_hdf5(path, make_net(), {"conv": [array]})
    np.testing.assert_array_equal(weights.read_weights(path).blobs["conv"][0], array)


def test_count_that_does_not_fit_names_the_layer():
    net = make_net()
    net.layer[0].blobs[0].shape.dim[0] = 9
    with pytest.raises(WeightsError, match="do not fit") as caught:
        weights.take_apart(net.SerializeToString(), "net.caffemodel")
    assert caught.value.layer == "conv"


def test_damaged_files_read_or_raise_a_typed_error():
    data = make_net().SerializeToString()
    rng = random.Random(7)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
        for _ in range(rng.randrange(1, 4)):
            if damaged:
                damaged[rng.randrange(min(len(damaged), 80))] = rng.randrange(256)
        try:
            weights.take_apart(bytes(damaged))
        except PyScratchDetError:
            refused += 1
    assert 100 < refused < 2000
