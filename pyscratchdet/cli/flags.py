"""Options that several commands share, and flags in the style of Caffe's tools (gflags).

-flag value, --flag value, -flag=value, --flag=value; switches also --noflag, -noflag, and --flag=true or any other word
that gflags reads as true or false, in upper or lower case.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import itertools
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from pyscratchdet.cli.console import warn
from pyscratchdet.errors import UsageError

QUIET = "print results, warnings and errors only"
EXIT_STATUSES = "Exit status: 0 done, 1 a comparison or check failed, 2 the input was bad, 130 interrupted."

_TRUE = ("true", "t", "1", "yes", "y")
_FALSE = ("false", "f", "0", "no", "n")


class HelpFormatter(argparse.HelpFormatter):
    """Help that shows each flag once, though Caffe's take one dash as well, and short names for values."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = copy.copy(action)
        shown.option_strings = shown_names(action)
        return super()._format_action_invocation(shown)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return "N" if action.type is int else "X" if action.type is float else "TEXT"


def shown_names(action: argparse.Action) -> list[str]:
    """Returns the spellings of a flag that are shown: two dashes, or one before a letter."""
    return [name for name in action.option_strings if name.startswith("--") or len(name) == 2]


class Parser(argparse.ArgumentParser):
    """A parser for one command.

    It has `--quiet`, takes `-` for `_` in a flag's name and the reverse, says which values a switch takes, and its help
    ends with what Ctrl-C does, where the default `interruption` tells, and with the exit statuses.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        # Not False: a subcommand's default would overwrite what was given before its name.
        self.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help=QUIET)

    def format_help(self) -> str:
        """Returns the help of a command."""
        interruption = self.get_default("interruption")
        stop = [f"Ctrl-C: {interruption}."] if interruption else []
        lines = [textwrap.fill(line, 78) for line in (*stop, EXIT_STATUSES)]
        return "\n".join([super().format_help(), *lines, ""])

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as argparse does, with `-` and `_` in a flag's name alike."""
        return super().parse_known_args([self._declared(word) for word in args], namespace)

    def _declared(self, word: str) -> str:
        name, equals, value = word.partition("=")
        known = self._option_string_actions
        if not name.startswith("-") or name in known or word in known:
            return word
        dashes = name[: len(name) - len(name.lstrip("-"))]
        for one, other in ("-_", "_-"):
            if (spelled := dashes + name[len(dashes) :].replace(one, other)) in known:
                return spelled + equals + value
        return word

    def error(self, message: str) -> NoReturn:
        """Ends the program with a message and status 2."""
        if found := re.fullmatch(r"argument (\S+): ignored explicit argument (.*)", message):
            name = found[1].split("/")[0]
            has_value = f"{name}=true" in self._option_string_actions
            values = f"takes one of {', '.join(_TRUE + _FALSE)}" if has_value else "takes no value"
            message = f"argument {name}: {values}, found {found[2]}"
        super().error(message)


def add_flag(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Adds a flag that may have one dash or two."""
    parser.add_argument(f"--{name}", f"-{name}", **settings)


def add_flags(parser: argparse.ArgumentParser, flags: Mapping[str, tuple[Any, str]]) -> None:
    """Adds flags given as {name: (default, help)}: a bool is a switch, an int or None takes a number, a str a text."""
    parser.allow_abbrev = False
    for name, (default, text) in flags.items():
        if isinstance(default, bool):
            _add_switch(parser, name, default, text)
        else:
            kind = str if isinstance(default, str) else int
            add_flag(parser, name, type=kind, default=default, metavar="N" if kind is int else "TEXT", help=text)


def _add_switch(parser: argparse.ArgumentParser, name: str, default: bool, text: str) -> None:
    """A switch never takes the next word; its value may follow an equals sign."""
    parser.add_argument(f"--{name}", dest=name, action="store_true", default=default, help=text)
    spellings = {
        True: [f"-{name}", *_assigned(name, _TRUE)],
        False: [f"--no{name}", f"-no{name}", *_assigned(name, _FALSE)],
    }
    for value, options in spellings.items():
        parser.add_argument(
            *options, dest=name, action="store_const", const=value, default=default, help=argparse.SUPPRESS
        )


def _assigned(name: str, values: tuple[str, ...]) -> list[str]:
    spellings = ["".join(letters) for value in values for letters in itertools.product(*_both_cases(value))]
    return [f"{dashes}{name}={spelling}" for dashes in ("--", "-") for spelling in spellings]


def _both_cases(value: str) -> list[list[str]]:
    return [sorted({letter.lower(), letter.upper()}) for letter in value]


def add_net_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for the device, for choosing a net's layers, and for what a net file may do."""
    add_flag(parser, "gpu", default="", metavar="IDS", help='device numbers such as 0,1, or "all" (default: the CPU)')
    add_flag(parser, "level", type=int, default=0, metavar="N", help="level for min_level and max_level rules")
    add_flag(parser, "stage", default="", metavar="NAME,...", help="stages for stage and not_stage rules")
    add_schema_flags(parser)
    add_allow_python(parser)


def add_phase_flag(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds `--phase`, TRAIN or TEST in any case."""
    text = "phase of the net (default: %(default)s)"
    add_flag(parser, "phase", type=str.upper, choices=("TRAIN", "TEST"), default=default, help=text)


def add_schema_flags(parser: argparse._ActionsContainer) -> None:
    """Adds what every command that reads nets has for files of other Caffes; `schema_flags` makes it true."""
    parser.add_argument(
        "--allow-unknown",
        action="store_true",
        help="pass over prototxt fields that no known Caffe has, with a warning that lists them",
    )
    parser.add_argument(
        "--schema",
        action="append",
        default=[],
        metavar="FILE",
        help="a caffe.proto whose messages and fields are added; may be given several times",
    )
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        metavar="MODULE",
        help="a Python module, or file, that registers layer types; may be given several times",
    )
    parser.add_argument(
        "--dialect",
        default="",
        metavar="NAME",
        help="the Caffe whose field numbers binary files have, and whose priors the net means where FaceBoxes is named "
        "(docs/which_caffe.md; default: what the layer types show, or SSD's Caffe)",
    )


def add_json_flag(parser: argparse._ActionsContainer, condition: str = "") -> None:
    """Adds `--json`, which every command that prints figures has; `condition` says with which other flag."""
    with_what = f" ({condition})" if condition else ""
    parser.add_argument("--json", action="store_true", help=f"print the figures as JSON{with_what}")


def add_allow_python(parser: argparse._ActionsContainer) -> None:
    """Adds `--allow-python`, which every command that builds a net has; `python_layers` makes it true."""
    parser.add_argument(
        "--allow-python",
        action="store_true",
        help="import and run the modules that the net's Python layers name",
    )


@contextmanager
def inputs_kept(args: argparse.Namespace) -> Iterator[None]:
    """Refuses to replace a file that a command reads, before it runs and while it does.

    That is for commands whose default `writes` names the arguments that are files to write: what the others name is
    read.
    """
    outputs = getattr(args, "writes", ())
    if not outputs:
        yield
        return
    from pyscratchdet.files import check_not_kept, files_kept

    read = [value for name, value in vars(args).items() if name not in ("writes", *outputs)]
    words = [word for value in read for word in (value if isinstance(value, list) else [value])]
    texts = [word for word in words if isinstance(word, str)]
    texts += [part for text in texts for part in re.split("[,:]", text)]  # TRAIN.txt,TEST.txt, openvino:FILE.onnx
    with files_kept(text for text in texts if os.path.isfile(text)):
        for name in outputs:
            if path := getattr(args, name, None):
                check_not_kept(path)
        yield


@contextmanager
def python_layers(args: argparse.Namespace) -> Iterator[None]:
    """Does what `--allow-python` asks for while a command runs."""
    if not getattr(args, "allow_python", False):
        yield
        return
    from pyscratchdet.layers.python_layer import python_layers_allowed

    with python_layers_allowed():
        yield


@contextmanager
def schema_flags(args: argparse.Namespace) -> Iterator[None]:
    """Does what the flags of `add_schema_flags` ask for while a command runs; what is passed over is reported once."""
    if not hasattr(args, "allow_unknown"):  # a command that reads no prototxt
        yield
        return
    for path in args.schema:
        from pyscratchdet.proto.schema import register_schema

        register_schema(path)
    for module in vars(args)["import"]:
        _import(module)
    with _binary_dialect(args.dialect), _unknown_fields(args.allow_unknown):
        yield


def _import(name: str) -> None:
    """Imports a module by its name, as `python -m` would find it, or from a file."""
    path = Path(name)
    if path.suffix == ".py":
        sys.path.insert(0, str(path.resolve().parent))
        name = path.stem
    else:
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise
        raise UsageError(
            f'there is no module "{name}"', code="cli.import", hint="--import takes a module or a file"
        ) from None


def _binary_dialect(name: str) -> AbstractContextManager[None]:
    if not name:
        return nullcontext()
    from pyscratchdet.proto.numbers import binary_dialect

    return binary_dialect(name)


@contextmanager
def _unknown_fields(allow: bool) -> Iterator[None]:
    from pyscratchdet.proto.forks import UnknownFieldWarning
    from pyscratchdet.proto.text import unknown_fields_allowed

    shown = set()

    def show(message: Warning | str, *_: object) -> None:
        if str(message) not in shown:
            warn(message)
        shown.add(str(message))

    with unknown_fields_allowed() if allow else nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("always", UnknownFieldWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield
