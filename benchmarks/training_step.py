"""A whole training step: SSD300-VGG16 against torchvision's ssd300_vgg16, and each net against the machine's limit.

    python benchmarks/training_step.py [--batch 32] [--threads 2] [--repeat 3] [--device cpu|cuda] [--nets NAME,...]
        [--peer-batch 32] [--output FOLDER]

Both SSDs see the same random pictures and boxes, which are ready as tensors. Their steps alternate, in float32, and in
bfloat16 where the device has it; forward, loss (matching and mining included), backward and update are timed one by
one, and the fastest of each is reported. The time that one process needs to make such a batch from 500 x 375
JPEGs, with SSD's augmentations, is given too: workers do that in parallel.

The second table sets steps of several nets against the limit: the rate of a plain product of two square matrices,
timed between the steps. A step's operations are those of its convolutions: one pass forward, two backward, of which the
first layer needs one. The third lists the layers of the net that is furthest from it, as `pyscratchdet time` has them.
On one thread of a CPU, times are CPU time, which other programs disturb least. Prints the tables and writes them to
FOLDER/<date>-training-step-<device>.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import torch
import torchvision
from data_loading import layer_param, make_pictures
from seeded import recipe_of
from solver_update import random_batch, with_inputs
from torch import Tensor
from torchvision.models.detection import ssd300_vgg16

from pyscratchdet import __version__
from pyscratchdet.data.loader import BatchLoader
from pyscratchdet.errors import counted
from pyscratchdet.files import write_text
from pyscratchdet.layers.costs import net_cost
from pyscratchdet.memory import keep_freed_memory
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.prototxt import own
from pyscratchdet.prototxt.recipe import Options
from pyscratchdet.runtime import Net
from pyscratchdet.solver import Precision, Solver
from pyscratchdet.solver.timing import time_net

PEER = "ssd300_vgg16_voc0712"
NETS = (PEER, "scratchdet300_rootres18_voc0712", "scratchdet300_rootres34_voc0712", "dsod300_voc0712", own.NAME)
STAGES = ("forward", "loss", "backward", "update")
FLOAT32 = Precision(is_fast=True, autocast=False)
BFLOAT16 = Precision(is_fast=True, autocast=True)


def now(device: torch.device) -> float:
    """Returns seconds once the device is done: CPU time on one thread of a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def clock(work: Callable[[], object], device: torch.device) -> tuple[float, object]:
    """Returns milliseconds and what `work` gives."""
    start = now(device)
    result = work()
    return 1e3 * (now(device) - start), result


def train_net(name: str, batch: int, options: Options | None = None) -> caffe_pb2.NetParameter:
    """Returns the train net of a recipe, or the demo's, with inputs in place of its data."""
    return with_inputs(recipe_of(name, options).train, batch)


def make_solver(net: caffe_pb2.NetParameter, device: torch.device, precision: Precision) -> Solver:
    """Returns a solver with SSD's settings."""
    param = caffe_pb2.SolverParameter(
        train_net_param=net, base_lr=1e-4, lr_policy="fixed", momentum=0.9, weight_decay=5e-4, random_seed=1
    )
    return Solver(param, device=device, precision=precision)


def input_batch(net: Net, device: torch.device) -> dict[str, Tensor]:
    """Returns random pictures and boxes for a net's inputs."""
    return random_batch({name: net.blob_shapes[name] for name in net.input_names}, device)


def forward(solver: Solver, batch: Mapping[str, Tensor]) -> Tensor:
    """Returns the total loss of a batch."""
    with solver.precision.context(solver.device):
        return solver.net.total_loss(solver.net(batch))


def whole_step(solver: Solver, batch: Mapping[str, Tensor]) -> None:
    """Makes one training step."""
    solver.optimizer.zero_grad()
    forward(solver, batch).backward()  # type: ignore[no-untyped-call]
    solver.optimizer.step()


def our_step(
    net: caffe_pb2.NetParameter, batch: dict[str, Tensor], device: torch.device, precision: Precision
) -> Callable[[], list[float]]:
    """Returns a function that makes one training step and returns the milliseconds of its stages."""
    solver = make_solver(net, device, precision)
    loss_ms = [0.0]
    loss_layer = next(module for module in solver.net.layers if module.layer_type == "MultiBoxLoss")
    inner = loss_layer.layer.forward

    def timed(*args: object) -> object:
        loss_ms[0], tops = clock(lambda: inner(*args), device)  # type: ignore[arg-type]
        return tops

    loss_layer.layer.forward = timed  # type: ignore[assignment]

    def step() -> list[float]:
        solver.optimizer.zero_grad()
        ahead, loss = clock(lambda: forward(solver, batch), device)
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

    def ahead_of_loss() -> tuple[dict[str, Tensor], list[Tensor]]:
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
        ahead, made = clock(ahead_of_loss, device)
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


def step_operations(net: Net) -> int:
    """Returns the floating-point operations of a training step's convolutions and inner products."""
    costs = net_cost(net.plan).layers
    first = next((cost.macs for cost in costs if cost.macs), 0)  # no gradient of the pictures is wanted
    return 2 * (3 * sum(cost.macs for cost in costs) - first)


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, side: int = 0) -> float:
    """Returns the operations per second of a plain product of two square matrices, the fastest of three."""
    side = side or (8192 if device.type == "cuda" else 1536)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    left @ right
    return 2 * side**3 / (1e-3 * min(clock(lambda: left @ right, device)[0] for _ in range(3)))


def limit_row(name: str, batch: int, device: torch.device, repeat: int) -> tuple[str, float]:
    """Returns a net's line of the second table and its share of the limit."""
    solver = make_solver(train_net(name, batch), device, FLOAT32)
    given = input_batch(solver.net, device)
    whole_step(solver, given)
    rates, times = [], []
    for _ in range(repeat):
        rates.append(matrix_rate(device))
        times.append(1e-3 * clock(lambda: whole_step(solver, given), device)[0])
    rate, limit = step_operations(solver.net) / min(times), max(rates)
    cells = f"{batch} | {min(times):.2f} | {batch / min(times):.2f} | {1e-9 * rate:.0f} | {1e-9 * limit:.0f}"
    return f"| {name} | {cells} | {rate / limit:.0%} |", rate / limit


def layer_rows(name: str, batch: int, device: torch.device, limit: float) -> list[str]:
    """Returns the layers that take 2 % or more of a net's step, forward and backward, and the sums of the others."""
    net = make_solver(train_net(name, batch), device, FLOAT32).net
    timing = time_net(net, 2, inputs=input_batch(net, device))
    macs = dict.fromkeys(net.layer_names, 0) | {cost.name: cost.macs for cost in net_cost(net.plan).layers}
    types = {module.name: module.layer_type for module in net.layers}
    whole = timing.forward + timing.backward
    rows, rest = [], dict.fromkeys(types.values(), 0.0)
    for layer, ahead, back in timing.layers:
        if ahead + back < 0.02 * whole:
            rest[types[layer]] += ahead + back
            continue
        shares = [f"{2e3 * times * macs[layer] / ms / limit:.0%}" for times, ms in ((1, ahead), (2, back))]
        shares = shares if macs[layer] else ["", ""]
        rows.append(
            f"| {layer} | {types[layer]} | {ahead:.0f} | {shares[0]} | {back:.0f} | {shares[1]} | "
            f"{(ahead + back) / whole:.1%} |"
        )
    others = [f"| others | {kind} | | | | | {ms / whole:.1%} |" for kind, ms in rest.items() if ms > 0.005 * whole]
    return rows + others


def peer_table(batch_size: int, device: torch.device, repeat: int, title: str) -> list[str]:
    """Returns the first table: the stages of SSD300-VGG16's step, ours and torchvision's."""
    net = train_net(PEER, batch_size)
    batch = random_batch({"data": (batch_size, 3, 300, 300), "label": (1, 1, 3 * batch_size, 8)}, device)
    steps = {
        "torchvision": peer_step(batch, device, False),
        "pyscratchdet, fast": our_step(net, batch, device, FLOAT32),
    }
    if device.type == "cpu":  # elsewhere it switches TF32 off for the whole process
        steps["pyscratchdet, reference"] = our_step(net, batch, device, Precision())
    if has_bfloat16(device):
        steps["torchvision, bfloat16"] = peer_step(batch, device, True)
        steps["pyscratchdet, fast, bfloat16"] = our_step(net, batch, device, BFLOAT16)
    times: dict[str, list[list[float]]] = {name: [] for name in steps}
    for turn in range(repeat + 1):
        for name, step in steps.items():
            row = step()
            if turn:
                times[name].append(row)
    best = {name: [min(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    total = {name: sum(row) for name, row in best.items()}
    lines = [
        f"## {title}",
        "",
        f"Batch {batch_size}, fastest of {repeat} alternating steps, milliseconds (share of the step).",
        "",
        f"| | {' | '.join(STAGES)} | step | pictures/s | speed against torchvision |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in best.items():
        cells = [f"{value:.0f} ({value / total[name]:.1%})" for value in row]
        speed, rate = total["torchvision"] / total[name], 1e3 * batch_size / total[name]
        lines.append(f"| {name} | {' | '.join(cells)} | {total[name]:.0f} | {rate:.2f} | {speed:.2f} |")
    data = data_time(batch_size, repeat)
    shares = ", ".join(f"{data / total[name]:.1%} of the step of {name}" for name in total if "fast" in name)
    return [*lines, "", f"Data: {data:.0f} milliseconds of one process for a batch; {shares}.", ""]


def limit_tables(names: list[str], batch: int, device: torch.device, repeat: int) -> list[str]:
    """Returns the second and the third table."""
    found = {name: limit_row(name, batch, device, repeat) for name in names}
    worst = min(found, key=lambda name: found[name][1])
    return [
        "## Against the limit",
        "",
        f"Fast mode in float32, fastest of {repeat} steps, in seconds. The limit is the rate of a plain matrix "
        "product, measured in turns with the steps; both rates in GFLOP/s.",
        "",
        "| net | batch | step | pictures/s | rate | limit | share |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(row for row, _ in found.values()),
        "",
        f"## The layers of {worst}",
        "",
        "Milliseconds, share of the limit, and share of the step, of layers run one by one (`time_net`).",
        "",
        "| layer | type | forward | of the limit | backward | of the limit | of the step |",
        "|---|---|---:|---:|---:|---:|---:|",
        *layer_rows(worst, batch, device, matrix_rate(device)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="of the second and third table")
    parser.add_argument("--peer-batch", type=int, default=32, help="of the first table; 0 leaves it out")
    parser.add_argument("--nets", default=",".join(NETS), help="of the second table, separated by commas")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", default="benchmarks/results")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    lines = peer_table(args.peer_batch, device, args.repeat, "Against torchvision") if args.peer_batch else []
    lines += limit_tables([name for name in args.nets.split(",") if name], args.batch, device, args.repeat)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else torch.cpu.get_capabilities()["cpu_name"]
    kind = "CPU time" if device.type == "cpu" and args.threads == 1 else "wall time"
    heading = [
        f"# Training steps, {date.today()}",
        "",
        f"pyscratchdet {__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}, {machine}, "
        f"{counted(torch.get_num_threads(), 'thread')}, {kind}; load average {os.getloadavg()[0]:.1f} at the end.",
        "",
    ]
    text = "\n".join([*heading, *lines]) + "\n"
    print(text)
    write_text(Path(args.output) / f"{date.today()}-training-step-{device.type}.md", text)


if __name__ == "__main__":
    main()
