"""The errors for bad input: each says where it is, what was expected, what was found and what to try.

Printed as `path:line:column: layer "name" (Type): what is wrong, expected and found; a hint [code]`, followed by the
offending line. Every part is a field, so programs need not parse the text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

# Control characters, lone surrogates, and characters that change the writing direction: they make a terminal show
# something other than the text, or act on it.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""Returns text from a file as it may be shown: a control character as its escape, such as `\x1b`."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def counted(number: int, one: str, many: str = "", spec: str = "") -> str:
    """Returns a number with its noun: "1 picture", "2 pictures".

    Args:
        number: How many.
        one: The noun for one.
        many: The noun for any other number; by default `one` with an "s".
        spec: The number's format: "," separates thousands.
    """
    return f"{number:{spec}} {one if number == 1 else many or f'{one}s'}"


@dataclass(frozen=True)
class Position:
    """A place in a text file. `line` and `column` count from 1; 0 means unknown."""

    path: str
    line: int = 0
    column: int = 0
    text: str = ""

    def __str__(self) -> str:
        return ":".join([self.path, *(str(number) for number in (self.line, self.column) if number)])


class PyScratchDetError(ValueError):
    """Base of all errors about input: files, nets, weights, data, settings.

    Attributes:
        message: What is wrong.
        code: A stable identifier such as `net.unknown-bottom`.
        position: Where in which file, if known.
        layer: Name of the layer concerned, if any.
        layer_type: Its Caffe type, if any.
        expected: What would have been right.
        found: What was there.
        hint: What to try.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        position: Position | None = None,
        layer: str | None = None,
        layer_type: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.code = code
        self.position = position
        self.layer = layer
        self.layer_type = layer_type
        self.expected = expected
        self.found = found
        self.hint = hint
        super().__init__(message)

    def __reduce__(self) -> tuple[Callable[..., PyScratchDetError], tuple[type[PyScratchDetError], dict[str, object]]]:
        return _made_again, (type(self), self.__dict__)

    def __str__(self) -> str:
        head = f"{self.position}: " if self.position else ""
        if self.layer is not None:
            head += f'layer "{self.layer}"' + (f" ({self.layer_type})" if self.layer_type else "") + ": "
        body = self.message
        if self.expected is not None:
            body += f", expected {self.expected}"
        if self.found is not None:
            body += f" and found {self.found}" if self.expected is not None else f", found {self.found}"
        if self.hint:
            body += f"; {self.hint}"
        text = f"{head}{body} [{self.code}]"
        if self.position and self.position.text.strip():
            text += f"\n    {self.position.text.strip()}"
        return printable(text)


def _made_again(kind: Callable[..., PyScratchDetError], parts: dict[str, object]) -> PyScratchDetError:
    """Returns an error that comes from another process."""
    return kind(**parts)


class FileError(PyScratchDetError):
    """A file or folder that cannot be read or written."""


class PrototxtError(PyScratchDetError):
    """Text that is not the message it should be: syntax, unknown field, wrong type or enum name."""


class NetError(PyScratchDetError):
    """A net whose layers do not fit together, or an unknown layer type."""


class LayerError(PyScratchDetError):
    """A layer whose parameters or bottoms break one of its type's rules."""


class WeightsError(PyScratchDetError):
    """A weights file that is damaged or does not fit the net."""


class DataError(PyScratchDetError):
    """A database, record, picture, annotation or label map that is damaged or inconsistent."""


class SolverError(PyScratchDetError):
    """Solver settings that contradict each other, or a state that does not fit them."""


class ConversionError(PyScratchDetError):
    """Something that the target format cannot express exactly."""


class UsageError(PyScratchDetError):
    """A command line or a call whose arguments do not go together."""


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Returns a hint `did you mean "..."?` for a misspelt `name`, or None if no name is close.

    Args:
        name: What was written.
        known: The names that could be meant.
        likeness: How close it must be, from 0 to 1 for the same letters (difflib's ratio).
    """
    lowered = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=likeness)
    return f'did you mean "{lowered[matches[0]]}"?' if matches else None
