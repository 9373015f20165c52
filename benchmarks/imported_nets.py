"""Nets written from PyTorch and ONNX: our runtime and OpenCV 4 against what the source computes.

    python benchmarks/imported_nets.py [--models FOLDER] [--output FOLDER]

torchvision's classifiers get seeded weights, statistics of BatchNorm included, and one random picture. With --models, a
folder that holds `ultralight_rfb320` and `omz_samplenet`, each with its caffemodel (deploy.prototxt, model.caffemodel)
and the ONNX files that its authors published, those files are imported too, and a second table compares our run of each
caffemodel with onnxruntime's run of its twin. samplenet's twin takes RGB where the caffemodel takes BGR: the picture's
channels are swapped for it. Writes FOLDER/<date>-imported-nets.md; OpenCV must be 4.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
import torchvision
from torch import nn

from pyscratchdet import __version__
from pyscratchdet.converters.build import NetBuilder
from pyscratchdet.converters.compare import difference
from pyscratchdet.converters.onnx_import import import_onnx
from pyscratchdet.converters.torch_import import import_module
from pyscratchdet.converters.torch_models import torchvision_model
from pyscratchdet.files import write_text
from pyscratchdet.runtime import load_net

MODULES = {
    "resnet18": 224,
    "resnet34": 224,
    "resnet101": 224,
    "vgg16": 224,
    "vgg16_bn": 224,
    "alexnet": 224,
    "mobilenet_v2": 224,
    "squeezenet1_1": 224,
}
# Folder: the outputs that each ONNX file shares with the caffemodel, and whether its input channels are in the other
# order. The boxes of ultralight's model.onnx are decoded, those of the caffemodel are not.
TWINS = {
    "ultralight_rfb320": ({"model_without_postprocessing.onnx": ["scores", "boxes"], "model.onnx": ["scores"]}, False),
    "omz_samplenet": ({"samplenet.onnx": ["fc3"]}, True),
}
Arrays = dict[str, np.ndarray]


def picture(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    """Returns noise in the range of a normalised picture."""
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def seeded_module(name: str) -> nn.Module:
    """Returns a torchvision model with seeded weights, and statistics other than the initial ones."""
    torch.manual_seed(1)
    module = torchvision_model(name)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 2)
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.2)
    return module.eval()


def from_torchvision(name: str, size: int) -> tuple[NetBuilder, np.ndarray, Arrays]:
    """Returns the imported net, an input and what the module answers."""
    module, inputs = seeded_module(name), picture((1, 3, size, size))
    with torch.no_grad():
        answer = module(torch.from_numpy(inputs)).numpy()
    net = import_module(module, inputs.shape, name)
    return net, inputs, {net.param.layer[-1].top[0]: answer}


def from_onnx(path: Path) -> tuple[NetBuilder, np.ndarray, Arrays]:
    """Returns the imported net, an input and what onnxruntime answers."""
    session = _session(path)
    (value,) = session.get_inputs()
    inputs = picture(tuple(value.shape))
    names = [output.name for output in session.get_outputs()]
    answers = session.run(names, {value.name: inputs})
    return import_onnx(path), inputs, dict(zip(names, answers, strict=True))


def measure(net: NetBuilder, inputs: np.ndarray, expected: Arrays) -> tuple[int, float, float]:
    """Writes the net; returns its number of layers and the worst relative L2 error of an output, ours and OpenCV's."""
    with tempfile.TemporaryDirectory() as folder:
        files = str(Path(folder) / "net.prototxt"), str(Path(folder) / "net.caffemodel")
        net.write(*files)
        runtime = load_net(*files)
        with torch.no_grad():
            ours = runtime({runtime.input_names[0]: torch.from_numpy(inputs)})
        opencv = cv2.dnn.readNetFromCaffe(*files)
    opencv.setInput(inputs)
    errors = []
    for blob, answer in expected.items():
        layer = [layer.name for layer in net.param.layer if blob in layer.top][-1]
        errors.append([difference(side, answer).relative for side in (ours[blob].numpy(), opencv.forward(layer))])
    worst = np.max(errors, axis=0)
    return len(net.param.layer), float(worst[0]), float(worst[1])


def twins(models: Path) -> Iterator[str]:
    """Yields a row for each output of each twin: our run of the caffemodel against onnxruntime's of the ONNX file."""
    for folder, (files, swapped) in TWINS.items():
        net = load_net(models / folder / "deploy.prototxt", models / folder / "model.caffemodel")
        name = net.input_names[0]
        inputs = picture(tuple(net.blob_shapes[name]))
        with torch.no_grad():
            ours = net({name: torch.from_numpy(inputs)})
        for file, outputs in files.items():
            session = _session(models / folder / file)
            theirs = np.ascontiguousarray(inputs[:, ::-1]) if swapped else inputs
            answers = session.run(outputs, {session.get_inputs()[0].name: theirs})
            for output, answer in zip(outputs, answers, strict=True):
                error = difference(ours[output].numpy(), answer).relative
                note = "input channels exchanged" if swapped else ""
                yield f"| {folder} | {file} | {output} | {error:.1e} | {note} |"


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Measures and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder with the two models that have ONNX twins")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    lines = [
        f"# Nets written from PyTorch and ONNX, {date.today()}",
        "",
        f"pyscratchdet {__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"onnxruntime {onnxruntime.__version__}, OpenCV {cv2.__version__}, CPU. Relative L2 error of the worst output "
        "against the source: the PyTorch module, or onnxruntime.",
        "",
        "| source | input | Caffe layers | our runtime | OpenCV's importer |",
        "|---|---|---:|---:|---:|",
    ]
    print(*lines, sep="\n")
    files = [args.models / folder / file for folder, (names, _) in TWINS.items() for file in names if args.models]
    sources = [(f"torchvision {name}", lambda n=name, s=size: from_torchvision(n, s)) for name, size in MODULES.items()]
    sources += [(f"{path.parent.name}/{path.name}", lambda p=path: from_onnx(p)) for path in files]
    for name, make in sources:
        net, inputs, expected = make()
        layers, ours, theirs = measure(net, inputs, expected)
        size = " x ".join(map(str, inputs.shape[2:]))
        lines.append(f"| {name} | {size} | {layers} | {ours:.1e} | {theirs:.1e} |")
        print(lines[-1], flush=True)
    if args.models:
        lines += ["", "The published caffemodels in our runtime against their ONNX twins in onnxruntime.", ""]
        lines += ["| caffemodel | twin | output | relative L2 error | |", "|---|---|---|---:|---|", *twins(args.models)]
        print(*lines[-8:], sep="\n")
    write_text(args.output / f"{date.today()}-imported-nets.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
