"""`pyscratchdet experiment`: the tables and figures of ScratchDet's paper, listed, run and reported."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import asdict
from typing import TYPE_CHECKING

from pyscratchdet.cli.flags import add_json_flag

if TYPE_CHECKING:
    from pyscratchdet.experiments.paper import Cell


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|run|report")

    def add(action: str, text: str) -> argparse.ArgumentParser:
        description = text[0].upper() + text[1:] + "."
        return actions.add_parser(action, help=text, description=description, formatter_class=parser.formatter_class)

    listing = add("list", "the numbers that the paper prints, and the nets and data that they belong to")
    listing.add_argument("names", nargs="*", metavar="NAME", help="experiment, such as table1 (default: all)")
    add_json_flag(listing)


def run(args: argparse.Namespace) -> int:
    """Does what the first word says."""
    actions = {"list": _list}
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from pyscratchdet.cli.console import show_json
    from pyscratchdet.experiments import paper

    names = args.names or list(paper.experiments())
    cells = {name: paper.cells(name) for name in names}
    if args.json:
        show_json([{**asdict(cell), "solver": paper.schedule(cell)} for group in cells.values() for cell in group])
        return 0
    for name, group in cells.items():
        _show_table(f"{name}: {paper.experiments()[name]}", group)
    return 0


def _show_table(title: str, cells: list[Cell]) -> None:
    from pyscratchdet.cli.console import console, plain_table

    table = plain_table((*cells[0].row, "recipe", "trained on", "tested on", "from", "printed"))
    for cell in cells:
        test = f"{cell.test}, several scales" if cell.multiscale else cell.test
        numbers = "; ".join(
            f"{', '.join(f'{number.metric} {number.value}' for number in group)} ({place})"
            for place, group in itertools.groupby(cell.printed, lambda number: number.place)
        )
        table.add_row(*cell.row.values(), cell.recipe or "none", cell.train, test, cell.start, numbers or "nothing")
    console().print(title, table, "", sep="\n")
