"""Random streams against boost's and the C library's documented and recorded values."""

import numpy as np
import pytest

from pyscratchdet.rng import CaffeRandom, LibcRandom


def test_raw_is_the_reference_mt19937():
    # The reference program's first outputs for the default seed 5489.
    assert CaffeRandom(5489).raw(3).tolist() == [3499211612, 581869302, 3890346734]


def test_libc_is_glibcs_rand():
    random = LibcRandom()
    assert [random.integer() for _ in range(4)] == [1804289383, 846930886, 1681692777, 1714636915]


def test_uniform_is_the_output_over_two_to_the_32():
    raw = CaffeRandom(7).raw(5)
    expected = raw.astype(np.float32) / np.float32(2**32) * np.float32(9) + np.float32(-8)
    # nextafter(1) - (-8) rounds to 9 in float32.
    np.testing.assert_array_equal(CaffeRandom(7).uniform(-8, 1, 5), expected)


def test_uniform_of_one_value_repeats_until_it_is_that_value():
    # Half the outputs round up to nextafter(1), which boost refuses and draws again.
    random = CaffeRandom(3)
    np.testing.assert_array_equal(random.uniform(1, 1, 9), np.ones(9, np.float32))
    reference = CaffeRandom(3)
    drawn = [reference.uniform_one(1, 1) for _ in range(9)]
    assert drawn == [1] * 9
    assert random.integer() == reference.integer()


def test_uniform_refuses_reversed_bounds():
    with pytest.raises(ValueError, match="a <= b"):
        CaffeRandom(1).uniform(1, 0.5, 2)


@pytest.mark.parametrize("size", [1, 1000, 20011])
def test_gaussian_does_not_depend_on_how_it_is_asked(size):
    whole = CaffeRandom(11)
    values = whole.gaussian(2, 0.5, size)
    parts = CaffeRandom(11)
    cut = size // 3
    np.testing.assert_array_equal(
        np.concatenate([parts.gaussian(2, 0.5, cut), parts.gaussian(2, 0.5, size - cut)]), values
    )
    assert whole.integer() == parts.integer()


def test_gaussian_is_normal():
    values = CaffeRandom(5).gaussian(0, 1, 200_000)
    # Four standard errors of 200,000 draws; the tail beyond 3.44 comes from its own branch.
    assert abs(values.mean()) < 4 / np.sqrt(200_000)
    assert abs(values.std() - 1) < 4 / np.sqrt(400_000)
    assert 60 < (np.abs(values) > 3.4426198).sum() < 170
    assert abs((np.abs(values) < 1).mean() - 0.6827) < 0.005


def test_bernoulli_zero_draws_nothing():
    random = CaffeRandom(9)
    assert random.bernoulli(0, 4).tolist() == [0, 0, 0, 0]
    assert random.integer() == CaffeRandom(9).integer()
    assert CaffeRandom(9).bernoulli(1, 6).tolist() == [1] * 6


def test_uniform_int_divides_the_range():
    raw = CaffeRandom(13).raw(6).tolist()
    random = CaffeRandom(13)
    assert [random.uniform_int(6) for _ in range(6)] == [value // (2**32 // 7) for value in raw]
    assert random.uniform_int(0) == 0


def test_shuffle_swaps_from_the_end():
    raw = CaffeRandom(17).raw(3).tolist()
    expected = list("abcd")
    for last, value in zip((3, 2, 1), raw, strict=True):
        other = value // (2**32 // (last + 1))
        expected[last], expected[other] = expected[other], expected[last]
    items = list("abcd")
    CaffeRandom(17).shuffle(items)
    assert items == expected


def test_state_continues_the_stream():
    random = CaffeRandom(21)
    random.raw(701)
    state = random.state
    following = random.raw(5).tolist()
    other = CaffeRandom(1)
    other.state = state
    assert other.raw(5).tolist() == following


def test_peeking_draws_nothing():
    random, reference = CaffeRandom(23), CaffeRandom(23)
    expected = reference.raw(9).tolist()
    assert random.peek(5).tolist() == expected[:5]
    assert random.integer() == expected[0]
    other = CaffeRandom(1)
    other.state = random.state
    for stream in (random, other):
        assert stream.raw(6).tolist() == expected[1:7]
        assert stream.below(1000) == expected[7] % 1000
