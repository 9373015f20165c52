"""`detect` over a large collection: memory while it runs, and how near the pipeline comes to decoding alone.

    python benchmarks/detect_collections.py [--pictures 100000] [--photographs FOLDER] [--output FILE.md]

Small pictures are made, and the command looks at them with a small net; its resident memory is read from /proc all the
while. Then, on --photographs, what a run reaches whose net is a stub is compared with decoding, and with
decoding and preparing, on as many threads, in turn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import cv2
import numpy as np
from seeded import seeded_files

from pyscratchdet.data.images import decode_image
from pyscratchdet.detect.detector import Detector
from pyscratchdet.detect.media import walk_media
from pyscratchdet.detect.output import PictureWriter
from pyscratchdet.detect.parts import PartStore
from pyscratchdet.detect.reading import ReadOptions, num_workers
from pyscratchdet.detect.run import CollectionRun
from pyscratchdet.detect.tables import ImageDetections
from pyscratchdet.detect.tasks import DetectTask
from pyscratchdet.files import write_text
from pyscratchdet.prototxt.recipe import Options
from pyscratchdet.ranks import World

RECIPE, WIDTH = "scratchdet300_rootres18_voc0712", 0.02
SIZE = 64  # of the net's input
ROUNDS = 5


def make_pictures(folder: Path, number: int) -> None:
    """Writes small pictures, all different, in folders of a thousand."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (256, 256, 3), np.uint8)
    for k in range(number):
        part = folder / f"{k // 1000:04d}"
        part.mkdir(parents=True, exist_ok=True)
        x, y = k % 200, k // 200 % 200
        cv2.imwrite(str(part / f"{k:06d}.jpg"), noise[y : y + 48, x : x + 48] // 4 + k % 190)


def resident(process: int) -> float:
    """Returns the resident memory of a process in MB."""
    text = Path(f"/proc/{process}/statm").read_text()
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def watch(command: Sequence[str], store: Path, number: int) -> tuple[list[tuple[float, float]], float]:
    """Runs the command; returns (share of the pictures done, MB) over time, and its seconds."""
    began, points = time.monotonic(), list[tuple[float, float]]()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(1)
            parts = len(list(store.rglob("*.jsonl"))) - 1 if store.exists() else 0
            try:
                points.append((min(1.0, max(0, parts) * 64 / number), resident(process.pid)))
            except (OSError, IndexError):
                break
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: status {process.returncode}")
    return points, time.monotonic() - began


def memory_table(points: Sequence[tuple[float, float]]) -> list[str]:
    """Returns the rows of a table: the largest memory in each tenth of the run."""
    rows = ["| pictures done | most memory, MB |", "|---|---:|"]
    for tenth in range(10):
        inside = [size for share, size in points if tenth / 10 <= share < (tenth + 1) / 10 + (tenth == 9)]
        rows.append(f"| {10 * tenth} to {10 * (tenth + 1)} % | {max(inside, default=float('nan')):,.0f} |")
    return rows


class StubTask(DetectTask):
    """Reads and prepares pictures for a detector, and finds nothing in no time."""

    def find(self, prepared: np.ndarray, sizes: Sequence[tuple[int, int]]) -> list[ImageDetections]:
        """Returns no detections."""
        return [ImageDetections(np.empty(0, np.int64), np.empty(0, "f4"), np.empty((0, 4), "f4")) for _ in sizes]


def decoding_rate(paths: Sequence[Path], prepare: Callable[[np.ndarray], object] = np.shape) -> float:
    """Returns pictures a second that are read, decoded and perhaps prepared on all cores."""
    began = time.perf_counter()
    with ThreadPoolExecutor(num_workers()) as pool:
        for _ in pool.map(lambda path: prepare(decode_image(path.read_bytes(), name=str(path))) is None, paths):
            pass
    return len(paths) / (time.perf_counter() - began)


def pipeline_rate(detector: Detector, photographs: Path, folder: Path, number: int) -> float:
    """Returns pictures a second that a run looks at whose net is a stub; nothing is drawn."""
    store = PartStore(folder)
    pictures = PictureWriter(str(folder), detector.names, draw=False)
    task = StubTask(detector, 0.5, None, pictures, None)
    with store.opened(lambda: walk_media([str(photographs)], Counter()), None):
        began = time.perf_counter()
        run = CollectionRun(task, store, World(), ReadOptions(), lambda done: None, lambda frame: None)
        with pictures:
            run.run()
        return number / (time.perf_counter() - began)


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--photographs", type=Path, help="folder of JPEG photographs")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    lines = [f"# `detect` over collections, {date.today()}, {num_workers()} cores", ""]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, weights = seeded_files(RECIPE, folder, options=Options(size=SIZE, width=WIDTH))
        make_pictures(folder / "pictures", args.pictures)
        options = ["--no-draw", "--format", "jsonl", "--batch-size", "16", "--resume", "-o", str(folder / "out")]
        command = [sys.executable, "-m", "pyscratchdet", "detect", "--model", str(model), "--weights", str(weights)]
        points, seconds = watch([*command, str(folder / "pictures"), *options], folder / "out" / ".run", args.pictures)
        count = (folder / "out" / "detections.jsonl").read_bytes().count(b"\n")
        lines += [
            f"{args.pictures:,} pictures of 48 x 48, a narrow net at {SIZE} x {SIZE}, jsonl with `--resume`: "
            f"{count:,} lines in {seconds:,.0f} s, {args.pictures / seconds:,.0f} a second.",
            "",
            *memory_table(points),
        ]
        if args.photographs:
            paths = [path for path in sorted(args.photographs.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
            detector = Detector(*seeded_files(RECIPE, folder, options=Options(size=300, width=WIDTH)))
            lines += ["", f"{len(paths)} photographs, a stub for the net, in turn:", ""]
            lines += ["| decoding, a second | decoding and preparing | the pipeline | of decoding | of both |"]
            lines += ["|---:|---:|---:|---:|---:|"]
            for number in range(ROUNDS + 1):
                alone, both = decoding_rate(paths), decoding_rate(paths, detector.prepare)
                whole = pipeline_rate(detector, args.photographs, folder / f"stub{number}", len(paths))
                if number:  # the first fills the cache
                    shares = f"{whole / alone:.2f} | {whole / both:.2f}"
                    lines.append(f"| {alone:,.0f} | {both:,.0f} | {whole:,.0f} | {shares} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.output:
        write_text(args.output, text)


if __name__ == "__main__":
    main()
