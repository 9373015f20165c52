"""What both importers share: the walk through a graph, its cut, and refusals that say where it can be cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pyscratchdet.converters.build import NetBuilder
from pyscratchdet.errors import ConversionError, UsageError, nearest

MAX_CUTS = 8  # names in a hint
Step = TypeVar("Step")


@dataclass
class Links:
    """What a step of a graph reads and makes, by the source's names of values."""

    reads: Sequence[str]
    makes: Sequence[str]


@dataclass
class GraphWalk(Generic[Step]):
    """A walk through a graph in its order, which goes on after a refusal to find out where the graph can be cut.

    Attributes:
        net: The net that is being built.
        steps: Every step with its links.
        blobs: Value of the source -> blob.
        names: Value of the source -> the name by which a user may cut there, where that differs.
    """

    net: NetBuilder
    steps: list[tuple[Step, Links]]
    blobs: dict[str, str]
    names: Mapping[str, str] = field(default_factory=dict)

    def cut(self, outputs: Iterable[str]) -> None:
        """Leaves out the steps on which none of these values depends."""
        needed, kept = set(outputs), []
        for step, links in reversed(self.steps):
            if needed.intersection(links.makes):
                needed.update(links.reads)
                kept.append((step, links))
        self.steps = kept[::-1]

    def run(self, convert: Callable[[Step], None], outputs: Sequence[str]) -> None:
        """Converts all steps.

        Args:
            convert: Adds a step's layers, and its blobs to `blobs`.
            outputs: Values that the source returns.

        Raises:
            ConversionError: The first refusal, with the values at which the graph can be cut.
        """
        refusal: ConversionError | None = None
        missing: set[str] = set()
        ends: dict[str, None] = {}
        for step, links in self.steps:
            try:
                if not missing.intersection(links.reads):
                    convert(step)
                    continue
            except ConversionError as error:
                if error.code != "import.unsupported":
                    raise
                refusal = refusal or error
            missing.update(links.makes)
            ends.update(dict.fromkeys(links.reads))
        if refusal is not None:
            refusal.hint = self._hint([*ends, *outputs]) or refusal.hint
            raise refusal

    def _hint(self, ends: Iterable[str]) -> str:
        """Returns where the graph can be cut."""
        inputs = set(self.net.inputs)
        cuts = dict.fromkeys(self.names.get(end, end) for end in ends if self.blobs.get(end, "") not in {"", *inputs})
        if not cuts:
            return ""
        some, rest = list(cuts)[-MAX_CUTS:], max(len(cuts) - MAX_CUTS, 0)
        return f"it converts up to --outputs {','.join(some)}" + (f" and {rest} before them" if rest else "")


def known_output(name: str, known: Iterable[str]) -> UsageError:
    """Returns the error that the source has no such value."""
    return UsageError(f'there is no value "{name}" to end at', code="import.output", hint=nearest(name, known))
