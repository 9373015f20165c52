"""Arrays from HDF5 files (hdf5_data_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.errors import DataError, Position
from pyscratchdet.layers.base import Count, Layer, Shape, at_least, exactly, register
from pyscratchdet.lazy import Tensor, torch
from pyscratchdet.proto.hdf5 import read_datasets
from pyscratchdet.rng import LibcRandom


@register("HDF5Data")
class HDF5Data(Layer):
    """Each top is the data set of its name: rows in order, file after file as `source` lists them.

    With `shuffle`, files and rows are permuted by the C library's generator, as in the original; here each layer has
    its own generator.
    """

    bottoms: ClassVar[Count] = exactly(0)
    tops: ClassVar[Count] = at_least(1)
    is_source: ClassVar[bool] = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        from pyscratchdet.files import read_bytes

        self._param = self.param.hdf5_data_param
        if self.param.HasField("transform_param"):
            raise self.fail("HDF5Data does not transform", "transform", hint="remove transform_param")
        if self._param.batch_size < 1:
            raise self.fail("batch_size must be at least 1", "batch-size", found=self._param.batch_size)
        self._files = read_bytes(self._param.source).decode().split()
        if not self._files:
            raise DataError("no HDF5 files are listed", code="data.list", position=Position(self._param.source))
        self._random = LibcRandom()
        self._shuffle(self._files)
        self._file = self._row = 0
        self._load()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(self._param.batch_size, *array.shape[1:]) for array in self._arrays]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        rows = [self._next() for _ in range(self._param.batch_size)]
        return [torch.from_numpy(np.stack(arrays)) for arrays in zip(*rows, strict=True)]

    def skip(self, num_batches: int) -> None:
        """Passes over batches."""
        for _ in range(num_batches * self._param.batch_size):
            self._next()

    def _next(self) -> list[np.ndarray]:
        if self._row == len(self._order):
            self._row = 0
            if len(self._files) > 1:
                self._file += 1
                if self._file == len(self._files):
                    self._file = 0
                    self._shuffle(self._files)
                self._load()
            self._shuffle(self._order)
        row = self._order[self._row]
        self._row += 1
        return [array[row] for array in self._arrays]

    def _load(self) -> None:
        path = self._files[self._file]
        found = read_datasets(path, DataError, "data.hdf5", list(self.param.top))
        try:
            self._arrays = [np.asarray(found[name], np.float32) for name in self.param.top]
        except (ValueError, TypeError) as error:  # text
            raise DataError(f"cannot read {path}: {error}", code="data.hdf5") from error
        lengths = [len(array) if array.ndim else 0 for array in self._arrays]
        if len(set(lengths)) != 1 or not lengths[0]:
            raise DataError(f"the data sets of {path} must have rows, the same number in each", code="data.hdf5",
                            found=lengths)  # fmt: skip
        self._order = list(range(lengths[0]))
        self._shuffle(self._order)

    def _shuffle(self, items: list[int] | list[str]) -> None:
        if self._param.shuffle:
            self._random.shuffle(items)
