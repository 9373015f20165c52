"""Random numbers computed from a key and a position: those of any picture, or of many at once, without the ones before.

The numbers are those of splitmix64 (Steele, Lea and Flood, 2014): a key starts a sequence, and each number is a hash of
its place in the sequence.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Any

import numpy as np

_MASK = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# Numbers made in advance: as many as the decisions about one picture take; then, for noise, this many more at a time.
_AHEAD, _MORE = 24, 1024


def hashes(keys: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """Returns `count` numbers for each key (P,), starting with number `start`: (P, count) uint64."""
    steps = np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(_STEP)
    return _mixed(keys[:, None] + steps)


def picture_keys(seed: int, indices: Sequence[int]) -> np.ndarray:
    """Returns a key for each picture, (P,) uint64, from the seed of the run and the picture's place in it."""
    places = np.array([index & _MASK for index in indices], np.uint64)
    return _mixed(places + _mixed(np.array([seed & _MASK], np.uint64) + np.uint64(_STEP)))


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64, in place."""
    values ^= values >> np.uint64(30)
    values *= _FIRST
    values ^= values >> np.uint64(27)
    values *= _SECOND
    values ^= values >> np.uint64(31)
    return values


class CounterRandom:
    """The numbers of one key, one at a time; replaces CaffeRandom where Caffe's own numbers are not needed.

    Args:
        key: As `picture_keys` returns it.
        ahead: The key's first 32-bit numbers, if they are already computed.
    """

    def __init__(self, key: np.uint64, ahead: Sequence[int] = ()) -> None:
        self.key = key
        self._drawn = len(ahead)
        self._ahead = list(reversed(ahead))

    @classmethod
    def of(cls, keys: np.ndarray) -> list[CounterRandom]:
        """Returns one for each key, faster than making them one by one."""
        ahead = (hashes(keys, _AHEAD) >> np.uint64(32)).tolist()
        return [cls(key, numbers) for key, numbers in zip(keys, ahead, strict=True)]

    def raw(self, size: int) -> np.ndarray:
        """Returns `size` numbers of 32 random bits as uint64."""
        return np.array([self.integer() for _ in range(size)], np.uint64)

    def integer(self) -> int:
        """Returns 32 random bits."""
        if not self._ahead:
            numbers = hashes(np.array([self.key]), _MORE, self._drawn)[0, ::-1] >> np.uint64(32)
            self._ahead = numbers.tolist()
            self._drawn += _MORE
        return self._ahead.pop()

    def below(self, limit: int) -> int:
        """Returns a whole number, 0 <= result < limit."""
        return self.integer() * limit >> 32

    def uniform_one(self, a: float, b: float) -> np.float32:
        """Returns a number in [a, b]."""
        return np.float32(a + (b - a) * (self.integer() * 2.0**-32))

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Shuffles `items` in place."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
