"""`pyscratchdet generate`: published nets as prototxts, with your own data if you like."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyscratchdet.cli.console import say, warn
from pyscratchdet.cli.flags import add_json_flag

if TYPE_CHECKING:
    from pyscratchdet.prototxt import Options, Recipe

# Flags that set a field of prototxt.Options: flag, type, what it does.
_OPTIONS: tuple[tuple[str, Any, str], ...] = (
    ("num-classes", int, "number of classes, background included"),
    ("train-source", str, "training LMDB"),
    ("test-source", str, "test LMDB"),
    ("label-map-file", str, "label map prototxt"),
    ("name-size-file", str, "list of the test pictures' names and sizes (default with --test-source: none)"),
    ("num-test-image", int, "pictures in the test set"),
    ("output-directory", str, 'folder for detections; "" for none, the default with --test-source'),
    ("batch-size", int, "pictures per iteration, over all GPUs"),
    ("accum-batch-size", int, "pictures per update, over several iterations (default: --batch-size)"),
    ("base-lr", float, "learning rate at the start"),
    ("max-iter", int, "iterations; steps and snapshots scale with it"),
    ("snapshot", int, "iterations between snapshots"),
    ("test-interval", int, "iterations between tests"),
    ("weights", str, 'caffemodel to start from; "" for scratch'),
    ("size", int, "side of the input in pixels"),
    ("width", float, "factor on the number of channels (Root-ResNet)"),
)
_EPILOG = """\
`own` is no published net: it is chosen for your own pictures, by the figures in the folder of --data and by --minutes.
Files that you changed by hand since they were written are left as they are, and named; --redo writes them anew."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipe; --list shows them")
    parser.add_argument("--list", action="store_true", help="show names, sizes, costs and results")
    add_json_flag(parser, "with --list")
    parser.add_argument("--all", action="store_true", help="write every recipe")
    parser.add_argument("-o", "--output", default="models", metavar="DIR", help="writes DIR/NAME/ (default: models)")
    parser.add_argument("--data", metavar="DIR", help="what `lmdb folder` made: sets sources, classes and counts")
    parser.add_argument(
        "--minutes", type=float, metavar="X", help="own: budget of the training, in minutes of one CPU core or GPU"
    )
    parser.add_argument("--fit-priors", action="store_true", help="own: sizes of priors from the boxes of the data")
    parser.add_argument("--redo", action="store_true", help="write files anew that were changed by hand")
    parser.add_argument("--gpus", metavar="N,...", help='device numbers such as 0,1; "" for the CPU')
    parser.add_argument("--stepvalue", metavar="N,...", help="iterations at which the learning rate falls")
    for flag, kind, text in _OPTIONS:
        metavar = {"output-directory": "DIR", "label-map-file": "PROTOTXT"}.get(flag, "FILE" if kind is str else None)
        parser.add_argument(f"--{flag}", type=kind, help=text, metavar=metavar)


def run(args: argparse.Namespace) -> int:
    """Writes the recipes or lists them."""
    from pyscratchdet import prototxt
    from pyscratchdet.errors import UsageError

    if args.list:
        _print_list(args.json)
        return 0
    if args.json:
        raise UsageError("--json is for the list of recipes", code="usage.option", expected="--list")
    names = list(prototxt.entries()) if args.all else args.names
    if not names:
        raise UsageError(
            "no recipe was chosen", code="generate.name", hint="give names, or --all; --list shows what there is"
        )
    root = args.output.rstrip("/") or "/"
    options = _options(args)
    for name in names:
        recipe = _recipe(name, replace(options, folder=f"{root}/{name}"), args)
        paths, kept = prototxt.write_unless_edited(recipe, recipe.folder, args.redo)
        say(f"{recipe.name}: {', '.join(path.name for path in paths) or 'nothing written'} in {Path(recipe.folder)}")
        _copy_start(recipe)
        for path in kept:
            warn(f"{path} was changed by hand and is left as it is; --redo writes it anew")
    return 0


def _recipe(name: str, options: Options, args: argparse.Namespace) -> Recipe:
    from pyscratchdet import prototxt
    from pyscratchdet.data.figures import DataFigures
    from pyscratchdet.errors import UsageError
    from pyscratchdet.prototxt import own

    if args.data:
        options = options.of_folder(args.data)
    if name != own.NAME:
        if args.minutes is not None or args.fit_priors:
            flag = "--fit-priors" if args.fit_priors else "--minutes"
            raise UsageError(f"{name} does not read {flag}", code="generate.own", hint=f"{own.NAME} does")
        return prototxt.build(name, options)
    if not args.data:
        raise UsageError(
            "own needs figures of the pictures", code="generate.data", hint="pass --data with what `lmdb folder` made"
        )
    minutes = own.MINUTES if args.minutes is None else args.minutes
    recipe, reasons = own.build(DataFigures.read(args.data), options, minutes, args.fit_priors)
    say("\n".join(reasons))
    return recipe


def _copy_start(recipe: Recipe) -> None:
    """Puts the weights that the recipe starts from beside it, if they are the project's own."""
    from pyscratchdet.files import read_bytes, write_bytes
    from pyscratchdet.prototxt import own

    target = Path(recipe.folder) / own.START.name
    if str(target) in recipe.solver.weights:
        write_bytes(target, read_bytes(own.START))


def _options(args: argparse.Namespace) -> Options:
    from pyscratchdet.prototxt import Options

    settings = {flag.replace("-", "_"): getattr(args, flag.replace("-", "_")) for flag, _, _ in _OPTIONS}
    return Options(gpus=_numbers("gpus", args.gpus), stepvalue=_numbers("stepvalue", args.stepvalue), **settings)


def _numbers(flag: str, text: str | None) -> tuple[int, ...] | None:
    from pyscratchdet.errors import UsageError

    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(
            f"--{flag} takes numbers separated by commas", code=f"generate.{flag}", expected="0,1", found=text
        ) from error


def _print_list(as_json: bool) -> None:
    from pyscratchdet import prototxt
    from pyscratchdet.cli.console import console, plain_table, show_json

    costs = prototxt.costs()
    if as_json:
        rows = [
            {"name": entry.name, "size": entry.size, "parameters": costs[entry.name][0], "macs": costs[entry.name][1],
             "result": entry.result, "note": entry.note}
            for entry in prototxt.entries().values()
        ]  # fmt: skip
        show_json(rows)
        return
    table = plain_table(("name", "size>", "M params>", "GFLOPs>", "belongs to", "note"))
    for entry in prototxt.entries().values():
        parameters, macs = costs[entry.name]
        cost = (f"{parameters / 1e6:.1f}", f"{2 * macs / 1e9:.1f}")
        table.add_row(entry.name, str(entry.size), *cost, entry.result, entry.note)
    console().print(table)
    print("\nGFLOPs count two for each multiply-accumulate of the deploy net at batch size 1.")
