"""Every caffemodel in some folders through all six directions: caffemodel <-> PyTorch <-> ONNX, and HDF5.

    python benchmarks/conversion_matrix.py FOLDER... [--output FOLDER]

Takes each *.caffemodel with the <stem>.prototxt, deploy.prototxt or train.prototxt beside it (without its losses, which
ONNX does not have). Says where converting back gives the same bytes, the largest difference of any weight, and for ONNX
the blob that onnxruntime computes with the largest relative L2 error against our runtime, from seeded noise. PyTorch
stands for .safetensors and .pt, the worse of the two. Writes the table to FOLDER/<date>-conversion-matrix.md.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import onnxruntime

from pyscratchdet import __version__
from pyscratchdet.converters.compare import Comparison, compare
from pyscratchdet.converters.engines import OnnxEngine, PyTorchEngine
from pyscratchdet.converters.weights import convert_weights
from pyscratchdet.errors import ConversionError
from pyscratchdet.files import write_text
from pyscratchdet.layers.plan import read_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import to_text
from pyscratchdet.proto.weights import read_weights
from pyscratchdet.runtime import load_net

PYTORCH = ("safetensors", "pt")


def find_nets(folders: list[Path]) -> list[tuple[str, Path, Path]]:
    """Returns (name, caffemodel, prototxt)."""
    nets = []
    for caffemodel in sorted(path for folder in folders for path in folder.rglob("*.caffemodel")):
        names = (f"{caffemodel.stem}.prototxt", "deploy.prototxt", "train.prototxt")
        prototxt = next(path for name in names if (path := caffemodel.parent / name).exists())
        detail = "" if len(list(caffemodel.parent.glob("*.caffemodel"))) == 1 else f"/{caffemodel.stem}"
        nets.append((caffemodel.parent.name + detail, caffemodel, prototxt))
    return nets


def without_losses(prototxt: Path, target: Path) -> Path:
    param = caffe_pb2.NetParameter()
    param.CopyFrom(read_net(prototxt).param)
    kept = [layer for layer in param.layer if not layer.type.endswith("Loss")]
    del param.layer[:]
    param.layer.extend(kept)
    write_text(target, to_text(param))
    return target


def form(caffemodel: Path) -> str:
    net = caffe_pb2.NetParameter.FromString(caffemodel.read_bytes())
    return "V1" if net.layers else "current"


def weight_error(first: Path, second: Path, deploy: Path, folder: Path) -> float:
    """Returns the largest absolute difference of any weight; infinite where layers or shapes differ."""
    left, right = (convert_weights(path, folder / "any.safetensors", deploy).blobs for path in (first, second))
    sizes, others = ({name: [a.size for a in arrays] for name, arrays in blobs.items()} for blobs in (left, right))
    if sizes != others:
        return float("inf")
    pairs = ((a, b) for name in left for a, b in zip(left[name], right[name], strict=True))
    return max(float(np.abs(a.ravel().astype(np.float64) - b.ravel()).max(initial=0)) for a, b in pairs)


def number(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def run_onnx(deploy: Path, weights: Path) -> Comparison:
    net = load_net(deploy, weights)
    rng = np.random.default_rng(1)
    inputs = {name: rng.uniform(-120, 130, net.blob_shapes[name]).astype("f4") for name in net.input_names}
    return compare(net, PyTorchEngine(net), OnnxEngine(net), inputs)


def blob_error(comparison: Comparison) -> str:
    worst = comparison.worst
    assert worst is not None
    assert worst.drift is not None
    return f"{worst.drift.relative:.0e} {worst.blob}" + ("" if comparison.agrees else " PARTS")


def row(name: str, caffemodel: Path, prototxt: Path, folder: Path) -> list[str]:
    deploy = without_losses(prototxt, folder / "deploy.prototxt")

    def convert(source: Path, target: str) -> Path:
        convert_weights(source, folder / target, deploy, keep_paths=True)
        return folder / target

    def back(source: Path) -> str:
        found = convert(source, "back.caffemodel")
        if found.read_bytes() == caffemodel.read_bytes():
            return "same bytes"
        return number(weight_error(caffemodel, found, deploy, folder))

    def back_from_hdf5() -> str:
        try:
            return back(hdf5)
        except ConversionError as error:  # HDF5 does not store the types of layers, so the net must have them all
            return f"refused: {error.message}"

    def worst(pairs: list[tuple[Path, Path]]) -> str:
        return number(max(weight_error(*pair, deploy, folder) for pair in pairs))

    onnx = convert(caffemodel, "net.onnx")
    torch_files = [convert(caffemodel, f"net.{ending}") for ending in PYTORCH]
    to_onnx = [convert(path, f"from_{path.suffix[1:]}.onnx") for path in torch_files]
    to_torch = [convert(onnx, f"from_onnx.{ending}") for ending in PYTORCH]
    hdf5 = convert(caffemodel, "net.caffemodel.h5")
    values = sum(a.size for arrays in read_weights(caffemodel).blobs.values() for a in arrays if a is not None)
    same_file = all(path.read_bytes() == onnx.read_bytes() for path in to_onnx)
    return [
        name,
        form(caffemodel),
        f"{values:,}",
        worst([(caffemodel, path) for path in torch_files]),
        " / ".join(sorted({back(path) for path in torch_files})),
        blob_error(run_onnx(deploy, caffemodel)),
        back(onnx),
        "same file" if same_file else worst([(caffemodel, path) for path in to_onnx]),
        worst([(caffemodel, path) for path in to_torch]),
        worst([(caffemodel, hdf5)]),
        back_from_hdf5(),
    ]


HEADINGS = (
    "net", "format", "values", "caffemodel to PyTorch", "PyTorch to caffemodel", "caffemodel to ONNX, worst blob",
    "ONNX to caffemodel", "PyTorch to ONNX", "ONNX to PyTorch", "caffemodel to HDF5", "HDF5 to caffemodel",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    rows = []
    for name, caffemodel, prototxt in find_nets(args.folders):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(name, caffemodel, prototxt, Path(folder)))
            print(" | ".join(rows[-1]), flush=True)
    lines = [
        f"# Weights in every direction, {date.today()}",
        "",
        f"pyscratchdet {__version__}, onnxruntime {onnxruntime.__version__}, {platform.machine()}; written by "
        "benchmarks/conversion_matrix.py.",
        "",
        "Figures are the largest absolute difference of any weight from the caffemodel's; for ONNX, the largest",
        "relative L2 error of any blob that onnxruntime computes from noise, against our runtime. For conversions",
        "back to a caffemodel, the cell says that the file is the original, byte for byte, or gives the difference:",
        "HDF5 keeps only the weights, not what else the caffemodel held.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
        *("| " + " | ".join(cells) + " |" for cells in rows),
    ]
    write_text(args.output / f"{date.today()}-conversion-matrix.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
