"""Caffe's random numbers: boost's mt19937 and the distributions drawn from it (math_functions.cpp, rng.hpp)."""

from __future__ import annotations

import numpy as np


class CaffeRandom:
    """One mt19937 stream, seeded as Caffe seeds its own.

    Args:
        seed: 32-bit seed; None draws one from the operating system.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """Starts the stream anew."""
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._state = np.random.RandomState(seed & 0xFFFFFFFF)
        self._bits = self._state._bit_generator

    def raw(self, size: int) -> np.ndarray:
        """Returns the next `size` 32-bit outputs of the generator as uint64."""
        return self._bits.random_raw(size)
