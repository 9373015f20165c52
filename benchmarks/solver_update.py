"""What the update costs: Caffe's rules as foreach arithmetic, as a share of a training step and against torch.optim.

    python benchmarks/solver_update.py [--model TRAIN.prototxt] [--batch 2] [--repeat 5] [--device cpu|cuda]
        [--output FOLDER]

Runs whole training steps of a published net on random pictures and boxes, in reference and in fast mode, and times
forward (with the loss), backward and update separately. Then the update alone, for each rule, beside torch.optim's with
foreach on the same tensors. Prints the tables and writes them to FOLDER/<date>-solver-update-<device>.md.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch

from pyscratchdet import __version__
from pyscratchdet.errors import counted
from pyscratchdet.files import write_text
from pyscratchdet.layers.plan import read_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.solver import OPTIMIZERS, Precision, Solver, make_optimizer

PEERS: dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, weight_decay=5e-4, foreach=True),
    "Nesterov": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, weight_decay=5e-4, nesterov=True, foreach=True),
    "AdaGrad": lambda p: torch.optim.Adagrad(p, 1e-3, weight_decay=5e-4, foreach=True),
    "RMSProp": lambda p: torch.optim.RMSprop(p, 1e-3, weight_decay=5e-4, foreach=True),
    "AdaDelta": lambda p: torch.optim.Adadelta(p, 1e-3, weight_decay=5e-4, foreach=True),
    "Adam": lambda p: torch.optim.Adam(p, 1e-3, weight_decay=5e-4, foreach=True),
}


def with_inputs(net: caffe_pb2.NetParameter, batch: int) -> caffe_pb2.NetParameter:
    """Puts Input layers in place of a train net's AnnotatedData layer and returns the net."""
    kept = [layer for layer in net.layer if layer.type != "AnnotatedData"]
    resize = next(layer for layer in net.layer if layer.type == "AnnotatedData").transform_param.resize_param
    del net.layer[:]
    for name, shape in (("data", (batch, 3, resize.height, resize.width)), ("label", (1, 1, 3 * batch, 8))):
        layer = net.layer.add(name=name, type="Input", top=[name])
        layer.input_param.shape.add(dim=shape)
    net.layer.extend(kept)
    return net


def random_batch(shapes: dict[str, tuple[int, ...]], device: torch.device) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(1)
    number = shapes["label"][2]
    low = generator.uniform(0, 0.6, (number, 2))
    high = low + generator.uniform(0.1, 0.4, (number, 2))
    heads = np.stack([np.arange(number) // 3, generator.integers(1, 6, number), np.zeros(number)], 1)
    label = np.concatenate([heads, low, high, np.zeros((number, 1))], 1)
    data = generator.uniform(-120, 130, shapes["data"])
    arrays = {"data": data, "label": label.reshape(shapes["label"])}
    return {name: torch.from_numpy(array.astype(np.float32)).to(device) for name, array in arrays.items()}


def clock(work: Callable[[], object], device: torch.device) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start), result


def step_times(net: caffe_pb2.NetParameter, fast: bool, repeat: int, device: torch.device) -> list[float]:
    """Returns the milliseconds of forward, backward and update, the best of each."""
    param = caffe_pb2.SolverParameter(
        train_net_param=net, base_lr=1e-4, lr_policy="fixed", momentum=0.9, weight_decay=5e-4, random_seed=1
    )
    solver = Solver(param, device=device, precision=Precision(is_fast=fast))
    batch = random_batch({name: solver.net.blob_shapes[name] for name in solver.net.input_names}, device)
    if fast:
        batch["data"] = batch["data"].to(memory_format=torch.channels_last)

    def forward() -> torch.Tensor:
        with solver.precision.context(device):
            return solver.net.total_loss(solver.net(batch))

    rows = []
    for _ in range(repeat + 1):
        solver.optimizer.zero_grad()
        ahead, loss = clock(forward, device)
        back, _ = clock(loss.backward, device)  # type: ignore[attr-defined]
        rows.append([ahead, back, clock(solver.optimizer.step, device)[0]])
    return [min(column) for column in zip(*rows[1:], strict=True)]


def update_times(net: caffe_pb2.NetParameter, kind: str, repeat: int, device: torch.device) -> tuple[float, float]:
    """Returns the milliseconds of our rule and of torch.optim's, in turns, the best of each."""
    from pyscratchdet.runtime import build_net

    shapes = [tuple(entry.parameter.shape) for entry in build_net(net, "TRAIN").learnable if not entry.is_statistic]

    def tensors() -> list[torch.Tensor]:
        made = [torch.randn(shape, device=device) for shape in shapes]
        for tensor in made:
            tensor.grad = torch.randn_like(tensor)
        return made

    momentum = 0.0 if kind in ("AdaGrad", "RMSProp") else 0.9
    param = caffe_pb2.SolverParameter(type=kind, base_lr=1e-3, momentum=momentum, weight_decay=5e-4)
    ours, peer = make_optimizer(param, tensors()), PEERS[kind](tensors())
    best = [float("inf"), float("inf")]
    for _ in range(repeat + 1):
        for index, optimizer in enumerate((ours, peer)):
            best[index] = min(best[index], clock(optimizer.step, device)[0])
    return best[0], best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="prototxt/models/ssd300_vgg16_voc0712/train.prototxt")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", default="benchmarks/results")
    args = parser.parse_args()
    device = torch.device(args.device)
    net = with_inputs(read_net(args.model).param, args.batch)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    lines = [
        f"# The update, {date.today()}",
        "",
        f"pyscratchdet {__version__}, torch {torch.__version__}, {name}, {counted(torch.get_num_threads(), 'thread')}; "
        f"{net.name}, batch {args.batch}; best of {args.repeat}, milliseconds.",
        "",
        "| mode | forward and loss | backward | update | update's share |",
        "|---|---|---|---|---|",
    ]
    for fast in (False, True):
        ahead, back, update = step_times(net, fast, args.repeat, device)
        share = update / (ahead + back + update)
        lines.append(f"| {'fast' if fast else 'reference'} | {ahead:.1f} | {back:.1f} | {update:.1f} | {share:.1%} |")
    lines += ["", "| rule | ours | torch.optim, foreach |", "|---|---|---|"]
    for kind in OPTIMIZERS:
        ours, peer = update_times(net, kind, args.repeat, device)
        lines.append(f"| {kind} | {ours:.1f} | {peer:.1f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    target = Path(args.output) / f"{date.today()}-solver-update-{device.type}.md"
    write_text(target, text)
    print(f"written: {target}")


if __name__ == "__main__":
    main()
