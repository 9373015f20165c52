import detection_cases as cases
import numpy as np
import pytest
import torch

from pyscratchdet.errors import LayerError
from pyscratchdet.proto.numbers import binary_dialect

ROUNDING = 1e-6  # relative: float32 corners, and a difference of two of them
MAP, IMAGE = (1, 3, 2, 5), (1, 3, 40, 100)


@pytest.mark.parametrize("name", cases.recorded("PriorBox"))
def test_recorded_to_the_bit(name):
    layer, bottoms, record = cases.load(name)
    shapes, (top,) = cases.run(layer, bottoms)
    assert shapes == [tuple(top.shape)] == [record["out:t0"].shape]
    assert np.array_equal(top.numpy(), record["out:t0"])


def priors(text, shape=MAP, image=IMAGE):
    layer = cases.make(f'type: "PriorBox" prior_box_param {{ {text} }}')
    _, (top,) = cases.run(layer, [torch.zeros(shape), torch.zeros(image)])
    return top.numpy()[0].reshape(2, -1, 4)


def test_sizes_are_cut_off_and_ratios_not_repeated():
    # 35.84 is 35, 76.8 is 76; ratio 1 and the repeated 2 and 0.5 are dropped: 4 boxes in each cell.
    boxes, variances = priors("min_size: 35.84 max_size: 76.8 aspect_ratio: 1 aspect_ratio: 2 aspect_ratio: 0.5")
    assert boxes.shape == (2 * 5 * 4, 4)
    widths = (boxes[:4, 2] - boxes[:4, 0]) * 100
    np.testing.assert_allclose(widths, [35, (35 * 76) ** 0.5, 35 * 2**0.5, 35 / 2**0.5], rtol=ROUNDING)
    np.testing.assert_allclose((boxes[0, 0] + boxes[0, 2]) * 50, 0.5 * 100 / 5, rtol=ROUNDING)
    assert (variances == np.float32(0.1)).all()


def test_clip_steps_offset_and_variances():
    boxes, variances = priors(
        "min_size: 30 flip: false aspect_ratio: 4 clip: true step_w: 10 step_h: 30 offset: 0.25"
        " img_w: 50 img_h: 80 variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4"
    )
    assert boxes.shape == (2 * 5 * 2, 4)
    np.testing.assert_allclose(boxes[0], [0, 0, 17.5 / 50, 22.5 / 80], rtol=ROUNDING)
    np.testing.assert_allclose(boxes[1], [0, 0, 32.5 / 50, 15 / 80], rtol=ROUNDING)
    np.testing.assert_allclose(boxes[-2], [27.5 / 50, 22.5 / 80, 1, 52.5 / 80], rtol=ROUNDING)
    assert np.array_equal(variances[7], np.float32([0.1, 0.2, 0.3, 0.4]))


def test_the_top_may_be_written_to_and_shapes_may_change():
    layer = cases.make('type: "PriorBox" prior_box_param { min_size: 10 }')
    bottoms = [torch.zeros(MAP), torch.zeros(IMAGE)]
    _, (first,) = cases.run(layer, bottoms)
    kept = first.clone()
    first.zero_()
    assert torch.equal(layer.forward(bottoms, [])[0], kept)
    assert layer.forward([torch.zeros(1, 3, 4, 3), bottoms[1]], [])[0].shape == (1, 2, 4 * 3 * 4)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "min-size"),
        ("min_size: 0", "min-size"),
        ("min_size: -3", "min-size"),
        ("min_size: 10 max_size: 10", "max-size"),
        ("min_size: 10 min_size: 20 max_size: 30", "max-size"),
        ("min_size: 10 aspect_ratio: 0", "aspect-ratio"),
        ("min_size: 10 variance: 0.1 variance: 0.2", "variance"),
        ("min_size: 10 variance: 0", "variance"),
        ("min_size: 10 img_size: 30 img_h: 30", "img-size"),
        ("min_size: 10 img_h: 30", "img-size"),
        ("min_size: 10 step: 8 step_h: 8", "step"),
        ("min_size: 10 step_w: 8", "step"),
        ("min_size: 10 step: 0", "step"),
        ("fixed_size: 10", "density"),
        ("fixed_size: 10 density: 2 min_size: 2", "density"),
        ("fixed_size: 10 density: 0.5", "fixed"),
    ],
)
def test_rules(text, code):
    layer = cases.make(f'type: "PriorBox" prior_box_param {{ {text} }}')
    with pytest.raises(LayerError) as caught:
        layer.setup([MAP, IMAGE])
    assert caught.value.code == f"layer.{code}"
    assert caught.value.layer == "layer"


def test_an_empty_map_is_refused():
    layer = cases.make('type: "PriorBox" prior_box_param { min_size: 10 }')
    layer.setup([MAP, IMAGE])
    with pytest.raises(LayerError, match="empty"):
        layer.reshape([(1, 3, 0, 5), IMAGE])


def clustered(text):
    return cases.make(f'type: "PriorBoxClustered" prior_box_param {{ {text} }}')


def test_clustered_priors_have_the_given_sizes():
    """PriorBoxClustered-1 of OpenVINO's operation specification, place by place."""
    widths, heights, step, offset, image = (12.5, 30, 7), (40, 9.25, 7), 20, 0.25, (40, 100)
    sizes = " ".join(f"width: {w} height: {h}" for w, h in zip(widths, heights, strict=True))
    text = f"{sizes} step: {step} offset: {offset} clip: true variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2"
    shapes, (top,) = cases.run(clustered(text), [torch.zeros(MAP), torch.zeros(IMAGE)])
    expected = []
    for h in range(2):
        for w in range(5):
            x, y = (w + offset) * step, (h + offset) * step
            for width, height in zip(widths, heights, strict=True):
                box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
                expected.append(np.clip(np.divide(box, [image[1], image[0]] * 2), 0, 1))
    assert shapes == [(1, 2, 2 * 5 * 3 * 4)]
    np.testing.assert_allclose(top[0, 0].reshape(-1, 4), expected, rtol=ROUNDING)
    np.testing.assert_array_equal(top[0, 1].reshape(-1, 4)[4], np.float32([0.1, 0.1, 0.2, 0.2]))


@pytest.mark.parametrize("text", ["", "width: 3", "width: 3 height: 0", "min_size: 3"])
def test_clustered_priors_refused(text):
    with pytest.raises(LayerError) as caught:
        cases.run(clustered(text), [torch.zeros(MAP), torch.zeros(IMAGE)])
    assert caught.value.code == "layer.size"


def places(sizes):
    """One prior a row as centre x, centre y, width, height in pixels, for a cell of 32 pixels and its image of 64."""
    return [((x - w / 2) / 64, (y - h / 2) / 64, (x + w / 2) / 64, (y + h / 2) / 64) for x, y, w, h in sizes]


def second_cell(text, image=(1, 3, 64, 64)):
    """The priors of the cell whose centre is (48, 16), 2 x 2 cells in all."""
    boxes, _ = priors(text, (1, 3, 2, 2), image)
    assert len(boxes) % 4 == 0
    return boxes.reshape(4, -1, 4)[1]


def test_textboxes_repeats_each_prior_at_the_lower_border_of_its_cell():
    """prior_box_layer.cpp of MhLiao/TextBoxes_plusplus: (h + 1) * step, after each prior."""
    found = second_cell("min_size: 9 max_size: 16 aspect_ratio: 4 denser_prior_boxes: true")
    sizes = [(9, 9), (12, 12), (18, 4.5), (4.5, 18)]
    expected = places([(48, y, *size) for size in sizes for y in (16, 32)])
    np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING)


def test_faceboxes_lays_its_small_priors_densely():
    """prior_box_layer.cpp of sfzhang15/FaceBoxes: moved by -2 to 1 times 8 pixels, by -1 and 0 times 16; narrower."""
    with binary_dialect("faceboxes"):
        found = second_cell("min_size: 32 min_size: 64 min_size: 128")
        large = second_cell("min_size: 256 clip: true")
    rows = [(48 + x, 16 + y, 31, 31) for y in (-16, -8, 0, 8) for x in (-16, -8, 0, 8)]
    rows += [(48 + x, 16 + y, 63, 63) for y in (-16, 0) for x in (-16, 0)] + [(48, 16, 127, 127)]
    np.testing.assert_allclose(found, places(rows), rtol=ROUNDING, atol=ROUNDING)
    assert large.tolist() == [[0, 0, 1, 1]]
    assert len(second_cell("min_size: 32 min_size: 64 min_size: 128")) == 3  # without the dialect, SSD's


@pytest.mark.parametrize("text", ["min_size: 32", "min_size: 32 min_size: 64 min_size: 64", "min_size: 9 max_size: 20"])
def test_faceboxes_has_room_for_its_own_priors_only(text):
    with binary_dialect("faceboxes"), pytest.raises(LayerError, match="no room") as caught:
        priors(text)
    assert caught.value.code == "layer.dialect"


# The second cell's priors in pixels, computed by OpenVINO 2026.4's PriorBox-8.
FIXED = {
    "fixed_size: 20.5 density: 3": [
        [31.0, 0.0, 51.0, 19.0],
        [37.0, 0.0, 57.0, 19.0],
        [43.0, 0.0, 63.0, 19.0],
        [31.0, 5.0, 51.0, 25.0],
        [37.0, 5.0, 57.0, 25.0],
        [43.0, 5.0, 63.0, 25.0],
        [31.0, 11.0, 51.0, 31.0],
        [37.0, 11.0, 57.0, 31.0],
        [43.0, 11.0, 63.0, 31.0],
    ],
    "fixed_size: 30 density: 2 offset: 0.25 step: 32": [
        [17.5, 0.0, 47.5, 15.5],
        [32.5, 0.0, 62.5, 15.5],
        [17.5, 0.5, 47.5, 30.5],
        [32.5, 0.5, 62.5, 30.5],
    ],
    "fixed_size: 21 fixed_size: 9 density: 2 density: 1": [
        [32.0, 0.0, 53.0, 21.0],
        [42.0, 0.0, 63.0, 21.0],
        [32.0, 10.0, 53.0, 31.0],
        [42.0, 10.0, 63.0, 31.0],
        [43.5, 11.5, 52.5, 20.5],
    ],
}


@pytest.mark.parametrize("text", FIXED)
def test_fixed_sizes_as_openvino_computes_them(text):
    np.testing.assert_allclose(second_cell(text) * 64, FIXED[text], atol=1e-5)  # float32 pixels up to 64
