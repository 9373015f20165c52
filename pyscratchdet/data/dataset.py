"""Pictures with boxes as a PyTorch data set: AnnotatedDatum databases and the data folders of `lmdb folder`.

A picture is a uint8 tensor (3, height, width), channels in the order B, G, R as Caffe's nets take them, before mean and
scale (torchvision has R, G, B: `picture[[2, 1, 0]]`). Boxes are xmin, ymin, xmax, ymax divided by the picture's width
and height (torchvision has pixels). Label 0 is the background, so labels count from 1.

Caffe's label rows have eight columns, all float32:

| column | name | meaning |
|---|---|---|
| 0 | item_id | the picture of the batch that the object is in, from 0; -1 in the only row of a batch without objects |
| 1 | group_label | its class, from 1 |
| 2 | instance_id | which object of its class in the picture it is, from 0 |
| 3 to 6 | xmin, ymin, xmax, ymax | its box, divided by the picture's width and height |
| 7 | difficult | 1 if evaluations do not count it; MultiBoxLoss with use_difficult_gt: false passes over it |
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from pyscratchdet.data.batches import label_blob
from pyscratchdet.data.label_map import label_to_name, read_label_map
from pyscratchdet.data.maker import BatchMaker, Job
from pyscratchdet.data.objects import objects_of
from pyscratchdet.data.own.content import PARTS
from pyscratchdet.data.own.folder import LABEL_MAP_FILE
from pyscratchdet.data.records import Records
from pyscratchdet.data.transform import DataTransformer
from pyscratchdet.errors import DataError, UsageError
from pyscratchdet.proto import caffe_pb2, text

Item = tuple[torch.Tensor, ...]


def detection_dataset(
    path: str | os.PathLike[str],
    split: str | None = None,
    *,
    rows: bool = False,
    augment: str | os.PathLike[str] | caffe_pb2.LayerParameter | None = None,
    seed: int = 0,
) -> DetectionDataset:
    """Opens pictures with boxes as a PyTorch data set.

    Args:
        path: A data folder, or an AnnotatedDatum LMDB.
        split: "train" (the default) or "test" of a data folder; an LMDB has no splits.
        rows: Whether an item is (picture, Caffe's label rows) instead of (picture, boxes, labels).
        augment: An AnnotatedData layer, or a prototxt that has one for the phase TRAIN: its resizing, sampling and
            distortion are applied, and its own source and batch size are not read. By default pictures are as stored.
        seed: Of the augmentation. The same seed, epoch and index give the same item, in any process.

    Raises:
        DataError: There is no such database, or no AnnotatedData layer.
        UsageError: `split` and `path` do not go together.
    """
    database, names = _database(Path(path), split)
    layer = augment if augment is None or isinstance(augment, caffe_pb2.LayerParameter) else _layer(augment)
    return DetectionDataset(database, names, rows, layer, seed)


class DetectionDataset(Dataset[Item]):
    """The records of a database; `detection_dataset` makes one.

    Attributes:
        classes: {label: name}, background included; empty where no label map is known.
        epoch: Which round over the data this is; augmentation differs between rounds. Set it before each.

    Args:
        database: The AnnotatedDatum LMDB.
        classes: As the attribute.
        rows: Whether items have label rows.
        layer: The AnnotatedData layer to augment with.
        seed: Of the augmentation.

    Raises:
        DataError: The database cannot be opened.
        UsageError: The layer does not give all pictures the same size.
    """

    def __init__(
        self,
        database: str,
        classes: dict[int, str] | None = None,
        rows: bool = False,
        layer: caffe_pb2.LayerParameter | None = None,
        seed: int = 0,
    ) -> None:
        self.classes = classes or {}
        self.epoch = 0
        self._records = Records(database)
        self._rows = rows
        self._transformer = DataTransformer(caffe_pb2.TransformationParameter(force_color=True))
        self._maker = None if layer is None else _maker(layer, database, seed)

    def __len__(self) -> int:
        return len(self._records.database)

    def __getitem__(self, index: int) -> Item:
        """Returns one picture and its objects.

        Returns:
            The picture, uint8 (3, height, width) B, G, R; then boxes, float32 (N, 4), and labels, int64 (N,); or, for a
            data set with `rows`, label rows, float32 (N, 8), with item_id 0.

        Raises:
            DataError: The record is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, label = self._stored(index) if self._maker is None else self._augmented(self._maker, index)
        picture = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if self._rows:
            return picture, torch.from_numpy(label)
        return picture, torch.from_numpy(label[:, 3:7].copy()), torch.from_numpy(label[:, 1].astype(np.int64))

    def _stored(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        sample = self._records.at(index)
        record = sample.annotated()
        return self._transformer.decode_datum(record.datum, sample.name), objects_of([record], [sample.name]).rows(0)

    def _augmented(self, maker: BatchMaker, index: int) -> tuple[np.ndarray, np.ndarray]:
        image = np.empty(maker.shape, np.uint8)
        label, _ = maker.make(self.epoch * len(self) + index, image)
        rows = label[0, 0]
        return image[0], rows[rows[:, 0] >= 0]

    def collate(self, items: Sequence[Item]) -> tuple[Any, ...]:
        """Puts items into a batch: DataLoader's `collate_fn`.

        Returns:
            The pictures, uint8 (B, 3, height, width), or a list where their sizes differ; then lists of boxes and of
            labels; or, for a data set with `rows`, the label blob float32 (1, 1, N, 8) that MultiBoxLoss takes.
        """
        pictures, *others = (list(column) for column in zip(*items, strict=True))
        sizes = {picture.shape for picture in pictures}
        batch = torch.stack(pictures) if len(sizes) == 1 else pictures
        if not self._rows:
            return batch, *others
        rows = [label.numpy().copy() for label in others[0]]
        for item, label in enumerate(rows):
            label[:, 0] = item
        return batch, torch.from_numpy(label_blob(rows))


def _database(path: Path, split: str | None) -> tuple[str, dict[int, str]]:
    """Returns the LMDB and the names of its labels."""
    if not (path / f"{PARTS[0]}_lmdb").is_dir():
        if split is not None:
            raise UsageError(f"{path} is not a data folder, so it has no splits", code="usage.split", found=split)
        return str(path), {}
    if split not in (None, *PARTS):
        raise UsageError("unknown split", code="usage.split", expected=" or ".join(PARTS), found=split)
    return str(path / f"{split or PARTS[0]}_lmdb"), label_to_name(read_label_map(path / LABEL_MAP_FILE), display=True)


def _layer(path: str | os.PathLike[str]) -> caffe_pb2.LayerParameter:
    """Returns the AnnotatedData layer of a net for the phase TRAIN."""
    for layer in text.read(path, caffe_pb2.NetParameter).layer:
        phases = [rule.phase for rule in layer.include if rule.HasField("phase")]
        if layer.type == "AnnotatedData" and caffe_pb2.TRAIN in (phases or [caffe_pb2.TRAIN]):
            return layer
    raise DataError(f"{os.fspath(path)} has no AnnotatedData layer for the phase TRAIN", code="data.no-layer")


def _maker(layer: caffe_pb2.LayerParameter, database: str, seed: int) -> BatchMaker:
    """Returns a maker of batches of one picture."""
    own = caffe_pb2.LayerParameter()
    own.CopyFrom(layer)
    own.data_param.source, own.data_param.batch_size = database, 1
    return BatchMaker(Job(own, True, seed))
