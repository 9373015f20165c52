"""`pyscratchdet create-label-map`: from a list of class names to a label map prototxt (tools/create_label_map.cpp)."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the original's arguments."""
    from pyscratchdet.cli.flags import add_flags

    parser.usage = "pyscratchdet create-label-map [flags] MAPFILE OUTFILE"
    parser.add_argument("map_file", metavar="MAPFILE", help="lines of: name [label [display name]]; or voc, or coco")
    parser.add_argument("output", metavar="OUTFILE", help="label map to write")
    add_flags(parser, {
        "include_background": (False, "put none_of_the_above first, as class 0"),
        "delimiter": (" ", "what separates the fields: any of these characters"),
    })  # fmt: skip
    parser.set_defaults(writes=("output",))


def run(args: argparse.Namespace) -> int:
    """Writes the label map."""
    from pyscratchdet.cli.console import say, warn
    from pyscratchdet.data.label_map import BACKGROUND_NAMES, known_label_map, label_map_from_lines, write_label_map
    from pyscratchdet.errors import counted
    from pyscratchdet.files import read_bytes
    from pyscratchdet.proto.text import decode_text

    label_map = known_label_map(args.map_file)
    if label_map is None:
        lines = decode_text(read_bytes(args.map_file), args.map_file).splitlines()
        label_map = label_map_from_lines(lines, args.include_background, args.delimiter)
    if first := [item.name for item in label_map.item if item.label == 0 and item.name not in BACKGROUND_NAMES]:
        warn(f'"{first[0]}" has label 0, which detection nets take for the background; --include_background adds that')
    write_label_map(args.output, label_map)
    say(f"{args.output}: {counted(len(label_map.item), 'item')}")
    return 0
