"""`pyscratchdet compute-image-mean`: average the pictures of a database (tools/compute_image_mean.cpp)."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the original's arguments."""
    from pyscratchdet.cli.flags import add_flags, add_json_flag

    parser.usage = "pyscratchdet compute-image-mean [flags] INPUT_DB [OUTPUT_FILE]"
    parser.add_argument("database", metavar="INPUT_DB", help="database of Datum or AnnotatedDatum records of one size")
    parser.add_argument("output", metavar="OUTPUT_FILE", nargs="?", help="mean file (binaryproto) to write")
    add_flags(parser, {"backend": ("lmdb", "lmdb or leveldb; not needed, since the folder shows which it is")})
    add_json_flag(parser)
    parser.set_defaults(writes=("output",), interruption="stops; nothing is written")


def run(args: argparse.Namespace) -> int:
    """Prints the mean of each channel, and writes the mean file where asked."""
    from pyscratchdet.cli.console import show_json
    from pyscratchdet.data.database import Database
    from pyscratchdet.data.mean import compute_mean
    from pyscratchdet.errors import UsageError
    from pyscratchdet.progress import Progress
    from pyscratchdet.proto.weights import write_blob

    if args.backend not in ("lmdb", "leveldb"):
        raise UsageError("unknown backend", code="usage.backend", expected="lmdb or leveldb", found=args.backend)
    database = Database(args.database)
    with Progress(len(database), "records") as progress:
        mean = compute_mean(database, progress)
    if args.output:
        write_blob(args.output, mean[None])
    values = mean.mean((1, 2)).tolist()
    if args.json:
        show_json({"mean_value": values})
        return 0
    for channel, value in enumerate(values):
        print(f"mean_value channel [{channel}]: {value:g}")
    return 0
