"""Every recipe as ONNX, run by onnxruntime against our runtime: the same blobs, the same detections.

    python benchmarks/onnx_recipes.py [NAME...] [--rows FILE] [--output FOLDER]

Each net gets seeded weights and one random picture. Its ONNX file, DetectionOutput included, passes onnx.checker with
shape inference and runs in onnxruntime as a user would run it; a second model that returns every blob gives the worst
blob. Detections are compared twice: as they come, and those of our DetectionOutput on the same heads that onnxruntime
computed, which compares decoding and suppression alone. Rows count as the same when image and label agree and
score and coordinates are within 1e-4.

FILE keeps the rows that are done, so that an interrupted run can continue. Without names, all recipes run and the table
goes to FOLDER/<date>-onnx-recipes.md; recipes that share a net share its row.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from seeded import picture, seed_weights

from pyscratchdet import __version__, prototxt
from pyscratchdet.converters.compare import difference, match_detections
from pyscratchdet.converters.engines import OnnxEngine, PyTorchEngine
from pyscratchdet.converters.onnx_export import OPSET, raw_heads, save_onnx
from pyscratchdet.files import write_text
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.runtime import Net, build_net

TOLERANCE = 1e-4
HEADER = """\
| recipes with this net | input | ONNX nodes | worst blob | its relative L2 error | detections: ours | onnxruntime's \
| same | same on one set of heads | largest difference of a score | of a coordinate |
|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|"""


def nets() -> dict[str, tuple[caffe_pb2.NetParameter, list[str]]]:
    """Returns the different deploy nets by the name of their first recipe, with the names of all their recipes."""
    found: dict[bytes, tuple[caffe_pb2.NetParameter, list[str]]] = {}
    for name in prototxt.entries():
        deploy = prototxt.build(name).deploy
        deploy.name = ""
        for layer in deploy.layer:
            if layer.type == "DetectionOutput":
                layer.detection_output_param.ClearField("save_output_param")
        found.setdefault(deploy.SerializeToString(deterministic=True), (deploy, []))[1].append(name)
    return {names[0]: (deploy, names) for deploy, names in found.values()}


def measure(deploy: caffe_pb2.NetParameter) -> dict[str, Any]:
    """Exports and runs one net; returns its row."""
    net = build_net(deploy)
    seed_weights(net)
    shape = net.blob_shapes["data"]
    inputs = {"data": picture(2, shape[2]).numpy()}
    ours = PyTorchEngine(net).run(inputs)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.onnx"
        save_onnx(net, file)
        onnx.checker.check_model(str(file), full_check=True)
        number = len(onnx.load(file, load_external_data=False).graph.node)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        theirs = session.run(["detection_out"], inputs)[0]
        del session
    blobs = OnnxEngine(net).run(inputs)
    errors = {name: difference(blobs[name], ours[name]).relative for name in blobs if name != "detection_out"}
    worst = max(errors, key=errors.__getitem__)
    rows, expected = match_detections(ours["detection_out"], theirs)
    scores, boxes = np.abs(rows[:, 2] - expected[:, 2]), np.abs(rows[:, 3:] - expected[:, 3:]).max(axis=1)
    return {
        "input": f"{shape[2]} x {shape[3]}",
        "nodes": number,
        "worst": worst,
        "error": errors[worst],
        "ours": ours["detection_out"].shape[2],
        "theirs": theirs.shape[2],
        "same": int(np.sum((scores < TOLERANCE) & (boxes < TOLERANCE))),
        "same_heads": same_from_heads(net, blobs),
        "score": float(scores.max()),
        "box": float(boxes.max()),
    }


def same_from_heads(net: Net, blobs: dict[str, np.ndarray]) -> str:
    """Returns how many of onnxruntime's detections our DetectionOutput gives from onnxruntime's own heads."""
    layer = next(module for module in net.layers if module.layer_type == "DetectionOutput")
    with torch.no_grad():
        (ours,) = layer(*[torch.from_numpy(blobs[name]) for name in raw_heads(net)])
    rows, expected = match_detections(ours.numpy(), blobs["detection_out"])
    same = int(np.sum(np.abs(rows[:, 2:] - expected[:, 2:]).max(axis=1) < TOLERANCE))
    return f"{same} of {blobs['detection_out'].shape[2]}"


def line(names: list[str], row: dict[str, Any]) -> str:
    """Returns a row of the table."""
    return (
        f"| {', '.join(names)} | {row['input']} | {row['nodes']} | {row['worst']} | {row['error']:.1e} | {row['ours']} "
        f"| {row['theirs']} | {row['same']} | {row['same_heads']} | {row['score']:.1e} | {row['box']:.1e} |"
    )


def main() -> None:
    """Measures what is not measured yet and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--rows", type=Path, help="keeps rows that are done, as JSON")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    done: dict[str, dict[str, Any]] = json.loads(args.rows.read_text()) if args.rows and args.rows.exists() else {}
    chosen = {
        first: entry for first, entry in nets().items() if not args.names or not {*entry[1]}.isdisjoint(args.names)
    }
    print(HEADER)
    for first, (deploy, names) in chosen.items():
        if first not in done:
            done[first] = measure(deploy)
            if args.rows:
                write_text(args.rows, json.dumps(done, indent=1))
        print(line(names, done[first]), flush=True)
    if args.names:
        return
    text = [
        f"# Every recipe in onnxruntime, {date.today()}",
        "",
        f"{sum(len(names) for _, names in chosen.values())} recipes, {len(chosen)} different nets, full width, seeded "
        f"weights. pyscratchdet {__version__}, torch {torch.__version__}, onnx {onnx.__version__} (opset {OPSET}), "
        f"onnxruntime {onnxruntime.__version__}, CPU. Every file passes onnx.checker with full shape inference. A row "
        "is the same when image and label agree, and score and coordinates within 1e-4; "
        '"on one set of heads": our DetectionOutput on the heads that onnxruntime computed.',
        "",
        HEADER,
        *(line(names, done[first]) for first, (_, names) in chosen.items()),
    ]
    write_text(args.output / f"{date.today()}-onnx-recipes.md", "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
