"""Pictures and boxes: annotations, label maps, LMDBs, Caffe's augmentation, and batches.

`detection_dataset` opens pictures with boxes for PyTorch; it is imported at first use, since torch is not needed for
the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyscratchdet.data.dataset import DetectionDataset, detection_dataset

__all__ = ["DetectionDataset", "detection_dataset"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from pyscratchdet.data import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
