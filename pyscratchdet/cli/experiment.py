"""`pyscratchdet experiment`: the tables and figures of ScratchDet's paper, listed, run and reported."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import asdict
from typing import TYPE_CHECKING

from pyscratchdet.cli.flags import add_json_flag

if TYPE_CHECKING:
    from pyscratchdet.errors import PyScratchDetError
    from pyscratchdet.experiments.paper import Cell
    from pyscratchdet.experiments.run import Job, Result


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|run|landscape|report")

    def add(action: str, text: str) -> argparse.ArgumentParser:
        description = text[0].upper() + text[1:] + "."
        return actions.add_parser(action, help=text, description=description, formatter_class=parser.formatter_class)

    listing = add("list", "the numbers that the paper prints, and the nets and data that they belong to")
    listing.add_argument("names", nargs="*", metavar="NAME", help="experiment, such as table1 (default: all)")
    add_json_flag(listing)
    running = add("run", "train and test the cells of experiments; run again to go on")
    running.add_argument("names", nargs="+", metavar="NAME", help="experiment, such as table1")
    looking = add("landscape", "how even the loss is along the gradient, with BatchNorm and without")
    for one in (running, looking):
        one.add_argument("--data", required=True, metavar="DIR", help="VOC tree with the lists trainval and test")
        one.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for everything")
        one.add_argument("--iterations", type=int, metavar="N", help="instead of the usual number, to try things out")
    looking.set_defaults(interruption="stops; what is measured is not measured again")
    running.add_argument("--only", metavar="CELL,...", help="these cells alone, such as bn_all_lr0.05_scratch")
    running.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 1 to N (default: %(default)s)")
    running.add_argument(
        "--scale",
        choices=["full", "mini"],
        default="full",
        help="as published, on PASCAL VOC; or small, by one rule, for a CPU (default: %(default)s)",
    )
    running.add_argument("--gpu", default="", metavar="ID,...", help='devices, or "all" (default: the CPU)')
    running.add_argument(
        "--launcher",
        choices=["local", "torchrun", "slurm"],
        default="local",
        help="a process per device; all devices together on each cell; or jobs of Slurm (default: %(default)s)",
    )
    running.add_argument("--jobs", type=int, default=1, metavar="N", help="slurm: how many share the work")
    running.add_argument(
        "--slurm", default="", metavar="NAME=VALUE,...", help="what submitit asks for: timeout_min, gpus_per_node, ..."
    )
    running.set_defaults(interruption="writes a snapshot and stops; the same line goes on from there")

    reporting = add("report", "measured beside printed: one HTML page, the same as Markdown, and its figures")
    reporting.add_argument("folder", metavar="FOLDER", help="what `experiment run -o` filled")
    reporting.add_argument("-o", "--output", metavar="DIR", help="folder for the pages (default: FOLDER)")


def run(args: argparse.Namespace) -> int:
    """Does what the first word says."""
    actions = {"list": _list, "run": _run, "landscape": _landscape, "report": _report}
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from pyscratchdet.cli.console import show_json
    from pyscratchdet.experiments import paper

    names = args.names or list(paper.experiments())
    cells = {name: paper.cells(name) for name in names}
    if args.json:
        show_json([{**asdict(cell), "solver": paper.schedule(cell)} for group in cells.values() for cell in group])
        return 0
    for name, group in cells.items():
        _show_table(f"{name}: {paper.experiments()[name]}", group)
    return 0


def _run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from pyscratchdet.cli.console import say
    from pyscratchdet.cli.detector_options import at_least
    from pyscratchdet.devices import parse_gpus
    from pyscratchdet.errors import UsageError, counted
    from pyscratchdet.experiments import launch
    from pyscratchdet.experiments.run import RESULT

    seeds = range(1, 1 + at_least(1, args.seeds, "--seeds"))
    jobs = launch.plan(
        _chosen(args.names, args.only), seeds, Path(args.output), args.data, args.scale, _iterations(args)
    )
    number, parameters = at_least(1, args.jobs, "--jobs"), _parameters(args.slurm)
    if args.launcher == "slurm":
        if args.gpu:
            raise UsageError("--gpu is for this machine", code="usage.option", expected="--slurm gpus_per_node=N")
        for job in launch.slurm(jobs, _tell, number, parameters):
            say(f"submitted: {job.job_id}")
        return 0
    if number > 1 or parameters:
        raise UsageError("--jobs and --slurm are for Slurm", code="usage.option", expected="--launcher slurm")
    gpus = [str(gpu) for gpu in parse_gpus(args.gpu)] or [""]
    if args.scale == "mini" and args.launcher == "torchrun":
        raise UsageError("a small form takes one device", code="usage.option", expected="--launcher local")
    failed = launch.local(jobs, _tell, gpus if args.launcher == "local" else [",".join(gpus)])
    if left := sum(not (job.folder / RESULT).exists() for job in jobs):
        say(f"{left} of {counted(len(jobs), 'run')} without a result: they failed, or another process is at them")
    return min(1, failed)


def _iterations(args: argparse.Namespace) -> int | None:
    from pyscratchdet.cli.detector_options import at_least

    return None if args.iterations is None else at_least(1, args.iterations, "--iterations")


def _tell(job: Job, result: Result | PyScratchDetError) -> None:
    """Says what became of a job; called in the process that did it."""
    from pyscratchdet.cli.console import say, warn

    if isinstance(result, Exception):
        warn(f"{job.title}: {result}")
    elif result.metrics:
        say(f"{job.title}: mAP {result.metrics['mAP']:.1f} after {result.seconds['training']:.0f} s")
    else:
        say(f"{job.title}: diverged at iteration {result.iterations}")


def _parameters(text: str) -> dict[str, int | str]:
    """Returns what `--slurm` says; numbers as numbers."""
    from pyscratchdet.errors import UsageError

    pairs = [part.partition("=") for part in text.split(",") if part]
    if not all(name and value for name, _, value in pairs):
        raise UsageError("--slurm: not pairs", code="usage.option", expected="NAME=VALUE,...", found=text)
    return {name: int(value) if value.isdecimal() else value for name, _, value in pairs}


def _landscape(args: argparse.Namespace) -> int:
    from pathlib import Path

    from pyscratchdet.cli.console import say
    from pyscratchdet.experiments.landscape import measure

    for path in measure(Path(args.output), args.data, _iterations(args)):
        say(f"written: {path}")
    return 0


def _report(args: argparse.Namespace) -> int:
    from pyscratchdet.cli.console import say
    from pyscratchdet.experiments.report import write_report

    for path in write_report(args.folder, args.output):
        say(f"written: {path}")
    return 0


def _chosen(names: list[str], only: str | None) -> list[Cell]:
    """The cells of the experiments, or those of them that `--only` names."""
    from pyscratchdet.errors import UsageError, nearest
    from pyscratchdet.experiments import paper

    cells = [cell for name in names for cell in paper.cells(name)]
    if only is None:
        return cells
    known: dict[str, list[Cell]] = {}
    for cell in cells:
        known.setdefault(cell.name.partition("/")[2], []).append(cell)
    for name in only.split(","):
        if name not in known:
            hint = nearest(name, known) or f"these are: {', '.join(known)}"
            raise UsageError(f'no cell called "{name}"', code="experiment.cell", hint=hint)
    return [cell for name in only.split(",") for cell in known[name]]


def _show_table(title: str, cells: list[Cell]) -> None:
    from pyscratchdet.cli.console import console, plain_table

    table = plain_table((*cells[0].row, "recipe", "trained on", "tested on", "from", "printed"))
    for cell in cells:
        test = f"{cell.test}, several scales" if cell.multiscale else cell.test
        numbers = "; ".join(
            f"{', '.join(f'{number.metric} {number.value}' for number in group)} ({place})"
            for place, group in itertools.groupby(cell.printed, lambda number: number.place)
        )
        table.add_row(*cell.row.values(), cell.recipe or "none", cell.train, test, cell.start, numbers or "nothing")
    console().print(title, table, "", sep="\n")
