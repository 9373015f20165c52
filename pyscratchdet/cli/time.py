"""`pyscratchdet time`: time every layer forward and backward, as `caffe time` does."""

from __future__ import annotations

import argparse

from pyscratchdet.cli.flags import add_flag, add_net_flags


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_flag(parser, "model", required=True, metavar="PROTOTXT", help="the net")
    add_flag(parser, "weights", default="", metavar="FILE", help="weights to use in place of the initial ones")
    add_flag(parser, "phase", choices=["TRAIN", "TEST"], default="TRAIN", help="the net's phase (default: %(default)s)")
    add_flag(parser, "iterations", type=int, default=50, metavar="N", help="number of passes (default: %(default)s)")
    add_net_flags(parser)
    parser.add_argument("--fast", action="store_true", help="channels_last, and TF32 on a GPU")


def run(args: argparse.Namespace) -> int:
    """Times."""
    from pyscratchdet.devices import choose_device
    from pyscratchdet.runtime import load_net
    from pyscratchdet.solver.fast import Precision
    from pyscratchdet.solver.log import logging_to, say_device
    from pyscratchdet.solver.timing import time_net

    device = choose_device(args.gpu)
    stages = [stage for stage in args.stage.split(",") if stage]
    with logging_to():
        say_device(device)
        net = load_net(args.model, args.weights or None, args.phase, level=args.level, stages=stages)
        time_net(Precision(is_fast=args.fast).prepare(net.to(device), device), args.iterations)
    return 0
