"""`pyscratchdet compute-image-mean`: average the pictures of a database (tools/compute_image_mean.cpp)."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the original's arguments."""
    from pyscratchdet.cli.flags import add_flags

    parser.usage = "pyscratchdet compute-image-mean [flags] INPUT_DB [OUTPUT_FILE]"
    parser.add_argument("database", metavar="INPUT_DB", help="database of Datum or AnnotatedDatum records of one size")
    parser.add_argument("output", metavar="OUTPUT_FILE", nargs="?", help="mean file (binaryproto) to write")
    add_flags(parser, {"backend": ("lmdb", "lmdb or leveldb; not needed, since the folder shows which it is")})


def run(args: argparse.Namespace) -> int:
    """Prints the mean of each channel, and writes the mean file where asked."""
    from pyscratchdet.data.database import Database
    from pyscratchdet.data.mean import compute_mean
    from pyscratchdet.errors import UsageError
    from pyscratchdet.proto.weights import write_blob

    if args.backend not in ("lmdb", "leveldb"):
        raise UsageError("unknown backend", code="usage.backend", expected="lmdb or leveldb", found=args.backend)
    mean = compute_mean(Database(args.database))
    if args.output:
        write_blob(args.output, mean[None])
    for channel, value in enumerate(mean.mean((1, 2))):
        print(f"mean_value channel [{channel}]: {value:g}")
    return 0
