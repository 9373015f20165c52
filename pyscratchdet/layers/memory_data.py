"""Arrays that the program provides (memory_data_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, Shape, exactly, register
from pyscratchdet.lazy import Tensor, torch


@register("MemoryData")
class MemoryData(Layer):
    """Tops: data (batch, channels, height, width) and label (batch,), in turn from the arrays of `set_arrays`."""

    bottoms: ClassVar[Count] = exactly(0)
    tops: ClassVar[Count] = exactly(2)
    is_source: ClassVar[bool] = True

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.param.memory_data_param
        self._shape = (param.batch_size, param.channels, param.height, param.width)
        if min(self._shape) < 1:
            raise self.fail("batch_size, channels, height and width must be positive", "shape", found=self._shape)
        # As in the original, which makes a transformer though arrays never pass through it.
        transform = self.param.transform_param
        if transform.mirror or (self.context.is_train and transform.crop_size):
            self.context.random.integer()
        self._data: np.ndarray | None = None
        self._position = 0

    @property
    def state(self) -> int:
        """The number of the next picture; `set_arrays` starts again from the first."""
        return self._position

    @state.setter
    def state(self, state: int) -> None:
        self._position = state

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [self._shape, self._shape[:1]]

    def set_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Takes the arrays to hand out; their length is a multiple of the batch size (Reset).

        Args:
            data: (count, channels, height, width).
            labels: (count,), or any shape of that size.

        Raises:
            LayerError: Their shapes do not fit.
        """
        data, labels = np.asarray(data, np.float32), np.asarray(labels, np.float32).reshape(-1)
        if data.shape[1:] != self._shape[1:] or len(data) % self._shape[0] or not len(data):
            raise self.fail(
                "the array does not fit", "shape", expected=f"a multiple of {self._shape}", found=data.shape
            )
        if len(labels) != len(data):
            raise self.fail("there must be as many labels as pictures", "shape", expected=len(data), found=len(labels))
        self._data, self._labels, self._position = data, labels, 0

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        if self._data is None:
            raise self.fail(
                "there is no data yet", "no-data", hint="call set_arrays (set_input_arrays in pycaffe) first"
            )
        part = slice(self._position, self._position + self._shape[0])
        self._position = (self._position + self._shape[0]) % len(self._data)
        return [torch.from_numpy(self._data[part].copy()), torch.from_numpy(self._labels[part].copy())]
