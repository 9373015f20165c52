"""A classifier that was imported from PyTorch, ready to be trained on: its nets with data, loss and accuracy.

Pictures come from lists, as ImageData reads them: `path label` per line, paths relative to the list's folder. They are
resized to 8/7 of the input; in training a part of the input's size is cut out anywhere and mirrored half of the time,
in the test the middle. Where the number of classes changes, the last layer begins anew, under another name and with ten
times the rate of the others, as in Caffe's example of fine-tuning (examples/finetune_flickr_style).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyscratchdet.data.lists import read_labels
from pyscratchdet.errors import ConversionError, DataError, counted
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.prototxt.classifier import learning
from pyscratchdet.prototxt.recipe import Recipe

_BATCH = 32
_MOST_TESTED = 50  # pictures in a test batch
_EPOCHS = 30
_FALLS = (0.5, 0.8)  # the rate falls to a tenth after these shares of the training
_SPARE = 8 / 7  # what is resized to, for the part that is cut out: 256 for 224


@dataclass(frozen=True)
class PictureLists:
    """Pictures of classes.

    Attributes:
        train: List to train on.
        test: List to test on.
        num_train, num_test: Pictures in them.
        num_classes: One more than the largest label.
    """

    train: str
    test: str
    num_train: int
    num_test: int
    num_classes: int

    @classmethod
    def read(cls, train: str | os.PathLike[str], test: str | os.PathLike[str]) -> PictureLists:
        """Reads both lists.

        Raises:
            DataError: One is empty or not a list of paths and labels from 0 on, or no picture has a label above 0.
            FileError: One cannot be read.
        """
        paths = [os.fspath(path) for path in (train, test)]
        labels = [[label for _, label in read_labels(path)] for path in paths]
        for path, numbers in zip(paths, labels, strict=True):
            if min(numbers) < 0:
                raise DataError(f"{path}: labels count from 0", code="data.list", found=min(numbers))
        num_classes = 1 + max(labels[0])
        if num_classes < 2 or max(labels[1]) >= num_classes:
            found = f"labels up to {num_classes - 1} in {paths[0]}, up to {max(labels[1])} in {paths[1]}"
            raise DataError(
                "at least two classes are needed, all of them among the training pictures",
                code="data.list",
                found=found,
            )
        return cls(paths[0], paths[1], len(labels[0]), len(labels[1]), num_classes)


def fine_tuning(
    classifier: Any, num_blobs: Mapping[str, int], output: str, scores: int, size: int, name: str,
    mean_value: tuple[float, ...], folder: str, lists: PictureLists,
) -> tuple[Recipe, str]:  # fmt: skip
    """Returns the nets and solver that train a classifier on, and the layer that begins anew ("" for none).

    Args:
        classifier: NetParameter of the classifier, which begins with its Input.
        num_blobs: {layer: how many arrays of weights it has}.
        output: The blob of scores, or of probabilities that a Softmax made.
        scores: How many classes the classifier tells apart.
        size: Side of its input.
        name: Its name.
        mean_value: What is subtracted from blue, green, red.
        folder: Where the files will be; they name each other by it.
        lists: The pictures.

    Raises:
        ConversionError: No layer whose outputs are the classes stands before the output.
    """
    layers = [learning(layer, num_blobs.get(layer.name, 0)) for layer in classifier.layer if layer.type != "Input"]
    if layers[-1].type == "Softmax":
        output = layers.pop().bottom[0]
    renewed = "" if scores == lists.num_classes else _renew(layers, scores, lists.num_classes)
    (given,) = (layer for layer in classifier.layer if layer.type == "Input")
    blob = given.top[0]
    pictures = _pictures(blob, lists.train, size, mean_value, is_train=True)
    train = _net(f"{name}_train", pictures, layers)
    test = _net(f"{name}_test", _pictures(blob, lists.test, size, mean_value, _test_batch(lists.num_test)), layers)
    deploy = _net(f"{name}_deploy", given, layers)
    for net in (train, test):
        net.layer.add(name="loss", type="SoftmaxWithLoss", bottom=[output, "label"], top=["loss"])
    test.layer.add(name="accuracy", type="Accuracy", bottom=[output, "label"], top=["accuracy"])
    deploy.layer.add(name="prob", type="Softmax", bottom=[output], top=["prob"])
    weights = f"{folder}/start.caffemodel"
    return Recipe(name, train, test, deploy, _solver(name, folder, lists), weights=weights, folder=folder), renewed


def _renew(layers: list[Any], scores: int, num_classes: int) -> str:
    """Gives the layer that makes the scores another number of outputs, a new name and fillers; returns the new name."""
    fields = {"InnerProduct": "inner_product_param", "Convolution": "convolution_param"}
    found = "no such layer"
    for layer in reversed(layers):
        if layer.type not in fields:
            continue
        param = getattr(layer, fields[layer.type])
        found = f"{layer.name} ({layer.type}), {counted(param.num_output, 'output')}"
        if param.num_output != scores or getattr(param, "group", 1) != 1:
            break
        layer.name = f"{layer.name}_new"
        param.num_output = num_classes
        param.weight_filler.CopyFrom(caffe_pb2.FillerParameter(type="gaussian", std=0.01))
        for blob in layer.param:
            blob.lr_mult *= 10
        return str(layer.name)
    raise ConversionError(
        "the last layer with weights does not make the scores",
        code="convert.classes",
        expected=counted(scores, "output"),
        found=found,
    )


def _pictures(
    blob: str, source: str, size: int, mean_value: tuple[float, ...], batch: int = _BATCH, *, is_train: bool = False
) -> Any:
    """The layer that reads a list."""
    larger = round(size * _SPARE)
    layer = caffe_pb2.LayerParameter(name="data", type="ImageData", top=[blob, "label"])
    layer.transform_param.CopyFrom(
        caffe_pb2.TransformationParameter(mirror=is_train, crop_size=size, mean_value=mean_value)
    )
    folder = os.path.dirname(source)
    layer.image_data_param.CopyFrom(
        caffe_pb2.ImageDataParameter(
            source=source, root_folder=f"{folder}/" if folder else "", batch_size=batch, shuffle=is_train,
            new_height=larger, new_width=larger,
        )
    )  # fmt: skip
    return layer


def _test_batch(pictures: int) -> int:
    """Returns a batch size that divides the pictures, so that each is tested once."""
    return next(size for size in range(min(pictures, _MOST_TESTED), 0, -1) if pictures % size == 0)


def _net(name: str, first: Any, layers: list[Any]) -> Any:
    net = caffe_pb2.NetParameter(name=name)
    net.layer.extend([first, *layers])
    return net


def _solver(name: str, folder: str, lists: PictureLists) -> Any:
    """SGD as in Caffe's example of fine-tuning, with a test and a snapshot in each thirtieth."""
    epoch = math.ceil(lists.num_train / _BATCH)
    return caffe_pb2.SolverParameter(
        train_net=f"{folder}/train.prototxt",
        test_net=[f"{folder}/test.prototxt"],
        test_iter=[lists.num_test // _test_batch(lists.num_test)],
        test_interval=epoch,
        test_initialization=False,
        base_lr=0.001,
        lr_policy="multistep",
        gamma=0.1,
        stepvalue=[max(1, round(share * _EPOCHS * epoch)) for share in _FALLS],
        max_iter=_EPOCHS * epoch,
        momentum=0.9,
        weight_decay=0.0005,
        display=10,
        average_loss=10,
        snapshot=epoch,
        snapshot_prefix=f"{folder}/{name}",
    )
