"""`pyscratchdet upgrade-net` and `upgrade-solver`: files brought to the current format."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("input", metavar="IN", help="prototxt, or caffemodel for upgrade-net")
    parser.add_argument("output", metavar="OUT", help="file to write")


def run(args: argparse.Namespace) -> int:
    """Upgrades; 1 where something could not be carried over, as the original tools exit."""
    import sys

    from pyscratchdet.proto.upgrade import net_needs_upgrade, upgrade_net, upgrade_solver

    problems: list[str] = []
    if args.command == "upgrade-solver":
        old, write = _read(args.input, "SolverParameter")
        needed, new = old.HasField("solver_type"), upgrade_solver(old)
    else:
        old, write = _read(args.input, "NetParameter")
        needed, new = net_needs_upgrade(old), upgrade_net(old, problems)
    for problem in problems:
        print(f"pyscratchdet: {args.input}: {problem}", file=sys.stderr)
    write(args.output, new)
    print(f"{args.output}: {'upgraded' if needed else 'was in the current format already'}")
    return 1 if problems else 0


def _read(path, name):
    """Returns a message and how to write it, in the form, text or binary, that the file has."""
    from pyscratchdet.files import read_bytes
    from pyscratchdet.proto import caffe_pb2, text, weights

    message_class = getattr(caffe_pb2, name)
    if any(byte < 9 or 13 < byte < 32 for byte in read_bytes(path)[:4096]):
        return weights.read_message(path, message_class), weights.write_message
    return text.read(path, message_class), text.write
