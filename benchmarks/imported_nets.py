"""Nets written from PyTorch and ONNX: what converts, and our runtime and OpenCV 4 against what the source computes.

    python benchmarks/imported_nets.py [--models FOLDER] [--state FILE] [--only PATTERN] [--again] [--page FILE]

Every net has a process of its own and a time limit. What is known of it is added to --state, a line of JSON for each,
and not measured again unless --again asks for those that did not convert; so a run that was interrupted goes on.
At the end the page is written from all that is known.

torchvision's classifiers, segmentation nets and SSDs, and a list of timm's CNNs of different families, are built with
seeded weights; statistics of BatchNorm and all parameters that begin as constants are drawn, too. Inputs are of the
models' own size, seeded noise. With --models, a folder that holds `ultralight_rfb320` and `omz_samplenet`, each with
its caffemodel (deploy.prototxt, model.caffemodel) and the ONNX files that its authors published, those files are
imported too, and a last table compares our run of each caffemodel with onnxruntime's run of its twin. samplenet's twin
takes RGB where the caffemodel takes BGR: the picture's channels are exchanged for it. OpenCV must be 4.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import timm
import torch
import torchvision
from seeded import seed_ssd
from torch import nn
from torchvision import models

from pyscratchdet import __version__
from pyscratchdet.converters.compare import Comparison, difference
from pyscratchdet.converters.imports import ImportedNet, import_file, import_module, picture_noise
from pyscratchdet.converters.torch_models import named_model
from pyscratchdet.errors import PyScratchDetError
from pyscratchdet.files import write_text
from pyscratchdet.runtime import load_net

# One or a few of each family of timm's that its authors call convolutional, and some that mix in attention.
_TIMM = """
resnet18 resnet26d resnet50 resnet50c resnet10t resnet33ts resnext50_32x4d seresnet50 seresnext26d_32x4d
legacy_seresnet18 skresnet18 skresnext50_32x4d ecaresnet26t ecaresnet50d resnetrs50 resnetblur50 resnetaa50 resnest14d
res2net50_26w_4s res2next50 resnetv2_50 resnetv2_50x1_bit gcresnet33ts regnetx_002 regnety_004 regnetv_040 regnetz_b16
efficientnet_b0 efficientnet_b4 efficientnet_b1_pruned efficientnet_lite0 efficientnet_es efficientnetv2_rw_t
tf_efficientnet_b0 tf_efficientnet_lite0 tf_efficientnetv2_b0 mobilenetv1_100 mobilenetv2_100 mobilenetv3_large_100
mobilenetv3_small_050 tf_mobilenetv3_large_100 mobilenetv4_conv_small ghostnet_100 ghostnetv2_100 repghostnet_100
mnasnet_100 semnasnet_100 spnasnet_100 fbnetc_100 fbnetv3_b hardcorenas_a mixnet_s tf_mixnet_s tinynet_a lcnet_050
rexnet_100 rexnetr_200 selecsls42b densenet121 dla34 dla46x_c dla60_res2net vgg11 vgg16_bn inception_v3 inception_v4
inception_resnet_v2 inception_next_tiny xception41 legacy_xception hrnet_w18_small repvgg_a0 repvgg_d2se
ese_vovnet19b_dw ese_vovnet39b cspresnet50 cspresnext50 cspdarknet53 darknet53 cs3darknet_m cs3sedarknet_l dpn68
senet154 gernet_s nfnet_l0 nf_resnet50 nf_regnet_b1 eca_nfnet_l0 mobileone_s0 starnet_s1 fastvit_t8 repvit_m0_9
hgnet_tiny hgnetv2_b0 tresnet_m convmixer_768_32 rdnet_tiny edgenext_xx_small convnext_atto convnext_tiny
convnextv2_atto efficientvit_b0 levit_conv_128s mobilevit_xxs mobilevitv2_050 poolformer_s12 visformer_tiny
"""
TIMM = tuple(_TIMM.split())
COSTLY = ("torchvision:vgg19", "torchvision:resnet152", "torchvision:efficientnet_b4")
MOST_VALUES = 300_000_000  # of a net: several copies of its weights must fit into memory
# Folder: the outputs that each ONNX file shares with the caffemodel, and whether its input channels are in the other
# order. The boxes of ultralight's model.onnx are decoded, those of the caffemodel are not.
TWINS = {
    "ultralight_rfb320": ({"model_without_postprocessing.onnx": ["scores", "boxes"], "model.onnx": ["scores"]}, False),
    "omz_samplenet": ({"samplenet.onnx": ["fc3"]}, True),
}
Record = dict[str, Any]


def torchvision_names() -> dict[str, list[str]]:
    """Returns torchvision's names by the title of their table."""
    return {
        "torchvision's classifiers": models.list_models(module=models),
        "torchvision's segmentation nets": models.list_models(module=models.segmentation),
        "torchvision's SSDs": [name for name in models.list_models(module=models.detection) if name.startswith("ssd")],
    }


def seed_values(module: nn.Module) -> None:
    """Draws statistics of BatchNorm, and all parameters that begin as constants and so would hide what reads them."""
    if isinstance(module, models.detection.ssd.SSD):
        pictures = picture_noise(np.random.default_rng(2), (2, 3, *module.transform.fixed_size[::-1]))
        seed_ssd(module, list(torch.from_numpy(pictures / 255)))
        return
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 2)
        for parameter in module.parameters():
            if parameter.numel() and parameter.min() == parameter.max():
                parameter.add_(torch.empty_like(parameter).uniform_(-0.3, 0.3))


# --- one net ---


def measure_module(spelling: str) -> Record:
    """Converts a model and compares what was written with it."""
    torch.manual_seed(1)
    model = named_model(spelling)
    number = sum(parameter.numel() for parameter in model.module.parameters())
    shown = {"input": "; ".join("x".join(map(str, shape)) for shape in model.shapes), "values": number}
    if number > MOST_VALUES:
        return {**shown, "reason": f"not tried: {number / 1e6:.0f} million values"}
    seed_values(model.module)
    started = time.process_time()
    try:
        imported = import_module(model.module, model.shapes, model.name)
    except PyScratchDetError as error:
        refusal = {**shown, "reason": short(error)}
        try:
            imported = import_module(model.module, model.shapes, model.name, approximate=True)
        except PyScratchDetError:
            return refusal
        shown |= {"approximations": imported.net.approximations, "reason": refusal["reason"]}
    return {**shown, **compared(imported), "seconds": time.process_time() - started}


def measure_onnx(path: Path) -> Record:
    """Converts an ONNX file and compares what was written with it."""
    imported = import_file(path)
    shapes = [imported.net.shapes[name] for name in imported.net.inputs]
    return {"input": "; ".join("x".join(map(str, shape)) for shape in shapes), **compared(imported)}


def compared(imported: ImportedNet) -> Record:
    """Writes a net and returns what its check says."""
    with tempfile.TemporaryDirectory() as folder:
        source, opencv = imported.write(Path(folder) / "net.prototxt", Path(folder) / "net.caffemodel")
    return {"layers": len(imported.net.param.layer), **figures("source", source), **figures("opencv", opencv)}


def figures(engine: str, comparison: Comparison) -> Record:
    """Returns what matters of a comparison, its keys beginning with the engine."""
    found: Record = {"agrees": comparison.agrees, "failure": comparison.failure}
    if comparison.worst is not None and comparison.worst.drift is not None:
        found |= {"error": comparison.worst.drift.relative, "blob": comparison.worst.blob}
    if not comparison.agrees:
        found["verdict"] = comparison.verdict()
    return {f"{engine}_{key}": value for key, value in found.items()}


def short(error: PyScratchDetError) -> str:
    """Returns an error's reason and layer type on one line."""
    kind = getattr(error, "layer_type", None)
    return f"{kind}: {error.message}" if kind else error.message


# --- all nets ---


def measured(spelling: str, limit: float) -> Record:
    """Measures one net in a process of its own."""
    context = multiprocessing.get_context("fork")  # the libraries are imported once
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(spelling, theirs))
    started = time.monotonic()
    process.start()
    theirs.close()
    try:
        record = ours.recv() if ours.poll(limit) else {"reason": f"no result within {limit:.0f} seconds", "again": True}
    except EOFError:
        record = {"reason": "its process died", "again": True}
    process.kill()
    process.join()
    return {"net": spelling, **record, "wall": round(time.monotonic() - started, 1), "date": f"{date.today()}"}


def _child(spelling: str, connection: Connection) -> None:
    kind, _, name = spelling.partition(":")
    try:
        connection.send(measure_onnx(Path(name)) if kind == "onnx" else measure_module(spelling))
    except PyScratchDetError as error:
        connection.send({"reason": short(error)})
    except Exception as error:  # a fault of ours, which the table shows
        connection.send({"reason": f"{type(error).__name__}: {str(error).splitlines()[:1]}"})


def read_state(path: Path) -> dict[str, Record]:
    """Returns {net: what is known of it}; later lines count."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {record["net"]: record for record in map(json.loads, lines)}


def conversion_cost(spelling: str) -> Record:
    """Returns the CPU seconds and the peak memory of one whole command without its check."""
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/net.caffemodel", "--prototxt", f"{folder}/net.prototxt"]
        command = [sys.executable, "-m", "pyscratchdet", "convert", spelling, *files, "--no-check"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {"seconds": usage.ru_utime + usage.ru_stime, "megabytes": usage.ru_maxrss / 1e3, "date": f"{date.today()}"}


# --- the page ---


def page(state: dict[str, Record], tables: dict[str, list[str]], twin_rows: Sequence[str]) -> Iterator[str]:
    """Yields the page's lines."""
    days = sorted({record["date"] for record in state.values()})
    yield from [
        "# Which nets convert from PyTorch and ONNX",
        "",
        f"Written by `benchmarks/imported_nets.py`, measured on {', '.join(days)}: pyscratchdet {__version__}, torch "
        f"{torch.__version__}, torchvision {torchvision.__version__}, timm "
        f"{timm.__version__}, onnxruntime {onnxruntime.__version__}, OpenCV {cv2.__version__}, CPU.",
        "",
        "Weights are seeded and drawn, statistics of BatchNorm included; inputs are noise of the size shown. *Against "
        "the source* is the largest relative L2 error of any blob that the source shows, outputs and what submodules "
        "return, in our runtime; *OpenCV 4* the largest one between our runtime and OpenCV's own Caffe importer.",
        "",
        "Nets that are listed and not measured yet are missing below; the same command goes on with them.",
        "",
        "| | listed | measured | convert exactly | with `--approximate` | OpenCV 4 loads and agrees |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for title, names in tables.items():
        rows = [state[name] for name in names if name in state]
        exact = [row for row in rows if row.get("source_agrees") and not row.get("approximations")]
        near = [row for row in rows if row.get("approximations")]
        opencv = [row for row in rows if row.get("opencv_agrees")]
        yield f"| {title} | {len(names)} | {len(rows)} | {len(exact)} | {len(near)} | {len(opencv)} |"
    for title, names in tables.items():
        if state.keys().isdisjoint(names):
            continue
        yield from [
            "",
            f"## {title}",
            "",
            "| net | input | converts | layers | against the source | OpenCV 4 | why not |",
        ]
        yield "|---|---|---|---:|---:|---:|---|"
        yield from (row(state[name]) for name in names if name in state)
    costs = {name: state[f"cost {name}"] for name in COSTLY if f"cost {name}" in state}
    if costs:
        yield from [
            "",
            "## Time and memory",
            "",
            "The whole command, `--no-check`, on a machine that others used too.",
            "",
        ]
        yield from ["| net | CPU seconds | peak memory, MB |", "|---|---:|---:|"]
        for name, cost in costs.items():
            yield f"| {name.partition(':')[2]} | {cost['seconds']:.1f} | {cost['megabytes']:,.0f} |"
    if twin_rows:
        yield from ["", "## Published caffemodels and their ONNX twins", ""]
        yield from ["| caffemodel | twin | output | relative L2 error | |", "|---|---|---|---:|---|", *twin_rows]


def row(record: Record) -> str:
    """Returns a net's line of a table."""
    kind, _, name = record["net"].partition(":")
    converts = "no" if "source_agrees" not in record else "yes" if record["source_agrees"] else "PARTS"
    if record.get("approximations"):
        converts = "`--approximate`"
    opencv = error(record, "opencv") if record.get("opencv_agrees") else "-"
    if "source_agrees" in record and not record.get("opencv_agrees"):
        opencv = "does not load" if record.get("opencv_failure") else f"parts, {error(record, 'opencv')}"
    apart = record.get("source_verdict") if not record.get("approximations") else None
    reasons = [record.get("reason"), *record.get("approximations", ()), apart, record.get("opencv_failure")]
    reasons.append(record.get("opencv_verdict") if not record.get("opencv_failure") else None)
    why = cell("; ".join(reason for reason in reasons if reason))
    cells = [Path(name).parent.name + "/" + Path(name).name if kind == "onnx" else name, record.get("input", "")]
    return f"| {' | '.join([*cells, converts, str(record.get('layers', '')), error(record, 'source'), opencv, why])} |"


def error(record: Record, engine: str) -> str:
    """Returns a figure of a table."""
    value = record.get(f"{engine}_error")
    return "" if value is None else f"{value:.1e}"


def cell(text: str) -> str:
    """Returns text as a table's cell."""
    text = re.sub(r"\s+", " ", text).replace("|", "/")
    return text if len(text) < 220 else f"{text[:217]}..."


def twins(folder: Path) -> Iterator[str]:
    """Yields a row for each output of each twin: our run of the caffemodel against onnxruntime's of the ONNX file."""
    for name, (files, swapped) in TWINS.items():
        net = load_net(folder / name / "deploy.prototxt", folder / name / "model.caffemodel")
        (data,) = net.input_names
        inputs = np.random.default_rng(1).uniform(-1, 1, net.blob_shapes[data]).astype(np.float32)
        with torch.no_grad():
            ours = net({data: torch.from_numpy(inputs)})
        for file, outputs in files.items():
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(str(folder / name / file), options, ["CPUExecutionProvider"])
            theirs = np.ascontiguousarray(inputs[:, ::-1]) if swapped else inputs
            answers = session.run(outputs, {session.get_inputs()[0].name: theirs})
            for output, answer in zip(outputs, answers, strict=True):
                relative = difference(ours[output].numpy(), answer).relative
                note = "input channels exchanged" if swapped else ""
                yield f"| {name} | {file} | {output} | {relative:.1e} | {note} |"


def main() -> None:
    """Measures what is not known yet and writes the page."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder with the two models that have ONNX twins")
    parser.add_argument("--state", type=Path, default=here / "results" / "imported-nets.jsonl", help="what is known")
    parser.add_argument("--only", default="", metavar="PATTERN", help="nets whose names match")
    parser.add_argument("--again", action="store_true", help="measure again what did not convert or agree")
    parser.add_argument("--limit", type=float, default=900, help="seconds for each net (default: 900)")
    parser.add_argument("--page", type=Path, default=here.parent / "docs" / "imported_nets.md")
    args = parser.parse_args()
    tables = {title: [f"torchvision:{name}" for name in names] for title, names in torchvision_names().items()}
    tables["timm's nets"] = [f"timm:{name}" for name in TIMM]
    if args.models:
        tables["ONNX files"] = [
            f"onnx:{args.models / name / file}" for name, (files, _) in TWINS.items() for file in files
        ]
    state = read_state(args.state)
    args.state.parent.mkdir(parents=True, exist_ok=True)

    def add(record: Record) -> None:
        state[record["net"]] = record
        with open(args.state, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(row(record), flush=True)

    for name in _todo([name for names in tables.values() for name in names], state, args):
        add(measured(name, args.limit))
    for name in _todo([f"cost {name}" for name in COSTLY], state, args):
        add({"net": name, **conversion_cost(name.removeprefix("cost "))})
    lines = page(state, tables, list(twins(args.models)) if args.models else [])
    write_text(args.page, "\n".join(lines) + "\n")


def _todo(names: Iterable[str], state: dict[str, Record], args: argparse.Namespace) -> Iterator[str]:
    """Yields what is not known yet, or is to be measured again."""
    for name in names:
        record = state.get(name)
        is_sound = record is not None and ("megabytes" in record or record.get("source_agrees"))
        if re.search(args.only, name) and (record is None or (args.again and not is_sound)):
            yield name


if __name__ == "__main__":
    main()
