"""ONNX forms, run by onnxruntime, against the layers' own forward pass."""

import onnx_stub
import pytest
import torch
from layer_cases import CASES, case_id
from layer_values import build, values

from pyscratchdet.errors import ConversionError

# Relative to the largest value: another order of summation in float32.
TOLERANCE = 1e-5


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("case", [case for case in CASES if case.onnx], ids=case_id)
def test_onnx(case, opset):
    layer, shapes = build(case)
    batches = (2, 3) if case.dynamic and len(case.bottoms) == 1 and case.bottoms[0][0] == 2 else (None,)
    for batch in batches:
        bottoms_shapes = tuple((batch, *shape[1:]) for shape in case.bottoms) if batch else case.bottoms
        bottoms, blobs = values(case, layer, bottoms_shapes)
        arrays = [bottom.numpy() for bottom in bottoms], [blob.numpy() for blob in blobs]
        # The model is made for the case's shapes, and run with another batch size.
        found = onnx_stub.run(layer, case.bottoms, *arrays, opset, case.dynamic)
        layer.reshape(bottoms_shapes)
        expected = layer.forward(bottoms, blobs)
        assert len(found) == len(expected) == len(shapes)
        for mine, theirs in zip(expected, found, strict=True):
            assert theirs.shape == tuple(mine.shape)
            bound = TOLERANCE * max(1.0, float(mine.abs().max()))
            torch.testing.assert_close(torch.from_numpy(theirs), mine, rtol=0, atol=bound)


@pytest.mark.parametrize("case", [case for case in CASES if not case.onnx], ids=case_id)
def test_no_onnx_form(case):
    layer, _ = build(case)
    bottoms, blobs = values(case, layer, case.bottoms)
    with pytest.raises(ConversionError) as caught:
        onnx_stub.run(layer, case.bottoms, [b.numpy() for b in bottoms], [b.numpy() for b in blobs], 17)
    assert caught.value.code == "onnx.unsupported"
    assert caught.value.layer == "layer"
