"""`pyscratchdet generate`: published nets as prototxts, with your own data if you like."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipe; --list shows them")
    parser.add_argument("--list", action="store_true", help="show names, sizes, costs and results")
    parser.add_argument("--all", action="store_true", help="write every recipe")
    parser.add_argument("-o", "--output", default="models", metavar="DIR", help="writes DIR/NAME/ (default: models)")
    parser.add_argument("--gpus", metavar="N,...", help='device numbers such as 0,1; "" for the CPU')
    parser.add_argument("--stepvalue", metavar="N,...", help="iterations at which the learning rate falls")
    for flag, kind, text in _OPTIONS:
        parser.add_argument(f"--{flag}", type=kind, help=text, metavar="PATH" if kind is str else None)


def run(args: argparse.Namespace) -> int:
    """Writes the recipes or lists them."""
    from pyscratchdet import prototxt
    from pyscratchdet.errors import UsageError

    if args.list:
        _print_list()
        return 0
    names = list(prototxt.entries()) if args.all else args.names
    if not names:
        raise UsageError(
            "no recipe was chosen", code="generate.name", hint="give names, or --all; --list shows what there is"
        )
    settings = {flag.replace("-", "_"): getattr(args, flag.replace("-", "_")) for flag, _, _ in _OPTIONS}
    root = args.output.rstrip("/") or "/"
    gpus = _numbers("gpus", args.gpus)
    settings["stepvalue"] = _numbers("stepvalue", args.stepvalue)
    recipes = [prototxt.build(name, prototxt.Options(folder=f"{root}/{name}", gpus=gpus, **settings)) for name in names]
    for recipe in recipes:
        paths = prototxt.write(recipe, recipe.folder)
        print(f"{recipe.name}: {', '.join(path.name for path in paths)} in {Path(recipe.folder)}")
    return 0


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


def _print_list() -> None:
    from pyscratchdet import prototxt
    from pyscratchdet.cli.console import console, plain_table

    costs = prototxt.costs()
    table = plain_table(("name", "size>", "M params>", "GFLOPs>", "belongs to", "note"))
    for entry in prototxt.entries().values():
        parameters, macs = costs[entry.name]
        cost = (f"{parameters / 1e6:.1f}", f"{2 * macs / 1e9:.1f}")
        table.add_row(entry.name, str(entry.size), *cost, entry.result, entry.note)
    console().print(table)
    print("\nGFLOPs count two for each multiply-accumulate of the deploy net at batch size 1.")
