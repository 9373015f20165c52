"""What the runtime costs: from a cold start to one picture's boxes, and over the same net written by hand in PyTorch.

    python benchmarks/runtime_overhead.py [--repeat 10] [--output FOLDER]

A start is a program that imports torch and then pyscratchdet, builds a detector and looks at a picture; the command
`pyscratchdet detect` takes turns with it.

The net by hand is Root-ResNet-34's backbone and heads. Both have the same weights and give the same mbox_loc and
mbox_conf (checked); priors and detections are left out. They take turns, with freed memory kept as in the commands: a
forward pass of the TEST net, and forward and backward of the TRAIN net.

All is CPU time on one thread, which other programs hardly disturb. Prints the tables and writes them to
FOLDER/<date>-runtime-overhead-cpu.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from seeded import picture, seeded_files
from torch import Tensor, nn

from pyscratchdet import __version__
from pyscratchdet.data.images import encode
from pyscratchdet.files import write_bytes, write_text
from pyscratchdet.layers.plan import read_net
from pyscratchdet.memory import keep_freed_memory
from pyscratchdet.prototxt import own
from pyscratchdet.runtime import Net, load_net

MODEL = "scratchdet300_rootres34_voc0712"
DETECTION_TYPES = ("PriorBox", "Softmax", "DetectionOutput")
DETECTION_NAMES = ("mbox_priorbox", "mbox_conf_reshape", "mbox_conf_flatten")
SOURCES = ("conv4_12", "conv5_6", "conv6_2", "conv7_2", "conv8_2", "conv9_2")
# Of each stage: number of residual blocks, and the convolution on the first one's shortcut.
STAGES = ((2, 3, None), (3, 4, "Convolution1"), (4, 6, "Convolution2"), (5, 3, "Convolution3"))
STARTED = (own.NAME, "ssd300_vgg16_voc0712", MODEL)
# A program that gets a net, its weights and a picture, and prints its CPU time after each of MARKS but the last.
PROGRAM = """import sys, time; times = [time.process_time()]
import torch; times.append(time.process_time())
from pyscratchdet import Detector; times.append(time.process_time())
detector = Detector(*sys.argv[1:3]); times.append(time.process_time())
for _ in range(2): detector.detect(sys.argv[3:]); times.append(time.process_time())
print(*times)"""
MARKS = ("Python", "torch", "pyscratchdet, OpenCV, protobuf", "net and weights", "first picture", "another picture",
         "exit")  # fmt: skip
EXTRAS = ((6, "Convolution4"), (7, "Convolution5"), (8, None))


class ByHand(nn.Module):
    """Root-ResNet-34 with SSD's heads, written by hand and with our net's weights."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        modules = {module.name: module for module in net.layers}
        convolutions, norms = {}, {}
        for name, module in modules.items():
            if module.layer_type == "Convolution":
                (out, channels, *kernel), window = module.blobs[0].shape, module.layer.window  # type: ignore[attr-defined]
                has_bias = len(module.blobs) > 1
                made = nn.Conv2d(channels, out, tuple(kernel), window.stride, window.pad, bias=has_bias)
                _fill([made.weight, *([made.bias] if has_bias else [])], module.blobs)
                convolutions[name] = made
            elif module.layer_type == "BatchNorm":
                number = name.removeprefix("BatchNorm")
                norm = nn.BatchNorm2d(len(module.blobs[0]), module.layer.eps)  # type: ignore[attr-defined]
                mean, variance, scale = module.blobs
                _fill([norm.running_mean, norm.running_var], [mean / scale, variance / scale])
                _fill([norm.weight, norm.bias], modules[f"Scale{number}"].blobs)
                norms[number] = norm
        self.convolutions, self.norms = nn.ModuleDict(convolutions), nn.ModuleDict(norms)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mbox_loc and mbox_conf."""
        conv, norms, made = self.convolutions, iter(self.norms.values()), {}

        def block(x: Tensor, first: str, second: str, preactivated: bool = True) -> tuple[Tensor, Tensor]:
            h = F.relu(next(norms)(x)) if preactivated else x
            made[second] = conv[second](F.relu(next(norms)(conv[first](h))))
            return h, made[second]

        for number in (1, 2, 3):
            x = F.relu(next(norms)(conv[f"stem_{number}"](x)))
        x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        for stage, num_blocks, shortcut in STAGES:
            for k in range(num_blocks):
                first, second = f"conv{stage}_{2 * k + 1}", f"conv{stage}_{2 * k + 2}"
                h, top = block(x, first, second, preactivated=(stage, k) != (2, 0))
                x = (conv[shortcut](h) if shortcut and k == 0 else x) + top
        for stage, shortcut in EXTRAS:
            h, top = block(x, f"conv{stage}_1", f"conv{stage}_2")
            x = (conv[shortcut](h) if shortcut else x) + top
        block(x, "conv9_1", "conv9_2")
        heads = [
            [conv[f"{source}_mbox_{what}"](made[source]).permute(0, 2, 3, 1).flatten(1) for source in SOURCES]
            for what in ("loc", "conf")
        ]
        return torch.cat(heads[0], 1), torch.cat(heads[1], 1)


def _fill(targets: list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for target, value in zip(targets, values, strict=True):
            target.copy_(value)


def pair(model: Path, weights: Path, phase: str, data: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    """Returns one pass of our net and one of the net by hand, after checking that both give the same."""
    ours = load_net(model, weights, phase=phase)
    hand = ByHand(ours).train(phase == "TRAIN")
    tops, expected = ours(data), hand(data)
    for name, value in zip(("mbox_loc", "mbox_conf"), expected, strict=True):
        torch.testing.assert_close(tops[name], value, rtol=1e-3, atol=1e-3)  # sums in other orders, 40 layers deep

    def forward(run: Callable[[Tensor], object]) -> Callable[[], object]:
        return torch.no_grad()(lambda: run(data))

    def step(run: Callable[[], list[Tensor]]) -> Callable[[], object]:
        return lambda: torch.stack([top.square().mean() for top in run()]).sum().backward()

    if phase == "TEST":
        return forward(ours), forward(hand)
    return step(lambda: list(ours(data).values())), step(lambda: list(hand(data)))


def run_program(*arguments: str | Path) -> tuple[list[float], float]:
    """Returns the numbers that a Python program prints, and its CPU time."""
    # Compiled modules are kept, as an installed package has them.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command, settings = [sys.executable, *map(str, arguments)], {**kept, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=settings, check=True, stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    numbers = [float(word) for word in done.stdout.split() if word.replace(".", "", 1).isdecimal()]
    return numbers, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def start_row(name: str, folder: Path, photo: Path, repeat: int) -> str:
    """Returns a net's line of the table of starts."""
    model, weights = seeded_files(name, folder)
    command = ["-m", "pyscratchdet", "detect", "--model", model, "--weights", weights, photo, "-o", folder / "found"]
    rows = []
    for _ in range(repeat + 1):
        marks, whole = run_program("-c", PROGRAM, model, weights, photo)
        rows.append([*np.diff([0, *marks, whole]), run_program("-c", "import torch")[1], run_program(*command)[1]])
    turns = np.array(rows[1:])  # the first one compiles modules and fills the page cache
    torch_alone, whole_command = turns[:, -2], turns[:, -1]
    until_boxes = turns[:, : len(MARKS)].sum(1) - turns[:, MARKS.index("another picture")]
    ratios = [np.median(seconds / torch_alone) for seconds in (until_boxes, whole_command)]
    cells = [f"{seconds:.2f}" for seconds in np.median(turns, 0)]
    return f"| {name} | {' | '.join(cells)} | {ratios[0]:.2f} | {ratios[1]:.2f} |"


def start_rows(folder: Path, repeat: int) -> list[str]:
    """Returns the lines of the table of starts."""
    photo = folder / "photo.jpg"
    image = picture(size=640)[0].permute(1, 2, 0).add(110).clamp(0, 255).byte().numpy()
    write_bytes(photo, encode(image[:480], "jpg"))
    return [start_row(name, folder, photo, repeat) for name in STARTED]


def hand_rows(folder: Path, repeat: int) -> list[str]:
    """Returns the lines of the table against a net by hand."""
    model, weights = seeded_files(MODEL, folder)
    param = read_net(model).param
    kept = [la for la in param.layer if la.type not in DETECTION_TYPES and la.name not in DETECTION_NAMES]
    del param.layer[:]
    param.layer.extend(kept)
    write_text(model, str(param))
    rows = []
    for phase, what, batch in (("TEST", "forward", 1), ("TRAIN", "forward and backward", 1)):
        runs = pair(model, weights, phase, picture().repeat(batch, 1, 1, 1))
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(repeat + 1):
            both = list(zip(runs, times, strict=True))
            for run, mine in both if turn % 2 else both[::-1]:
                start = time.process_time()
                run()
                if turn:
                    mine.append(1e3 * (time.process_time() - start))
        ours, hand = (f"{min(mine):.0f} / {statistics.median(mine):.0f}" for mine in times)
        fastest = min(times[0]) / min(times[1]) - 1
        middle = statistics.median(a / b for a, b in zip(*times, strict=True)) - 1
        rows.append(f"| {phase} | {what} | {batch} | {ours} | {hand} | {fastest:+.1%} | {middle:+.1%} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--output", default="benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        starts, rows = start_rows(Path(folder), args.repeat), hand_rows(Path(folder), args.repeat)
    lines = [
        f"# A cold start, and the runtime against a net by hand, {date.today()}",
        "",
        f"pyscratchdet {__version__}, torch {torch.__version__}, x86_64 CPU, 1 thread, CPU time; {args.repeat} turns "
        "each, fastest / median.",
        "",
        "## From a cold start to one picture's boxes",
        "",
        "A picture of 640 x 480, seconds, medians. The first picture includes what is done once, folding weights and "
        "transforming kernels. In turns with this program, one that only imports torch, and the command `pyscratchdet "
        "detect`, which also draws and writes files. The ratios set the program, less the other picture, and the "
        "command against importing torch.",
        "",
        f"| net | {' | '.join(MARKS)} | torch alone | the command | the program's ratio | the command's |",
        f"|---|{'---:|' * (len(MARKS) + 4)}",
        *starts,
        "",
        "## Against a net by hand",
        "",
        f"Backbone and heads of {MODEL}, milliseconds. Overhead: of the fastest, and the median over turns.",
        "",
        "| phase | pass | batch | pyscratchdet | by hand | overhead, fastest | overhead, median |",
        "|---|---|---:|---:|---:|---:|---:|",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(f"{args.output}/{date.today()}-runtime-overhead-cpu.md", text)


if __name__ == "__main__":
    main()
