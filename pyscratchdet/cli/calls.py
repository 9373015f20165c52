"""Commands as functions, for `pyscratchdet.convert` and `pyscratchdet.verify`.

Their keywords are the command's flags, with `_` for `-` (`input_picture="bgr"`); a word that is Python's own has a `_`
at its end (`for_="opencv"`). True gives a switch, a list several values.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from pyscratchdet.cli import command_parser
from pyscratchdet.cli.flags import Parser, inputs_kept, python_layers, schema_flags
from pyscratchdet.errors import UsageError

if TYPE_CHECKING:
    from pyscratchdet.cli.convert_output import Outcome
    from pyscratchdet.converters.compare import Comparison

Value = str | os.PathLike[str] | float | bool | Sequence[str | os.PathLike[str]]


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str], **flags: Value) -> Outcome:
    """Converts weights or a net into another form, as `pyscratchdet convert` does, by the files' endings.

    Args:
        source: File to read, or torchvision:NAME, timm:NAME, module:PACKAGE.MODULE:FACTORY.
        target: File to write, or a folder that ends in /.
        **flags: The command's, such as model="deploy.prototxt".

    Returns:
        What there is to say about the target, and whether its checks passed.

    Raises:
        UsageError: A flag is unknown, or the direction does not use it.
        PyScratchDetError: A file is missing or not sound, or there is no such direction.
    """
    from pyscratchdet.cli.convert import convert_by

    with _arguments("convert", [source, target], flags) as args:
        return convert_by(args)


def verify(
    model: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None, **flags: Value
) -> list[Comparison]:
    """Compares a net blob by blob with other engines, as `pyscratchdet verify` does.

    Args:
        model: Prototxt of the deploy net.
        weights: Caffemodel; None for the fillers' values, by `seed`.
        **flags: The command's, such as against=["onnxruntime", "opencv"].

    Returns:
        One comparison for each engine; `agrees` says whether it computes the same.

    Raises:
        UsageError: A flag is unknown, or has no such value.
        PyScratchDetError: A file is missing or not sound, or no engine ran.
    """
    from pyscratchdet.cli.verify import compare_by

    files: dict[str, Value] = {"model": model, **({} if weights is None else {"weights": weights})}
    with _arguments("verify", [], {**files, **flags}) as args:
        return compare_by(args)[0]


class _CallParser(Parser):
    """Raises what the command line prints."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, code="usage.arguments")


@contextmanager
def _arguments(
    command: str, files: Sequence[str | os.PathLike[str]], flags: dict[str, Value]
) -> Iterator[argparse.Namespace]:
    """Parses a call as the command line is parsed, and does what flags on reading nets ask for inside the block."""
    words = [os.fspath(file) for file in files]
    for name, value in flags.items():
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words += [flag, *(os.fspath(one) for one in value)]
        else:
            words.append(f"{flag}={os.fspath(value) if isinstance(value, os.PathLike) else value}")
    args = command_parser(command, _CallParser)[1].parse_args(words)
    with inputs_kept(args), schema_flags(args), python_layers(args):
        yield args
