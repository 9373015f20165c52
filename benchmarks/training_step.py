"""A whole training step of SSD300-VGG16, ours against torchvision's ssd300_vgg16, in one run.

    python benchmarks/training_step.py [--batch 32] [--threads 2] [--repeat 3] [--device cpu|cuda] [--output FOLDER]

Both see the same random pictures and boxes, which are ready as tensors. Their steps alternate, in float32, and in
bfloat16 where the device has it; forward, loss (matching and mining included), backward and update are timed one by
one, and the fastest of each is reported. The time that one process needs to make such a batch from 500 x 375
JPEGs, with SSD's augmentations, is given too: workers do that in parallel. On one thread of a CPU, times are CPU time,
which other programs hardly disturb. Prints a table and writes it to FOLDER/<date>-training-step-<device>.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from datetime import date

import torch
import torchvision
from data_loading import layer_param, make_pictures
from solver_update import random_batch, with_inputs
from torch import Tensor
from torchvision.models.detection import ssd300_vgg16

from pyscratchdet import __version__
from pyscratchdet.data.loader import BatchLoader
from pyscratchdet.errors import counted
from pyscratchdet.files import write_text
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.solver import Precision, Solver

MODEL = "prototxt/models/ssd300_vgg16_voc0712/train.prototxt"
STAGES = ("forward", "loss", "backward", "update")


def clock(work: Callable[[], object], device: torch.device) -> tuple[float, object]:
    """Returns milliseconds and what `work` gives."""
    now = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = now()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (now() - start), result


def our_step(batch: dict[str, Tensor], device: torch.device, precision: Precision) -> Callable[[], list[float]]:
    """Returns a function that makes one training step and returns the milliseconds of its stages."""
    param = caffe_pb2.SolverParameter(
        train_net_param=with_inputs(MODEL, len(batch["data"])),
        base_lr=1e-4,
        lr_policy="fixed",
        momentum=0.9,
        weight_decay=5e-4,
        random_seed=1,
    )
    solver = Solver(param, device=device, precision=precision)
    loss_ms = [0.0]
    loss_layer = next(module for module in solver.net.layers if module.layer_type == "MultiBoxLoss")
    inner = loss_layer.layer.forward

    def timed(*args: object) -> object:
        loss_ms[0], tops = clock(lambda: inner(*args), device)  # type: ignore[arg-type]
        return tops

    loss_layer.layer.forward = timed  # type: ignore[assignment]

    def forward() -> Tensor:
        with solver.precision.context(device):
            return solver.net.total_loss(solver.net(batch))

    def step() -> list[float]:
        solver.optimizer.zero_grad()
        ahead, loss = clock(forward, device)
        back, _ = clock(loss.backward, device)  # type: ignore[attr-defined]
        return [ahead - loss_ms[0], loss_ms[0], back, clock(solver.optimizer.step, device)[0]]

    return step


def peer_step(batch: dict[str, Tensor], device: torch.device, bfloat16: bool) -> Callable[[], list[float]]:
    """Returns the same for torchvision's model, without its picture transform."""
    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=21).to(device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-4, momentum=0.9, weight_decay=5e-4, foreach=True)
    data, rows = batch["data"] / 100, batch["label"][0, 0]
    images = torchvision.models.detection.image_list.ImageList(data, [(300, 300)] * len(data))
    targets = [
        {"boxes": mine[:, 3:7] * 300, "labels": mine[:, 1].long()}
        for mine in (rows[rows[:, 0] == item] for item in range(len(data)))
    ]

    def forward() -> tuple[dict[str, Tensor], list[Tensor]]:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            features = list(model.backbone(images.tensors).values())
            return model.head(features), model.anchor_generator(images, features)

    def loss(heads: dict[str, Tensor], anchors: list[Tensor]) -> Tensor:
        heads = {name: value.float() for name, value in heads.items()}
        matched = [
            model.proposal_matcher(torchvision.ops.box_iou(target["boxes"], own))
            for own, target in zip(anchors, targets, strict=True)
        ]
        return torch.stack(list(model.compute_loss(targets, heads, anchors, matched).values())).sum()

    def step() -> list[float]:
        optimizer.zero_grad()
        ahead, made = clock(forward, device)
        lost, total = clock(lambda: loss(*made), device)  # type: ignore[misc]
        back, _ = clock(total.backward, device)  # type: ignore[attr-defined]
        return [ahead, lost, back, clock(optimizer.step, device)[0]]

    return step


def data_time(batch: int, repeat: int) -> float:
    """Returns the milliseconds that one process needs for a batch."""
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(f"{folder}/lmdb")
        param = layer_param(f"{folder}/lmdb")
        param.data_param.batch_size = batch
        loader = BatchLoader(param, seed=1, workers=0)
        return min(clock(loader.next, torch.device("cpu"))[0] for _ in range(repeat + 1))


def has_bfloat16(device: torch.device) -> bool:
    """Returns whether a device computes in bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", default="benchmarks/results")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    batch = random_batch({"data": (args.batch, 3, 300, 300), "label": (1, 1, 3 * args.batch, 8)}, device)
    steps = {
        "torchvision": peer_step(batch, device, False),
        "pyscratchdet, fast": our_step(batch, device, Precision(is_fast=True, autocast=False)),
    }
    if device.type == "cpu":  # elsewhere it switches TF32 off for the whole process
        steps["pyscratchdet, reference"] = our_step(batch, device, Precision())
    if has_bfloat16(device):
        steps["torchvision, bfloat16"] = peer_step(batch, device, True)
        steps["pyscratchdet, fast, bfloat16"] = our_step(batch, device, Precision(is_fast=True, autocast=True))
    times: dict[str, list[list[float]]] = {name: [] for name in steps}
    for turn in range(args.repeat + 1):
        for name, step in steps.items():
            row = step()
            if turn:
                times[name].append(row)
    best = {name: [min(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    total = {name: sum(row) for name, row in best.items()}
    machine = torch.cuda.get_device_name() if device.type == "cuda" else torch.cpu.get_capabilities()["cpu_name"]
    unit = "milliseconds of CPU time" if device.type == "cpu" and args.threads == 1 else "milliseconds"
    lines = [
        f"# Training step of SSD300-VGG16, {date.today()}",
        "",
        f"pyscratchdet {__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}, {machine}, "
        f"{counted(torch.get_num_threads(), 'thread')}, load average {os.getloadavg()[0]:.1f} at the end; "
        f"batch {args.batch}, fastest of {args.repeat} alternating steps, {unit} (share of the step).",
        "",
        f"| | {' | '.join(STAGES)} | step | pictures/s | speed against torchvision |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in best.items():
        cells = [f"{value:.0f} ({value / total[name]:.1%})" for value in row]
        speed, rate = total["torchvision"] / total[name], 1e3 * args.batch / total[name]
        lines.append(f"| {name} | {' | '.join(cells)} | {total[name]:.0f} | {rate:.2f} | {speed:.2f} |")
    data = data_time(args.batch, args.repeat)
    shares = ", ".join(f"{data / total[name]:.1%} of the step of {name}" for name in total if "fast" in name)
    lines += ["", f"Data: {data:.0f} milliseconds of one process for a batch; {shares}."]
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(f"{args.output}/{date.today()}-training-step-{device.type}.md", text)


if __name__ == "__main__":
    main()
