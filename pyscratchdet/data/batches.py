"""Batches of an AnnotatedDatum database in the original's order (annotated_data_layer.cpp, data_reader.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyscratchdet.data.objects import Objects, objects_of
from pyscratchdet.data.plan import Plan, Planner, Streams
from pyscratchdet.data.records import Records, Sample
from pyscratchdet.data.transform import DataTransformer
from pyscratchdet.errors import DataError, UsageError


def label_blob(rows: list[np.ndarray]) -> np.ndarray:
    """Returns the label blob (1, 1, N, 8) of the rows of a batch's pictures; a single row of -1 if there are none."""
    stacked = np.concatenate(rows)
    return (stacked if len(stacked) else np.full((1, 8), -1, np.float32))[None, None]


class ReferenceBatches:
    """Batches as the original makes them, in one thread.

    Args:
        records: What to read.
        transformer: Carries out what `planner` decides.
        planner: Decides, with the layer's samplers.
        streams: The planner's random numbers.
        batch_size: Pictures in a batch.
    """

    def __init__(
        self, records: Records, transformer: DataTransformer, planner: Planner, streams: Streams, batch_size: int
    ) -> None:
        self._records = records
        self._transformer = transformer
        self._planner = planner
        self._streams = streams
        self._batch_size = batch_size
        self._position = 0

    @property
    def state(self) -> dict[str, Any]:
        """What a resumed run needs: how many batches were made, and where the random numbers stand."""
        return {"position": self._position, "streams": self._streams.state}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if "streams" not in state:
            raise UsageError(
                "data that was loaded in fast mode can only continue in fast mode",
                code="data.resume",
                hint="resume with --fast",
            )
        self._records.position += (state["position"] - self._position) * self._batch_size
        self._position = state["position"]
        self._streams.state = state["streams"]

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns data (batch, channels, height, width) and label (1, 1, N, 8), float32.

        Raises:
            DataError: A record is damaged, or its picture differs in shape from the first of the batch.
        """
        pictures, rows = [], []
        for item in range(self._batch_size):
            sample = self._records.next()
            image, plan, objects, is_encoded = self._plan(sample)
            pictures.append(self._transformer.render(image, plan, is_encoded))
            rows.append(objects.rows(item))
            check_same_shape(pictures, sample.name)
        self._position += 1
        return np.stack(pictures), label_blob(rows)

    def _plan(self, sample: Sample) -> tuple[np.ndarray, Plan, Objects, bool]:
        """Returns a record's picture, its plan, its objects after that, and whether the original keeps it encoded."""
        record = sample.annotated()
        image = self._transformer.decode_datum(record.datum, sample.name)
        objects = objects_of([record], [sample.name])
        (plan,), objects = self._planner.draw([self._streams], objects, [image.shape[:2]])
        return image, plan, objects, record.datum.encoded


def check_same_shape(
    pictures: Sequence[np.ndarray], name: str, hint: str = "add a resize_param or a crop_size"
) -> None:
    """Checks that the last picture of a batch has the shape of the first; `name` is the last one's.

    Raises:
        DataError: It has not.
    """
    if pictures[-1].shape != pictures[0].shape:
        raise DataError(
            f"{name} differs in shape from the rest of its batch",
            code="data.shape",
            expected=pictures[0].shape,
            found=pictures[-1].shape,
            hint=hint,
        )
