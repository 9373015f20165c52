"""ROIPooling against the loops that Fast R-CNN publishes, written out, and against onnxruntime."""

import math

import numpy as np
import onnx_stub
import pytest
import torch
from harness import make_layer

from pyscratchdet.errors import LayerError

FEATURES, POOLED = (2, 3, 7, 9), (3, 2)
REGIONS = np.array(
    [
        [0, 0, 0, 17, 13],  # the whole map
        [1, 3, 5, 12, 9],
        [0, 1, 1, 1, 1],  # one cell: at least 1 wide and high
        [1, 5, 7, 2, 3],  # turned round: also one cell
        [0, -9, -8, -5, -4],  # beside the map: empty cells
        [1, 15, 11, 40, 30],  # across its border
        [1, 1, 3, 9, 11],  # halves: 0.5, 1.5, 4.5, 5.5 are rounded away from zero
    ],
    np.float32,
)


def text(more="spatial_scale: 0.5"):
    param = f"roi_pooling_param {{ pooled_h: {POOLED[0]} pooled_w: {POOLED[1]} {more} }}"
    return f'name: "l" type: "ROIPooling" bottom: "x" bottom: "r" top: "t" {param}'


def rounded(value):
    """C's round: halves away from zero."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def span(index, start, length, pooled, size):
    """Cells [from, to) of one axis of the map that a cell of the top covers; float32, as in the original."""
    cell = np.float32(length) / np.float32(pooled)
    low = int(np.floor(np.float32(index) * cell)) + start
    high = int(np.ceil(np.float32(index + 1) * cell)) + start
    return min(max(low, 0), size), min(max(high, 0), size)


def loops(features, regions, scale, gradient):
    """Top and gradient of the features."""
    top, diff = np.zeros((len(regions), features.shape[1], *POOLED), np.float32), np.zeros_like(features)
    height, width = features.shape[2:]
    for n, region in enumerate(regions):
        image = int(region[0])
        xmin, ymin, xmax, ymax = (rounded(np.float32(value) * np.float32(scale)) for value in region[1:])
        for c, i, j in np.ndindex(features.shape[1], *POOLED):
            rows = span(i, ymin, max(ymax - ymin + 1, 1), POOLED[0], height)
            columns = span(j, xmin, max(xmax - xmin + 1, 1), POOLED[1], width)
            places = [(h, w) for h in range(*rows) for w in range(*columns)]
            if places:
                best = max(places, key=lambda place: features[image, c, place[0], place[1]])
                top[n, c, i, j] = features[image, c, best[0], best[1]]
                diff[image, c, best[0], best[1]] += gradient[n, c, i, j]
    return top, diff


@pytest.mark.parametrize("scale", [0.5, 1.0, 0.0625])
def test_against_loops(scale):
    random = np.random.default_rng(6)
    features = random.normal(size=FEATURES).astype(np.float32)
    layer, shapes = make_layer(text(f"spatial_scale: {scale}"), [FEATURES, REGIONS.shape])
    assert shapes == [(7, 3, *POOLED)]
    gradient = random.normal(size=shapes[0]).astype(np.float32)
    expected, diff = loops(features, REGIONS, scale, gradient)
    bottom, regions = torch.tensor(features, requires_grad=True), torch.tensor(REGIONS, requires_grad=True)
    (top,) = layer.forward([bottom, regions], [])
    np.testing.assert_array_equal(top.detach(), expected)
    top.backward(torch.tensor(gradient))
    # Sums of up to 42 gradients in another order.
    np.testing.assert_allclose(bottom.grad, diff, rtol=0, atol=1e-5)
    assert regions.grad is None
    found = onnx_stub.run(layer, [FEATURES, REGIONS.shape], [features, REGIONS], [], 17)
    np.testing.assert_array_equal(found[0], expected)


def test_regions_of_four_axes():
    features = torch.randn(FEATURES)
    layer, shapes = make_layer(text(), [FEATURES, (7, 5, 1, 1)])
    flat, _ = make_layer(text(), [FEATURES, (7, 5)])
    regions = torch.tensor(REGIONS)
    assert torch.equal(
        layer.forward([features, regions.view(7, 5, 1, 1)], [])[0], flat.forward([features, regions], [])[0]
    )
    assert shapes == [(7, 3, *POOLED)]


@pytest.mark.parametrize(
    ("shapes", "more", "code"),
    [
        ([FEATURES[1:], (4, 5)], "", "rank"),
        ([FEATURES, (4, 4)], "", "regions"),
        ([FEATURES, ()], "", "regions"),
        ([FEATURES, (4, 5)], "pooled_h: 0", "pooled"),
    ],
)
def test_refused(shapes, more, code):
    with pytest.raises(LayerError) as caught:
        make_layer(text().replace("pooled_h: 3", more or "pooled_h: 3"), shapes)
    assert caught.value.code == f"layer.{code}"


@pytest.mark.parametrize("image", [-1, 2])
def test_region_of_a_picture_that_is_not_there(image):
    layer, _ = make_layer(text(), [FEATURES, (1, 5)])
    with pytest.raises(LayerError, match="0 to 1") as caught:
        layer.forward([torch.ones(FEATURES), torch.tensor([[float(image), 0, 0, 3, 3]])], [])
    assert caught.value.code == "layer.image"
