"""`pyscratchdet completion`: what a shell needs to complete commands, flags and names of files, made by shtab."""

from __future__ import annotations

import argparse

_EPILOG = """\
bash: pyscratchdet completion bash > ~/.local/share/bash-completion/completions/pyscratchdet
zsh: pyscratchdet completion zsh > DIR/_pyscratchdet, DIR being a folder of $fpath
fish: pyscratchdet completion fish > ~/.config/fish/completions/pyscratchdet.fish
Open a new shell afterwards. Write it again after an upgrade: completing runs nothing of pyscratchdet."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    import shtab

    print(shtab.complete(_whole_parser(), args.shell))
    return 0


def _whole_parser() -> argparse.ArgumentParser:
    """Returns a parser of all commands, each of whose arguments says how it is completed."""
    from functools import partial

    from pyscratchdet.cli import COMMANDS, command_parser
    from pyscratchdet.cli.flags import Parser

    whole = Parser("pyscratchdet")
    whole.add_argument("--version", action="store_true", help="print the versions")
    commands = whole.add_subparsers()
    for name, (_, summary) in COMMANDS.items():
        command_parser(name, partial(commands.add_parser, name, help=summary))
    _complete(whole)
    return whole


def _complete(parser: argparse.ArgumentParser) -> None:
    import shtab

    from pyscratchdet.cli.flags import shown_names

    for action in parser._actions:
        action.option_strings = shown_names(action)
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                _complete(child)
        elif action.nargs != 0 and action.choices is None and action.type in (None, str):
            folder = str(action.metavar).startswith(("DIR", "ROOTFOLDER"))
            action.complete = shtab.DIRECTORY if folder else shtab.FILE  # type: ignore[attr-defined]
    if parser.prog == "pyscratchdet generate":
        from pyscratchdet import prototxt

        names = next(action for action in parser._actions if action.dest == "names")
        del names.complete  # type: ignore[attr-defined]
        names.choices = list(prototxt.entries())
