"""The command line: one module per command, imported only when its command runs, so that --help is instant."""

from __future__ import annotations

import atexit
import gc
import importlib
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from types import ModuleType

from pyscratchdet.cli.console import WarningFormatter, show
from pyscratchdet.cli.flags import EXIT_STATUSES, HelpFormatter, Parser, inputs_kept, python_layers, schema_flags
from pyscratchdet.errors import PyScratchDetError, nearest
from pyscratchdet.memory import keep_freed_memory
from pyscratchdet.progress import Manners, mannered

# command: (module beside this file, what it does). A module defines configure(parser) and run(args) -> exit status,
# and imports heavy packages inside run.
COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("generate", "write the prototxts of published nets"),
    "train": ("train", "train as `caffe train` does: solver prototxt in, caffemodel and solverstate out"),
    "test": ("test", "score a model on its own data layers, as `caffe test` does"),
    "time": ("time", "time every layer forward and backward, as `caffe time` does"),
    "evaluate": ("evaluate", "mean average precision of a model: voc, coco or Caffe's own"),
    "score": ("score", "evaluate one or more snapshots"),
    "detect": ("detect", "find and draw objects in pictures, folders or video"),
    "convert": ("convert", "convert weights and nets: caffemodel, HDF5, safetensors, pt, onnx"),
    "verify": ("verify", "compare two engines blob by blob and write a report"),
    "lmdb": ("lmdb", "make an AnnotatedDatum LMDB, as `convert_annoset` does"),
    "create-label-map": ("create_label_map", "write a label map prototxt"),
    "get-image-size": ("get_image_size", "list the sizes of a data set's pictures"),
    "compute-image-mean": ("compute_image_mean", "average the pictures of an LMDB into a mean file"),
    "extract-features": ("extract_features", "write blobs of a net to LMDB, as `extract_features` does"),
    "upgrade-net": ("upgrade", "bring a net file to the current format"),
    "upgrade-solver": ("upgrade", "bring a solver file to the current format"),
    "draw-net": ("draw_net", "draw a net as a graph"),
    "plot-log": ("plot_log", "plot a training log"),
    "summary": ("summary", "layers, shapes, parameters and multiply-accumulates of a net"),
    "experiment": ("experiment", "the tables and figures of ScratchDet's paper: list, run, report"),
    "view": ("view", "a net as one page: graph, shapes, costs, weights, feature maps, priors, drift"),
    "doctor": ("doctor", "what is installed here, whether it works, and what an extra would add"),
    "completion": ("completion", "write a script that completes commands, flags and files in a shell"),
    "demo-data": ("demo_data", "make a small VOC-style data set of shapes"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 when done, 1 when a comparison or check failed, 2 when the input was bad (one message on stderr).
    """
    if arguments is None:  # not called by another program: the whole process is this command
        keep_freed_memory()
        atexit.register(gc.freeze)  # or Python ends by collecting garbage among torch's objects, for most of a second
        arguments = sys.argv[1:]
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(WarningFormatter())
    try:
        return _dispatch(arguments)
    except PyScratchDetError as error:
        print(f"pyscratchdet: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as error:
        print(": ".join(filter(None, ("pyscratchdet", "interrupted", str(error)))), file=sys.stderr)
        return 130


def _dispatch(arguments: Sequence[str]) -> int:
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        print(_help())
        return 0
    if command == "--version":
        from pyscratchdet.cli.doctor import version_lines

        print("\n".join(version_lines()))
        return 0
    if command not in COMMANDS:
        from pyscratchdet.cli import caffe_names

        hint = caffe_names.hint(arguments) or nearest(command, COMMANDS) or "pyscratchdet --help lists the commands"
        show(f'pyscratchdet: unknown command "{command}"; {hint}', stderr=True)
        return 2
    module, parser = command_parser(command)
    args = parser.parse_args(arguments[1:])
    manners = Manners(getattr(args, "quiet", False), getattr(args, "interruption", ""))
    with mannered(manners), inputs_kept(args), schema_flags(args), python_layers(args):
        try:
            status: int = module.run(args)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(manners.interruption) from None
    return status


def command_parser(command: str, create: Callable[..., Parser] = Parser) -> tuple[ModuleType, Parser]:
    """Returns a command's module and the parser of what follows the command's name, which `create` makes."""
    name, summary = COMMANDS[command]
    module = importlib.import_module(f"{__name__}.{name}")
    description = summary[0].upper() + summary[1:] + "."
    parser = create(prog=f"pyscratchdet {command}", description=description, formatter_class=HelpFormatter)
    parser.set_defaults(command=command)
    module.configure(parser)
    return module, parser


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pyscratchdet COMMAND [options]",
            "",
            "Caffe's SSD, RefineDet and ScratchDet without Caffe.",
            "",
            *rows,
            "",
            "pyscratchdet COMMAND --help describes one command; --version prints the versions.",
            "Flags of Caffe's tools take one dash or two, and a space or an equals sign",
            "before the value.",
            textwrap.fill(EXIT_STATUSES, 78),
        ]
    )
