"""Reading a 100 MB caffemodel: time and memory, against OpenCV's importer.

    python benchmarks/conversion.py [--megabytes 100] [--repeat 5] [--output FOLDER]

Makes a VGG-like net of that size with random weights and reads it in a fresh process for each measurement, with the
file in the page cache. Prints the time, and by how much two peaks grew: of the process's own memory (RssAnon, sampled
every millisecond from outside), and of all resident memory (VmHWM), which includes mapped pages of the file, although
the system can drop those at any time. Writes the table to FOLDER/<date>-conversion.md. Without OpenCV 4, its
row is left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyscratchdet import __version__
from pyscratchdet.files import write_text
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse, to_text
from pyscratchdet.proto.weights import write_caffemodel

WIDTH = 512
# The process says when it is ready, waits for a line, and works.
MEASURE = """
import json, re, sys, time
def peak(): return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1e3
prototxt, caffemodel = sys.argv[1:]
{setup}
before = peak()
print("ready", flush=True)
sys.stdin.readline()
began = time.perf_counter()
{work}
print(json.dumps([time.perf_counter() - began, peak() - before]), flush=True)
sys.stdin.readline()
"""


class Row(NamedTuple):
    """Medians of one peer: seconds, and MB that its memory grew by at its peak."""

    seconds: float
    own: float
    resident: float


# What is measured: (imports, statement). Imports do not count.
PEERS = {
    "arrays by layer, as views": (
        "from pyscratchdet.proto.weights import read_weights",
        "weights = read_weights(caffemodel)",
    ),
    "arrays by layer, every value looked at": (
        "from pyscratchdet.proto.weights import read_weights; import numpy",
        "largest = [float(numpy.max(a)) for arrays in read_weights(caffemodel).blobs.values() for a in arrays]",
    ),
    "load_net: the net, its blobs filled": (
        "from pyscratchdet.layers.base import layer_class; from pyscratchdet.runtime import load_net;"
        "layer_class('Convolution')",  # which imports the layers
        "net = load_net(prototxt, caffemodel)",
    ),
    "caffemodel to safetensors": (
        "from pyscratchdet.converters.weights import convert_weights",
        "convert_weights(caffemodel, caffemodel + '.safetensors')",
    ),
    "safetensors to caffemodel": (
        "from pyscratchdet.converters.weights import convert_weights; "
        "convert_weights(caffemodel, caffemodel + '.safetensors')",
        "convert_weights(caffemodel + '.safetensors', caffemodel + '.back.caffemodel')",
    ),
    "OpenCV, readNetFromCaffe": ("import cv2", "net = cv2.dnn.readNetFromCaffe(prototxt, caffemodel)"),
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


def own_memory(process: int) -> float:
    """Returns the size of a process's own memory, in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"RssAnon:\s*(\d+)", status)[1]) / 1e3  # type: ignore[index]


def run_once(code: str, prototxt: Path, caffemodel: Path) -> Row:
    command = [sys.executable, "-c", code, str(prototxt), str(caffemodel)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            raise OSError("the process failed before it was ready")
        before = largest = own_memory(process.pid)
        done = threading.Event()

        def sample() -> None:
            nonlocal largest
            while not done.is_set():
                largest = max(largest, own_memory(process.pid))
                time.sleep(1e-3)

        sampler = threading.Thread(target=sample)
        sampler.start()
        print(file=process.stdin, flush=True)
        line = process.stdout.readline()
        done.set()
        sampler.join()
        print(file=process.stdin, flush=True)
    seconds, resident = json.loads(line)
    return Row(seconds, largest - before, resident)


def measure(setup: str, work: str, prototxt: Path, caffemodel: Path, repeat: int) -> Row:
    code = MEASURE.format(setup=setup, work=work)
    rows = [run_once(code, prototxt, caffemodel) for _ in range(repeat)]
    return Row(*(statistics.median(column) for column in zip(*rows, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        prototxt, caffemodel, size = make_net(Path(folder), args.megabytes)
        peers = {
            name: peer for name, peer in PEERS.items() if "cv2" not in peer[0] or hasattr(cv2.dnn, "readNetFromCaffe")
        }
        rows = {name: measure(*peer, prototxt, caffemodel, args.repeat) for name, peer in peers.items()}
    lines = [
        f"# Reading a caffemodel of {size:.0f} MB, {date.today()}",
        "",
        f"pyscratchdet {__version__}, OpenCV {cv2.__version__}, numpy {np.__version__}, {platform.machine()}; "
        f"median of {args.repeat} fresh processes, file in the page cache.",
        "",
        "Peak growth of the process's own memory, and of all resident memory, pages of the mapped file included.",
        "",
        "| what | ms | own memory, MB | resident, MB |",
        "|---|---:|---:|---:|",
        *(f"| {name} | {row.seconds * 1e3:.0f} | {row.own:.0f} | {row.resident:.0f} |" for name, row in rows.items()),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(args.output / f"{date.today()}-conversion.md", text)


if __name__ == "__main__":
    main()
