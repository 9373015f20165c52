"""A small classification pretraining: the body of a shrunk SSD learns to tell generated shapes apart, one a picture.

It stands in for ImageNet: other pictures, other classes, objects in the middle. Layers keep their names, so the
detector takes the weights by name, as SSD takes those of a classifier.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pyscratchdet.data.lists import Entry
from pyscratchdet.data.shapes import CLASSES, make_shapes
from pyscratchdet.detect.media import read_picture
from pyscratchdet.evaluate.sets import read_voc_truth
from pyscratchdet.experiments.sources import write
from pyscratchdet.files import write_bytes
from pyscratchdet.proto import caffe_pb2, text
from pyscratchdet.solver.launch import TrainSettings, train

SIZE, BATCH, ITERATIONS = 64, 32, 300
_TRAIN, _TEST = 700, 100  # pictures of shapes, of which each has about three
_MARGIN = 0.2  # around a shape, as a share of its side
_FIRST_EXTRA = "conv6_1"  # SSD's own layers begin here


def pretrained(folder: Path, net: caffe_pb2.NetParameter) -> Path:
    """Returns the weights of a body as a classifier, which are trained unless they are there.

    Args:
        folder: For data and weights; an interrupted training goes on there.
        net: The detector's train net.
    """
    data, body = folder / "shapes", _body(net)
    _write_crops(data)
    has_batchnorm = any(layer.type == "BatchNorm" for layer in body)
    home = folder / ("vgg16_bn" if has_batchnorm else "vgg16")
    weights = home / f"classifier_iter_{ITERATIONS}.caffemodel"
    if not weights.exists():
        text.write(home / "net.prototxt", _classifier(body, data))
        text.write(home / "solver.prototxt", _solver(home, len(list((data / "test").glob("*.jpg")))))
        solver, metrics = str(home / "solver.prototxt"), str(home / "metrics.csv")
        train(TrainSettings(solver, resume=True, fast=True, metrics=metrics))
    return weights


def _body(net: caffe_pb2.NetParameter) -> list[Any]:
    names = [layer.name for layer in net.layer]
    return [layer for layer in net.layer[: names.index(_FIRST_EXTRA)] if layer.type != "AnnotatedData"]


def _classifier(body: list[Any], data: Path) -> caffe_pb2.NetParameter:
    net = caffe_pb2.NetParameter(name="classifier")
    for phase, part in ((caffe_pb2.TRAIN, "train"), (caffe_pb2.TEST, "test")):
        source = net.layer.add(name="data", type="Data", top=["data", "label"])
        source.include.add(phase=phase)
        source.transform_param.mean_value.extend((104, 117, 123))
        source.transform_param.mirror = phase == caffe_pb2.TRAIN
        source.data_param.source, source.data_param.batch_size = str(data / f"{part}_lmdb"), BATCH
        source.data_param.backend = caffe_pb2.DataParameter.LMDB
    net.layer.extend(body)
    pool = net.layer.add(name="pool", type="Pooling", bottom=["fc7"], top=["pool"])
    pool.pooling_param.pool, pool.pooling_param.global_pooling = caffe_pb2.PoolingParameter.AVE, True
    scores = net.layer.add(name="scores", type="InnerProduct", bottom=["pool"], top=["scores"])
    scores.inner_product_param.num_output = len(CLASSES)
    scores.inner_product_param.weight_filler.type = "xavier"
    net.layer.add(name="loss", type="SoftmaxWithLoss", bottom=["scores", "label"], top=["loss"])
    accuracy = net.layer.add(name="accuracy", type="Accuracy", bottom=["scores", "label"], top=["accuracy"])
    accuracy.include.add(phase=caffe_pb2.TEST)
    return net


def _solver(home: Path, num_test: int) -> caffe_pb2.SolverParameter:
    return caffe_pb2.SolverParameter(
        net=str(home / "net.prototxt"),
        test_iter=[num_test // BATCH],
        test_interval=ITERATIONS // 3,
        test_initialization=False,
        type="Adam",
        base_lr=0.001,
        momentum=0.9,
        momentum2=0.999,
        lr_policy="multistep",
        gamma=0.1,
        stepvalue=[ITERATIONS * 3 // 4],
        max_iter=ITERATIONS,
        display=10,
        snapshot=ITERATIONS // 3,
        snapshot_prefix=str(home / "classifier"),
        random_seed=1,
        solver_mode=caffe_pb2.SolverParameter.CPU,
    )


def _write_crops(folder: Path) -> None:
    """Writes databases of single shapes, cut out of generated pictures."""
    if not (folder / "pictures").exists():
        make_shapes(folder / "pictures", _TRAIN, _TEST, seed=7)
    base = folder / "pictures" / "VOCdevkit" / "VOC2007"
    for part, listed in (("train", "trainval"), ("test", "test")):
        database = folder / f"{part}_lmdb"
        if not database.exists():
            write(database, folder, _crops(folder, part, base, listed), None)


def _crops(folder: Path, part: str, base: Path, listed: str) -> list[Entry]:
    truth, entries = read_voc_truth(base, listed, CLASSES), []
    pictures = [read_picture(path) for path in truth.paths]
    for number in np.flatnonzero(~truth.difficult):
        x0, y0, x1, y1 = truth.boxes_px[number]
        half = max(x1 - x0 + 1, y1 - y0 + 1) * (0.5 + _MARGIN)
        rows, columns = (
            slice(max(0, round(middle - half)), round(middle + half)) for middle in ((y0 + y1) / 2, (x0 + x1) / 2)
        )
        crop = cv2.resize(pictures[truth.image[number]][rows, columns], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        name = f"{part}/{number:05d}.jpg"
        write_bytes(folder / name, cv2.imencode(".jpg", crop)[1].tobytes())
        entries.append((name, str(truth.label[number] - 1)))
    return entries
