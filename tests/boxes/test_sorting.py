"""The order of equal keys against what std::sort of libstdc++ (GCC) printed for them, compiled with -O1."""

import pytest

from pyscratchdet.boxes.sorting import std_sort_descending

KEYS = {
    "three levels": [(7 * i * i + 3 * i) % 3 / 2 for i in range(37)],
    "all equal": [1.0] * 24,
    "falling pairs": [float((60 - i) // 2) for i in range(41)],
    "few": [0.5, 0.25, 0.5, 0.75, 0.25, 0.5],
}
PRINTED = {
    "three levels": (
        "14 28 26 25 29 23 22 20 19 31 17 16 32 13 11 10 34 8 7 35 5 4 2 1 36 33 30 0 27 24 21 18 15 12 9 6 3 "
    ),
    "all equal": ("12 23 22 21 20 19 18 17 16 15 14 13 0 11 10 9 8 7 6 5 4 3 2 1 "),
    "falling pairs": (
        "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 20 19 21 22 23 24 25 26 27 28 30 29 31 32 33 34 35 36 "
        "37 38 39 40 "
    ),
    "few": ("3 0 2 5 1 4 "),
}


@pytest.mark.parametrize("name", KEYS)
def test_order_is_the_one_printed(name):
    assert std_sort_descending(KEYS[name]) == [int(word) for word in PRINTED[name].split()]


def test_it_sorts_and_short_lists_keep_the_order_of_equals():
    keys = [((i * 7919) % 101) / 8 for i in range(100)]
    assert [keys[i] for i in std_sort_descending(keys)] == sorted(keys, reverse=True)
    short = [float(i % 4) for i in range(16)]
    assert std_sort_descending(short) == sorted(range(16), key=lambda i: -short[i])
    assert std_sort_descending([]) == []
