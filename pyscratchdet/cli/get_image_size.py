"""`pyscratchdet get-image-size`: names and sizes of pictures, for name_size_file (tools/get_image_size.cpp)."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the original's arguments."""
    from pyscratchdet.cli.flags import add_flags

    parser.usage = "pyscratchdet get-image-size [flags] ROOTFOLDER/ LISTFILE OUTFILE"
    parser.add_argument("root", metavar="ROOTFOLDER/", help="folder of the pictures")
    parser.add_argument("list_file", metavar="LISTFILE", help="a picture and its annotation file or label per line")
    parser.add_argument("output", metavar="OUTFILE", help="lines of: name height width")
    parser.set_defaults(writes=("output",), interruption="stops; nothing is written")
    add_flags(parser, {"name_id_file": ("", "lines of: name id; the ids are then written in place of the names")})


def run(args: argparse.Namespace) -> int:
    """Writes the sizes."""
    import os

    from pyscratchdet.cli.console import say
    from pyscratchdet.data.annoset import size_line
    from pyscratchdet.data.images import decode_image
    from pyscratchdet.data.lists import list_position, read_list
    from pyscratchdet.errors import DataError, FileError, counted
    from pyscratchdet.files import read_bytes, write_text
    from pyscratchdet.progress import Progress

    entries = read_list(args.list_file)
    ids = dict(read_list(args.name_id_file)) if args.name_id_file else None
    lines = []
    with Progress(len(entries)) as progress:
        for done, (picture, _) in enumerate(entries, start=1):
            name = os.path.splitext(os.path.basename(picture))[0]
            if ids is not None and name not in ids:
                raise DataError(f"{args.name_id_file} has no id for {name}", code="data.list",
                                position=list_position(args.list_file, picture))  # fmt: skip
            try:
                image = decode_image(read_bytes(os.path.join(args.root, picture)), name=picture)
            except (DataError, FileError) as error:
                error.position = list_position(args.list_file, picture)
                raise
            height, width = image.shape[:2]
            lines.append(size_line(picture, height, width, None if ids is None else ids[name]))
            progress(done)
    write_text(args.output, "".join(lines))
    say(f"{args.output}: {counted(len(lines), 'size')}")
    return 0
