"""Detection of one picture: detection mode against the reference and other engines, and against the machine's limit.

    python benchmarks/detection_speed.py [--repeat 20] [--threads 2] [--nets NAME,...] [--engine NAME=PYTHON ...]
        [--output FOLDER]

The same net with seeded weights and the same picture, from the input blob to detections, batch 1: in detection mode, in
reference mode, in OpenCV 4's importer of Caffe files and in onnxruntime; in OpenVINO where it is installed; and in
engines that have a Python of their own, such as `--engine mnn=.../python --engine opencv=.../python` (OpenCV 5), which
engine_runner.py runs. The candidates take turns, so that other work on the machine affects all equally: first CPU time
on one thread, which other programs hardly disturb, then wall time on all threads. Freed memory stays with the process,
as in the commands (pyscratchdet/memory.py), which the peers do by themselves.

The limit is the rate of a plain product of two square matrices, timed between the turns. Detection mode's operations
are those of the convolutions as they are defined: Winograd's way takes fewer, so that a share may be above 1.
Also checks all rows against the reference's. Prints a table and writes it to FOLDER/<date>-detection-speed-cpu.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from seeded import picture, seeded_files
from training_step import matrix_rate

from pyscratchdet import __version__
from pyscratchdet.converters.compare import match_detections
from pyscratchdet.converters.onnx_export import save_onnx
from pyscratchdet.converters.sessions import SESSIONS
from pyscratchdet.errors import counted
from pyscratchdet.files import write_text
from pyscratchdet.layers.costs import net_cost
from pyscratchdet.memory import keep_freed_memory
from pyscratchdet.runtime import load_net

NETS = "scratchdet300_rootres34_voc0712,ssd300_vgg16_voc0712"
OURS, REFERENCE, LIMIT = "detection mode", "reference", "limit"
RUNNER = Path(__file__).with_name("engine_runner.py")


class Candidate(ABC):
    """What runs the net.

    Attributes:
        name: With its version.
        rows: What it found, (N, 7).
    """

    name: str
    rows: np.ndarray

    @abstractmethod
    def turn(self) -> tuple[float, float]:
        """Runs the net once; returns milliseconds of CPU time and of wall time."""


class Here(Candidate):
    """One that runs in this process."""

    def __init__(self, name: str, run: Callable[[], np.ndarray]) -> None:
        self.name, self._run = name, run
        self.rows = run().reshape(-1, 7)

    def turn(self) -> tuple[float, float]:
        """See the base class."""
        began = time.process_time(), time.perf_counter()
        self._run()
        return 1e3 * (time.process_time() - began[0]), 1e3 * (time.perf_counter() - began[1])


class Elsewhere(Candidate):
    """One that has a Python of its own."""

    def __init__(self, engine: str, python: str, onnx: Path, feed: Mapping[str, np.ndarray], threads: int) -> None:
        given, found = onnx.with_suffix(".in.npz"), onnx.with_suffix(f".{engine}.npz")
        arrays: dict[str, Any] = {f"one:{name}": array for name, array in feed.items()}
        np.savez(given, outputs=np.array(["detection_out"]), **arrays)
        found.unlink(missing_ok=True)
        command = [python, str(RUNNER), engine, str(onnx), str(given), str(found), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.turn()  # once it answers, the results are there
        with np.load(found) as results:
            self.name, self.rows = f"{engine} {results['version']}", results["one:detection_out"].reshape(-1, 7)

    def turn(self) -> tuple[float, float]:
        """See the base class."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            parts = line.split()  # engines print lines of their own
            if len(parts) == 2 and all(part.replace(".", "", 1).isdecimal() for part in parts):
                return float(parts[0]), float(parts[1])
        raise SystemExit(f"{self._process.args}: status {self._process.wait()}")

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def candidates(
    model: Path, weights: Path, data: torch.Tensor, threads: int, engines: Mapping[str, str], stack: ExitStack
) -> dict[str, Candidate]:
    """Returns what runs the net with so many threads, by name without version."""
    array = data.numpy()
    reference, ours = load_net(model, weights), load_net(model, weights, optimize=True)
    cv_net = cv2.dnn.readNetFromCaffe(str(model), str(weights))
    cv_net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    onnx, feed = model.with_suffix(".onnx"), {reference.input_names[0]: array}
    if not onnx.exists():
        save_onnx(reference, onnx)

    def run_opencv() -> np.ndarray:
        cv_net.setInput(array)
        found: np.ndarray = cv_net.forward()
        return found

    found: dict[str, Candidate] = {
        OURS: Here(OURS, lambda: ours(data)["detection_out"].numpy()),
        REFERENCE: Here(REFERENCE, torch.no_grad()(lambda: reference(data)["detection_out"].numpy())),
        "opencv 4": Here(f"OpenCV {cv2.__version__}, Caffe", run_opencv),
    }
    for name in ("onnxruntime", "openvino", "mnn"):
        if importlib.util.find_spec(SESSIONS[name].module):
            session = SESSIONS[name](onnx.read_bytes(), ["detection_out"], threads=threads)
            found[name] = Here(f"{name} {session.version}", lambda session=session: session.run(feed)["detection_out"])
    for name, python in engines.items():
        found[name] = other = Elsewhere(name, python, onnx, feed, threads)
        stack.callback(other.close)
    return found


def measure(found: Mapping[str, Candidate], repeat: int, clock: int) -> tuple[dict[str, list[float]], float]:
    """Returns milliseconds of each turn, the first not counted, and the limit in operations a second."""
    times: dict[str, list[float]] = {name: [] for name in found}
    rates = []
    for turn in range(repeat + 1):
        rates.append(matrix_rate(torch.device("cpu")))
        for name, candidate in found.items():
            time.sleep(0.05)  # until the previous candidate's threads stop spinning
            spent = candidate.turn()[clock]
            if turn:
                times[name].append(spent)
    return times, max(rates)


def difference(found: np.ndarray, expected: np.ndarray) -> str:
    """Says how rows differ from the reference's."""
    mine, theirs = match_detections(found, expected)
    if not len(found) == len(mine) == len(expected):
        return f"{len(found)} rows, of which {len(mine)} are among the reference's {len(expected)}"
    score, box = (np.abs(mine[:, part] - theirs[:, part]).max() for part in (slice(2, 3), slice(3, 7)))
    return f"the same {len(found)} rows, scores within {score:.0e}, boxes within {box:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--nets", default=NETS)
    parser.add_argument("--engine", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--output", default="benchmarks/results")
    args = parser.parse_args()
    keep_freed_memory()
    engines = dict(text.split("=", 1) for text in args.engine)
    rows, notes, titles = [], [], list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for name in args.nets.split(","):
            files = seeded_files(name, Path(folder))
            for threads in dict.fromkeys((1, args.threads)):
                torch.set_num_threads(threads)
                cv2.setNumThreads(threads)
                with ExitStack() as stack:
                    net = load_net(*files)
                    data = picture(size=net.blob_shapes["data"][2])
                    found = candidates(*files, data, threads, engines, stack)
                    times, limit = measure(found, args.repeat, 0 if threads == 1 else 1)
                best = {key: min(value) for key, value in times.items()}
                rate = 2 * sum(cost.macs for cost in net_cost(net.plan).layers) / (1e-3 * best[OURS])
                cells = [
                    f"{min(value):.0f} / {statistics.median(value):.0f} ({best[key] / best[OURS]:.2f})"
                    for key, value in times.items()
                ]
                kind = f"{threads}, {'CPU' if threads == 1 else 'wall'} time"
                share = f"{1e-9 * rate:.0f} of {1e-9 * limit:.0f}, {rate / limit:.0%}"
                rows.append(f"| {name} | {kind} | {' | '.join(cells)} | {share} |")
                titles = [candidate.name for candidate in found.values()]
                if threads == 1:
                    expected = found[REFERENCE].rows
                    notes += [
                        f"- {name}, {other.name}: {difference(other.rows, expected)}."
                        for key, other in found.items()
                        if key != REFERENCE
                    ]
    lines = [
        f"# Detection of one picture, {date.today()}",
        "",
        f"pyscratchdet {__version__}, torch {torch.__version__}, {torch.cpu.get_capabilities()['cpu_name']}, "
        f"{counted(os.cpu_count() or 1, 'core')}, load average {os.getloadavg()[0]:.1f} at the end; batch 1, float32, "
        f"{args.repeat} turns, fastest / median in milliseconds (the fastest over detection mode's). The last column "
        "is detection mode's rate and that of a plain matrix product, in GFLOP/s.",
        "",
        f"| net | threads | {' | '.join(titles)} | of the limit |",
        f"|---|---|{'---:|' * (len(titles) + 1)}",
        *rows,
        "",
        *notes,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(f"{args.output}/{date.today()}-detection-speed-cpu.md", text)


if __name__ == "__main__":
    main()
