"""`pyscratchdet time`: time every layer forward and backward, as `caffe time` does."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pyscratchdet.cli.flags import add_flag, add_json_flag, add_net_flags, add_phase_flag

if TYPE_CHECKING:
    from pyscratchdet.solver.timing import Timing


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_flag(parser, "model", required=True, metavar="PROTOTXT", help="the net")
    add_flag(parser, "weights", default="", metavar="FILE", help="weights to use in place of the initial ones")
    add_phase_flag(parser, "TRAIN")
    add_flag(parser, "iterations", type=int, default=50, metavar="N", help="number of passes (default: %(default)s)")
    add_json_flag(parser)
    parser.set_defaults(interruption="stops without a result")
    add_net_flags(parser)
    parser.add_argument("--fast", action="store_true", help="channels_last where it pays, and TF32 on a GPU")


def run(args: argparse.Namespace) -> int:
    """Times."""
    from pyscratchdet.cli.console import show_json
    from pyscratchdet.devices import choose_device
    from pyscratchdet.progress import Progress, is_quiet
    from pyscratchdet.runtime import load_net
    from pyscratchdet.solver.fast import Precision
    from pyscratchdet.solver.log import logging_to, say_device
    from pyscratchdet.solver.metrics import LinesAboveProgress
    from pyscratchdet.solver.timing import time_net

    device = choose_device(args.gpu)
    stages = [stage for stage in args.stage.split(",") if stage]
    with Progress(args.iterations, "passes") as progress, logging_to((), LinesAboveProgress(progress)):
        say_device(device)
        net = load_net(args.model, args.weights or None, args.phase, level=args.level, stages=stages)
        timing = time_net(Precision(is_fast=args.fast).prepare(net.to(device), device), args.iterations, progress)
    if args.json:
        layers = [dict(zip(("name", "forward", "backward"), layer, strict=True)) for layer in timing.layers]
        whole = {"forward": timing.forward, "backward": timing.backward}
        show_json({"iterations": args.iterations, "milliseconds": whole, "layers": layers})
    elif is_quiet():  # otherwise the log has it
        _print_table(timing)
    return 0


def _print_table(timing: Timing) -> None:
    from pyscratchdet.cli.console import console, plain_table

    table = plain_table(("layer", "forward ms>", "backward ms>"))
    for name, forward, backward in (*timing.layers, ("all", timing.forward, timing.backward)):
        table.add_row(name, f"{forward:.3f}", f"{backward:.3f}")
    console().print(table)
