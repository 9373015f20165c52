"""The mean picture of a database (tools/compute_image_mean.cpp)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pyscratchdet.data.database import Database
from pyscratchdet.data.records import datum_of, record_title
from pyscratchdet.data.transform import DataTransformer
from pyscratchdet.errors import DataError
from pyscratchdet.proto import caffe_pb2


def compute_mean(database: Database, progress: Callable[[int], object] = lambda done: None) -> np.ndarray:
    """Returns the mean of all pictures, (channels, height, width) float32.

    The sum is kept in float64; the original's is float32 and loses digits on large sets. `progress` is called with the
    number of records done.

    Raises:
        DataError: A record is damaged, or differs in size from the first.
    """
    transformer = DataTransformer(caffe_pb2.TransformationParameter())
    total: np.ndarray | None = None
    for done, (key, value) in enumerate(database, start=1):
        name = record_title(key, database.path)
        image = transformer.decode_datum(datum_of(value, name), name)
        if total is None:
            total = np.zeros(image.shape, np.float64)
        if image.shape != total.shape:
            raise DataError(
                f"{name} differs in size from the first",
                code="data.size",
                expected=total.shape,
                found=image.shape,
                hint="make the database with --resize_height and --resize_width",
            )
        total += image
        progress(done)
    assert total is not None
    return (total / len(database)).astype(np.float32).transpose(2, 0, 1)
