"""The same detections in deployment engines: what each makes of our ONNX files. Writes docs/deployment.md.

    python benchmarks/deployment.py --engine NAME=PYTHON [--engine ...] [--models FOLDER] [--nets NAME...]
        [--rows FILE] [--output docs/deployment.md] [--page-only]

NAME is an engine of engine_runner.py, optionally with a remark after a colon (`onnxruntime:1.23.2=...`); PYTHON is a
Python that has it. FOLDER has detectors (deploy.prototxt, model.caffemodel, and pictures in images/). Recipes run with
seeded weights that spread the scores, so that keep_top_k cuts some off.

Each net gets one picture, and three together; a variant whose threshold nothing passes stands for pictures with nothing
in them. Rows are paired by picture and label; a pair counts when coordinates are within BOX and scores within SCORE.
FILE keeps what is done, so that an interrupted run can continue; the page then says that it comes from several runs.
Engines without suppression get the form that ends in boxes and scores only.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from seeded import picture, seeded_files

from pyscratchdet import __version__
from pyscratchdet.converters.compare import match_detections
from pyscratchdet.converters.engines import PyTorchEngine
from pyscratchdet.converters.onnx_export import OPSET, save_onnx
from pyscratchdet.detect.detector import SSD_MEAN, Preparation
from pyscratchdet.files import write_text
from pyscratchdet.layers.plan import read_net
from pyscratchdet.proto.text import to_text
from pyscratchdet.runtime import Net, load_net

RECIPES = (
    "ssd300_vgg16_voc0712",
    "ssd512_vgg16_voc0712",
    "scratchdet300_rootres18_voc0712",
    "refinedet320_vgg16_voc0712",
    "dsod300_voc0712",
)
BOX = 1e-3  # coordinates are relative to the picture: a third of a pixel at 300
SCORE = 1e-3
SCORE_OF = {"mnn": 5e-3}  # its convolutions are less exact
DECODED = 5e-3  # boxes and scores before suppression; RKNN computes in half precision
NAMES = {
    "openvino": "OpenVINO",
    "opencv": "OpenCV",
    "mnn": "MNN",
    "ncnn": "ncnn by pnnx",
    "tvm": "TVM",
    "litert": "LiteRT by onnx2tf",
    "rknn": "RKNN's simulator",
    "tensorrt": "TensorRT",
}
NO_SUPPRESSION = {"ncnn", "tvm", "litert", "rknn"}
STATIC = {"tensorrt"}  # of the forms, those with a batch size only
REASON = 80  # characters
LIMIT = 400  # seconds of CPU for one file in one engine
PATIENCE = 6 * LIMIT  # seconds in all: others may use the machine too, and an engine may wait for ever
RUNNER = Path(__file__).with_name("engine_runner.py")
TENSORRT_TABLE = "table"  # what rows call the cells that TensorRT's operator table fills
TENSORRT_TOP_K = 3840
# Of the operators that layers write, those that the published table of TensorRT 8.4 (onnx-tensorrt, docs/operators.md)
# lacks; later ones have more.
TENSORRT_LACKS = {"Compress", "Mod", "NonZero", "Reciprocal"}


@dataclass(frozen=True)
class Form:
    """One way to write the file, and the cases that it takes."""

    title: str
    heads: str
    batch: int | None = None
    cases: tuple[str, ...] = ("one", "three")


FORMS = (
    Form("`--heads decoded`", "decoded"),
    Form("`--heads fixed`", "fixed"),
    Form("`--heads fixed --batch 3`", "fixed", 3, ("three",)),
    Form("`--heads boxes --batch 1`", "boxes", 1, ("one",)),
)


def nets(models: Path, folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yields name, prototxt and caffemodel of each detector."""
    found = [path for path in sorted(models.glob("*/deploy.prototxt")) if "DetectionOutput" in path.read_text()]
    for model in found:
        yield model.parent.name, model, model.with_name("model.caffemodel")
    strict = read_net(found[-1]).param
    for layer in strict.layer:
        if layer.type == "DetectionOutput":
            layer.detection_output_param.confidence_threshold = 1
    write_text(folder / "nothing.prototxt", to_text(strict))
    yield (
        f"{found[-1].parent.name}, nothing found",
        folder / "nothing.prototxt",
        found[-1].with_name("model.caffemodel"),
    )
    for name in RECIPES:
        yield name, *(Path(folder) / f"{name}{ending}" for ending in (".prototxt", ".caffemodel"))


def cases(net: Net, pictures: list[Path]) -> dict[str, np.ndarray]:
    """Returns the inputs of the two cases by name."""
    _, channels, height, width = net.blob_shapes[net.input_names[0]]
    if pictures:
        images = [cv2.imread(str(path)) for path in pictures[:3]]
        blobs = [Preparation(SSD_MEAN)(image, channels, height, width) for image in images]
    else:
        blobs = [picture(seed, height).numpy()[0] for seed in (2, 3, 4)]
    return {"one": blobs[0][None], "three": np.stack(blobs)}


def reference(net: Net, inputs: dict[str, np.ndarray], form: Form) -> dict[str, np.ndarray]:
    """Returns what our runtime gives: rows (S, 7) by case, or boxes and scores."""
    found = {}
    layer = next(module.layer for module in net.layers if module.layer_type == "DetectionOutput")
    node = next(node for node in net.plan.graph.nodes if node.type == "DetectionOutput")
    for case in form.cases:
        blobs = PyTorchEngine(net).run({net.input_names[0]: inputs[case]})
        if form.heads != "boxes":
            found[case] = blobs[node.param.top[0]].reshape(-1, 7)
            continue
        said = layer._predictions([torch.from_numpy(blobs[name]) for name in node.param.bottom])
        image, prior = (
            index.flatten() for index in torch.meshgrid(*map(torch.arange, said.conf.shape[:2]), indexing="ij")
        )
        boxes = said.boxes(image, prior, torch.zeros_like(image), layer.rule())
        found[f"{case}:boxes"], found[f"{case}:scores"] = boxes.numpy(), said.conf.flatten().numpy()
    return found


def run_engine(
    engine: str, python: str, path: Path, inputs: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], str]:
    """Returns the engine's results by `<case>:<output>`, or the reason that there are none."""
    model = onnx.load(path, load_external_data=False)
    source, target = path.with_suffix(".in.npz"), path.with_suffix(".out.npz")
    target.unlink(missing_ok=True)
    outputs = np.array([value.name for value in model.graph.output])
    np.savez(source, outputs=outputs, **{f"{case}:{model.graph.input[0].name}": x for case, x in inputs.items()})
    command = [python, str(RUNNER), engine, str(path), str(source), str(target)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT + 1)),
        )
    except subprocess.TimeoutExpired:
        return {}, f"no answer in {PATIENCE} s"
    if done.returncode == -signal.SIGXCPU:
        return {}, f"no answer in {LIMIT} s of CPU"
    if done.returncode:
        return {}, reason(done.stderr, done.returncode)
    with np.load(target) as archive:
        return {name: archive[name] for name in archive.files}, ""


def reason(text: str, code: int) -> str:
    """Returns the engine's own words, short enough for a cell."""
    if code < 0:
        return f"dies by signal {-code}"
    if missing := re.search(r'of type "(\w+)" in function', text):
        return f"no {missing[1]}"
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    said = [line for line in lines if "rror:" in line or "xception:" in line] or lines[-1:]
    words = said[-1].rpartition("rror: ")[2].replace("|", "/") if said else f"exit status {code}"
    return words if len(words) <= REASON else f"{words[:REASON]} ..."


def judge(form: Form, want: dict[str, np.ndarray], got: dict[str, np.ndarray], tolerance: float) -> str:
    """Returns a cell: same rows and the worst difference, or what differs in which case."""
    worst, rows, faults = 0.0, 0, []
    for case in form.cases:
        results = [value for key, value in got.items() if key.startswith(f"{case}:")]
        if form.heads == "boxes":
            wanted = [want[f"{case}:{what}"] for what in ("boxes", "scores")]
            if [value.size for value in results] != [value.size for value in wanted]:
                return f"wrong shapes {[value.shape for value in results]}"
            gaps = [np.abs(a.ravel() - b.ravel()).max() for a, b in zip(results, wanted, strict=True)]
            worst = float(np.max([worst, *gaps]))  # which keeps NaN
            continue
        here, there = match_detections(results[0], want[case])
        same = (np.abs(here[:, 3:] - there[:, 3:]) <= BOX).all(axis=1) & (np.abs(here[:, 2] - there[:, 2]) <= tolerance)
        missing, new = (int((array[:, 1] >= 0).sum() - same.sum()) for array in (want[case], results[0].reshape(-1, 7)))
        rows += int(same.sum())
        worst = max(worst, float(np.abs(here[same, 2] - there[same, 2]).max(initial=0)))
        if missing or new:
            faults.append(f"{case}: {missing} of {int((want[case][:, 1] >= 0).sum())} rows missing, {new} new")
    if form.heads == "boxes":
        return f"{worst:.0e}" if worst <= DECODED else f"wrong by {worst:.0e}"
    return "; ".join(faults) or f"same {rows}, {worst:.0e}"


def by_table(model: onnx.ModelProto) -> str:
    """Returns what TensorRT's operator table says of a file."""
    lacking = sorted({node.op_type for node in model.graph.node} & TENSORRT_LACKS)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    sizes = [
        int(onnx.numpy_helper.to_array(constants[node.input[1]])[0])
        for node in model.graph.node
        if node.op_type == "TopK"
    ]
    if lacking:
        return f"no {', '.join(lacking)}"
    return "all listed" if max(sizes, default=0) < TENSORRT_TOP_K else f"TopK of {max(sizes)}"


def open_cells(name: str, form: Form, args: argparse.Namespace, done: dict[str, str]) -> list[str]:
    """Returns the engines, as the command line names them, of which a cell is not filled."""
    return [engine for engine in fitting(args.engine, form) if cell_key(name, form, engine) not in done]


def fitting(engines: list[str], form: Form) -> list[str]:
    """Returns those that can take a form."""
    unfit = (set() if form.heads == "boxes" else NO_SUPPRESSION) | (STATIC if form.batch is None else set())
    return [engine for engine in engines if engine_kind(engine) not in unfit]


def engine_kind(engine: str) -> str:
    """Returns the name in engine_runner.py."""
    return engine.partition("=")[0].partition(":")[0]


def cell_key(name: str, form: Form, engine: str) -> str:
    """Returns what a cell is called in the file of rows."""
    return f"{name} {form.title} {engine.partition('=')[0]}"


def measure(
    name: str, model: Path, weights: Path, pictures: list[Path], args: argparse.Namespace, done: dict[str, str]
) -> None:
    """Runs one net in all engines and forms that are not done."""
    net = load_net(model, weights, "TEST")
    inputs = cases(net, pictures)
    for form in FORMS:
        if not (wanted := open_cells(name, form, args, done)):
            continue
        want = reference(net, inputs, form)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            written = save_onnx(load_net(model, weights, "TEST"), path, heads=form.heads, batch=form.batch)
            done[cell_key(name, form, TENSORRT_TABLE)] = by_table(written)
            for engine in wanted:
                label, _, python = engine.partition("=")
                kind = engine_kind(engine)
                got, fault = run_engine(kind, python, path, {case: inputs[case] for case in form.cases})
                done[f"versions {label}"] = str(got.pop("version", done.get(f"versions {label}", "?")))
                cell = fault or judge(form, want, got, SCORE_OF.get(kind, SCORE))
                done[cell_key(name, form, engine)] = cell
                print(name, form.title, label, cell, flush=True)
                if args.rows:
                    write_text(args.rows, json.dumps(done, indent=1))


def page(names: list[str], engines: list[str], done: dict[str, Any], is_resumed: bool) -> str:
    """Returns docs/deployment.md."""
    runs = RUNS.format(number="several interrupted runs" if is_resumed else "one run", dates=done["dates"])
    text = [HEAD.format(date=date.today(), version=__version__, opset=OPSET, runs=runs)]
    for form in FORMS:
        shown = fitting(engines, form)
        titles = [_title(engine, done) for engine in shown]
        text += ["", f"### {form.title}", "", f"| net | {' | '.join([*titles, 'TensorRT 8.4, by its table'])} |"]
        text += [f"|---|{'---|' * (len(titles) + 1)}"]
        for name in names:
            cells = [done.get(cell_key(name, form, engine), "not run") for engine in [*shown, TENSORRT_TABLE]]
            text.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*text, "", TAIL])


def _title(engine: str, done: dict[str, Any]) -> str:
    kind, label = engine_kind(engine), engine.partition("=")[0]
    return f"{NAMES.get(kind, kind)} {done.get(f'versions {label}', '')}".strip()


RUNS = """\
The rows come from {number} of `benchmarks/deployment.py` on {dates}; cells marked "not run" are open."""

HEAD = """\
# Where a converted model runs

Written by `python benchmarks/deployment.py` on {date} (pyscratchdet {version}, opset {opset}, CPU); do not edit.
{runs}
A cell is what the engine makes of the file that `convert` writes, against our runtime on the same input, which is the
original's to the last bits: "same 800, 2e-06" means that the engine finds the same 800 rows and no others, with scores
that differ by at most 2e-06. Otherwise the cell says what is wrong, or gives the engine's own words. For boxes it is
the largest difference of a coordinate or score. The inputs are one picture, and three together (not where the batch is
1). Recipes have seeded weights that spread the scores, so that keep_top_k cuts some off. ncnn, TVM, LiteRT and RKNN,
which have no usable suppression, are in the last table only."""

TAIL = """\
## Which form for which engine

- `decoded` (the default): onnxruntime, OpenVINO, OpenCV 5, MNN.
- `fixed`: the same engines; with `--batch N` also those that want static shapes: TensorRT, compilers. Rows without a
  detection are -1.
- `boxes`: engines without NonMaxSuppression: OpenCV 4 (`--batch 1`), LiteRT, TVM, RKNN, Core ML.
- `raw`: you decode yourself; the priors are in a safetensors file beside the ONNX file.

Columns of a row: image, label, score, xmin, ymin, xmax, ymax; coordinates are relative to the picture and not clipped.
Where nothing is found, `decoded` gives Caffe's row (image, -1, ...) for each image. OpenVINO uses bfloat16 by default
on CPUs that have it: set INFERENCE_PRECISION_HINT to f32 for these figures. RKNN computes in half precision. ncnn is
wrong on nets with Normalize, since pnnx drops the axes of ReduceSum, an input since opset 13, and ncnn then sums
nothing. ReduceSumSquare, whose axes are an attribute at opset 17, is wrong too: pnnx counts them with the images. A
convolution with ones in its place is right in ncnn, but not to the last bits in onnxruntime (3e-7 of the largest value
on 512 channels), so no file has it: for ncnn, convert such a net to a caffemodel with `--for ncnn`. TensorRT was not
run: its column compares the file's operators with a table ([engines.md](engines.md) on `--engine tensorrt`). The
faults of engines that we found, each in the smallest file that shows it, are in
[engine_faults](engine_faults/README.md).

## Caffe files in other engines

`pyscratchdet convert model.caffemodel out.caffemodel --model deploy.prototxt --prototxt out.prototxt --for ENGINE`
writes a net as the engine's own Caffe reader wants it, and runs it against the net as it was before anything is
written. For all engines, Silence and what only it reads are left out, and no layer works in place on an input.

- `--for opencv` (OpenCV 4; 5 reads no Caffe): min_size and max_size in whole pixels, as Caffe truncates them; each
  Slice says where it cuts; LRN's k becomes a Power; Axpy becomes Scale and Eltwise; Clip becomes ReLU6 with Powers. A
  net with refined priors (RefineDet) is refused, since OpenCV ignores them without a word.
- `--for mnn`: MNN takes every value of a net from Caffe to be in its order NC4HW4 and, unlike in nets from ONNX, adds
  no conversions (AddTensorFormatConverter.cpp of 3.6.1 passes over them). Fed in NCHW, it computes each BatchNorm,
  Scale and PReLU that it cannot merge into a convolution wrongly, or writes outside its memory. Files as they are want
  `MNN.expr.convert(x, MNN.expr.NC4HW4)`. With `--for mnn` those layers are folded or become convolutions, ReLU and
  Eltwise, and the net is right in either order. Clip, which its converter declares but never registers, becomes ReLU6
  with Powers. Its DetectionOutput has six columns, without the image. Copy what `read()` returns: it shows memory that
  the next run writes over.
- `--for ncnn` (caffe2ncnn): folded; Clip, which caffe2ncnn cannot read, becomes ReLU6 with Powers.
- `--for rknn` (`load_caffe`): folded; ends before DetectionOutput, which it has not; the priors are in a safetensors
  file beside the caffemodel.
"""


def main() -> None:
    """Measures what is not measured yet and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", required=True, metavar="NAME=PYTHON")
    parser.add_argument("--models", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--nets", nargs="*", metavar="NAME", help="of these only")
    parser.add_argument("--rows", type=Path, help="keeps what is done, as JSON")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--page-only", action="store_true", help="measure nothing; write what FILE has")
    args = parser.parse_args()
    done: dict[str, str] = json.loads(args.rows.read_text()) if args.rows and args.rows.exists() else {}
    is_resumed = bool(done)
    if not args.page_only:
        done["dates"] = ", ".join(sorted({*done.get("dates", "").split(", "), str(date.today())} - {""}))
    names = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model, weights in nets(args.models, Path(folder)):
            if args.nets and name not in args.nets:
                continue
            names.append(name)
            if args.page_only or not any(open_cells(name, form, args, done) for form in FORMS):
                continue
            if name in RECIPES:
                seeded_files(name, Path(folder))
                pictures = []
            else:
                pictures = sorted((args.models / "images").glob("*.jpg"))
            measure(name, model, weights, pictures, args, done)
    if args.output:
        write_text(args.output, page(names, args.engine, done, is_resumed))


if __name__ == "__main__":
    main()
