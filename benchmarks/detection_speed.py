"""Detection of one picture: detection mode against the reference, OpenCV 4's dnn and onnxruntime, in one run.

    python benchmarks/detection_speed.py [--repeat 20] [--threads 2] [--output FOLDER]

For ScratchDet300 Root-ResNet-34 and SSD300-VGG16 with seeded weights: the same net, weights and picture, from the
input blob to detections, batch 1. The candidates take turns, so that other work on the machine affects all equally.
First CPU time on one thread, which other programs hardly disturb, then wall time on all threads; freed memory stays
with the process, as in the commands (pyscratchdet/memory.py), which the peers do by themselves. Also checks detection
mode's rows against the reference's. Prints a table and writes it to FOLDER/<date>-detection-speed-cpu.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from seeded import picture, seeded_files

from pyscratchdet import __version__
from pyscratchdet.converters.onnx_export import save_onnx
from pyscratchdet.converters.sessions import OnnxRuntimeSession
from pyscratchdet.errors import counted
from pyscratchdet.files import write_text
from pyscratchdet.memory import keep_freed_memory
from pyscratchdet.runtime import load_net

MODELS = ("scratchdet300_rootres34_voc0712", "ssd300_vgg16_voc0712")
Runs = dict[str, Callable[[], np.ndarray]]
OURS, REFERENCE, OPENCV, ONNX = "detection mode", "reference", "OpenCV dnn", "onnxruntime"


def candidates(model: Path, weights: Path, data: torch.Tensor, threads: int) -> Runs:
    """Returns functions that run the net with so many threads and return rows of detections."""
    array = data.numpy()
    reference, ours = load_net(model, weights), load_net(model, weights, optimize=True)
    cv_net = cv2.dnn.readNetFromCaffe(str(model), str(weights))
    cv_net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    onnx_path = model.with_suffix(".onnx")
    if not onnx_path.exists():
        save_onnx(reference, onnx_path)
    session = OnnxRuntimeSession(onnx_path.read_bytes(), ["detection_out"], threads=threads)
    name = reference.input_names[0]

    def run_reference() -> np.ndarray:
        with torch.no_grad():
            return reference(data)["detection_out"].numpy().reshape(-1, 7)

    def run_opencv() -> np.ndarray:
        cv_net.setInput(array)
        return cv_net.forward().reshape(-1, 7)

    return {
        OURS: lambda: ours(data)["detection_out"].numpy().reshape(-1, 7),
        REFERENCE: run_reference,
        OPENCV: run_opencv,
        ONNX: lambda: session.run({name: array})["detection_out"].reshape(-1, 7),
    }


def measure(
    runs: dict[str, Callable[[], np.ndarray]], repeat: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Returns milliseconds of each turn; the first is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeat + 1):
        for name, run in runs.items():
            time.sleep(0.05)  # until the previous candidate's threads stop spinning
            start = clock()
            run()
            if turn:
                times[name].append(1e3 * (clock() - start))
    return times


def difference(runs: Runs) -> str:
    """Says how detection mode's rows differ from the reference's."""
    found, expected = runs[OURS](), runs[REFERENCE]()
    if found.shape != expected.shape or not np.array_equal(found[:, :2], expected[:, :2]):
        return f"{len(found)} rows, and not the reference's {len(expected)}"
    score, box = np.abs(found[:, 2] - expected[:, 2]).max(), np.abs(found[:, 3:] - expected[:, 3:]).max()
    return f"the same {len(found)} rows, scores within {score:.0e}, boxes within {box:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", default="benchmarks/results")
    args = parser.parse_args()
    keep_freed_memory()
    rows, notes, data = [], [], picture()
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            files = seeded_files(name, Path(folder))
            for threads, clock in ((1, time.thread_time), (args.threads, time.perf_counter)):
                torch.set_num_threads(threads)
                cv2.setNumThreads(threads)
                runs = candidates(*files, data, threads)
                if threads == 1:
                    notes.append(f"{name}: detection mode gives {difference(runs)}.")
                times = measure(runs, args.repeat, clock)
                peer = min(min(times[OPENCV]), min(times[ONNX]))
                cells = [f"{min(value):.0f} / {statistics.median(value):.0f}" for value in times.values()]
                kind = f"{counted(threads, 'thread')}, {'CPU' if threads == 1 else 'wall'} time"
                rows.append(f"| {name} | {kind} | {' | '.join(cells)} | {peer / min(times[OURS]):.2f} |")
    lines = [
        f"# Detection of one picture, {date.today()}",
        "",
        f"pyscratchdet {__version__}, torch {torch.__version__}, OpenCV {cv2.__version__}, "
        f"onnxruntime {onnxruntime.__version__}, x86_64 CPU, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.1f} at the end; batch 1, {args.repeat} turns, fastest / median in milliseconds. The "
        "last column is the fastest time of the faster peer over detection mode's.",
        "",
        f"| net | clock | {OURS} | {REFERENCE} | {OPENCV} | {ONNX} | against the faster peer |",
        "|---|---|---:|---:|---:|---:|---:|",
        *rows,
        "",
        *notes,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(f"{args.output}/{date.today()}-detection-speed-cpu.md", text)


if __name__ == "__main__":
    main()
