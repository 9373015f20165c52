"""Detection on another device finds what the CPU finds."""

import numpy as np
import pytest
import torch

from pyscratchdet.caffe import mode
from pyscratchdet.caffe.pycaffe import Net as CaffeNet
from pyscratchdet.detect.engine import TorchDetection


@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_rows(block_model, device, batch):
    pictures = np.zeros((batch, 3, 32, 48), np.float32)
    pictures[0, 0, 8:16, 16:24], pictures[-1, 2, 16:24, 8:16] = 1, 1
    found, expected = (TorchDetection(*block_model[:2], device=place).find(pictures) for place in (device, "cpu"))
    assert len(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)  # sums in another order on a GPU


def test_pycaffe(block_model, device, monkeypatch):
    """Arrays of blobs are copies on the host, which what is written into them must leave again."""
    results = []
    for place in (device, "cpu"):
        monkeypatch.setattr(mode, "_device", torch.device(place))
        net = CaffeNet(str(block_model[0]), str(block_model[1]), 1)
        net.blobs["data"].data[...] = np.linspace(0, 1, 3 * 32 * 48).reshape(1, 3, 32, 48)
        net.forward()
        net.blobs["conf"].diff[...] = 2
        net.backward(start="conf")
        results.append(
            [net.blobs["prob"].data.copy(), net.blobs["pool"].diff.copy(), net.params["conf"][0].diff.copy()]
        )
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)  # sums in another order on a GPU
