"""Batches of an AnnotatedDatum database in the original's order (annotated_data_layer.cpp, data_reader.cpp)."""

from __future__ import annotations

import numpy as np

from pyscratchdet.data.objects import objects_of
from pyscratchdet.data.plan import Plan, Planner, Streams
from pyscratchdet.data.records import Records, Sample
from pyscratchdet.data.transform import Transformer
from pyscratchdet.errors import DataError

EMPTY_LABEL = np.full((1, 8), -1, np.float32)
"""The label rows of a batch without objects."""


def label_rows(rows: list[np.ndarray]) -> np.ndarray:
    """Returns the label blob (1, 1, N, 8) of the rows of a batch's pictures."""
    stacked = np.concatenate(rows)
    return (stacked if len(stacked) else EMPTY_LABEL)[None, None]


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
            image, plan, is_encoded = self._plan(sample)
            pictures.append(self._transformer.render(image, plan, is_encoded))
            rows.append(plan.objects.rows(item))
            if pictures[-1].shape != pictures[0].shape:
                raise DataError(
                    f"{sample.name} has another shape than its batch",
                    code="data.shape",
                    expected=pictures[0].shape,
                    found=pictures[-1].shape,
                    hint="add a resize_param or a crop_size",
                )
        return np.stack(pictures), label_rows(rows)

    def _plan(self, sample: Sample) -> tuple[np.ndarray, Plan, bool]:
        """Returns a record's picture, what to do to it, and whether the original keeps it encoded."""
        record = sample.annotated()
        image = self._transformer.decode(record.datum, sample.name)
        objects = objects_of(record, sample.name)
        return image, self._planner.draw(self._streams, objects, *image.shape[:2]), record.datum.encoded
