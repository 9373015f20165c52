"""`pyscratchdet view`: a net as one page that opens anywhere."""

from __future__ import annotations

import argparse

from pyscratchdet.cli.detector_options import finite, preparation_of
from pyscratchdet.cli.flags import add_allow_python, add_phase_flag, add_schema_flags


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", metavar="NET", help="net prototxt")
    add_phase_flag(parser, "TEST")
    parser.add_argument("--weights", metavar="FILE", help="caffemodel: histograms, statistics, dead channels")
    parser.add_argument("--picture", metavar="FILE", help="run the net on it: detections, and the maps of every blob")
    parser.add_argument("--mean", metavar="B,G,R", help="subtracted from the picture (default: SSD's 104,117,123)")
    parser.add_argument("--scale", type=finite, metavar="X", help="factor after the mean (default: 1)")
    parser.add_argument("--rgb", action="store_true", help="the net takes red first")
    parser.add_argument(
        "--verify",
        metavar="JSON",
        help="report of `verify --json`: layers are coloured by drift, the first that parts red",
    )
    parser.add_argument(
        "--labels",
        metavar="SET",
        help="a database, or pictures with annotations, whose boxes the priors are to cover",
    )
    parser.add_argument("--against", metavar="NET2", help="another net, shown beside it with what differs")
    parser.add_argument("-o", "--output", metavar="FILE", help="the page (default: the net's name with .html, here)")
    parser.set_defaults(writes=("output",), interruption="stops; nothing is written")
    add_schema_flags(parser)
    add_allow_python(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the page."""
    from pathlib import Path

    from pyscratchdet.cli.console import say
    from pyscratchdet.errors import UsageError
    from pyscratchdet.files import write_text
    from pyscratchdet.view.page import ViewChoices, view_page

    choices = ViewChoices(args.phase, args.weights, args.picture, None, args.verify, args.labels, args.against)
    if args.picture:
        choices.preparation = preparation_of(args)
    elif args.mean is not None or args.scale is not None or args.rgb:
        raise UsageError("--mean, --scale and --rgb are for a picture", code="usage.option", expected="--picture FILE")
    path = args.output or f"{Path(args.model).stem}.html"
    write_text(path, view_page(args.model, choices))
    say(path)
    return 0
