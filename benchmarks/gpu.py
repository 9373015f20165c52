"""Everything that waits for a GPU, in one run of at most eight minutes: tests, agreement, speed, memory, a training.

    benchmarks/gpu.sh [--wheels FOLDER] [--bccd FOLDER] [--device cuda|cpu] [--small] [--output FILE] [--parts A,B]

Each part runs in a process of its own with a time limit, so that none takes another's time or its CUDA context, and
its section is kept whatever happens to the others. What fails is shown last, and then the exit status is 1.
`--device cpu --small` does the same work in a minute on a CPU, with small nets: a test of this program.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOTAL_SECONDS = 470
DETECTORS = ("ssd300_vgg16_voc0712", "scratchdet300_rootres34_voc0712")
# Below these the run on blood cells has not learned: 300 iterations at batch 32 of a net that a CPU trains to 0.8.
LEAST_MAP, LARGEST_LOSS = 0.3, 8.0


@dataclass(frozen=True)
class Run:
    """What is asked for.

    Attributes:
        device: "cuda" or "cpu".
        small: Whether nets, batches and repetitions are those of a test.
        bccd: Folder of the blood cells, with Annotations/, ImageSets/ and JPEGImages/; "" makes pictures of shapes.
    """

    device: str
    small: bool
    bccd: str

    def pick(self, whole: object, small: object) -> object:
        """Returns one of two values."""
        return small if self.small else whole


def heading(run: Run) -> str:
    """Returns the first lines of the results."""
    import numpy
    import torch
    import torchvision

    from pyscratchdet import __version__

    machine = platform.processor() or platform.machine()
    if run.device == "cuda":
        found = torch.cuda.get_device_properties(0)
        machine = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, driver's CUDA {torch.version.cuda}"
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, numpy {numpy.__version__}"
    size = ", small sizes" if run.small else ""
    return (
        f"# On a GPU, {date.today()}\n\npyscratchdet {__version__}, {versions}, Python {platform.python_version()}; "
        f"{machine}; {os.cpu_count()} CPU cores{size}. Reproduce: `benchmarks/gpu.sh`.\n"
    )


def tests(run: Run) -> str:
    """The tests marked `gpu`."""
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *map(str, marked)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = made.stdout.strip().splitlines()[-1:]
    print(made.stdout[-6000:], made.stderr[-2000:], file=sys.stderr)
    # Without a GPU they are skipped, which pytest calls a success.
    if made.returncode or (run.device == "cuda" and not re.search(r"[1-9]\d* passed", str(last))):
        raise SystemExit(f"the tests failed: {last}")
    return f"`pytest -m gpu` in {len(marked)} files: {last[0]}."


def agreement(run: Run) -> str:
    """Whole nets and training steps blob by blob, with `verify`; on a CPU the fast mode takes the GPU's place."""
    from seeded import seeded_files

    lines = ["| net | what | compared | largest relative difference | verdict |", "|---|---|---:|---:|---|"]
    engine = "cuda" if run.device == "cuda" else "fast"
    with tempfile.TemporaryDirectory() as folder:
        for name, options in (training_nets(run) if run.small else dict.fromkeys(DETECTORS)).items():
            model, weights = seeded_files(name, Path(folder), options=options)
            lines += verified(name, folder, ["--model", model, "--weights", weights], engine)
        for name, options in training_nets(run).items():
            model, given = training_files(name, options, 2, Path(folder))
            flags = ["--model", model, "--input", given, "--phase", "TRAIN", "--gradients"]
            lines += verified(name, folder, flags, engine)
    return "\n".join([*lines, "", world_of_one(run)])


def verified(name: str, folder: str, flags: list[object], engine: str) -> list[str]:
    """Runs `verify` and returns a line for each of its comparisons.

    Raises:
        SystemExit: They part.
    """
    report = Path(folder) / "verify.json"
    status = command("verify", *flags, "--against", engine, "--json", report)
    comparisons = json.loads(report.read_text())
    rows = []
    for found in comparisons:
        errors = [blob["drift"]["relative"] for blob in found["blobs"] if blob["drift"] is not None]
        cells = f"{found['what']} | {len(errors)} | {max(errors, default=float('nan')):.1e}"
        rows.append(f"| {name} | {cells} | {found['verdict']} |")
    if status:
        raise SystemExit("\n".join(rows))
    return rows


def training_nets(run: Run) -> dict[str, object]:
    """Returns the recipes whose training is checked and timed, with their options."""
    from pyscratchdet.prototxt.recipe import Options

    if run.small:
        return {"scratchdet300_rootres18_voc0712": Options(size=64, width=0.1)}
    return {"ssd300_vgg16_voc0712": Options(), "scratchdet300_rootres18_voc0712": Options()}


def training_files(name: str, options: object, batch: int, folder: Path) -> tuple[Path, Path]:
    """Writes a train net with inputs, and its inputs; returns their paths."""
    import numpy as np
    import torch
    from training_step import input_batch, train_net

    from pyscratchdet.proto.text import to_text
    from pyscratchdet.runtime import build_net

    net = train_net(name, batch, options)
    model, given = folder / "train.prototxt", folder / "inputs.npz"
    model.write_text(to_text(net))
    arrays = input_batch(build_net(net, "TRAIN"), torch.device("cpu"))
    np.savez(given, **{key: value.numpy() for key, value in arrays.items()})
    return model, given


def world_of_one(run: Run) -> str:
    """Runs the operations of several processes in a group of one: NCCL on a GPU, which refuses two on one device."""
    import torch

    from pyscratchdet.ranks import ProcessGroup

    port = str(20000 + os.getpid() % 10000)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    world = ProcessGroup(torch.device(run.device))
    weight = torch.nn.Parameter(torch.full((3, 5), 2.0, device=run.device))
    weight.grad = torch.full_like(weight, 4.0)
    world.broadcast([weight])
    world.average_gradients([weight])
    if (world.agree(2), world.share("x"), world.gather(7), float(weight.grad.sum())) != (2, "x", [7], 60.0):
        raise SystemExit("a process group of one changes what it is given")
    world.close()
    return f"A process group of one on {run.device}: broadcast, average, agree, share and gather work."


def training(run: Run) -> str:
    """Steps without data loading, eager, in each precision; and where a step's time goes."""
    import torch
    from training_step import (
        BFLOAT16,
        FLOAT32,
        has_bfloat16,
        input_batch,
        make_solver,
        matrix_rate,
        step_operations,
        train_net,
    )

    from pyscratchdet.solver import Precision

    device = torch.device(run.device)
    modes = {"float32": Precision(), "fast, TF32 on a GPU": FLOAT32}
    modes |= {"fast, bfloat16": BFLOAT16} if has_bfloat16(device) else {}
    lines = step_heading()
    for name, options in training_nets(run).items():
        for batch in run.pick((32, 128), (2, 3)):  # type: ignore[attr-defined]
            for mode, precision in modes.items():
                solver = make_solver(train_net(name, batch, options), device, precision)
                given = input_batch(solver.net, device)
                seconds = time_steps(solver, given, run)
                kind = torch.bfloat16 if mode.endswith("16") else torch.float32
                share = step_operations(solver.net) / seconds / matrix_rate(device, kind, run.pick(0, 256))
                lines.append(step_row(name, batch, mode, seconds, device, f"{share:.0%}"))
                print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join([*lines, "", profile(solver, given, device)])


def step_heading() -> list[str]:
    """Returns the head of the tables of steps."""
    return [
        "| net | batch | mode | ms a step | pictures/s | of a matrix product's rate | peak memory, GiB |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]


def step_row(name: str, batch: int, mode: str, seconds: float, device: object, share: str) -> str:
    """Returns a line of the tables of steps, and forgets the peak."""
    peak = f"{peak_memory(device):.1f}" if str(device) == "cuda" else ""
    return f"| {name} | {batch} | {mode} | {1e3 * seconds:.1f} | {batch / seconds:.0f} | {share} | {peak} |"


def peak_memory(device: object) -> float:
    """Returns the GiB that tensors took at most since the last call."""
    import torch

    peak = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return float(peak)


def time_steps(solver: object, given: Mapping[str, object], run: Run) -> float:
    """Returns the seconds of a step, the median of three rounds of several."""
    from training_step import now, whole_step

    device, number = solver.device, run.pick(8, 1)  # type: ignore[attr-defined]
    for _ in range(3):
        whole_step(solver, given)  # type: ignore[arg-type]
    rounds = []
    for _ in range(3):
        start = now(device)
        for _ in range(number):  # type: ignore[call-overload]
            whole_step(solver, given)  # type: ignore[arg-type]
        rounds.append((now(device) - start) / number)  # type: ignore[operator]
    return float(sorted(rounds)[1])


def profile(solver: object, given: Mapping[str, object], device: object) -> str:
    """Returns the operations that take most of a step's time on the device, and how often the host waits for it."""
    import torch
    from training_step import now, whole_step

    kinds = [torch.profiler.ProfilerActivity.CPU]
    if str(device) == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profiled:
        whole_step(solver, given)  # type: ignore[arg-type]
        now(device)  # type: ignore[arg-type]
    attribute = "self_device_time_total" if str(device) == "cuda" else "self_cpu_time_total"
    events = sorted(profiled.key_averages(), key=lambda event: -getattr(event, attribute))
    whole = sum(getattr(event, attribute) for event in events) or 1
    rows = [f"| {e.key[:90]} | {e.count} | {getattr(e, attribute) / whole:.1%} |" for e in events[:20]]
    waits = {e.key: e.count for e in events if "Synchronize" in e.key}
    title = "The last one's step by operation; the host waits: " + (str(waits) if waits else "never")
    return "\n".join([f"{title}.", "", "| operation | calls | of the time |", "|---|---:|---:|", *rows])


def compiled(run: Run) -> str:
    """The same steps with everything before the loss compiled, without and with CUDA graphs."""
    import torch
    from training_step import BFLOAT16, FLOAT32, has_bfloat16, input_batch, make_solver, train_net

    device = torch.device(run.device)
    precision = BFLOAT16 if has_bfloat16(device) else FLOAT32
    name, options = list(training_nets(run).items())[-1]
    lines = step_heading()
    for kind, note in ((None, ""), ("reduce-overhead", " with CUDA graphs"))[: 2 if run.device == "cuda" else 1]:
        for batch in run.pick((32, 128), (2,)):  # type: ignore[attr-defined]
            torch.compiler.reset()
            torch._dynamo.utils.counters.clear()
            net, began = train_net(name, batch, options), time.perf_counter()
            solver = make_solver(net, device, precision)
            given = input_batch(solver.net, device)
            compile_trunk(solver, net, given, kind)
            seconds = time_steps(solver, given, run)
            skipped = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
            mode = f"fast, {'bfloat16' if precision.autocast else 'float32'}, torch.compile{note}"
            mode += f" ({skipped} parts without)" if skipped else ""
            lines.append(step_row(name, batch, mode, seconds, device, ""))
            print(lines[-1], f"{time.perf_counter() - began:.0f} s in all", file=sys.stderr, flush=True)
    return "\n".join(lines)


def compile_trunk(solver: object, net: object, given: Mapping[str, object], kind: str | None) -> None:
    """Replaces the forward pass of a solver's net by a compiled one of all layers before the loss, and the loss."""
    import torch

    from pyscratchdet.proto import caffe_pb2
    from pyscratchdet.runtime import build_net, share_weights

    loss = next(module for module in solver.net.layers if module.layer.is_loss)  # type: ignore[attr-defined]
    before = caffe_pb2.NetParameter.FromString(net.SerializeToString())  # type: ignore[attr-defined]
    kept = [layer for layer in before.layer if layer.name not in (loss.name, "label")]
    del before.layer[:]
    before.layer.extend(kept)
    trunk = build_net(before, "TRAIN").to(solver.device)  # type: ignore[attr-defined]
    share_weights(trunk, solver.net)  # type: ignore[attr-defined]
    solver.precision.prepare(trunk, solver.device)  # type: ignore[attr-defined]
    trunk({"data": given["data"]})  # finds what layers import at first use, at which the compiler would stop
    run_trunk = torch.compile(trunk.forward, mode=kind, dynamic=False)

    def forward(batch: Mapping[str, object]) -> dict[str, object]:
        torch.compiler.cudagraph_mark_step_begin()
        blobs = {**batch, **run_trunk({"data": batch["data"]})}
        return dict(zip(loss.node.param.top, loss(*(blobs[name] for name in loss.node.param.bottom)), strict=True))

    solver.net.forward = forward  # type: ignore[attr-defined]


def detection(run: Run) -> str:
    """Detection mode from pictures in memory to rows, with the copies to and from the device."""
    import numpy as np
    import torch
    from seeded import picture, seeded_files

    from pyscratchdet.detect.engine import TorchDetection
    from pyscratchdet.devices import has_bfloat16

    device = torch.device(run.device)
    precisions = ["float32", "bf16"] if run.device == "cuda" or has_bfloat16() else ["float32"]
    nets = training_nets(run) if run.small else dict.fromkeys(DETECTORS)
    head = "| net | precision | batch | ms | pictures/s | of that, DetectionOutput | peak memory, GiB |"
    lines = [head, "|---|---|---:|---:|---:|---:|---:|"]
    with tempfile.TemporaryDirectory() as folder:
        for name, options in nets.items():
            files = seeded_files(name, Path(folder), options=options)
            for precision in precisions:
                engine = TorchDetection(*files, device=device, precision=precision)
                for batch in run.pick((1, 8, 64), (1, 2)):  # type: ignore[attr-defined]
                    prepared = np.concatenate([picture(seed, engine.size[0]).numpy() for seed in range(batch)])
                    ms, share = time_detection(engine, prepared, run)
                    peak = f"{peak_memory(device):.1f}" if run.device == "cuda" else ""
                    cells = f"{batch} | {ms:.1f} | {1e3 * batch / ms:.0f} | {share:.0%} | {peak}"
                    lines.append(f"| {name} | {precision} | {cells} |")
    return "\n".join(lines)


def time_detection(engine: object, prepared: object, run: Run) -> tuple[float, float]:
    """Returns the median milliseconds of a batch, and the share of DetectionOutput."""
    find = engine.find  # type: ignore[attr-defined]
    for _ in range(run.pick(3, 1)):  # type: ignore[call-overload]
        find(prepared)
    before, times = engine.nms_seconds, []  # type: ignore[attr-defined]
    for _ in range(run.pick(20, 2)):  # type: ignore[call-overload]
        start = time.perf_counter()
        find(prepared)
        times.append(time.perf_counter() - start)
    spent = engine.nms_seconds - before  # type: ignore[attr-defined]
    return 1e3 * sorted(times)[len(times) // 2], spent / sum(times)


def data(run: Run) -> str:
    """SSD300's training transformations of 500 x 375 JPEGs, by the number of workers."""
    from data_loading import layer_param, make_pictures

    from pyscratchdet.data.loader import BatchLoader

    lines = ["| workers | pictures/s |", "|---:|---:|"]
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(f"{folder}/lmdb", run.pick(256, 16))  # type: ignore[arg-type]
        param = layer_param(f"{folder}/lmdb")
        param.data_param.batch_size = run.pick(32, 8)  # type: ignore[assignment]
        for workers in sorted({1, max(1, cores // 2), cores}):
            loader = BatchLoader(param, seed=1, workers=workers)
            for _ in range(2 * workers + 1):  # those that were made ahead
                loader.next()
            start, number = time.perf_counter(), run.pick(30 * workers, 3)
            for _ in range(number):  # type: ignore[call-overload]
                loader.next()
            speed = number * param.data_param.batch_size / (time.perf_counter() - start)  # type: ignore[operator]
            loader.close()
            lines.append(f"| {workers} | {speed:.0f} |")
    return "\n".join(lines)


def blood_cells(run: Run) -> str:
    """ScratchDet300 from scratch on photographs of blood cells: the commands that a user gives."""
    iterations = run.pick(300, 6)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        labels = made_data(run)
        classes = Path(labels).read_text().count("item {")
        name, workers = "scratchdet300_rootres18_voc0712", str(run.pick(os.cpu_count(), 1))
        flags = ["--train-source", "lmdb/train_lmdb", "--test-source", "lmdb/test_lmdb", "--label-map-file", labels]
        flags += ["--num-classes", classes, "--num-test-image", run.pick(72, 6), "--base-lr", "0.01"]
        flags += ["--max-iter", iterations, "--stepvalue", f"{iterations * 4 // 5}", "--test-interval", iterations]  # type: ignore[operator]
        flags += ["--snapshot", iterations, "--batch-size", run.pick(32, 4), "--gpus", ""]
        flags += ["--size", "96", "--width", "0.1"] if run.small else []
        needs(command("generate", name, "-o", "models", *flags), "generate")
        subprocess.run([sys.executable, ROOT / "scripts/short_run.py", f"models/{name}"], check=True)
        solver, began = f"models/{name}/solver.prototxt", time.perf_counter()
        gpu = ["--gpu", "0"] if run.device == "cuda" else []
        logs = ["--fast", "--workers", workers, "--log", "training.log", "--metrics", "training.csv"]
        needs(command("train", "--solver", solver, *logs, *gpu), "train")
        seconds = time.perf_counter() - began
        return training_report(run, iterations, seconds)  # type: ignore[arg-type]


def made_data(run: Run) -> str:
    """Writes LMDBs of the blood cells, or of pictures of shapes, and returns the label map's path."""
    if not run.bccd:
        needs(command("demo-data", "data", "--images", run.pick(300, 12), "--test", run.pick(72, 6)), "demo-data")
        needs(command("lmdb", "folder", "data/VOCdevkit", "data/VOCdevkit", "lmdb"), "lmdb")
        return "lmdb/labelmap.prototxt"
    Path("VOCdevkit").mkdir()
    Path("VOCdevkit/VOC2007").symlink_to(Path(run.bccd).resolve())
    Path("names.txt").write_text("RBC\nWBC\nPlatelets\n")
    needs(command("create-label-map", "names.txt", "labelmap.prototxt", "--include_background"), "create-label-map")
    for split, name in (("trainval", "train"), ("test", "test")):
        flags = ["--split", split, "--label-map", "labelmap.prototxt", "--redo"]
        needs(command("lmdb", "voc", "VOCdevkit", f"lmdb/{name}_lmdb", *flags), "lmdb")
    return "labelmap.prototxt"


def training_report(run: Run, iterations: int, seconds: float) -> str:
    """Returns what the training reached.

    Raises:
        SystemExit: It has not learned.
    """
    with open("training.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in rows if row.get("loss")]
    waits = [float(row["data_wait"]) for row in rows if row.get("data_wait")]
    speeds = [float(row["images_per_second"]) for row in rows if row.get("images_per_second")]
    found = [value for row in rows for name, value in row.items() if "mAP" in name and value]
    mean_ap = float(found[-1])
    text = (
        f"{'Blood cells (BCCD)' if run.bccd else 'Pictures of shapes'}, {iterations} iterations in {seconds:.0f} s, "
        f"tests included: loss {losses[0]:.2f} at first, {losses[-1]:.2f} at last; mAP {mean_ap:.3f}; "
        f"{sorted(speeds)[len(speeds) // 2]:.0f} pictures/s, waiting for data {sorted(waits)[len(waits) // 2]:.1%} of "
        "the time (medians)."
    )
    if run.small:
        return text
    if losses[-1] > LARGEST_LOSS or mean_ap < LEAST_MAP:
        raise SystemExit(f"it has not learned: {text}")
    return text


def command(*arguments: object) -> int:
    """Runs a command of pyscratchdet in this process; what it prints goes to stderr."""
    from pyscratchdet.cli import main as cli

    print("$ pyscratchdet", *arguments, file=sys.stderr, flush=True)
    with redirect_stdout(sys.stderr):
        return cli([str(argument) for argument in arguments])


def needs(status: int, what: str) -> None:
    """Ends the part unless a command succeeded."""
    if status:
        raise SystemExit(f"pyscratchdet {what} ended with {status}")


# Name: what does it, title, seconds on a GPU. First what shows whether the project runs there at all.
PARTS: dict[str, tuple[Callable[[Run], str], str, int]] = {
    "tests": (tests, "Tests", 90),
    "agreement": (agreement, "Agreement with the CPU", 80),
    "blood-cells": (blood_cells, "A training", 100),
    "training": (training, "Training steps", 100),
    "detection": (detection, "Detection", 60),
    "data": (data, "Data", 30),
    "compiled": (compiled, "Training steps, compiled", 150),
}


def run_part(name: str, arguments: list[str], seconds: float) -> tuple[str, bool]:
    """Runs a part in a process of its own and returns its section and whether it succeeded."""
    title, began = PARTS[name][1], time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = [sys.executable, __file__, "--part", name, *arguments]
        try:
            made = subprocess.run(process, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=seconds)
            problem = f"exit status {made.returncode}" if made.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"stopped after {seconds:.0f} s"
        errors.seek(0)
        said = errors.read()
    spent = time.perf_counter() - began
    print(f"{name}: {problem or 'done'} in {spent:.0f} s", file=sys.stderr, flush=True)
    if not problem:
        return f"## {title}\n\n{made.stdout.strip()}\n", True
    print(said[-4000:], file=sys.stderr, flush=True)
    tail = "\n".join(said.strip().splitlines()[-40:])
    return f"## {title}\n\nFAILED: {problem}. It said last:\n\n```\n{tail}\n```\n", False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small nets and few repetitions")
    parser.add_argument("--bccd", default="", help="folder of the blood cells (default: pictures of shapes)")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, separated by commas (default: all)")
    parser.add_argument("--output", default=f"{ROOT}/benchmarks/results/{date.today()}-gpu.md", help="the result file")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    run = Run(args.device, args.small, args.bccd and str(Path(args.bccd).resolve()))
    if args.part:
        print(PARTS[args.part][0](run))
        return 0
    import torch

    if run.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no CUDA device; --device cpu --small tries this program", file=sys.stderr)
        return 2
    arguments = ["--device", run.device, "--bccd", run.bccd, *(["--small"] if run.small else [])]
    sections, failed, began = [heading(run)], [], time.perf_counter()
    for name in args.parts.split(","):
        left = TOTAL_SECONDS - (time.perf_counter() - began)
        section, is_done = run_part(name, arguments, max(1, TOTAL_SECONDS if run.small else min(left, PARTS[name][2])))
        sections.append(section)
        failed += [] if is_done else [name]
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text("\n".join(sections))  # after each part: the machine may be taken away
    print(Path(args.output).read_text())
    print(f"failed: {', '.join(failed)}" if failed else "all parts done", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
