"""`pyscratchdet draw-net`: a net as SVG, HTML, dot, or what Graphviz makes of it."""

from __future__ import annotations

import argparse

from pyscratchdet.cli.flags import add_allow_python, add_schema_flags


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments, named as draw_net.py's."""
    parser.add_argument("input_net_proto_file", help="net prototxt")
    parser.add_argument("output_image_file", help="picture; .png and .pdf need Graphviz, .svg and .html do not")
    parser.add_argument("--rankdir", default="TB", choices=("TB", "LR", "BT", "RL"), help="direction (default: TB)")
    parser.add_argument(
        "--phase", type=str.upper, default="TEST", choices=("TRAIN", "TEST", "ALL"), help="layers of one phase, or all"
    )
    parser.set_defaults(writes=("output_image_file",))
    add_schema_flags(parser)
    add_allow_python(parser)


def run(args: argparse.Namespace) -> int:
    """Draws the net."""
    from pyscratchdet.caffe.draw import draw_net_to_file
    from pyscratchdet.cli.console import say
    from pyscratchdet.layers.plan import read_net
    from pyscratchdet.proto import caffe_pb2

    net = read_net(args.input_net_proto_file).param
    phase = None if args.phase == "ALL" else caffe_pb2.Phase.Value(args.phase)
    draw_net_to_file(net, args.output_image_file, args.rankdir, phase)
    say(args.output_image_file)
    return 0
