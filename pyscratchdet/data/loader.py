"""Batches for training: any number of worker processes, the same batches for the same seed, resumable at any batch.

Each picture has its own generator, seeded from the loader's seed and the picture's place in the training run, so that
neither the number of workers nor an interruption changes what is drawn.
"""

from __future__ import annotations

import numpy as np

from pyscratchdet.data.maker import BatchMaker, Job
from pyscratchdet.data.workers import Batch, WorkerPool
from pyscratchdet.proto import caffe_pb2


class BatchLoader:
    """Batches of an AnnotatedData layer, made ahead by worker processes.

    The same seed gives the same batches whatever the number of workers. Setting `state` jumps to any batch.

    Args:
        param: The layer.
        is_train: Whether crops to `crop_size` are random.
        seed: Seed of all random numbers.
        workers: Number of worker processes; with 0 this process makes the batches.
        rank: Which of `world_size` processes this is: it takes every `world_size`-th picture.
        world_size: How many processes share the database.
        start: Record to begin with.
        ahead: Batches that each worker makes in advance.

    Raises:
        DataError: The database cannot be opened.
        UsageError: Fast loading does not support the layer's settings.
    """

    def __init__(
        self,
        param: caffe_pb2.LayerParameter,
        is_train: bool = True,
        seed: int = 0,
        workers: int = 1,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        ahead: int = 2,
    ) -> None:
        job = Job(param, is_train, seed, rank, world_size, start)
        self._maker = BatchMaker(job)
        self._batch = np.empty(self._maker.shape, np.uint8)
        self._position = 0
        self._pool = WorkerPool(job, self._maker.shape, workers, ahead) if workers else None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, height, width, channels)."""
        return self._maker.shape

    @property
    def state(self) -> dict[str, int]:
        """What a resumed run needs: the number of the next batch."""
        return {"position": self._position}

    @state.setter
    def state(self, state: dict[str, int]) -> None:
        self._position = state["position"]

    def next(self) -> Batch:
        """Returns a batch before mean and scale, and what is needed to subtract the mean.

        Returns:
            Pictures (batch, height, width, channels) uint8, valid until the next call; label (1, 1, N, 8) float32; and
            which part of its resized picture each one is.

        Raises:
            DataError: A record is damaged, or a worker has died.
        """
        position = self._position
        self._position += 1
        if self._pool is not None:
            return self._pool.get(position)
        label, places = self._maker.make(position, self._batch)
        return self._batch, label, places

    def close(self) -> None:
        """Ends the workers; also happens once the loader is no longer referenced."""
        if self._pool is not None:
            self._pool.close()
