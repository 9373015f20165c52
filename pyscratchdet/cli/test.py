"""`pyscratchdet test`: score a model on its own data layers, as `caffe test` does."""

from __future__ import annotations

import argparse

from pyscratchdet.cli.flags import add_flag, add_json_flag, add_net_flags


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_flag(parser, "model", required=True, metavar="PROTOTXT", help="a net with data layers in its TEST phase")
    add_flag(parser, "weights", required=True, metavar="FILE", help=".caffemodel or .caffemodel.h5")
    add_flag(parser, "iterations", type=int, default=50, metavar="N", help="number of batches (default: %(default)s)")
    add_json_flag(parser)
    parser.set_defaults(interruption="stops without a result")
    add_net_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Scores."""
    from pyscratchdet.cli.console import show, show_json
    from pyscratchdet.devices import choose_device
    from pyscratchdet.progress import Progress, is_quiet
    from pyscratchdet.runtime import load_net
    from pyscratchdet.solver.data_checks import check_test_size
    from pyscratchdet.solver.fast import Precision
    from pyscratchdet.solver.log import logging_to, say_device
    from pyscratchdet.solver.metrics import LinesAboveProgress
    from pyscratchdet.solver.testing import output_text, score

    device = choose_device(args.gpu)
    stages = [stage for stage in args.stage.split(",") if stage]
    with Progress(args.iterations, "batches") as progress, logging_to((), LinesAboveProgress(progress)):
        say_device(device)
        net = load_net(args.model, args.weights, "TEST", level=args.level, stages=stages, writes=True)
        check_test_size(net, args.iterations)
        means = score(Precision().prepare(net.to(device), device), args.iterations, progress)
    if args.json:
        show_json({"iterations": args.iterations, "outputs": {name: mean.tolist() for name, mean in means.items()}})
    elif is_quiet():  # otherwise the log has them
        for name, mean in means.items():
            for value in mean.ravel():
                show(output_text(net, name, float(value)))
    return 0
