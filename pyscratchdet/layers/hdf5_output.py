"""HDF5Output (hdf5_output_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pyscratchdet.files import atomic_path
from pyscratchdet.layers.base import Count, Layer, Shape, exactly, register
from pyscratchdet.layers.loss import legacy_shape
from pyscratchdet.lazy import Tensor


@register("HDF5Output")
class HDF5Output(Layer):
    """Writes its two bottoms to `hdf5_output_param.file_name` as float32 datasets `data` and `label` of 4 axes.

    The first forward pass writes the whole file, if the caller lets the net write (`Context.writes`). As in the
    original, a second batch cannot be written to it: that raises a LayerError. A file that cannot be written raises a
    FileError.
    """

    bottoms: ClassVar[Count] = exactly(2)
    tops: ClassVar[Count] = exactly(0)
    no_gradient: ClassVar[frozenset[int]] = frozenset({0, 1})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        if not self.param.hdf5_output_param.file_name:
            raise self.fail("hdf5_output_param.file_name is missing", "file-name")
        self.path = Path(self.context.root) / self.param.hdf5_output_param.file_name
        self.is_written = False

    @property
    def carries_over(self) -> bool:
        """True: the first pass writes the file, and a second one is refused."""
        return True

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        data, label = (legacy_shape(self, shape) for shape in bottoms)
        if data[0] != label[0]:
            raise self.fail("data and label must have the same batch size", "batch", expected=data[0], found=label[0])
        return []

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        import h5py

        if not self.may_write(self.path):
            return []
        if self.is_written:
            raise self.fail(
                f"{self.path} already holds a batch",
                "written",
                hint="run one forward pass per net, or one file per batch",
            )
        with atomic_path(self.path) as temporary, h5py.File(temporary, "w") as file:
            for name, bottom in zip(("data", "label"), bottoms, strict=True):
                values = bottom.detach().cpu().numpy()
                file.create_dataset(name, data=values.reshape(legacy_shape(self, values.shape)))
        self.is_written = True
        return []
