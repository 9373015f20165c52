"""Nets that name what they see instead of framing it: the classes of a whole picture, or a label for every pixel."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from pyscratchdet.data.label_map import known_label_map, label_to_name, read_label_map
from pyscratchdet.detect.detector import Preparation, check_pictures
from pyscratchdet.detect.engine import PictureNet, not_numbers
from pyscratchdet.errors import DataError, NetError, counted
from pyscratchdet.files import read_bytes
from pyscratchdet.layers.argmax import ArgMax
from pyscratchdet.layers.base import Shape, layer_class
from pyscratchdet.layers.plan import NetPlan, plan_net, read_net
from pyscratchdet.proto.text import decode_text

Prepared = Sequence[np.ndarray] | np.ndarray
TASKS = ("detect", "segment", "classify")

_SYNSET = re.compile(r"n\d{8}\s+(.+)")  # a line of ImageNet's synset_words.txt


@dataclass(frozen=True)
class LabelOutput:
    """An output of a net that names classes.

    Attributes:
        blob: Its name.
        shape: (N, C), (N, C, 1, 1) or, of a picture of labels, (N, C, H, W) scores, (N, 1, H, W) labels.
        num_classes: C, or how many classes the labels were chosen from.
        holds_labels: Whether it has the labels themselves (ArgMax), not scores.
    """

    blob: str
    shape: Shape
    num_classes: int
    holds_labels: bool = False

    @property
    def task(self) -> str:
        """What `detect --task` calls it."""
        return "segment" if any(size > 1 for size in self.shape[2:]) else "classify"


def find_task(model: str | os.PathLike[str]) -> str:
    """Returns what a deploy net is for, by its outputs; "detect" also where nothing else is plain.

    Raises:
        FileError, PrototxtError, NetError, LayerError: The net is missing or invalid, or has several outputs that name
            classes.
    """
    net = read_net(model)
    if any(layer_class(layer.type, layer.name).makes_detections for layer in net.param.layer):
        return "detect"
    found = label_outputs(plan_net(net))
    if len(found) > 1:
        shown = ", ".join(f"{one.blob} {one.shape}" for one in found)
        raise NetError(
            "several outputs may be what the net is for",
            code="detect.task",
            expected="--task segment or --task classify, which take the last one of their kind",
            found=shown,
        )
    return found[0].task if found else "detect"


def label_outputs(plan: NetPlan) -> list[LabelOutput]:
    """Returns the outputs of a net that can name classes, in the order in which they are made."""
    graph, found = plan.graph, []
    for index, node in enumerate(graph.nodes):
        for blob in node.tops:
            shape, layer = plan.shapes[blob], plan.layers[index]
            if blob not in graph.outputs or len(shape) not in (2, 4) or node.is_input:
                continue
            if isinstance(layer, ArgMax) and len(shape) == 4 and shape[1] == 1 and not layer.with_values:
                found.append(LabelOutput(graph.blob_names[blob], shape, plan.bottom_shapes(index)[0][1], True))
            elif shape[1] > 1:
                found.append(LabelOutput(graph.blob_names[blob], shape, shape[1]))
    return list({one.blob: one for one in found}.values())


class Labeller:
    """A deploy net that names classes: a `PictureNet`, with model, weights, size, device and precision as there.

    Args:
        model: Prototxt of the deploy net.
        weights: .caffemodel or .caffemodel.h5.
        task: "segment" or "classify".
        names: LabelMap prototxt, or a text file with a name (or, as ImageNet's, "n01440764 tench") in each line;
            without one classes are named by their number.
        preparation: Mean, scale and channel order.
        batch_size: Pictures per forward pass.
        size: (height, width) of the net's input if it should differ from the prototxt's.
        device: The torch device.
        precision: "float32", or "bf16" on CPUs that have it.

    Raises:
        FileError, PrototxtError, NetError, LayerError, WeightsError: A file is missing or invalid.
        UsageError: The device does not have the precision.
        DataError: Names and net differ in their number of classes.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        weights: str | os.PathLike[str] | None,
        task: str,
        names: str | os.PathLike[str] | None = None,
        *,
        preparation: Preparation | None = None,
        batch_size: int = 8,
        size: tuple[int, int] | None = None,
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        self._net = PictureNet(model, weights, size, device, precision)
        self.output = _choose_output(self._net.net.plan, task)
        self.preparation, self.batch_size = preparation or Preparation(), self._net.batch_size or batch_size
        self.size = self._net.size  # (height, width) of the net's input
        self.names = read_class_names(names, self.output.num_classes)

    def classify(self, images: Sequence[np.ndarray], most: int = 5) -> list[list[tuple[int, float]]]:
        """Returns the labels with the highest scores, each with its score, by falling score.

        Args:
            images: uint8 BGR pictures (h, w, 3), or (h, w) in grey; any sizes.
            most: How many labels of each picture.

        Raises:
            DataError: Something that is not a picture, or scores that are not numbers.
        """
        return self.find_classes(self._prepared(images), most)

    def segment(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the label of every pixel, int64 (h, w): that of the nearest place of the net's output.

        Args:
            images: uint8 BGR pictures (h, w, 3), or (h, w) in grey; any sizes.

        Raises:
            DataError: Something that is not a picture, or scores that are not numbers.
        """
        return self.find_labels(self._prepared(images), [image.shape[:2] for image in images])

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Returns the net's input for a picture, float32 (channels, height, width); safe in several threads.

        Raises:
            DataError: Not a picture.
        """
        return self.preparation(image, self._net.channels, *self.size)

    def find_classes(self, prepared: Prepared, most: int = 5) -> list[list[tuple[int, float]]]:
        """Returns what `classify` does, for pictures that `prepare` has made the net's input of."""
        found = []
        for scores in self._run(prepared):
            values = scores.reshape(-1)
            order = np.argsort(-values, kind="stable")[:most]
            found.append([(int(label), float(values[label])) for label in order])
        return found

    def find_labels(self, prepared: Prepared, sizes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """Returns what `segment` does, for prepared pictures of these (height, width)."""
        found = []
        for size, scores in zip(sizes, self._run(prepared), strict=True):
            labels = (scores[0] if self.output.holds_labels else scores.argmax(0)).astype(np.float32)
            found.append(cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST).astype(np.int64))
        return found

    def _prepared(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        check_pictures(images)
        if isinstance(images, np.ndarray) and images.ndim < 4:  # or its rows would be taken for pictures
            raise DataError("one picture, not several", code="detect.picture", expected="a list of pictures")
        return [self.prepare(image) for image in images]

    def _run(self, prepared: Prepared) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for start in range(0, len(prepared), self.batch_size):
            batch = list(prepared[start:][: self.batch_size])
            number = len(batch)
            if self._net.batch_size:  # bound to it: zeros fill up the last batch
                batch += [np.zeros_like(batch[0])] * (self.batch_size - number)
            scores = self._net(np.stack(batch))[self.output.blob].float().cpu().numpy()[:number]
            if np.isnan(scores).any():
                raise not_numbers()
            found += list(scores)
        return found


def _choose_output(plan: NetPlan, task: str) -> LabelOutput:
    found = [one for one in label_outputs(plan) if one.task == task]
    if not found:
        graph = plan.graph
        raise NetError(
            f"no output fits --task {task}",
            code="detect.output",
            expected="(N, classes, H, W), or ArgMax's (N, 1, H, W)" if task == "segment" else "(N, classes)",
            found=", ".join(f"{graph.blob_names[blob]} {plan.shapes[blob]}" for blob in graph.outputs),
        )
    return found[-1]


def read_class_names(path: str | os.PathLike[str] | None, number: int) -> dict[int, str]:
    """Returns the name of each of `number` labels; without a file their numbers.

    Args:
        path: LabelMap prototxt, "voc" or "coco", or a text file with a name in each line, ImageNet's synset_words.txt
            among them.
        number: How many classes the net has.

    Raises:
        FileError: It cannot be read.
        DataError: It has other labels.
    """
    if path is None:
        return {label: str(label) for label in range(number)}
    text = "" if known_label_map(path) else decode_text(read_bytes(path), os.fspath(path))
    if not text or re.search(r"^\s*item\s*:?\s*\{", text, re.MULTILINE):
        names = label_to_name(read_label_map(path), strict=True, display=True, path=path)
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        names = {label: _name_of_line(line) for label, line in enumerate(lines)}
    if sorted(names) != list(range(number)):
        raise DataError(
            f"{os.fspath(path)}: names and net differ",
            code="detect.class-count",
            expected=f"labels 0 to {number - 1}",
            found=f"{counted(len(names), 'label')} from {min(names, default=0)} to {max(names, default=0)}",
        )
    return names


def _name_of_line(line: str) -> str:
    found = _SYNSET.fullmatch(line)
    return found[1] if found else line
