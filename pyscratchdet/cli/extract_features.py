"""`pyscratchdet extract-features`: blobs of a net on its own data, as Datum databases (extract_features.cpp)."""

from __future__ import annotations

import argparse

from pyscratchdet.cli.flags import add_allow_python, add_schema_flags


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments, those of the original."""
    parser.add_argument("weights", metavar="WEIGHTS", help=".caffemodel or .caffemodel.h5")
    parser.add_argument("model", metavar="MODEL", help="prototxt of a net with a data layer")
    parser.add_argument("blobs", metavar="BLOB[,BLOB...]", help="blobs to write")
    parser.add_argument("databases", metavar="DB[,DB...]", help="one new database per blob")
    parser.add_argument("batches", metavar="BATCHES", type=int, help="how many batches")
    parser.add_argument("db_type", metavar="DB_TYPE", choices=["lmdb"], help="lmdb")
    parser.add_argument(
        "mode", metavar="CPU|GPU", nargs="?", default="CPU", choices=["CPU", "GPU"], help="where to run (default: CPU)"
    )
    parser.add_argument("device", metavar="DEVICE_ID", nargs="?", default="0", help="number of the GPU (default: 0)")
    parser.set_defaults(interruption="stops; nothing is written")
    add_schema_flags(parser)
    add_allow_python(parser)


def run(args: argparse.Namespace) -> int:
    """Extracts features."""
    from pyscratchdet.cli.console import say
    from pyscratchdet.cli.detector_options import at_least
    from pyscratchdet.devices import choose_device
    from pyscratchdet.errors import UsageError, counted
    from pyscratchdet.progress import Progress
    from pyscratchdet.runtime.features import extract_features

    blobs, databases = args.blobs.split(","), args.databases.split(",")
    if len(blobs) != len(databases):
        raise UsageError(
            "blobs and databases differ in number", code="usage.option", expected=len(blobs), found=len(databases)
        )
    batches = at_least(1, args.batches, "BATCHES")
    device = choose_device(args.device.removeprefix("DEVICE_ID=") if args.mode == "GPU" else "")
    targets = list(zip(blobs, databases, strict=True))
    with Progress(batches, "batches") as progress:
        numbers = extract_features(args.model, args.weights, targets, batches, device, progress)
    for (blob, path), number in zip(targets, numbers, strict=True):
        say(f"{path}: {blob} of {counted(number, 'picture')}")
    return 0
