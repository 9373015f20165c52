"""`pyscratchdet demo-data`: a small VOC-style data set of shapes."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("output", metavar="OUT", help="folder to make, with VOCdevkit and labelmap.prototxt in it")
    parser.set_defaults(interruption="stops; nothing is written")
    parser.add_argument(
        "--images", type=int, default=400, metavar="N", help="pictures to train on (default: %(default)s)"
    )
    parser.add_argument("--test", type=int, default=100, metavar="N", help="held-out pictures (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=192, metavar="N", help="approximate mean side in pixels (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same pictures (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="many objects a picture, most of them small")


def run(args: argparse.Namespace) -> int:
    """Makes the data set."""
    from pyscratchdet.cli.console import say
    from pyscratchdet.data.shapes import CLASSES, make_shapes
    from pyscratchdet.errors import counted
    from pyscratchdet.progress import Progress

    with Progress(args.images + args.test) as progress:
        folder = make_shapes(args.output, args.images, args.test, args.size, args.seed, progress, args.small)
    say(
        f"{folder}: {counted(args.images, 'training picture')} and {counted(args.test, 'test picture')}, "
        f"{len(CLASSES)} classes: {', '.join(CLASSES)}"
    )
    say(f"{folder.parent.parent / 'labelmap.prototxt'}: label map, background 0")
    return 0
