"""Reading a 100 MB caffemodel: time and memory, against OpenCV's importer.

    python benchmarks/conversion.py [--megabytes 100] [--repeat 5] [--output FOLDER]

Makes a VGG-like net of that size with random weights, reads it in processes of their own (a fresh one per
measurement, the file in the page cache) and prints time and the growth of peak memory. Writes the table to
FOLDER/<date>-conversion.md. Without OpenCV 4 its row is left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np

from pyscratchdet import __version__
from pyscratchdet.files import write_text
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse, to_text
from pyscratchdet.proto.weights import write_caffemodel

WIDTH = 512
MEASURE = """
import json, re, sys, time
def peak(): return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1e3
{setup}
before, began = peak(), time.perf_counter()
{work}
print(json.dumps([time.perf_counter() - began, peak() - before]))
"""
# What is measured: (imports, statement). Imports do not count.
PEERS = {
    "pyscratchdet, arrays by layer": (
        "from pyscratchdet.proto.weights import read_weights",
        "weights = read_weights(sys.argv[2])",
    ),
    "pyscratchdet, caffemodel to safetensors": (
        "from converters.weights import convert_weights; import safetensors.numpy",
        "convert_weights(sys.argv[2], sys.argv[2] + '.safetensors')",
    ),
    "OpenCV, readNetFromCaffe": ("import cv2", "net = cv2.dnn.readNetFromCaffe(sys.argv[1], sys.argv[2])"),
}


def make_net(folder: Path, megabytes: int) -> tuple[Path, Path, float]:
    number = max(1, round(megabytes * 1e6 / (WIDTH * WIDTH * 9 * 4)))
    text = ['layer { name: "in" type: "Input" top: "x0" input_param { shape { dim: 1 dim: 512 dim: 7 dim: 7 } } }']
    text += [
        f'layer {{ name: "conv{k}" type: "Convolution" bottom: "x{k}" top: "x{k + 1}"'
        f" convolution_param {{ num_output: {WIDTH} kernel_size: 3 pad: 1 }} }}"
        for k in range(number)
    ]
    net = parse("\n".join(text), caffe_pb2.NetParameter)
    rng = np.random.default_rng(1)
    blobs = {
        f"conv{k}": [rng.normal(size=(WIDTH, WIDTH, 3, 3)).astype("f4"), np.zeros(WIDTH, "f4")] for k in range(number)
    }
    prototxt, caffemodel = folder / "net.prototxt", folder / "net.caffemodel"
    write_text(prototxt, to_text(net))
    write_caffemodel(caffemodel, net, blobs)
    return prototxt, caffemodel, caffemodel.stat().st_size / 1e6


def measure(setup: str, work: str, prototxt: Path, caffemodel: Path, repeat: int) -> tuple[float, float] | None:
    rows = []
    for _ in range(repeat):
        code = MEASURE.format(setup=setup, work=work)
        command = [sys.executable, "-c", code, str(prototxt), str(caffemodel)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
            return None
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return statistics.median(row[0] for row in rows), statistics.median(row[1] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        prototxt, caffemodel, size = make_net(Path(folder), args.megabytes)
        rows = {name: measure(*peer, prototxt, caffemodel, args.repeat) for name, peer in PEERS.items()}
    lines = [
        f"# Reading a caffemodel of {size:.0f} MB, {date.today()}",
        "",
        f"pyscratchdet {__version__}, OpenCV {cv2.__version__}, numpy {np.__version__}, {platform.machine()}; "
        f"median of {args.repeat} fresh processes, file in the page cache.",
        "",
        "| what | ms | peak memory grows by, MB |",
        "|---|---:|---:|",
        *(f"| {name} | {row[0] * 1e3:.0f} | {row[1]:.0f} |" for name, row in rows.items() if row),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(args.output / f"{date.today()}-conversion.md", text)


if __name__ == "__main__":
    main()
