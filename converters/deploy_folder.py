"""A detector as a folder that runs where it is copied: net, weights, ONNX file, class names and two short programs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pyscratchdet.converters.weights import Bundle, Names, read_bundle, write_bundle
from pyscratchdet.detect.detector import Preparation, check_class_names
from pyscratchdet.errors import ConversionError, counted, printable
from pyscratchdet.files import check_not_kept, write_text
from pyscratchdet.layers.plan import NetFile, NetPlan
from pyscratchdet.proto.file_names import clear_file_names
from pyscratchdet.proto.text import to_text

PROTOTXT, CAFFEMODEL, ONNX, LABELS = "deploy.prototxt", "model.caffemodel", "model.onnx", "labels.txt"
PROGRAMS = ("detect.py", "detect_opencv.py")  # of examples/, with this net's constants


def write_deploy_folder(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    model: str | os.PathLike[str],
    labels: Mapping[int, str],
    preparation: Preparation,
    facts: Mapping[str, str],
    onnx: Mapping[str, Any],
) -> Bundle:
    """Writes the folder; files of the same names are replaced, each when it is whole.

    Net and caffemodel are the deploy net's alone: they name no files of the training.

    Args:
        source: Weights of any form.
        folder: Made if it is missing.
        model: Deploy prototxt of a detector.
        labels: {label: class name}, background included.
        preparation: How pictures are prepared.
        facts: What the ONNX file says about itself.
        onnx: Options of `export_onnx`.

    Returns:
        What was converted.

    Raises:
        FileError, WeightsError, DataError, ConversionError: A file is damaged, labels and net differ, or the net has
            no ONNX form.
    """
    names = Names(model)
    assert names.file is not None
    assert names.plan is not None
    channels, height, width = _check_net(names.plan, labels)
    net = names.file.param
    clear_file_names(net)
    bundle = read_bundle(source, names)
    blobs = {layer: arrays for layer, arrays in bundle.blobs.items() if layer not in bundle.unknown}
    bundle = Bundle(blobs, unknown=bundle.unknown)
    root, own = Path(folder), Names(NetFile(net))
    for name in (ONNX, CAFFEMODEL, PROTOTXT, LABELS, *PROGRAMS):
        check_not_kept(root / name)
    root.mkdir(parents=True, exist_ok=True)
    write_bundle(root / ONNX, bundle, own, onnx=onnx, facts=facts)  # first: it may be refused
    write_bundle(root / CAFFEMODEL, Bundle(blobs), own)
    write_text(root / PROTOTXT, to_text(net))
    write_text(root / LABELS, "".join(f"{printable(labels[label])}\n" for label in sorted(labels)))
    mean = tuple(float(f"{value:.9g}") for value in preparation.mean_of(channels))
    constants = {
        "WIDTH, HEIGHT": f"{width}, {height}",
        "MEAN, SCALE, RGB": f"{mean}, {preparation.scale!r}, {preparation.rgb}",
    }
    for name in PROGRAMS:
        text = resources.files("pyscratchdet").joinpath("examples", name).read_text(encoding="utf-8")
        write_text(root / name, _with_constants(text, constants))
    return bundle


def _check_net(plan: NetPlan, labels: Mapping[int, str]) -> tuple[int, ...]:
    """Returns channels, height and width of the input of a detector that has these labels."""
    shapes = [plan.shapes[blob] for blob in plan.graph.inputs]
    ends: list[Any] = [plan.layers[index] for index in plan.detection_layers]
    if len(ends) != 1 or len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (1, 3):
        raise ConversionError(
            "not the deploy net of a detector",
            code="convert.deploy",
            expected="one input (batch, 3 or 1, height, width) and one layer that makes detections",
            found=f"{counted(len(shapes), 'input')} {shapes}, {counted(len(ends), 'such layer')}",
        )
    check_class_names(labels, ends[0].num_labels)
    return shapes[0][1:]


def _with_constants(text: str, constants: Mapping[str, str]) -> str:
    """Returns a program with other values of its constants; what is written behind them stays."""
    for names, values in constants.items():
        text = re.sub(rf"^{names} = .*?(?=  #|$)", f"{names} = {values}", text, count=1, flags=re.MULTILINE)
    return text
