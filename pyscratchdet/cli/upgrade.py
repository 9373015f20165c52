"""`pyscratchdet upgrade-net` and `upgrade-solver`: files brought to the current format."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyscratchdet.cli.flags import add_schema_flags

if TYPE_CHECKING:
    from pyscratchdet.proto.text import Locator


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("input", metavar="IN", help="prototxt, or caffemodel for upgrade-net")
    parser.add_argument("output", metavar="OUT", help="file to write")
    add_schema_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Upgrades; 1 where something could not be carried over, as the original tools exit."""
    from pyscratchdet.cli.console import say, show
    from pyscratchdet.files import check_not_kept, files_kept
    from pyscratchdet.proto.upgrade import net_needs_upgrade, upgrade_net, upgrade_solver

    problems: list[str] = []
    if args.command == "upgrade-solver":
        old, write, locator = _read(args, "SolverParameter")
        needed, new = old.HasField("solver_type"), upgrade_solver(old, locator)
    else:
        old, write, locator = _read(args, "NetParameter")
        needed, new = net_needs_upgrade(old), upgrade_net(old, problems, locator)
    for problem in problems:
        show(f"pyscratchdet: {args.input}: {problem}", stderr=True)
    with files_kept([args.input] if problems else []):  # in place, as with the original, unless that loses something
        check_not_kept(args.output)
        write(args.output, new)
    say(f"{args.output}: {'upgraded' if needed else 'was already in the current format'}")
    return 1 if problems else 0


def _read(args: argparse.Namespace, name: str) -> tuple[Any, Callable[[str, Any], None], Locator | None]:
    """Returns a message, how to write it in the file's own form (text or binary), and where its fields stand."""
    from pyscratchdet.files import read_bytes
    from pyscratchdet.proto import caffe_pb2, text, weights

    message_class = getattr(caffe_pb2, name)
    data = read_bytes(args.input)
    if any(byte < 9 or 13 < byte < 32 for byte in data[:4096]):
        return weights.read_message(args.input, message_class), weights.write_message, None
    source = text.decode_text(data, args.input)
    message = text.parse(source, message_class, path=args.input)
    return message, text.write, text.Locator(source, args.input)
