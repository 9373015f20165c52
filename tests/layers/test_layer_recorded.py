"""Forward and backward passes against what the original computed."""

import harness
import pytest

# Relative L2 error in float32. The second is for layers whose sums are so long that the order of summation shows.
TOLERANCE = 1e-5
LONG_SUM_TOLERANCE = 1e-4
LONG_SUMS = {"BatchNorm", "Convolution", "Deconvolution", "InnerProduct", "LRN", "MVN"}

NAMES = """
    AbsVal ArgMax BNLL BatchNorm Bias Concat Convolution Crop Deconvolution Dropout ELU Eltwise Embed Exp Flatten
    Im2col InnerProduct LRN Log MVN Normalize PReLU Permute Pooling Power ReLU Reduction Reshape SPP Scale Sigmoid
    Silence Slice Softmax Split TanH Threshold Tile
"""
TYPES = NAMES.split()


@pytest.mark.parametrize("case", harness.recorded_cases(*TYPES))
def test_recorded(case):
    errors = harness.errors(case)
    tolerance = LONG_SUM_TOLERANCE if case.split("/")[0] in LONG_SUMS else TOLERANCE
    assert errors == {key: pytest.approx(0, abs=tolerance) for key in errors}


@pytest.mark.parametrize("type_", TYPES)
def test_every_type_is_recorded(type_):
    assert harness.recorded_cases(type_)
