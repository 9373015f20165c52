"""Detection on another device finds what the CPU finds."""

import numpy as np
import pytest

from pyscratchdet.detect.engine import TorchDetection


@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_rows(block_model, device, batch):
    pictures = np.zeros((batch, 3, 32, 48), np.float32)
    pictures[0, 0, 8:16, 16:24], pictures[-1, 2, 16:24, 8:16] = 1, 1
    found, expected = (TorchDetection(*block_model[:2], device=place).find(pictures) for place in (device, "cpu"))
    assert len(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)  # sums in another order on a GPU
