"""Makes one batch after another in this process, each picture with its own random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyscratchdet.data import fast
from pyscratchdet.data.batches import label_blob
from pyscratchdet.data.counter import CounterRandom, picture_keys
from pyscratchdet.data.fast_sampling import FastSampler
from pyscratchdet.data.objects import Objects, objects_of
from pyscratchdet.data.plan import Plan, Planner, Rect, Streams
from pyscratchdet.data.records import Records
from pyscratchdet.data.transform import DataTransformer
from pyscratchdet.errors import DataError, UsageError, counted
from pyscratchdet.proto import caffe_pb2


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know to make batches.

    Attributes:
        param: The AnnotatedData layer.
        is_train: Whether crops to `crop_size` are random.
        seed: Seed of all random numbers.
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
        UsageError: Fast loading does not support the settings: all pictures must end up with the same size.
    """

    def __init__(self, job: Job) -> None:
        param = job.param
        self._job = job
        self._batch_size = param.data_param.batch_size
        self._transformer = DataTransformer(param.transform_param)
        samplers = param.annotated_data_param.batch_sampler
        self._planner = Planner(param.transform_param, samplers, job.is_train, sampler=FastSampler(samplers))
        self._records = Records(param.data_param.source, job.start, job.rank, job.world_size)
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
            The label rows (1, 1, N, 8) float32, and which part of its resized picture each picture is.

        Raises:
            DataError: A record is damaged, or does not fit the mean file.
        """
        positions = range(batch * self._batch_size, (batch + 1) * self._batch_size)
        samples = [self._records.at(position) for position in positions]
        records, names = [sample.annotated() for sample in samples], [sample.name for sample in samples]
        sizes = [self._size(record, name) for record, name in zip(records, names, strict=True)]
        keys = picture_keys(self._job.seed, [k * self._job.world_size + self._job.rank for k in positions])
        # All plans are drawn at once, from the sizes that the records state: what costs time is each call.
        plans, objects = self._draw(keys, objects_of(records, names), sizes)
        for item, (record, name) in enumerate(zip(records, names, strict=True)):
            image = self._decode(record, name)
            if image.shape[:2] != sizes[item]:
                own = self._draw(keys[item : item + 1], objects_of([record], [name]), [image.shape[:2]])
                plans[item], objects = own[0][0], objects.exchanged(item, own[1])
            self._transformer.check_mean(plans[item], image.shape[2], record.datum.encoded)
            fast.render(self._transformer, image, plans[item], output[item])
        return label_blob([objects.rows(0)]), [plan.place for plan in plans]

    def _draw(self, keys: np.ndarray, objects: Objects, sizes: Sequence[tuple[int, int]]) -> tuple[list[Plan], Objects]:
        streams = [Streams(random, random, random) for random in CounterRandom.of(keys)]
        return self._planner.draw(streams, objects, sizes)

    def _size(self, record: caffe_pb2.AnnotatedDatum, name: str) -> tuple[int, int]:
        """Returns the height and width that the record states or, if it states none, those of the picture."""
        height, width = record.datum.height, record.datum.width
        return (height, width) if height > 0 and width > 0 else self._decode(record, name).shape[:2]

    def _decode(self, record: caffe_pb2.AnnotatedDatum, name: str) -> np.ndarray:
        image = self._transformer.decode_datum(record.datum, name)
        if image.dtype != np.uint8 or image.shape[2] != self.shape[3]:
            raise DataError(
                f"{name} differs in kind from the rest of its batch",
                code="data.shape",
                expected=f"{counted(self.shape[3], 'channel')} of 8 bits",
                found=f"{counted(image.shape[2], 'channel')} of {image.dtype}",
                hint="set force_color, or turn fast loading off",
            )
        return image
