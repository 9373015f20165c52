"""Databases as PyTorch data sets: frames, orders and columns, and the same augmentation as Caffe's layer."""

from __future__ import annotations

import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from own_sets import NAMES, make_pictures, write_xml
from torch.utils.data import DataLoader

from pyscratchdet.data import detection_dataset
from pyscratchdet.data.loader import BatchLoader
from pyscratchdet.data.own.folder import FolderMaker
from pyscratchdet.errors import DataError, UsageError
from pyscratchdet.proto import caffe_pb2, text

LAYER = """name: "data" type: "AnnotatedData" top: "data" top: "label" include { phase: TRAIN }
transform_param { mirror: true mean_value: 104 mean_value: 117 mean_value: 123 force_color: true
  resize_param { prob: 1 resize_mode: WARP height: 40 width: 56 interp_mode: LINEAR interp_mode: AREA }
  distort_param { brightness_prob: 0.5 brightness_delta: 32 }
  expand_param { prob: 0.5 max_expand_ratio: 3 } emit_constraint { emit_type: CENTER } }
data_param { source: "elsewhere" batch_size: 7 backend: LMDB }
annotated_data_param { batch_sampler { max_sample: 1 max_trials: 1 } batch_sampler {
  sampler { min_scale: 0.4 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
  sample_constraint { min_jaccard_overlap: 0.3 } max_sample: 1 max_trials: 50 } }"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """(data folder, boxes)."""
    root = tmp_path_factory.mktemp("own")
    boxes = make_pictures(root)
    maker = FolderMaker(root / "pictures", write_xml(root, boxes), root / "data")
    maker.write(maker.prepare())
    return root / "data", boxes


def test_items_are_the_pictures_and_boxes_of_the_list(folder):
    root, boxes = folder
    for split in (None, "test"):
        data = detection_dataset(root, split)
        paths = (root / f"{split or 'train'}.txt").read_text().splitlines()
        assert data.classes == {0: "background", 1: "dark blue", 2: "red"}
        assert len(data) == len(paths)
        for path, (picture, relative, labels) in zip(paths, data, strict=True):
            image = cv2.imread(path)
            np.testing.assert_array_equal(picture.numpy(), image.transpose(2, 0, 1))
            assert (picture.dtype, relative.dtype, labels.dtype) == (torch.uint8, torch.float32, torch.int64)
            height, width = image.shape[:2]
            found = (relative * torch.tensor([width, height, width, height])).tolist()
            wanted = {(sorted(NAMES).index(name) + 1, box) for name, box in boxes[path.rpartition("/")[2]]}
            assert {(label, tuple(box)) for label, box in zip(labels.tolist(), found, strict=True)} == wanted


def test_rows_have_caffes_eight_columns(folder):
    root, _ = folder
    plain, rows = detection_dataset(root), detection_dataset(root, rows=True)
    for (_, boxes, labels), (_, label) in zip(plain, rows, strict=True):
        assert label.shape == (len(labels), 8)
        np.testing.assert_array_equal(label[:, 1], labels)
        np.testing.assert_array_equal(label[:, 3:7], boxes)
        for one in label[:, 1].unique():
            assert label[label[:, 1] == one, 2].tolist() == list(range(int((label[:, 1] == one).sum())))
        assert not label[:, [0, 7]].any()


def test_batches(folder):
    root, _ = folder
    data = detection_dataset(root / "train_lmdb")
    assert data.classes == {}
    pictures, boxes, labels = next(iter(DataLoader(data, 5, collate_fn=data.collate)))
    assert [len(part) for part in (pictures, boxes, labels)] == [5, 5, 5]
    assert isinstance(pictures, list)  # of different sizes
    layer = text.parse(LAYER, caffe_pb2.LayerParameter)
    fixed = detection_dataset(root, rows=True, augment=layer)
    batch, label = next(iter(DataLoader(fixed, 5, collate_fn=fixed.collate)))
    assert batch.shape == (5, 3, 40, 56)
    assert label.shape[:2] == (1, 1)
    assert label.shape[3] == 8
    np.testing.assert_array_equal(label[0, 0], np.concatenate([fixed[i][1] + torch.eye(8)[0] * i for i in range(5)]))
    bare = fixed.collate([(batch[0], torch.zeros(0, 8))])
    np.testing.assert_array_equal(bare[1], np.full((1, 1, 1, 8), -1))


def test_augmentation_is_the_layers_and_differs_between_epochs(folder, tmp_path):
    root, _ = folder
    (tmp_path / "train.prototxt").write_text(f"layer {{ {LAYER} }}")
    data = detection_dataset(root, rows=True, augment=tmp_path / "train.prototxt", seed=3)
    layer = text.parse(LAYER, caffe_pb2.LayerParameter)
    layer.data_param.source, layer.data_param.batch_size = str(root / "train_lmdb"), len(data)
    loader = BatchLoader(layer, seed=3, workers=0)
    for epoch in range(2):
        data.epoch = epoch
        pictures, label, _ = loader.next()
        batch, own = data.collate(list(data))
        np.testing.assert_array_equal(batch, pictures.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(own, label)
    again = detection_dataset(root, rows=True, augment=layer, seed=3)
    assert not torch.equal(again[0][0], data[0][0])
    again.epoch = 1
    assert torch.equal(again[0][0], data[0][0])


def test_worker_processes_give_the_same(folder):
    root, _ = folder
    data = detection_dataset(root, augment=text.parse(LAYER, caffe_pb2.LayerParameter))
    alone = list(DataLoader(data, 4, collate_fn=data.collate))
    shared = list(DataLoader(data, 4, collate_fn=data.collate, num_workers=1, multiprocessing_context="fork"))
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one[0], other[0])
    assert torch.equal(pickle.loads(pickle.dumps(data))[2][0], data[2][0])


def test_what_does_not_go_together(folder, tmp_path):
    root, _ = folder
    with pytest.raises(UsageError, match="has no splits"):
        detection_dataset(root / "train_lmdb", "test")
    with pytest.raises(UsageError, match="unknown split, expected train or test and found val"):
        detection_dataset(root, "val")
    with pytest.raises(DataError, match="no database"):
        detection_dataset(tmp_path / "none")
    (tmp_path / "deploy.prototxt").write_text('layer { name: "data" type: "Input" top: "data" }')
    with pytest.raises(DataError, match="has no AnnotatedData layer for the phase TRAIN"):
        detection_dataset(root, augment=tmp_path / "deploy.prototxt")
    with pytest.raises(IndexError):
        detection_dataset(root)[12]


def test_the_room_does_not_import_torch_by_itself():
    code = "import sys, pyscratchdet.data, pyscratchdet.data.own.folder; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
