"""Caffe's random numbers: boost's mt19937 and what is drawn from it (math_functions.cpp, rng.hpp; boost 1.74).

All reals are float32, computed in float32, as in a Caffe whose Dtype is float.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, MutableSequence
from typing import Any

import numpy as np

_TWO_32 = np.float32(2.0**32)


class CaffeRandom:
    """One mt19937 stream, seeded as Caffe seeds its own.

    Args:
        seed: 32-bit seed; None draws one from the operating system.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._state = np.random.RandomState(0)
        self._bits = self._state._bit_generator
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """Restarts the stream."""
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        # Reseeding is many times faster than a new generator, and loaders do it for each picture.
        self._state.seed(int(seed) & 0xFFFFFFFF)
        self._pending = np.zeros(0, np.uint64)

    @property
    def state(self) -> dict[str, Any]:
        """Where the stream stands, in plain numbers and lists: assign it to continue from there."""
        inner = self._bits.state["state"]
        pending = [int(value) for value in self._pending]
        return {"key": [int(word) for word in inner["key"]], "pos": int(inner["pos"]), "pending": pending}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        inner = {"key": np.asarray(state["key"], np.uint32), "pos": int(state["pos"])}
        self._bits.state = {"bit_generator": "MT19937", "state": inner}
        self._pending = np.asarray(state.get("pending", ()), np.uint64)

    def raw(self, size: int) -> np.ndarray:
        """Returns the next `size` 32-bit outputs of the generator as uint64."""
        if not len(self._pending):
            return self._bits.random_raw(size)
        values = self.peek(size)[:size]
        self._pending = self._pending[size:]
        return values

    def peek(self, size: int) -> np.ndarray:
        """Returns what `raw` will return next, without drawing it."""
        missing = size - len(self._pending)
        if missing > 0:
            self._pending = np.concatenate([self._pending, self._bits.random_raw(missing)])
        return self._pending[:size]

    def integer(self) -> int:
        """Returns one 32-bit output (caffe_rng_rand)."""
        return int(self.raw(1)[0]) if len(self._pending) else int(self._bits.random_raw())

    def below(self, limit: int) -> int:
        """Returns `raw % limit`, the way the original picks a crop, a flip or a pixel; 0 <= result < limit."""
        return self.integer() % limit

    def uniform(self, a: float, b: float, size: int) -> np.ndarray:
        """Returns `size` float32 numbers in [a, b] (caffe_rng_uniform); one output each, but for rare redraws.

        Raises:
            ValueError: a > b.
        """
        low, span, limit = _uniform_bounds(a, b)
        values = self.raw(size).astype(np.float32) / _TWO_32 * span + low
        while (count := int((values >= limit).sum())) > 0:
            # boost redraws at once, so later numbers move up and the missing ones come last.
            more = self.raw(count).astype(np.float32) / _TWO_32 * span + low
            values = np.concatenate([values[values < limit], more])
        return values

    def uniform_one(self, a: float, b: float) -> np.float32:
        """Returns one number of `uniform`."""
        low, span, limit = _uniform_bounds(a, b)
        while True:
            value = np.float32(self.integer()) / _TWO_32 * span + low
            if value < limit:
                return value

    def gaussian(self, mu: float, sigma: float, size: int) -> np.ndarray:
        """Returns `size` float32 normal numbers (caffe_rng_gaussian; boost's ziggurat, mostly one output each)."""
        values = np.empty(size, np.float32)
        done = 0
        while done < size:
            done += self._ziggurat(values[done:])
        return values * np.float32(sigma) + np.float32(mu)

    def bernoulli(self, p: float, size: int) -> np.ndarray:
        """Returns `size` int32 numbers, 1 with probability `p`, else 0 (caffe_rng_bernoulli); p = 0 draws nothing."""
        if p == 0:
            return np.zeros(size, np.int32)
        return (self.raw(size).astype(np.float32) <= np.float32(p) * np.float32(2**32 - 1)).astype(np.int32)

    def uniform_int(self, high: int) -> int:
        """Returns boost::uniform_int(0, high) for 0 <= high < 2**32 - 1; high = 0 draws nothing."""
        if high == 0:
            return 0
        bucket = (2**32) // (high + 1)
        while True:
            value = self.integer() // bucket
            if value <= high:
                return value

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Shuffles `items` in place (caffe::shuffle: Fisher-Yates from the end)."""
        for last in range(len(items) - 1, 0, -1):
            other = self.uniform_int(last)
            items[last], items[other] = items[other], items[last]

    def _ziggurat(self, values: np.ndarray) -> int:
        """Fills the head of `values` with standard normal numbers and returns how many (at least one).

        Each number takes at least one output, so this never draws more than is used; the next call fills the rest.
        """
        table_x, table_y = _normal_tables()
        raw = self.raw(len(values))
        layer = ((raw & 255) >> 1).astype(np.intp)
        x = (raw >> 8).astype(np.float32) * np.float32(2.0**-24) * table_x[layer].astype(np.float32)
        signed = np.where(raw & 1, x, -x)
        start = done = 0
        for position in np.flatnonzero(x >= table_x[layer + 1]).tolist():
            if position < start:
                continue
            done = _append(values, done, signed[start:position])
            draws = _Draws(raw[position:], self)
            values[done] = _normal(draws, table_x, table_y)
            done, start = done + 1, position + draws.used
        return _append(values, done, signed[start:])


class Undrawn(CaffeRandom):
    """Takes the place of a stream for values that are overwritten before anyone sees them; costs next to nothing."""

    def __init__(self) -> None:
        """Has no state."""

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        """Returns `high` throughout."""
        return np.broadcast_to(np.float32(high), size)

    def gaussian(self, mu: float, sigma: float, size: int) -> np.ndarray:
        """Returns `mu` throughout."""
        return np.broadcast_to(np.float32(mu), size)

    def bernoulli(self, p: float, size: int) -> np.ndarray:
        """Returns 1 throughout."""
        return np.broadcast_to(np.int32(1), size)


class _Draws:
    """Outputs drawn already, then new ones, one at a time."""

    def __init__(self, raw: np.ndarray, random: CaffeRandom) -> None:
        self._raw = raw
        self._random = random
        self.used = 0

    def integer(self) -> int:
        value = self._raw[self.used] if self.used < len(self._raw) else self._random.integer()
        self.used += 1
        return int(value)

    def layer(self) -> tuple[np.float32, int]:
        """Boost's generate_int_float_pair<float, 8>: 24 bits as a number in [0, 1), and 8 bits."""
        value = self.integer()
        return np.float32((value >> 8) * 2.0**-24), value & 255

    def unit(self) -> np.float32:
        """boost::uniform_01<float>."""
        while True:
            value = np.float32(self.integer()) / _TWO_32
            if value < 1:
                return value


def _normal(draws: _Draws, table_x: np.ndarray, table_y: np.ndarray) -> np.float32:
    """Returns one number of boost's unit_normal_distribution<float>."""
    while True:
        fraction, bits = draws.layer()
        sign, layer = np.float32((bits & 1) * 2 - 1), bits >> 1
        x = fraction * np.float32(table_x[layer])
        if x < table_x[layer + 1]:
            return x * sign
        if layer == 0:
            return _normal_tail(draws, np.float32(table_x[1])) * sign
        if _height(draws, table_y, layer) < np.exp(-(x * x) / np.float32(2)):
            return x * sign


def _normal_tail(draws: _Draws, start: np.float32) -> np.float32:
    while True:
        x = _exponential(draws) / start
        if 2 * _exponential(draws) > x * x:
            return x + start


def _exponential(draws: _Draws) -> np.float32:
    """Returns one number of boost's unit_exponential_distribution<float>."""
    table_x, table_y = _exponential_tables()
    shift = np.float32(0)
    while True:
        fraction, layer = draws.layer()
        x = fraction * np.float32(table_x[layer])
        if x < np.float32(table_x[layer + 1]):
            return shift + x
        if layer == 0:
            shift += np.float32(table_x[1])
        elif _height(draws, table_y, layer) < np.exp(-x):
            return shift + x


def _height(draws: _Draws, table_y: np.ndarray, layer: int) -> np.float32:
    """Draws a height between the two edges of a layer of the ziggurat."""
    return np.float32(table_y[layer]) + draws.unit() * np.float32(table_y[layer + 1] - table_y[layer])


@functools.cache
def _normal_tables() -> tuple[np.ndarray, np.ndarray]:
    edge = 3.4426198558966521214
    tail = math.sqrt(math.pi / 2) * math.erfc(edge / math.sqrt(2))
    return _ziggurat_tables(
        128, edge, tail, lambda x: math.exp(-x * x / 2), lambda y: math.sqrt(max(0.0, -2 * math.log(y)))
    )


@functools.cache
def _exponential_tables() -> tuple[np.ndarray, np.ndarray]:
    edge = 7.6971174701310497140
    return _ziggurat_tables(256, edge, math.exp(-edge), lambda x: math.exp(-x), lambda y: max(0.0, -math.log(y)))


def _ziggurat_tables(
    layers: int, edge: float, tail: float, density: Callable[[float], float], inverse: Callable[[float], float]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the corners (x, y) of a ziggurat of layers of equal area (Marsaglia and Tsang, 2000); float64.

    Args:
        layers: How many.
        edge: Where the tail starts; it alone decides the area.
        tail: Area under the density beyond `edge`.
        density: Falls from 1 at 0.
        inverse: Its inverse.
    """
    area = edge * density(edge) + tail
    x = [area / density(edge), edge]
    y = [0.0, density(edge)]
    while len(x) < layers:
        y.append(y[-1] + area / x[-1])
        x.append(inverse(y[-1]))
    return np.array([*x, 0.0]), np.array([*y, 1.0])


def _append(values: np.ndarray, done: int, more: np.ndarray) -> int:
    values[done : done + len(more)] = more
    return done + len(more)


def uniform_of(
    raw: np.ndarray, low: np.ndarray | np.float32, high: np.ndarray | np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers that `CaffeRandom.uniform` makes of outputs, and which of them it would redraw.

    Args:
        raw: Outputs of a generator.
        low: Lower bound, float32; broadcast.
        high: Upper bound, likewise.
    """
    limit = np.nextafter(high, np.float32(np.inf))
    values = raw.astype(np.float32) / _TWO_32 * (limit - low) + low
    return values, values >= limit


def _uniform_bounds(a: float, b: float) -> tuple[np.float32, np.float32, np.float32]:
    """Returns low, the span and the first number that is too large: caffe_nextafter makes `b` itself possible."""
    if not a <= b:
        raise ValueError(f"uniform needs a <= b, found {a} and {b}")
    low, limit = np.float32(a), np.nextafter(np.float32(b), np.float32(np.inf))
    return low, limit - low, limit


class LibcRandom:
    """glibc's rand() (additive feedback, x[i] = x[i - 3] + x[i - 31]), as in a program that never calls srand.

    The original shuffles channels with it. There the whole process shares one generator; here each owner has its own.
    """

    def __init__(self, seed: int = 1) -> None:
        words = [seed or 1]
        for _ in range(30):
            words.append(16807 * words[-1] % (2**31 - 1))
        self.words = [*words[3:], *words[:3]]
        for _ in range(310):
            self._next()

    @property
    def state(self) -> list[int]:
        """Where the generator stands: assign it to continue from there."""
        return list(self.words)

    @state.setter
    def state(self, state: list[int]) -> None:
        self.words = list(state)

    def integer(self) -> int:
        """Returns the next number, 0 to 2**31 - 1."""
        return self._next() >> 1

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Shuffles `items` in place (libstdc++'s std::random_shuffle)."""
        for index in range(1, len(items)):
            other = self.integer() % (index + 1)
            items[index], items[other] = items[other], items[index]

    def _next(self) -> int:
        value = (self.words[0] + self.words[-3]) % 2**32
        self.words = [*self.words[1:], value]
        return value
