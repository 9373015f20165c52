"""The order in which the std::sort of C++ leaves equal keys.

Where the original sorts with std::sort, rows of equal score come out in an order that only the algorithm explains:
introsort of libstdc++ (median of three, partitions down to 16, then insertion sort). A stable sort is right for up to
16 rows, and for any number without equal keys.
"""

from __future__ import annotations

from collections.abc import Sequence

_THRESHOLD = 16


def std_sort_descending(keys: Sequence[float]) -> list[int]:
    """Returns the positions of `keys` as std::sort with `a > b` leaves them.

    Sequential by nature and in Python: call it only where equal keys make a difference. Where introsort would fall back
    on a heap (at its depth limit, which scores never reach), this goes on partitioning.

    Args:
        keys: Comparable values without NaN.
    """
    items = [(key, index) for index, key in enumerate(keys)]
    segments = [(0, len(items))]
    while segments:
        first, last = segments.pop()
        while last - first > _THRESHOLD:
            cut = _partition(items, first, last)
            segments.append((cut, last))
            last = cut
    _insertion_sort(items)
    return [index for _, index in items]


def _partition(items: list[tuple[float, int]], first: int, last: int) -> int:
    """Moves the median of three to the front and partitions the rest around it."""
    a, b, c = first + 1, first + (last - first) // 2, last - 1
    x, y, z = items[a][0], items[b][0], items[c][0]
    median = (b if y > z else c if x > z else a) if x > y else (a if x > z else c if y > z else b)
    items[first], items[median] = items[median], items[first]
    pivot, low, high = items[first][0], first + 1, last
    while True:
        while items[low][0] > pivot:
            low += 1
        high -= 1
        while pivot > items[high][0]:
            high -= 1
        if low >= high:
            return low
        items[low], items[high] = items[high], items[low]
        low += 1


def _insertion_sort(items: list[tuple[float, int]]) -> None:
    """Sorts keys that are already within a few places of where they belong; keeps the order of equals."""
    for index in range(1, len(items)):
        item, place = items[index], index
        while place > 0 and item[0] > items[place - 1][0]:
            items[place] = items[place - 1]
            place -= 1
        items[place] = item
