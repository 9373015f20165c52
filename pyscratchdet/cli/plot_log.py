"""`pyscratchdet plot-log`: curves of training logs or metrics files: loss, rate, mAP, gradient norm."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = "A gradient norm is in metrics files (train --metrics FILE), not in Caffe's logs."
    parser.add_argument("logs", nargs="+", metavar="LOG", help="logs of Caffe or ours, or .csv and .jsonl metrics")
    parser.add_argument(
        "-o", "--output", default="log.png", metavar="FILE", help=".png, .svg or .pdf (default: %(default)s)"
    )
    parser.add_argument("--title", default="", help="heading of the figure")
    parser.add_argument("--log-scale", action="store_true", help="logarithmic axes for losses and norms")
    parser.set_defaults(writes=("output",))


def run(args: argparse.Namespace) -> int:
    """Plots."""
    from pyscratchdet.cli.console import say
    from pyscratchdet.solver.curves import plot, read_curves

    runs = [read_curves(path) for path in args.logs]
    plot(runs, args.output, title=args.title, log_scale=args.log_scale)
    say(args.output)
    return 0
