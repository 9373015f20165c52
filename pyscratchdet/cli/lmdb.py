"""`pyscratchdet lmdb`: convert_annoset's flags, syntax and records; plus whole VOC and COCO sets, and a look inside."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments; flags take gflags' forms: --flag=value, --flag value, -flag, --noflag."""
    from pyscratchdet.cli.gflags import add_flags

    parser.usage = "pyscratchdet lmdb [flags] ROOTFOLDER/ LISTFILE DB"
    parser.add_argument("root", metavar="ROOTFOLDER/", help="put before every path of the list, so end it with a slash")
    parser.add_argument("list_file", metavar="LISTFILE", help="a picture and its annotation file or label per line")
    parser.add_argument("database", metavar="DB", help="folder to make")
    add_flags(parser, _FLAGS)


def run(args: argparse.Namespace) -> int:
    """Writes the database and says what was skipped."""
    from pyscratchdet.data.annoset import AnnosetOptions, read_list, write_annoset
    from pyscratchdet.errors import UsageError

    if args.backend != "lmdb":
        raise UsageError("only LMDB is written", code="usage.backend", expected="lmdb", found=args.backend)
    options = AnnosetOptions(**{name: getattr(args, name) for name in _FLAGS if name != "backend"})
    summary = write_annoset(args.root, read_list(args.list_file), args.database, options)
    print("\n".join(summary.lines()))
    return 0


_FLAGS = {
    "gray": (False, "store gray pictures"),
    "shuffle": (False, "shuffle the list first"),
    "backend": ("lmdb", "only lmdb is written"),
    "anno_type": ("classification", "classification or detection"),
    "label_type": ("xml", "annotation files: xml (VOC), json (COCO, one file per picture) or txt"),
    "label_map_file": ("", "label map prototxt, or voc or coco for the maps that come along"),
    "check_label": (False, "refuse a label map with duplicate names"),
    "min_dim": (0, "enlarge pictures whose smaller side is below this"),
    "max_dim": (0, "shrink pictures whose larger side is above this"),
    "resize_width": (0, "resize to this width"),
    "resize_height": (0, "resize to this height"),
    "check_size": (False, "refuse pictures of different sizes"),
    "encoded": (False, "store encoded pictures"),
    "encode_type": ("", "encoding (jpg, png...); pictures of that kind are stored as they are"),
    "seed": (None, "seed of --shuffle; default: from the operating system"),
    "skip_bad": (False, "count and leave out broken entries and objects instead of stopping"),
    "redo": (False, "replace an existing database"),
}
