"""Python layers of published nets, by code of our own."""

import numpy as np
import pytest
import torch
from harness import make_layer

from pyscratchdet.errors import LayerError
from pyscratchdet.layers.python_layer import python_layers_allowed
from pyscratchdet.rng import CaffeRandom


def python(module, name, param_str, bottoms, tops):
    made = " ".join(f'top: "t{k}"' for k in range(tops))
    param = f'python_param {{ module: "{module}" layer: "{name}" param_str: "{param_str}" }}'
    return make_layer(f'name: "l" type: "Python" {made} {param}', bottoms)


DATA = [
    ("voc_layers", "VOCSegDataLayer", "{'split': 'val'}", [(1, 3, 500, 500), (1, 1, 500, 500)]),
    ("voc_layers", "SBDDSegDataLayer", "{'split': 'train'}", [(1, 3, 500, 500), (1, 1, 500, 500)]),
    ("pascalcontext_layers", "PASCALContextSegDataLayer", "{}", [(1, 3, 500, 500), (1, 1, 500, 500)]),
    ("siftflow_layers", "SIFTFlowSegDataLayer", "{}", [(1, 3, 256, 256), *[(1, 1, 256, 256)] * 2]),
    ("nyud_layers", "NYUDSegDataLayer", "{'tops': ['color', 'hha', 'depth', 'label'], 'seed': 1}",
     [(1, 3, 425, 560), (1, 3, 425, 560), (1, 1, 425, 560), (1, 1, 425, 560)]),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "param_str", "expected"), DATA)
def test_data_of_fcn_has_shapes_and_does_not_run(module, name, param_str, expected, caplog):
    layer, shapes = python(module, name, param_str, [], len(expected))
    assert shapes == expected
    assert f"assumed to be {expected[0][2]}x{expected[0][3]}" in caplog.text
    assert "--allow-python" in str(layer.only_shapes_known())


def test_the_loss_of_the_examples_has_a_shape():
    layer, shapes = python("pyloss", "EuclideanLossLayer", "", [(5, 3), (5, 3)], 1)
    assert shapes == [(1,)]
    assert layer.only_shapes_known().code == "layer.only-shapes"


def test_where_modules_are_allowed_our_code_still_stands_in_for_missing_ones():
    with python_layers_allowed():
        assert python("voc_layers", "VOCSegDataLayer", "{}", [], 2)[1][0] == (1, 3, 500, 500)


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_dropout_of_enet(phase):
    """The loops of spatial_dropout.py: a mask and 1 / (1 - p) in TRAIN, 1 / (1 - p) in TEST."""
    layer, shapes = python(
        "spatial_dropout", "SpatialDropoutLayer", f"{{'phase': '{phase}', 'p': '0.25'}}", [(2, 9, 3, 4)], 1
    )
    assert shapes == [(2, 9, 3, 4)]
    assert not layer.only_shapes
    bottom = torch.rand(2, 9, 3, 4, requires_grad=True)
    (top,) = layer.forward([bottom], [])
    mask = CaffeRandom(1).bernoulli(0.75, 18).reshape(2, 9) if phase == "TRAIN" else np.ones((2, 9))
    assert 0 < mask.sum() < (18 if phase == "TRAIN" else 19)
    factors = np.zeros((2, 9, 3, 4))
    for i, j in np.ndindex(2, 9):
        factors[i, j] = mask[i, j] / 0.75
    np.testing.assert_allclose(top.detach(), bottom.detach().numpy() * factors, rtol=1e-6)  # float32
    top.sum().backward()
    np.testing.assert_allclose(bottom.grad, factors, rtol=1e-6)  # float32


@pytest.mark.parametrize(
    ("module", "name", "param_str", "bottoms", "tops", "code"),
    [
        ("voc_layers", "VOCSegDataLayer", "{}", [], 3, "tops"),
        ("nyud_layers", "NYUDSegDataLayer", "{'tops': ['colour']}", [], 1, "param-str"),
        ("nyud_layers", "NYUDSegDataLayer", "__import__('os')", [], 1, "param-str"),
        ("nyud_layers", "NYUDSegDataLayer", "3", [], 1, "param-str"),
        ("spatial_dropout", "SpatialDropoutLayer", "{'phase': 'TRAIN', 'p': '1'}", [(1, 2)], 1, "param-str"),
        ("spatial_dropout", "SpatialDropoutLayer", "{'phase': 'X', 'p': '0.5'}", [(1, 2)], 1, "param-str"),
        ("spatial_dropout", "SpatialDropoutLayer", "{'p': []}", [(1, 2)], 1, "param-str"),
        ("pyloss", "EuclideanLossLayer", "", [(5, 3), (5, 4)], 1, "bottoms"),
    ],
)
def test_refused(module, name, param_str, bottoms, tops, code):
    with pytest.raises(LayerError) as caught:
        python(module, name, param_str, bottoms, tops)
    assert caught.value.code == f"layer.{code}"
