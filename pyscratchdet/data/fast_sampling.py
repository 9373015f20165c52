"""Sampled crops for many pictures at once: distributed as in the original (sampler.cpp), from other random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyscratchdet.data import objects as boxes
from pyscratchdet.data.counter import CounterRandom, hashes
from pyscratchdet.data.objects import Objects
from pyscratchdet.data.plan import Streams
from pyscratchdet.data.sampling import has_bounds, measure, meets, window_size
from pyscratchdet.proto import caffe_pb2

# Far beyond the numbers that the other decisions about a picture take from its stream.
_START = 1 << 40


class FastSampler:
    """Tries all windows of all samplers for all pictures at once; each trial is a column.

    Args:
        samplers: The layer's.
    """

    def __init__(self, samplers: Sequence[caffe_pb2.BatchSampler]) -> None:
        used = [sampler for sampler in samplers if sampler.use_original_image and sampler.max_trials]
        counts = [sampler.max_trials for sampler in used]
        stops = np.cumsum(counts, dtype=np.intp).tolist()
        self._slices = [slice(stop - count, stop) for stop, count in zip(stops, counts, strict=True)]
        self._samplers = used
        bounds = [sampler.sampler for sampler in used]
        low = np.array([(bound.min_scale, bound.min_aspect_ratio) for bound in bounds], np.float32).reshape(-1, 2)
        high = np.array([(bound.max_scale, bound.max_aspect_ratio) for bound in bounds], np.float32).reshape(-1, 2)
        self._low = np.repeat(low, counts, axis=0).T[:, None]
        self._span = np.repeat(high - low, counts, axis=0).T[:, None]

    def __call__(
        self, streams: Sequence[Streams], samplers: Sequence[caffe_pb2.BatchSampler], objects: Objects
    ) -> list[Sequence[np.ndarray]]:
        """Returns the windows that all samplers found in each picture, as plan.original_windows does."""
        if not self._slices:
            return [()] * len(streams)
        keys = np.empty(len(streams), np.uint64)
        for item, stream in enumerate(streams):
            assert isinstance(stream.thread, CounterRandom)
            keys[item] = stream.thread.key
        windows = self._windows(keys)
        is_good = self._good(windows, objects)
        for sampler, which in zip(self._samplers, self._slices, strict=True):
            if sampler.HasField("max_sample"):
                part = is_good[:, which]
                part &= np.cumsum(part, axis=1) <= sampler.max_sample
        return [windows[item, found] for item, found in enumerate(is_good)]

    def _windows(self, keys: np.ndarray) -> np.ndarray:
        """Returns windows (P, trials, 4) of pictures by their keys."""
        trials = self._low.shape[-1]
        bits = hashes(keys, 2 * trials, _START).view(np.uint32).reshape(len(keys), 4, trials).swapaxes(0, 1)
        units = bits.astype(np.float32) * np.float32(2.0**-32)
        scale, ratio = units[:2] * self._span + self._low
        sides = np.stack(window_size(scale, ratio))
        low = units[2:] * (1 - sides)
        return np.moveaxis(np.concatenate([low, low + sides]), 0, -1)

    def _good(self, windows: np.ndarray, objects: Objects) -> np.ndarray:
        """Returns for each window whether any object meets the bounds of its sampler: (P, trials) bool."""
        is_good = np.zeros(windows.shape[:2], bool)
        starts = np.flatnonzero(np.diff(objects.items, prepend=-1))
        if len(starts):
            constraints = [sampler.sample_constraint for sampler in self._samplers]
            # One plane per coordinate, so that all arithmetic runs along contiguous memory.
            planes = np.moveaxis(windows, -1, 0)[:, objects.items]
            areas = boxes.true_areas(objects)[:, None]
            measures = measure(np.moveaxis(planes, 0, -1), objects.boxes[:, None], areas, constraints)
            is_met = np.zeros(planes.shape[1:], bool)
            for constraint, which in zip(constraints, self._slices, strict=True):
                if has_bounds(constraint):
                    is_met[:, which] = meets(measures, constraint, which)
            is_good[objects.items[starts]] = np.logical_or.reduceat(is_met, starts, axis=0)
        for sampler, which in zip(self._samplers, self._slices, strict=True):
            if not has_bounds(sampler.sample_constraint):
                is_good[:, which] = True
        return is_good
