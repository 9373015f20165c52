"""`pyscratchdet train`: the flags of `caffe train` and a few of our own."""

from __future__ import annotations

import argparse
import sys

from pyscratchdet.cli.flags import add_flag, add_net_flags

_EPILOG = """\
Ctrl-C takes effect after the current iteration, as in Caffe; --sigint_effect changes what it does. Several GPUs: --gpu
0,1 or torchrun -m pyscratchdet train ...; each takes a batch of its own, as in Caffe. Exit status: 0 also where it
stopped on request, 2 also where the loss diverged."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = _EPILOG
    add_flag(parser, "solver", required=True, metavar="PROTOTXT", help="the solver file")
    add_flag(parser, "weights", default="", metavar="FILE,...", help="caffemodels to start from")
    parser.add_argument(
        "--reset-heads", action="store_true", help="fill layers afresh whose shapes differ from those of --weights"
    )
    add_flag(parser, "snapshot", default="", metavar="SOLVERSTATE", help="continue from this snapshot")
    parser.add_argument(
        "--resume", choices=["auto"], help="continue from the newest complete snapshot of the solver's prefix, if any"
    )
    add_net_flags(parser)
    add_flag(parser, "phase", type=str.upper, choices=["TRAIN"], help="phase of the train net; there is only this one")
    add_flag(parser, "iterations", type=int, metavar="N", help="replaces the solver's max_iter")
    for name, default in (("sigint_effect", "stop"), ("sighup_effect", "snapshot")):
        add_flag(parser, name, default=default, metavar="EFFECT", help="stop, snapshot or none (default: %(default)s)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--fast",
        action="store_true",
        help="channels_last where it pays, and TF32 and bfloat16 on a GPU (default there)",
    )
    mode.add_argument("--bfloat16", action="store_true", help="--fast with bfloat16 on a CPU too, if it has it")
    mode.add_argument("--exact", action="store_true", help="reference arithmetic (default on the CPU)")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode and augment pictures, 0 for none of their own (default: 1)",
    )
    parser.add_argument(
        "--sync-batchnorm", action="store_true", help="BatchNorm's statistics over the batches of all processes"
    )
    parser.add_argument("--keep", type=int, metavar="K", help="keep only the last K snapshots, 0: all (default)")
    parser.add_argument(
        "--keep-best",
        action="store_true",
        help="keep the weights of the best test as <snapshot_prefix>_best.caffemodel",
    )
    parser.add_argument(
        "--patience",
        type=int,
        metavar="K",
        help="stop after K tests without a better one, and keep the best; 0: never",
    )
    parser.add_argument("--log", default="", metavar="FILE", help="append the log to FILE too")
    add_flag(parser, "log_dir", default="", metavar="DIR", help="write a separate log into DIR, as glog does")
    parser.add_argument("--metrics", default="", metavar="FILE", help="figures as .csv or .jsonl")
    parser.add_argument("--tensorboard", default="", metavar="DIR", help="figures for TensorBoard")
    parser.set_defaults(
        arguments=sys.argv[2:], interruption="writes a snapshot and stops; --resume auto goes on from there"
    )


def run(args: argparse.Namespace) -> int:
    """Trains."""
    from pyscratchdet.cli.detector_options import at_least
    from pyscratchdet.devices import parse_gpus
    from pyscratchdet.ranks import end_launched, is_launched
    from pyscratchdet.solver.launch import TrainSettings, spawn, train

    numbers = {
        name: at_least(least, number, f"--{name}")
        for name, least in (("iterations", 1), ("keep", 0), ("patience", 0), ("workers", 0))
        if (number := getattr(args, name)) is not None
    }
    if not is_launched() and len(gpus := parse_gpus(args.gpu)) > 1:
        return spawn(gpus, args.arguments)
    settings = TrainSettings(
        solver=args.solver,
        weights=args.weights,
        snapshot=args.snapshot,
        resume=args.resume == "auto",
        gpu=args.gpu,
        level=args.level,
        stages=args.stage.split(","),
        fast=True if args.fast else False if args.exact else None,
        bfloat16=args.bfloat16,
        sync_batchnorm=args.sync_batchnorm,
        reset_heads=args.reset_heads,
        keep_best=args.keep_best,
        sigint_effect=args.sigint_effect,
        sighup_effect=args.sighup_effect,
        log=args.log,
        log_dir=args.log_dir,
        metrics=args.metrics,
        tensorboard=args.tensorboard,
        **numbers,
    )
    train(settings, shows_progress=sys.stderr.isatty())
    end_launched()
    return 0
