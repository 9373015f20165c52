"""What lower precision costs and gains: mAP before and after, drift per blob, and speed side by side.

    python benchmarks/precision.py --detector NAME=MODEL,WEIGHTS,LABELMAP,VOCDEVKIT [--detector ...]
        [--seeded NET ... --pictures FOLDER] [--repeat 20] [--output FILE]

Of each detector: mAP on its test set (11point, IoU 0.5) in our detection mode in float32 and in bf16, and as ONNX in
the engines that are installed, in float32 and in int8 (`convert --calibrate` on the pictures of its trainval set).
Where the CPU has no bfloat16, PyTorch computes it by way of float32: mAP is right, speed means nothing and is left out.
NETs of `prototxt/models` run with seeded weights, for the speed of nets of full size, calibrated on FOLDER.

Speed: one picture, one thread each, from the input blob to detections; the candidates take turns, so that whatever else
the machine does hits all alike. The ratio is that of detection mode's time to the candidate's, its median over turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from seeded import picture, seeded_files

from pyscratchdet import __version__
from pyscratchdet.converters.compare import Comparison, compare
from pyscratchdet.converters.engines import OnnxEngine, PyTorchEngine
from pyscratchdet.converters.onnx_detection import OnnxDetection, OnnxDetector
from pyscratchdet.converters.quantize import convert_quantized
from pyscratchdet.converters.sessions import SESSIONS
from pyscratchdet.detect.detector import Detector, Preparation
from pyscratchdet.detect.engine import DetectionEngine, TorchDetection
from pyscratchdet.detect.media import read_picture
from pyscratchdet.detect.runner import run_set
from pyscratchdet.devices import has_bfloat16
from pyscratchdet.evaluate.sets import find_voc, read_voc_truth
from pyscratchdet.evaluate.tables import GroundTruthTable
from pyscratchdet.evaluate.voc import evaluate_voc
from pyscratchdet.files import write_text
from pyscratchdet.memory import keep_freed_memory
from pyscratchdet.runtime import OptimizedNet, load_net

OURS = "detection mode, float32"
EMULATED = "detection mode, bf16"


@dataclass
class Case:
    """One net.

    Attributes:
        name: What the tables call it.
        model, weights: Its files.
        pictures: What it is calibrated on.
        labelmap, truth: Its classes and test set; None for seeded weights.
    """

    name: str
    model: Path
    weights: Path
    pictures: Path
    labelmap: Path | None = None
    truth: GroundTruthTable | None = None


def cases(args: argparse.Namespace, folder: Path) -> Iterator[Case]:
    for text in args.detector:
        name, _, files = text.partition("=")
        model, weights, labelmap, devkit = map(Path, files.split(","))
        root = find_voc(devkit)
        truth = read_voc_truth(root, "test", Detector(model, weights, labelmap).classes)
        pictures = folder / f"{name}-trainval"
        pictures.mkdir()
        for path in read_voc_truth(root, "trainval", truth.classes).paths:
            (pictures / path.name).symlink_to(path.absolute())
        yield Case(name, model, weights, pictures, labelmap, truth)
    for name in args.seeded:
        yield Case(name, *seeded_files(name, folder), args.pictures)


def engines(case: Case, int8: Path) -> dict[str, DetectionEngine]:
    """Returns the candidates, one thread each."""
    low = TorchDetection(case.model, case.weights)
    low.net = OptimizedNet(low.net, torch.bfloat16)  # also where TorchDetection would refuse it as too slow
    found: dict[str, DetectionEngine] = {OURS: TorchDetection(case.model, case.weights), EMULATED: low}
    installed = [name for name, kind in SESSIONS.items() if importlib.util.find_spec(kind.module)]
    net = OnnxDetector.of_net(case.model, case.weights)
    for name in installed:
        found[f"{name}, float32"] = OnnxDetection(name, net, threads=1)
    if "openvino" in installed and has_bfloat16():
        found["openvino, bf16"] = OnnxDetection("openvino", net, threads=1, precision="bf16")
    for name in installed:
        found[f"{name}, int8"] = OnnxDetection(name, OnnxDetector.of_file(int8), threads=1)
    return found


def mean_ap(case: Case, engine: DetectionEngine) -> float:
    assert case.truth is not None
    detector = Detector.in_engine(engine, case.labelmap)
    found, sizes = run_set(case.truth.names, case.truth.paths, detector.detect)
    case.truth.sizes = sizes
    return evaluate_voc(case.truth, found, "11point", 0.5).mean_ap


def measure(found: dict[str, DetectionEngine], repeat: int) -> dict[str, list[float]]:
    """Returns milliseconds of each turn; the first is not counted."""
    engine = found[OURS]
    data = picture(size=engine.size[0]).numpy()
    if engine.size[0] != engine.size[1]:
        raise ValueError("nets of square inputs only")
    times: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(repeat + 1):
        for name, one in found.items():
            time.sleep(0.02)  # until the threads of the one before stop spinning
            start = time.perf_counter()
            one.find(data)
            if turn:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def drift(case: Case, int8: Path) -> Comparison:
    """Compares the int8 file with our float32 runtime, blob by blob, as `verify --against` does."""
    net = load_net(case.model, case.weights)
    shape = net.blob_shapes[net.input_names[0]]
    image = read_picture(str(sorted(case.pictures.iterdir())[0]))
    data = Preparation()(image, shape[1], *shape[2:])[None]
    return compare(net, PyTorchEngine(net), OnnxEngine(net, path=int8), {net.input_names[0]: data})


def row(name: str, ap: Callable[[str], str], times: dict[str, list[float]]) -> str:
    cells = [name, ap(name)]
    if name in times:
        ratio = statistics.median(a / b for a, b in zip(times[OURS], times[name], strict=True))
        cells += [f"{min(times[name]):.1f} / {statistics.median(times[name]):.1f}", f"{ratio:.2f}"]
    else:
        cells += ["not measured here", ""]
    return f"| {' | '.join(cells)} |"


def section(case: Case, args: argparse.Namespace, folder: Path) -> list[str]:
    """Measures one net."""
    int8 = folder / f"{case.name}.int8.onnx"
    facts = {"mean": "104,117,123", "scale": "1", "channels": "bgr"}
    written = convert_quantized(case.weights, int8, case.model, case.pictures, Preparation(), facts, {})
    found = engines(case, int8)
    aps = {name: mean_ap(case, engine) for name, engine in found.items()} if case.truth else {}
    timed = {name: one for name, one in found.items() if name != EMULATED or has_bfloat16()}
    times = measure(timed, args.repeat)
    titles = ", ".join(dict.fromkeys(engine.title for engine in found.values()))

    def ap(name: str) -> str:
        return f"{aps[name]:.4f} ({aps[name] - aps[OURS]:+.4f})" if aps else "seeded weights"

    lines = [
        f"## {case.name}",
        "",
        f"Input {'x'.join(map(str, found[OURS].size))}"
        + (f", {len(case.truth.names)} test pictures" if case.truth else "")
        + f"; {titles}.",
        "",
        *written.lines(),
        "",
        "| | mAP (against float32) | ms, fastest / median | times as fast |",
        "|---|---:|---:|---:|",
        *(row(name, ap, times) for name in found),
        "",
    ]
    if case.truth:
        lines += drift_table(drift(case, int8))
    return [*lines, ""]


def drift_table(comparison: Comparison) -> list[str]:
    """Returns the drift of every blob that both have, in the net's order."""
    known = [blob for blob in comparison.blobs if blob.drift is not None]
    shown = [blob for blob in known if blob.layer_type in ("Convolution", "ReLU", "Eltwise", "Concat", "Softmax")]
    cells = ", ".join(f"{blob.blob} {blob.drift.relative:.3f}" for blob in shown if blob.drift)
    return [f"Drift of int8 by `verify` on one picture (relative L2 error), in the net's order: {cells}."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", action="append", default=[], metavar="NAME=MODEL,WEIGHTS,LABELMAP,VOCDEVKIT")
    parser.add_argument("--seeded", nargs="*", default=[], metavar="NET")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="to calibrate seeded nets with")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--output", default=f"benchmarks/results/{date.today()}-precision.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    flags = set(Path("/proc/cpuinfo").read_text().split())
    has = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8") if name in flags]
    lines = [
        f"# Lower precision, {date.today()}",
        "",
        f"Written by `python benchmarks/precision.py` (pyscratchdet {__version__}); one thread on an x86_64 CPU with "
        f"{', '.join(has)}, {os.cpu_count()} cores, which others may have used too: the candidates took turns, "
        f"{args.repeat} each, and the last column is the median of the turns' ratios to detection mode in float32.",
        "",
    ]
    if not has_bfloat16():
        lines += [
            "This CPU has no bfloat16: the mAP of bf16 comes from PyTorch's emulation, and `--precision bf16` is "
            "refused here.",
            "",
        ]
    if not flags & {"avx512_vnni", "avx_vnni", "asimddp"}:
        lines += [
            "This CPU has no VNNI, the instructions that multiply int8 at once: what int8 gains with them, and its mAP "
            "there, was not measured.",
            "",
        ]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for case in cases(args, Path(folder)):
            lines += section(case, args, Path(folder))
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    write_text(args.output, text)


if __name__ == "__main__":
    main()
