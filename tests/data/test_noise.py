"""ApplyNoise (im_transforms.cpp), one field at a time, against what each means rather than against OpenCV's calls."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from google.protobuf import text_format

from pyscratchdet.data import pixels
from pyscratchdet.proto import caffe_pb2

NO_SPECKS = np.zeros((0, 2), int)


@pytest.fixture
def image() -> np.ndarray:
    """(11, 13, 3) uint8."""
    return np.random.default_rng(5).integers(0, 256, (11, 13, 3), dtype=np.uint8)


def apply(image: np.ndarray, text: str, specks: np.ndarray = NO_SPECKS) -> np.ndarray:
    return pixels.noise(image, text_format.Parse(text, caffe_pb2.NoiseParameter()), specks)


def test_no_field_changes_nothing(image):
    np.testing.assert_array_equal(apply(image, "prob: 1"), image)


def test_inverse_and_posterize(image):
    np.testing.assert_array_equal(apply(image, "inverse: true"), 255 - image)
    np.testing.assert_array_equal(apply(image, "posterize: true"), image // 64 * 64 + 32)


def test_decolorize_leaves_three_equal_channels_of_luma(image):
    found = apply(image, "decolorize: true")
    luma = image @ np.array([0.114, 0.587, 0.299])  # BGR, ITU-R BT.601
    for channel in range(3):
        np.testing.assert_allclose(found[..., channel], luma, atol=0.51)  # rounded to whole numbers


def test_erode_takes_the_least_of_a_cross(image):
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=255)
    shifted = [padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    np.testing.assert_array_equal(apply(image, "erode: true"), np.min(shifted, axis=0))


def test_gauss_blur_is_a_sum_with_seven_by_seven_weights():
    point = np.zeros((15, 15, 1), np.uint8)
    point[7, 7] = 255
    found = apply(point, "gauss_blur: true")
    weight = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    assert found.shape == point.shape
    # OpenCV's 8-bit filter works with weights of 8 bits.
    np.testing.assert_allclose(found[4:11, 4:11, 0], 255 * np.outer(weight, weight), atol=1.01)
    assert not found[:4].any()
    assert not found[11:].any()


@pytest.mark.parametrize("field", ["hist_eq", "clahe"])
def test_histograms_of_gray_pictures_are_spread(field):
    gray = np.tile(np.arange(100, 132, dtype=np.uint8), (32, 1))[..., None]
    found = apply(gray, f"{field}: true")
    assert found.shape == gray.shape
    assert np.ptp(found) > np.ptp(gray)
    if field == "hist_eq":  # each of 32 equally frequent values moves to its share of the range
        np.testing.assert_allclose(found[0, :, 0], np.arange(32) * 255 / 31, atol=0.51)  # rounded to whole numbers


def test_histograms_of_coloured_pictures_keep_the_colours(image):
    pale = image // 4 + 96
    found = apply(pale, "hist_eq: true").astype(int)
    assert np.ptp(found @ [0.114, 0.587, 0.299]) > np.ptp(pale @ [0.114, 0.587, 0.299])
    # Cr and Cb are differences of a channel and the luma; where nothing is clipped they stay, but for three roundings.
    inside = ((found > 0) & (found < 255)).all(-1)
    before, after = pale.astype(int), found
    for one, other in ((0, 1), (2, 1)):
        np.testing.assert_allclose((after[..., one] - after[..., other])[inside],
                                   (before[..., one] - before[..., other])[inside], atol=3)  # fmt: skip


def test_jpeg_of_low_quality_loses_more(image):
    losses = [np.abs(apply(image, f"jpeg: {quality}").astype(int) - image).mean() for quality in (5, 50, 100)]
    assert losses[0] > losses[1] > losses[2]


def test_specks_get_their_colour(image):
    specks = np.array([[0, 0], [12, 10], [3, 7]])
    found = apply(image, "saltpepper: true saltpepper_param { value: 1 value: 2 value: 3 }", specks)
    changed = (found != image).any(-1)
    assert changed.sum() == 3
    for x, y in specks:
        assert found[y, x].tolist() == [1, 2, 3]


def test_specks_are_a_share_of_the_picture():
    param = text_format.Parse("saltpepper: true saltpepper_param { fraction: 0.1 }", caffe_pb2.NoiseParameter())
    assert pixels.num_specks(param, 11, 13) == 14
    param.saltpepper = False
    assert pixels.num_specks(param, 11, 13) == 0


def test_hsv(image):
    found = apply(image, "convert_to_hsv: true").reshape(-1, 3)
    for (blue, green, red), (hue, saturation, value) in zip(image.reshape(-1, 3) / 255, found, strict=True):
        expected = np.array(colorsys.rgb_to_hsv(red, green, blue)) * (180, 255, 255)  # OpenCV's 8-bit ranges
        difference = np.abs(expected - (hue, saturation, value))
        difference[0] = min(difference[0], 180 - difference[0])  # hue is a circle
        assert (difference <= 1).all()  # rounded to whole numbers, in fixed-point arithmetic


def test_lab_of_white_black_and_gray():
    shades = np.array([[[255] * 3, [0] * 3, [119] * 3]], np.uint8)
    found = apply(shades, "convert_to_lab: true")
    # CIE 1976 L* of sRGB: white 100, black 0, and 119 the well-known middle gray of 50; no colour in any.
    # OpenCV takes gamma and cube root from splines.
    np.testing.assert_allclose(found[0], [[100, 0, 0], [0, 0, 0], [50.03, 0, 0]], atol=0.25)
