"""Faults of deployment engines, each as the smallest file that shows it.

    python benchmarks/engine_faults.py FOLDER --engine NAME=PYTHON [...]

Writes each file into FOLDER, and README.md with the inputs, what onnx's own reference computes and what each engine
returns. NAME and PYTHON are as in deployment.py.
"""

from __future__ import annotations

import argparse
import inspect
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import onnx
from deployment import RUNNER, reason
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pyscratchdet.files import write_text

Arrays = dict[str, np.ndarray]
Case = tuple[onnx.ModelProto, list[Arrays]]  # runs of one session, one after the other


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    output: tuple[str, int, list[int | str | None]],
    constants: Arrays,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "fault",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()],
        [helper.make_tensor_value_info(*output)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))


def mnn_nms_open_batch() -> Case:
    """MNN: with an open batch size NonMaxSuppression looks at the first image only."""
    inputs = {"boxes": ["n", 2, 4], "scores": ["n", 1, 2]}
    limits = {"most": np.array([2]), "overlap": np.array([0.5], np.float32), "score": np.array([0.1], np.float32)}
    node = helper.make_node("NonMaxSuppression", [*inputs, *limits], ["chosen"])
    model = _model([node], inputs, ("chosen", TensorProto.INT64, [None, 3]), limits)
    boxes = np.array([[[0, 0, 1, 1], [2, 2, 3, 3]]] * 3, np.float32)
    return model, [{"boxes": boxes, "scores": np.full((3, 1, 2), 0.5, np.float32)}]


def opencv_nonzero_rows() -> Case:
    """OpenCV 5: NonZero, Split, Gather go wrong in a second run where NonZero finds more places than in the first."""
    constants = {"ones": np.array([1, 1]), "flat": np.array([-1]), "width": np.array([3])}
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Split", ["places", "ones"], ["image", "place"], axis=0),
        helper.make_node("Mul", ["image", "width"], ["start"]),
        helper.make_node("Add", ["start", "place"], ["index"]),
        helper.make_node("Reshape", ["index", "flat"], ["row"]),
        helper.make_node("Reshape", ["x", "flat"], ["values"]),
        helper.make_node("Gather", ["values", "row"], ["found"]),
    ]
    model = _model(nodes, {"x": ["n", 3]}, ("found", TensorProto.FLOAT, [None]), constants)
    return model, [{"x": np.array([row], np.float32)} for row in ([0, 5, 0], [6, 7, 8])]


def topk_ties() -> Case:
    """OpenVINO and MNN: TopK does not keep the order of equal keys, which ONNX promises."""
    node = helper.make_node("TopK", ["x", "k"], ["values", "index"], axis=0, largest=0)
    model = _model([node], {"x": [64]}, ("index", TensorProto.INT64, [64]), {"k": np.array([64])})
    return model, [{"x": np.repeat(np.float32([1, 0]), 32)}]


def conv1x1_pad1() -> Case:
    """OpenCV 5 reads memory that nothing has written in a padded 1x1 convolution; with Pad before it, it is right."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1], pads=[1, 1, 1, 1])
    constants = {"w": np.arange(1, 13, dtype=np.float32).reshape(4, 3, 1, 1)}
    model = _model([node], {"x": ["n", 3, 2, 2]}, ("y", TensorProto.FLOAT, ["n", 4, 4, 4]), constants)
    return model, [{"x": np.arange(1, 13, dtype=np.float32).reshape(1, 3, 2, 2)}]


def average_include_pad() -> Case:
    """OpenCV 4 ignores count_include_pad; MNN's process dies (division by zero)."""
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    model = _model([node], {"x": [1, 1, 2, 2]}, ("y", TensorProto.FLOAT, [1, 1, 3, 3]), {})
    return model, [{"x": np.full((1, 1, 2, 2), 4, np.float32)}]


def average_include_uneven_pad() -> Case:
    """AveragePool with count_include_pad and uneven pads: onnxruntime 1.23.2 from opset 19 on, OpenCV 4 and MNN."""
    node = helper.make_node(
        "AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1
    )
    model = _model([node], {"x": [1, 1, 4, 4]}, ("y", TensorProto.FLOAT, [1, 1, 2, 2]), {}, opset=19)
    return model, [{"x": np.full((1, 1, 4, 4), 9, np.float32)}]


def openvino_int8_bias() -> Case:
    """OpenVINO drops the bias of a Conv whose result is quantised, if the Shape of what follows is the end of a Range.

    This takes an open batch size and biases that differ; with the bias in an Add of its own, it is right. MNN and
    OpenCV 4 go wrong for other reasons. `convert --calibrate` refuses `--heads fixed` without `--batch N`, which would
    be such a file.
    """
    constants = {
        "wide": np.ones((2, 1, 1, 1), np.float32),
        "bias": np.array([0, 2], np.float32),
        "scale": np.float32(1),
        "zero": np.uint8(0),
        "back": np.ones((1, 2, 1, 1), np.float32),
        "start": np.int64(0),
        "step": np.int64(1),
        "axes": np.array([1, 2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "wide", "bias"], ["values"]),
        helper.make_node("QuantizeLinear", ["values", "scale", "zero"], ["bytes"]),
        helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["rounded"]),
        helper.make_node("Conv", ["rounded", "back"], ["sum"]),
        helper.make_node("Shape", ["sum"], ["shape"]),
        helper.make_node("Gather", ["shape", "start"], ["images"]),
        helper.make_node("Range", ["start", "images", "step"], ["image"]),
        helper.make_node("Cast", ["image"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["number", "axes"], ["column"]),
        helper.make_node("Add", ["sum", "column"], ["y"]),
    ]
    model = _model(nodes, {"x": ["n", 1, 1, 1]}, ("y", TensorProto.FLOAT, ["n", 1, 1, 1]), constants, opset=19)
    return model, [{"x": np.full((2, 1, 1, 1), 3, np.float32)}]


FAULTS: tuple[Callable[[], Case], ...] = (
    mnn_nms_open_batch,
    opencv_nonzero_rows,
    topk_ties,
    conv1x1_pad1,
    average_include_pad,
    average_include_uneven_pad,
    openvino_int8_bias,
)


def run(engine: str, python: str, path: Path, output: str, runs: list[Arrays]) -> tuple[list[np.ndarray] | str, str]:
    """Returns what the engine computes in each run, or its own words, and its version where it says so."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        arrays = {f"{k}:{name}": array for k, feed in enumerate(runs) for name, array in feed.items()}
        np.savez(source, outputs=np.array([output]), **arrays)
        command = [python, str(RUNNER), engine, str(path), str(source), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return reason(done.stderr, done.returncode), ""
        with np.load(target) as found:
            return [found[f"{k}:{output}"] for k in range(len(runs))], str(found["version"])


def main() -> None:
    """Writes the files, and runs them in the engines given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", action="append", default=[], metavar="NAME=PYTHON")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    text = [HEAD.format(date=date.today(), onnx=onnx.__version__)]
    for fault in FAULTS:
        model, runs = fault()
        onnx.checker.check_model(model, full_check=True)
        path = args.folder / f"{fault.__name__}.onnx"
        onnx.save(model, path)
        output = model.graph.output[0].name
        right = [ReferenceEvaluator(model).run([output], feed)[0] for feed in runs]
        text += [
            "",
            f"## {path.name}",
            "",
            inspect.cleandoc(fault.__doc__ or ""),
            "",
            "```text",
            *_shown("input", runs),
            *_shown("right", right),
        ]
        for engine in args.engine:
            label, _, python = engine.partition("=")
            found, version = run(label.partition(":")[0], python, path, output, runs)
            title = f"{label.partition(':')[0]} {version or label.partition(':')[2]}".strip()
            if isinstance(found, str):
                text.append(f"{title}: {found}")
            elif all(a.size == b.size and np.allclose(a.ravel(), b.ravel()) for a, b in zip(found, right, strict=True)):
                text.append(f"{title}: right")
            else:
                text += _shown(title, [array.reshape(array.shape[-right[0].ndim :]) for array in found])
        text.append("```")
        print("\n".join(text[-12:]), flush=True)
    write_text(args.folder / "README.md", "\n".join(text) + "\n")


def _shown(title: str, runs: Sequence[Arrays | np.ndarray]) -> list[str]:
    """Returns a line for each run, shortened where it is long."""
    lines = []
    for value in runs:
        arrays = value.items() if isinstance(value, dict) else [("", value)]
        shown = "; ".join(f"{name} {_numbers(array)}".strip() for name, array in arrays)
        lines.append(f"{title}: {shown if len(shown) < 400 else shown[:400] + ' ...'}")
    return lines


def _numbers(array: np.ndarray) -> str:
    return " ".join(np.array2string(array, precision=4, separator=", ", threshold=1000, max_line_width=10000).split())


HEAD = """\
# Faults of engines

Written by `python benchmarks/engine_faults.py docs/engine_faults --engine ...` on {date} (onnx {onnx}); do not edit.
Each file is the smallest that shows the fault, with an input that does. "right" is what onnx's own reference computes.
The files that `convert` writes avoid all of them."""


if __name__ == "__main__":
    main()
