"""One batch after the other in this process, each picture with a generator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyscratchdet.data import fast
from pyscratchdet.data.batches import label_rows
from pyscratchdet.data.objects import Objects, objects_of
from pyscratchdet.data.plan import Plan, Planner, Rect, Streams
from pyscratchdet.data.records import Records
from pyscratchdet.data.transform import Transformer
from pyscratchdet.errors import DataError, UsageError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know to make batches.

    Attributes:
        param: The AnnotatedData layer.
        is_train: Whether crops to `crop_size` are random.
        seed: Of all draws.
        rank: Which of `world_size` processes this is: it takes every `world_size`-th picture.
        world_size: How many processes share the database.
        start: Record to begin with.
    """

    param: caffe_pb2.LayerParameter
    is_train: bool = True
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    start: int = 0


class BatchMaker:
    """Makes any batch of a job, in this process.

    Args:
        job: What to make.

    Raises:
        DataError: The database cannot be opened.
        UsageError: The settings have no fast form: all pictures must end with one size.
    """

    def __init__(self, job: Job) -> None:
        param = job.param
        self._job = job
        self._batch_size = param.data_param.batch_size
        self._samplers = param.annotated_data_param.batch_sampler
        self._transformer = Transformer(param.transform_param)
        self._planner = Planner(
            param.transform_param, self._samplers, job.is_train, sampler=fast.FastSampler(self._samplers)
        )
        self._records = Records(param.data_param.source)
        self._random = CaffeRandom(0)
        shape = self._transformer.fixed_shape()
        if shape is None or param.transform_param.noise_param.convert_to_lab:
            raise UsageError("fast loading needs a resize_param or a crop_size, and 8-bit pictures", code="data.fast")
        self.shape = (self._batch_size, shape[1], shape[2], shape[0])

    def make(self, batch: int, output: np.ndarray) -> tuple[np.ndarray, list[Rect | None]]:
        """Makes batch number `batch`.

        Args:
            batch: Counted from 0.
            output: `self.shape` (batch, height, width, channels) uint8, written.

        Returns:
            The label rows (1, 1, N, 8) float32, and of each picture its place in the resized one.

        Raises:
            DataError: A record is damaged.
        """
        rows, places = [], []
        for item in range(self._batch_size):
            index = (batch * self._batch_size + item) * self._job.world_size + self._job.rank
            plan = self._sample(index, output[item])
            rows.append(plan.objects.rows(item))
            places.append(plan.place)
        return label_rows(rows), places

    def normalize(self, batch: np.ndarray, places: Sequence[Rect | None]) -> np.ndarray:
        """Subtracts the mean and scales: (batch, channels, height, width) float32."""
        pairs = zip(batch, places, strict=True)
        return np.stack([self._transformer.normalize(image, place) for image, place in pairs])

    def _sample(self, index: int, output: np.ndarray) -> Plan:
        sample = self._records.at(self._job.start + index)
        record = sample.annotated()
        objects = objects_of(record, sample.name)
        image = self._transformer.decode(record.datum, sample.name)
        if image.dtype != np.uint8 or image.shape[2] != output.shape[2]:
            raise DataError(
                f"{sample.name} has another kind of picture than its batch",
                code="data.shape",
                expected=f"{output.shape[2]} channels of 8 bits",
                found=f"{image.shape[2]} of {image.dtype}",
                hint="set force_color, or load without the option fast",
            )
        plan = self._plan(index, objects, *image.shape[:2])
        fast.render(self._transformer, image, plan, output)
        return plan

    def _plan(self, index: int, objects: Objects, height: int, width: int) -> Plan:
        self._random.seed(picture_seed(self._job.seed, index))
        return self._planner.draw(Streams(self._random, self._random, self._random), objects, height, width)


def picture_seed(seed: int, index: int) -> int:
    """Returns 32 well-mixed bits of a seed and a picture's number (splitmix64)."""
    mask = 2**64 - 1
    value = (seed * 0x9E3779B97F4A7C15 + (index + 1) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 32
