"""`pyscratchdet test`: score a model on its own data layers, as `caffe test` does."""

from __future__ import annotations

import argparse

from pyscratchdet.cli.flags import add_flag, add_net_flags


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_flag(parser, "model", required=True, metavar="PROTOTXT", help="a net with data layers in its TEST phase")
    add_flag(parser, "weights", required=True, metavar="FILE", help=".caffemodel or .caffemodel.h5")
    add_flag(parser, "iterations", type=int, default=50, metavar="N", help="number of batches (default: %(default)s)")
    add_net_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Scores."""
    from pyscratchdet.devices import choose_device
    from pyscratchdet.runtime import load_net
    from pyscratchdet.solver.data_checks import check_test_size
    from pyscratchdet.solver.fast import Precision
    from pyscratchdet.solver.log import logging_to, say_device
    from pyscratchdet.solver.testing import score

    device = choose_device(args.gpu)
    stages = [stage for stage in args.stage.split(",") if stage]
    with logging_to():
        say_device(device)
        net = load_net(args.model, args.weights, "TEST", level=args.level, stages=stages, writes=True)
        check_test_size(net, args.iterations)
        score(Precision().prepare(net.to(device), device), args.iterations)
    return 0
