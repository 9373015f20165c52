"""Batches of an AnnotatedDatum database in the original's order (annotated_data_layer.cpp, data_reader.cpp)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from pyscratchdet.data.database import Database
from pyscratchdet.data.objects import objects_of
from pyscratchdet.data.plan import Planner, Streams
from pyscratchdet.data.transform import Transformer
from pyscratchdet.errors import DataError
from pyscratchdet.proto import caffe_pb2

NO_OBJECTS = np.full((1, 8), -1, np.float32)
"""The label rows of a batch without objects."""


@dataclass
class Sample:
    """One record on its way: its key, its message and its name in errors."""

    name: str
    record: caffe_pb2.AnnotatedDatum


class Records:
    """The records of a database one after the other, from the start again after the last.

    Args:
        path: The database.
        start: Where to begin.
    """

    def __init__(self, path: str, start: int = 0) -> None:
        self.database = Database(path)
        self.position = start

    def at(self, position: int) -> Sample:
        """Returns the record at a position counted on through all rounds.

        Raises:
            DataError: It is damaged.
        """
        index = position % len(self.database)
        return self._sample(self.database.keys[index], self.database.value(index))

    def first(self) -> Sample:
        """Returns the first record of all, without reading the other keys."""
        key, value = self.database.first()
        return self._sample(key, value)

    def next(self) -> Sample:
        """Returns the next record."""
        self.position += 1
        return self.at(self.position - 1)

    def _sample(self, key: bytes, value: bytes) -> Sample:
        name = f'record "{key.decode(errors="replace")}" of {self.database.path}'
        return Sample(name, parse(value, name))


def parse(value: bytes, name: str) -> caffe_pb2.AnnotatedDatum:
    """Returns the message of a record.

    Raises:
        DataError: It is no AnnotatedDatum, or has no picture.
    """
    record = caffe_pb2.AnnotatedDatum()
    try:
        record.ParseFromString(value)
    except DecodeError as error:
        raise DataError(f"{name} is no AnnotatedDatum", code="data.record") from error
    if not record.HasField("datum"):
        raise DataError(f"{name} has no picture", code="data.record",
                        hint="a Data layer reads plain Datum records")  # fmt: skip
    return record


def label_rows(rows: list[np.ndarray]) -> np.ndarray:
    """Returns the label blob (1, 1, N, 8) of the rows of a batch's pictures."""
    stacked = np.concatenate(rows)
    return (stacked if len(stacked) else NO_OBJECTS)[None, None]


class ReferenceBatches:
    """Batches as the original makes them, in one thread.

    Args:
        records: Where from.
        transformer: Carries out what `planner` decides.
        planner: With the layer's samplers.
        streams: Its random numbers.
        batch_size: Pictures in a batch.
    """

    def __init__(
        self, records: Records, transformer: Transformer, planner: Planner, streams: Streams, batch_size: int
    ) -> None:
        self._records = records
        self._transformer = transformer
        self._planner = planner
        self._streams = streams
        self._batch_size = batch_size

    def skip(self, count: int) -> None:
        """Passes over whole batches, drawing what they would have drawn."""
        for _ in range(count * self._batch_size):
            self._plan(self._records.next())

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns data (batch, channels, height, width) and label (1, 1, N, 8), float32.

        Raises:
            DataError: A record is damaged, or its picture has another shape than the batch's first.
        """
        pictures, rows = [], []
        for item in range(self._batch_size):
            sample = self._records.next()
            image, plan = self._plan(sample)
            pictures.append(self._transformer.render(image, plan, sample.record.datum.encoded))
            rows.append(plan.objects.rows(item))
            if pictures[-1].shape != pictures[0].shape:
                raise DataError(f"{sample.name} has another shape than its batch", code="data.shape",
                                expected=pictures[0].shape, found=pictures[-1].shape,
                                hint="add a resize_param or a crop_size")  # fmt: skip
        return np.stack(pictures), label_rows(rows)

    def _plan(self, sample: Sample):
        image = self._transformer.decode(sample.record.datum, sample.name)
        objects = objects_of(sample.record, sample.name)
        return image, self._planner.draw(self._streams, objects, *image.shape[:2])
