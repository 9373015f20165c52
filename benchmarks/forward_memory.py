"""Peak memory of one forward pass, in which blobs are freed as soon as they are no longer needed.

    python benchmarks/forward_memory.py [--batch 4] [--output FOLDER]

Each way to run a net has a process of its own, which reports how far its resident memory rose above that after loading
the net and making one small pass. Prints a table and writes it to FOLDER/<date>-forward-memory-cpu.md.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch

from pyscratchdet import __version__
from pyscratchdet.files import write_text
from pyscratchdet.runtime import Net, OptimizedNet, build_net

MODELS = ("scratchdet300_rootres34_voc0712", "ssd300_vgg16_voc0712")
WAYS = ("forward", "forward_blobs", "detection mode")
MIB = 1 << 20


def without_detections(name: str) -> Net:
    """Returns a deploy net up to its DetectionOutput, whose memory depends on what is detected."""
    from pyscratchdet.layers.plan import read_net

    param = read_net(f"prototxt/models/{name}/deploy.prototxt").param
    kept = [layer for layer in param.layer if layer.type != "DetectionOutput"]
    del param.layer[:]
    param.layer.extend(kept)
    return build_net(param)


def report(name: str, way: str, batch: int) -> None:
    """Prints how many bytes the peak exceeds the memory in use before; runs in the child process."""
    torch.set_num_threads(1)
    net = without_detections(name)
    if way == "detection mode":
        net = OptimizedNet(net)
    run = net.forward_blobs if way == "forward_blobs" else net
    with torch.no_grad():
        run(torch.zeros(1, 3, 300, 300))
        # Resets the high-water mark (man 5 proc, clear_refs).
        Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        before = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1])  # type: ignore[index]
        run(torch.zeros(batch, 3, 300, 300))
    after = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]
    print(1024 * (after - before))


def peak(name: str, way: str, batch: int) -> float:
    """Returns the peak in MiB."""
    command = [sys.executable, __file__, "--child", name, way, "--batch", str(batch)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--output", default="benchmarks/results")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        report(*args.child, args.batch)
        return
    rows = []
    for name in MODELS:
        net = without_detections(name)
        net.reshape({"data": (args.batch, 3, 300, 300)})
        sizes = [4 * math.prod(shape) / MIB for shape in net.blob_shapes.values()]
        cells = [f"{peak(name, way, args.batch):.0f}" for way in WAYS]
        rows.append(f"| {name} | {' | '.join(cells)} | {sum(sizes):.0f} | {max(sizes):.0f} |")
    lines = [
        f"# Peak memory of a forward pass, {date.today()}",
        "",
        f"pyscratchdet {__version__}, torch {torch.__version__}, x86_64 CPU; batch {args.batch}, MiB of resident "
        "memory above the loaded net, scratch memory of convolutions included. Copies of split blobs share one memory "
        "and count several times in the sum.",
        "",
        f"| net | {' | '.join(WAYS)} | all blobs by name | the largest |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(f"{args.output}/{date.today()}-forward-memory-cpu.md", text)


if __name__ == "__main__":
    main()
